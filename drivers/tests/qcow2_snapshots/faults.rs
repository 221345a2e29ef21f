//! A request of the image's file fails, the first, the second, and so on, in each operation: it is done or it is not, whatever failed;
//! and as soon as the disk takes writes again nothing is left.

use crate::support::{Bench, Image, pattern};
use crate::world::{ACTIONS, Action, IMAGES, World, cluster_of, was_ours};
use block_core::{Cause, Errno, Op};

/// An image that has things to write, and the smallest caches.
async fn open(bench: &Bench, bytes: &[u8], world: &mut World, pairs: &str) -> Image {
    let image = bench.open_small(bytes).await;
    let mut random = crate::support::Random::new(5);
    world.write(&image, &mut random, cluster_of(pairs)).await;
    image
}

fn state(pairs: &str) -> Vec<u8> {
    pattern(77, 3 * cluster_of(pairs) + 100)
}

/// One fault, of the `nth` request of a kind. False if there was none: the action has fewer.
async fn one_fault(
    bench: &Bench,
    (bytes, world): &(Vec<u8>, World),
    pairs: &str,
    action: Action,
    op: Op,
    nth: u64,
) -> bool {
    let mut before = world.clone();
    let image = open(bench, bytes, &mut before, pairs).await;
    let state = state(pairs);
    if action.needs_state() {
        image.save_state(&state).await.expect("saved");
    }
    let after = before.after(action, &state);
    image.control.fail_nth(op, nth, Errno::IO);
    let result = action.run(&image, &before).await;
    let fired = image.control.faults_fired() > 0;
    image.control.clear_faults();
    let what = format!("{pairs}: {action:?}, {op} {nth}: {result:?}");
    match &result {
        Ok(()) => after.assert(&image, &what).await,
        Err(error) => {
            assert!(fired && was_ours(&error.cause), "{what}");
            before.assert(&image, &what).await;
            let again = action.run(&image, &before).await;
            assert_eq!(again, Ok(()), "{what}: again");
        }
    }
    after.assert(&image, &what).await;
    action.assert_area(&image, &before).await;
    let bytes = image.close().await;
    let report = bench.check(&bytes).await;
    assert!(report.is_clean(), "{what}: {report:?}");
    let image = bench.open(&bytes).await;
    after.assert(&image, &format!("{what}, opened again")).await;
    fired
}

#[test]
fn an_operation_with_one_fault_is_done_or_not_and_leaves_nothing() {
    let bench = Bench::new();
    bench.run(async {
        let mut faults = 0;
        for pairs in IMAGES {
            let base = World::build(&bench, pairs).await;
            for action in ACTIONS {
                for op in [Op::Read, Op::Write, Op::Flush] {
                    let mut nth = 0;
                    while one_fault(&bench, &base, pairs, action, op, nth).await {
                        nth += 1;
                    }
                    faults += nth;
                }
            }
        }
        assert!(faults > 500, "only {faults} faults");
    });
}

#[test]
fn a_commit_that_fails_while_the_clusters_of_one_table_are_counted_is_undone() {
    let bench = Bench::new();
    bench.run(async {
        // An L2 table's clusters have their refcounts all over the file, and more of them are changed than are kept in memory.
        let pairs = "size=256k,cluster_size=512,refcount_bits=64";
        let base = World::build(&bench, pairs).await;
        let mut nth = 0;
        while one_fault(&bench, &base, pairs, Action::Create, Op::Write, nth).await {
            nth += 1;
        }
        assert!(nth > 50, "only {nth} writes");
    });
}

/// The disk fails from the `nth` request of a kind on, until the operation has given up. False if it made fewer.
async fn no_more(
    bench: &Bench,
    (bytes, world): &(Vec<u8>, World),
    pairs: &str,
    action: Action,
    op: Op,
    nth: u64,
) -> bool {
    let mut before = world.clone();
    let image = open(bench, bytes, &mut before, pairs).await;
    let state = state(pairs);
    if action.needs_state() {
        image.save_state(&state).await.expect("saved");
    }
    let after = before.after(action, &state);
    (nth..nth + 200).for_each(|nth| image.control.fail_nth(op, nth, Errno::IO));
    let result = action.run(&image, &before).await;
    let fired = image.control.faults_fired();
    assert!(fired < 200, "it gives up");
    image.control.clear_faults();
    let what = format!("{pairs}: {action:?}, {op} from {nth} on: {result:?}");
    let expected = match &result {
        Ok(()) => after,
        Err(error) => {
            assert!(was_ours(&error.cause), "{what}");
            before
        }
    };
    expected.assert(&image, &what).await;
    let bytes = image.close().await;
    let report = bench.check(&bytes).await;
    assert!(report.is_clean(), "{what}: {report:?}");
    let image = bench.open(&bytes).await;
    expected
        .assert(&image, &format!("{what}, opened again"))
        .await;
    fired > 0
}

