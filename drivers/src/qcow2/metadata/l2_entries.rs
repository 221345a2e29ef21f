//! The entries of a slice of an L2 table.

use super::{Metadata, Slice};
use crate::qcow2::format::entry::{Cluster, L2Entry};
use crate::qcow2::format::error::Result;
use crate::qcow2::format::offset::GuestOffset;

impl Metadata {
    /// The entry `index` of a slice, which maps the cluster at `guest`.
    pub(crate) fn decode(
        &self,
        slice: &Slice,
        index: usize,
        guest: GuestOffset,
    ) -> Result<Cluster> {
        let entry = L2Entry::read(&self.geometry, &slice.bytes(), index).unwrap_or_default();
        Ok(entry.decode(&self.geometry, guest)?)
    }

    /// Makes `cluster` the entry `index` of a slice, whose table is not shared with a snapshot.
    pub(crate) fn set_entry(&self, slice: &Slice, index: usize, cluster: Cluster) {
        let entry = cluster.encode(&self.geometry);
        let size = self.geometry.l2_entry_size() as usize; // 8 or 16
        let part = index * size..(index + 1) * size;
        let done = slice.change(part, |bytes| entry.write(&self.geometry, bytes, 0));
        debug_assert!(done.is_some());
    }

    /// The entries of a slice that say something and can be read.
    pub(crate) fn decode_all(
        &self,
        slice: &crate::qcow2::metadata::slice_cache::Slice,
        guest: GuestOffset,
    ) -> impl Iterator<Item = (usize, Cluster)> {
        let geometry = self.geometry;
        let bytes = slice.bytes().clone();
        (0..geometry.l2_entries_per_slice() as usize).filter_map(move |index| {
            let entry = L2Entry::read(&geometry, &bytes, index)?;
            let here = GuestOffset(guest.0 + index as u64 * geometry.cluster_size());
            let cluster = entry.decode(&geometry, here).ok()?;
            (cluster != Cluster::Unallocated).then_some((index, cluster))
        })
    }
}
