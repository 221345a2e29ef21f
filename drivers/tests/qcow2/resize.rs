//! The disk becomes longer and shorter: what must not be seen afterwards, and what is refused.

use crate::rig::*;
use block_core::{BlockError, DiskOffset, Op, Preallocation, Truncate};
use block_drivers::qcow2::{CreateOptions, Version};

const KIB: u64 = 1024;
const CLUSTER: u64 = 64 * KIB;

fn image(size: u64, version: Version) -> Setup {
    Setup {
        options: CreateOptions {
            size: Some(size),
            version,
            ..CreateOptions::default()
        },
        ..Setup::default()
    }
}

fn truncate(rig: &Rig, to: Truncate) -> Result<(), BlockError> {
    rig.start_truncate(to).result().expect("nothing is held")
}

fn refused(rig: &Rig, to: Truncate) -> String {
    let before = rig.files();
    let len = to.len;
    let error = truncate(rig, to).expect_err("refused");
    assert_eq!((error.op, error.offset), (Op::Truncate, len));
    assert!(rig.files() == before, "nothing was written");
    error.cause.to_string()
}

/// The header of an image with data to its end says that the disk is shorter: as after a crash between the two steps of a truncate, or
/// with a state past the disk that a QEMU has loaded.
#[test]
fn what_lies_past_the_end_is_not_shown_by_a_longer_disk() {
    for version in [Version::V2, Version::V3] {
        let size = 2 << 20;
        let mut rig = Rig::new(image(size, version));
        let bytes = pattern(size, 1);
        rig.write(0, &bytes);
        rig.close().expect("close");
        let end = 5 * CLUSTER + 1536;
        let mut cut = rig.disk.contents();
        cut[24..32].copy_from_slice(&end.to_be_bytes());
        rig.disk.set_contents(&cut);
        rig.open();
        truncate(&rig, to(size)).expect("longer");
        let read = rig.read(0, size);
        assert!(read[..end as usize] == bytes[..end as usize]);
        assert!(read[end as usize..].iter().all(|byte| *byte == 0));
        assert!(rig.close_and_check() == read);
    }
}

#[test]
fn a_shorter_disk_gives_its_clusters_back_and_a_longer_one_reads_zeroes_there() {
    let size = 2 << 20;
    let rig = Rig::new(image(size, Version::V3));
    rig.write(0, &pattern(size, 2));
    rig.flush();
    let full = rig.check().used as u64;
    truncate(&rig, to(CLUSTER / 2)).expect("shorter");
    assert_eq!(rig.check().used as u64, full - (size / CLUSTER - 1));
    truncate(&rig, to(size)).expect("longer");
    let stored = rig.close_and_check();
    let kept = CLUSTER as usize / 2;
    assert!(stored[..kept] == pattern(size, 2)[..kept]);
    assert!(stored[kept..].iter().all(|byte| *byte == 0));
}

/// One L1 entry maps 32 KiB here, and a cluster has 64 of them.
#[test]
fn the_l1_table_moves_to_where_it_can_be_longer() {
    let mut setup = image(32 * KIB, Version::V3);
    setup.options.cluster_size = 512;
    let rig = Rig::new(setup);
    let l1_at = |rig: &Rig| rig.disk.contents()[40..48].to_vec();
    let before = l1_at(&rig);
    rig.write(0, &pattern(32 * KIB, 3));
    let long = 5 << 20;
    truncate(&rig, to(long)).expect("longer");
    assert!(l1_at(&rig) != before);
    rig.write(long - 512, &[7; 512]);
    let stored = rig.close_and_check();
    assert!(stored[..32 * 1024] == pattern(32 * KIB, 3));
    assert!(
        stored[32 * 1024..long as usize - 512]
            .iter()
            .all(|byte| *byte == 0)
    );
    assert!(stored[long as usize - 512..].iter().all(|byte| *byte == 7));
}

/// Free clusters hold old data; preallocated ones read as zeroes nevertheless, and are written in place.
#[test]
fn preallocated_space_is_zero_and_allocated() {
    for version in [Version::V2, Version::V3] {
        for preallocation in [
            Preallocation::Metadata,
            Preallocation::Falloc,
            Preallocation::Full,
        ] {
            let old = 16 * CLUSTER;
            let rig = Rig::new(image(old, version));
            rig.write(0, &pattern(old, 4));
            rig.flush();
            rig.discard(0, 8 * CLUSTER);
            rig.flush(); // eight clusters of the file are free, and full of bytes
            let size = 40 * CLUSTER;
            let to = Truncate {
                preallocation,
                ..to(size)
            };
            truncate(&rig, to).expect("longer");
            let read = rig.read(0, size);
            assert!(read[old as usize..].iter().all(|byte| *byte == 0));
            let status = rig.run(rig.node().block_status(DiskOffset(old), size - old));
            assert!(status.expect("a status").allocated);
            let used = rig.check().used;
            rig.write(old, &pattern(size - old, 5));
            rig.flush();
            assert_eq!(rig.check().used, used, "nothing was left to be allocated");
            rig.close_and_check();
        }
    }
}

#[test]
fn what_cannot_be_is_refused_by_name_and_nothing_is_written() {
    let rig = Rig::new(image(1 << 20, Version::V3));
    let words = refused(&rig, to((1 << 20) + 100));
    assert!(
        words.contains("1048676") && words.contains("multiple of 512"),
        "{words}"
    );
    let words = refused(&rig, to(1 << 62));
    assert!(words.contains("at most"), "{words}");
    let full = Truncate {
        preallocation: Preallocation::Full,
        ..to(512)
    };
    let words = refused(&rig, full);
    assert!(words.contains("shorter"), "{words}");
    rig.close_and_check();
}

#[test]
fn an_image_of_version_2_with_snapshots_keeps_its_length() {
    let rig = Rig::new(image(1 << 20, Version::V2));
    let new = block_core::NewSnapshot {
        name: "one".into(),
        ..Default::default()
    };
    rig.run(rig.node().snapshot_create(new))
        .expect("a snapshot");
    let words = refused(&rig, to(2 << 20));
    assert!(words.contains("version 2"), "{words}");
    let words = refused(&rig, to(512));
    assert!(words.contains("version 2"), "{words}");
}
