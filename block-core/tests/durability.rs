//! What is on the medium when: flush, FUA, the cache modes. And requests without data: zeroes, discard.

mod common;

use block_core::test_disk::TestDiskOptions;
use block_core::{
    BlockLimits, CacheMode, Cause, DiskOffset, Errno, Op, RangeLimits, WriteFlags, ZeroFlags,
};
use common::*;

const FUA: WriteFlags = WriteFlags { fua: true };

fn with_fua(options: TestDiskOptions) -> TestDiskOptions {
    TestDiskOptions {
        supports_fua: true,
        ..options
    }
}

fn ops(rig: &Rig) -> Vec<(Op, bool)> {
    rig.disk
        .take_records()
        .iter()
        .map(|r| (r.op, r.fua))
        .collect()
}

fn zero(rig: &Rig, at: u64, len: u64, flags: ZeroFlags) -> block_core::Result<()> {
    rig.run(rig.node.pwrite_zeroes(DiskOffset(at), len, flags))
}

#[test]
fn a_fua_write_is_the_drivers_where_it_can_and_a_flush_after_it_where_not() {
    let write = |rig: &Rig, at| rig.run(rig.node.pwrite(DiskOffset(at), &[1; 512], FUA));
    let rig = Rig::new(with_fua(direct(8192)));
    write(&rig, 0).expect("written");
    assert_eq!(ops(&rig), [(Op::Write, true)]);
    let rig = Rig::new(direct(8192));
    write(&rig, 0).expect("written");
    assert_eq!(ops(&rig), [(Op::Write, false), (Op::Flush, false)]);
    write(&rig, 100).expect("written");
    let unaligned = ops(&rig);
    assert_eq!(unaligned.last(), Some(&(Op::Flush, false)));
    rig.disk.fail_nth(Op::Flush, 0, Errno::IO);
    assert_eq!(
        write(&rig, 0),
        Err(error(Op::Write, 0, 512, Cause::Os(Errno::IO)))
    );
}

#[test]
fn every_piece_of_a_split_fua_write_is_fua() {
    let mut options = with_fua(direct(1 << 16));
    options.limits.max_transfer = nonzero(1024);
    let rig = Rig::new(options);
    rig.run(rig.node.pwrite(DiskOffset(0), &[1; 4096], FUA))
        .expect("written");
    assert_eq!(ops(&rig), [(Op::Write, true); 4]);
}

