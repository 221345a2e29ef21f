//! What the node refuses before the driver hears of it, and what it takes at the edges of the number range.

mod common;

use block_core::test_disk::{TestDisk, TestDiskOptions};
use block_core::{
    BlockLimits, Cause, DiskOffset, IoVector, NodeBuilder, Op, ReadVector, VmstateOffset,
    WriteFlags, ZeroFlags,
};
use common::*;

const LAST: u64 = i64::MAX as u64;

#[test]
fn a_request_past_2_to_the_63_is_an_overflow_and_never_reaches_the_driver() {
    let rig = Rig::new(growing(LAST));
    for (at, len) in [
        (LAST, 1),
        (LAST - 511, 513),
        (u64::MAX, 1),
        (u64::MAX - 3, 4),
        (LAST + 1, 5),
    ] {
        let bytes = vec![1; len as usize];
        assert_eq!(
            rig.write(at, &bytes),
            Err(error(Op::Write, at, len, Cause::Overflow))
        );
        assert_eq!(
            rig.read(at, len as usize),
            Err(error(Op::Read, at, len, Cause::Overflow))
        );
        let dst = destination([filled(len as usize, 7)]);
        let (back, result) = rig.run(rig.node.preadv(DiskOffset(at), dst));
        assert_eq!(result, Err(error(Op::Read, at, len, Cause::Overflow)));
        assert_eq!(back.len(), len, "the memory comes back");
        let zeroes = rig
            .node
            .pwrite_zeroes(DiskOffset(at), len, ZeroFlags::default());
        assert_eq!(
            rig.run(zeroes),
            Err(error(Op::WriteZeroes, at, len, Cause::Overflow))
        );
        let discard = rig.run(rig.node.pdiscard(DiskOffset(at), len));
        assert_eq!(discard, Err(error(Op::Discard, at, len, Cause::Overflow)));
        let status = rig.run(rig.node.block_status(DiskOffset(at), len));
        assert_eq!(
            status,
            Err(error(Op::BlockStatus, at, len, Cause::Overflow))
        );
    }
    assert_eq!(
        cause(rig.run(rig.node.truncate(to(LAST + 1)))),
        Cause::Overflow
    );
    for len in [u64::MAX, LAST + 1] {
        let zeroes = rig
            .node
            .pwrite_zeroes(DiskOffset(0), len, ZeroFlags::default());
        assert_eq!(cause(rig.run(zeroes)), Cause::Overflow);
        assert_eq!(
            cause(rig.run(rig.node.pdiscard(DiskOffset(0), len))),
            Cause::Overflow
        );
        assert_eq!(
            cause(rig.run(rig.node.pdiscard(DiskOffset(1), len))),
            Cause::Overflow
        );
    }
    assert!(rig.calls().is_empty());
    assert_eq!(rig.node.in_flight(), 0);
}

#[test]
fn vmstate_positions_are_checked_too() {
    let rig = Rig::new(TestDiskOptions {
        vmstate: vmstate_area(),
        ..plain(0)
    });
    for at in [LAST, u64::MAX, LAST + 1] {
        let save = rig
            .node
            .save_vmstate_unbuffered(VmstateOffset(at), source([filled(2, 1)]));
        assert_eq!(
            rig.run(save),
            Err(error(Op::SaveVmstate, at, 2, Cause::Overflow))
        );
        let load = rig
            .node
            .load_vmstate_unbuffered(VmstateOffset(at), destination([filled(2, 1)]));
        let (back, result) = rig.run(load);
        assert_eq!(
            (back.len(), result),
            (2, Err(error(Op::LoadVmstate, at, 2, Cause::Overflow)))
        );
    }
    assert_eq!(
        cause(rig.run(rig.node.finish_vmstate(LAST + 1))),
        Cause::Overflow
    );
    assert!(rig.calls().is_empty());
}

