//! Changes of length among requests that grow, pad and cut.

mod common;

use block_core::test_disk::TestDiskOptions;
use block_core::{BlockNode, Cause, DiskOffset, Errno, Op, ZeroFlags};
use common::*;

/// Writes, zeroes and truncates at once, all unaligned, on a disk that ends its calls in a random order: bytes and length are those of the
/// calls done one after another.
#[test]
fn concurrent_changes_of_length_equal_the_same_calls_in_order() {
    let mut waited = 0;
    for seed in 1..=300 {
        let mut random = Random(seed * 104_729);
        let rig = Rig::new(TestDiskOptions {
            grows: true,
            ..direct(3000)
        });
        let mut model = pattern(3000, seed);
        rig.disk.set_contents(&model);
        rig.disk.hold_all();
        let mut calls = Vec::new();
        for step in 0..12 {
            let at = random.below(5000) | 1;
            let n = random.below(700) | 1;
            let end = (at + n) as usize;
            let concurrent = rig.disk.in_flight();
            match random.below(5) {
                0 | 1 => {
                    calls.push(rig.start(async move |node: BlockNode| node.truncate(to(at)).await));
                    model.resize(at as usize, 0);
                }
                2 => {
                    calls.push(rig.start(async move |node: BlockNode| {
                        let flags = ZeroFlags::default();
                        node.pwrite_zeroes(DiskOffset(at), n, flags).await
                    }));
                    model.resize(model.len().max(end), 0);
                    model[at as usize..end].fill(0);
                }
                _ => {
                    let bytes = pattern(n as usize, seed * 100 + step);
                    calls.push(rig.start_write(at, &bytes));
                    model.resize(model.len().max(end), 0);
                    model[at as usize..end].copy_from_slice(&bytes);
                }
            }
            if concurrent > 0 && rig.disk.in_flight() == concurrent {
                waited += 1;
            }
            release_some(&rig, &mut random, 2);
        }
        release_some(&rig, &mut random, u64::MAX);
        for call in calls {
            assert_eq!(call.result(), Some(Ok(())), "seed {seed}");
        }
        assert_eq!(rig.disk.len(), model.len() as u64, "seed {seed}");
        assert!(rig.disk.contents() == model, "seed {seed}");
        assert_eq!(rig.run(rig.node.length()), Ok(model.len() as u64));
    }
    assert!(waited > 100, "only {waited} requests had to wait");
}

/// Lets up to `most` held calls end, picked at random.
fn release_some(rig: &Rig, random: &mut Random, most: u64) {
    let count = if most == u64::MAX {
        most
    } else {
        random.below(most + 1)
    };
    for _ in 0..count {
        let held = rig.disk.held();
        if held.is_empty() {
            return;
        }
        let pick = random.below(held.len() as u64) as usize;
        assert!(rig.disk.release(held[pick].id));
        rig.go_on();
    }
}

#[test]
fn a_truncate_changes_the_length_that_requests_are_checked_against() {
    let rig = Rig::new(plain(1000));
    rig.run(rig.node.truncate(to(2000))).expect("longer");
    rig.write(1990, b"inside now").expect("inside");
    rig.run(rig.node.truncate(to(500))).expect("shorter");
    let outside = Cause::OutOfBounds {
        end: 501,
        size: 500,
    };
    assert_eq!(cause(rig.read(500, 1)), outside);
    assert_eq!(cause(rig.write(500, b"x")), outside);
    assert_eq!(rig.run(rig.node.length()), Ok(500));
}

#[test]
fn a_failed_truncate_leaves_the_length_and_says_which_was_wanted() {
    let rig = Rig::new(plain(1000));
    rig.disk.fail_nth(Op::Truncate, 0, Errno::NOSPC);
    let failed = error(Op::Truncate, 5000, 0, Cause::Os(Errno::NOSPC));
    assert_eq!(rig.run(rig.node.truncate(to(5000))), Err(failed));
    assert_eq!(rig.run(rig.node.length()), Ok(1000));
    rig.write(999, b"x").expect("still there");
}

#[test]
fn the_status_of_a_range_is_that_of_its_blocks_cut_to_the_range() {
    let rig = Rig::new(direct(9000));
    rig.write(8192, &[7; 808]).expect("the last blocks");
    let status = |at, len| {
        let status = rig.run(rig.node.block_status(DiskOffset(at), len));
        let status = status.expect("known");
        (status.zero, status.len)
    };
    assert_eq!(status(100, 50), (true, 50));
    assert_eq!(status(100, 8900), (true, 8092));
    assert_eq!(status(8200, 800), (false, 800));
    assert_eq!(status(8999, 1), (false, 1));
}
