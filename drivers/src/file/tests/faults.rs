//! Reading and writing when the system interrupts, falls short, or refuses.

use super::*;
use rustix::io::Errno as Raw;

#[test]
fn an_interrupted_call_is_made_again() {
    let bench = Bench::new().with(&pattern(100));
    let intr = || Fault::Fails(Raw::INTR);
    let script = Script::new()
        .at(Call::Read, 0, intr())
        .at(Call::Read, 1, intr())
        .at(Call::Write, 0, intr())
        .at(Call::WriteDsync, 0, intr())
        .at(Call::Sync, 0, intr())
        .at(Call::Fallocate, 0, intr())
        .at(Call::Truncate, 0, intr())
        .share();
    let file = bench.open(&script);
    bench.run(async {
        assert_eq!(read(&file, 0, 100).await.expect("read"), pattern(100));
        write(&file, 0, b"new").await.expect("write");
        let flags = WriteFlags { fua: true };
        file.pwritev(DiskOffset(3), vector(b"er"), flags)
            .await
            .expect("stable write");
        file.flush().await.expect("flush");
        file.pdiscard(DiskOffset(50), 10).await.expect("discard");
        let to = Truncate {
            len: 70,
            exact: true,
            preallocation: Default::default(),
        };
        file.truncate(to).await.expect("truncate");
    });
    let mut expected = pattern(70);
    expected[..5].copy_from_slice(b"newer");
    expected[50..60].fill(0);
    assert_eq!(bench.bytes(), expected);
    assert_eq!(
        script.count(Call::Read),
        3,
        "two interruptions and the call that read"
    );
}

#[test]
fn a_transfer_that_stops_half_way_goes_on_where_it_stopped() {
    let bytes = pattern(5000);
    let bench = Bench::new().with(b"");
    let script = Script::new()
        .at(Call::Write, 0, Fault::Moves(1))
        .at(Call::Write, 1, Fault::Moves(1999))
        .at(Call::Write, 2, Fault::Fails(Raw::INTR))
        .at(Call::Read, 0, Fault::Moves(4999))
        .share();
    let file = bench.open(&script);
    bench.run(async {
        file.pwritev(DiskOffset(3), pieces(&bytes, 777), WriteFlags::default())
            .await
            .expect("write");
        assert_eq!(script.count(Call::Write), 4);
        let (dst, result) = file.preadv(DiskOffset(3), room(5000, 333)).await;
        result.expect("read");
        assert_eq!(joined(dst), bytes);
        assert_eq!(script.count(Call::Read), 2);
    });
    assert_eq!(bench.bytes()[3..], bytes);
}

#[test]
fn a_direct_transfer_that_stops_inside_a_block_begins_at_that_block_again() {
    let bytes = pattern(4096);
    let bench = Bench::new().with(&[0; 4096]);
    let script = Script::new()
        .strict(512)
        .at(Call::Write, 0, Fault::Moves(1000))
        .at(Call::Write, 1, Fault::Moves(1024))
        .at(Call::Read, 0, Fault::Moves(513))
        .share();
    let file = bench
        .try_open(bench.direct_options(), &script)
        .expect("open");
    bench.run(async {
        // The script answers EINVAL to a call that begins or ends inside a block.
        write(&file, 0, &bytes).await.expect("write");
        assert_eq!(script.count(Call::Write), 3, "0.., 512.., 1536..");
        assert_eq!(read(&file, 0, 4096).await.expect("read"), bytes);
        assert_eq!(script.count(Call::Read), 2, "0.., 512..");
    });
}

#[test]
fn a_direct_transfer_that_never_gets_past_a_block_ends_with_an_error() {
    let bench = Bench::new().with(&[0; 4096]);
    let stuck = (0..3).fold(Script::new().strict(512), |script, nth| {
        script
            .at(Call::Write, nth, Fault::Moves(700))
            .at(Call::Read, nth, Fault::Moves(600))
    });
    // 700 bytes move; from 512 on, 188 more would be no more than before.
    let stuck = stuck.at(Call::Write, 3, Fault::Moves(0)).share();
    let file = bench
        .try_open(bench.direct_options(), &stuck)
        .expect("open");
    bench.run(async {
        write(&file, 0, &pattern(4096))
            .await
            .expect_err("no end in sight");
        assert!(stuck.count(Call::Write) <= 4);
        // Reads: 600, then 1112, then 1624; from there on the faults are over.
        read(&file, 0, 4096).await.expect("read");
    });
}