#[test]
fn the_last_bytes_below_2_to_the_63_can_be_written_and_read() {
    for options in [plain(LAST), direct(LAST - 1023)] {
        let len = options.len;
        let rig = Rig::new(options);
        rig.write(len - 5, b"end..").expect("inside");
        assert_eq!(rig.read(len - 7, 7).expect("inside"), b"\0\0end..");
        let end = len + 1;
        let refused = Cause::OutOfBounds { end, size: len };
        if end <= LAST {
            assert_eq!(cause(rig.write(len - 1, b"xy")), refused);
        } else {
            assert_eq!(cause(rig.write(len - 1, b"xy")), Cause::Overflow);
        }
        let status = rig
            .run(rig.node.block_status(DiskOffset(0), len))
            .expect("known");
        assert!(status.zero && status.len > 1 << 60, "{status:?}");
    }
}

#[test]
fn a_padded_request_whose_last_block_passes_2_to_the_63_is_an_error_and_not_a_panic() {
    let rig = Rig::new(direct(LAST));
    rig.write(LAST - 1023, &[1; 512])
        .expect("whole blocks below");
    for result in [rig.write(LAST - 3, b"abc"), rig.read(LAST - 3, 3).map(drop)] {
        assert_eq!(cause(result), Cause::Overflow);
    }
    let zero = rig
        .node
        .pwrite_zeroes(DiskOffset(LAST - 3), 3, ZeroFlags::default());
    assert_eq!(cause(rig.run(zero)), Cause::Overflow);
    let status = rig.run(rig.node.block_status(DiskOffset(LAST - 3), 3));
    assert_eq!(cause(status), Cause::Overflow);
    rig.run(rig.node.pdiscard(DiskOffset(LAST - 3), 3))
        .expect("a hint");
}

#[test]
fn nothing_past_the_end_of_a_node_that_does_not_grow_is_read_or_written() {
    let rig = Rig::new(plain(1000));
    for (at, len) in [(1000, 1), (999, 2), (0, 1001), (5000, 1)] {
        let refused = Cause::OutOfBounds {
            end: at + len,
            size: 1000,
        };
        let bytes = vec![1; len as usize];
        assert_eq!(
            rig.write(at, &bytes),
            Err(error(Op::Write, at, len, refused.clone()))
        );
        assert_eq!(
            rig.read(at, len as usize),
            Err(error(Op::Read, at, len, refused.clone()))
        );
        let zero = rig
            .node
            .pwrite_zeroes(DiskOffset(at), len, ZeroFlags::default());
        assert_eq!(cause(rig.run(zero)), refused);
        assert_eq!(
            cause(rig.run(rig.node.pdiscard(DiskOffset(at), len))),
            refused
        );
        assert_eq!(
            cause(rig.run(rig.node.block_status(DiskOffset(at), len))),
            refused
        );
    }
    assert!(rig.calls().is_empty());
}

#[test]
fn reads_past_the_end_of_a_growing_node_are_refused_and_writes_make_it_longer() {
    let rig = Rig::new(growing(10));
    assert_eq!(
        cause(rig.read(8, 4)),
        Cause::OutOfBounds { end: 12, size: 10 }
    );
    rig.write(20, b"far").expect("grows");
    assert_eq!(rig.run(rig.node.length()), Ok(23));
    assert_eq!(
        rig.read(8, 15).expect("all of it"),
        b"\0\0\0\0\0\0\0\0\0\0\0\0far"
    );
}

#[test]
fn a_zero_length_request_succeeds_inside_and_at_the_end_and_does_no_io() {
    for options in [plain(1000), direct(1000)] {
        let rig = Rig::new(options);
        for at in [0, 1, 511, 512, 1000] {
            rig.write(at, b"").expect("write");
            rig.read(at, 0).expect("read");
            let read = rig.node.preadv(DiskOffset(at), ReadVector::new());
            rig.run(read).1.expect("readv");
            let write = rig
                .node
                .pwritev(DiskOffset(at), IoVector::new(), WriteFlags::default());
            rig.run(write).expect("writev");
            let zero = rig
                .node
                .pwrite_zeroes(DiskOffset(at), 0, ZeroFlags::default());
            rig.run(zero).expect("zeroes");
            rig.run(rig.node.pdiscard(DiskOffset(at), 0))
                .expect("discard");
            let status = rig
                .run(rig.node.block_status(DiskOffset(at), 0))
                .expect("status");
            assert_eq!(status.len, 0);
        }
        assert!(rig.calls().is_empty());
        assert_eq!(
            cause(rig.read(1001, 0)),
            Cause::OutOfBounds {
                end: 1001,
                size: 1000
            }
        );
        assert_eq!(
            cause(rig.write(1001, b"")),
            Cause::OutOfBounds {
                end: 1001,
                size: 1000
            }
        );
        assert_eq!(rig.node.in_flight(), 0);
    }
}

