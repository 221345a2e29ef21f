//! Request flags, after QEMU's `BdrvRequestFlags`.

/// How a write is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteFlags {
    /// `BDRV_REQ_FUA`: the data is on stable storage when the write returns. Where the driver cannot, the node flushes after it.
    pub fua: bool,
}

/// How zeroes are to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroFlags {
    /// `BDRV_REQ_FUA`: as in [`WriteFlags::fua`].
    pub fua: bool,
    /// `BDRV_REQ_MAY_UNMAP`: the range may be deallocated if it then reads as zeroes.
    pub may_unmap: bool,
    /// `BDRV_REQ_NO_FALLBACK`: fail with "not supported" rather than write explicit zero bytes.
    pub no_fallback: bool,
}
