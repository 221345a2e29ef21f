//! How a save and a load are done: workers, buffers, cursors.

use std::num::NonZeroUsize;

/// Most driver calls of one save or load that are in flight at once, QEMU's `BDRV_VMSTATE_WORKERS_MAX`.
pub const DEFAULT_WORKERS: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not zero");

/// Smallest buffer of a save or load in bytes: 1 MiB, as in QEMU's series.
pub const DEFAULT_BUFFER_SIZE: u64 = 1 << 20;

/// Places at which a save fills a buffer at the same time.
pub const DEFAULT_CURSORS: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not zero");

/// How a machine's state is saved.
///
/// A save's memory is at most `workers + 1` buffers, and a small constant for partly written blocks (256 KiB).
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
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self {
            workers: DEFAULT_WORKERS,
            buffer_size: DEFAULT_BUFFER_SIZE,
            cursors: DEFAULT_CURSORS,
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