#[test]
fn empty_pieces_of_a_destination_come_back_where_they_were() {
    let rig = Rig::new(direct(4096));
    rig.disk.set_contents(&pattern(4096, 1));
    for (at, first) in [(0, 512), (3, 100)] {
        let dst = destination([
            filled(0, 0),
            filled(first, 0),
            filled(0, 0),
            filled(512, 0),
            filled(0, 0),
        ]);
        let (dst, result) = rig.run(rig.node.preadv(DiskOffset(at), dst));
        result.expect("read");
        let lens: Vec<usize> = dst.parts().iter().map(|p| p.len()).collect();
        assert_eq!(lens, [0, first, 0, 512, 0]);
        assert_eq!(dst.to_vec(), pattern(4096, 1)[at as usize..][..first + 512]);
    }
}

#[test]
fn a_read_only_node_refuses_every_change_and_still_reads() {
    let rig = Rig::with(plain(1000), |builder| builder.read_only(true));
    assert!(rig.node.is_read_only());
    assert_eq!(
        rig.write(5, b"no"),
        Err(error(Op::Write, 5, 2, Cause::ReadOnly))
    );
    let zero = rig
        .node
        .pwrite_zeroes(DiskOffset(0), 9, ZeroFlags::default());
    assert_eq!(cause(rig.run(zero)), Cause::ReadOnly);
    assert_eq!(
        cause(rig.run(rig.node.pdiscard(DiskOffset(0), 9))),
        Cause::ReadOnly
    );
    assert_eq!(cause(rig.run(rig.node.truncate(to(5)))), Cause::ReadOnly);
    assert!(rig.calls().is_empty());
    rig.read(0, 1000).expect("reads");
    rig.run(rig.node.flush()).expect("nothing to flush");
    rig.run(rig.node.close()).expect("closes");
}

#[test]
fn a_read_only_node_takes_no_vmstate() {
    let options = TestDiskOptions {
        vmstate: vmstate_area(),
        ..plain(0)
    };
    let rig = Rig::with(options, |builder| builder.read_only(true));
    let save = rig
        .node
        .save_vmstate_unbuffered(VmstateOffset(0), source([filled(2, 1)]));
    assert_eq!(
        rig.run(save),
        Err(error(Op::SaveVmstate, 0, 2, Cause::ReadOnly))
    );
    assert_eq!(cause(rig.run(rig.node.finish_vmstate(0))), Cause::ReadOnly);
    assert!(rig.calls().is_empty());
    let load = rig
        .node
        .load_vmstate_unbuffered(VmstateOffset(0), destination([filled(2, 1)]));
    rig.run(load).1.expect("reading is allowed");
}

#[test]
fn limits_that_no_request_could_fit_are_refused_when_the_node_is_made() {
    let bad: [fn(&mut BlockLimits); 6] = [
        |l| l.request_alignment = 0,
        |l| l.request_alignment = 768,
        |l| l.memory_alignment = 3,
        |l| l.transfer_alignment = 0,
        |l| (l.request_alignment, l.max_transfer) = (4096, nonzero(512)),
        |l| l.discard.alignment = 12,
    ];
    let context = aio_task::AioContext::new().expect("a context");
    for (i, spoil) in bad.iter().enumerate() {
        let mut options = plain(1000);
        spoil(&mut options.limits);
        let (driver, disk) = TestDisk::new(options);
        let builder = NodeBuilder::new("bad");
        let opened = context.block_on(builder.open(&context.handle(), driver));
        let Err(error) = opened else {
            panic!("limits {i} were accepted")
        };
        assert_eq!(error.op, Op::Open, "{error}");
        assert!(matches!(error.cause, Cause::Driver(_)), "{error}");
        assert!(disk.is_dropped(), "nothing is kept of it");
    }
}

fn growing(len: u64) -> TestDiskOptions {
    TestDiskOptions {
        grows: true,
        ..plain(len)
    }
}
