//! Overlapping requests: where one of them is unaligned, the result is that of the calls in their order, whatever the disk does.

mod common;

use block_core::test_disk::TestDiskOptions;
use block_core::{BlockLimits, Errno, Op, Result};
use block_core::{DiskOffset, ZeroFlags};
use common::*;

#[test]
fn two_writes_into_one_block_both_land() {
    // Each reads the block, changes its part and writes the block back: done at once, one would undo the other.
    let rig = Rig::new(direct(4096));
    rig.disk.hold_all();
    let first = rig.start_write(0, b"first");
    let second = rig.start_write(100, b"second");
    assert_eq!(
        rig.disk.held().len(),
        1,
        "the second must wait before it reads"
    );
    assert_eq!(rig.node.in_flight(), 2);
    rig.release_until_quiet();
    assert_eq!(
        (first.result(), second.result()),
        (Some(Ok(())), Some(Ok(())))
    );
    let all = rig.disk.contents();
    assert_eq!((&all[..5], &all[100..106]), (&b"first"[..], &b"second"[..]));
    assert_eq!(rig.disk.overlapping_writes(), 0);
}

#[test]
fn overlapping_unaligned_writes_land_in_call_order() {
    let rig = Rig::new(direct(4096));
    rig.disk.hold_all();
    let writes: Vec<_> = (1..=5)
        .map(|i| rig.start_write(10 * i, &[i as u8; 600]))
        .collect();
    // The disk ends whatever it has in the reverse order of arrival.
    while let Some(last) = rig.disk.held().last() {
        assert!(rig.disk.release(last.id));
        rig.go_on();
    }
    assert!(writes.iter().all(|w| w.result() == Some(Ok(()))));
    let all = rig.disk.contents();
    for i in 1..=4 {
        assert_eq!(all[10 * i..10 * i + 10], [i as u8; 10]);
    }
    assert_eq!(all[50..650], [5; 600]);
    assert_eq!(rig.disk.overlapping_writes(), 0);
}

#[test]
fn an_aligned_write_and_an_unaligned_one_on_the_same_block_keep_their_order() {
    for unaligned_first in [false, true] {
        let rig = Rig::new(direct(4096));
        rig.disk.hold_all();
        let unaligned = || rig.start_write(500, &[1; 100]);
        let aligned = || rig.start_write(512, &[2; 512]);
        let both = if unaligned_first {
            [unaligned(), aligned()]
        } else {
            [aligned(), unaligned()]
        };
        while let Some(last) = rig.disk.held().last() {
            assert!(rig.disk.release(last.id));
            rig.go_on();
        }
        assert!(both.iter().all(|w| w.result() == Some(Ok(()))));
        let all = rig.disk.contents();
        assert_eq!(all[500..512], [1; 12]);
        let shared = if unaligned_first { 2 } else { 1 };
        assert_eq!((all[512], all[599], all[600]), (shared, shared, 2));
    }
}

#[test]
fn aligned_writes_do_not_wait_for_each_other() {
    let rig = Rig::new(direct(4096));
    rig.disk.hold_all();
    let _writes = [
        rig.start_write(0, &[1; 1024]),
        rig.start_write(512, &[2; 1024]),
    ];
    assert_eq!(
        rig.disk.held().len(),
        2,
        "their order is the caller's business"
    );
    rig.release_until_quiet();
}

#[test]
fn requests_on_other_blocks_do_not_wait_for_an_unaligned_write() {
    let rig = Rig::new(direct(65_536));
    rig.disk.hold_all();
    let slow = rig.start_write(1000, b"unaligned");
    let others = [
        rig.start_write(0, &[1; 512]),
        rig.start_write(2048, &[1; 512]),
        rig.start_write(3000, b"x"),
    ];
    let read = rig.start_read(8192, 512);
    let first = rig.disk.held()[0].id;
    for held in rig.disk.held().iter().filter(|r| r.id != first) {
        assert!(rig.disk.release(held.id));
    }
    rig.go_on();
    while let Some(next) = rig.disk.held().iter().find(|r| r.id != first) {
        assert!(rig.disk.release(next.id));
        rig.go_on();
    }
    assert!(others.iter().all(|w| w.result() == Some(Ok(()))) && read.result().is_some());
    assert!(slow.is_pending());
    rig.release_until_quiet();
    assert_eq!(slow.result(), Some(Ok(())));
}

#[test]
fn a_read_sees_an_unaligned_write_that_was_called_before_it_and_none_called_after() {
    let rig = Rig::new(direct(4096));
    rig.disk.hold_all();
    let before = rig.start_write(100, b"before");
    let read = rig.start_read(100, 6);
    let after = rig.start_write(100, b"after.");
    while let Some(last) = rig.disk.held().last() {
        assert!(rig.disk.release(last.id));
        rig.go_on();
    }
    assert_eq!(read.result(), Some(Ok(b"before".to_vec())));
    assert!(before.result().is_some() && after.result().is_some());
    assert_eq!(rig.disk.contents()[100..106], *b"after.");
}

#[test]
fn a_failed_write_lets_those_after_it_go_on() {
    let rig = Rig::new(direct(4096));
    rig.disk.hold_all();
    let first = rig.start_write(10, b"first");
    let second = rig.start_write(20, b"second");
    assert!(rig.disk.fail_held(rig.disk.held()[0].id, Errno::IO));
    rig.go_on();
    first.result().expect("ended").expect_err("its read failed");
    rig.release_until_quiet();
    assert_eq!(second.result(), Some(Ok(())));
    assert_eq!(rig.disk.contents()[20..26], *b"second");
}

