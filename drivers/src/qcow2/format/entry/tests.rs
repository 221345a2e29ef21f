use super::*;

const HOST: HostOffset = HostOffset(5 << 21); // a multiple of every cluster size
const GUEST: GuestOffset = GuestOffset(5 << 21);

fn geometry(version: u32, bits: u32, extended: bool, data_file: bool) -> Geometry {
    Geometry::new(version, bits, 4, extended, data_file).expect("in range")
}

fn plain() -> Geometry {
    geometry(3, 16, false, false)
}

fn extended() -> Geometry {
    geometry(3, 16, true, false)
}

fn decode(g: &Geometry, raw: u64, bitmap: u64) -> Result<Cluster, Qcow2Error> {
    L2Entry { raw, bitmap }.decode(g, GUEST)
}

#[test]
fn an_l1_entry_leads_to_a_table_or_nowhere() {
    let g = plain();
    assert_eq!(L1Entry::EMPTY.table(&g, 0), Ok(None));
    for copied in [false, true] {
        let entry = L1Entry::new(HOST, copied);
        assert_eq!(entry.table(&g, 7), Ok(Some(HOST)));
        assert_eq!(entry.copied(), copied);
        assert_eq!(entry.with_copied(!copied).copied(), !copied);
    }
}

#[test]
fn a_reserved_bit_of_an_l1_entry_is_passed_over_and_of_a_reftable_entry_refused() {
    let g = plain();
    for bit in (0..9).chain(56..63) {
        assert_eq!(L1Entry(HOST.0 | 1 << bit).table(&g, 7), Ok(Some(HOST)));
        assert_eq!(L1Entry(1 << bit).table(&g, 7), Ok(None));
    }
    for bit in 0..9 {
        let raw = HOST.0 | 1 << bit;
        let error = Qcow2Error::ReservedBits {
            what: Table::RefcountBlock,
            at: 7,
            raw,
        };
        assert_eq!(ReftableEntry(raw).block(&g, 7), Err(error));
    }
}

#[test]
fn a_table_inside_a_cluster_is_refused_with_its_offset() {
    let g = plain();
    let offset = HOST.0 + 512;
    let error = |what| Qcow2Error::EntryNotAligned {
        what,
        at: 9,
        offset,
    };
    assert_eq!(L1Entry(offset).table(&g, 9), Err(error(Table::L2)));
    let block = ReftableEntry(offset).block(&g, 9);
    assert_eq!(block, Err(error(Table::RefcountBlock)));
    assert_eq!(ReftableEntry::default().block(&g, 9), Ok(None));
    assert_eq!(ReftableEntry::new(HOST).block(&g, 9), Ok(Some(HOST)));
    let far = ReftableEntry(1 << 63).block(&g, 9);
    assert!(matches!(far, Err(Qcow2Error::Outside { .. })));
}

#[test]
fn a_standard_cluster_is_unallocated_zero_or_data() {
    let g = plain();
    assert_eq!(decode(&g, 0, 0), Ok(Cluster::Unallocated));
    for copied in [false, true] {
        let flag = if copied { COPIED } else { 0 };
        let data = Cluster::Normal {
            offset: HOST,
            copied,
        };
        assert_eq!(decode(&g, HOST.0 | flag, 0), Ok(data));
        let zero = Cluster::Zero {
            preallocated: Some(HOST),
            copied,
        };
        assert_eq!(decode(&g, HOST.0 | flag | ZERO, 0), Ok(zero));
    }
    let zero = Cluster::Zero {
        preallocated: None,
        copied: false,
    };
    assert_eq!(decode(&g, ZERO, 0), Ok(zero));
}

#[test]
fn version_2_has_no_zero_clusters() {
    let g = geometry(2, 16, false, false);
    let error = Qcow2Error::ZeroInVersion2 { at: GUEST.0 };
    assert_eq!(decode(&g, ZERO, 0), Err(error.clone()));
    assert_eq!(decode(&g, HOST.0 | ZERO, 0), Err(error));
}

#[test]
fn every_reserved_bit_of_an_l2_entry_is_passed_over_and_an_offset_inside_a_cluster_refused() {
    for (g, least, bitmap) in [(plain(), 1, 0), (extended(), 0, u32::MAX.into())] {
        for bit in (least..9).chain(56..62) {
            let data = Cluster::Normal {
                offset: HOST,
                copied: false,
            };
            assert_eq!(decode(&g, HOST.0 | 1 << bit, bitmap), Ok(data));
        }
    }
    let inside = HOST.0 + 512;
    let error = Qcow2Error::EntryNotAligned {
        what: Table::Data,
        at: GUEST.0,
        offset: inside,
    };
    assert_eq!(decode(&plain(), inside, 0), Err(error));
}

