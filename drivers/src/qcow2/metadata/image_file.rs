//! The image file as the other files of this driver see it: tables and clusters, with the file's end taken care of.

use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use crate::qcow2::format::geometry::TABLE_ENTRY_SIZE;
use crate::qcow2::format::offset::HostOffset;
use aio_task::CoMutex;
use block_core::{
    BlockChild, Cause, DiskOffset, IoVector, ReadVector, Truncate, WriteFlags, ZeroFlags,
};
use std::cell::Cell;

/// A child that holds the image, or the guest's data of one with an external data file.
pub(crate) struct ImageFile {
    child: BlockChild,
    /// What has to be on disk before anything else is written: where, and which bytes.
    first: Cell<Option<(u64, [u8; 8])>>,
    /// Held while that is written.
    turn: CoMutex<()>,
}

/// Longest single write of [`ImageFile::write`]; also what zeroes are written with.
const PIECE: u64 = 1 << 20;

impl ImageFile {
    pub(crate) fn new(child: BlockChild) -> Self {
        Self {
            child,
            first: Cell::new(None),
            turn: CoMutex::default(),
        }
    }

    pub(crate) fn child(&self) -> &BlockChild {
        &self.child
    }

    /// Reads a piece of a table. What lies past the file's end reads as zeroes, as guest data does and as the check reads it: QEMU ends a file
    /// with the last sector that it wrote.
    pub(crate) async fn read_table(&self, at: u64, dst: &mut [u8]) -> Result<()> {
        let size = match self.child.pread(DiskOffset(at), dst).await {
            Ok(()) => return Ok(()),
            Err(error) => match error.cause {
                Cause::OutOfBounds { size, .. } => size,
                cause => return Err(cause),
            },
        };
        let there = size.saturating_sub(at).min(dst.len() as u64);
        let (head, tail) = dst.split_at_mut(there as usize); // at most its length
        tail.fill(0);
        if head.is_empty() {
            return Ok(());
        }
        let read = self.child.pread(DiskOffset(at), head).await;
        read.map_err(|e| e.cause)
    }

    /// Reads guest data. What lies past the file's end reads as zeroes: an image may end in the middle of a cluster.
    pub(crate) async fn read(&self, at: u64, dst: ReadVector) -> (ReadVector, Result<()>) {
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

    /// Before anything else is written to this file, `bytes` are written at `at` and made stable. Nothing is written for this alone.
    pub(crate) fn write_first(&self, at: u64, bytes: [u8; 8]) {
        self.first.set(Some((at, bytes)));
    }

    /// Something is about to be written: what had to be there before it is on disk when this returns.
    ///
    /// # Errors
    ///
    /// What the disk says. Nothing else may be written then; the next write tries again.
    pub(crate) async fn before_write(&self) -> Result<()> {
        if self.first.get().is_none() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let Some((at, bytes)) = self.first.get() else {
            return Ok(()); // done by the one before
        };
        let written = self
            .child
            .pwrite(DiskOffset(at), &bytes, WriteFlags::default());
        written.await.map_err(|e| e.cause)?;
        self.flush().await?;
        self.first.set(None);
        Ok(())
    }

    /// Writes owned memory.
    pub(crate) async fn writev(&self, at: u64, src: IoVector) -> Result<()> {
        self.before_write().await?;
        let written = self
            .child
            .pwritev(DiskOffset(at), src, WriteFlags::default());
        written.await.map_err(|e| e.cause)
    }

    /// Writes borrowed bytes, in pieces.
    pub(crate) async fn write(&self, at: u64, src: &[u8]) -> Result<()> {
        self.before_write().await?;
        let pieces = src.chunks(PIECE as usize);
        for (place, piece) in (at..).step_by(PIECE as usize).zip(pieces) {
            let written = self
                .child
                .pwrite(DiskOffset(place), piece, WriteFlags::default());
            written.await.map_err(|e| e.cause)?;
        }
        Ok(())
    }

    /// Makes bytes zeroes, with or without space for them.
    pub(crate) async fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.before_write().await?;
        let zeroed = self.child.pwrite_zeroes(DiskOffset(at), len, flags);
        zeroed.await.map_err(|e| e.cause)
    }

    /// Gives back the space of bytes that nothing uses, as far as the file has them.
    pub(crate) async fn discard(&self, at: u64, len: u64) -> Result<()> {
        self.before_write().await?;
        let size = match self.child.pdiscard(DiskOffset(at), len).await {
            Ok(()) => return Ok(()),
            Err(error) => match error.cause {
                Cause::OutOfBounds { size, .. } => size,
                cause => return Err(cause),
            },
        };
        match size.saturating_sub(at) {
            0 => Ok(()),
            there => {
                let discarded = self.child.pdiscard(DiskOffset(at), there.min(len)).await;
                discarded.map_err(|e| e.cause)
            }
        }
    }

    /// Changes the file's length.
    pub(crate) async fn truncate(&self, to: Truncate) -> Result<()> {
        self.before_write().await?;
        self.child.truncate(to).await.map_err(|e| e.cause)
    }

    /// Makes stable what was written before.
    pub(crate) async fn flush(&self) -> Result<()> {
        self.child.flush().await.map_err(|e| e.cause)
    }

    /// The length in bytes.
    pub(crate) async fn length(&self) -> Result<u64> {
        self.child.length().await.map_err(|e| e.cause)
    }
}

/// A table of 8-byte entries, whose size was checked.
pub(crate) async fn read_entries(
    file: &ImageFile,
    what: Table,
    at: HostOffset,
    entries: u64,
) -> Result<Vec<u64>, Qcow2Error> {
    let bytes = entries.saturating_mul(TABLE_ENTRY_SIZE);
    let too_much = |_| Qcow2Error::OutOfMemory { what, bytes };
    let len = usize::try_from(bytes).map_err(|_| Qcow2Error::OutOfMemory { what, bytes })?;
    let mut table = Vec::new();
    table.try_reserve_exact(len).map_err(too_much)?;
    table.resize(len, 0);
    let read = file.read_table(at.0, &mut table).await;
    read.map_err(read_failed(what))?;
    let (entries, _) = table.as_chunks::<8>();
    Ok(entries.iter().map(|e| u64::from_be_bytes(*e)).collect())
}

/// What a child said while a table was read.
pub(crate) fn read_failed(what: Table) -> impl Fn(Cause) -> Qcow2Error {
    move |cause| Qcow2Error::Io {
        what,
        error: block_core::BlockError::new(block_core::Op::Open, 0, 0, cause),
    }
}

/// Memory for a request was not there.
pub(crate) fn out_of_memory(error: block_core::AllocError) -> Cause {
    Cause::OutOfMemory {
        bytes: error.bytes as u64,
    }
}
