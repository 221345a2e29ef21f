//! A window on a file.

use super::*;
use block_drivers::{RawDriver, RawOptions, VmstateFileDriver};
use std::os::unix::fs::MetadataExt;

async fn window(bench: &Bench, file: &BlockNode, offset: u64, size: Option<u64>) -> BlockNode {
    let driver = RawDriver::open(user(file), RawOptions { offset, size })
        .await
        .expect("a window");
    bench.node("raw", driver).await
}

/// A guest's disk must never take a machine's state for data: nothing could tell them apart afterwards.
#[test]
fn savevm_over_raw_on_a_disk_full_of_guest_data_is_enotsup_and_changes_no_byte() {
    each_cache(|bench| {
        let guest = pattern(3 << 20);
        let bench = bench.with(&guest);
        let before = bench.path().metadata().expect("the disk");
        bench.run(async {
            let file = bench.file().await;
            let raw = window(&bench, &file, 0, None).await;
            assert!(raw.vmstate_node().is_none());
            assert!(raw.vmstate_limits().is_none());
            for (at, len) in [(0, 1), (0, 1 << 20), (1 << 21, 4096), (1 << 40, 512)] {
                let state = vector(&vec![0xAB; len]);
                let error = raw.save_vmstate_unbuffered(VmstateOffset(at), state).await;
                let (op, len) = (Op::SaveVmstate, len as u64);
                assert_eq!(
                    error,
                    Err(BlockError::new(op, at, len, Cause::NotSupported))
                );
                assert_eq!(
                    error.expect_err("refused").errno(),
                    block_core::Errno::NOTSUP
                );
            }
            let (dst, error) = raw
                .load_vmstate_unbuffered(VmstateOffset(0), room(512))
                .await;
            assert_eq!(error.expect_err("refused").cause, Cause::NotSupported);
            assert_eq!(joined(dst), [0xEE; 512]);
            assert!(raw.vmstate_length().await.is_err());
            let finish = raw.finish_vmstate(0).await.expect_err("refused");
            assert_eq!(
                finish.cause,
                Cause::NotSupported,
                "or the disk would be cut to nothing"
            );
            raw.close().await.expect("close");
            drop(raw);
            file.close().await.expect("close");
        });
        assert_eq!(bench.bytes(), guest);
        let after = bench.path().metadata().expect("the disk");
        assert_eq!(
            after.modified().expect("a time"),
            before.modified().expect("a time")
        );
        assert_eq!(after.blocks(), before.blocks());
    });
}

#[test]
fn a_window_with_odd_edges_reads_and_writes_exactly_its_bytes() {
    each_cache(|bench| {
        let mut model = pattern(20_000);
        let bench = bench.with(&model);
        let (offset, size) = (1237, 9311);
        bench.run(async {
            let file = bench.file().await;
            let raw = window(&bench, &file, offset, Some(size)).await;
            assert_eq!(raw.length().await, Ok(size));
            let (first, last) = (offset as usize, (offset + size) as usize);
            assert_eq!(
                read(&raw, 0, size as usize).await.expect("read"),
                model[first..last]
            );
            for (round, (at, len)) in [
                (0, 1),
                (0, 9311),
                (9310, 1),
                (511, 2),
                (1000, 4096),
                (9000, 311),
            ]
            .into_iter()
            .enumerate()
            {
                let bytes = pattern(len + round + 1)[round + 1..].to_vec();
                write(&raw, at as u64, &bytes).await.expect("write");
                model[first + at..first + at + len].copy_from_slice(&bytes);
                assert_eq!(bench.bytes(), model, "{at} + {len}");
                assert_eq!(read(&raw, at as u64, len).await.expect("read"), bytes);
            }
            raw.pwrite_zeroes(DiskOffset(9000), 311, ZeroFlags::default())
                .await
                .expect("zeroes");
            model[first + 9000..last].fill(0);
            assert_eq!(bench.bytes(), model);
            raw.pdiscard(DiskOffset(0), size).await.expect("discard");
            let bytes = bench.bytes();
            assert_eq!(bytes[..first], model[..first], "in front of the window");
            assert_eq!(bytes[last..], model[last..], "past it");
            raw.flush().await.expect("flush");
        });
    });
}

