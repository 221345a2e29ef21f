//! Where everything is in a new image: one thing after the other, in clusters.
//!
//! ```text
//!   0        1          blocks_at         l1_at       l2_at         data_at               total
//!   | header | reftable | refcount blocks | L1 table  | L2 tables   | guest's clusters ...  |
//!                                                       only with preallocation; data not with an external data file
//! ```
//!
//! Every cluster of it is in use once, so that the refcounts of all of them are 1. Nothing has to be searched for, moved or grown.

use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::{Geometry, MAX_HOST_OFFSET};

/// The plan of a new image. Numbers and counts of clusters, but for `l1_entries`. Everything ends below 2^56.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Clusters of the refcount table, which starts at 1.
    pub(crate) reftable: u64,
    /// Where the refcount blocks are.
    pub(crate) blocks_at: u64,
    /// How many there are.
    pub(crate) blocks: u64,
    /// Where the L1 table is.
    pub(crate) l1_at: u64,
    /// Its entries; 0 for an empty disk, which has no L1 table.
    pub(crate) l1_entries: u64,
    /// Where the L2 tables are.
    pub(crate) l2_at: u64,
    /// How many there are: one for each L1 entry, or none.
    pub(crate) l2_tables: u64,
    /// Where the guest's clusters are, if they are in this file.
    pub(crate) data_at: u64,
    /// How many guest clusters the L2 tables map.
    pub(crate) guest_clusters: u64,
    /// All clusters of the file.
    pub(crate) total: u64,
}

impl Layout {
    /// The plan for a disk of `size` bytes. `preallocate`: the L2 tables and the guest's clusters are there at once.
    ///
    /// Errors: [`Qcow2Error::SizeTooLarge`]; [`Qcow2Error::TableTooLarge`] for more clusters than a refcount table of 8 MiB can count.
    pub(crate) fn new(
        geometry: &Geometry,
        size: u64,
        preallocate: bool,
    ) -> Result<Self, Qcow2Error> {
        let l1_entries = geometry.l1_entries_for(size);
        let max = geometry.max_l1_entries();
        if l1_entries > max {
            return Err(Qcow2Error::SizeTooLarge {
                size,
                max: max.saturating_mul(geometry.l2_span()),
            });
        }
        let l1 = geometry.clusters_for(l1_entries * 8);
        let (l2_tables, guest_clusters) = if preallocate {
            (l1_entries, geometry.clusters_for(size))
        } else {
            (0, 0)
        };
        let data = if geometry.data_file() {
            0
        } else {
            guest_clusters
        };
        // At most 2^22 tables and 2^52 clusters: no sum below comes near the end of the numbers.
        let counted = 1 + l1 + l2_tables + data;
        let (reftable, blocks) = refcounts(geometry, counted);
        let max = geometry.max_reftable_clusters();
        if reftable > max {
            return Err(Qcow2Error::TableTooLarge {
                what: Table::RefcountTable,
                entries: reftable,
                max,
            });
        }
        let blocks_at = 1 + reftable;
        let l1_at = blocks_at + blocks;
        let l2_at = l1_at + l1;
        let data_at = l2_at + l2_tables;
        let total = data_at + data;
        let end = total.max(guest_clusters);
        if end > (MAX_HOST_OFFSET + 1) >> geometry.cluster_bits() {
            return Err(Qcow2Error::Outside {
                what: Table::Data,
                offset: 0,
                bytes: end.saturating_mul(geometry.cluster_size()),
                end: MAX_HOST_OFFSET + 1,
            });
        }
        Ok(Self {
            reftable,
            blocks_at,
            blocks,
            l1_at,
            l1_entries,
            l2_at,
            l2_tables,
            data_at,
            guest_clusters,
            total,
        })
    }
}

/// How many clusters of reftable and refcount blocks count `others` clusters and themselves (QEMU's `qcow2_refcount_metadata_size`).
fn refcounts(geometry: &Geometry, others: u64) -> (u64, u64) {
    let per_block = geometry.refcounts_per_block();
    let (mut reftable, mut blocks) = (1, 1);
    loop {
        let needed = (others + reftable + blocks).div_ceil(per_block);
        let table = geometry.clusters_for(needed * 8).max(1);
        if (table, needed) == (reftable, blocks) {
            return (reftable, blocks);
        }
        (reftable, blocks) = (table, needed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(bits: u32, order: u32) -> Geometry {
        Geometry::new(3, bits, order, false, false).expect("in range")
    }

    #[test]
    fn a_small_image_has_the_places_that_qemu_gives_it() {
        let layout = Layout::new(&geometry(16, 4), 1 << 20, false).expect("small");
        assert_eq!((layout.reftable, layout.blocks_at, layout.l1_at), (1, 2, 3));
        assert_eq!((layout.l1_entries, layout.total), (1, 4));
    }

    #[test]
    fn refcounts_are_just_enough_for_everything_and_themselves() {
        for bits in [9, 12, 16, 21] {
            for order in 0..=6 {
                let g = geometry(bits, order);
                for size in [0, 1, 1 << 20, 1 << 30, 64 << 30] {
                    for preallocate in [false, true] {
                        let Ok(l) = Layout::new(&g, size, preallocate) else {
                            continue;
                        };
                        let counted = l.blocks * g.refcounts_per_block();
                        assert!(counted >= l.total, "{g:?} {size}");
                        assert!(counted - l.total < g.refcounts_per_block() + 1, "{g:?}");
                        assert!(g.reftable_entries(l.reftable) >= l.blocks);
                        assert!(l.l2_at >= l.l1_at && l.data_at >= l.l2_at);
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_disks_are_those_of_qemu_and_one_byte_more_is_too_large() {
        for (bits, max) in [(9, 1_u64 << 37), (16, 1 << 51), (21, 1 << 61)] {
            let g = geometry(bits, 4);
            assert!(Layout::new(&g, max, false).is_ok());
            for size in [max + 1, i64::MAX as u64, u64::MAX] {
                let error = Layout::new(&g, size, false);
                assert_eq!(error, Err(Qcow2Error::SizeTooLarge { size, max }));
            }
        }
    }

    #[test]
    fn more_clusters_than_can_be_counted_are_refused() {
        let error = Layout::new(&geometry(9, 6), 64 << 30, true);
        assert!(matches!(
            error,
            Err(Qcow2Error::TableTooLarge {
                what: Table::RefcountTable,
                max: 16384,
                ..
            })
        ));
        let far = Layout::new(&geometry(21, 0), 1 << 61, true);
        assert!(matches!(far, Err(Qcow2Error::Outside { .. })), "{far:?}");
        let data_file = Geometry::new(3, 21, 4, false, true).expect("in range");
        let far = Layout::new(&data_file, (1 << 56) + 1, true);
        assert!(matches!(far, Err(Qcow2Error::Outside { .. })), "{far:?}");
        assert!(Layout::new(&data_file, 1 << 56, true).is_ok());
    }
}
