//! Futures dropped with I/O in flight, and the end of a driver's life.

use super::*;
use crate::file::fault::gate;
use std::io::Read;
use std::pin::pin;
use std::task::{Context, Waker};

/// Polls once; the job is submitted then.
fn start<F: Future>(future: F) -> bool {
    pin!(future)
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_ready()
}

#[test]
fn a_write_whose_future_is_dropped_keeps_its_memory_and_lands() {
    let bench = Bench::new().with(b"........");
    let (fault, mut held) = gate();
    let file = bench.open(
        &Script::new()
            .at(Call::Write, 0, Fault::Waits(fault))
            .share(),
    );
    let memory = IoBuf::copy_of(b"written", 1).expect("memory").freeze();

    let src = IoVector::from(memory.clone());
    assert!(!start(file.pwritev(
        DiskOffset(0),
        src,
        WriteFlags::default()
    )));
    held.wait();
    // The future is gone, and the call is in the middle of it.
    let memory = memory
        .try_into_mut()
        .expect_err("the job owns the memory, too");
    held.release();

    // One worker: when the next call is done, the write is.
    bench.run(file.flush()).expect("flush");
    assert!(
        memory.try_into_mut().is_ok(),
        "nothing owns the memory any more"
    );
    assert_eq!(bench.bytes(), b"written.");
}

#[test]
fn a_read_whose_future_is_dropped_fills_memory_that_still_exists() {
    let bench = Bench::new().with(&pattern(4096));
    let (fault, mut held) = gate();
    let file = bench.open(&Script::new().at(Call::Read, 0, Fault::Waits(fault)).share());
    assert!(!start(file.preadv(DiskOffset(0), room(4096, 512))));
    held.wait();
    held.release();
    assert_eq!(
        bench.run(read(&file, 0, 4096)).expect("the next read"),
        pattern(4096)
    );
}

#[test]
fn a_context_that_goes_away_with_io_in_flight_leaves_the_io_alone() {
    let bench = Bench::new().with(b"........");
    let (fault, mut held) = gate();
    let script = Script::new()
        .at(Call::Write, 0, Fault::Waits(fault))
        .share();
    let file = bench.open(&script);
    let Bench {
        context,
        workers,
        folder,
    } = bench;
    context
        .handle()
        .spawn(async move { write(&file, 0, b"written").await })
        .detach();
    context.by_hand().run_until_stalled();
    held.wait();
    drop(context);
    held.release();
    workers.shutdown();
    let bytes = std::fs::read(folder.path().join("disk")).expect("the file");
    assert_eq!(bytes, b"written.");
}

#[test]
fn an_open_whose_future_is_dropped_leaves_no_lock() {
    let bench = Bench::new().with(b"abc");
    let script = Script::new().share();
    // The only worker is busy, so that the open cannot be over at its first poll.
    let (go, let_go) = std::io::pipe().expect("pipe");
    let busy = bench
        .workers
        .run(move || (&go).read(&mut [0]).expect("the test's end"));
    assert!(!start(FileDriver::open_with(
        &bench.path(),
        bench.options(),
        script.clone()
    )));
    drop(let_go);
    bench.run(busy).expect("the worker");
    // One worker: the second open comes after the first is over.
    bench.open(&script);
}

#[test]
fn a_closed_driver_refuses_every_call_and_its_lock_is_gone() {
    let bench = Bench::new().with(b"abc");
    let script = Script::new().share();
    let file = bench.open(&script);
    bench.run(async {
        file.close().await.expect("close");
        let second = FileDriver::open(bench.path(), bench.options())
            .await
            .expect("the lock is gone");
        let closed = |op, at, len| Err(BlockError::new(op, at, len, Cause::Closed));
        assert_eq!(file.length().await, closed(Op::Length, 0, 0).map(|()| 0));
        assert_eq!(write(&file, 1, b"x").await, closed(Op::Write, 1, 1));
        assert_eq!(read(&file, 1, 1).await.map(drop), closed(Op::Read, 1, 1));
        assert_eq!(file.flush().await, closed(Op::Flush, 0, 0));
        assert_eq!(file.close().await, Ok(()), "closing again does nothing");
        second.close().await.expect("close");
    });
}

#[test]
fn a_dropped_driver_unlocks_at_once_though_a_worker_closes_it_later() {
    let bench = Bench::new().with(b"abc");
    let file = bench.open(&Script::new().share());
    // The only worker is busy.
    let (go, let_go) = std::io::pipe().expect("pipe");
    let busy = bench
        .workers
        .run(move || (&go).read(&mut [0]).expect("the test's end"));
    drop(file);
    let others = FileOptions::writer(WorkerPool::new(NonZeroUsize::MIN));
    bench
        .run(FileDriver::open(bench.path(), others))
        .expect("unlocked");
    drop(let_go);
    bench.run(busy).expect("the worker");
}

#[test]
fn the_lock_outlives_a_dropped_driver_as_long_as_io_is_in_flight() {
    let bench = Bench::new().with(b"........");
    let (fault, mut held) = gate();
    let script = Script::new()
        .at(Call::Write, 0, Fault::Waits(fault))
        .share();
    let file = bench.open(&script);
    assert!(!start(write(&file, 0, b"written")));
    held.wait();
    drop(file);
    // The only worker is busy with the write.
    let others = FileOptions::writer(WorkerPool::new(NonZeroUsize::MIN));
    let refused = bench.run(FileDriver::open(bench.path(), others)).map(drop);
    assert!(
        matches!(refused, Err(OpenError::Locked { .. })),
        "{refused:?}"
    );
    held.release();
    bench.workers.shutdown();
    let others = FileOptions::writer(WorkerPool::new(NonZeroUsize::MIN));
    bench
        .run(FileDriver::open(bench.path(), others))
        .expect("the write is over");
}
