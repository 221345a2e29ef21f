//! A save as `AsyncWrite`, a load as `AsyncRead`, both with `AsyncSeek`.

use crate::{VmstateLoad, VmstateSave};
use block_core::{BlockError, Op, VmstateOffset};
use futures::future::LocalBoxFuture;
use futures::io::{AsyncRead, AsyncSeek, AsyncWrite};
use futures::ready;
use std::fmt;
use std::io::{Error, ErrorKind, Result, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Bytes that one `poll_read` asks for during a save.
const MAX_READ_DURING_SAVE: usize = 64 << 10;

/// Writes a save's bytes one after the other, from 0 or from where it was sought.
///
/// `poll_write` copies into buffers and is ready at once while there is room; one that returned `Pending` has taken nothing.
/// `poll_flush` is [`VmstateSave::flush`], `poll_close` is [`VmstateSave::finalize`], but an empty stream is an error (`EINVAL`), and nothing is changed. Dropping it unclosed cancels the save.
///
/// A flush or close that was begun is to be polled to its end, or given up by another call of this writer, before other calls use the
/// save: they would wait for it.
pub struct VmstateWriter {
    /// Dropped before the save: it works on it.
    waits: Option<Waits>,
    save: VmstateSave,
    at: u64,
}

/// What an earlier poll began. Another operation gives it up: none of them has taken bytes.
enum Waits {
    Room(LocalBoxFuture<'static, block_core::Result<()>>),
    Flush(LocalBoxFuture<'static, block_core::Result<()>>),
    Close(LocalBoxFuture<'static, block_core::Result<u64>>),
}

impl VmstateWriter {
    /// Writes to `save`, from position 0 on.
    pub fn new(save: VmstateSave) -> Self {
        Self {
            waits: None,
            save,
            at: 0,
        }
    }

    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The save.
    pub fn save(&self) -> &VmstateSave {
        &self.save
    }

    /// The save, as far as it was written.
    pub fn into_save(self) -> VmstateSave {
        self.save
    }

    /// An empty stream is no state: its writer has failed before its first byte.
    pub(crate) fn check_not_empty(&self) -> Result<()> {
        if self.save.length() > 0 || self.save.status().is_err() {
            return Ok(());
        }
        let empty = BlockError::new(Op::FinalizeVmstate, 0, 0, crate::calls::no_state());
        Err(empty.into())
    }

    /// Copies what fits now; 0 where nothing does, or `buf` is empty. What `poll_write` begins with.
    pub(crate) fn try_write(&mut self, buf: &[u8]) -> Result<usize> {
        let copied = self.save.try_write(VmstateOffset(self.at), buf)?;
        self.at += copied as u64;
        Ok(copied)
    }

    pub(crate) fn seek_to(&mut self, to: SeekFrom) -> Result<u64> {
        self.at = seek(to, self.at, self.save.length())?;
        self.waits = None;
        Ok(self.at)
    }
}

impl AsyncWrite for VmstateWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        loop {
            if let Some(Waits::Room(room)) = &mut self.waits {
                let room = ready!(room.as_mut().poll(cx));
                self.waits = None;
                room?;
            }
            self.waits = None;
            let copied = self.try_write(buf)?;
            if copied > 0 || buf.is_empty() {
                return Poll::Ready(Ok(copied));
            }
            let (core, node, at) = (self.save.core().clone(), self.save.node().clone(), self.at);
            self.waits = Some(Waits::Room(Box::pin(async move {
                core.make_room(&node, VmstateOffset(at)).await
            })));
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            if let Some(Waits::Flush(flush)) = &mut self.waits {
                let done = ready!(flush.as_mut().poll(cx));
                self.waits = None;
                return Poll::Ready(Ok(done?));
            }
            self.waits = None;
            let (core, node) = (self.save.core().clone(), self.save.node().clone());
            self.waits = Some(Waits::Flush(Box::pin(
                async move { core.flush(&node).await },
            )));
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            if let Some(Waits::Close(close)) = &mut self.waits {
                let done = ready!(close.as_mut().poll(cx));
                self.waits = None;
                return Poll::Ready(done.map(drop).map_err(Error::from));
            }
            self.waits = None;
            self.check_not_empty()?;
            let (core, node) = (self.save.core().clone(), self.save.node().clone());
            self.waits = Some(Waits::Close(Box::pin(
                async move { core.finalize(&node).await },
            )));
        }
    }
}

/// `SeekFrom::End` counts from the highest byte written so far.
impl AsyncSeek for VmstateWriter {
    fn poll_seek(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        to: SeekFrom,
    ) -> Poll<Result<u64>> {
        Poll::Ready(self.seek_to(to))
    }
}

impl fmt::Debug for VmstateWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmstateWriter")
            .field("save", &self.save)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// Reads a state's bytes one after the other, from 0 or from where it was sought.
///
/// `poll_read` copies out of what was read ahead and is ready at once while there is some. A read that failed may be tried again.
pub struct VmstateReader {
    waits: Option<Reads>,
    load: VmstateLoad,
    at: u64,
}

/// What an earlier poll began.
enum Reads {
    Chunk(LocalBoxFuture<'static, block_core::Result<()>>),
    /// During a save: bytes from `at` on.
    Bytes(LocalBoxFuture<'static, block_core::Result<Vec<u8>>>),
}

impl VmstateReader {
    /// Reads from `load`, from position 0 on.
    pub fn new(load: VmstateLoad) -> Self {
        Self {
            waits: None,
            load,
            at: 0,
        }
    }

    /// Where the next byte comes from.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The load.
    pub fn load(&self) -> &VmstateLoad {
        &self.load
    }

    /// Copies what was read ahead; `None` where nothing was. What `poll_read` begins with.
    pub(crate) fn try_read(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let copied = self.load.try_read(VmstateOffset(self.at), buf)?;
        self.at += copied.unwrap_or(0) as u64;
        Ok(copied)
    }

    pub(crate) fn seek_to(&mut self, to: SeekFrom) -> Result<u64> {
        self.at = seek(to, self.at, self.load.length())?;
        self.waits = None;
        Ok(self.at)
    }
}

impl AsyncRead for VmstateReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize>> {
        loop {
            match &mut self.waits {
                None => {}
                Some(Reads::Chunk(chunk)) => {
                    let chunk = ready!(chunk.as_mut().poll(cx));
                    self.waits = None;
                    chunk?;
                }
                Some(Reads::Bytes(bytes)) => {
                    let bytes = ready!(bytes.as_mut().poll(cx));
                    self.waits = None;
                    let bytes = bytes?;
                    let len = bytes.len().min(buf.len());
                    buf[..len].copy_from_slice(&bytes[..len]);
                    self.at += len as u64;
                    return Poll::Ready(Ok(len));
                }
            }
            let (load, at) = (self.load.share(), VmstateOffset(self.at));
            if load.is_saving() {
                let wanted = buf.len().min(MAX_READ_DURING_SAVE);
                self.waits = Some(Reads::Bytes(Box::pin(async move {
                    let mut bytes = vec![0; wanted];
                    let len = load.read(at, &mut bytes).await?;
                    bytes.truncate(len);
                    Ok(bytes)
                })));
                continue;
            }
            if let Some(copied) = self.try_read(buf)? {
                return Poll::Ready(Ok(copied));
            }
            self.waits = Some(Reads::Chunk(Box::pin(async move { load.ready(at).await })));
        }
    }
}

/// `SeekFrom::End` counts from the state's end. Positions past it are allowed, and read as the end.
impl AsyncSeek for VmstateReader {
    fn poll_seek(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        to: SeekFrom,
    ) -> Poll<Result<u64>> {
        Poll::Ready(self.seek_to(to))
    }
}

impl fmt::Debug for VmstateReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmstateReader")
            .field("load", &self.load)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// The position that is meant, if it is one: 0 to `i64::MAX`.
fn seek(to: SeekFrom, at: u64, end: u64) -> Result<u64> {
    let target = match to {
        SeekFrom::Start(target) => Some(target),
        SeekFrom::Current(by) => at.checked_add_signed(by),
        SeekFrom::End(by) => end.checked_add_signed(by),
    };
    target
        .filter(|target| i64::try_from(*target).is_ok())
        .ok_or_else(|| {
            let text = format!("cannot seek from {at} (the end is {end}) to {to:?}");
            Error::new(ErrorKind::InvalidInput, text)
        })
}
