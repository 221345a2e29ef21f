//! Dropping a snapshot: QEMU's `qcow2_snapshot_delete`.
//!
//! The table without it is written and the header names that; only then do its tables and clusters lose a reference, and COPIED is set
//! where the active tables are the only ones left.

use super::references::Change;
use crate::qcow2::Result;
use crate::qcow2::image::Image;
use crate::qcow2::locks::EVERYTHING;

impl Image {
    /// See [`BlockDriver::snapshot_delete`](block_core::BlockDriver::snapshot_delete).
    ///
    /// Errors, after which nothing has changed: [`NoSuchSnapshot`](block_core::Cause::NoSuchSnapshot),
    /// [`SnapshotInUse`](crate::qcow2::Qcow2Error::SnapshotInUse) where a view of it is open, what is wrong in its tables, and what the
    /// disk says before the header has changed. What it says later costs space at worst.
    pub(in crate::qcow2) async fn delete_snapshot(&self, id_or_name: &str) -> Result<()> {
        let _lock = self.locks.exclusive(EVERYTHING).await;
        self.check_snapshots()?;
        let (index, snapshot) = self.snapshots.find(id_or_name)?;
        self.snapshots.check_unused(&snapshot)?;
        self.finish_earlier().await?;
        let walk = self.walk_over_snapshot(&snapshot, Change::Lower).await?;
        let mut others = self.snapshots.table.borrow().snapshots.clone();
        others.remove(index);
        self.switch_snapshots(others).await?;
        self.free(self.l1_clusters(&snapshot));
        self.abandon(walk);
        self.recompute_copied();
        // The snapshot is gone, whatever becomes of this.
        let _ = self.tidy().await;
        Ok(())
    }
}