#[test]
fn an_operation_on_a_disk_that_fails_for_good_is_done_or_not_and_its_space_is_freed_later() {
    let bench = Bench::new();
    bench.run(async {
        let mut faults = 0;
        for pairs in [IMAGES[1], IMAGES[3]] {
            let base = World::build(&bench, pairs).await;
            for action in ACTIONS {
                for op in [Op::Read, Op::Write, Op::Flush] {
                    let mut nth = 0;
                    while no_more(&bench, &base, pairs, action, op, nth).await {
                        nth += 1;
                    }
                    faults += nth;
                }
            }
        }
        assert!(faults > 200, "only {faults} faults");
    });
}

#[test]
fn a_state_that_could_not_be_written_is_dropped_without_a_trace() {
    let bench = Bench::new();
    bench.run(async {
        let pairs = IMAGES[1];
        let (bytes, world) = World::build(&bench, pairs).await;
        let mut faults = 0;
        for op in [Op::Write, Op::Flush] {
            for nth in 0.. {
                let mut before = world.clone();
                let image = open(&bench, &bytes, &mut before, pairs).await;
                image.control.fail_nth(op, nth, Errno::IO);
                let saved = image.save_state(&pattern(3, 5 * 4096 + 7)).await;
                let dropped = image.node.discard_vmstate().await;
                let fired = image.control.faults_fired() > 0;
                image.control.clear_faults();
                let what = format!("{op} {nth}: {saved:?}, {dropped:?}");
                assert!(fired || (saved.is_ok() && dropped.is_ok()), "{what}");
                before.assert(&image, &what).await;
                let bytes = image.close().await;
                let report = bench.check(&bytes).await;
                assert!(report.is_clean(), "{what}: {report:?}");
                if !fired {
                    break;
                }
                faults += 1;
            }
        }
        // Few: of a state that is dropped nothing but its own bytes and the refcounts is written.
        assert!(faults > 5, "only {faults} faults");
    });
}

/// What a failed flush leaves on disk is not known: the error must not say more than that, and no less where the header was not written yet.
#[test]
fn a_failed_flush_of_the_header_is_told_as_either_state() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M,cluster_size=4096").await;
        image.write(0, &pattern(1, 9000)).await.expect("written");
        image.snapshot("a").await.expect("made");
        image.write(0, &pattern(2, 5000)).await.expect("written");
        let bytes = image.close().await;
        for action in ["delete", "goto", "create"] {
            let (mut unsure, mut unchanged) = (0, 0);
            for nth in 0.. {
                let image = bench.open(&bytes).await;
                image.control.fail_nth(Op::Flush, nth, Errno::IO);
                let result = match action {
                    "delete" => image.node.snapshot_delete("a").await,
                    "goto" => image.node.snapshot_goto("a").await,
                    _ => image.snapshot("b").await.map(drop),
                };
                if image.control.faults_fired() == 0 {
                    result.expect("done");
                    break;
                }
                let Err(error) = result else { continue };
                let mut cause = error.cause;
                if let Cause::Leaked { cause: first, .. } = cause {
                    cause = *first;
                }
                // Writes of the header's fields, as far as they may differ from what was there.
                let fields = &bytes[24..72];
                let written = image.control.records_of(Op::Write);
                let header = written.iter().any(|write| write.offset == 24);
                let changed = image.control.contents()[24..72] != *fields;
                assert_eq!(
                    matches!(cause, Cause::Unsure { .. }),
                    header,
                    "{action} {nth}"
                );
                assert!(header || !changed, "{action} {nth}");
                unsure += u32::from(header);
                unchanged += u32::from(!header);
            }
            assert!(
                unsure > 0 && unchanged > 0,
                "{action}: {unsure} {unchanged}"
            );
        }
    });
}
