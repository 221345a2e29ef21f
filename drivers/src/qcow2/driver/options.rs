//! How an image is opened.

use aio_task::WorkerPool;
use block_core::BlockChild;

/// What an image is opened with. [`Qcow2Options::default`] writes, opens no file that the image names, and bounds its caches.
#[derive(Debug, Default)]
pub struct Qcow2Options {
    /// Nothing is written, not even a repair of an image that was not closed. Also where the file's node is read-only.
    pub read_only: bool,
    /// What is done about a backing file that the image names.
    pub backing: BackingFile,
    /// The external data file, for an image that has one: a child that may be written unless `read_only`.
    pub data_file: Option<BlockChild>,
    /// Bytes of L2 tables that are kept in memory. 0: the default, 2 MiB, which maps 16 GiB at 64 KiB clusters. At least 8 slices of 16 KiB (or
    /// of a cluster, where that is smaller) are kept, and more while more are dirty.
    pub l2_cache: u64,
    /// Bytes of refcount blocks that are kept in memory, in the same way. 0: the default, 512 KiB.
    pub refcount_cache: u64,
    /// Where compressed clusters are packed and unpacked. `None`: on the context's own thread.
    pub workers: Option<WorkerPool>,
}

/// What is done about a backing file that the image names.
#[derive(Debug, Default)]
pub enum BackingFile {
    /// The image is refused, with the name in the error. An image may name any file of the host, and it is for the caller to decide
    /// which of them its user may read.
    #[default]
    Deny,
    /// This child is it, whatever the name says.
    Open(BlockChild),
    /// It is not opened. Whatever would show through is an error when it is read, or copied by a write. Enough for a check, for snapshots, and
    /// for states without gaps (those that this crate saves in an image with a backing file have none).
    Ignore,
    /// The same, where it was to be opened and could not be.
    Missing {
        /// Why, for the errors.
        why: String,
    },
}

pub(crate) const L2_CACHE: u64 = 2 << 20;
pub(crate) const REFCOUNT_CACHE: u64 = 512 << 10;
