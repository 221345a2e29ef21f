//! How a save and a load are done: workers, buffers, cursors.

use std::num::NonZeroUsize;

/// Most driver calls of one save or load that are in flight at once, QEMU's `BDRV_VMSTATE_WORKERS_MAX`.
pub const DEFAULT_WORKERS: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not zero");

/// Smallest buffer of a save or load in bytes: 1 MiB, as in QEMU's series.
pub const DEFAULT_BUFFER_SIZE: u64 = 1 << 20;

/// Places at which a save fills a buffer at the same time.
pub const DEFAULT_CURSORS: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not zero");

/// Gaps of fewer bytes than this are written as zeroes in a fresh area: 64 KiB.
pub const DEFAULT_GAP_THRESHOLD: u64 = 64 << 10;

/// How a machine's state is saved.
///
/// A save's memory is at most `workers + 1` buffers, and a small constant for partly written blocks (256 KiB).
///
/// # Gaps
/// Bytes between two ranges that the caller writes, and that it does not write itself, are a gap. By default no gap is written, and the
/// area keeps what it has there. Where the area is [`fresh`](SaveOptions::fresh), a gap that is shorter than
/// [`gap_threshold`](SaveOptions::gap_threshold) and lies inside one buffer is written as zeroes, so that the buffer is one request; a
/// longer gap, and one that reaches from one buffer into another, is not written. No request reaches further than the block of the
/// state's last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveOptions {
    /// Most buffers in flight at once. Default: [`DEFAULT_WORKERS`].
    pub workers: NonZeroUsize,
    /// Least bytes of one buffer, 1 to 1 GiB. The actual size is the larger of this and the node's cluster size, rounded up to the
    /// alignment of its vmstate area. Default: [`DEFAULT_BUFFER_SIZE`].
    pub buffer_size: u64,
    /// Most buffers being filled at once, so that interleaved ascending streams fill one each; at most `workers + 1` are used.
    /// Default: [`DEFAULT_CURSORS`].
    pub cursors: NonZeroUsize,
    /// The area holds nothing that a gap has to keep: it reads as zeroes, or as bytes that no reader of the new state relies on. True of a
    /// file that was just created or truncated. Must be false where an older state is changed in place. Default: false. A
    /// [`SnapshotSave`](crate::SnapshotSave) empties its area itself, and takes it as fresh whatever is set here.
    pub fresh: bool,
    /// In a fresh area, gaps of fewer bytes than this are written as zeroes; 0: none. Default: [`DEFAULT_GAP_THRESHOLD`].
    pub gap_threshold: u64,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self {
            workers: DEFAULT_WORKERS,
            buffer_size: DEFAULT_BUFFER_SIZE,
            cursors: DEFAULT_CURSORS,
            fresh: false,
            gap_threshold: DEFAULT_GAP_THRESHOLD,
        }
    }
}

/// How a machine's state is loaded.
///
/// A load's memory is at most `workers + 1` buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Length of the state in bytes, where the caller knows it. `None`: the driver is asked.
    pub length: Option<u64>,
    /// Chunks read ahead at once. Default: [`DEFAULT_WORKERS`].
    pub workers: NonZeroUsize,
    /// Least bytes of one chunk, as [`SaveOptions::buffer_size`]. Default: [`DEFAULT_BUFFER_SIZE`].
    pub buffer_size: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            length: None,
            workers: DEFAULT_WORKERS,
            buffer_size: DEFAULT_BUFFER_SIZE,
        }
    }
}
