//! `null`: a length and nothing else. QEMU's `block/null.c` (`null-co`, `read-zeroes=on`).
//!
//! ```text
//!   read  -> zeroes        write -> forgotten        length -> as told, for ever
//! ```
//!
//! For measuring what everything above a driver costs, and as a disk in tests that do not look at it.

use block_core::{BlockDriver, BlockError, BlockLimits, BlockStatus, Cause, DiskOffset, IoVector};
use block_core::{Op, ReadVector, Result, WriteFlags, ZeroFlags};

/// A disk that reads as zeroes and forgets what is written. No call waits, so nothing is ever in flight.
#[derive(Clone, Copy, Debug)]
pub struct NullDriver {
    len: u64,
}

impl NullDriver {
    /// A disk of `len` bytes, at most `i64::MAX`.
    pub fn new(len: u64) -> Result<Self> {
        match DiskOffset(0).checked_add(len) {
            Some(_) => Ok(Self { len }),
            None => Err(BlockError::new(Op::Open, 0, len, Cause::Overflow)),
        }
    }

    /// The node has checked this already; a driver that is used without a node must not say yes to anything either.
    fn check(&self, op: Op, at: DiskOffset, len: u64) -> Result<()> {
        let cause = match at.checked_add(len) {
            Some(end) if end.0 <= self.len => return Ok(()),
            Some(end) => Cause::OutOfBounds {
                end: end.0,
                size: self.len,
            },
            None => Cause::Overflow,
        };
        Err(BlockError::new(op, at.0, len, cause))
    }
}

impl BlockDriver for NullDriver {
    fn format_name(&self) -> &'static str {
        "null-co"
    }

    fn limits(&self) -> BlockLimits {
        BlockLimits::default()
    }

    fn supports_fua(&self) -> bool {
        true
    }

    async fn length(&self) -> Result<u64> {
        Ok(self.len)
    }

    async fn preadv(&self, at: DiskOffset, mut dst: ReadVector) -> (ReadVector, Result<()>) {
        let result = self.check(Op::Read, at, dst.len());
        if result.is_ok() {
            crate::file::transfer::zero_from(&mut dst, 0);
        }
        (dst, result)
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, _: WriteFlags) -> Result<()> {
        self.check(Op::Write, at, src.len())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, _: ZeroFlags) -> Result<()> {
        self.check(Op::WriteZeroes, at, len)
    }

    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        self.check(Op::Discard, at, len)
    }

    async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        self.check(Op::BlockStatus, at, len)?;
        Ok(BlockStatus {
            len,
            data: false,
            zero: true,
            allocated: true,
            map: None,
        })
    }
}
