//! Dropping all that is mapped after an offset: a disk that becomes shorter, and what an earlier user left after the end of the disk.

use super::zero::Change;
use super::{Exclusive, Guest, L1Table};
use crate::qcow2::format::entry::{Cluster, L1Entry};
use crate::qcow2::format::error::Result;
use crate::qcow2::format::offset::GuestOffset;
use crate::qcow2::metadata::Freeing;

impl Guest {
    /// Drops everything that is mapped from `from` to the end of the L1 table: nothing is allocated there afterwards. `from` is a
    /// multiple of the cluster size. The caller holds the clusters exclusively. QEMU's full discard.
    ///
    /// L2 tables that map nothing before `from` go too. On an error some of it may be left.
    pub(crate) async fn drop_mapped(
        &self,
        held: &Exclusive<'_>,
        l1: &L1Table,
        from: GuestOffset,
    ) -> Result<()> {
        let mut index = self.meta.geometry().l1_index(from);
        let start = self.meta.geometry().l1_start(index);
        if start.is_some_and(|start| start < from) {
            self.drop_in_table(held, l1, from).await?;
            index += 1;
        }
        while index < self.l1_len(l1) {
            if L1Entry(self.l1_entry(l1, index)) != L1Entry::EMPTY {
                self.meta.make_room().await?;
                self.drop_table(held, l1, index).await?;
            }
            index += 1;
        }
        Ok(())
    }

    /// Drops what an L2 table maps from `from` on; the table stays.
    async fn drop_in_table(
        &self,
        held: &Exclusive<'_>,
        l1: &L1Table,
        from: GuestOffset,
    ) -> Result<()> {
        let span = self.meta.geometry().l2_span();
        let end = from.0 - from.0 % span + span;
        let mut at = from.0;
        while at < end {
            let here = GuestOffset(at);
            let piece = self.within_slice(here);
            if self.l2_slice(l1, here).await?.is_none() {
                return Ok(());
            }
            self.meta.make_room().await?;
            self.change_slice(held, l1, here, piece, Change::Drop)
                .await?;
            at += piece;
        }
        Ok(())
    }

    /// Drops an L2 table with all that it maps, even if other tables share it.
    ///
    /// All of it is read before anything changes, so that a table that cannot be read is dropped by no half.
    async fn drop_table(&self, _: &Exclusive<'_>, l1: &L1Table, index: u64) -> Result<()> {
        let geometry = self.meta.geometry();
        let Some(table) = L1Entry(self.l1_entry(l1, index)).table(geometry, index)? else {
            return Ok(());
        };
        let Some(start) = geometry.l1_start(index) else {
            return Ok(());
        };
        let mut clusters = Vec::new();
        let step = geometry.l2_entries_per_slice() << geometry.cluster_bits();
        for at in (start.0..start.0 + geometry.l2_span()).step_by(step as usize) {
            let Some((slice, first)) = self.l2_slice(l1, GuestOffset(at)).await? else {
                break;
            };
            for number in 0..geometry.l2_entries_per_slice() {
                let guest = GuestOffset(at + (number << geometry.cluster_bits()));
                let cluster = self.meta.decode(&slice, first + number as usize, guest)?;
                if cluster.host().is_some() || matches!(cluster, Cluster::Compressed { .. }) {
                    clusters.push(cluster);
                }
            }
        }
        self.set_l1_entry(l1, index, L1Entry::EMPTY.0);
        for cluster in &clusters {
            self.meta.free_cluster(cluster, Freeing::ForHost);
        }
        let table = geometry.cluster_of(table);
        self.meta.free(table..table + 1, Freeing::ForHost);
        Ok(())
    }
}