#[test]
fn requests_over_the_edge_of_a_window_are_refused_although_the_child_has_the_bytes() {
    each_cache(|bench| {
        let bench = bench.with(&pattern(20_000));
        bench.run(async {
            let file = bench.file().await;
            let raw = window(&bench, &file, 1000, Some(1000)).await;
            let cause = Cause::OutOfBounds {
                end: 1001,
                size: 1000,
            };
            let error = write(&raw, 999, b"xy").await;
            assert_eq!(
                error,
                Err(BlockError::new(Op::Write, 999, 2, cause.clone()))
            );
            let error = read(&raw, 999, 2).await.map(drop);
            assert_eq!(error, Err(BlockError::new(Op::Read, 999, 2, cause)));
            for at in [i64::MAX as u64, u64::MAX - 999] {
                let error = write(&raw, at, b"xy").await.expect_err("far away");
                assert_eq!(error.cause, Cause::Overflow);
            }
        });
        assert_eq!(bench.bytes(), pattern(20_000));
    });
}

#[test]
fn the_driver_alone_keeps_to_its_window_too() {
    let bench = Bench::new(CacheMode::Writeback).with(&pattern(5000));
    bench.run(async {
        let file = bench.file().await;
        let options = RawOptions {
            offset: 1000,
            size: Some(100),
        };
        let driver = RawDriver::open(user(&file), options)
            .await
            .expect("a window");
        let cause = Cause::OutOfBounds {
            end: 101,
            size: 100,
        };
        let (dst, error) = driver.preadv(DiskOffset(99), room(2)).await;
        assert_eq!(error, Err(BlockError::new(Op::Read, 99, 2, cause.clone())));
        assert_eq!(joined(dst), [0xEE; 2]);
        let error = driver
            .pwritev(DiskOffset(99), vector(b"xy"), WriteFlags::default())
            .await;
        assert_eq!(error, Err(BlockError::new(Op::Write, 99, 2, cause)));
    });
    assert_eq!(bench.bytes(), pattern(5000));
}

#[test]
fn a_window_must_lie_inside_the_child() {
    let bench = Bench::new(CacheMode::Writeback).with(&pattern(1000));
    bench.run(async {
        let file = bench.file().await;
        let open = async |offset, size| {
            RawDriver::open(user(&file), RawOptions { offset, size })
                .await
                .map(drop)
        };
        assert_eq!(open(1000, None).await, Ok(()), "an empty one");
        assert_eq!(open(1, Some(999)).await, Ok(()));
        let out = |offset, len, end| {
            let cause = Cause::OutOfBounds { end, size: 1000 };
            Err(BlockError::new(Op::Open, offset, len, cause))
        };
        assert_eq!(open(1001, None).await, out(1001, 0, 1001));
        assert_eq!(open(1, Some(1000)).await, out(1, 1000, 1001));
        let error = open(u64::MAX, Some(2)).await.expect_err("overflow");
        assert_eq!(error.cause, Cause::Overflow);
    });
}

#[test]
fn a_window_without_a_size_follows_the_child_and_truncates_it() {
    each_cache(|bench| {
        let bench = bench.with(&pattern(5000));
        bench.run(async {
            let file = bench.file().await;
            let raw = window(&bench, &file, 1000, None).await;
            assert_eq!(raw.length().await, Ok(4000));
            raw.truncate(to(500)).await.expect("shorter");
            assert_eq!(bench.bytes(), pattern(5000)[..1500]);
            raw.truncate(to(2000)).await.expect("longer");
            assert_eq!(raw.length().await, Ok(2000));
            let error = raw
                .truncate(to(i64::MAX as u64))
                .await
                .expect_err("too long");
            assert_eq!(error.cause, Cause::Overflow);
            let error = write(&raw, 1999, b"xy")
                .await
                .expect_err("a disk does not grow by itself");
            assert!(matches!(error.cause, Cause::OutOfBounds { .. }), "{error}");
        });
        assert_eq!(bench.bytes().len(), 3000);
    });
}

