//! The handle by which an image's user writes compressed clusters.

use super::during;
use crate::qcow2::format::offset::GuestOffset;
use crate::qcow2::snapshot::Image;
use aio_task::{JoinError, JoinHandle, NotDriven};
use block_core::{Cause, DiskOffset, IoVector, Op, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Writes compressed clusters to an image: what `qemu-img convert -c` does. QEMU's `BDRV_REQ_WRITE_COMPRESSED`.
///
/// It goes around the image's node: a drained section does not keep it out, and a truncate does not wait for it. Once the node is closed
/// nothing is written any more.
#[derive(Clone)]
pub struct Qcow2Compressor {
    image: Rc<Image>,
}

impl std::fmt::Debug for Qcow2Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2Compressor")
            .field("closed", &self.image.guest().is_closed())
            .finish_non_exhaustive()
    }
}

impl Qcow2Compressor {
    pub(super) fn new(image: Rc<Image>) -> Self {
        Self { image }
    }

    /// Writes whole clusters from `at` on, the last of which may end with the disk. What does not get smaller is written as it is.
    ///
    /// Order: as a write of the node that touches the same clusters; two that overlap may land in either order. Failure: whatever was
    /// written before is there. Dropped: the write goes on. Several calls may run at once, and their data lies together.
    ///
    /// Errors, before anything is written: [`Cause::NotSupported`] with an external data file, [`Cause::OutOfBounds`], [`Cause::Driver`]
    /// for parts of clusters and where the codec was not built.
    pub async fn write(&self, at: DiskOffset, src: IoVector) -> Result<()> {
        let len = src.len();
        let image = self.image.clone();
        let handle = self.image.guest().meta().file().child().handle();
        let task = handle.spawn_now(async move {
            image.guest().check_writable()?;
            image.guest().write_compressed(GuestOffset(at.0), src).await
        });
        let result = match handle.while_driven(Running(Some(task))).await {
            Ok(Ok(result)) => result,
            Ok(Err(JoinError::Panicked(_))) => Err(Cause::Panicked),
            Ok(Err(JoinError::Cancelled)) | Err(NotDriven) => Err(Cause::NotDriven),
        };
        during(Op::Write, at.0, len, result)
    }
}

/// A task that is detached, not cancelled, when its waiter is dropped: what it has in flight must not land after a later write.
struct Running<T>(Option<JoinHandle<T>>);

impl<T> Future for Running<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Some(task) => Pin::new(task).poll(cx),
            None => Poll::Ready(Err(JoinError::Cancelled)),
        }
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}