#[test]
fn a_write_that_moves_nothing_is_short_and_says_how_far_it_came() {
    let bench = Bench::new().with(b"");
    let script =
        Script::new()
            .at(Call::Write, 0, Fault::Moves(10))
            .at(Call::Write, 1, Fault::Moves(0));
    let file = bench.open(&script.share());
    let error = bench
        .run(write(&file, 4096, &pattern(64)))
        .expect_err("short");
    assert_eq!(
        error,
        BlockError::new(Op::Write, 4096, 64, Cause::Short { moved: 10 })
    );
}

#[test]
fn an_error_of_any_call_names_the_whole_request() {
    let bench = Bench::new().with(&pattern(100));
    let script = Script::new()
        .at(Call::Read, 0, Fault::Moves(10))
        .at(Call::Read, 1, Fault::Fails(Raw::IO))
        .at(Call::Write, 0, Fault::Moves(10))
        .at(Call::Write, 1, Fault::Fails(Raw::NOSPC))
        .at(Call::Sync, 0, Fault::Fails(Raw::IO))
        .at(Call::Size, 0, Fault::Fails(Raw::STALE))
        .at(Call::Fallocate, 0, Fault::Fails(Raw::NOSPC))
        .at(Call::Fallocate, 1, Fault::Fails(Raw::IO))
        .at(Call::Truncate, 0, Fault::Fails(Raw::FBIG))
        .share();
    let file = bench.open(&script);
    let fails = |op, at, len, raw| Err(BlockError::new(op, at, len, errno(raw)));
    bench.run(async {
        assert_eq!(
            read(&file, 5, 50).await.map(drop),
            fails(Op::Read, 5, 50, Raw::IO)
        );
        assert_eq!(
            write(&file, 6, &[1; 40]).await,
            fails(Op::Write, 6, 40, Raw::NOSPC)
        );
        assert_eq!(file.flush().await, fails(Op::Flush, 0, 0, Raw::IO));
        assert_eq!(
            file.length().await,
            fails(Op::Length, 0, 0, Raw::STALE).map(|()| 0)
        );
        let zeroes = file
            .pwrite_zeroes(DiskOffset(7), 30, ZeroFlags::default())
            .await;
        assert_eq!(zeroes, fails(Op::WriteZeroes, 7, 30, Raw::NOSPC));
        let discard = file.pdiscard(DiskOffset(8), 20).await;
        assert_eq!(discard, fails(Op::Discard, 8, 20, Raw::IO));
        let to = Truncate {
            len: 1 << 40,
            exact: true,
            preallocation: Default::default(),
        };
        assert_eq!(
            file.truncate(to).await,
            fails(Op::Truncate, 1 << 40, 0, Raw::FBIG)
        );
        // None of these sticks, but that of the sync (see below).
        assert_eq!(read(&file, 50, 50).await.expect("read"), pattern(100)[50..]);
    });
}

#[test]
fn a_file_that_pretends_to_be_longer_than_it_is_gives_a_short_read() {
    let bench = Bench::new().with(&pattern(100));
    let script =
        Script::new()
            .at(Call::Size, 0, Fault::Answers(200))
            .at(Call::Size, 1, Fault::Answers(200));
    let file = bench.open(&script.share());
    let error = bench.run(read(&file, 0, 150)).expect_err("short");
    assert_eq!(
        error,
        BlockError::new(Op::Read, 0, 150, Cause::Short { moved: 100 })
    );
}

#[test]
fn a_read_at_the_end_goes_on_when_the_file_has_grown_meanwhile() {
    let bench = Bench::new().with(&pattern(100));
    // The read has met the end at 100; before the length is asked for, another process appends.
    let script = Script::new().at(Call::Size, 0, Fault::Resized(120)).share();
    let file = bench.open(&script);
    let mut expected = pattern(100);
    expected.resize(150, 0);
    assert_eq!(bench.run(read(&file, 0, 150)).expect("read"), expected);
    assert!(script.count(Call::Read) > 2, "the new bytes were asked for");
}

