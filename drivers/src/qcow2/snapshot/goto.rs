//! Going back to a snapshot: QEMU's `qcow2_snapshot_goto`.
//!
//! 1. Everything that can be refused is refused.
//! 2. All that the snapshot leads to, its state included, gets a reference more, and COPIED is cleared there.
//! 3. A copy of the snapshot's L1 table is written to clusters of its own; the header names it, with the disk's size, after all of this.
//! 4. What the active tables led to before loses a reference, and a state that no snapshot recorded is dropped.
//!
//! The state is in the active tables then, past the disk, as QEMU leaves it; the next snapshot, or a change of length, drops it.

use super::Image;
use crate::qcow2::format::entry::L1Entry;
use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use crate::qcow2::format::geometry::{SECTOR_SIZE, TABLE_ENTRY_SIZE};
use crate::qcow2::format::snapshot_table::Snapshot;
use crate::qcow2::guest::AllClusters;
use crate::qcow2::metadata::{Change, Freeing, Walk, Wanted};
use block_core::Cause;

impl Image {
    /// See [`BlockDriver::snapshot_goto`](block_core::BlockDriver::snapshot_goto).
    ///
    /// Errors, after which nothing has changed: [`Cause::NoSuchSnapshot`]; [`Qcow2Error::ActiveBitmaps`]; [`Qcow2Error::ResizeVersion2`], since a version 2 image with
    /// snapshots keeps its size; [`Qcow2Error::Resize`] for a length of part of a sector; [`Qcow2Error::RefcountOverflow`], [`Qcow2Error::SnapshotsWithDataFile`], what is wrong in the snapshot's
    /// tables, and what the disk says; [`Cause::Leaked`] where space is lost by it.
    pub(crate) async fn go_to_snapshot(&self, id_or_name: &str) -> Result<()> {
        let all = &self.guest.locks().all().await;
        self.check_snapshots()?;
        let (_, snapshot) = self.snapshots.find(id_or_name)?;
        self.guest.check_no_bitmaps()?;
        let (from, to) = (self.meta().size(), snapshot.disk_size);
        if self.meta().geometry().version() < 3 && from != to {
            return Err(Qcow2Error::ResizeVersion2 { from, to }.into());
        }
        if !to.is_multiple_of(SECTOR_SIZE) {
            let reason = "the snapshot's length is not a multiple of 512";
            return Err(Qcow2Error::Resize { size: to, reason }.into());
        }
        self.finish_earlier(all).await?;
        let mut walk = self.walk_over_snapshot(&snapshot, Change::Raise).await?;
        if from != to {
            self.note_disk_sizes(all).await?;
        }
        match self.switch_to(all, &snapshot, &mut walk).await {
            Ok(()) => {
                // The disk is the snapshot's, whatever becomes of this.
                let _ = self.tidy(all).await;
                Ok(())
            }
            Err(cause) => {
                self.abandon_unnamed(walk.done_so_far());
                match self.tidy(all).await {
                    Ok(()) => Err(cause),
                    Err(freeing) => Err(Cause::Leaked {
                        cause: Box::new(cause),
                        freeing: Box::new(freeing),
                    }),
                }
            }
        }
    }

    /// Steps 2 to 4. On an error the snapshot has references too many, as far as the walk is.
    async fn switch_to(
        &self,
        all: &AllClusters<'_>,
        snapshot: &Snapshot,
        walk: &mut Walk,
    ) -> Result<()> {
        self.meta().raise_references(walk).await?;
        self.meta()
            .clear_copied(&mut Walk::new(walk.entries().to_vec()))
            .await?;
        self.note_l2_tables(walk.entries())?;
        let entries = self.active_entries(snapshot, walk.entries());
        // What is dirty of the old table is on disk then, so that it can be put back as it is.
        self.meta().commit().await?;

        let bytes = entries.len() as u64 * TABLE_ENTRY_SIZE;
        let count = self.meta().geometry().clusters_for(bytes);
        let clusters = self.meta().allocate(Wanted::Exactly(count)).await?;
        if let Err(error) = self.meta().add_table(Table::L1, clusters.clone()) {
            self.meta().free(clusters, Freeing::Unnamed);
            return Err(error.into());
        }
        let old = self.meta().active().copy(0..self.meta().active().len());
        let old_at = self.meta().active().at();
        let old_size = self.meta().replace_size(snapshot.disk_size);
        let at = clusters.start << self.meta().geometry().cluster_bits();
        self.meta().active().replace(entries, at);
        if let Err(cause) = self.meta().commit().await {
            self.meta().replace_size(old_size);
            self.meta().active().replace(old, old_at);
            self.meta().free(clusters, Freeing::Unnamed);
            return Err(self.meta().unsure(cause));
        }

        self.drop_state(all.exclusive());
        let state = snapshot.vmstate_size;
        self.vmstate.show((state > 0).then_some(state));
        let old_bytes = old.len() as u64 * TABLE_ENTRY_SIZE;
        self.meta()
            .free(self.meta().clusters_at(old_at, old_bytes), Freeing::ForHost);
        self.abandon(Walk::new(old));
        Ok(())
    }

    /// The snapshot's L1 entries as those of the active table: nothing is to be written in place, and every part of the disk has one.
    fn active_entries(&self, snapshot: &Snapshot, entries: &[u64]) -> Vec<u64> {
        let shared = |entry: &u64| L1Entry(*entry).with_copied(false).0;
        let mut entries: Vec<u64> = entries.iter().map(shared).collect();
        // At most 4 Mi, as was checked with the snapshot.
        let needed = self
            .meta()
            .geometry()
            .l1_entries_for(snapshot.disk_size)
            .max(1) as usize;
        entries.resize(entries.len().max(needed), 0);
        entries
    }

    /// Nothing is to be written over the L2 tables of what will be the active L1 table.
    fn note_l2_tables(&self, entries: &[u64]) -> Result<(), Qcow2Error> {
        for (index, entry) in (0..).zip(entries) {
            let Some(at) = L1Entry(*entry).table(self.meta().geometry(), index)? else {
                continue;
            };
            let cluster = self.meta().geometry().cluster_of(at);
            if self.meta().refcounts().tables().get(cluster) != Some(Table::L2) {
                self.meta().add_table(Table::L2, cluster..cluster + 1)?;
            }
        }
        Ok(())
    }
}