#[test]
fn subclusters_that_are_all_alike_make_a_plain_cluster_and_others_a_mixed_one() {
    let g = extended();
    let all = u64::from(u32::MAX);
    assert_eq!(decode(&g, 0, 0), Ok(Cluster::Unallocated));
    let data = Cluster::Normal {
        offset: HOST,
        copied: true,
    };
    assert_eq!(decode(&g, HOST.0 | COPIED, all), Ok(data));
    let zero = Cluster::Zero {
        preallocated: None,
        copied: false,
    };
    assert_eq!(decode(&g, 0, all << 32), Ok(zero));
    let mixed = |raw, bitmap, offset| {
        let cluster = Cluster::Mixed {
            offset,
            copied: false,
            subclusters: Subclusters(bitmap),
        };
        assert_eq!(decode(&g, raw, bitmap), Ok(cluster));
    };
    mixed(HOST.0, 0, Some(HOST));
    mixed(HOST.0, 1 | 2 << 32, Some(HOST));
    mixed(0, 2 << 32, None);
}

#[test]
fn a_subcluster_is_not_both_allocated_and_zero_and_not_allocated_nowhere() {
    let g = extended();
    for (raw, bitmap) in [(HOST.0, 1 | 1 << 32), (0, 1), (0, 1 << 31 | 1 << 32)] {
        let error = Qcow2Error::SubclusterBitmap {
            at: GUEST.0,
            bitmap,
        };
        assert_eq!(decode(&g, raw, bitmap), Err(error));
    }
}

#[test]
fn a_subcluster_range_changes_alone_and_runs_end_where_the_kind_does() {
    let all = Subclusters::UNALLOCATED
        .with(0..32, Subcluster::Data)
        .with(4..8, Subcluster::Zero)
        .with(6..7, Subcluster::Unallocated);
    assert_eq!(all.run(0, 32), (Subcluster::Data, 4));
    assert_eq!(all.run(4, 32), (Subcluster::Zero, 2));
    assert_eq!(all.run(6, 32), (Subcluster::Unallocated, 1));
    assert_eq!(all.run(7, 32), (Subcluster::Zero, 1));
    assert_eq!(all.run(8, 32), (Subcluster::Data, 24));
    assert_eq!(all.run(8, 10), (Subcluster::Data, 2));
    assert_eq!(all.data() & all.zero(), 0);
    assert_eq!(all.with(5..5, Subcluster::Data), all, "an empty range");
}

#[test]
fn in_a_data_file_a_cluster_is_at_its_own_offset() {
    let g = geometry(3, 16, false, true);
    let first = GuestOffset(0);
    let at = |raw, guest| L2Entry { raw, bitmap: 0 }.decode(&g, guest);
    let data = |offset| Cluster::Normal {
        offset,
        copied: true,
    };
    assert_eq!(at(HOST.0 | COPIED, GUEST), Ok(data(HOST)));
    assert_eq!(at(COPIED, first), Ok(data(HostOffset(0))));
    assert_eq!(at(0, first), Ok(Cluster::Unallocated));
    let error = Qcow2Error::DataFileOffset {
        at: 65536,
        offset: HOST.0,
    };
    assert_eq!(at(HOST.0 | COPIED, GuestOffset(65536)), Err(error));
    let error = Qcow2Error::DataFileOffset {
        at: GUEST.0,
        offset: 0,
    };
    assert_eq!(at(COPIED, GUEST), Err(error));
    let error = Qcow2Error::CompressedInDataFile { at: GUEST.0 };
    assert_eq!(at(COMPRESSED | 77, GUEST), Err(error));
}

