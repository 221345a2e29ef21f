//! A disk that is not there.

use super::*;
use block_drivers::NullDriver;

#[test]
fn it_reads_as_zeroes_whatever_was_written_and_keeps_its_length() {
    let bench = Bench::new(CacheMode::Writeback);
    bench.run(async {
        let node = bench
            .node("null", NullDriver::new(10_001).expect("a length"))
            .await;
        write(&node, 9_000, &pattern(1001)).await.expect("write");
        assert_eq!(read(&node, 0, 10_001).await.expect("read"), vec![0; 10_001]);
        assert_eq!(node.length().await, Ok(10_001));
        node.pwrite_zeroes(DiskOffset(1), 10_000, ZeroFlags::default())
            .await
            .expect("zeroes");
        node.pdiscard(DiskOffset(0), 10_001).await.expect("discard");
        node.flush().await.expect("flush");
        let status = node
            .block_status(DiskOffset(0), 10_001)
            .await
            .expect("status");
        assert!(status.zero && !status.data && status.len == 10_001);
        node.close().await.expect("close");
    });
}

#[test]
fn it_ends_where_it_was_told_to_and_does_not_grow() {
    let bench = Bench::new(CacheMode::Writeback);
    bench.run(async {
        let node = bench
            .node("null", NullDriver::new(100).expect("a length"))
            .await;
        let error = write(&node, 99, b"xy").await.expect_err("past the end");
        let cause = Cause::OutOfBounds {
            end: 101,
            size: 100,
        };
        assert_eq!(error, BlockError::new(Op::Write, 99, 2, cause));
        let error = node.truncate(to(200)).await.expect_err("fixed");
        assert_eq!(error.cause, Cause::NotSupported);
        assert!(node.vmstate_node().is_none());
    });
}

#[test]
fn a_length_of_2_to_the_63_is_refused_and_the_largest_one_works_at_its_end() {
    let error = NullDriver::new(1 << 63).map(drop).expect_err("too long");
    assert_eq!(error.cause, Cause::Overflow);
    let bench = Bench::new(CacheMode::Writeback);
    let len = i64::MAX as u64;
    bench.run(async {
        let node = bench
            .node("null", NullDriver::new(len).expect("a length"))
            .await;
        assert_eq!(
            read(&node, len - 5, 5).await.expect("the last bytes"),
            vec![0; 5]
        );
        write(&node, len - 1, b"x").await.expect("the last byte");
    });
}

#[test]
fn the_driver_alone_checks_its_bounds_too() {
    let driver = NullDriver::new(10).expect("a length");
    let bench = Bench::new(CacheMode::Writeback);
    bench.run(async {
        let (dst, result) = driver.preadv(DiskOffset(8), room(4)).await;
        let cause = Cause::OutOfBounds { end: 12, size: 10 };
        assert_eq!(result, Err(BlockError::new(Op::Read, 8, 4, cause)));
        assert_eq!(joined(dst), [0xEE; 4], "nothing was read");
        let error = driver.pwritev(DiskOffset(u64::MAX), vector(b"x"), WriteFlags::default());
        assert_eq!(error.await.expect_err("overflow").cause, Cause::Overflow);
    });
}
