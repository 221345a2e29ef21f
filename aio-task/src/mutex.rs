//! QEMU's CoMutex (skeleton).
#![allow(missing_docs)]
use std::ops::{Deref, DerefMut};
#[derive(Debug)]
pub struct CoMutex<T>(T);
impl<T> CoMutex<T> {
    pub fn new(_value: T) -> Self {
        todo!()
    }
    pub async fn lock(&self) -> CoMutexGuard<'_, T> {
        todo!()
    }
    pub fn try_lock(&self) -> Option<CoMutexGuard<'_, T>> {
        todo!()
    }
}
#[derive(Debug)]
pub struct CoMutexGuard<'a, T>(&'a CoMutex<T>);
impl<T> Deref for CoMutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        todo!()
    }
}
impl<T> DerefMut for CoMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        todo!()
    }
}
