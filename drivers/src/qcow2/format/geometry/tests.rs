use super::*;

fn geometry(cluster_bits: u32, refcount_order: u32, extended_l2: bool) -> Geometry {
    Geometry::new(3, cluster_bits, refcount_order, extended_l2, false).expect("in range")
}

fn each() -> impl Iterator<Item = Geometry> {
    (9..=21).flat_map(|bits| {
        (0..=6).flat_map(move |order| {
            [false, true]
                .into_iter()
                .filter_map(move |extended| Geometry::new(3, bits, order, extended, false).ok())
        })
    })
}

#[test]
fn numbers_that_the_format_does_not_know_are_refused_by_name() {
    let refused = |version, bits, order, extended| {
        Geometry::new(version, bits, order, extended, false).expect_err("must be refused")
    };
    assert_eq!(refused(1, 16, 4, false), Qcow2Error::Version { found: 1 });
    assert_eq!(refused(4, 16, 4, false), Qcow2Error::Version { found: 4 });
    for found in [0, 8, 22, u32::MAX] {
        let error = Qcow2Error::ClusterBits { found, least: 9 };
        assert_eq!(refused(3, found, 4, false), error);
    }
    let error = Qcow2Error::ClusterBits {
        found: 13,
        least: 14,
    };
    assert_eq!(refused(3, 13, 4, true), error);
    for found in [7, u32::MAX] {
        assert_eq!(
            refused(3, 16, found, false),
            Qcow2Error::RefcountOrder { found }
        );
    }
}

#[test]
fn the_default_image_has_the_sizes_of_the_specification() {
    let g = geometry(16, 4, false);
    assert_eq!(g.cluster_size(), 65536);
    assert_eq!((g.l2_entry_size(), g.l2_entries()), (8, 8192));
    assert_eq!(g.l2_span(), 512 << 20);
    assert_eq!(g.refcounts_per_block(), 32768);
    assert_eq!(g.max_refcount(), 65535);
    assert_eq!(g.max_reftable_clusters(), 128);
    assert_eq!((g.subclusters(), g.subcluster_size()), (1, 65536));
    let g = geometry(16, 4, true);
    assert_eq!((g.l2_entry_size(), g.l2_entries()), (16, 4096));
    assert_eq!((g.subclusters(), g.subcluster_size()), (32, 2048));
    assert_eq!(g.subcluster_index(GuestOffset(65536 + 2048 * 31)), 31);
}

#[test]
fn every_offset_is_its_indices_put_together_again() {
    for g in each() {
        for at in [0, 1, 511, 512, 1 << 20, (1 << 40) + 12345, i64::MAX as u64] {
            let guest = GuestOffset(at);
            let start = g.l1_start(g.l1_index(guest)).expect("below the offset").0;
            let back = start + (g.l2_index(guest) << g.cluster_bits()) + g.in_cluster(at);
            assert_eq!(back, at, "{g:?}");
            let host = HostOffset(at);
            let cluster = g.cluster_of(host);
            let back =
                g.reftable_index(cluster) * g.refcounts_per_block() + g.refcount_index(cluster);
            assert_eq!(back, cluster, "{g:?}");
            assert_eq!(
                g.cluster_start(cluster).map(|start| start.0),
                Some(at - g.in_cluster(at))
            );
        }
    }
}

#[test]
fn a_disk_gets_as_many_l1_entries_as_it_touches_and_the_vmstate_comes_after_them() {
    let g = geometry(16, 4, false);
    let span = g.l2_span();
    for (size, entries) in [
        (0, 0),
        (1, 1),
        (span, 1),
        (span + 1, 2),
        (3 * span - 512, 3),
    ] {
        assert_eq!(g.l1_entries_for(size), entries, "size {size}");
        assert_eq!(g.vmstate_start(size), Some(GuestOffset(entries * span)));
    }
    assert_eq!(g.vmstate_start(i64::MAX as u64), None, "past 2^63 - 1");
    assert_eq!(g.vmstate_start(u64::MAX), None);
}

