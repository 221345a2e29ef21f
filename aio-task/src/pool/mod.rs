//! QEMU's AioTaskPool (skeleton).
#![allow(missing_docs)]
use std::marker::PhantomData;
use std::num::NonZeroUsize;

use crate::{AioHandle, NotDriven};

#[derive(Clone, Debug)]
pub struct AioTaskPool<E>(PhantomData<(*mut (), E)>);
impl<E: Clone + 'static> AioTaskPool<E> {
    pub fn new(_handle: &AioHandle, _max_busy_tasks: NonZeroUsize) -> Self {
        todo!()
    }
    pub async fn start_task<F: Future<Output = Result<(), E>> + 'static>(
        &self,
        _f: F,
    ) -> Result<u64, NotDriven> {
        todo!()
    }
    pub async fn reserve(&self) -> Result<Slot<E>, NotDriven> {
        todo!()
    }
    pub fn try_reserve(&self) -> Option<Slot<E>> {
        todo!()
    }
    pub async fn wait_slot(&self) -> Result<(), NotDriven> {
        todo!()
    }
    pub async fn wait_one(&self) -> Result<(), WaitOneError> {
        todo!()
    }
    pub async fn wait_all(&self) -> Result<(), WaitAllError<E>> {
        todo!()
    }
    pub fn status(&self) -> Option<PoolError<E>> {
        todo!()
    }
    pub fn errors(&self) -> u64 {
        todo!()
    }
    pub fn busy(&self) -> usize {
        todo!()
    }
    pub fn reserved(&self) -> usize {
        todo!()
    }
    pub fn max(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        todo!()
    }
}
#[derive(Debug)]
pub struct Slot<E>(PhantomData<E>);
impl<E> Slot<E> {
    pub fn start<F: Future<Output = Result<(), E>> + 'static>(self, _f: F) -> u64 {
        todo!()
    }
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolError<E> {
    Task { index: u64, error: E },
    Panicked { index: u64 },
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NothingBusy;
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitOneError {
    NothingBusy,
    NotDriven,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitAllError<E> {
    Status(PoolError<E>),
    WaitsForItself,
    NotDriven,
}
