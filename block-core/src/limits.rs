//! What a driver can take in one request, QEMU's `BlockLimits`.

use std::num::{NonZeroU32, NonZeroU64};

/// The limits of one driver. The node splits, bounces and pads so that the driver never sees a request outside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLimits {
    /// Offsets and lengths of driver requests are multiples of this. A power of two, 1 to 2^30.
    pub request_alignment: u32,
    /// Addresses of the memory of driver requests are multiples of this. A power of two, 1 to 2^21.
    pub memory_alignment: u32,
    /// Lengths of the pieces of an I/O vector are multiples of this. A power of two; 512 for O_DIRECT files, else 1.
    pub transfer_alignment: u32,
    /// Longest read or write in bytes; a multiple of `request_alignment`. `None`: `i32::MAX` rounded down to the alignment.
    pub max_transfer: Option<NonZeroU64>,
    /// Most pieces of one I/O vector (IOV_MAX: 1024).
    pub max_iov: NonZeroU32,
    /// The size that costs least, a hint in bytes; 0 where the driver does not know.
    pub opt_transfer: u32,
    /// Limits of write-zeroes.
    pub write_zeroes: RangeLimits,
    /// Limits of discard.
    pub discard: RangeLimits,
}

/// Limits of an operation that names a range and carries no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLimits {
    /// Ranges should be multiples of this; a power of two. The node writes explicit zeroes to the unaligned ends (zeroes), or leaves them (discard).
    pub alignment: u32,
    /// Longest range in bytes, `None` for no limit below `i64::MAX`.
    pub max: Option<NonZeroU64>,
}

impl Default for RangeLimits {
    fn default() -> Self {
        Self {
            alignment: 1,
            max: None,
        }
    }
}

impl Default for BlockLimits {
    fn default() -> Self {
        Self {
            request_alignment: 1,
            memory_alignment: 1,
            transfer_alignment: 1,
            max_transfer: None,
            max_iov: NonZeroU32::new(1024).expect("not zero"),
            opt_transfer: 0,
            write_zeroes: RangeLimits::default(),
            discard: RangeLimits::default(),
        }
    }
}

/// What a driver with a vmstate area says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmstateLimits {
    /// Positions and lengths that are multiples of this need no read-modify-write. A power of two.
    pub request_alignment: u32,
    /// Memory alignment that needs no bounce. A power of two.
    pub memory_alignment: u32,
    /// The cluster size of the node in bytes, which a save's buffer is at least as large as; 0 where there are no clusters.
    pub cluster_size: u64,
}
