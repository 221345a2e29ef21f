//! From one table of snapshots to another: the new one is written to another place, then the header names it, and then the old one goes.
//! QEMU's `qcow2_write_snapshots`.

use super::table::{Snapshot, SnapshotTable, serialise};
use crate::qcow2::Result;
use crate::qcow2::allocate::Wanted;
use crate::qcow2::error::Table;
use crate::qcow2::free::Freeing;
use crate::qcow2::image::Image;
use block_core::Cause;
use std::ops::Range;

impl Image {
    /// Makes `snapshots` those of the image, in one step, with all that was changed in memory before: a crash leaves the old ones or the
    /// new ones. Nothing has changed after an error, unless it is [`Cause::Unsure`].
    ///
    /// The caller holds all clusters.
    pub(super) async fn switch_snapshots(&self, snapshots: Vec<Snapshot>) -> Result<()> {
        let bytes = serialise(&snapshots)?;
        let clusters = self.write_table(Table::SnapshotTable, &bytes).await?;
        let before = self.snapshots_at.get();
        let at = clusters.start << self.geometry.cluster_bits();
        // At most 65536; QEMU, too, leaves no place where there is none.
        self.snapshots_at.set((at, snapshots.len() as u32));
        if let Err(cause) = self.commit().await {
            self.snapshots_at.set(before);
            self.free(clusters, Freeing::Unnamed);
            return Err(self.unsure(cause));
        }
        let old = self.snapshots.table.replace(SnapshotTable {
            snapshots,
            bytes: bytes.len() as u64,
            ..SnapshotTable::default()
        });
        self.free(self.clusters_at(before.0, old.bytes), Freeing::ForHost);
        Ok(())
    }

    /// Why a commit failed, with what that means for the header: where its write was begun and is not known to be stable, the disk may have the
    /// old fields or the new ones. In memory it is the old ones from now on, and the next commit writes these first.
    pub(super) fn unsure(&self, cause: Cause) -> Cause {
        match self.on_disk.get().sure {
            true => cause,
            false => Cause::Unsure {
                cause: Box::new(cause),
            },
        }
    }

    /// Before the header's size changes: snapshots that do not say their own disk's size get it written down, as they have the header's
    /// otherwise. Old QEMUs left it out, and newer ones made such images version 3.
    ///
    /// The caller holds all clusters. Nothing has changed after an error.
    pub(in crate::qcow2) async fn note_disk_sizes(&self) -> Result<()> {
        let snapshots = self.snapshots.table.borrow().snapshots.clone();
        match snapshots.iter().any(|s| !s.has_disk_size()) {
            true => self.switch_snapshots(snapshots).await,
            false => Ok(()),
        }
    }

    /// Writes a table to clusters of its own, which nothing names yet. No bytes need no clusters: `0..0`.
    pub(super) async fn write_table(&self, what: Table, bytes: &[u8]) -> Result<Range<u64>> {
        if bytes.is_empty() {
            return Ok(0..0);
        }
        let count = self.geometry.clusters_for(bytes.len() as u64);
        let clusters = self.allocate(Wanted::Exactly(count)).await?;
        let written = match self.add_table(what, clusters.clone()) {
            Ok(()) => self.write_whole(clusters.start, bytes).await,
            Err(error) => Err(error.into()),
        };
        if let Err(cause) = written {
            self.free(clusters, Freeing::Unnamed);
            return Err(cause);
        }
        Ok(clusters)
    }

    /// Padded to whole clusters, so that no old bytes are left behind a table.
    async fn write_whole(&self, cluster: u64, bytes: &[u8]) -> Result<()> {
        let mut whole = bytes.to_vec();
        whole.resize(
            whole
                .len()
                .next_multiple_of(self.geometry.cluster_size() as usize),
            0,
        );
        self.file
            .write(cluster << self.geometry.cluster_bits(), &whole)
            .await
    }
}
