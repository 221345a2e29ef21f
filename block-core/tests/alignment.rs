//! What reaches the driver: whole blocks, split and bounced only as far as its limits demand, and no read that is not needed.

mod common;

use block_core::test_disk::{Record, TestDiskOptions};
use block_core::{BlockLimits, Cause, DiskOffset, Errno, Op, WriteFlags};
use common::*;

/// Writes a piece at `at`, and compares the whole disk with a byte array, and the driver's calls with `expected`.
fn check_write(options: TestDiskOptions, at: u64, len: usize, expected: &[(Op, u64, u64)]) {
    let grows = options.grows;
    let rig = Rig::new(options);
    let mut model = pattern(rig.disk.len() as usize, 1);
    rig.disk.set_contents(&model);
    let bytes = pattern(len, 99);
    rig.write(at, &bytes).expect("written");
    if grows {
        model.resize(model.len().max(at as usize + len), 0);
    }
    model[at as usize..][..len].copy_from_slice(&bytes);
    assert_eq!(rig.calls(), expected, "{len} bytes at {at}");
    assert_eq!(rig.disk.contents(), model, "{len} bytes at {at}");
}

#[test]
fn an_aligned_write_is_one_driver_call() {
    check_write(direct(8192), 512, 1024, &[(Op::Write, 512, 1024)]);
    check_write(plain(8192), 513, 77, &[(Op::Write, 513, 77)]);
}

#[test]
fn an_unaligned_write_reads_only_the_partly_covered_blocks() {
    let read = |at| (Op::Read, at, 512);
    // Inside one block: that block is read once.
    check_write(direct(8192), 520, 10, &[read(512), (Op::Write, 512, 512)]);
    // The head only, the tail only.
    check_write(direct(8192), 600, 424, &[read(512), (Op::Write, 512, 512)]);
    check_write(
        direct(8192),
        512,
        600,
        &[read(1024), (Op::Write, 512, 1024)],
    );
    // Head and tail of a long one: nothing in between.
    check_write(
        direct(65_536),
        700,
        50_000,
        &[read(512), read(50_688), (Op::Write, 512, 50_688)],
    );
    // Two bytes across a boundary.
    check_write(
        direct(8192),
        1023,
        2,
        &[read(512), read(1024), (Op::Write, 512, 1024)],
    );
}

#[test]
fn a_block_past_the_end_is_not_read_and_the_true_length_stays() {
    let growing = |len| TestDiskOptions {
        grows: true,
        ..direct(len)
    };
    let cut = |len| (Op::Truncate, 0, len);
    let zeros = (Op::Write, 1024, 512);
    check_write(growing(1024), 1024, 100, &[zeros, cut(1124)]);
    check_write(growing(1024), 1030, 100, &[zeros, cut(1130)]);
    check_write(growing(0), 0, 1, &[(Op::Write, 0, 512), cut(1)]);
    // The last block exists in part: what exists is kept.
    check_write(
        growing(1100),
        1090,
        5,
        &[(Op::Read, 1024, 512), zeros, cut(1100)],
    );
    check_write(
        growing(1100),
        1090,
        50,
        &[(Op::Read, 1024, 512), zeros, cut(1140)],
    );
    check_write(growing(1100), 1024, 500, &[zeros, cut(1524)]);
    // Whole blocks need no cut.
    check_write(growing(1024), 1024, 512, &[zeros]);
    check_write(growing(1024), 1030, 506, &[zeros]);
}

#[test]
fn a_length_that_is_no_multiple_of_the_alignment_is_usable_to_its_last_byte() {
    let content = pattern(1000, 5);
    let rig = Rig::new(direct(1000));
    rig.disk.set_contents(&content);
    for at in [0, 1, 511, 512, 513, 999] {
        for len in [1, 400, 1000] {
            let len = len.min(1000 - at);
            assert_eq!(
                rig.read(at as u64, len).expect("inside"),
                content[at..at + len]
            );
        }
    }
    rig.write(990, b"the end...").expect("the last byte");
    assert_eq!(rig.read(988, 12).expect("inside")[2..], *b"the end...");
    assert_eq!(
        cause(rig.write(990, b"the end....")),
        Cause::OutOfBounds {
            end: 1001,
            size: 1000
        }
    );
    assert_eq!(rig.disk.len(), 1000);
}

#[test]
fn a_read_of_the_last_part_block_shows_zeroes_nowhere() {
    // 100 bytes of the last block exist; a whole-block driver read after the node's read must not leak into it.
    let rig = Rig::new(direct(612));
    rig.disk.set_contents(&[7; 612]);
    assert_eq!(rig.read(500, 112).expect("inside"), [7; 112]);
    assert_eq!(rig.calls(), [(Op::Read, 0, 1024)]);
}

