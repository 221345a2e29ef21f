//! Zeroes, discard, status and length.

use super::*;
use block_core::Preallocation;
use rustix::io::Errno as Raw;
use std::os::unix::fs::MetadataExt;

const PLAIN: ZeroFlags = ZeroFlags {
    fua: false,
    may_unmap: false,
    no_fallback: false,
};
const UNMAP: ZeroFlags = ZeroFlags {
    may_unmap: true,
    ..PLAIN
};

fn to(len: u64, preallocation: Preallocation) -> Truncate {
    Truncate {
        len,
        exact: true,
        preallocation,
    }
}

/// Bytes that the file takes on the disk.
fn space(bench: &Bench) -> u64 {
    bench.path().metadata().expect("the file").blocks() * 512
}

fn zero(bench: &Bench, file: &FileDriver, at: u64, len: u64, flags: ZeroFlags) -> Result<()> {
    bench.run(file.pwrite_zeroes(DiskOffset(at), len, flags))
}

#[test]
fn zeroes_replace_exactly_their_range() {
    for flags in [PLAIN, UNMAP] {
        let bench = Bench::new().with(&pattern(200_000));
        let file = bench.open(&Script::new().share());
        zero(&bench, &file, 5000, 100_000, flags).expect("zeroes");
        let mut expected = pattern(200_000);
        expected[5000..105_000].fill(0);
        assert_eq!(bench.bytes(), expected);
    }
}

#[test]
fn zeroes_past_the_end_make_the_file_longer() {
    for flags in [PLAIN, UNMAP] {
        let bench = Bench::new().with(&pattern(10_000));
        let file = bench.open(&Script::new().share());
        zero(&bench, &file, 8000, 4000, flags).expect("across the end");
        let mut expected = pattern(8000);
        expected.resize(12_000, 0);
        assert_eq!(bench.bytes(), expected);
        zero(&bench, &file, 20_000, 500, flags).expect("past the end");
        expected.resize(20_500, 0);
        assert_eq!(bench.bytes(), expected);
    }
}

#[test]
fn zeroes_that_may_unmap_give_their_space_back_and_others_keep_it() {
    let bench = Bench::new().with(&pattern(1 << 20));
    let file = bench.open(&Script::new().share());
    bench.run(file.flush()).expect("flush");
    let full = space(&bench);
    assert!(full >= 1 << 20, "the file system must not compress this");
    zero(&bench, &file, 0, 1 << 19, PLAIN).expect("zeroes");
    assert!(space(&bench) >= full - 4096, "still reserved");
    zero(&bench, &file, 0, 1 << 19, UNMAP).expect("holes");
    assert!(space(&bench) <= full / 2 + 65_536, "given back");
    assert_eq!(bench.bytes()[1 << 19..], pattern(1 << 20)[1 << 19..]);
}

#[test]
fn stable_zeroes_are_synced() {
    let bench = Bench::new().with(&pattern(10_000));
    let script = Script::new().share();
    let file = bench.open(&script);
    zero(&bench, &file, 0, 4096, PLAIN).expect("zeroes");
    assert_eq!(script.count(Call::Sync), 0);
    zero(&bench, &file, 0, 4096, ZeroFlags { fua: true, ..PLAIN }).expect("zeroes");
    assert_eq!(script.count(Call::Sync), 1);
}

#[test]
fn where_zero_range_is_unknown_a_hole_is_made_and_filled() {
    let bench = Bench::new().with(&pattern(100_000));
    let script = Script::new()
        .at(Call::Fallocate, 0, Fault::Fails(Raw::OPNOTSUPP))
        .share();
    let file = bench.open(&script);
    zero(&bench, &file, 0, 65_536, PLAIN).expect("zeroes");
    assert_eq!(
        script.count(Call::Fallocate),
        3,
        "ZERO_RANGE, PUNCH_HOLE, and the space again"
    );
    let mut expected = pattern(100_000);
    expected[..65_536].fill(0);
    assert_eq!(bench.bytes(), expected);
}

#[test]
fn where_holes_are_unknown_zeroes_that_may_unmap_are_written_in_place() {
    let bench = Bench::new().with(&pattern(100_000));
    let script = Script::new()
        .at(Call::Fallocate, 0, Fault::Fails(Raw::OPNOTSUPP))
        .share();
    let file = bench.open(&script);
    zero(&bench, &file, 0, 65_536, UNMAP).expect("zeroes");
    assert_eq!(
        script.count(Call::Fallocate),
        2,
        "PUNCH_HOLE, then ZERO_RANGE"
    );
    assert_eq!(bench.bytes()[..65_536], vec![0; 65_536]);
}

