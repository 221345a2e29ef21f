//! One stream in a plain file.

use super::*;
use block_core::BlockLimits;
use block_core::test_disk::{TestDisk, TestDiskOptions};
use block_drivers::VmstateFileDriver;

async fn state(bench: &Bench) -> (BlockNode, BlockNode) {
    let file = bench.file().await;
    let state = bench
        .node("state", VmstateFileDriver::new(user(&file)))
        .await;
    (state, file)
}

async fn save(node: &BlockNode, at: u64, bytes: &[u8]) -> Result<(), BlockError> {
    node.save_vmstate_unbuffered(VmstateOffset(at), vector(bytes))
        .await
}

async fn load(node: &BlockNode, at: u64, len: usize) -> Result<Vec<u8>, BlockError> {
    let (dst, result) = node
        .load_vmstate_unbuffered(VmstateOffset(at), room(len))
        .await;
    assert_eq!(dst.len(), len as u64, "the memory comes back");
    result.map(|()| joined(dst))
}

#[test]
fn the_file_is_the_stream_byte_for_byte_whatever_its_length() {
    for len in [0, 1, 511, 512, 513, 4096, 100_001, 3 << 20] {
        each_cache(|bench| {
            let stream = pattern(len);
            bench.run(async {
                let (state, file) = state(&bench).await;
                for (piece, bytes) in stream.chunks(30_007).enumerate() {
                    save(&state, piece as u64 * 30_007, bytes)
                        .await
                        .expect("save");
                }
                state.finish_vmstate(len as u64).await.expect("finish");
                assert_eq!(state.vmstate_length().await, Ok(Some(len as u64)));
                state.close().await.expect("close");
                drop(state);
                file.close().await.expect("close");
            });
            assert_eq!(bench.bytes(), stream, "{len} bytes");
        });
    }
}

#[test]
fn pieces_may_come_in_any_order_and_gaps_read_as_zeroes() {
    each_cache(|bench| {
        let mut model = vec![0; 20_000];
        bench.run(async {
            let (state, _file) = state(&bench).await;
            for (at, len) in [
                (15_000, 5000),
                (100, 50),
                (4096, 4096),
                (120, 700),
                (19_999, 1),
            ] {
                let bytes = &pattern(len + at % 7)[at % 7..];
                save(&state, at as u64, bytes).await.expect("save");
                model[at..at + len].copy_from_slice(bytes);
            }
            state.finish_vmstate(20_000).await.expect("finish");
            assert_eq!(load(&state, 0, 20_000).await.expect("load"), model);
        });
        assert_eq!(bench.bytes(), model);
    });
}

#[test]
fn a_load_across_the_end_has_zeroes_there() {
    each_cache(|bench| {
        let bench = bench.with(&pattern(1000));
        bench.run(async {
            let (state, _file) = state(&bench).await;
            let mut expected = pattern(1000)[900..].to_vec();
            expected.resize(2000, 0);
            assert_eq!(load(&state, 900, 2000).await.expect("across"), expected);
            assert_eq!(
                load(&state, 1000, 10).await.expect("at the end"),
                vec![0; 10]
            );
            assert_eq!(
                load(&state, 1 << 50, 10).await.expect("far past"),
                vec![0; 10]
            );
            let error = load(&state, i64::MAX as u64, 10)
                .await
                .expect_err("overflow");
            assert_eq!(error.cause, Cause::Overflow);
        });
        assert_eq!(bench.bytes(), pattern(1000));
    });
}

#[test]
fn a_shorter_state_over_a_longer_one_leaves_nothing_of_it() {
    each_cache(|bench| {
        bench.run(async {
            let (state, _file) = state(&bench).await;
            for len in [50_000, 777, 0, 30_011] {
                save(&state, 0, &pattern(len)).await.expect("save");
                state.finish_vmstate(len as u64).await.expect("finish");
                assert_eq!(bench.bytes(), pattern(len), "{len} bytes");
            }
        });
    });
}

#[test]
fn as_a_disk_it_is_empty_and_refuses_the_guest() {
    let bench = Bench::new(CacheMode::Writeback).with(&pattern(1000));
    bench.run(async {
        let (state, _file) = state(&bench).await;
        assert_eq!(state.length().await, Ok(0));
        write(&state, 0, b"guest").await.expect_err("no disk");
        read(&state, 0, 5).await.map(drop).expect_err("no disk");
        state.truncate(to(5)).await.expect_err("no disk");
        state.flush().await.expect("flushes the stream");
    });
    assert_eq!(bench.bytes(), pattern(1000));

    let alone = bench.run(async {
        let driver = VmstateFileDriver::new(user(&bench.file().await));
        let written = driver
            .pwritev(DiskOffset(0), vector(b"guest"), WriteFlags::default())
            .await;
        let (_, read) = driver.preadv(DiskOffset(0), room(5)).await;
        (written.map_err(|e| e.cause), read.map_err(|e| e.cause))
    });
    assert_eq!(alone, (Err(Cause::NotSupported), Err(Cause::NotSupported)));
}

#[test]
fn the_area_has_the_alignments_of_the_file() {
    each_cache(|bench| {
        bench.run(async {
            let (state, file) = state(&bench).await;
            let limits = state.vmstate_limits().expect("an area");
            assert_eq!(limits.request_alignment, file.limits().request_alignment);
            assert_eq!(limits.memory_alignment, file.limits().memory_alignment);
            assert_eq!(limits.cluster_size, 0);
            assert!(state.vmstate_node().expect("an area").is_same(&state));
        });
    });
}

