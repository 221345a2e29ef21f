//! An operation fails and cannot be undone at once; the guest goes on writing before it is.

use crate::support::{Bench, Image, pattern};
use block_core::{DiskOffset, Errno, Op};

/// An L2 table of this image is read in two pieces, each of which maps 32 MiB. There are more of them than are kept in memory.
const PAIRS: &str = "size=384M,cluster_size=32768,extended_l2=on";
const PIECES: u64 = 12;
const PIECE: u64 = 32 << 20;
const CLUSTER: u64 = 32768;

/// The places of a cluster of each piece of a table, and what is written there.
fn everywhere(number: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
    (0..PIECES).map(move |piece| {
        let at = piece * PIECE + number * CLUSTER;
        (at, pattern(at, CLUSTER as usize))
    })
}

async fn write_everywhere(image: &Image, number: u64) {
    for (at, bytes) in everywhere(number) {
        image.write(at, &bytes).await.expect("written");
    }
    image.node.flush().await.expect("flushed");
}

async fn assert_written(image: &Image, numbers: u64, what: &str) {
    for (at, bytes) in (0..numbers).flat_map(everywhere) {
        let mut there = vec![0; bytes.len()];
        let read = image.node.pread(DiskOffset(at), &mut there).await;
        assert_eq!(read, Ok(()), "{what}: at {at}");
        assert!(there == bytes, "{what}: at {at}");
    }
}

/// False if there was no fault, since there are fewer requests.
async fn fails_from(bench: &Bench, bytes: &[u8], op: Op, nth: u64) -> bool {
    let image = bench.open_small(bytes).await;
    (nth..nth + 200).for_each(|nth| image.control.fail_nth(op, nth, Errno::IO));
    let made = image.snapshot("new").await;
    let fired = image.control.faults_fired() > 0;
    image.control.clear_faults();
    let what = format!("{op} from {nth} on: {made:?}");
    for number in 1..6 {
        write_everywhere(&image, number).await;
    }
    assert_written(&image, 6, &what).await;
    assert_eq!(image.node.close().await, Ok(()), "{what}");
    let bytes = image.control.contents();
    let report = bench.check(&bytes).await;
    assert!(report.is_clean(), "{what}: {report:?}");
    assert_written(&bench.open_small(&bytes).await, 6, &what).await;
    fired
}

#[test]
fn a_table_may_be_replaced_before_half_of_its_references_are_given_back() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image(PAIRS).await;
        write_everywhere(&image, 0).await;
        let bytes = image.close().await;
        for op in [Op::Read, Op::Write, Op::Flush] {
            let mut nth = 0;
            while fails_from(&bench, &bytes, op, nth).await {
                nth += 1;
            }
            assert!(nth > 4, "{op}: only {nth} faults");
        }
    });
}

#[test]
fn what_a_failed_snapshot_has_counted_does_not_keep_the_next_one_out() {
    let bench = Bench::new();
    bench.run(async {
        // Up to 3 references: the disk's, those of one snapshot, and of one more.
        let image = bench.image(&format!("{PAIRS},refcount_bits=2")).await;
        write_everywhere(&image, 0).await;
        image.snapshot("old").await.expect("made");
        let bytes = image.close().await;
        for op in [Op::Read, Op::Write, Op::Flush] {
            for nth in 0.. {
                let image = bench.open_small(&bytes).await;
                (nth..nth + 200).for_each(|nth| image.control.fail_nth(op, nth, Errno::IO));
                let made = image.snapshot("new").await;
                let fired = image.control.faults_fired() > 0;
                image.control.clear_faults();
                if made.is_err() {
                    let again = image.snapshot("new").await;
                    assert!(again.is_ok(), "{op} from {nth} on: {made:?}, {again:?}");
                }
                bench.is_clean(&image.close().await).await;
                if !fired {
                    break;
                }
            }
        }
    });
}
