//! A request whose future is dropped runs to its end; the node knows of it, and can be drained and closed.

mod common;

use block_core::test_disk::TestDiskOptions;
use block_core::{DiskOffset, Op, VmstateOffset, ZeroFlags};
use common::*;

#[test]
fn a_dropped_read_modify_write_is_not_cut_in_two() {
    // Dropped while its read is held, and while its write is held.
    for held_calls in 1..=2 {
        let rig = Rig::new(direct(4096));
        rig.disk.set_contents(&[1; 4096]);
        rig.disk.hold_all();
        let write = rig.start_write(10, b"lands whole");
        for _ in 1..held_calls {
            assert!(rig.release_first());
        }
        let op = if held_calls == 1 { Op::Read } else { Op::Write };
        assert_eq!(
            rig.disk.held()[0].op,
            op,
            "this test means to drop it there"
        );
        write.drop_future();
        rig.go_on();
        assert_eq!(rig.node.in_flight(), 1, "it is not forgotten");
        rig.release_until_quiet();
        let mut expected = [1; 4096];
        expected[10..21].copy_from_slice(b"lands whole");
        assert_eq!(rig.disk.contents(), expected);
        assert_eq!(rig.node.in_flight(), 0);
    }
}

#[test]
fn a_write_after_a_dropped_one_still_waits_for_it() {
    let rig = Rig::new(direct(4096));
    rig.disk.hold_all();
    let dropped = rig.start_write(0, b"dropped");
    let second = rig.start_write(20, b"second");
    let third = rig.start_write(40, b"third");
    dropped.drop_future();
    second.drop_future();
    rig.go_on();
    assert_eq!(
        rig.disk.held().len(),
        1,
        "the dropped one still holds its place"
    );
    rig.release_until_quiet();
    assert_eq!(third.result(), Some(Ok(())));
    let all = rig.disk.contents();
    assert_eq!(
        (&all[..7], &all[20..26], &all[40..45]),
        (&b"dropped"[..], &b"second"[..], &b"third"[..])
    );
}

#[test]
fn settle_waits_for_what_was_dropped() {
    let rig = Rig::new(plain(4096));
    rig.disk.hold_all();
    rig.start_write(0, b"may still land").drop_future();
    let settle = rig.start(async |node| node.settle().await);
    assert!(settle.is_pending());
    rig.release_until_quiet();
    assert_eq!(settle.result(), Some(Ok(())));
    assert_eq!(rig.disk.contents()[..14], *b"may still land");
}

#[test]
fn a_dropped_settle_leaves_nothing() {
    let rig = Rig::new(plain(4096));
    rig.disk.hold_all();
    let write = rig.start_write(0, b"x");
    rig.start(async |node| node.settle().await).drop_future();
    rig.release_until_quiet();
    assert_eq!(write.result(), Some(Ok(())));
    rig.run(rig.node.settle()).expect("nothing in flight");
}

#[test]
fn a_future_that_was_never_polled_does_nothing() {
    let rig = Rig::new(plain(4096));
    drop(rig.node.pwrite(DiskOffset(0), b"never", Default::default()));
    drop(rig.node.flush());
    drop(rig.node.close());
    rig.go_on();
    assert!(rig.calls().is_empty());
    assert_eq!(rig.node.in_flight(), 0);
}

/// Every operation, dropped after each number of releases it takes to end: afterwards the node is quiet, drains, works and closes.
#[test]
fn any_request_can_be_dropped_at_any_await() {
    type Start = fn(&Rig) -> Started<()>;
    let operations: [(&str, Start); 12] = [
        ("unaligned write", |r| {
            r.start(async |n| {
                drop(
                    n.pwrite(DiskOffset(5), &[1; 3000], Default::default())
                        .await,
                )
            })
        }),
        ("aligned write", |r| {
            r.start(async |n| {
                drop(
                    n.pwrite(DiskOffset(512), &[1; 8192], Default::default())
                        .await,
                )
            })
        }),
        ("FUA write", |r| {
            r.start(async |n| drop(n.pwrite(DiskOffset(512), &[1; 512], fua()).await))
        }),
        ("growing write", |r| {
            r.start(async |n| {
                drop(
                    n.pwrite(DiskOffset(70_000), &[1; 10], Default::default())
                        .await,
                )
            })
        }),
        ("read", |r| {
            r.start(async |n| {
                drop(
                    n.preadv(DiskOffset(3), destination([shifted(9000, 3, 0)]))
                        .await,
                )
            })
        }),
        ("borrowed read", |r| {
            r.start(async |n| drop(n.pread(DiskOffset(3), &mut [0; 4000]).await))
        }),
        ("zeroes", |r| {
            r.start(async |n| {
                drop(
                    n.pwrite_zeroes(DiskOffset(100), 9000, ZeroFlags::default())
                        .await,
                )
            })
        }),
        ("discard", |r| {
            r.start(async |n| drop(n.pdiscard(DiskOffset(100), 9000).await))
        }),
        ("flush", |r| r.start(async |n| drop(n.flush().await))),
        ("truncate", |r| {
            r.start(async |n| drop(n.truncate(to(30_000)).await))
        }),
        ("status", |r| {
            r.start(async |n| drop(n.block_status(DiskOffset(5), 5000).await))
        }),
        ("save_vmstate", |r| {
            r.start(async |n| {
                drop(
                    n.save_vmstate_unbuffered(VmstateOffset(7), source([filled(99, 1)]))
                        .await,
                )
            })
        }),
    ];
    for (name, start) in operations {
        for releases in 0.. {
            let mut options = TestDiskOptions {
                grows: true,
                vmstate: vmstate_area(),
                ..direct(65_536)
            };
            options.limits.max_transfer = nonzero(4096);
            let rig = Rig::new(options);
            rig.disk.hold_all();
            let request = start(&rig);
            for _ in 0..releases {
                rig.release_first();
            }
            let ended = !request.is_pending();
            assert!(
                !ended || releases > 0,
                "{name} never waited: nothing is tested"
            );
            request.drop_future();

            let drain = rig.start(async |node| node.drain_begin().await.map(drop));
            assert!(
                ended || drain.is_pending(),
                "{name}: its I/O is not over after {releases} releases"
            );
            rig.release_until_quiet();
            assert_eq!(drain.result(), Some(Ok(())), "{name}");
            assert_eq!(rig.node.in_flight(), 0, "{name}");
            rig.disk.stop_holding();
            rig.write(9, b"works").expect("the node works");
            assert_eq!(rig.read(8, 7).expect("the node works")[1..6], *b"works");
            rig.run(rig.node.close()).expect("closes");
            let Rig {
                context,
                node,
                disk,
            } = rig;
            drop(node);
            assert!(disk.is_dropped(), "{name}: something keeps the node alive");
            drop(context);
            if ended {
                break;
            }
        }
    }
}

#[test]
fn dropping_the_context_with_requests_in_flight_drops_everything() {
    let rig = Rig::new(direct(4096));
    rig.disk.hold_all();
    let requests = [
        rig.start_write(3, b"held"),
        rig.start_write(9, b"waits after it"),
    ];
    let section = rig.node.drain_begin();
    let gated = rig.start_write(0, &[1; 512]);
    let Rig {
        context,
        node,
        disk,
    } = rig;
    drop(context);
    assert!(requests.iter().all(Started::is_pending) && gated.is_pending());
    drop((requests, gated, section));
    assert_eq!(node.in_flight(), 0, "no task is left to end them");
    drop(node);
    assert!(disk.is_dropped());
}

fn fua() -> block_core::WriteFlags {
    block_core::WriteFlags { fua: true }
}
