//! Internal snapshots: QEMU's `block/qcow2-snapshot.c`.
//!
//! A snapshot is an entry of the snapshot table with an L1 table of its own, which leads to L2 tables and clusters that the active L1 table
//! (or another snapshot's) may lead to as well; each that is shared has a refcount above 1 and no COPIED flag.
//!
//! ```text
//!   active L1       | disk ......... |
//!                     |  \      \
//!                     v   v      v           shared until one of them is written to
//!                     L2   L2    L2
//!                     ^   ^      ^
//!                     |  /      /
//!   snapshot's L1   | disk ......... | state ........ |         state: its L2 tables and clusters are the snapshot's alone
//! ```
//!
//! A saved state is never in the active L1 table, as it is while QEMU saves one: `vmstate.rs` builds it under entries of its own, and the
//! snapshot's L1 table is put together from both.

mod create;
mod deferred; // references to be dropped, flags to be set
mod delete;
mod goto;
mod list;
mod replace_table; // a new snapshot table in place of the old one
mod truncate; // the disk's length
mod view; // one snapshot, read-only
mod vmstate; // the VM state that is being saved

pub(super) use self::view::SnapshotView;

use self::deferred::Deferred;
use self::list::Snapshots;
use self::vmstate::Vmstate;
use super::format::error::Result;
use super::format::snapshot_table::SnapshotTable;
use super::guest::{AllClusters, Guest};
use super::metadata::Metadata;

/// An open image: the guest's disk, its snapshots, and the VM state that is being saved.
pub(super) struct Image {
    guest: Guest,
    snapshots: Snapshots,
    /// What snapshot operations have deferred.
    deferred: Deferred,
    /// The state that is being saved.
    vmstate: Vmstate,
}

impl Image {
    pub(super) fn new(guest: Guest, table: SnapshotTable) -> Self {
        Self {
            guest,
            snapshots: Snapshots::new(table),
            deferred: Deferred::default(),
            vmstate: Vmstate::default(),
        }
    }

    /// The guest's disk.
    pub(super) fn guest(&self) -> &Guest {
        &self.guest
    }

    fn meta(&self) -> &Metadata {
        self.guest.meta()
    }

    /// Ends all use of the image: drops a state that no snapshot recorded, writes everything back, and releases the children. All steps are
    /// tried.
    ///
    /// # Errors
    ///
    /// The first one.
    pub(super) async fn close(&self) -> Result<()> {
        let all = &self.guest.locks().all().await;
        self.guest.close(all);
        let mut first = match self.guest.is_read_only() {
            true => Ok(()),
            false => self.finish(all).await,
        };
        let meta = self.meta();
        let children = [
            Some(meta.file()),
            meta.external_data(),
            self.guest.backing().file(),
        ];
        for file in children.into_iter().flatten() {
            let released = file.child().release().await;
            first = first.and(released.map_err(|e| e.cause));
        }
        first
    }

    /// Both steps are tried, whatever the result of the first.
    async fn finish(&self, all: &AllClusters<'_>) -> Result<()> {
        self.drop_state(all.exclusive());
        let tidied = self.tidy(all).await;
        let written = tidied.and(self.meta().write_everything().await);
        if written.is_ok() {
            self.meta().cut_tail().await;
        }
        written
    }
}
