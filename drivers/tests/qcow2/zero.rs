//! Zeroes, discards and block status: what becomes of a cluster of each kind, and what is said of it.

use crate::rig::*;
use crate::walker::host_of;
use block_core::{BlockStatus, Cause, DiskOffset, Op, ZeroFlags};
use block_drivers::qcow2::codec::CompressionType;
use block_drivers::qcow2::{CreateOptions, Version};

const KIB: u64 = 1024;
const CLUSTER: u64 = 64 * KIB;
const SIZE: u64 = 2 << 20;

fn image(version: Version) -> Setup {
    Setup {
        options: CreateOptions {
            size: Some(SIZE),
            version,
            ..CreateOptions::default()
        },
        ..Setup::default()
    }
}

fn extended() -> Setup {
    let mut setup = image(Version::V3);
    setup.options.extended_l2 = true;
    setup
}

fn status(rig: &Rig, at: u64) -> BlockStatus {
    let status = rig.run(rig.node().block_status(DiskOffset(at), SIZE - at));
    status.expect("a status")
}

/// data, zero, allocated, has a place; and how long.
fn says(rig: &Rig, at: u64) -> ((bool, bool, bool, bool), u64) {
    let status = status(rig, at);
    let place = status.map.is_some();
    (
        (status.data, status.zero, status.allocated, place),
        status.len,
    )
}

const DATA: (bool, bool, bool, bool) = (true, false, true, true);
const PACKED: (bool, bool, bool, bool) = (true, false, true, false);
const ZERO: (bool, bool, bool, bool) = (false, true, true, false);
const KEPT_ZERO: (bool, bool, bool, bool) = (false, true, true, true);
const HOLE: (bool, bool, bool, bool) = (false, true, false, false);
const BACKED: (bool, bool, bool, bool) = (false, false, false, false);

fn unmap(rig: &Rig, at: u64, len: u64) {
    let zeroed = rig.start_zeroes(at, len, true);
    zeroed.result().expect("nothing is held").expect("zeroes");
}

#[test]
fn zeroes_keep_the_host_cluster_for_later_writes_unless_it_may_be_unmapped() {
    let rig = Rig::new(image(Version::V3));
    rig.write(0, &pattern(4 * CLUSTER, 1));
    rig.flush();
    let used = rig.check().used;
    rig.zero(CLUSTER, CLUSTER);
    rig.flush();
    assert_eq!(rig.check().used, used);
    assert_eq!(says(&rig, CLUSTER), (KEPT_ZERO, CLUSTER));
    let place = host_of(&rig.disk.contents(), CLUSTER);
    rig.write(CLUSTER + 512, &[7; 512]);
    rig.flush();
    assert_eq!(
        host_of(&rig.disk.contents(), CLUSTER),
        place,
        "written in place"
    );
    let read = rig.read(CLUSTER, CLUSTER);
    assert!(
        read[..512]
            .iter()
            .chain(&read[1024..])
            .all(|byte| *byte == 0)
    );
    unmap(&rig, 2 * CLUSTER, CLUSTER);
    rig.flush();
    assert_eq!(rig.check().used, used - 1);
    assert_eq!(says(&rig, 2 * CLUSTER), (ZERO, CLUSTER));
    rig.close_and_check();
}

#[test]
fn a_discarded_cluster_reads_as_zeroes_and_lets_nothing_show_through() {
    let backing = pattern(SIZE, 2);
    let rig = Rig::new(Setup {
        backing: Some(backing.clone()),
        ..image(Version::V3)
    });
    rig.write(0, &pattern(2 * CLUSTER, 3));
    rig.discard(0, CLUSTER); // data
    rig.discard(4 * CLUSTER, CLUSTER); // nothing but the backing file's
    let mut expected = backing;
    expected[..128 * 1024].copy_from_slice(&pattern(2 * CLUSTER, 3));
    expected[..64 * 1024].fill(0);
    expected[256 * 1024..320 * 1024].fill(0);
    assert_eq!(says(&rig, 0), (ZERO, CLUSTER));
    assert_eq!(says(&rig, CLUSTER), (DATA, CLUSTER));
    assert_eq!(says(&rig, 2 * CLUSTER), (BACKED, 2 * CLUSTER));
    assert!(rig.close_and_check() == expected);
}

#[test]
fn a_discard_of_what_is_not_there_makes_no_table() {
    let rig = Rig::new(image(Version::V3));
    let used = rig.check().used;
    rig.discard(0, SIZE);
    rig.flush();
    assert_eq!(rig.check().used, used);
    assert_eq!(says(&rig, 0), (HOLE, SIZE));
}

#[test]
fn version_2_has_no_zero_clusters_and_says_so_before_anything_changes() {
    let rig = Rig::new(image(Version::V2));
    rig.write(0, &pattern(2 * CLUSTER, 4));
    rig.flush();
    let before = rig.files();
    let node = rig.node();
    let flags = ZeroFlags {
        no_fallback: true,
        ..ZeroFlags::default()
    };
    let refused = rig.run(node.pwrite_zeroes(DiskOffset(0), CLUSTER, flags));
    assert_eq!(
        refused.expect_err("not supported").cause,
        Cause::NotSupported
    );
    assert!(rig.files() == before);
    // The node writes them itself.
    rig.zero(0, CLUSTER);
    assert_eq!(says(&rig, 0), (DATA, 2 * CLUSTER));
    assert!(rig.read(0, CLUSTER).iter().all(|byte| *byte == 0));
    // Without a backing file an unallocated cluster reads as zeroes.
    rig.discard(CLUSTER, CLUSTER);
    assert!(rig.read(CLUSTER, CLUSTER).iter().all(|byte| *byte == 0));
    assert_eq!(says(&rig, CLUSTER), (HOLE, SIZE - CLUSTER));
    rig.close_and_check();
}

