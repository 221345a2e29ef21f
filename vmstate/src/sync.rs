//! A save as `std::io::Write`, a load as `std::io::Read`, for code that does not await.
#![allow(clippy::todo, unused_variables, reason = "shape first; bodies follow")]

use crate::{VmstateReader, VmstateSave, VmstateWriter};
use aio_task::AioContext;
use std::borrow::Borrow;
use std::io::{Read, Result, Seek, SeekFrom, Write};

/// [`VmstateWriter`] for plain code. `C` is the context, owned, borrowed or in an `Rc`; it runs only while a call has to wait.
///
/// `flush` is [`VmstateSave::flush`]. Dropping it without [`SyncWriter::finish`] cancels the save.
pub struct SyncWriter<C: Borrow<AioContext>> {
    _todo: C,
}

impl<C: Borrow<AioContext>> SyncWriter<C> {
    /// Writes through `writer`, whose node belongs to `context`.
    pub fn new(context: C, writer: VmstateWriter) -> Self {
        todo!()
    }
    /// The save.
    pub fn save(&self) -> &VmstateSave {
        todo!()
    }
    /// Finalizes the save: its length.
    pub fn finish(self) -> Result<u64> {
        todo!()
    }
}

impl<C: Borrow<AioContext>> Write for SyncWriter<C> {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        todo!()
    }
    fn flush(&mut self) -> Result<()> {
        todo!()
    }
}

impl<C: Borrow<AioContext>> Seek for SyncWriter<C> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        todo!()
    }
}

/// [`VmstateReader`] for plain code.
pub struct SyncReader<C: Borrow<AioContext>> {
    _todo: C,
}

impl<C: Borrow<AioContext>> SyncReader<C> {
    /// Reads through `reader`, whose node belongs to `context`.
    pub fn new(context: C, reader: VmstateReader) -> Self {
        todo!()
    }
}

impl<C: Borrow<AioContext>> Read for SyncReader<C> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        todo!()
    }
}

impl<C: Borrow<AioContext>> Seek for SyncReader<C> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        todo!()
    }
}
