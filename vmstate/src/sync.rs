//! A save as `std::io::Write`, a load as `std::io::Read`, for code that does not await.

use crate::{VmstateReader, VmstateSave, VmstateWriter};
use aio_task::AioContext;
use futures::{AsyncReadExt, AsyncWriteExt};
use std::borrow::Borrow;
use std::fmt;
use std::io::{Read, Result, Seek, SeekFrom, Write};

/// [`VmstateWriter`] for plain code. `C` is the context, owned, borrowed or in an `Rc`; it runs only while a call has to wait.
///
/// `flush` is [`VmstateSave::flush`]. Dropping it without [`SyncWriter::finish`] cancels the save. A call from inside the context's own
/// `block_on` panics where it has to wait, as any nested `block_on` does.
pub struct SyncWriter<C: Borrow<AioContext>> {
    // Dropped first: what it holds belongs to the context.
    writer: VmstateWriter,
    context: C,
}

impl<C: Borrow<AioContext>> SyncWriter<C> {
    /// Writes through `writer`, whose node belongs to `context`.
    pub fn new(context: C, writer: VmstateWriter) -> Self {
        Self { writer, context }
    }

    /// The save.
    pub fn save(&self) -> &VmstateSave {
        self.writer.save()
    }

    /// Finalizes the save: its length. See [`VmstateSave::finalize`]; an empty stream is an error (`EINVAL`), and nothing is changed.
    pub fn finish(self) -> Result<u64> {
        self.writer.check_not_empty()?;
        let finalize = self.writer.save().finalize();
        Ok(self.context.borrow().block_on(finalize)?)
    }
}

impl<C: Borrow<AioContext>> Write for SyncWriter<C> {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        let copied = self.writer.try_write(buf)?;
        if copied > 0 || buf.is_empty() {
            return Ok(copied);
        }
        self.context.borrow().block_on(self.writer.write(buf))
    }

    fn flush(&mut self) -> Result<()> {
        self.context.borrow().block_on(self.writer.flush())
    }
}

impl<C: Borrow<AioContext>> Seek for SyncWriter<C> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.writer.seek_to(to)
    }
}

impl<C: Borrow<AioContext>> fmt::Debug for SyncWriter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SyncWriter").field(&self.writer).finish()
    }
}

/// [`VmstateReader`] for plain code. `C` is the context, owned, borrowed or in an `Rc`; it runs only while a call has to wait.
pub struct SyncReader<C: Borrow<AioContext>> {
    // Dropped first: what it holds belongs to the context.
    reader: VmstateReader,
    context: C,
}

impl<C: Borrow<AioContext>> SyncReader<C> {
    /// Reads through `reader`, whose node belongs to `context`.
    pub fn new(context: C, reader: VmstateReader) -> Self {
        Self { reader, context }
    }
}

impl<C: Borrow<AioContext>> Read for SyncReader<C> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        match self.reader.try_read(buf)? {
            Some(copied) => Ok(copied),
            None => self.context.borrow().block_on(self.reader.read(buf)),
        }
    }
}

impl<C: Borrow<AioContext>> Seek for SyncReader<C> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.reader.seek_to(to)
    }
}

impl<C: Borrow<AioContext>> fmt::Debug for SyncReader<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SyncReader").field(&self.reader).finish()
    }
}
