//! From one table of snapshots to another: the new one is written to another place, then the header names it, and then the old one goes.
//! QEMU's `qcow2_write_snapshots`.

use super::Image;
use crate::qcow2::format::error::{Result, Table};
use crate::qcow2::format::snapshot_table::{Snapshot, SnapshotTable, serialise};
use crate::qcow2::guest::AllClusters;
use crate::qcow2::metadata::Freeing;

impl Image {
    /// Makes `snapshots` those of the image, in one step, with all that was changed in memory before: a crash leaves the old ones or the
    /// new ones. Nothing has changed after an error, unless it is [`Cause::Unsure`](block_core::Cause::Unsure).
    ///
    /// The caller holds all clusters.
    pub(crate) async fn replace_snapshots(
        &self,
        _: &AllClusters<'_>,
        snapshots: Vec<Snapshot>,
    ) -> Result<()> {
        let bytes = serialise(&snapshots)?;
        let clusters = self
            .meta()
            .write_table(Table::SnapshotTable, &bytes)
            .await?;
        let before = self.meta().snapshots_at();
        let at = clusters.start << self.meta().geometry().cluster_bits();
        // At most 65536; QEMU, too, leaves no place where there is none.
        self.meta().replace_snapshots_at(at, snapshots.len() as u32);
        if let Err(cause) = self.meta().commit().await {
            self.meta().replace_snapshots_at(before.0, before.1);
            self.meta().free(clusters, Freeing::Unnamed);
            return Err(self.meta().unsure(cause));
        }
        let old = self.snapshots.table.replace(SnapshotTable {
            snapshots,
            bytes: bytes.len() as u64,
            ..SnapshotTable::default()
        });
        self.meta().free(
            self.meta().clusters_at(before.0, old.bytes),
            Freeing::ForHost,
        );
        Ok(())
    }

    /// Before the header's size changes: snapshots that do not say their own disk's size get it written down, as they have the header's
    /// otherwise. Old QEMUs left it out, and newer ones made such images version 3.
    ///
    /// The caller holds all clusters. Nothing has changed after an error.
    pub(crate) async fn note_disk_sizes(&self, all: &AllClusters<'_>) -> Result<()> {
        let snapshots = self.snapshots.table.borrow().snapshots.clone();
        match snapshots.iter().any(|s| !s.has_disk_size()) {
            true => self.replace_snapshots(all, snapshots).await,
            false => Ok(()),
        }
    }
}