#[test]
fn a_file_system_that_knows_neither_is_asked_once_and_nothing_is_changed() {
    let bench = Bench::new().with(&pattern(100_000));
    let fails = || Fault::Fails(Raw::OPNOTSUPP);
    let script = (0..3).fold(Script::new(), |script, nth| {
        script.at(Call::Fallocate, nth, fails())
    });
    let script = script.share();
    let file = bench.open(&script);
    let not_supported = |op, len| Err(BlockError::new(op, 512, len, Cause::NotSupported));
    assert_eq!(
        zero(&bench, &file, 512, 65_536, PLAIN),
        not_supported(Op::WriteZeroes, 65_536)
    );
    assert_eq!(script.count(Call::Fallocate), 2, "ZERO_RANGE, PUNCH_HOLE");
    assert_eq!(
        zero(&bench, &file, 512, 1, UNMAP),
        not_supported(Op::WriteZeroes, 1)
    );
    assert_eq!(script.count(Call::Fallocate), 2, "remembered");
    let discard = || bench.run(file.pdiscard(DiskOffset(512), 4096));
    assert_eq!(discard(), not_supported(Op::Discard, 4096));
    assert_eq!(discard(), not_supported(Op::Discard, 4096));
    assert_eq!(
        script.count(Call::Fallocate),
        3,
        "discard is asked once, too"
    );
    assert_eq!(bench.bytes(), pattern(100_000));
}

#[test]
fn discarded_bytes_make_room_and_the_length_stays() {
    let bench = Bench::new().with(&pattern(1 << 20));
    let file = bench.open(&Script::new().share());
    bench.run(file.flush()).expect("flush");
    let full = space(&bench);
    bench
        .run(file.pdiscard(DiskOffset(1 << 19), 1 << 30))
        .expect("discard past the end");
    assert!(space(&bench) <= full / 2 + 65_536);
    assert_eq!(bench.bytes().len(), 1 << 20);
    assert_eq!(bench.bytes()[..1 << 19], pattern(1 << 20)[..1 << 19]);
}

#[test]
fn status_tells_data_from_holes_and_covers_what_was_asked() {
    let bench = Bench::new().with(b"");
    let file = bench.open(&Script::new().share());
    let block = 1 << 20;
    bench.run(async {
        // hole, data, hole, an end inside a block
        write(&file, block, &pattern(block as usize))
            .await
            .expect("write");
        file.truncate(to(3 * block + 100, Preallocation::Off))
            .await
            .expect("truncate");
        let mut at = 0;
        let mut found = Vec::new();
        while at < 4 * block {
            let status = file
                .block_status(DiskOffset(at), 4 * block - at)
                .await
                .expect("status");
            assert!(
                status.len >= 1 && status.len <= 4 * block - at,
                "{status:?}"
            );
            assert_eq!(status.map, Some(DiskOffset(at)));
            assert!(status.allocated && status.data != status.zero);
            found.push((at, status.len, status.data));
            at += status.len;
        }
        assert_eq!(
            found,
            [
                (0, block, false),
                (block, block, true),
                (2 * block, 2 * block, false)
            ]
        );
        let after = file
            .block_status(DiskOffset(1 << 40), 512)
            .await
            .expect("status");
        assert!(after.zero && after.len == 512);
    });
}

#[test]
fn status_of_a_file_system_that_does_not_tell_is_data() {
    let bench = Bench::new().with(&pattern(1000));
    let script = Script::new()
        .at(Call::Seek, 0, Fault::Fails(Raw::INVAL))
        // SEEK_DATA answers, SEEK_HOLE fails; then it has become a hole in between.
        .at(Call::Seek, 1, Fault::Answers(10))
        .at(Call::Seek, 2, Fault::Fails(Raw::NXIO))
        .at(Call::Seek, 3, Fault::Answers(10))
        .at(Call::Seek, 4, Fault::Answers(10));
    let file = bench.open(&script.share());
    for case in 0..3 {
        let status = bench
            .run(file.block_status(DiskOffset(10), 500))
            .expect("status");
        assert!(
            status.data && !status.zero && status.len == 500,
            "case {case}: {status:?}"
        );
    }
}

