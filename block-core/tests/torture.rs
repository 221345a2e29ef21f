//! Everything at once: many unaligned requests, dropped futures, faults, torn writes, drained sections, a disk that ends its calls in
//! any order. What the node promises must still hold, byte for byte.

mod common;

use block_core::test_disk::TestDiskOptions;
use block_core::{BlockLimits, BlockNode, Cause, DiskOffset, Errno, Op, Result};
use block_core::{WriteFlags, ZeroFlags};
use common::*;

const LEN: u64 = 6000;

/// What a byte must be; `None` where a failed request left it unspecified.
type Model = Vec<Option<u8>>;

enum Call {
    /// Bytes that are written at an offset (zeroes, too).
    Change(u64, Vec<u8>, Option<Started<Result<()>>>),
    Read(u64, Started<Result<Vec<u8>>>),
}

/// What a round has seen, so that the test can tell that it did not pass idle.
#[derive(Default)]
struct Seen {
    failed: u32,
    dropped: u32,
    gated: u32,
    exact_reads: u32,
}

#[test]
fn requests_that_are_dropped_failed_and_gated_leave_the_bytes_of_their_order() {
    let mut seen = Seen::default();
    for seed in 1..=120 {
        round(seed, &mut seen);
    }
    let Seen {
        failed,
        dropped,
        gated,
        exact_reads,
    } = seen;
    assert!(failed > 100 && dropped > 300 && gated > 300 && exact_reads > 500);
}

fn round(seed: u64, seen: &mut Seen) {
    let mut random = Random(seed * 104_729);
    let faulty = seed.is_multiple_of(2);
    let rig = Rig::new(TestDiskOptions {
        limits: BlockLimits {
            max_transfer: nonzero(2048),
            ..direct(0).limits
        },
        ..direct(LEN)
    });
    rig.disk.set_contents(&pattern(LEN as usize, seed));
    rig.disk.hold_all();
    let mut calls = Vec::new();
    let mut sections = Vec::new();
    for step in 0..50 {
        let call = start(&rig, &mut random, seed * 1000 + step);
        if rig.node.is_drained() {
            seen.gated += 1;
        }
        calls.push(call);
        match random.below(12) {
            0 => sections.push(rig.start(async |node: BlockNode| node.drain_begin().await)),
            1 | 2 => drop(sections.pop()),
            3 if faulty => {
                let op = if random.below(2) == 0 {
                    Op::Read
                } else {
                    Op::Write
                };
                let moved = random.below(1024);
                rig.disk.short_nth(op, random.below(4), moved, Errno::NOSPC);
            }
            4 | 5 => {
                let pick = random.below(calls.len() as u64) as usize;
                if let Call::Change(.., future) = &mut calls[pick]
                    && future.as_ref().is_some_and(Started::is_pending)
                {
                    future.take().expect("it is there").drop_future();
                    seen.dropped += 1;
                }
            }
            _ => {}
        }
        for _ in 0..random.below(3) {
            release_any(&rig, &mut random);
        }
    }
    drop(sections);
    rig.go_on();
    while release_any(&rig, &mut random) {}

    assert_eq!(rig.node.in_flight(), 0, "seed {seed}");
    assert_eq!(rig.disk.overlapping_writes(), 0, "seed {seed}");
    check(&rig, calls, seed, faulty, seen);
    rig.disk.clear_faults();
    rig.disk.stop_holding();
    rig.run(rig.node.close()).expect("closes");
    let Rig { node, disk, .. } = rig;
    drop(node);
    assert!(
        disk.is_dropped(),
        "seed {seed}: something keeps the node alive"
    );
}

/// Starts a request on odd offsets and lengths: never whole blocks, so that every one has its place in the order.
fn start(rig: &Rig, random: &mut Random, seed: u64) -> Call {
    let at = random.below(LEN - 1) | 1;
    let len = (random.below((LEN - at).min(1800)) | 1).min(LEN - at);
    match random.below(5) {
        0 => Call::Read(at, rig.start_read(at, len as usize)),
        1 => {
            let zero = async move |node: BlockNode| {
                node.pwrite_zeroes(DiskOffset(at), len, ZeroFlags::default())
                    .await
            };
            Call::Change(at, vec![0; len as usize], Some(rig.start(zero)))
        }
        kind => {
            let bytes = pattern(len as usize, seed);
            let copy = bytes.clone();
            let flags = WriteFlags { fua: kind == 2 };
            let write =
                async move |node: BlockNode| node.pwrite(DiskOffset(at), &copy, flags).await;
            Call::Change(at, bytes, Some(rig.start(write)))
        }
    }
}

fn release_any(rig: &Rig, random: &mut Random) -> bool {
    let held = rig.disk.held();
    let pick = random.below(held.len() as u64) as usize;
    let released = held
        .get(pick)
        .is_some_and(|record| rig.disk.release(record.id));
    rig.go_on();
    released
}

/// Does the calls again on a plain array, in their order.
fn check(rig: &Rig, calls: Vec<Call>, seed: u64, faulty: bool, seen: &mut Seen) {
    let mut model: Model = pattern(LEN as usize, seed).into_iter().map(Some).collect();
    for call in calls {
        match call {
            Call::Change(at, bytes, future) => {
                let range = &mut model[at as usize..][..bytes.len()];
                // It is not known how a dropped one ended, unless nothing can have failed.
                let result = match future {
                    Some(future) => Some(future.result().expect("everything has ended")),
                    None => (!faulty).then_some(Ok(())),
                };
                match result {
                    Some(Ok(())) => range.iter_mut().zip(bytes).for_each(|(m, b)| *m = Some(b)),
                    Some(Err(error)) => {
                        assert!(faulty, "seed {seed}: {error}");
                        assert_eq!((error.offset, error.len), (at, bytes.len() as u64));
                        assert_eq!(error.cause, Cause::Os(Errno::NOSPC));
                        seen.failed += 1;
                        range.fill(None);
                    }
                    None => range.fill(None),
                }
            }
            Call::Read(at, future) => match future.result().expect("everything has ended") {
                Ok(bytes) => {
                    let range = &model[at as usize..][..bytes.len()];
                    assert!(
                        agrees(range, &bytes),
                        "seed {seed}: {} bytes at {at}",
                        bytes.len()
                    );
                    seen.exact_reads += u32::from(range.iter().all(Option::is_some));
                }
                Err(error) => {
                    assert!(
                        faulty && error.cause == Cause::Os(Errno::NOSPC),
                        "seed {seed}: {error}"
                    );
                    seen.failed += 1;
                }
            },
        }
    }
    assert!(agrees(&model, &rig.disk.contents()), "seed {seed}");
}

fn agrees(model: &[Option<u8>], bytes: &[u8]) -> bool {
    model
        .iter()
        .zip(bytes)
        .all(|(m, b)| m.is_none_or(|m| m == *b))
        && model.len() == bytes.len()
}
