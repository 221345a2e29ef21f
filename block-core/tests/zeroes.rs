//! Zeroes with and without the driver's help, and what is discarded.

mod common;

use block_core::test_disk::TestDiskOptions;
use block_core::{BlockLimits, Cause, DiskOffset, Errno, Op, RangeLimits, Result, ZeroFlags};
use common::*;

/// Blocks of 512 bytes, zeroes and discards in 4096.
fn coarse(len: u64) -> TestDiskOptions {
    let ranges = RangeLimits {
        alignment: 4096,
        max: nonzero(8192),
    };
    TestDiskOptions {
        limits: BlockLimits {
            write_zeroes: ranges,
            discard: ranges,
            ..direct(0).limits
        },
        ..direct(len)
    }
}

fn zero(rig: &Rig, at: u64, len: u64, flags: ZeroFlags) -> Result<()> {
    rig.run(rig.node.pwrite_zeroes(DiskOffset(at), len, flags))
}

const NO_FALLBACK: ZeroFlags = ZeroFlags {
    fua: false,
    may_unmap: true,
    no_fallback: true,
};

#[test]
fn the_driver_zeroes_what_is_aligned_and_the_node_writes_the_ends() {
    let rig = Rig::new(coarse(32768));
    rig.disk.set_contents(&[7; 32768]);
    zero(&rig, 3584, 20000, ZeroFlags::default()).expect("zeroes");
    assert_eq!(
        rig.calls(),
        [
            (Op::WriteZeroes, 4096, 8192),
            (Op::WriteZeroes, 12288, 8192),
            (Op::Write, 3584, 512),
            (Op::Read, 23552, 512), // keeps the bytes from 23584 on
            (Op::Write, 20480, 3584),
        ]
    );
    let contents = rig.disk.contents();
    let kept = contents[..3584].iter().chain(&contents[23584..]);
    assert!(kept.copied().all(|b| b == 7));
    assert!(contents[3584..23584].iter().all(|b| *b == 0));
}

#[test]
fn without_the_drivers_help_zeroes_are_written_in_bounded_pieces() {
    let len = (5 << 20) + 1000;
    let rig = Rig::new(direct(len));
    rig.disk.set_contents(&vec![7; len as usize]);
    rig.disk.support(Op::WriteZeroes, false);
    zero(&rig, 100, len - 200, ZeroFlags::default()).expect("zeroes");
    let calls = rig.calls();
    assert!(calls.len() >= 8, "five megabytes and two ends: {calls:?}");
    assert!(
        calls
            .iter()
            .all(|(op, _, len)| *op == Op::WriteZeroes || *len <= 1 << 20)
    );
    let contents = rig.disk.contents();
    let end = contents.len() - 100;
    assert!(
        contents[..100]
            .iter()
            .chain(&contents[end..])
            .all(|b| *b == 7)
    );
    assert!(contents[100..end].iter().all(|b| *b == 0));
}

#[test]
fn no_fallback_fails_before_any_byte_has_changed() {
    for (supported, at, len) in [(false, 0, 8192), (true, 0, 8191), (true, 512, 8192)] {
        let rig = Rig::new(coarse(32768));
        rig.disk.set_contents(&[7; 32768]);
        rig.disk.support(Op::WriteZeroes, supported);
        let refused = error(Op::WriteZeroes, at, len, Cause::NotSupported);
        assert_eq!(zero(&rig, at, len, NO_FALLBACK), Err(refused));
        assert_eq!(rig.disk.contents(), [7; 32768]);
    }
    let rig = Rig::new(coarse(32768));
    zero(&rig, 4096, 4096, NO_FALLBACK).expect("aligned and supported");
    let records = rig.disk.records();
    assert!(records.len() == 1 && records[0].may_unmap && records[0].no_fallback);
}

#[test]
fn zeroes_past_the_end_make_a_disk_longer_to_the_byte() {
    for supported in [true, false] {
        let rig = Rig::new(TestDiskOptions {
            grows: true,
            ..coarse(1000)
        });
        rig.disk.set_contents(&[7; 1000]);
        rig.disk.support(Op::WriteZeroes, supported);
        zero(&rig, 900, 9000, ZeroFlags::default()).expect("zeroes");
        let expected = [vec![7; 900], vec![0; 9000]].concat();
        assert_eq!(rig.disk.contents(), expected, "{supported}");
        assert_eq!(rig.run(rig.node.length()), Ok(9900));
        // Within one block, over the end.
        zero(&rig, 9890, 20, ZeroFlags::default()).expect("zeroes");
        assert_eq!(rig.run(rig.node.length()), Ok(9910));
        zero(&rig, 9850, 60, ZeroFlags::default()).expect("up to the end");
        assert_eq!(rig.disk.len(), 9910);
    }
}

#[test]
fn a_failed_part_fails_the_whole_with_the_numbers_of_the_whole() {
    let rig = Rig::new(coarse(32768));
    rig.disk.fail_nth(Op::WriteZeroes, 1, Errno::NOSPC);
    let failed = error(Op::WriteZeroes, 100, 30000, Cause::Os(Errno::NOSPC));
    assert_eq!(zero(&rig, 100, 30000, ZeroFlags::default()), Err(failed));
    assert_eq!(rig.node.in_flight(), 0);
}

#[test]
fn any_zeroes_equal_a_byte_array() {
    let mut random = Random(11);
    for round in 0..300 {
        let grows = round % 3 == 0;
        let rig = Rig::new(TestDiskOptions {
            grows,
            ..coarse(20000)
        });
        let mut model = pattern(20000, round);
        rig.disk.set_contents(&model);
        rig.disk.support(Op::WriteZeroes, round % 2 == 0);
        for _ in 0..10 {
            let at = random.below(20000);
            let room = if grows { 12000 } else { 20001 - at };
            let len = random.below(room);
            zero(&rig, at, len, ZeroFlags::default()).expect("zeroes");
            let (from, to) = (at as usize, (at + len) as usize);
            if len > 0 {
                model.resize(model.len().max(to), 0);
            }
            model[from..to].fill(0);
            assert!(rig.disk.contents() == model, "round {round}: {len} at {at}");
        }
    }
}

#[test]
fn a_discard_leaves_the_ends_alone_and_asks_for_what_is_aligned_in_pieces() {
    let rig = Rig::new(coarse(32768));
    let discard = |at, len| rig.run(rig.node.pdiscard(DiskOffset(at), len));
    discard(100, 30000).expect("a hint");
    assert_eq!(
        rig.calls(),
        [
            (Op::Discard, 4096, 8192),
            (Op::Discard, 12288, 8192),
            (Op::Discard, 20480, 8192),
        ]
    );
    discard(4097, 8000).expect("nothing aligned in it");
    assert!(rig.calls().is_empty());
    rig.disk.support(Op::Discard, false);
    discard(0, 32768).expect("a driver that cannot is no error");
    rig.disk.support(Op::Discard, true);
    rig.disk.fail_nth(Op::Discard, 0, Errno::IO);
    let failed = error(Op::Discard, 1, 32767, Cause::Os(Errno::IO));
    assert_eq!(discard(1, 32767), Err(failed));
}