/// The judge is the medium: after a crash that loses everything that may be lost.
#[test]
fn what_must_be_stable_survives_a_crash_that_loses_all_it_may() {
    for (mode, fua) in [
        (CacheMode::Writethrough, false),
        (CacheMode::Writeback, true),
        (CacheMode::None, true),
    ] {
        for native in [false, true] {
            for grows in [false, true] {
                let mut random = Random(77);
                let mut options = TestDiskOptions {
                    grows,
                    supports_fua: native,
                    ..direct(9000)
                };
                options.limits.max_transfer = nonzero(2048);
                let rig = Rig::cached(options, mode);
                rig.disk.track_crashes();
                let mut model = vec![0; 9000];
                for step in 0..60 {
                    let room = if grows {
                        model.len() as u64 + 700
                    } else {
                        9000
                    };
                    let at = random.below(room - 1);
                    let n = 1 + random.below((room - at).min(3000));
                    let end = (at + n) as usize;
                    model.resize(model.len().max(end), 0);
                    if step % 3 == 0 {
                        let flags = ZeroFlags {
                            fua,
                            ..Default::default()
                        };
                        zero(&rig, at, n, flags).expect("zeroed");
                        model[at as usize..end].fill(0);
                    } else {
                        let bytes = pattern(n as usize, step);
                        let write = rig.node.pwrite(DiskOffset(at), &bytes, WriteFlags { fua });
                        rig.run(write).expect("written");
                        model[at as usize..end].copy_from_slice(&bytes);
                    }
                    let after = rig.disk.contents_after_crash(|_| false);
                    assert_eq!(
                        after.len(),
                        model.len(),
                        "{mode:?}, native {native}, step {step}: {n} at {at}"
                    );
                    assert!(
                        after == model,
                        "{mode:?}, native {native}, step {step}: {n} at {at}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_plain_write_may_be_lost_until_a_flush_and_not_after_it() {
    let rig = Rig::new(direct(4096));
    rig.disk.track_crashes();
    rig.write(0, &[1; 512]).expect("written");
    assert_eq!(
        rig.disk.unflushed().len(),
        1,
        "else this test means nothing"
    );
    assert_eq!(rig.disk.contents_after_crash(|_| false)[0], 0);
    rig.run(rig.node.flush()).expect("flushed");
    assert_eq!(
        rig.disk.contents_after_crash(|_| false)[..513],
        [&[1; 512][..], &[0]].concat()
    );
}

#[test]
fn writethrough_makes_every_change_stable_and_unsafe_flushes_nothing() {
    let rig = Rig::cached(direct(8192), CacheMode::Writethrough);
    rig.write(0, &[1; 512]).expect("written");
    assert_eq!(ops(&rig), [(Op::Write, false), (Op::Flush, false)]);
    zero(&rig, 0, 512, ZeroFlags::default()).expect("zeroed");
    assert_eq!(ops(&rig), [(Op::WriteZeroes, false), (Op::Flush, false)]);

    let rig = Rig::cached(with_fua(direct(8192)), CacheMode::Unsafe);
    rig.disk.fail_range(Op::Flush, 0..u64::MAX, Errno::IO);
    rig.run(rig.node.pwrite(DiskOffset(0), &[1; 512], FUA))
        .expect("written");
    rig.run(rig.node.flush()).expect("ignored");
    rig.run(rig.node.close()).expect("ignored here, too");
    assert!(rig.disk.records_of(Op::Flush).is_empty());
    assert_eq!(ops(&rig), [(Op::Write, false), (Op::Close, false)]);
}

#[test]
fn a_flush_reports_its_own_error_and_the_next_one_tries_again() {
    let rig = Rig::new(plain(4096));
    rig.disk.fail_nth(Op::Flush, 0, Errno::IO);
    assert_eq!(
        rig.run(rig.node.flush()),
        Err(error(Op::Flush, 0, 0, Cause::Os(Errno::IO)))
    );
    rig.run(rig.node.flush()).expect("the next one");
    assert_eq!(ops(&rig).len(), 2);
}

#[test]
fn a_fua_change_that_set_the_length_back_makes_the_length_stable_too() {
    // The driver's FUA covers the padded write, not the truncate after it.
    let flags = ZeroFlags {
        fua: true,
        ..Default::default()
    };
    // From the start of a block, and inside one; by a write, and by zeroes with and without the driver's help.
    for (at, zeroes, supported) in [
        (1024, false, true),
        (1030, false, true),
        (1024, true, false),
        (1030, true, false),
        (1030, true, true),
    ] {
        let rig = Rig::new(TestDiskOptions {
            grows: true,
            ..with_fua(direct(1024))
        });
        rig.disk.support(Op::WriteZeroes, supported);
        if zeroes {
            zero(&rig, at, 4, flags).expect("zeroed");
        } else {
            let write = rig.node.pwrite(DiskOffset(at), b"tail", FUA);
            rig.run(write).expect("written");
        }
        let ops = ops(&rig);
        let cut = ops.contains(&(Op::Truncate, false));
        assert!(cut, "{at}: else this test means nothing: {ops:?}");
        assert_eq!(ops.last(), Some(&(Op::Flush, false)), "{at}: {ops:?}");
    }
}

fn coarse(len: u64) -> TestDiskOptions {
    let range = RangeLimits {
        alignment: 4096,
        max: nonzero(8192),
    };
    TestDiskOptions {
        limits: BlockLimits {
            write_zeroes: range,
            discard: range,
            ..direct(0).limits
        },
        ..direct(len)
    }
}

#[test]
fn the_driver_zeroes_the_aligned_middle_and_the_ends_are_written() {
    let rig = Rig::new(coarse(65_536));
    rig.disk.set_contents(&[1; 65_536]);
    zero(&rig, 1000, 30_000, ZeroFlags::default()).expect("zeroed");
    let middle = rig.disk.records_of(Op::WriteZeroes);
    let middle: Vec<_> = middle.iter().map(|r| (r.offset, r.len)).collect();
    assert_eq!(middle, [(4096, 8192), (12_288, 8192), (20_480, 8192)]);
    let written: u64 = rig.disk.records_of(Op::Write).iter().map(|r| r.len).sum();
    assert_eq!(
        written,
        (4096 - 512) + (31_232 - 28_672),
        "whole blocks of the two ends"
    );
    let mut model = vec![1; 65_536];
    model[1000..31_000].fill(0);
    assert_eq!(rig.disk.contents(), model);
}

#[test]
fn flags_of_zeroes_reach_the_driver() {
    let rig = Rig::new(with_fua(coarse(65_536)));
    for may_unmap in [false, true] {
        for no_fallback in [false, true] {
            for fua in [false, true] {
                let flags = ZeroFlags {
                    fua,
                    may_unmap,
                    no_fallback,
                };
                zero(&rig, 4096, 4096, flags).expect("zeroed");
                let record = rig.disk.take_records().remove(0);
                assert_eq!(record.op, Op::WriteZeroes);
                assert_eq!((record.may_unmap, record.fua), (may_unmap, fua));
            }
        }
    }
}

#[test]
fn a_driver_without_zeroes_gets_explicit_ones_from_bounded_memory() {
    let rig = Rig::new(direct(8 << 20));
    rig.disk.set_contents(&vec![1; 8 << 20]);
    rig.disk.support(Op::WriteZeroes, false);
    zero(&rig, 100, (8 << 20) - 200, ZeroFlags::default()).expect("zeroed");
    let records = rig.disk.take_records();
    assert_eq!(
        records.iter().filter(|r| r.op == Op::WriteZeroes).count(),
        1,
        "asked once, not again and again"
    );
    assert!(
        records
            .iter()
            .all(|r| r.op == Op::WriteZeroes || r.len <= 1 << 20)
    );
    let all = rig.disk.contents();
    let (end, len) = (all.len() - 100, all.len());
    assert!(all[..100].iter().chain(&all[end..len]).all(|b| *b == 1));
    assert!(all[100..end].iter().all(|b| *b == 0));
}

#[test]
fn no_fallback_fails_before_a_byte_is_changed() {
    let rig = Rig::new(coarse(65_536));
    rig.disk.set_contents(&[1; 65_536]);
    let flags = ZeroFlags {
        no_fallback: true,
        ..Default::default()
    };
    for (at, len) in [(1000, 20_000), (4096, 5000), (4095, 4097)] {
        assert_eq!(
            zero(&rig, at, len, flags),
            Err(error(Op::WriteZeroes, at, len, Cause::NotSupported))
        );
    }
    rig.disk.support(Op::WriteZeroes, false);
    assert_eq!(cause(zero(&rig, 4096, 16_384, flags)), Cause::NotSupported);
    assert_eq!(rig.disk.contents(), [1; 65_536]);
    rig.disk.support(Op::WriteZeroes, true);
    zero(&rig, 4096, 16_384, flags).expect("aligned, and the driver can");
}

#[test]
fn another_error_of_zeroes_is_an_error_and_no_reason_to_write_them() {
    let rig = Rig::new(direct(8192));
    rig.disk.fail_nth(Op::WriteZeroes, 0, Errno::NOSPC);
    let failed = zero(&rig, 0, 8192, ZeroFlags::default());
    assert_eq!(
        failed,
        Err(error(Op::WriteZeroes, 0, 8192, Cause::Os(Errno::NOSPC)))
    );
    assert!(rig.disk.records_of(Op::Write).is_empty());
}

#[test]
fn zeroes_make_a_growing_node_longer_and_a_fixed_one_not() {
    for supported in [true, false] {
        let rig = Rig::new(TestDiskOptions {
            grows: true,
            ..coarse(1000)
        });
        rig.disk.set_contents(&[1; 1000]);
        rig.disk.support(Op::WriteZeroes, supported);
        zero(&rig, 900, 20_000, ZeroFlags::default()).expect("grows");
        assert_eq!(rig.run(rig.node.length()), Ok(20_900));
        assert_eq!(rig.disk.contents(), [&[1; 900][..], &[0; 20_000]].concat());
    }
    let rig = Rig::new(coarse(1000));
    let refused = Cause::OutOfBounds {
        end: 1001,
        size: 1000,
    };
    assert_eq!(cause(zero(&rig, 900, 101, ZeroFlags::default())), refused);
}

#[test]
fn a_discard_leaves_unaligned_ends_alone_and_ignores_a_driver_that_cannot() {
    let rig = Rig::new(coarse(65_536));
    rig.disk.set_contents(&[1; 65_536]);
    let discard = |at, len| rig.run(rig.node.pdiscard(DiskOffset(at), len));
    discard(1000, 30_000).expect("discarded");
    let calls = rig.calls();
    assert_eq!(
        calls,
        [
            (Op::Discard, 4096, 8192),
            (Op::Discard, 12_288, 8192),
            (Op::Discard, 20_480, 8192)
        ]
    );
    let all = rig.disk.contents();
    assert!(all[..4096].iter().chain(&all[28_672..]).all(|b| *b == 1));
    discard(5000, 3000).expect("nothing aligned in it");
    assert!(rig.calls().is_empty());
    rig.disk.support(Op::Discard, false);
    discard(0, 65_536).expect("a hint");
    rig.disk.support(Op::Discard, true);
    rig.disk.fail_nth(Op::Discard, 1, Errno::IO);
    assert_eq!(
        discard(0, 65_536),
        Err(error(Op::Discard, 0, 65_536, Cause::Os(Errno::IO)))
    );
}

#[test]
fn the_status_is_asked_in_whole_blocks_and_answered_for_what_was_asked() {
    let rig = Rig::new(direct(65_536));
    rig.write(8192, &[1; 4096]).expect("written");
    rig.calls();
    let status = |at, len| {
        rig.run(rig.node.block_status(DiskOffset(at), len))
            .expect("known")
    };
    let answer = status(100, 60_000);
    assert_eq!((answer.len, answer.zero, answer.data), (8092, true, false));
    let answer = status(8200, 7);
    assert_eq!((answer.len, answer.zero, answer.data), (7, false, true));
    assert_eq!(
        rig.calls(),
        [(Op::BlockStatus, 0, 60_416), (Op::BlockStatus, 8192, 512)]
    );
}
