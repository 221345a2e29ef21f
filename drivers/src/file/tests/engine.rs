//! Reading and writing when nothing goes wrong.

use super::*;

#[test]
fn what_is_written_is_read_back_at_any_offset_and_length() {
    let bench = Bench::new().with(b"");
    let script = Script::new().share();
    let file = bench.open(&script);
    let bytes = pattern(70_000);
    bench.run(async {
        write(&file, 12_345, &bytes).await.expect("write");
        assert_eq!(read(&file, 12_345, bytes.len()).await.expect("read"), bytes);
        assert_eq!(
            read(&file, 0, 12_345).await.expect("the hole"),
            vec![0; 12_345]
        );
        assert_eq!(file.length().await, Ok(12_345 + 70_000));
    });
    assert_eq!(bench.bytes()[12_345..], bytes);
    assert_eq!(script.count(Call::Write), 1, "one call is enough");
}

#[test]
fn bytes_past_the_end_read_as_zeroes() {
    let bench = Bench::new().with(&pattern(1000));
    let file = bench.open(&Script::new().share());
    let mut expected = pattern(1000)[900..].to_vec();
    expected.resize(4096, 0);
    bench.run(async {
        assert_eq!(
            read(&file, 900, 4096).await.expect("across the end"),
            expected
        );
        assert_eq!(
            read(&file, 1000, 512).await.expect("at the end"),
            vec![0; 512]
        );
        assert_eq!(
            read(&file, 1 << 40, 512).await.expect("far past it"),
            vec![0; 512]
        );
    });
    assert_eq!(bench.bytes().len(), 1000, "reading makes nothing longer");
}

#[test]
fn zeroes_past_the_end_reach_every_piece_of_the_vector() {
    let bench = Bench::new().with(&pattern(1000));
    let file = bench.open(&Script::new().share());
    let (dst, result) = bench.run(file.preadv(DiskOffset(0), room(3000, 400)));
    result.expect("read");
    let mut expected = pattern(1000);
    expected.resize(3000, 0);
    assert_eq!(joined(dst), expected);
}

#[test]
fn a_vector_of_more_than_1024_pieces_takes_several_calls() {
    let bench = Bench::new().with(b"");
    let script = Script::new().share();
    let file = bench.open(&script);
    let bytes = pattern(2500 * 16);
    bench.run(async {
        let src = pieces(&bytes, 16);
        file.pwritev(DiskOffset(7), src, WriteFlags::default())
            .await
            .expect("write");
        assert_eq!(script.count(Call::Write), 3, "1024 + 1024 + 452 pieces");
        let (dst, result) = file.preadv(DiskOffset(7), room(bytes.len(), 16)).await;
        result.expect("read");
        assert_eq!(script.count(Call::Read), 3, "1024 + 1024 + 452 pieces");
        assert_eq!(joined(dst), bytes);
    });
}

#[test]
fn a_request_without_a_byte_makes_no_call() {
    let bench = Bench::new().with(b"abc");
    let script = Script::new().share();
    let file = bench.open(&script);
    bench.run(async {
        write(&file, 1 << 50, &[]).await.expect("write nothing");
        assert_eq!(read(&file, 1 << 50, 0).await.expect("read nothing"), vec![]);
        let zeroes = file.pwrite_zeroes(DiskOffset(1 << 50), 0, ZeroFlags::default());
        zeroes.await.expect("zero nothing");
        file.pdiscard(DiskOffset(1 << 50), 0)
            .await
            .expect("discard nothing");
    });
    let calls = [Call::Read, Call::Write, Call::Fallocate];
    assert_eq!(calls.map(|call| script.count(call)), [0; 3]);
    assert_eq!(bench.bytes(), b"abc");
}

#[test]
fn a_range_that_ends_after_2_to_the_63_is_an_overflow_of_that_request() {
    let bench = Bench::new().with(b"abc");
    let file = bench.open(&Script::new().share());
    let last = i64::MAX as u64;
    let overflow = |op, at, len| Err(BlockError::new(op, at, len, Cause::Overflow));
    bench.run(async {
        assert_eq!(
            write(&file, last, &[1, 2]).await,
            overflow(Op::Write, last, 2)
        );
        assert_eq!(
            read(&file, u64::MAX, 2).await.map(drop),
            overflow(Op::Read, u64::MAX, 2)
        );
        let zeroes = file
            .pwrite_zeroes(DiskOffset(last), last, ZeroFlags::default())
            .await;
        assert_eq!(zeroes, overflow(Op::WriteZeroes, last, last));
        let discard = file.pdiscard(DiskOffset(1), u64::MAX).await;
        assert_eq!(discard, overflow(Op::Discard, 1, u64::MAX));
        let status = file.block_status(DiskOffset(last), 1).await.map(drop);
        assert_eq!(status, overflow(Op::BlockStatus, last, 1));
        let to = Truncate {
            len: last + 1,
            exact: true,
            preallocation: Default::default(),
        };
        assert_eq!(file.truncate(to).await, overflow(Op::Truncate, last + 1, 0));
    });
    assert_eq!(bench.bytes(), b"abc");
}

#[test]
fn a_write_that_must_be_stable_syncs_itself_and_an_ordinary_one_does_not() {
    let bench = Bench::new().with(b"");
    let script = Script::new().share();
    let file = bench.open(&script);
    assert!(file.supports_fua());
    bench.run(async {
        let flags = WriteFlags { fua: true };
        file.pwritev(DiskOffset(0), vector(b"stable"), flags)
            .await
            .expect("write");
        write(&file, 6, b" and not").await.expect("write");
        assert_eq!(
            (script.count(Call::WriteDsync), script.count(Call::Write)),
            (1, 1)
        );
        assert_eq!(script.count(Call::Sync), 0);
        file.flush().await.expect("flush");
        assert_eq!(script.count(Call::Sync), 1);
    });
    assert_eq!(bench.bytes(), b"stable and not");
}

#[test]
fn the_memory_of_a_write_is_free_when_the_write_returns() {
    let bench = Bench::new().with(b"");
    let file = bench.open(&Script::new().share());
    // A job that lets go of its memory only after it has told its result loses this race now and then.
    for round in 0..500 {
        let memory = IoBuf::copy_of(&[round as u8; 512], 512)
            .expect("memory")
            .freeze();
        let src = IoVector::from(memory.clone());
        bench
            .run(file.pwritev(DiskOffset(0), src, WriteFlags::default()))
            .expect("write");
        assert!(
            memory.try_into_mut().is_ok(),
            "round {round}: the job still holds the memory"
        );
    }
}
