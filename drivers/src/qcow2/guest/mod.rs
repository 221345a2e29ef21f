//! The path of a guest byte: from an offset on the guest's disk to a host cluster, and what a request changes on the way.
//!
//! ```text
//!   read   lock the clusters (shared)    | map | read the data file, zeroes, the backing file, or unpack
//!   write  lock the clusters (shared)    | map | overwrite in place                              if the cluster is this disk's alone
//!          lock the clusters (exclusive) | map | allocate, copy on write, set the L2 entry       otherwise
//! ```
//!
//! | what | file |
//! |---|---|
//! | order of requests for the same clusters | `cluster_locks.rs` |
//! | the L1 table that a request goes through; where a byte is | `l1_table.rs`, `mapping.rs` |
//! | reads, writes, copy on write | `read.rs`, `write.rs` |
//! | zeroes and discards; dropping all that is mapped after an offset | `zero.rs`, `drop_mapped.rs` |
//! | block status, limits | `status.rs`, `limits.rs` |
//! | compressed clusters | `compressed.rs` |
//! | the length of the disk, preallocation | `resize.rs`, `preallocate.rs` |
//! | what shows where nothing is allocated | `backing.rs`, `state_gaps.rs` |
//! | what must be marked before the disk changes | `bitmaps.rs` |

mod backing;
mod bitmaps;
mod cluster_locks;
mod compressed;
mod drop_mapped;
mod l1_table;
mod limits;
mod mapping;
mod preallocate;
mod read;
mod resize;
mod state_gaps;
mod status;
mod write;
mod zero;

pub(super) use self::backing::Backing;
pub(super) use self::cluster_locks::{AllClusters, ClusterLocks, Exclusive, SNAPSHOTS, STATE};
pub(super) use self::l1_table::{L1Table, SnapshotL1, StateL1};

use self::bitmaps::Bitmaps;
use super::format::error::Result;
use super::format::header::Header;
use super::metadata::Metadata;
use aio_task::{CoMutex, WorkerPool};
use block_core::Cause;
use std::cell::Cell;

/// The guest's disk. No borrow of any part is held across an await.
///
/// A task that needs several locks takes them in this order: cluster locks, `l2_turn`, the lock of the refcounts. A commit takes the last only,
/// and may be awaited while cluster locks are held, but not while one of the other two is.
pub(super) struct Guest {
    meta: Metadata,
    /// As it was when the image was opened; [`Metadata`] has the fields that change.
    header: Header,
    backing: Backing,
    read_only: bool,
    /// Compressed clusters are packed and unpacked here.
    workers: Option<WorkerPool>,
    /// Set when the close begins.
    closed: Cell<bool>,
    locks: ClusterLocks,
    /// Held while an L1 entry gets a new L2 table.
    l2_turn: CoMutex<()>,
    /// Whether the persistent bitmaps are still true.
    bitmaps: Bitmaps,
}

impl Guest {
    pub(super) fn new(
        meta: Metadata,
        header: Header,
        backing: Backing,
        read_only: bool,
        workers: Option<WorkerPool>,
    ) -> Self {
        Self {
            meta,
            header,
            backing,
            read_only,
            workers,
            closed: Cell::new(false),
            locks: ClusterLocks::default(),
            l2_turn: CoMutex::default(),
            bitmaps: Bitmaps::default(),
        }
    }

    pub(super) fn meta(&self) -> &Metadata {
        &self.meta
    }

    pub(super) fn backing(&self) -> &Backing {
        &self.backing
    }

    pub(super) fn locks(&self) -> &ClusterLocks {
        &self.locks
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Every later request fails with [`Cause::Closed`].
    pub(super) fn close(&self, _: &AllClusters<'_>) {
        self.closed.set(true);
    }

    /// # Errors
    ///
    /// [`Cause::Closed`] if the image is closed.
    pub(super) fn check_open(&self) -> Result<()> {
        match self.closed.get() {
            true => Err(Cause::Closed),
            false => Ok(()),
        }
    }

    /// # Errors
    ///
    /// [`Cause::Closed`] and [`Cause::ReadOnly`] if the image must not be changed.
    pub(super) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        match self.read_only {
            true => Err(Cause::ReadOnly),
            false => Ok(()),
        }
    }
}
