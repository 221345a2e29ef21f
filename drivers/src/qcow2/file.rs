//! The image file as the other files of this driver see it: tables and clusters, with the file's end taken care of.

use super::Result;
use super::error::{Qcow2Error, Table};
use block_core::{BlockChild, Cause, DiskOffset, IoVector, ReadVector, WriteFlags};

/// A child that holds the image, or the guest's data of one with an external data file.
pub(super) struct ImageFile {
    child: BlockChild,
}

/// Longest single write of [`ImageFile::write`]; also what zeroes are written with.
const PIECE: u64 = 1 << 20;

impl ImageFile {
    pub(super) fn new(child: BlockChild) -> Self {
        Self { child }
    }

    pub(super) fn child(&self) -> &BlockChild {
        &self.child
    }

    /// Reads a piece of a table, which must lie inside the file.
    pub(super) async fn read_table(&self, what: Table, at: u64, dst: &mut [u8]) -> Result<()> {
        let len = dst.len() as u64;
        match self.child.pread(DiskOffset(at), dst).await {
            Ok(()) => Ok(()),
            Err(error) => Err(match error.cause {
                Cause::OutOfBounds { size, .. } => Qcow2Error::Outside {
                    what,
                    offset: at,
                    bytes: len,
                    end: size,
                }
                .into(),
                cause => cause,
            }),
        }
    }

    /// Reads guest data. What lies behind the file's end reads as zeroes: an image may end in the middle of a cluster.
    pub(super) async fn read(&self, at: u64, dst: ReadVector) -> (ReadVector, Result<()>) {
        let (mut dst, result) = self.child.preadv(DiskOffset(at), dst).await;
        let size = match result {
            Ok(()) => return (dst, Ok(())),
            Err(error) => match error.cause {
                Cause::OutOfBounds { size, .. } => size,
                cause => return (dst, Err(cause)),
            },
        };
        let there = size.saturating_sub(at).min(dst.len());
        let len = dst.len();
        if there == 0 {
            dst.fill_zero(0, len);
            return (dst, Ok(()));
        }
        let head = dst.split_to(there);
        let (mut head, result) = self.child.preadv(DiskOffset(at), head).await;
        if head.len() == there {
            let rest = dst.len();
            dst.fill_zero(0, rest);
            head.unsplit(dst);
        }
        (head, result.map_err(|e| e.cause))
    }

    /// Writes owned memory.
    pub(super) async fn writev(&self, at: u64, src: IoVector) -> Result<()> {
        let written = self
            .child
            .pwritev(DiskOffset(at), src, WriteFlags::default());
        written.await.map_err(|e| e.cause)
    }

    /// Writes borrowed bytes, in pieces.
    pub(super) async fn write(&self, at: u64, src: &[u8]) -> Result<()> {
        let pieces = src.chunks(PIECE as usize);
        for (place, piece) in (at..).step_by(PIECE as usize).zip(pieces) {
            let written = self
                .child
                .pwrite(DiskOffset(place), piece, WriteFlags::default());
            written.await.map_err(|e| e.cause)?;
        }
        Ok(())
    }

    /// Makes stable what was written before.
    pub(super) async fn flush(&self) -> Result<()> {
        self.child.flush().await.map_err(|e| e.cause)
    }

    /// The length in bytes.
    pub(super) async fn length(&self) -> Result<u64> {
        self.child.length().await.map_err(|e| e.cause)
    }
}