#[test]
fn a_growing_disk_keeps_every_byte_of_writes_past_its_end() {
    // Padding and cutting back must not take away what another write has put there meanwhile.
    let rig = Rig::new(TestDiskOptions {
        grows: true,
        ..direct(0)
    });
    rig.disk.hold_all();
    let writes = [
        rig.start_write(0, &[1; 100]),
        rig.start_write(512, &[2; 512]),
        rig.start_write(1024, &[3; 10]),
        rig.start_write(100, &[4; 50]),
        rig.start_write(2000, &[5; 1]),
        rig.start_write(1536, &[6; 512]),
    ];
    while let Some(last) = rig.disk.held().last() {
        assert!(rig.disk.release(last.id));
        rig.go_on();
    }
    assert!(writes.iter().all(|w| w.result() == Some(Ok(()))));
    let mut model = vec![0; 2048];
    model[..100].fill(1);
    model[512..1024].fill(2);
    model[1024..1034].fill(3);
    model[100..150].fill(4);
    model[1536..].fill(6);
    assert_eq!(rig.disk.contents(), model);
}

#[test]
fn a_truncate_waits_for_writes_before_it_and_those_after_it_see_the_new_length() {
    let rig = Rig::new(TestDiskOptions {
        grows: true,
        ..direct(4096)
    });
    rig.disk.hold(Op::Write, 0..u64::MAX);
    let before = rig.start_write(2048, &[1; 512]);
    let shorten = rig.start(async |node| node.truncate(to(1000)).await);
    let after = rig.start_write(1500, &[2; 3]);
    assert!(before.is_pending() && shorten.is_pending() && after.is_pending());
    assert!(
        rig.disk.records_of(Op::Truncate).is_empty(),
        "the write is still in flight"
    );
    rig.release_until_quiet();
    for request in [before, shorten, after] {
        assert_eq!(request.result(), Some(Ok(())));
    }
    assert_eq!(rig.disk.len(), 1503);
    assert_eq!(
        rig.disk.contents()[1000..],
        [&[0; 500][..], &[2; 3]].concat()
    );
}

enum Call {
    Write(u64, Vec<u8>, Started<Result<()>>),
    Zero(u64, u64, Started<Result<()>>),
    Read(u64, usize, Started<Result<Vec<u8>>>),
}

/// Many requests of any place and length at once, on a disk that ends its calls in a random order: the bytes are those of the calls
/// done one after another. Aligned overlapping writes have no order among themselves, so every request here is unaligned.
#[test]
fn concurrent_requests_equal_the_same_requests_in_call_order() {
    let mut waited = 0;
    for seed in 1..=40 {
        let mut random = Random(seed * 7919);
        let grows = seed % 2 == 0;
        let len = 6000;
        let rig = Rig::new(TestDiskOptions {
            limits: BlockLimits {
                max_transfer: nonzero(2048),
                ..direct(0).limits
            },
            grows,
            ..direct(len)
        });
        rig.disk.hold_all();
        let mut calls = Vec::new();
        for step in 0..40 {
            let room = if grows { len + 2000 } else { len };
            // Odd places and lengths are never whole blocks.
            let at = random.below(room - 2) | 1;
            let n = (1 + random.below((room - at).min(1500))) | 1;
            let n = n.min(room - at);
            let concurrent = rig.disk.in_flight();
            calls.push(match random.below(4) {
                0 if at + n <= len => Call::Read(at, n as usize, rig.start_read(at, n as usize)),
                1 => {
                    let zero = async move |node: block_core::BlockNode| {
                        node.pwrite_zeroes(DiskOffset(at), n, ZeroFlags::default())
                            .await
                    };
                    Call::Zero(at, n, rig.start(zero))
                }
                _ => {
                    let bytes = pattern(n as usize, seed * 100 + step);
                    let started = rig.start_write(at, &bytes);
                    Call::Write(at, bytes, started)
                }
            });
            if concurrent > 0 && rig.disk.in_flight() == concurrent {
                waited += 1;
            }
            for _ in 0..random.below(3) {
                let held = rig.disk.held();
                if !held.is_empty() {
                    let pick = random.below(held.len() as u64) as usize;
                    assert!(rig.disk.release(held[pick].id));
                    rig.go_on();
                }
            }
        }
        loop {
            let held = rig.disk.held();
            if held.is_empty() {
                break;
            }
            let pick = random.below(held.len() as u64) as usize;
            assert!(rig.disk.release(held[pick].id));
            rig.go_on();
        }
        let mut model = vec![0; len as usize];
        for call in calls {
            match call {
                Call::Write(at, bytes, started) => {
                    assert_eq!(started.result(), Some(Ok(())), "seed {seed}");
                    let end = at as usize + bytes.len();
                    model.resize(model.len().max(end), 0);
                    model[at as usize..end].copy_from_slice(&bytes);
                }
                Call::Zero(at, n, started) => {
                    assert_eq!(started.result(), Some(Ok(())), "seed {seed}");
                    let end = (at + n) as usize;
                    model.resize(model.len().max(end), 0);
                    model[at as usize..end].fill(0);
                }
                Call::Read(at, n, started) => {
                    let bytes = started.result().expect("ended").expect("read");
                    assert_eq!(
                        bytes,
                        model[at as usize..at as usize + n],
                        "seed {seed}: {n} at {at}"
                    );
                }
            }
        }
        assert_eq!(rig.disk.contents(), model, "seed {seed}");
        assert_eq!(
            (rig.disk.overlapping_writes(), rig.node.in_flight()),
            (0, 0)
        );
    }
    assert!(
        waited > 100,
        "only {waited} requests had to wait: too few to mean anything"
    );
}