#[test]
fn a_compressed_cluster_knows_its_first_byte_and_its_last_sector() {
    for bits in 9..=21 {
        let g = geometry(3, bits, false, false);
        let cluster = g.cluster_size();
        for at in [
            0,
            1,
            511,
            512,
            70_000,
            Cluster::max_compressed_end(&g) - 600,
        ] {
            for len in [1, 2, 511, cluster - 1] {
                let Some(packed) = Cluster::compressed(&g, HostOffset(at), len) else {
                    let sectors = (at + len).div_ceil(512) - at / 512;
                    let far = at + len > Cluster::max_compressed_end(&g);
                    assert!(far || sectors > 1 << (bits - 8), "{bits} {at} {len}");
                    continue;
                };
                let Cluster::Compressed { bytes, .. } = packed else {
                    panic!("not compressed")
                };
                assert!(bytes >= len && bytes < len + 512);
                assert!((at + bytes).is_multiple_of(512));
                assert_eq!(packed.encode(&g).decode(&g, GUEST), Ok(packed));
            }
        }
    }
}

#[test]
fn compressed_data_that_an_entry_cannot_name_is_none() {
    let g = geometry(3, 21, false, false);
    assert_eq!(Cluster::max_compressed_end(&g), 1 << 49);
    let at = |offset, len| Cluster::compressed(&g, HostOffset(offset), len);
    assert!(at((1 << 49) - 5, 5).is_some());
    assert_eq!(at((1 << 49) - 5, 6), None);
    assert_eq!(at(0, 0), None);
    assert_eq!(at(0, 4 << 20 | 1), None, "more sectors than the field has");
    assert_eq!(at(u64::MAX, 1), None);
    let small = geometry(3, 9, false, false);
    assert_eq!(Cluster::max_compressed_end(&small), 1 << 56);
}

#[test]
fn a_compressed_entry_with_other_flags_leads_to_its_data_all_the_same() {
    let data = decode(&plain(), COMPRESSED | 4096, 0);
    assert!(matches!(data, Ok(Cluster::Compressed { .. })));
    assert_eq!(decode(&plain(), COMPRESSED | COPIED | 4096, 0), data);
    assert_eq!(decode(&extended(), COMPRESSED | 4096, 3), data);
    let small = geometry(3, 9, false, false);
    let raw = COMPRESSED | 1 << 56;
    let error = Qcow2Error::ReservedBits {
        what: Table::Data,
        at: GUEST.0,
        raw,
    };
    assert_eq!(decode(&small, raw, 0), Err(error));
}

#[test]
fn what_decodes_encodes_to_an_entry_that_says_the_same() {
    let mut random = 1_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut good = 0;
    for _ in 0..20_000 {
        for g in [
            plain(),
            extended(),
            geometry(2, 9, false, false),
            geometry(3, 21, true, true),
        ] {
            let sparse = next() & next() & next();
            for raw in [next(), sparse, HOST.0 | sparse, GUEST.0 | COPIED] {
                let bitmap = if g.extended_l2() {
                    next() & next() & next() & next()
                } else {
                    0
                };
                let entry = L2Entry { raw, bitmap };
                let Ok(cluster) = entry.decode(&g, GUEST) else {
                    continue;
                };
                good += 1;
                // Bits that mean nothing are dropped.
                let again = cluster.encode(&g);
                assert_eq!(again.decode(&g, GUEST), Ok(cluster), "{g:?} {raw:#x}");
                assert_eq!(again.raw & !raw & !ZERO, 0, "no bit is added");
                let copied = cluster.with_copied(true);
                assert_eq!(copied.host(), cluster.host());
                assert_eq!(copied.subclusters(&g), cluster.subclusters(&g));
            }
            let _ = L1Entry(next()).table(&g, 0);
            let _ = ReftableEntry(next()).block(&g, 0);
        }
    }
    assert!(good > 1000, "only {good} entries were good enough to count");
}

#[test]
fn an_entry_is_found_again_where_it_was_put() {
    for g in [plain(), extended()] {
        let mut table = vec![0; 64];
        let last = 64 / g.l2_entry_size() as usize - 1;
        let entry = L2Entry {
            raw: 0x1122_3344,
            bitmap: if g.extended_l2() { 0x55 } else { 0 },
        };
        assert_eq!(entry.write(&g, &mut table, last), Some(()));
        assert_eq!(L2Entry::read(&g, &table, last), Some(entry));
        assert_eq!(L2Entry::read(&g, &table, last - 1), Some(L2Entry::EMPTY));
        assert_eq!(L2Entry::read(&g, &table, last + 1), None);
        assert_eq!(entry.write(&g, &mut table, last + 1), None);
        assert_eq!(L2Entry::read(&g, &table, usize::MAX), None);
    }
}
