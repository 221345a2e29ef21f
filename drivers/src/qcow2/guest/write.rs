//! Writes of guest data: in place where the cluster is ours alone, else into new clusters, with what was there around it. QEMU's
//! `qcow2_co_pwritev_part` and `qcow2_alloc_cluster_link_l2`.
//!
//! ```text
//!   guest cluster     |......|#############|...........|        # written
//!   host cluster      | head |    src      |   tail    |        one write; then the L2 entry; then the old cluster is let go
//! ```
//!
//! With extended L2 entries, head and tail reach to the next subcluster only, unless subclusters of the old cluster have to move along.

use super::L1Table;
use super::mapping::{Content, Extent};
use super::{Exclusive, Guest};
use crate::qcow2::format::entry::{Cluster, Subcluster, Subclusters};
use crate::qcow2::format::error::Result;
use crate::qcow2::format::offset::{GuestOffset, HostOffset};
use crate::qcow2::metadata::Freeing;
use crate::qcow2::metadata::Wanted;
use block_core::IoVector;
use std::ops::Range;

impl Guest {
    /// Writes `src` at `at`. Whatever of it was written before an error is there.
    pub(crate) async fn write_guest(
        &self,
        l1: &L1Table,
        at: GuestOffset,
        src: IoVector,
    ) -> Result<()> {
        if matches!(l1, L1Table::Active) && !src.is_empty() {
            self.before_guest_change().await?;
        }
        let mut done = 0;
        while done < src.len() {
            self.meta.make_room().await?;
            let here = GuestOffset(at.0 + done);
            let len = (src.len() - done).min(self.within_slice(here));
            let piece = src.slice(done..done + len);
            done += self.write_some(l1, here, piece).await?;
        }
        Ok(())
    }

    /// The same for a caller that holds the clusters exclusively.
    pub(crate) async fn write_mapped(
        &self,
        held: &Exclusive<'_>,
        l1: &L1Table,
        at: GuestOffset,
        src: IoVector,
    ) -> Result<()> {
        let mut done = 0;
        while done < src.len() {
            self.meta.make_room().await?;
            let here = GuestOffset(at.0 + done);
            let len = (src.len() - done).min(self.within_slice(here));
            let piece = src.slice(done..done + len);
            done += match self.write_in_place(l1, here, &piece).await? {
                Some(written) => written,
                None => self.write_allocating(held, l1, here, piece).await?,
            };
        }
        Ok(())
    }

    /// Writes the first bytes of `src`, which lies within one slice of an L2 table; how many.
    async fn write_some(&self, l1: &L1Table, at: GuestOffset, src: IoVector) -> Result<u64> {
        let clusters = self.lock_numbers(l1, at, src.len());
        let lock = self.locks.shared(clusters.clone()).await;
        self.check_tree(l1)?;
        if let Some(written) = self.write_in_place(l1, at, &src).await? {
            return Ok(written);
        }
        drop(lock);
        let held = &self.locks.exclusive(clusters).await;
        self.check_tree(l1)?;
        // While we waited another task may have allocated them.
        if let Some(written) = self.write_in_place(l1, at, &src).await? {
            return Ok(written);
        }
        self.write_allocating(held, l1, at, src).await
    }

    /// Writes as far as data may be overwritten where it is; `None` if not even the first byte may.
    async fn write_in_place(
        &self,
        l1: &L1Table,
        at: GuestOffset,
        src: &IoVector,
    ) -> Result<Option<u64>> {
        let extent = self.extent(l1, at, src.len()).await?;
        let Extent {
            content: Content::Data(host),
            in_place: true,
            len,
        } = extent
        else {
            return Ok(None);
        };
        self.meta.check_data(host, len)?;
        let written = self
            .meta
            .data_file()
            .writev(host.0, src.slice(0..len))
            .await;
        written.map(|()| Some(len))
    }

    /// Gives the first clusters of the range new data; how many bytes of `src` that were. The caller holds them exclusively.
    async fn write_allocating(
        &self,
        _: &Exclusive<'_>,
        l1: &L1Table,
        at: GuestOffset,
        src: IoVector,
    ) -> Result<u64> {
        let plan = self.plan(l1, at, src.len()).await?;
        let taken = plan.taken.clone();
        let written = self.carry_out(l1, &plan, src).await;
        if written.is_err()
            && let Some(taken) = taken
        {
            self.meta.free(taken, Freeing::Unnamed);
        }
        written.map(|()| plan.len)
    }

