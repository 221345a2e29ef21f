//! What is known of a range without reading it, QEMU's `bdrv_block_status`.

use crate::DiskOffset;

/// The status of the first `len` bytes of the range asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockStatus {
    /// How many bytes this answer covers, at least 1 and at most what was asked.
    pub len: u64,
    /// `BDRV_BLOCK_DATA`: the bytes are stored somewhere in this node's `file`.
    pub data: bool,
    /// `BDRV_BLOCK_ZERO`: the bytes read as zeroes.
    pub zero: bool,
    /// `BDRV_BLOCK_ALLOCATED`: this node, not its backing file, determines the bytes.
    pub allocated: bool,
    /// `BDRV_BLOCK_OFFSET_VALID`: where in `file` the first byte lies.
    pub map: Option<DiskOffset>,
}
