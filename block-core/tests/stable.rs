//! When written bytes are stable: FUA, flushes, cache modes.

mod common;

use block_core::test_disk::TestDiskOptions;
use block_core::{CacheMode, Cause, DiskOffset, Errno, Op, WriteFlags, ZeroFlags};
use common::*;

const FUA: WriteFlags = WriteFlags { fua: true };

fn operations(rig: &Rig) -> Vec<(Op, bool)> {
    let records = rig.disk.take_records().into_iter();
    records.map(|r| (r.op, r.fua)).collect()
}

#[test]
fn fua_is_the_drivers_where_it_can_and_one_flush_at_the_end_where_it_cannot() {
    for native in [true, false] {
        let mut options = direct(1 << 20);
        options.supports_fua = native;
        options.limits.max_transfer = nonzero(4096);
        let rig = Rig::new(options);
        rig.run(rig.node.pwrite(DiskOffset(0), &[1; 8192], FUA))
            .expect("two pieces");
        let mut expected = vec![(Op::Write, native), (Op::Write, native)];
        expected.extend((!native).then_some((Op::Flush, false)));
        assert_eq!(operations(&rig), expected);

        rig.run(rig.node.pwrite(DiskOffset(5), &[1; 5], FUA))
            .expect("read, modify, write");
        let mut expected = vec![(Op::Read, false), (Op::Write, native)];
        expected.extend((!native).then_some((Op::Flush, false)));
        assert_eq!(operations(&rig), expected);

        let flags = ZeroFlags {
            fua: true,
            ..ZeroFlags::default()
        };
        rig.run(rig.node.pwrite_zeroes(DiskOffset(0), 512, flags))
            .expect("zeroes");
        let mut expected = vec![(Op::WriteZeroes, native)];
        expected.extend((!native).then_some((Op::Flush, false)));
        assert_eq!(operations(&rig), expected);
    }
}

#[test]
fn a_length_that_padding_moved_is_set_back_before_the_flush_of_a_fua_write() {
    for native in [true, false] {
        let rig = Rig::new(TestDiskOptions {
            grows: true,
            supports_fua: native,
            ..direct(1000)
        });
        rig.run(rig.node.pwrite(DiskOffset(1000), &[1; 5], FUA))
            .expect("grows");
        let operations: Vec<Op> = operations(&rig).into_iter().map(|(op, _)| op).collect();
        assert_eq!(operations, [Op::Read, Op::Write, Op::Truncate, Op::Flush]);
        assert_eq!(rig.disk.len(), 1005);
    }
}

#[test]
fn writethrough_makes_every_write_stable_and_unsafe_flushes_never() {
    let rig = Rig::cached(plain(4096), CacheMode::Writethrough);
    rig.write(0, b"stable").expect("writes");
    assert_eq!(operations(&rig), [(Op::Write, false), (Op::Flush, false)]);

    let rig = Rig::cached(plain(4096), CacheMode::Unsafe);
    rig.run(rig.node.pwrite(DiskOffset(0), b"x", FUA))
        .expect("writes");
    rig.run(rig.node.flush()).expect("nothing is done");
    assert_eq!(operations(&rig), [(Op::Write, false)]);
    rig.run(rig.node.close()).expect("closes");
    assert_eq!(operations(&rig), [(Op::Close, false)]);

    for mode in [CacheMode::Writeback, CacheMode::None] {
        let rig = Rig::cached(plain(4096), mode);
        rig.write(0, b"x").expect("writes");
        rig.run(rig.node.flush()).expect("flushes");
        assert_eq!(operations(&rig), [(Op::Write, false), (Op::Flush, false)]);
    }
}

#[test]
fn the_flush_of_a_fua_write_fails_as_that_write() {
    let rig = Rig::new(plain(4096));
    rig.disk.fail_nth(Op::Flush, 0, Errno::IO);
    let write = rig.run(rig.node.pwrite(DiskOffset(7), b"abc", FUA));
    assert_eq!(write, Err(error(Op::Write, 7, 3, Cause::Os(Errno::IO))));
    rig.disk.fail_nth(Op::Flush, 0, Errno::NOSPC);
    let flush = rig.run(rig.node.flush());
    assert_eq!(flush, Err(error(Op::Flush, 0, 0, Cause::Os(Errno::NOSPC))));
}