#[test]
fn errors_are_those_of_the_save_and_not_of_the_write_below() {
    let bench = Bench::new(CacheMode::Writeback).with(&pattern(1000));
    bench.run(async {
        let options = FileOptions {
            permissions: Permissions::reader(),
            ..FileOptions::writer(bench.workers.clone())
        };
        let driver = FileDriver::open(bench.path(), options).await.expect("open");
        let file = bench.node("file", driver).await;
        let child = file.attach("state", Permissions::reader()).expect("attach");
        let state = bench.node("state", VmstateFileDriver::new(child)).await;
        let error = save(&state, 17, &pattern(100))
            .await
            .expect_err("may not write");
        assert_eq!(
            (error.op, error.offset, error.len),
            (Op::SaveVmstate, 17, 100)
        );
        assert!(matches!(error.cause, Cause::NoPermission { .. }), "{error}");
        let error = state.finish_vmstate(3).await.expect_err("may not cut");
        assert_eq!(error.op, Op::FinalizeVmstate);
    });
    assert_eq!(bench.bytes(), pattern(1000));
}

#[test]
fn closing_the_state_closes_the_file() {
    let bench = Bench::new(CacheMode::Writeback);
    bench.run(async {
        let (state, file) = state(&bench).await;
        save(&state, 0, b"bytes").await.expect("save");
        state.finish_vmstate(5).await.expect("finish");
        state.close().await.expect("close");
        assert!(file.is_closed());
        assert_eq!(
            file.close().await,
            Ok(()),
            "a second close tells the result of the first"
        );
    });
    assert_eq!(bench.bytes(), b"bytes");
}

#[test]
fn the_length_is_asked_once_and_again_after_a_save() {
    let bench = Bench::new(CacheMode::Writeback);
    bench.run(async {
        let options = TestDiskOptions {
            grows: true,
            limits: BlockLimits {
                request_alignment: 512,
                ..BlockLimits::default()
            },
            ..TestDiskOptions::default()
        };
        let (disk, knobs) = TestDisk::new(options);
        let file = bench.node("file", disk).await;
        let state = bench
            .node("state", VmstateFileDriver::new(user(&file)))
            .await;
        let stream = pattern(100_000);
        let start = knobs.length_calls();
        for (piece, bytes) in stream.chunks(1000).enumerate() {
            save(&state, piece as u64 * 1000, bytes)
                .await
                .expect("save");
        }
        assert!(knobs.length_calls() - start <= 2, "not once per piece");

        let start = knobs.length_calls();
        for piece in 0..100 {
            let bytes = load(&state, piece * 1000, 1000).await.expect("load");
            assert_eq!(bytes, stream[piece as usize * 1000..][..1000]);
        }
        assert!(knobs.length_calls() - start <= 1, "not once per read");

        // What a save adds is seen by the next read, also where zeroes were read before.
        let end = 3 << 20;
        assert_eq!(load(&state, end, 10).await, Ok(vec![0; 10]));
        save(&state, end, &[7; 10]).await.expect("save");
        assert_eq!(load(&state, end, 10).await, Ok(vec![7; 10]));
    });
}

#[test]
fn a_state_that_became_shorter_is_an_error_and_not_zeroes() {
    let shorten = |bench: &Bench| {
        let file = std::fs::OpenOptions::new().write(true).open(bench.path());
        file.expect("opens").set_len(10_000).expect("cut");
    };
    let shrunk = |cause: &Cause| matches!(cause, Cause::Shrunk { length: 50_000, .. });
    // Before the first read, after the length was asked for, and after a read.
    for before in 0..3 {
        each_cache(|bench| {
            let bench = bench.with(&pattern(50_000));
            bench.run(async {
                let (state, _file) = state(&bench).await;
                if before > 0 {
                    assert_eq!(state.vmstate_length().await, Ok(Some(50_000)));
                }
                if before > 1 {
                    load(&state, 0, 4096).await.expect("whole");
                }
                shorten(&bench);
                let error = load(&state, 8192, 4096).await.expect_err("shorter");
                assert!(shrunk(&error.cause), "{error}");
                assert_eq!(error.errno(), block_core::Errno::IO);
                let error = load(&state, 40_000, 20_000).await.expect_err("shorter");
                assert!(shrunk(&error.cause), "{error}");
                let error = state.vmstate_length().await.expect_err("shorter");
                assert!(shrunk(&error.cause), "{error}");
            });
        });
    }
}

#[test]
fn a_state_in_any_child_that_became_shorter_is_an_error() {
    let bench = Bench::new(CacheMode::Writeback);
    bench.run(async {
        let (disk, _control) = TestDisk::new(TestDiskOptions {
            grows: true,
            ..TestDiskOptions::default()
        });
        let file = bench.node("file", disk).await;
        let driver = VmstateFileDriver::new(user(&file));
        driver
            .save_vmstate(VmstateOffset(0), vector(&pattern(5000)))
            .await
            .expect("save");
        driver.finish_vmstate(5000).await.expect("finish");
        assert_eq!(driver.vmstate_length().await, Ok(Some(5000)));
        file.truncate(to(1000)).await.expect("by another user");
        let error = driver.vmstate_length().await.expect_err("shorter");
        assert!(
            matches!(error.cause, Cause::Shrunk { got: 1000, .. }),
            "{error}"
        );
        driver.finish_vmstate(800).await.expect("a new end");
        assert_eq!(driver.vmstate_length().await, Ok(Some(800)));
    });
}