#[test]
fn an_unaligned_read_is_one_driver_call_that_reads_into_the_callers_memory() {
    let rig = Rig::new(TestDiskOptions {
        limits: BlockLimits {
            request_alignment: 512,
            ..Default::default()
        },
        ..plain(8192)
    });
    rig.disk.set_contents(&pattern(8192, 2));
    let dst = destination([filled(1000, 0)]);
    let (dst, result) = rig.run(rig.node.preadv(DiskOffset(700), dst));
    result.expect("read");
    assert_eq!(dst.to_vec(), pattern(8192, 2)[700..1700]);
    let records = rig.disk.take_records();
    let [
        Record {
            offset: 512,
            len: 1536,
            pieces: 3,
            ..
        },
    ] = &records[..]
    else {
        panic!("head, the caller's memory, tail, in one call: {records:?}");
    };
}

#[test]
fn aligned_memory_is_not_bounced_and_misaligned_memory_is() {
    let rig = Rig::new(direct(1 << 20));
    let write = |src| {
        rig.run(rig.node.pwritev(DiskOffset(0), src, WriteFlags::default()))
            .expect("written");
        let records = rig.disk.take_records();
        records
            .iter()
            .map(|r| (r.len, r.pieces))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        write(source([filled(512, 1), filled(1024, 2)])),
        [(1536, 2)],
        "as it is"
    );
    assert_eq!(
        write(source([shifted(512, 8, 1), filled(1024, 2)])),
        [(1536, 1)],
        "copied"
    );
    assert_eq!(
        write(source([filled(256, 1), filled(256, 2)])),
        [(512, 1)],
        "pieces too short"
    );
    assert_eq!(rig.disk.contents()[255..257], [1, 2]);

    let read = |dst| {
        let (dst, result) = rig.run(rig.node.preadv(DiskOffset(0), dst));
        result.expect("read");
        let records = rig.disk.take_records();
        (
            dst.to_vec(),
            records
                .iter()
                .map(|r| (r.len, r.pieces))
                .collect::<Vec<_>>(),
        )
    };
    let expected = rig.disk.contents()[..1536].to_vec();
    assert_eq!(
        read(destination([filled(512, 0), filled(1024, 0)])),
        (expected.clone(), vec![(1536, 2)])
    );
    assert_eq!(
        read(destination([shifted(512, 8, 0), filled(1024, 0)])),
        (expected, vec![(1536, 1)])
    );
}

#[test]
fn a_request_longer_than_max_transfer_is_split_at_it() {
    let rig = Rig::new(TestDiskOptions {
        limits: BlockLimits {
            max_transfer: nonzero(4096),
            ..direct(0).limits
        },
        ..direct(1 << 16)
    });
    let bytes = pattern(10_240, 3);
    rig.write(512, &bytes).expect("written");
    let lens: Vec<u64> = rig.calls().iter().map(|c| c.2).collect();
    assert_eq!(lens, [4096, 4096, 2048]);
    assert_eq!(rig.read(512, 10_240).expect("read"), bytes);
    let lens: Vec<u64> = rig.calls().iter().map(|c| c.2).collect();
    assert_eq!(lens, [4096, 4096, 2048]);
    // Unaligned: padded first, then split.
    rig.write(100, &pattern(9000, 4)).expect("written");
    let calls = rig.calls();
    assert_eq!(calls.iter().filter(|c| c.0 == Op::Read).count(), 2);
    assert_eq!(rig.read(100, 9000).expect("read"), pattern(9000, 4));
}

#[test]
fn a_max_transfer_that_is_no_multiple_of_the_block_is_rounded_down() {
    let rig = Rig::new(TestDiskOptions {
        limits: BlockLimits {
            max_transfer: nonzero(1500),
            ..direct(0).limits
        },
        ..direct(1 << 16)
    });
    rig.write(0, &pattern(4096, 3)).expect("written");
    let lens: Vec<u64> = rig.calls().iter().map(|c| c.2).collect();
    assert_eq!(lens, [1024; 4]);
}