#[test]
fn a_system_that_cannot_write_and_sync_at_once_gets_two_calls() {
    let bench = Bench::new().with(b"");
    let script = Script::new()
        .at(Call::WriteDsync, 0, Fault::Fails(Raw::OPNOTSUPP))
        .share();
    let file = bench.open(&script);
    let flags = WriteFlags { fua: true };
    bench
        .run(file.pwritev(DiskOffset(0), vector(b"stable"), flags))
        .expect("write");
    assert_eq!(
        (script.count(Call::Write), script.count(Call::Sync)),
        (1, 1)
    );
    assert_eq!(bench.bytes(), b"stable");
}

#[test]
fn the_error_of_a_sync_after_a_stable_write_is_the_error_of_the_write() {
    let bench = Bench::new().with(b"");
    let script = Script::new()
        .at(Call::WriteDsync, 0, Fault::Fails(Raw::OPNOTSUPP))
        .at(Call::Sync, 0, Fault::Fails(Raw::IO));
    let file = bench.open(&script.share());
    let flags = WriteFlags { fua: true };
    let error = bench
        .run(file.pwritev(DiskOffset(9), vector(b"x"), flags))
        .expect_err("no sync");
    assert_eq!(error, BlockError::new(Op::Write, 9, 1, errno(Raw::IO)));
}

/// The kernel tells a failed write-back once, to one caller, and takes the lost pages for clean from then on. A second flush that said "ok"
/// would be a lie.
#[test]
fn a_failed_sync_of_cached_bytes_sticks() {
    let bench = Bench::new().with(&pattern(100));
    let script = Script::new()
        .at(Call::Sync, 0, Fault::Fails(Raw::IO))
        .share();
    let file = bench.open(&script);
    let failed = Err(BlockError::new(Op::Flush, 0, 0, errno(Raw::IO)));
    bench.run(async {
        assert_eq!(file.flush().await, failed);
        assert_eq!(file.flush().await, failed);
        assert_eq!(script.count(Call::Sync), 1, "the kernel would say ok now");
        let zeroes = ZeroFlags {
            fua: true,
            ..Default::default()
        };
        let error = file.pwrite_zeroes(DiskOffset(0), 10, zeroes).await;
        assert_eq!(
            error,
            Err(BlockError::new(Op::WriteZeroes, 0, 10, errno(Raw::IO)))
        );
    });
}

#[test]
fn a_failed_sync_of_a_direct_file_is_that_sync_alone() {
    let bench = Bench::new().with(&pattern(512));
    let script = Script::new()
        .strict(512)
        .at(Call::Sync, 0, Fault::Fails(Raw::IO))
        .share();
    let file = bench
        .try_open(bench.direct_options(), &script)
        .expect("open");
    bench.run(async {
        file.flush().await.expect_err("the fault");
        file.flush().await.expect("the next one");
    });
}

#[test]
fn a_job_that_panics_is_an_error_and_the_next_one_runs() {
    let bench = Bench::new().with(&pattern(100));
    let script = Script::new()
        .at(Call::Read, 0, Fault::Panics)
        .at(Call::Write, 0, Fault::Panics)
        .share();
    let file = bench.open(&script);
    bench.run(async {
        let (_, result) = file.preadv(DiskOffset(0), room(10, 10)).await;
        assert_eq!(
            result,
            Err(BlockError::new(Op::Read, 0, 10, Cause::Panicked))
        );
        let result = write(&file, 0, b"x").await;
        assert_eq!(
            result,
            Err(BlockError::new(Op::Write, 0, 1, Cause::Panicked))
        );
        assert_eq!(read(&file, 0, 100).await.expect("read"), pattern(100));
    });
}

#[test]
fn worker_threads_that_were_shut_down_are_an_error_of_every_call() {
    let bench = Bench::new().with(&pattern(100));
    let file = bench.open(&Script::new().share());
    bench.workers.shutdown();
    bench.run(async {
        assert!(matches!(
            file.length().await,
            Err(BlockError {
                cause: Cause::Driver(_),
                ..
            })
        ));
        let (_, result) = file.preadv(DiskOffset(0), room(10, 10)).await;
        assert!(matches!(
            result,
            Err(BlockError {
                cause: Cause::Driver(_),
                ..
            })
        ));
        let again = FileDriver::open(bench.path(), bench.options()).await;
        assert!(matches!(again, Err(OpenError::Workers { .. })));
    });
}