#[test]
fn a_version_2_image_with_a_backing_file_ignores_discards() {
    let backing = pattern(SIZE, 5);
    let rig = Rig::new(Setup {
        backing: Some(backing.clone()),
        ..image(Version::V2)
    });
    rig.write(0, &[9; 65_536]);
    rig.discard(0, 2 * CLUSTER);
    let mut expected = backing;
    expected[..65_536].fill(9);
    assert!(rig.close_and_check() == expected);
}

#[test]
fn subclusters_become_zeroes_one_by_one() {
    let rig = Rig::new(extended());
    let sub = CLUSTER / 32;
    rig.write(0, &pattern(CLUSTER, 6));
    rig.zero(3 * sub, 2 * sub);
    assert_eq!(says(&rig, 0), (DATA, 3 * sub));
    assert_eq!(says(&rig, 3 * sub), (KEPT_ZERO, 2 * sub));
    assert_eq!(says(&rig, 5 * sub), (DATA, 27 * sub));
    // In a cluster that is not there yet a subcluster may be zero by itself.
    rig.zero(8 * CLUSTER + sub, sub);
    assert_eq!(says(&rig, 8 * CLUSTER + sub), (ZERO, sub));
    let mut expected = pattern(CLUSTER, 6);
    expected[3 * sub as usize..5 * sub as usize].fill(0);
    expected.resize(SIZE as usize, 0);
    assert!(rig.close_and_check() == expected);
}

#[test]
fn a_part_of_a_compressed_cluster_is_made_zeroes_by_a_write() {
    if !CompressionType::Zlib.is_built() {
        return;
    }
    let rig = Rig::new(extended());
    let mut expected = soft(CLUSTER, 7);
    let packed = rig.start_compressed(0, &expected);
    packed
        .result()
        .expect("nothing is held")
        .expect("compressed");
    assert_eq!(says(&rig, 0), (PACKED, CLUSTER));
    rig.zero(2 * KIB, 4 * KIB);
    assert_eq!(says(&rig, 0).0, DATA);
    expected[2048..6144].fill(0);
    expected.resize(SIZE as usize, 0);
    assert!(rig.close_and_check() == expected);
}

#[test]
fn a_compressed_cluster_is_let_go_by_zeroes_and_discards() {
    if !CompressionType::Zlib.is_built() {
        return;
    }
    let rig = Rig::new(image(Version::V3));
    rig.write(SIZE - 512, &[1; 512]);
    rig.flush();
    let used = rig.check().used;
    for at in [0, CLUSTER] {
        let packed = rig.start_compressed(at, &soft(CLUSTER, at));
        packed
            .result()
            .expect("nothing is held")
            .expect("compressed");
    }
    rig.zero(0, CLUSTER);
    rig.discard(CLUSTER, CLUSTER);
    rig.flush();
    assert_eq!(rig.check().used, used);
    assert_eq!(says(&rig, 0), (ZERO, 2 * CLUSTER));
    rig.close_and_check();
}

/// A task that reads the data file by itself must find what the guest finds.
#[test]
fn a_raw_data_file_is_made_zeroes_with_the_disk() {
    let rig = Rig::new(Setup {
        data_file: true,
        raw_data_file: true,
        ..image(Version::V3)
    });
    let mut expected = pattern(SIZE, 8);
    rig.write(0, &expected);
    rig.zero(0, CLUSTER);
    unmap(&rig, 2 * CLUSTER, CLUSTER);
    rig.discard(4 * CLUSTER, 2 * CLUSTER);
    for zeroed in [0, 2, 4, 5] {
        expected[zeroed * 65_536..][..65_536].fill(0);
    }
    rig.flush();
    let (_, data) = rig.files();
    assert!(data.expect("a data file") == expected);
    assert!(rig.close_and_check() == expected);
}

#[test]
fn what_is_after_the_backing_files_end_is_zero_and_not_allocated() {
    let rig = Rig::new(Setup {
        backing: Some(pattern(3 * CLUSTER + 512, 9)),
        ..image(Version::V3)
    });
    assert_eq!(says(&rig, 0), (BACKED, 3 * CLUSTER + 512));
    assert_eq!(
        says(&rig, 3 * CLUSTER + 512),
        (HOLE, SIZE - 3 * CLUSTER - 512)
    );
}

#[test]
fn data_has_a_place_in_the_file_and_runs_where_it_goes_on_there() {
    let rig = Rig::new(image(Version::V3));
    rig.write(0, &pattern(2 * CLUSTER, 10));
    rig.write(5 * CLUSTER, &pattern(CLUSTER, 11));
    rig.write(2 * CLUSTER, &pattern(CLUSTER, 12)); // guest neighbours, and not the host's
    let first = status(&rig, 512);
    assert_eq!(first.len, 2 * CLUSTER - 512);
    let place = first.map.expect("a place").0 as usize;
    rig.flush();
    let file = rig.disk.contents();
    assert!(file[place..][..1024] == pattern(2 * CLUSTER, 10)[512..1536]);
    assert_eq!(says(&rig, 2 * CLUSTER), (DATA, CLUSTER));
    assert_eq!(says(&rig, 3 * CLUSTER), (HOLE, 2 * CLUSTER));
    assert!(
        rig.disk.records_of(Op::BlockStatus).is_empty(),
        "the tables say it"
    );
}