#[test]
fn more_pieces_than_the_driver_takes_are_split_or_bounced_and_arrive_in_order() {
    for (limit, options) in [
        (3, plain(1 << 20)),
        (3, direct(1 << 20)),
        (1024, direct(1 << 20)),
    ] {
        let rig = Rig::new(TestDiskOptions {
            limits: BlockLimits {
                max_iov: pieces(limit),
                ..options.limits
            },
            ..options
        });
        let count = 1500;
        let src = source((0..count).map(|i| filled(512, i as u8)));
        let expected = src.to_vec();
        rig.run(rig.node.pwritev(DiskOffset(0), src, WriteFlags::default()))
            .expect("written");
        assert_eq!(rig.disk.contents()[..expected.len()], expected);
        let writes = rig.disk.take_records();
        assert!(writes.iter().all(|r| r.pieces <= limit as usize));
        let dst = destination((0..count).map(|_| filled(512, 0)));
        let (dst, result) = rig.run(rig.node.preadv(DiskOffset(0), dst));
        result.expect("read");
        assert_eq!((dst.parts().len(), dst.to_vec()), (count, expected));
        let reads = rig.disk.take_records();
        assert!(reads.iter().all(|r| r.pieces <= limit as usize));
        // Small pieces do not become a driver call each.
        assert!(
            writes.len() <= 3 && reads.len() <= 3,
            "{} {}",
            writes.len(),
            reads.len()
        );
    }
}

#[test]
fn bounced_memory_is_bounded_whatever_the_request() {
    let rig = Rig::new(direct(8 << 20));
    let src = source([shifted(8 << 20, 8, 3)]);
    rig.run(rig.node.pwritev(DiskOffset(0), src, WriteFlags::default()))
        .expect("written");
    let (dst, result) = rig.run(
        rig.node
            .preadv(DiskOffset(0), destination([shifted(8 << 20, 8, 0)])),
    );
    result.expect("read");
    assert!(dst.to_vec().iter().all(|b| *b == 3));
    for record in rig.disk.take_records() {
        assert!(record.len <= 1 << 20, "{record:?}");
    }
}

#[test]
fn any_unaligned_write_and_read_equals_a_byte_array() {
    let mut random = Random(12345);
    let alignments = [
        (1, 1, 1),
        (512, 1, 1),
        (512, 512, 512),
        (4096, 512, 512),
        (512, 4096, 4),
    ];
    for round in 0..60 {
        let (request, memory, transfer) = alignments[round % alignments.len()];
        let grows = round % 2 == 0;
        let len = 20_000 + random.below(5000) as usize;
        let rig = Rig::new(TestDiskOptions {
            limits: BlockLimits {
                request_alignment: request,
                memory_alignment: memory,
                transfer_alignment: transfer,
                max_transfer: nonzero(8192),
                max_iov: pieces(1 + random.below(4) as u32),
                ..Default::default()
            },
            grows,
            ..plain(len as u64)
        });
        let mut model = vec![0; len];
        let room = if grows { len + 9000 } else { len };
        for step in 0..40 {
            let at = random.below(room as u64 - 1) as usize;
            let n = 1 + random.below((room - at).min(9000) as u64) as usize;
            let mut parts = Vec::new();
            let bytes = pattern(n, step + 7);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let cut = (1 + random.below(3000) as usize).min(rest.len());
                let mut buf = shifted(cut, random.below(9) as usize, 0);
                buf.copy_from_slice(&rest[..cut]);
                parts.push(buf);
                rest = &rest[cut..];
            }
            let src = source(parts);
            rig.run(
                rig.node
                    .pwritev(DiskOffset(at as u64), src, WriteFlags::default()),
            )
            .expect("written");
            model.resize(model.len().max(at + n), 0);
            model[at..at + n].copy_from_slice(&bytes);
            let at = random.below(model.len() as u64) as usize;
            let n = random.below((model.len() - at) as u64 + 1) as usize;
            assert_eq!(rig.read(at as u64, n).expect("read"), model[at..at + n]);
            assert_eq!(rig.run(rig.node.length()), Ok(model.len() as u64));
        }
        assert_eq!(rig.disk.contents(), model);
    }
}

#[test]
fn an_error_names_the_request_that_was_made_and_not_the_part_that_failed() {
    let rig = Rig::new(TestDiskOptions {
        limits: BlockLimits {
            max_transfer: nonzero(4096),
            ..direct(0).limits
        },
        ..direct(1 << 16)
    });
    let nospc = Cause::Os(Errno::NOSPC);
    rig.disk.fail_nth(Op::Write, 1, Errno::NOSPC);
    assert_eq!(
        rig.write(512, &[1; 9000]),
        Err(error(Op::Write, 512, 9000, nospc.clone()))
    );
    rig.disk.fail_nth(Op::Read, 1, Errno::NOSPC);
    assert_eq!(
        rig.write(700, &[1; 9000]),
        Err(error(Op::Write, 700, 9000, nospc.clone()))
    );
    rig.disk.fail_nth(Op::Read, 2, Errno::NOSPC);
    assert_eq!(rig.read(7, 9000), Err(error(Op::Read, 7, 9000, nospc)));
    assert_eq!(rig.disk.faults_fired(), 3);
    assert_eq!(rig.node.in_flight(), 0);
}