#[test]
fn what_an_entry_cannot_name_is_neither_allocated_nor_in_a_data_file() {
    for g in each() {
        let end = g.max_host_clusters() << g.cluster_bits();
        assert!(end <= 1 << 56, "{g:?}");
        let last = GuestOffset((1 << 56) - g.cluster_size());
        assert_eq!(g.data_file_place(last), Ok(HostOffset(last.0)));
        for at in [1 << 56, 1 << 60] {
            let place = g.data_file_place(GuestOffset(at));
            assert!(matches!(place, Err(Qcow2Error::Outside { .. })));
        }
    }
    assert_eq!(geometry(9, 6, false).max_host_clusters(), 1 << 26);
}

#[test]
fn sizes_near_the_end_of_the_numbers_are_none_and_do_not_overflow() {
    for g in each() {
        assert_eq!(g.cluster_start(u64::MAX), None);
        assert_eq!(g.l1_start(u64::MAX), None);
        let _ = g.l1_entries_for(u64::MAX);
        let _ = g.reftable_entries(u64::MAX);
        let _ = g.max_host_clusters();
    }
}

#[test]
fn a_refcount_of_any_width_comes_back_and_leaves_its_neighbours_alone() {
    for order in 0..=6 {
        let g = geometry(9, order, false);
        let count = g.refcounts_per_block() as usize;
        let mut block = vec![0; 512];
        let value = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & g.max_refcount();
        for i in 0..count {
            assert_eq!(g.set_refcount(&mut block, i, value(i)), Some(()));
        }
        for i in 0..count {
            assert_eq!(g.refcount(&block, i), Some(value(i)), "order {order}");
        }
        let before = block.clone();
        assert_eq!(g.refcount(&block, count), None);
        assert_eq!(g.set_refcount(&mut block, count, 0), None);
        assert_eq!(g.set_refcount(&mut block, usize::MAX, 0), None);
        if let Some(too_much) = g.max_refcount().checked_add(1) {
            assert_eq!(g.set_refcount(&mut block, 0, too_much), None);
        }
        assert_eq!(block, before, "what was refused has changed nothing");
    }
}

#[test]
fn narrow_refcounts_start_at_the_least_significant_bit_and_wide_ones_are_big_endian() {
    let mut block = [0; 8];
    for (order, index, value, bytes) in [
        (0, 1, 1, [0b10, 0, 0, 0, 0, 0, 0, 0]),
        (1, 3, 2, [0b1000_0000, 0, 0, 0, 0, 0, 0, 0]),
        (2, 2, 9, [0, 9, 0, 0, 0, 0, 0, 0]),
        (3, 7, 200, [0, 0, 0, 0, 0, 0, 0, 200]),
        (4, 1, 0x1234, [0, 0, 0x12, 0x34, 0, 0, 0, 0]),
        (5, 1, 0x1234, [0, 0, 0, 0, 0, 0, 0x12, 0x34]),
        (6, 0, u64::MAX, [0xff; 8]),
    ] {
        block.fill(0);
        let g = geometry(9, order, false);
        assert_eq!(g.set_refcount(&mut block, index, value), Some(()));
        assert_eq!(block, bytes, "order {order}");
    }
}

#[test]
fn slices_tile_their_table() {
    for g in each() {
        assert_eq!(g.slices() * g.slice_size(), g.cluster_size());
        for index in [0, 1, g.l2_entries() / 2, g.l2_entries() - 1] {
            let (slice, i) = g.l2_slice(index);
            assert!(slice < g.cluster_size() && slice.is_multiple_of(g.slice_size()));
            let byte = slice + i as u64 * g.l2_entry_size();
            assert_eq!(byte, index * g.l2_entry_size());
        }
        for index in [0, 1, g.refcounts_per_block() - 1] {
            let (slice, i) = g.refcount_slice(index);
            assert!(slice < g.cluster_size());
            let bits = slice * 8 + ((i as u64) << g.refcount_order());
            assert_eq!(bits, index << g.refcount_order());
        }
    }
}
