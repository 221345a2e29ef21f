//! What the node must keep to. A violation panics with the request in the message: the test has found a bug of the node.

use super::TestDiskOptions;
use super::request::{Request, Work};
use crate::{BlockLimits, Op, RangeLimits};

/// `len` is the disk's length now.
pub(super) fn check(options: &TestDiskOptions, len: u64, request: &Request, work: &Work) {
    let end = request.offset.checked_add(request.len);
    assert!(
        end.is_some_and(|end| end <= i64::MAX as u64),
        "ends past 2^63 - 1: {request:?}"
    );
    match request.op {
        Op::Read | Op::Write => {
            check_transfer(&options.limits, request, work);
            check_bounds(options, len, request);
        }
        Op::WriteZeroes => {
            check_range(&options.limits, options.limits.write_zeroes, request);
            check_bounds(options, len, request);
        }
        Op::Discard => {
            check_range(&options.limits, options.limits.discard, request);
            check_bounds(options, len, request);
        }
        Op::BlockStatus => {
            assert!(request.len > 0, "nothing asked: {request:?}");
            check_bounds(options, len, request);
        }
        Op::SaveVmstate | Op::LoadVmstate | Op::FinalizeVmstate | Op::DiscardVmstate => {
            assert!(
                options.vmstate.is_some(),
                "this disk has no vmstate area: {request:?}"
            );
        }
        Op::SnapshotCreate
        | Op::SnapshotGoto
        | Op::SnapshotDelete
        | Op::SnapshotList
        | Op::SnapshotLoad => {
            assert!(options.snapshots, "this disk has no snapshots: {request:?}");
        }
        _ => {}
    }
    assert!(
        options.supports_fua || !request.fua,
        "the driver said that it has no FUA: {request:?}"
    );
}

fn check_transfer(limits: &BlockLimits, request: &Request, work: &Work) {
    let alignment = limits.request_alignment;
    assert!(request.len > 0, "a request without a byte: {request:?}");
    assert!(
        aligned(request, alignment),
        "not aligned to {alignment}: {request:?}"
    );
    let longest = limits.max_transfer.map_or(i32::MAX as u64, |max| max.get());
    assert!(request.len <= longest, "longer than {longest}: {request:?}");
    let pieces = limits.max_iov.get() as usize;
    assert!(
        request.pieces <= pieces,
        "more than {pieces} pieces: {request:?}"
    );
    let (memory, transfer) = (
        limits.memory_alignment as usize,
        limits.transfer_alignment as usize,
    );
    let (aligned, empty) = match work {
        Work::Read(dst) => (
            dst.is_aligned(memory, transfer),
            dst.parts().iter().any(|p| p.is_empty()),
        ),
        Work::Write(src) => (
            src.is_aligned(memory, transfer),
            src.parts().iter().any(|p| p.is_empty()),
        ),
        _ => (true, false),
    };
    assert!(
        aligned,
        "memory not aligned to {memory}, or a piece not to {transfer}: {request:?}"
    );
    assert!(!empty, "an empty piece: {request:?}");
}

fn check_range(limits: &BlockLimits, range: RangeLimits, request: &Request) {
    let alignment = limits.request_alignment.max(range.alignment);
    assert!(request.len > 0, "a request without a byte: {request:?}");
    assert!(
        aligned(request, alignment),
        "not aligned to {alignment}: {request:?}"
    );
    let longest = range.max.map_or(i64::MAX as u64, |max| max.get());
    assert!(request.len <= longest, "longer than {longest}: {request:?}");
}

/// Inside the disk, whose last block may be partly past the end; writes may also grow it where it grows.
fn check_bounds(options: &TestDiskOptions, len: u64, request: &Request) {
    let end = len.next_multiple_of(options.limits.request_alignment.into());
    let grows = options.grows && matches!(request.op, Op::Write | Op::WriteZeroes);
    assert!(
        grows || request.offset + request.len <= end,
        "ends past the disk's {len} bytes: {request:?}"
    );
}

fn aligned(request: &Request, alignment: u32) -> bool {
    (request.offset | request.len).is_multiple_of(alignment.into())
}