#[test]
fn a_failed_read_of_a_partial_block_writes_nothing() {
    let rig = Rig::new(direct(4096));
    rig.disk.set_contents(&[5; 4096]);
    for (at, len, nth) in [(10, 3, 0), (10, 1000, 0), (10, 1000, 1)] {
        rig.disk.fail_nth(Op::Read, nth, Errno::IO);
        rig.write(at, &vec![9; len]).expect_err("the read failed");
    }
    assert!(rig.disk.records_of(Op::Write).is_empty());
    assert_eq!(rig.disk.contents(), [5; 4096]);
    assert_eq!(rig.disk.faults_fired(), 3);
}

#[test]
fn memory_comes_back_with_a_failed_read_too() {
    let rig = Rig::new(TestDiskOptions {
        limits: BlockLimits {
            max_iov: pieces(2),
            ..direct(0).limits
        },
        ..direct(1 << 16)
    });
    for at in [0, 5] {
        rig.disk.fail_nth(Op::Read, 0, Errno::IO);
        let dst = destination([filled(512, 0), shifted(512, 3, 0), filled(1024, 0)]);
        let (dst, result) = rig.run(rig.node.preadv(DiskOffset(at), dst));
        assert_eq!(cause(result), Cause::Os(Errno::IO));
        let lens: Vec<usize> = dst.parts().iter().map(|p| p.len()).collect();
        assert_eq!(lens, [512, 512, 1024]);
    }
}

#[test]
fn a_failed_padded_write_past_the_end_leaves_no_padding() {
    let rig = Rig::new(TestDiskOptions {
        grows: true,
        ..direct(1000)
    });
    rig.disk.short_nth(Op::Write, 0, 300, Errno::NOSPC);
    rig.write(1500, b"never").expect_err("no space");
    assert_eq!(rig.disk.faults_fired(), 1);
    assert_eq!(rig.run(rig.node.length()), Ok(1000));
    rig.write(1500, b"after").expect("space again");
    assert_eq!(rig.run(rig.node.length()), Ok(1505));
    assert_eq!(rig.read(1000, 505).expect("inside")[..500], [0; 500]);
}

/// The length is set back after the failed write; what another one has put there meanwhile must not be cut off.
#[test]
fn a_failed_padded_write_cuts_nothing_off_that_others_have_written_meanwhile() {
    let longer = TestDiskOptions {
        grows: true,
        ..direct(1024)
    };
    for others_end_first in [true, false] {
        let rig = Rig::new(longer.clone());
        rig.disk.hold(Op::Write, 0..u64::MAX);
        let other = rig.start_write(1024, &pattern(1024, 1));
        rig.disk.short_nth(Op::Write, 0, 300, Errno::NOSPC);
        let failing = rig.start_write(4000, b"never");
        let [first, second] = [rig.disk.held()[0].id, rig.disk.held()[1].id];
        rig.disk.hold(Op::Truncate, 0..u64::MAX);
        if others_end_first {
            rig.disk.release(first);
            rig.go_on();
            rig.disk.release(second);
        } else {
            rig.disk.release(second);
            rig.go_on();
            // It has reached the disk, and the length is set back before anybody hears of it.
            rig.disk.release(first);
        }
        rig.go_on();
        rig.release_until_quiet();
        cause(failing.result().expect("it has ended"));
        other.result().expect("it has ended").expect("written");
        rig.disk.stop_holding();
        assert!(rig.read(1024, 1024) == Ok(pattern(1024, 1)));
        let len = rig.run(rig.node.length()).expect("a length");
        assert!((2048..=3584).contains(&len), "no padding is left: {len}");
    }
}

#[test]
fn one_failed_truncate_of_padding_fails_the_write_and_leaves_no_padding_as_content() {
    let options = TestDiskOptions {
        grows: true,
        ..direct(0)
    };
    let rig = Rig::new(options);
    rig.disk.fail_nth(Op::Truncate, 0, Errno::IO);
    let failed = rig.write(100, &[7; 3]);
    assert_eq!(cause(failed), Cause::Os(Errno::IO));
    assert_eq!(
        rig.disk.len(),
        103,
        "the second truncate set the length back"
    );
    assert_eq!(rig.run(rig.node.length()), Ok(103));
    assert_eq!(rig.write(100, &[7; 3]), Ok(()), "the next try");
}
