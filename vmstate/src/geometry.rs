//! The fixed grid: the area is cut into cells of one buffer each, and cells into blocks of the area's alignment.

use block_core::{BlockError, Cause, Op, Result, VmstateLimits};
use std::ops::Range;

/// Largest buffer size that may be asked for. Keeps positions inside a cell within 32 bits.
const MAX_BUFFER: u64 = 1 << 30;

/// Sizes of one save or load. Never changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Bytes of a cell, a multiple of `block`; at most 2^31.
    pub(crate) cell: u64,
    /// What positions and lengths must be multiples of to need no read-modify-write. At least 1.
    pub(crate) block: u64,
    /// Memory alignment of buffers, a power of two.
    pub(crate) memory: usize,
}

impl Geometry {
    /// Cells of at least `buffer_size` bytes for an area with `limits`.
    pub(crate) fn new(op: Op, limits: VmstateLimits, buffer_size: u64) -> Result<Self> {
        let invalid = |text: String| {
            Err(BlockError::new(
                op,
                0,
                buffer_size,
                Cause::Driver(text.into()),
            ))
        };
        if buffer_size == 0 || buffer_size > MAX_BUFFER {
            return invalid(format!(
                "a buffer size of {buffer_size} is not in 1..={MAX_BUFFER}"
            ));
        }
        let block = u64::from(limits.request_alignment.max(1));
        let wanted = buffer_size.max(limits.cluster_size);
        match wanted.checked_next_multiple_of(block) {
            Some(cell) if cell <= MAX_BUFFER << 1 => Ok(Self {
                cell,
                block,
                memory: limits.memory_alignment.max(1) as usize,
            }),
            _ => invalid(format!(
                "clusters of {} bytes are too large to buffer",
                limits.cluster_size
            )),
        }
    }

    /// The cell that byte `at` lies in.
    pub(crate) fn index(&self, at: u64) -> u64 {
        at / self.cell
    }

    /// First byte of a cell.
    pub(crate) fn start(&self, index: u64) -> u64 {
        index * self.cell
    }

    /// The bytes of a cell.
    pub(crate) fn range(&self, index: u64) -> Range<u64> {
        self.start(index)..self.start(index) + self.cell
    }

    /// First byte of the block that `at` lies in.
    pub(crate) fn block_down(&self, at: u64) -> u64 {
        at - at % self.block
    }

    /// `at`, or the first byte of the next block.
    pub(crate) fn block_up(&self, at: u64) -> u64 {
        at.next_multiple_of(self.block)
    }

    /// The end of `len` bytes at `at`, if it and the end of its block are within `i64::MAX`: then no later sum of positions overflows.
    pub(crate) fn check(&self, op: Op, at: u64, len: usize) -> Result<u64> {
        at.checked_add(len as u64)
            .filter(|end| {
                end.checked_next_multiple_of(self.block)
                    .is_some_and(|padded| padded <= i64::MAX as u64)
            })
            .ok_or_else(|| BlockError::new(op, at, len as u64, Cause::Overflow))
    }
}