    /// Decides which clusters are written, and where to.
    async fn plan(&self, l1: &L1Table, at: GuestOffset, len: u64) -> Result<Plan> {
        let geometry = self.meta.geometry();
        let (slice, index) = self.writable_l2_slice(l1, at).await?;
        let first = GuestOffset(at.0 - geometry.in_cluster(at.0));
        let touched = geometry.clusters_for(at.0 - first.0 + len);
        let mut old = Vec::new();
        for (number, index) in (0..touched).zip(index..) {
            let guest = GuestOffset(first.0 + number * geometry.cluster_size());
            let cluster = self.meta.decode(&slice, index, guest)?;
            let reuse = reusable(&cluster);
            if number > 0 && (reuse || old.first().is_some_and(reusable)) {
                break; // a cluster that keeps its place is written by itself
            }
            old.push(cluster);
        }
        drop(slice);
        let reused = old.first().filter(|c| reusable(c)).and_then(Cluster::host);
        let (host, taken) = match (reused, self.meta.external_data()) {
            (Some(host), _) => (host, None),
            // In an external data file every cluster is at its own offset.
            (None, Some(_)) => (geometry.data_file_place(first)?, None),
            (None, None) => {
                let count = old.len() as u64;
                let wanted = match l1 {
                    // A buffer of a state is one write, whatever gaps the guest has left: they are passed over.
                    L1Table::State(_) => Wanted::Exactly(count),
                    _ => Wanted::UpTo(count),
                };
                let taken = self.meta.allocate(wanted).await?;
                old.truncate((taken.end - taken.start) as usize);
                let start = taken.start << geometry.cluster_bits();
                (HostOffset(start), Some(taken))
            }
        };
        let end = (at.0 + len).min(first.0 + old.len() as u64 * geometry.cluster_size());
        Ok(Plan {
            first,
            at,
            len: end - at.0,
            region: self.region(&old, reused.is_some(), at.0..end),
            old,
            host,
            taken,
            reused: reused.is_some(),
        })
    }

    /// The bytes that have to be written for `written` to be: whole subclusters, and whole clusters where data would be left.
    fn region(&self, old: &[Cluster], reused: bool, written: Range<u64>) -> Range<u64> {
        let geometry = self.meta.geometry();
        let unit = |cluster: Option<&Cluster>| match cluster {
            Some(old) if reused || !moves(geometry, old) => geometry.subcluster_size(),
            _ => geometry.cluster_size(),
        };
        let start = written.start - written.start % unit(old.first());
        start..written.end.next_multiple_of(unit(old.last()))
    }

    /// Writes the data, then the entries, then lets the old clusters go.
    async fn carry_out(&self, l1: &L1Table, plan: &Plan, src: IoVector) -> Result<()> {
        let Plan { at, region, .. } = plan;
        let end = at.0 + plan.len;
        let head = self.read_copy(l1, GuestOffset(region.start), at.0 - region.start);
        let mut data = head.await?;
        let tail = self.read_copy(l1, GuestOffset(end), region.end - end);
        let tail = tail.await?;
        data.append(src.slice(0..plan.len));
        data.append(tail);
        let place = plan.host.0 + (region.start - plan.first.0);
        self.meta
            .check_data(HostOffset(place), region.end - region.start)?;
        self.meta.data_file().writev(place, data).await?;

        // The table may have been let go from the cache, but it is ours alone since the plan was made.
        let (slice, index) = self.writable_l2_slice(l1, plan.first).await?;
        let cluster_size = self.meta.geometry().cluster_size();
        for (number, (old, index)) in plan.old.iter().zip(index..).enumerate() {
            let start = number as u64 * cluster_size;
            let host = HostOffset(plan.host.0 + start);
            let covered = (region.start.max(plan.first.0 + start) - plan.first.0 - start)
                ..(region.end.min(plan.first.0 + start + cluster_size) - plan.first.0 - start);
            let new = self.rewritten(old, plan.reused, host, covered);
            self.meta.set_entry(&slice, index, new);
            if !plan.reused {
                self.meta.free_cluster(old, Freeing::ForReuse);
            }
        }
        Ok(())
    }

    /// The cluster whose bytes `covered` (from its start) are now in `host`.
    fn rewritten(
        &self,
        old: &Cluster,
        reused: bool,
        host: HostOffset,
        covered: Range<u64>,
    ) -> Cluster {
        let geometry = self.meta.geometry();
        let size = geometry.subcluster_size();
        let before = match reused || !moves(geometry, old) {
            true => old.subclusters(geometry),
            false => Subclusters::UNALLOCATED,
        };
        let range = (covered.start / size) as u32..covered.end.div_ceil(size) as u32; // at most 32
        let subclusters = before.with(range, Subcluster::Data);
        Cluster::of(geometry, Some(host), true, subclusters)
    }
}

/// What one step of a write does.
struct Plan {
    /// First byte of the first cluster.
    first: GuestOffset,
    /// First byte of the request that is written, and how many.
    at: GuestOffset,
    len: u64,
    /// All bytes that are written: those of the request, with what has to be copied around them.
    region: Range<u64>,
    /// The clusters as they are.
    old: Vec<Cluster>,
    /// Where the first cluster's data goes.
    host: HostOffset,
    /// Host clusters that were allocated for this.
    taken: Option<Range<u64>>,
    /// The cluster keeps its place; there is only one then.
    reused: bool,
}

/// A host cluster is there, for this guest cluster alone, but not all of it may be overwritten as it is.
fn reusable(cluster: &Cluster) -> bool {
    cluster.copied() && cluster.host().is_some()
}

/// Whether data of the old cluster would be lost if only a part of the new one were written.
fn moves(geometry: &crate::qcow2::format::geometry::Geometry, old: &Cluster) -> bool {
    matches!(old, Cluster::Compressed { .. }) || old.subclusters(geometry).data() != 0
}
