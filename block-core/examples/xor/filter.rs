//! A filter that stores every byte XORed with a key: the smallest driver for which zero is not stored as zero.
//!
//! ```text
//!   this disk   00 00 41 42 ...     what the user reads and writes
//!   child       5a a5 1b e7 ...     the same bytes, each XORed with the key byte of its offset
//! ```
//!
//! That one difference decides how the disk may grow. The child fills new space with zeroes of its own, and those would read as the key
//! here. So this driver never lets the child choose new bytes: it grows only by writing the stored form of zeroes at the child's end,
//! in ascending order. Whatever stops it, an error or a dropped future, the disk then ends after zeroes and never after key bytes.
//!
//! The price: growth writes every new byte. A real encrypting format keeps a table of what was never written, or refuses to grow.

use aio_task::CoMutex;
use block_core::{
    BlockChild, BlockDriver, BlockError, BlockLimits, Children, DiskOffset, IoBuf, IoVector, Op,
    ReadVector, Result, Truncate, WriteFlags,
};
use std::num::NonZeroU64;

/// Longest request in bytes. It bounds the memory that a request takes for its XORed copy.
const MOST: u64 = 256 << 10;

/// The filter. Its child must be one that grows by writes, such as a file.
pub(crate) struct XorFilter {
    pub(crate) file: BlockChild,
    key: Vec<u8>,
    /// Held while the disk grows: one gap at a time, so that no zeroes are written over another growing write (clause 6).
    growth: CoMutex<()>,
}

impl XorFilter {
    /// A filter over `file`, which must be attached with the permission "resize" if the disk is to grow. An empty key changes nothing.
    pub(crate) fn new(file: BlockChild, key: &[u8]) -> Self {
        Self {
            file,
            key: key.to_vec(),
            growth: CoMutex::new(()),
        }
    }

    /// XORs `bytes`, whose first byte lies at `at`. Doing it twice changes nothing.
    fn apply_key(&self, at: u64, bytes: &mut [u8]) {
        let Some(len) = std::num::NonZeroUsize::new(self.key.len()) else {
            return;
        };
        let first = (at % self.key.len() as u64) as usize;
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= self.key[(first + i) % len];
        }
    }

    /// Writes the stored form of `src`. The source is left as it is: it is the caller's memory.
    pub(crate) async fn store(
        &self,
        op: Op,
        at: u64,
        src: &IoVector,
        flags: WriteFlags,
    ) -> Result<()> {
        let alignment = self.file.limits().memory_alignment as usize;
        let mut copy = IoBuf::zeroed(src.len() as usize, alignment)
            .map_err(|error| BlockError::out_of_memory(op, DiskOffset(at), error))?;
        src.copy_to(0, &mut copy);
        self.apply_key(at, &mut copy);
        self.file.pwritev(DiskOffset(at), copy.into(), flags).await
    }

    /// Makes the disk longer, with zeroes. The caller holds `growth`.
    async fn grow_to(&self, op: Op, end: u64) -> Result<()> {
        let mut at = self.file.length().await?;
        while at < end {
            let len = MOST.min(end - at);
            let zeroes = IoBuf::zeroed(len as usize, 1)
                .map_err(|error| BlockError::out_of_memory(op, DiskOffset(at), error))?;
            self.store(op, at, &zeroes.into(), WriteFlags::default())
                .await?;
            at += len;
        }
        Ok(())
    }
}

impl BlockDriver for XorFilter {
    fn format_name(&self) -> &'static str {
        "xor"
    }

    /// Any offset and length, because the child's node does the alignment.
    fn limits(&self) -> BlockLimits {
        BlockLimits {
            max_transfer: NonZeroU64::new(MOST),
            memory_alignment: self.file.limits().memory_alignment,
            ..BlockLimits::default()
        }
    }

    fn children(&self) -> Children<'_> {
        Children {
            file: Some(&self.file),
            backing: None,
        }
    }

    /// The child's node does FUA, or flushes.
    fn supports_fua(&self) -> bool {
        true
    }

    fn grows(&self) -> bool {
        true
    }

    async fn length(&self) -> Result<u64> {
        self.file.length().await
    }

    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        let (mut dst, result) = self.file.preadv(at, dst).await;
        let mut place = at.0;
        for part in dst.parts_mut() {
            self.apply_key(place, part);
            place += part.len() as u64;
        }
        (dst, result)
    }

    /// A write inside the disk goes straight to the child. One past the end waits for its turn to grow, fills the gap, and then writes.
    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        let end = at.0.saturating_add(src.len());
        if end <= self.file.length().await? {
            return self.store(Op::Write, at.0, &src, flags).await;
        }
        let _growth = self.growth.lock().await;
        self.grow_to(Op::Write, at.0).await?;
        self.store(Op::Write, at.0, &src, flags).await
    }

    async fn flush(&self) -> Result<()> {
        self.file.flush().await
    }

    // No pwrite_zeroes: the node writes zeroes as data. No pdiscard: the child's zeroes would read as the key.

    async fn truncate(&self, to: Truncate) -> Result<()> {
        let _growth = self.growth.lock().await;
        if to.len > self.file.length().await? {
            return self.grow_to(Op::Truncate, to.len).await;
        }
        self.file.truncate(to).await
    }

    async fn close(&self) -> Result<()> {
        self.file.release().await
    }
}
