use super::*;
use crate::{BlockError, Cause, Errno, IoBuf};
use futures::FutureExt;
use std::num::{NonZeroU32, NonZeroU64};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

fn disk(len: u64) -> (TestDisk, TestDiskControl) {
    TestDisk::new(TestDiskOptions {
        len,
        ..Default::default()
    })
}

fn bytes(bytes: &[u8]) -> IoVector {
    IoVector::copy_of(bytes, 1).expect("small")
}

fn room(len: usize) -> ReadVector {
    IoBuf::zeroed(len, 1).expect("small").into()
}

/// What ends at once; panics if it waits.
fn now<F: Future>(f: F) -> F::Output {
    f.now_or_never().expect("nothing is held")
}

fn write(disk: &TestDisk, at: u64, src: &[u8]) -> Result<()> {
    now(disk.pwritev(DiskOffset(at), bytes(src), WriteFlags::default()))
}

fn read(disk: &TestDisk, at: u64, len: usize) -> Result<Vec<u8>> {
    let (dst, result) = now(disk.preadv(DiskOffset(at), room(len)));
    result.map(|()| dst.to_vec())
}

fn poll<F: Future>(f: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    f.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn what_is_written_is_read_and_recorded() {
    let (disk, control) = disk(10_000);
    write(&disk, 4090, b"across two pages").expect("written");
    let mut dst = room(3);
    dst.push(IoBuf::zeroed(4, 1).expect("small"));
    let (dst, result) = now(disk.preadv(DiskOffset(4090), dst));
    result.expect("read");
    assert_eq!(dst.to_vec(), b"across ");
    assert_eq!(&control.contents()[4089..4107], b"\0across two pages\0");
    let [w, r] = &control.take_records()[..] else {
        panic!("two calls")
    };
    assert_eq!(
        (w.id, w.op, w.offset, w.len, w.pieces),
        (0, Op::Write, 4090, 16, 1)
    );
    assert_eq!(
        (r.id, r.op, r.offset, r.len, r.pieces),
        (1, Op::Read, 4090, 7, 2)
    );
    assert!(control.records().is_empty() && control.length_calls() == 0);
}

#[test]
fn a_disk_that_grows_grows_and_another_keeps_its_length() {
    let (disk, control) = TestDisk::new(TestDiskOptions {
        len: 5,
        grows: true,
        ..Default::default()
    });
    write(&disk, 7, b"xyz").expect("grows");
    assert_eq!(control.contents(), b"\0\0\0\0\0\0\0xyz");
    let (fixed, control) = TestDisk::new(TestDiskOptions {
        len: 1000,
        limits: BlockLimits {
            request_alignment: 512,
            ..Default::default()
        },
        ..Default::default()
    });
    write(&fixed, 512, &[7; 512]).expect("the last block");
    assert_eq!(control.contents()[999..], [7]);
    assert_eq!(
        read(&fixed, 512, 512).expect("the last block")[487..490],
        [7, 0, 0]
    );
}

#[test]
fn a_disk_of_nearly_2_to_the_63_bytes_works_at_its_end() {
    let (disk, control) = disk(i64::MAX as u64);
    write(&disk, i64::MAX as u64 - 4, b"last").expect("inside");
    assert_eq!(
        read(&disk, i64::MAX as u64 - 6, 6).expect("inside"),
        b"\0\0last"
    );
    let all = (DiskOffset(0), i64::MAX as u64);
    now(disk.pwrite_zeroes(all.0, all.1, ZeroFlags::default())).expect("the whole disk");
    assert_eq!(read(&disk, i64::MAX as u64 - 6, 6).expect("inside"), [0; 6]);
    assert_eq!(
        (control.len(), now(disk.length())),
        (i64::MAX as u64, Ok(i64::MAX as u64))
    );
}

#[test]
fn zeroes_discards_and_truncates_change_what_they_name() {
    let (disk, control) = disk(9000);
    write(&disk, 0, &[1; 9000]).expect("written");
    let flags = ZeroFlags {
        may_unmap: true,
        no_fallback: true,
        fua: false,
    };
    now(disk.pwrite_zeroes(DiskOffset(10), 8000, flags)).expect("zeroed");
    now(disk.pdiscard(DiskOffset(8500), 10)).expect("discarded");
    let all = control.contents();
    assert_eq!(all.iter().filter(|b| **b == 1).count(), 9000 - 8010);
    assert_eq!(
        (all[9], all[10], all[8009], all[8010], all[8500]),
        (1, 0, 0, 1, 0)
    );
    let record = &control.records_of(Op::WriteZeroes)[0];
    assert!(record.may_unmap && record.no_fallback && !record.fua);
    let truncate = |len| {
        now(disk.truncate(Truncate {
            len,
            exact: true,
            preallocation: Default::default(),
        }))
    };
    truncate(5).expect("shorter");
    truncate(8010).expect("longer again");
    assert_eq!(control.contents(), [&[1; 5][..], &[0; 8005]].concat());
}

#[test]
fn the_status_of_a_range_ends_where_it_changes() {
    let (disk, _) = disk(1 << 40);
    write(&disk, 8192, &[1; 8192]).expect("written");
    let status = |at, len| {
        let s = now(disk.block_status(DiskOffset(at), len)).expect("known");
        assert_ne!(s.data, s.zero);
        (s.data, s.len)
    };
    assert_eq!(status(100, 1 << 30), (false, 8092));
    assert_eq!(status(8200, 1 << 30), (true, 8184));
    assert_eq!(status(8200, 10), (true, 10));
    assert_eq!(status(1 << 20, 1 << 30), (false, 1 << 30));
}

#[test]
fn held_calls_take_effect_when_they_are_released_in_the_order_of_the_releases() {
    let (disk, control) = disk(100);
    control.hold(Op::Write, 10..20);
    write(&disk, 20, b"free").expect("does not touch the held range");
    let mut first = pin!(disk.pwritev(DiskOffset(8), bytes(b"first"), WriteFlags::default()));
    let mut second = pin!(disk.pwritev(DiskOffset(8), bytes(b"later"), WriteFlags::default()));
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    let ids: Vec<u64> = control.held().iter().map(|r| r.id).collect();
    assert_eq!(
        (
            ids.as_slice(),
            control.in_flight(),
            control.overlapping_writes()
        ),
        (&[1, 2][..], 2, 1)
    );
    assert_eq!(
        control.contents()[8..13],
        [0; 5],
        "no effect before the release"
    );
    assert!(control.release(2) && !control.release(2) && !control.release(99));
    assert_eq!(control.contents()[8..13], *b"later");
    assert!(control.release(1));
    assert_eq!(
        control.contents()[8..13],
        *b"first",
        "the later release is the later effect"
    );
    assert_eq!(poll(second.as_mut()), Poll::Ready(Ok(())));
    assert_eq!(poll(first.as_mut()), Poll::Ready(Ok(())));
    control.stop_holding();
    write(&disk, 10, b"free").expect("nothing is held any more");
}

#[test]
fn a_held_call_whose_future_is_dropped_still_takes_effect() {
    let (disk, control) = disk(100);
    control.hold_all();
    {
        let mut w = pin!(disk.pwritev(DiskOffset(0), bytes(b"lands"), WriteFlags::default()));
        assert!(poll(w.as_mut()).is_pending());
    }
    assert_eq!(
        (control.in_flight(), &control.contents()[..5]),
        (1, &[0; 5][..])
    );
    assert_eq!(control.release_all(), 1);
    assert_eq!(
        (control.in_flight(), &control.contents()[..5]),
        (0, &b"lands"[..])
    );
}

#[test]
fn every_operation_can_be_held_and_failed() {
    let (disk, control) = TestDisk::new(TestDiskOptions {
        len: 100,
        vmstate: Some(VmstateLimits {
            request_alignment: 1,
            memory_alignment: 1,
            cluster_size: 0,
        }),
        ..Default::default()
    });
    let to = Truncate {
        len: 50,
        exact: true,
        preallocation: Default::default(),
    };
    macro_rules! each {
        ($($op:ident => $call:expr, $result:expr;)*) => {$({
            control.hold(Op::$op, 0..u64::MAX);
            let mut call = pin!($call);
            assert!(poll(call.as_mut()).is_pending(), "{} is held", Op::$op);
            assert!(control.fail_held(control.held()[0].id, Errno::NOSPC));
            let Poll::Ready(answer) = poll(call.as_mut()) else { panic!("released") };
            let error: BlockError = $result(answer).expect_err("failed while held");
            assert_eq!((error.op, error.errno()), (Op::$op, Errno::NOSPC));
            control.stop_holding();
            control.fail_nth(Op::$op, 1, Errno::IO);
            if Op::$op != Op::Close {
                $result(now($call)).expect("the one before the fault");
                $result(now($call)).expect_err("the fault");
            }
            $result(now($call)).err();
        })*};
    }
    let bytes = || bytes(b"abc");
    each! {
        Length => disk.length(), |r: Result<u64>| r;
        Read => disk.preadv(DiskOffset(0), room(3)), |r: (ReadVector, Result<()>)| r.1;
        Write => disk.pwritev(DiskOffset(0), bytes(), WriteFlags::default()), |r: Result<()>| r;
        WriteZeroes => disk.pwrite_zeroes(DiskOffset(0), 3, ZeroFlags::default()), |r: Result<()>| r;
        Discard => disk.pdiscard(DiskOffset(0), 3), |r: Result<()>| r;
        Flush => disk.flush(), |r: Result<()>| r;
        BlockStatus => disk.block_status(DiskOffset(0), 3), |r: Result<BlockStatus>| r;
        Truncate => disk.truncate(to), |r: Result<()>| r;
        SaveVmstate => disk.save_vmstate(VmstateOffset(0), bytes()), |r: Result<()>| r;
        LoadVmstate => disk.load_vmstate(VmstateOffset(0), room(3)), |r: (ReadVector, Result<()>)| r.1;
        FinalizeVmstate => disk.finish_vmstate(3), |r: Result<()>| r;
        Close => disk.close(), |r: Result<()>| r;
    }
    assert!(control.is_closed());
    assert_eq!(control.faults_fired(), 12 + 11);
}

#[test]
fn a_fault_hits_the_call_it_was_set_for_and_no_other() {
    let (disk, control) = disk(100);
    control.fail_nth(Op::Write, 1, Errno::NOSPC);
    control.fail_range(Op::Read, 50..60, Errno::IO);
    write(&disk, 0, b"one").expect("number 0");
    let error = write(&disk, 0, b"two").expect_err("number 1");
    assert_eq!(
        error,
        BlockError::new(Op::Write, 0, 3, Cause::Os(Errno::NOSPC))
    );
    write(&disk, 3, b"three").expect("number 2");
    assert_eq!(
        control.contents()[..8],
        *b"onethree",
        "a failed write has no effect"
    );
    read(&disk, 45, 5).expect("before the range");
    read(&disk, 60, 5).expect("past the range");
    read(&disk, 59, 5).expect_err("touches it");
    read(&disk, 45, 6).expect_err("every time");
    control.clear_faults();
    read(&disk, 45, 6).expect("cleared");
    assert_eq!(control.faults_fired(), 3);
}

#[test]
fn a_short_transfer_moves_what_it_says_and_then_fails() {
    let (disk, control) = disk(100);
    control.short_nth(Op::Write, 0, 4, Errno::IO);
    control.short_nth(Op::Read, 0, 2, Errno::IO);
    write(&disk, 0, b"abcdef").expect_err("torn");
    assert_eq!(control.contents()[..6], *b"abcd\0\0");
    let (dst, result) = now(disk.preadv(DiskOffset(0), room(4)));
    result.expect_err("short");
    assert_eq!(dst.to_vec(), b"ab\0\0");
    assert_eq!(control.faults_fired(), 2);
}

#[test]
fn an_operation_can_be_switched_off() {
    let (disk, control) = disk(100);
    control.support(Op::WriteZeroes, false);
    let zero = || now(disk.pwrite_zeroes(DiskOffset(0), 9, ZeroFlags::default()));
    assert_eq!(zero().expect_err("off").cause, Cause::NotSupported);
    control.support(Op::WriteZeroes, true);
    zero().expect("on again");
    assert_eq!((control.records().len(), control.faults_fired()), (2, 0));
}

#[test]
fn the_vmstate_area_grows_and_is_cut_to_its_true_length() {
    let (disk, control) = TestDisk::new(TestDiskOptions {
        vmstate: Some(VmstateLimits {
            request_alignment: 512,
            memory_alignment: 512,
            cluster_size: 4096,
        }),
        ..Default::default()
    });
    assert_eq!(now(disk.vmstate_length()), Ok(None));
    now(disk.save_vmstate(VmstateOffset(3), bytes(b"state and padding"))).expect("any position");
    now(disk.finish_vmstate(8)).expect("cut");
    assert_eq!(
        (control.vmstate_contents(), control.vmstate_length()),
        (b"\0\0\0state".to_vec(), Some(8))
    );
    let (dst, result) = now(disk.load_vmstate(VmstateOffset(5), room(5)));
    result.expect("past the end are zeroes");
    assert_eq!((dst.to_vec(), control.len()), (b"ate\0\0".to_vec(), 0));
    control.set_vmstate_contents(b"other");
    assert_eq!(now(disk.vmstate_length()), Ok(Some(5)));
}

/// Each breaks one limit; the disk must notice, or the node's tests prove nothing.
#[test]
fn a_request_outside_the_limits_is_the_nodes_bug_and_panics() {
    let limits = BlockLimits {
        request_alignment: 512,
        memory_alignment: 64,
        transfer_alignment: 512,
        max_transfer: NonZeroU64::new(4096),
        max_iov: NonZeroU32::new(2).expect("not zero"),
        write_zeroes: crate::RangeLimits {
            alignment: 1024,
            max: NonZeroU64::new(2048),
        },
        ..Default::default()
    };
    let fresh = || {
        TestDisk::new(TestDiskOptions {
            len: 8192 + 100,
            limits,
            ..Default::default()
        })
    };
    let aligned = |len| IoBuf::zeroed(len, 512).expect("small");
    let shifted = |by, len| {
        let mut buf = aligned(by + len);
        drop(buf.split_to(by));
        buf
    };
    let write = |at, parts: Vec<IoBuf>, fua| {
        let (disk, _) = fresh();
        let src = parts.into_iter().map(IoBuf::freeze).collect();
        now(disk.pwritev(DiskOffset(at), src, WriteFlags { fua })).expect("no fault");
    };
    let read = |at, parts: Vec<IoBuf>| {
        let (disk, _) = fresh();
        now(disk.preadv(DiskOffset(at), parts.into_iter().collect()))
            .1
            .expect("no fault");
    };
    let zero = |at, len| {
        let (disk, _) = fresh();
        now(disk.pwrite_zeroes(DiskOffset(at), len, ZeroFlags::default())).expect("no fault");
    };
    write(512, vec![aligned(512), shifted(64, 512)], false);
    read(8192, vec![aligned(512)]);
    zero(1024, 2048);

    let panics = |what: &str, f: &dyn Fn()| {
        let message = catch_unwind(AssertUnwindSafe(f)).expect_err(what);
        assert!(
            message
                .downcast_ref::<String>()
                .is_some_and(|m| m.contains("Record")),
            "{what}"
        );
    };
    panics("offset", &|| write(1, vec![aligned(512)], false));
    panics("length", &|| write(0, vec![aligned(100)], false));
    panics("address", &|| write(0, vec![shifted(32, 512)], false));
    panics("piece length", &|| {
        write(0, vec![aligned(256), aligned(256)], false)
    });
    panics("pieces", &|| {
        write(0, vec![aligned(512), aligned(512), aligned(512)], false)
    });
    panics("max_transfer", &|| write(0, vec![aligned(4608)], false));
    panics("bounds", &|| write(8192 + 512, vec![aligned(512)], false));
    panics("FUA", &|| write(0, vec![aligned(512)], true));
    panics("nothing", &|| write(0, vec![], false));
    panics("2^63", &|| read(i64::MAX as u64 - 511, vec![aligned(512)]));
    panics("2^64", &|| read(u64::MAX - 511, vec![aligned(512)]));
    panics("read bounds", &|| read(8192 + 512, vec![aligned(512)]));
    panics("an empty piece", &|| {
        read(0, vec![aligned(512), aligned(0)])
    });
    panics("zeroes alignment", &|| zero(512, 1024));
    panics("zeroes max", &|| zero(0, 4096));
    panics("vmstate", &|| {
        drop(now(fresh()
            .0
            .save_vmstate(VmstateOffset(0), aligned(1).into())))
    });
    panics("after close", &|| {
        let (disk, _) = fresh();
        now(disk.close()).expect("closed");
        now(disk.flush()).ok();
    });
}

#[test]
fn a_crash_loses_any_part_of_what_came_after_the_last_flush() {
    let (disk, control) = disk(8);
    control.set_contents(b"........");
    control.track_crashes();
    write(&disk, 0, b"aa").expect("written");
    now(disk.flush()).expect("flushed");
    write(&disk, 2, b"bbb").expect("written");
    write(&disk, 4, b"cc").expect("written");
    control.hold(Op::Write, 6..8);
    let mut held = pin!(disk.pwritev(DiskOffset(6), bytes(b"dd"), WriteFlags::default()));
    assert!(poll(held.as_mut()).is_pending());
    let offsets: Vec<u64> = control.unflushed().iter().map(|r| r.offset).collect();
    assert_eq!(offsets, [2, 4, 6], "the held one may have landed, too");

    assert_eq!(control.contents_after_crash(|_| false), b"aa......");
    assert_eq!(control.contents_after_crash(|_| true), b"aabbccdd");
    assert_eq!(control.contents_after_crash(|r| r.offset == 2), b"aabbb...");
    let torn = |r: &Record| {
        if r.offset == 2 {
            Keep::Part(1..2)
        } else {
            Keep::Nothing
        }
    };
    assert_eq!(control.contents_after_crash(torn), b"aa.b....");
    assert_eq!(
        control.contents()[..6],
        *b"aabbcc",
        "the disk itself goes on"
    );
}

#[test]
fn a_flush_promises_only_what_had_ended_when_it_came() {
    let (disk, control) = disk(4);
    control.set_contents(b"....");
    control.track_crashes();
    write(&disk, 0, b"a").expect("written");
    control.hold(Op::Flush, 0..0);
    let mut flush = pin!(disk.flush());
    assert!(poll(flush.as_mut()).is_pending());
    write(&disk, 1, b"b").expect("written");
    assert_eq!(control.contents_after_crash(|_| false), b"....");
    control.release_all();
    assert_eq!(poll(flush.as_mut()), Poll::Ready(Ok(())));
    assert_eq!(control.contents_after_crash(|_| false), b"a...");
    control.fail_nth(Op::Flush, 0, Errno::IO);
    control.stop_holding();
    now(disk.flush()).expect_err("failed");
    assert_eq!(
        control.contents_after_crash(|_| false),
        b"a...",
        "a failed flush promises nothing"
    );
}

#[test]
fn a_fua_write_survives_and_an_older_lost_one_cannot_come_back_over_it() {
    let (disk, control) = TestDisk::new(TestDiskOptions {
        len: 4,
        supports_fua: true,
        ..Default::default()
    });
    control.set_contents(b"....");
    control.track_crashes();
    write(&disk, 0, b"old").expect("written");
    now(disk.pwritev(DiskOffset(1), bytes(b"F"), WriteFlags { fua: true })).expect("written");
    assert_eq!(control.unflushed().len(), 1);
    assert_eq!(control.contents_after_crash(|_| false), b".F..");
    assert_eq!(control.contents_after_crash(|_| true), b"oFd.");
}