#[test]
fn a_window_with_a_size_keeps_it() {
    let bench = Bench::new(CacheMode::Writeback).with(&pattern(5000));
    bench.run(async {
        let file = bench.file().await;
        let raw = window(&bench, &file, 1000, Some(100)).await;
        let error = raw.truncate(to(200)).await;
        let expected = BlockError::new(Op::Truncate, 200, 0, Cause::NotSupported);
        assert_eq!(error.expect_err("fixed").cause, expected.cause);
    });
    assert_eq!(bench.bytes(), pattern(5000));
}

#[test]
fn status_is_the_childs_and_maps_to_the_childs_offset() {
    let bench = Bench::new(CacheMode::Writeback).with(b"");
    bench.run(async {
        let file = bench.file().await;
        file.truncate(to(4 << 20)).await.expect("a hole");
        write(&file, 1 << 20, &pattern(1 << 20))
            .await
            .expect("data");
        let raw = window(&bench, &file, 1 << 19, None).await;
        let hole = raw
            .block_status(DiskOffset(0), 3 << 20)
            .await
            .expect("status");
        assert_eq!((hole.len, hole.zero, hole.data), (1 << 19, true, false));
        let data = raw
            .block_status(DiskOffset(hole.len), 3 << 20)
            .await
            .expect("status");
        assert_eq!((data.len, data.zero, data.data), (1 << 20, false, true));
        assert_eq!(data.map, Some(DiskOffset(1 << 20)));
    });
}

#[test]
fn errors_of_the_child_are_told_in_the_windows_offsets() {
    let bench = Bench::new(CacheMode::Writeback).with(&pattern(5000));
    bench.run(async {
        let file = bench.file().await;
        let raw = window(&bench, &file, 1000, None).await;
        // The child becomes shorter without the node, which asked for the length before.
        let driver = RawDriver::open(
            user_sharing(&file),
            RawOptions {
                offset: 1000,
                size: None,
            },
        );
        let driver = driver.await.expect("a window");
        file.truncate(to(2000)).await.expect("shorter");
        let (_, error) = driver.preadv(DiskOffset(990), room(20)).await;
        let cause = Cause::OutOfBounds {
            end: 1010,
            size: 1000,
        };
        assert_eq!(error, Err(BlockError::new(Op::Read, 990, 20, cause)));
        drop(raw);
    });
}

/// A second user beside the first.
fn user_sharing(node: &BlockNode) -> BlockChild {
    let permissions = Permissions::force_share();
    node.attach("a second one", permissions)
        .expect("it shares everything")
}

#[test]
fn a_saved_state_is_no_disk_to_show() {
    let bench = Bench::new(CacheMode::Writeback);
    bench.run(async {
        let file = bench.file().await;
        let state = bench
            .node("state", VmstateFileDriver::new(user(&file)))
            .await;
        let error = RawDriver::open(user(&state), RawOptions::default())
            .await
            .map(drop);
        assert!(matches!(
            error.expect_err("refused").cause,
            Cause::Driver(_)
        ));
    });
}

#[test]
fn closing_raw_closes_the_file_and_gives_its_locks_back() {
    let bench = Bench::new(CacheMode::Writeback).with(&[0; 4096]);
    bench.run(async {
        let file = bench.file().await;
        let raw = window(&bench, &file, 0, None).await;
        let second = FileOptions::writer(bench.workers.clone());
        let refused = FileDriver::open(bench.path(), second.clone()).await;
        assert!(matches!(refused.map(drop), Err(OpenError::Locked { .. })));
        raw.close().await.expect("close");
        assert!(file.is_closed(), "nothing else uses it");
        let opened = FileDriver::open(bench.path(), second).await;
        opened.expect("nothing holds it, though the nodes are still there");
    });
}

#[test]
fn closing_raw_leaves_a_file_open_that_another_window_shows() {
    let bench = Bench::new(CacheMode::Writeback).with(&[7; 4096]);
    bench.run(async {
        let file = bench.file().await;
        let mut windows = Vec::new();
        for _ in 0..2 {
            let user = file
                .attach("a window", Permissions::force_share())
                .expect("shared");
            let driver = RawDriver::open(user, RawOptions::default()).await;
            windows.push(bench.node("raw", driver.expect("a window")).await);
        }
        windows[0].close().await.expect("close");
        assert_eq!(read(&windows[1], 0, 3).await, Ok(vec![7; 3]));
        windows[1].close().await.expect("close");
        assert!(file.is_closed(), "the last one closes it");
    });
}
