//! Compressed clusters as their user sees them.

use crate::rig::*;
use crate::walker::Walker;
use aio_task::WorkerPool;
use block_core::{BlockError, Cause, DiskOffset, IoVector};
use block_drivers::qcow2::CreateOptions;
use block_drivers::qcow2::codec::CompressionType;
use std::num::NonZeroUsize;

const CLUSTER: u64 = 64 * 1024;
/// Ends inside a cluster.
const SIZE: u64 = 5 * CLUSTER + 1536;

fn image(kind: CompressionType) -> Setup {
    Setup {
        options: CreateOptions {
            size: Some(SIZE),
            compression_type: kind,
            ..CreateOptions::default()
        },
        ..Setup::default()
    }
}

fn built() -> impl Iterator<Item = CompressionType> {
    CompressionType::ALL
        .into_iter()
        .filter(|kind| kind.is_built())
}

fn write(rig: &Rig, at: u64, bytes: &[u8]) -> Result<(), BlockError> {
    let compressor = rig.compressor.clone().expect("the image is open");
    let src = IoVector::copy_of(bytes, 512).expect("memory");
    rig.run(compressor.write(DiskOffset(at), src))
}

/// Everything of a full image, the last part of a cluster included.
#[test]
fn a_disk_is_compressed_in_worker_threads_to_its_last_byte() {
    for kind in built() {
        let workers = WorkerPool::new(NonZeroUsize::new(2).expect("two"));
        let mut rig = Rig::new(Setup {
            workers: Some(workers.clone()),
            ..image(kind)
        });
        let bytes = soft(SIZE, 1);
        write(&rig, 0, &bytes).expect("compressed");
        assert!(workers.threads() > 0);
        assert!(rig.read(0, SIZE) == bytes);
        let odd = rig.read(CLUSTER - 100, CLUSTER + 200);
        assert!(odd == bytes[CLUSTER as usize - 100..][..CLUSTER as usize + 200]);
        rig.close().expect("close");
        rig.open();
        assert!(rig.read(0, SIZE) == bytes);
        assert!(rig.disk.len() < SIZE / 2 + 6 * CLUSTER, "it got smaller");
        assert!(rig.close_and_check() == bytes);
    }
}

#[test]
fn what_does_not_get_smaller_is_written_as_it_is() {
    for kind in built() {
        let rig = Rig::new(image(kind));
        let bytes = pattern(SIZE, 2);
        write(&rig, 0, &bytes).expect("written");
        let node = rig.node();
        let status = rig.run(node.block_status(DiskOffset(0), SIZE));
        assert!(status.expect("a status").map.is_some(), "not compressed");
        assert!(rig.close_and_check() == bytes);
    }
}

#[test]
fn parts_of_clusters_and_places_past_the_end_are_refused() {
    let rig = Rig::new(image(CompressionType::Zlib));
    let before = rig.files();
    let odd = |at, len: u64| {
        write(&rig, at, &vec![1; len as usize])
            .expect_err("refused")
            .cause
    };
    for (at, len) in [
        (512, CLUSTER),
        (0, 512),
        (0, CLUSTER + 1),
        (5 * CLUSTER, 512),
    ] {
        let words = odd(at, len).to_string();
        assert!(words.contains("whole clusters"), "{words}");
    }
    let end = 6 * CLUSTER;
    assert_eq!(
        odd(5 * CLUSTER, CLUSTER),
        Cause::OutOfBounds { end, size: SIZE }
    );
    assert_eq!(odd(u64::MAX - 65_535, CLUSTER), Cause::Overflow);
    assert_eq!(write(&rig, 0, &[]), Ok(()));
    assert!(rig.files() == before, "nothing was written");
}

#[test]
fn an_external_data_file_has_no_compressed_clusters() {
    let rig = Rig::new(Setup {
        data_file: true,
        ..image(CompressionType::Zlib)
    });
    let refused = write(&rig, 0, &soft(CLUSTER, 3)).expect_err("refused");
    assert_eq!(refused.cause, Cause::NotSupported);
}

#[test]
fn a_codec_that_was_not_built_is_refused_by_name() {
    for kind in CompressionType::ALL
        .into_iter()
        .filter(|kind| !kind.is_built())
    {
        let rig = Rig::new(image(kind));
        let refused = write(&rig, 0, &soft(CLUSTER, 3)).expect_err("refused");
        assert!(refused.to_string().contains(kind.name()), "{refused}");
    }
}

#[test]
fn a_closed_image_takes_no_compressed_clusters() {
    let mut rig = Rig::new(image(CompressionType::Zlib));
    rig.close().expect("close");
    let refused = write(&rig, 0, &soft(CLUSTER, 3)).expect_err("refused");
    assert_eq!(refused.cause, Cause::Closed);
}

/// A damaged one is an error of its own, and its neighbours are read.
#[test]
fn compressed_data_that_makes_no_sense_is_an_error_of_its_cluster() {
    for kind in built() {
        let mut rig = Rig::new(image(kind));
        let bytes = soft(2 * CLUSTER, 4);
        write(&rig, 0, &bytes).expect("compressed");
        rig.close().expect("close");
        let mut file = rig.disk.contents();
        let place = Walker::new(&file, None)
            .compressed_at(0)
            .expect("it is compressed");
        file[place as usize..][..64].fill(0xff);
        rig.disk.set_contents(&file);
        rig.open();
        let mut dst = vec![0; CLUSTER as usize];
        let node = rig.node();
        let refused = rig
            .run(node.pread(DiskOffset(0), &mut dst))
            .expect_err("garbage");
        assert!(matches!(refused.cause, Cause::Corrupt(_)), "{refused}");
        assert!(
            refused.to_string().contains(&place.to_string()),
            "{refused}"
        );
        assert!(rig.read(CLUSTER, CLUSTER) == bytes[CLUSTER as usize..]);
        rig.write(0, &bytes[..CLUSTER as usize]); // a whole cluster needs nothing of it
        assert!(rig.read(0, 2 * CLUSTER) == bytes);
    }
}
