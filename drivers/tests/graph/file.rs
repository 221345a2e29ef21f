//! A node on a file: unaligned ends, growing, closing.

use super::*;
use std::future::poll_fn;
use std::task::Poll;

#[test]
fn any_request_on_a_file_of_any_length_leaves_the_file_with_its_true_length() {
    each_cache(|bench| {
        let bench = bench.with(&pattern(1000));
        let mut model = pattern(1000);
        bench.run(async {
            let node = bench.file().await;
            assert_eq!(node.length().await, Ok(1000));
            // Inside, at both sides of a block's border, across the end, past the end.
            let cases = [
                (10, 20),
                (500, 30),
                (990, 100),
                (1090, 1),
                (5000, 700),
                (4096, 512),
            ];
            for (round, (at, len)) in cases.into_iter().enumerate() {
                let bytes = pattern(len + round)[round..].to_vec();
                write(&node, at as u64, &bytes).await.expect("write");
                model.resize(model.len().max(at + len), 0);
                model[at..at + len].copy_from_slice(&bytes);
                assert_eq!(bench.bytes(), model, "{at} + {len}");
                assert_eq!(node.length().await, Ok(model.len() as u64), "{at} + {len}");
            }
            assert_eq!(read(&node, 0, model.len()).await.expect("read"), model);
            let end = model.len() as u64;
            assert_eq!(
                read(&node, end - 3, 3).await.expect("read"),
                model[model.len() - 3..]
            );
            let after = read(&node, end - 3, 4)
                .await
                .expect_err("one byte too many");
            assert!(matches!(after.cause, Cause::OutOfBounds { .. }), "{after}");
            node.close().await.expect("close");
        });
        assert_eq!(bench.bytes(), model);
    });
}

#[test]
fn the_length_follows_truncate_zeroes_and_nothing_else() {
    each_cache(|bench| {
        let bench = bench.with(&pattern(10_000));
        bench.run(async {
            let node = bench.file().await;
            node.truncate(to(3333)).await.expect("shorter");
            assert_eq!(bench.bytes(), pattern(10_000)[..3333]);
            node.pwrite_zeroes(DiskOffset(3000), 1111, ZeroFlags::default())
                .await
                .expect("zeroes");
            let mut model = pattern(3000);
            model.resize(4111, 0);
            assert_eq!(bench.bytes(), model);
            node.pdiscard(DiskOffset(0), 4111).await.expect("discard");
            assert_eq!(node.length().await, Ok(4111));
            assert_eq!(bench.bytes().len(), 4111);
            node.flush().await.expect("flush");
            node.close().await.expect("close");
        });
    });
}

#[test]
fn closing_the_node_unlocks_the_file_and_later_calls_are_refused() {
    each_cache(|bench| {
        bench.run(async {
            let node = bench.file().await;
            write(&node, 0, &pattern(100)).await.expect("write");
            let again = FileOptions::writer(bench.workers.clone());
            let locked = FileDriver::open(bench.path(), again.clone())
                .await
                .map(drop);
            assert!(
                matches!(locked, Err(OpenError::Locked { .. })),
                "{locked:?}"
            );
            node.close().await.expect("close");
            FileDriver::open(bench.path(), again)
                .await
                .expect("unlocked");
            let error = write(&node, 0, b"x").await.expect_err("closed");
            assert_eq!(error.cause, Cause::Closed);
        });
        assert_eq!(bench.bytes(), pattern(100));
    });
}

#[test]
fn futures_dropped_in_the_middle_leave_a_node_that_drains_closes_and_has_the_bytes() {
    each_cache(|bench| {
        bench.run(async {
            let node = bench.file().await;
            for round in 0..50_u64 {
                // Polled once: the request is on its way, and no task waits for it.
                let bytes = pattern(5000);
                let mut write = Box::pin(write(&node, round * 5000 + 7, &bytes));
                poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx).is_ready())).await;
            }
            drop(node.drain_begin().await.expect("drain"));
            assert_eq!(node.in_flight(), 0);
            for round in 0..50 {
                let bytes = read(&node, round * 5000 + 7, 5000).await.expect("read");
                assert_eq!(bytes, pattern(5000), "round {round}");
            }
            node.close().await.expect("close");
        });
    });
}

#[test]
fn a_read_only_node_on_a_read_only_file_reads_and_refuses_writes() {
    let bench = Bench::new(CacheMode::Writeback).with(&pattern(100));
    bench.run(async {
        let options = FileOptions::reader(bench.workers.clone());
        let driver = FileDriver::open(bench.path(), options).await.expect("open");
        let builder = NodeBuilder::new("file").read_only(true);
        let node = builder.open(&bench.handle(), driver).await.expect("a node");
        assert_eq!(read(&node, 0, 100).await.expect("read"), pattern(100));
        assert_eq!(
            write(&node, 0, b"x").await.expect_err("refused").cause,
            Cause::ReadOnly
        );
        node.close().await.expect("close");
    });
}

#[test]
fn a_file_has_no_vmstate_area() {
    let bench = Bench::new(CacheMode::Writeback).with(&pattern(100));
    bench.run(async {
        let node = bench.file().await;
        assert!(node.vmstate_node().is_none());
        let error = node
            .save_vmstate_unbuffered(VmstateOffset(0), vector(b"x"))
            .await;
        assert_eq!(error.expect_err("no area").cause, Cause::NotSupported);
    });
    assert_eq!(bench.bytes(), pattern(100));
}
