//! Dropping a snapshot: QEMU's `qcow2_snapshot_delete`.
//!
//! The table without it is written and the header names that; only then do its tables and clusters lose a reference, and COPIED is set
//! where the active tables are the only ones left.

use super::Image;
use crate::qcow2::format::error::Result;
use crate::qcow2::metadata::{Change, Freeing};
use block_core::Cause;

impl Image {
    /// See [`BlockDriver::snapshot_delete`](block_core::BlockDriver::snapshot_delete).
    ///
    /// A snapshot whose tables make no sense is deleted all the same. What it leads to keeps its references then, since it is not known what
    /// that is; a check finds it as leaked.
    ///
    /// # Errors
    ///
    /// Nothing has changed after [`NoSuchSnapshot`](Cause::NoSuchSnapshot), [`SnapshotInUse`](crate::qcow2::Qcow2Error::SnapshotInUse)
    /// where a view of it is open, and what the disk says before the header has changed. What it says later costs space at worst. It is deleted
    /// after [`Cause::Done`], which says what was wrong in its tables.
    pub(crate) async fn delete_snapshot(&self, id_or_name: &str) -> Result<()> {
        let all = &self.guest.locks().all().await;
        self.check_snapshots()?;
        let (index, snapshot) = self.snapshots.find(id_or_name)?;
        self.snapshots.check_unused(&snapshot)?;
        self.finish_earlier(all).await?;
        let found = self.walk_over_snapshot(&snapshot, Change::Lower).await;
        let walk = match found {
            // It contradicts itself, or is beyond what the format has.
            Err(Cause::Corrupt(_) | Cause::Driver(_)) => found,
            found => Ok(found?),
        };
        let mut others = self.snapshots.table.borrow().snapshots.clone();
        others.remove(index);
        self.replace_snapshots(all, others).await?;
        let damage = match walk {
            Ok(walk) => {
                self.meta()
                    .free(self.l1_clusters(&snapshot), Freeing::ForHost);
                self.abandon(walk);
                None
            }
            Err(damage) => Some(damage),
        };
        self.recompute_copied();
        self.cover_snapshot_tables();
        // The snapshot is gone, whatever becomes of this.
        let _ = self.tidy(all).await;
        match damage {
            None => Ok(()),
            Some(cause) => Err(Cause::Done {
                but: Box::new(cause),
            }),
        }
    }
}
