//! How often each cluster of the file is used, as counted from the tables. QEMU's IMRT (in-memory refcount table).

use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::Geometry;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a piece, or a cluster where that is smaller.
const PIECE_SIZE: u64 = 4096;

/// A refcount of the image's own width for each cluster; they end where that width does. In the form that refcount blocks have, in pieces
/// that are there only where something was counted: a sparse file costs no memory for its holes.
pub(crate) struct Counts {
    geometry: Geometry,
    pieces: BTreeMap<u64, Vec<u8>>,
    /// The first cluster that was not said to be there.
    clusters: u64,
}

impl Counts {
    /// All zero, for a file of `clusters` clusters.
    pub(crate) fn new(geometry: Geometry, clusters: u64) -> Self {
        Self {
            geometry,
            pieces: BTreeMap::new(),
            clusters,
        }
    }

    /// The first cluster after the file's end and past everything counted.
    pub(crate) fn clusters(&self) -> u64 {
        self.clusters
    }

    /// How many clusters `bytes` bytes fill.
    pub(crate) fn clusters_for(&self, bytes: u64) -> u64 {
        self.geometry.clusters_for(bytes)
    }

    /// As many as a refcount table can count.
    pub(crate) fn max_clusters(&self) -> u64 {
        self.geometry.max_host_clusters()
    }

    fn piece_size(&self) -> u64 {
        self.geometry.cluster_size().min(PIECE_SIZE)
    }

    fn per_piece(&self) -> u64 {
        (self.piece_size() * 8) >> self.geometry.refcount_order()
    }

    /// The piece with the count of `cluster`, and the count's index there.
    fn place(&self, cluster: u64) -> (u64, usize) {
        let per_piece = self.per_piece();
        (cluster / per_piece, (cluster % per_piece) as usize) // at most 32768
    }

    pub(crate) fn get(&self, cluster: u64) -> u64 {
        let (piece, index) = self.place(cluster);
        let piece = self.pieces.get(&piece);
        piece
            .and_then(|piece| self.geometry.refcount(piece, index))
            .unwrap_or(0)
    }

    /// Counts `times` more uses of `cluster`, and returns how many of them did not fit.
    pub(crate) fn add(&mut self, cluster: u64, times: u64) -> Result<u64, Qcow2Error> {
        let before = self.get(cluster);
        let room = self.geometry.max_refcount() - before;
        self.set(cluster, before + times.min(room))?;
        Ok(times - times.min(room))
    }

    /// Counts one use less. Nothing happens to what is not used.
    pub(crate) fn remove(&mut self, cluster: u64) -> Result<(), Qcow2Error> {
        match self.get(cluster) {
            0 => Ok(()),
            count => self.set(cluster, count - 1),
        }
    }

    fn set(&mut self, cluster: u64, count: u64) -> Result<(), Qcow2Error> {
        let (piece, index) = self.place(cluster);
        let size = self.piece_size();
        let piece = match self.pieces.entry(piece) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(crate::qcow2::metadata::buffer(Table::RefcountBlock, size)?)
            }
        };
        let set = self.geometry.set_refcount(piece, index, count);
        debug_assert_eq!(set, Some(()), "the count fits and the piece has it");
        self.clusters = self.clusters.max(cluster + 1);
        Ok(())
    }

    /// The clusters of `range` that are used, in order. Costs what is used, not the range.
    pub(crate) fn used(&self, range: Range<u64>) -> impl Iterator<Item = (u64, u64)> + '_ {
        let per_piece = self.per_piece();
        let pieces =
            range.start / per_piece..range.end.div_ceil(per_piece).max(range.start / per_piece);
        self.pieces
            .range(pieces)
            .flat_map(move |(piece, counts)| {
                (0..per_piece as usize).filter_map(move |index| {
                    let cluster = piece * per_piece + index as u64;
                    let count = self.geometry.refcount(counts, index)?;
                    (count != 0).then_some((cluster, count))
                })
            })
            .filter(move |(cluster, _)| range.contains(cluster))
    }

    /// The refcount block number `index`, as it is to be on disk. One cluster.
    pub(crate) fn block(&self, index: u64) -> Result<Vec<u8>, Qcow2Error> {
        let size = self.geometry.cluster_size();
        let mut block = crate::qcow2::metadata::buffer(Table::RefcountBlock, size)?;
        let pieces = size / self.piece_size();
        let places = block.chunks_exact_mut(self.piece_size() as usize); // at most 4096
        for (piece, place) in (index * pieces..).zip(places) {
            if let Some(counts) = self.pieces.get(&piece) {
                place.copy_from_slice(counts);
            }
        }
        Ok(block)
    }

    /// The indices of the refcount blocks that have something to count, in order.
    pub(crate) fn blocks(&self) -> Vec<u64> {
        let pieces = self.geometry.cluster_size() / self.piece_size();
        let mut blocks: Vec<u64> = self.pieces.keys().map(|piece| piece / pieces).collect();
        blocks.dedup();
        blocks.retain(|block| {
            let per_block = self.geometry.refcounts_per_block();
            self.used(block * per_block..(block + 1) * per_block)
                .next()
                .is_some()
        });
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each() -> impl Iterator<Item = Geometry> {
        let geometry = |bits, order| Geometry::new(3, bits, order, false, false).expect("in range");
        [9, 12, 16, 21]
            .into_iter()
            .flat_map(move |bits| (0..=6).map(move |order| geometry(bits, order)))
    }

    #[test]
    fn uses_are_counted_up_to_the_width_and_the_rest_is_told() {
        for geometry in each() {
            let mut counts = Counts::new(geometry, 3);
            let most = geometry.max_refcount();
            let far = geometry.refcounts_per_block() * 2 + 1;
            assert_eq!(counts.add(far, 1), Ok(0));
            assert_eq!((counts.get(far), counts.get(far - 1)), (1, 0));
            assert_eq!(counts.clusters(), far + 1);
            assert_eq!(counts.add(far, u64::MAX), Ok(u64::MAX - (most - 1)));
            assert_eq!(counts.get(far), most);
            assert_eq!(counts.remove(far), Ok(()));
            assert_eq!(counts.get(far), most - 1);
            assert_eq!(counts.remove(0), Ok(()));
            assert_eq!(counts.get(0), 0);
        }
    }

    #[test]
    fn what_is_used_is_found_again_in_order_and_in_the_blocks() {
        for geometry in each() {
            let mut counts = Counts::new(geometry, 0);
            let per_block = geometry.refcounts_per_block();
            let used = [0, 1, per_block - 1, 3 * per_block, 5 * per_block + 7];
            for cluster in used {
                counts.add(cluster, 1).expect("memory");
            }
            let found: Vec<u64> = counts
                .used(0..u64::MAX / 2)
                .map(|(cluster, _)| cluster)
                .collect();
            assert_eq!(found, used);
            let some: Vec<_> = counts.used(1..3 * per_block).collect();
            assert_eq!(some, [(1, 1), (per_block - 1, 1)]);
            assert_eq!(counts.used(4..4).count(), 0);
            assert_eq!(counts.blocks(), [0, 3, 5]);
            let block = counts.block(5).expect("memory");
            assert_eq!(block.len() as u64, geometry.cluster_size());
            assert_eq!(geometry.refcount(&block, 7), Some(1));
            assert_eq!(geometry.refcount(&block, 6), Some(0));
            counts.remove(3 * per_block).expect("memory");
            assert_eq!(
                counts.blocks(),
                [0, 5],
                "a block without uses is not needed"
            );
        }
    }
}
