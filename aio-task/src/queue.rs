//! QEMU's CoQueue (skeleton).
#![allow(missing_docs)]
#[derive(Debug)]
pub struct CoQueue {}
impl CoQueue {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        todo!()
    }
    pub async fn wait(&self) {
        todo!()
    }
    pub fn wake_next(&self) -> bool {
        todo!()
    }
    pub fn wake_all(&self) {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        todo!()
    }
}
