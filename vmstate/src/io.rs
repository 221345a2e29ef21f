//! A save as `AsyncWrite`, a load as `AsyncRead`, both with `AsyncSeek`.
#![allow(clippy::todo, unused_variables, reason = "shape first; bodies follow")]

use crate::{VmstateLoad, VmstateSave};
use futures::io::{AsyncRead, AsyncSeek, AsyncWrite};
use std::io::{Result, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Writes a save's bytes one after the other, from 0 or from where it was sought.
///
/// `poll_write` copies into buffers and is ready at once while there is room; one that returned `Pending` has taken nothing.
/// `poll_flush` is [`VmstateSave::flush`], `poll_close` is [`VmstateSave::finalize`]. Dropping it unclosed cancels the save.
pub struct VmstateWriter {
    _todo: (),
}

impl VmstateWriter {
    /// Writes to `save`, from position 0 on.
    pub fn new(save: VmstateSave) -> Self {
        todo!()
    }
    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        todo!()
    }
    /// The save.
    pub fn save(&self) -> &VmstateSave {
        todo!()
    }
    /// The save, as far as it was written.
    pub fn into_save(self) -> VmstateSave {
        todo!()
    }
}

impl AsyncWrite for VmstateWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        todo!()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        todo!()
    }
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        todo!()
    }
}

impl AsyncSeek for VmstateWriter {
    fn poll_seek(self: Pin<&mut Self>, cx: &mut Context<'_>, to: SeekFrom) -> Poll<Result<u64>> {
        todo!()
    }
}

/// Reads a state's bytes one after the other, from 0 or from where it was sought.
pub struct VmstateReader {
    _todo: (),
}

impl VmstateReader {
    /// Reads from `load`, from position 0 on.
    pub fn new(load: VmstateLoad) -> Self {
        todo!()
    }
    /// Where the next byte comes from.
    pub fn position(&self) -> u64 {
        todo!()
    }
    /// The load.
    pub fn load(&self) -> &VmstateLoad {
        todo!()
    }
}

impl AsyncRead for VmstateReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize>> {
        todo!()
    }
}

impl AsyncSeek for VmstateReader {
    fn poll_seek(self: Pin<&mut Self>, cx: &mut Context<'_>, to: SeekFrom) -> Poll<Result<u64>> {
        todo!()
    }
}
