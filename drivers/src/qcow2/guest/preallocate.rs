//! Clusters that are allocated before anything is written to them, and zeroes that are written as bytes.

use super::{Exclusive, Guest, L1Table};
use crate::qcow2::format::entry::{Cluster, Subcluster, Subclusters};
use crate::qcow2::format::error::Result;
use crate::qcow2::format::offset::{GuestOffset, HostOffset};
use crate::qcow2::metadata::{Freeing, Wanted, out_of_memory};
use block_core::{IoBuf, IoVector, Preallocation, ZeroFlags};
use std::ops::Range;

/// Most zero bytes that are written at once.
const PIECE: u64 = 1 << 20;

impl Guest {
    /// Writes zero bytes. The caller holds the clusters exclusively.
    pub(crate) async fn write_zeroes(
        &self,
        held: &Exclusive<'_>,
        l1: &L1Table,
        at: GuestOffset,
        len: u64,
    ) -> Result<()> {
        let memory = self.meta.data_file().child().limits().memory_alignment as usize;
        let zeroes = IoBuf::zeroed(len.min(PIECE) as usize, memory);
        let zeroes = IoVector::from(zeroes.map_err(out_of_memory)?.freeze());
        let mut done = 0;
        while done < len {
            let piece = zeroes.slice(0..(len - done).min(PIECE));
            let here = GuestOffset(at.0 + done);
            done += piece.len();
            self.write_mapped(held, l1, here, piece).await?;
        }
        Ok(())
    }

    /// Allocates whole clusters that nothing is mapped to, and makes them zeroes.
    ///
    /// What lies in a free cluster of the file is old data, so it is overwritten before the table leads there. The caller holds the clusters
    /// exclusively.
    pub(crate) async fn preallocate(
        &self,
        held: &Exclusive<'_>,
        l1: &L1Table,
        new: Range<u64>,
        mode: Preallocation,
    ) -> Result<()> {
        let geometry = self.meta.geometry();
        let mut at = new.start;
        while at < new.end {
            self.meta.make_room().await?;
            let here = GuestOffset(at);
            let clusters = geometry.clusters_for((new.end - at).min(self.within_slice(here)));
            let taken = match self.meta.external_data() {
                Some(_) => None,
                None => Some(self.meta.allocate(Wanted::UpTo(clusters)).await?),
            };
            let clusters = taken.as_ref().map_or(clusters, |t| t.end - t.start);
            let host = taken
                .as_ref()
                .map_or(at, |t| t.start << geometry.cluster_bits());
            let done = self
                .preallocate_run(held, l1, here, host, clusters, mode)
                .await;
            if done.is_err()
                && let Some(taken) = taken
            {
                self.meta.free(taken, Freeing::Unnamed);
            }
            done?;
            at += clusters << geometry.cluster_bits();
        }
        Ok(())
    }

    /// Inside one slice of an L2 table.
    async fn preallocate_run(
        &self,
        _: &Exclusive<'_>,
        l1: &L1Table,
        at: GuestOffset,
        host: u64,
        clusters: u64,
        mode: Preallocation,
    ) -> Result<()> {
        let geometry = self.meta.geometry();
        if self.meta.external_data().is_none() {
            let len = clusters << geometry.cluster_bits();
            self.meta.check_data(HostOffset(host), len)?;
            self.zero_file(host, len, mode).await?;
        }
        let (slice, first) = self.writable_l2_slice(l1, at).await?;
        let all = 0..geometry.subclusters();
        let data = Subclusters::UNALLOCATED.with(all, Subcluster::Data);
        for number in 0..clusters {
            let host = HostOffset(host + (number << geometry.cluster_bits()));
            let cluster = Cluster::of(geometry, Some(host), true, data);
            self.meta
                .set_entry(&slice, first + number as usize, cluster);
        }
        Ok(())
    }

    /// Makes bytes of the image file zeroes, with space for them as `mode` wants it.
    async fn zero_file(&self, at: u64, len: u64, mode: Preallocation) -> Result<()> {
        if mode != Preallocation::Full {
            let flags = ZeroFlags {
                may_unmap: mode == Preallocation::Metadata,
                ..ZeroFlags::default()
            };
            return self.meta.file().write_zeroes(at, len, flags).await;
        }
        let memory = self.meta.file().child().limits().memory_alignment as usize;
        let zeroes = IoBuf::zeroed(len.min(PIECE) as usize, memory);
        let zeroes = IoVector::from(zeroes.map_err(out_of_memory)?.freeze());
        let mut done = 0;
        while done < len {
            let piece = zeroes.slice(0..(len - done).min(PIECE));
            let here = at + done;
            done += piece.len();
            self.meta.file().writev(here, piece).await?;
        }
        Ok(())
    }
}