#[test]
fn the_rest_of_a_last_direct_block_belongs_to_its_data() {
    let bench = Bench::new().with(&pattern(1000));
    let script = Script::new().strict(512).share();
    let file = bench
        .try_open(bench.direct_options(), &script)
        .expect("open");
    let status = bench
        .run(file.block_status(DiskOffset(512), 4096))
        .expect("status");
    assert_eq!(
        (status.len, status.data),
        (512, true),
        "a multiple of the alignment"
    );
}

#[test]
fn truncate_sets_the_length_both_ways() {
    let bench = Bench::new().with(&pattern(1000));
    let file = bench.open(&Script::new().share());
    bench
        .run(file.truncate(to(100, Preallocation::Off)))
        .expect("shorter");
    assert_eq!(bench.bytes(), pattern(1000)[..100]);
    bench
        .run(file.truncate(to(5000, Preallocation::Off)))
        .expect("longer");
    let mut expected = pattern(1000)[..100].to_vec();
    expected.resize(5000, 0);
    assert_eq!(bench.bytes(), expected);
}

#[test]
fn preallocation_reserves_the_new_space_and_leaves_the_old_bytes() {
    for preallocation in [Preallocation::Falloc, Preallocation::Full] {
        let bench = Bench::new().with(&pattern(1000));
        let script = Script::new().share();
        let file = bench.open(&script);
        bench
            .run(file.truncate(to(3_000_001, preallocation)))
            .expect("grow");
        assert!(space(&bench) >= 2_900_000, "{preallocation:?}");
        let mut expected = pattern(1000);
        expected.resize(3_000_001, 0);
        assert_eq!(bench.bytes(), expected);
        bench
            .run(file.truncate(to(3_000_001, preallocation)))
            .expect("the same again");
        let written = script.count(Call::Write) > 0;
        assert_eq!(written, preallocation == Preallocation::Full);
    }
}

#[test]
fn full_preallocation_of_a_direct_file_keeps_to_its_blocks() {
    let bench = Bench::new().with(&pattern(1000));
    let script = Script::new().strict(512).share();
    let file = bench
        .try_open(bench.direct_options(), &script)
        .expect("open");
    bench
        .run(file.truncate(to(2_000_003, Preallocation::Full)))
        .expect("grow");
    let mut expected = pattern(1000);
    expected.resize(2_000_003, 0);
    assert_eq!(bench.bytes(), expected);
    bench
        .run(file.truncate(to(2_000_005, Preallocation::Full)))
        .expect("inside a block");
    expected.resize(2_000_005, 0);
    assert_eq!(bench.bytes(), expected);
}

#[test]
fn growing_that_fails_half_way_leaves_the_old_length() {
    for call in [Call::Write, Call::Sync] {
        let bench = Bench::new().with(&pattern(1000));
        let nth = if call == Call::Write { 1 } else { 0 };
        let script = Script::new().at(call, nth, Fault::Fails(Raw::NOSPC));
        let file = bench.open(&script.share());
        let error = bench.run(file.truncate(to(5 << 20, Preallocation::Full)));
        let expected = BlockError::new(Op::Truncate, 5 << 20, 0, errno(Raw::NOSPC));
        assert_eq!(error, Err(expected));
        assert_eq!(bench.bytes(), pattern(1000));
    }
    let bench = Bench::new().with(&pattern(1000));
    let script = Script::new().at(Call::Fallocate, 0, Fault::Fails(Raw::OPNOTSUPP));
    let file = bench.open(&script.share());
    let error = bench
        .run(file.truncate(to(5 << 20, Preallocation::Falloc)))
        .expect_err("no space");
    assert_eq!(error.cause, Cause::NotSupported);
    assert_eq!(bench.bytes(), pattern(1000));
}

#[test]
fn preallocation_that_makes_no_sense_is_refused() {
    let bench = Bench::new().with(&pattern(1000));
    let file = bench.open(&Script::new().share());
    for truncate in [
        to(2000, Preallocation::Metadata),
        to(10, Preallocation::Falloc),
        to(10, Preallocation::Full),
    ] {
        let error = bench.run(file.truncate(truncate)).expect_err("refused");
        assert_eq!(error.cause, Cause::NotSupported, "{truncate:?}");
    }
    assert_eq!(bench.bytes(), pattern(1000));
}
