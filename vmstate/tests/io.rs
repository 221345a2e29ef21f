//! The same save and load through futures' traits, `std::io`'s, and a host's executor.

mod support;

use aio_task::AioContext;
use block_core::{BlockError, Cause, Op};
use futures::io::{AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt};
use std::io::{Read, Seek, SeekFrom, Write};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use support::*;
use vmstate::{
    SaveOptions, SyncReader, SyncWriter, VmstateLoad, VmstateReader, VmstateSave, VmstateWriter,
};

fn writer(bench: &Bench, options: SaveOptions) -> VmstateWriter {
    VmstateWriter::new(VmstateSave::begin(&bench.node, options).expect("begins"))
}

fn reader(bench: &Bench, workers: usize) -> VmstateReader {
    let load = bench.run(VmstateLoad::open(&bench.node, small_load(workers)));
    VmstateReader::new(load.expect("opens"))
}

#[test]
fn a_stream_goes_through_async_write_and_comes_back_through_async_read() {
    let bench = Bench::new();
    let bytes = pattern(1, 0, 30 * CELL + 77);
    let mut writer = writer(&bench, small(3));
    bench.run(async {
        for piece in bytes.chunks(1777) {
            writer.write_all(piece).await.expect("written");
        }
        writer.close().await.expect("finalized");
        writer.close().await.expect("twice is harmless");
    });
    assert_eq!(bench.disk.vmstate_length(), Some(30 * CELL + 77));
    let mut reader = reader(&bench, 3);
    let mut back = Vec::new();
    bench.run(reader.read_to_end(&mut back)).expect("read");
    assert!(back == bytes);
    assert_eq!(reader.position(), 30 * CELL + 77);
}

#[test]
fn a_poll_write_that_returned_pending_has_taken_nothing() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let mut writer = writer(&bench, small(1));
    let poll = |writer: &mut VmstateWriter, bytes: &[u8]| {
        bench.run(async {
            Pin::new(writer).poll_write(&mut Context::from_waker(Waker::noop()), bytes)
        })
    };
    assert!(
        matches!(poll(&mut writer, &pattern(1, 0, 3 * CELL)), Poll::Ready(Ok(n)) if n as u64 == 2 * CELL)
    );
    for _ in 0..3 {
        assert!(poll(&mut writer, b"never written").is_pending());
        assert_eq!(writer.position(), 2 * CELL);
    }
    assert_eq!(writer.save().position().0, 2 * CELL);
    assert_eq!(writer.save().progress().accepted(), 2 * CELL);
    bench.release_everything();
    // The caller may well come back with other bytes.
    bench.run(async {
        writer.write_all(b"other").await.expect("written");
        writer.close().await.expect("finalized");
    });
    let expected = [pattern(1, 0, 2 * CELL), b"other".to_vec()].concat();
    assert!(bench.disk.vmstate_contents() == expected);
}

#[test]
fn a_pending_poll_write_that_no_task_polls_again_stops_no_task() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let mut writer = writer(&bench, small(1));
    bench.run(async {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut writer).poll_write(&mut cx, &pattern(1, 0, 2 * CELL));
        assert!(Pin::new(&mut writer).poll_write(&mut cx, b"x").is_pending());
    });
    bench.disk.stop_holding();
    bench.disk.release_all();
    // Other calls of the save go on, though that future is never polled.
    bench.run(async {
        writer
            .save()
            .write(2 * CELL, b"by hand")
            .await
            .expect("accepted");
        assert_eq!(writer.save().finalize().await, Ok(2 * CELL + 7));
    });
}

#[test]
fn a_closed_writer_takes_nothing_more_and_closes_again() {
    let bench = Bench::new();
    let mut writer = writer(&bench, small(2));
    bench.run(async {
        assert_eq!(writer.write(b"").await.expect("nothing"), 0);
        writer.write_all(b"state").await.expect("room");
        writer.close().await.expect("good");
        let calls = bench.disk.records().len();
        writer.close().await.expect("the same again");
        let error = writer.write(b"more").await.expect_err("it is over");
        let error = error.get_ref().and_then(|e| e.downcast_ref::<BlockError>());
        assert_eq!(error.expect("typed").cause, Cause::Closed);
        assert_eq!(bench.disk.records().len(), calls, "no driver call");
    });
    assert_eq!(bench.disk.vmstate_contents(), b"state");
    drop(writer);
    bench.drain_and_close();
}

#[test]
fn a_writer_that_seeks_writes_there() {
    let bench = Bench::new();
    let mut writer = writer(&bench, small(2));
    bench.run(async {
        writer.write_all(&[1; 1000]).await.expect("written");
        assert_eq!(writer.seek(SeekFrom::Start(10)).await.expect("sought"), 10);
        writer.write_all(&[2; 10]).await.expect("written");
        assert_eq!(writer.seek(SeekFrom::End(5)).await.expect("sought"), 1005);
        writer.write_all(&[3; 10]).await.expect("written");
        assert_eq!(
            writer.seek(SeekFrom::Current(-15)).await.expect("sought"),
            1000
        );
        writer.write_all(&[4; 5]).await.expect("written");
        for to in [
            SeekFrom::Current(-2000),
            SeekFrom::Start(u64::MAX),
            SeekFrom::End(i64::MAX),
        ] {
            writer.seek(to).await.expect_err("no such place");
        }
        assert_eq!(writer.position(), 1005, "where it was");
        writer.flush().await.expect("flushed");
        writer.close().await.expect("finalized");
    });
    let mut expected = [vec![1; 1000], vec![4; 5], vec![3; 10]].concat();
    expected[10..20].fill(2);
    assert!(bench.disk.vmstate_contents() == expected);
}

#[test]
fn a_reader_that_seeks_reads_there_and_sees_a_save_in_progress() {
    let bench = Bench::new();
    bench.disk.set_vmstate_contents(&pattern(1, 0, 9 * CELL));
    let mut reader = reader(&bench, 2);
    bench.run(async {
        let mut bytes = [0; 100];
        reader.seek(SeekFrom::End(-50)).await.expect("sought");
        assert_eq!(reader.read(&mut bytes).await.expect("read"), 50);
        assert!(bytes[..50] == pattern(1, 9 * CELL - 50, 50));
        assert_eq!(reader.read(&mut bytes).await.expect("the end"), 0);
        reader.seek(SeekFrom::Start(1)).await.expect("sought");
        let save = VmstateSave::begin(&bench.node, small(2)).expect("begins");
        save.write(0, b"0123456789").await.expect("accepted");
        assert_eq!(reader.read(&mut bytes).await.expect("read"), 9);
        assert_eq!(&bytes[..9], b"123456789");
        save.finalize().await.expect("good");
        reader.seek(SeekFrom::Start(5)).await.expect("sought");
        assert_eq!(reader.read(&mut bytes).await.expect("read"), 5);
    });
}

#[test]
fn a_failure_comes_out_as_an_io_error_with_everything_in_it() {
    let bench = Bench::new();
    bench
        .disk
        .fail_nth(Op::SaveVmstate, 1, block_core::Errno::NOSPC);
    let mut writer = writer(&bench, small(2));
    let error = bench.run(async {
        writer
            .write_all(&pattern(1, 0, 9 * CELL))
            .await
            .expect_err("the second buffer")
    });
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<BlockError>())
        .expect("ours");
    assert_eq!(
        (error.kind(), inner.offset),
        (std::io::ErrorKind::StorageFull, CELL)
    );
    let closed = bench.run(writer.close()).expect_err("the same");
    assert_eq!(closed.to_string(), error.to_string());
}

#[test]
fn plain_code_saves_and_loads_with_a_context_of_its_own() {
    let bench = Bench::new();
    let bytes = pattern(1, 0, 25 * CELL + 3);
    // Calls of the driver take a while: each is held, and a task lets one go when nothing else is to be done.
    bench.disk.hold_all();
    let disk = bench.disk.clone();
    let handle = bench.context.handle();
    let device = handle.spawn({
        let handle = handle.clone();
        async move {
            loop {
                handle.sleep(std::time::Duration::from_micros(10)).await;
                if let Some(held) = disk.held().last() {
                    disk.release(held.id);
                }
            }
        }
    });
    let mut writer = SyncWriter::new(bench.context.clone(), writer(&bench, small(4)));
    for piece in bytes.chunks(1000) {
        writer.write_all(piece).expect("written");
    }
    writer.seek(SeekFrom::Start(7)).expect("sought");
    writer.write_all(&bytes[7..9]).expect("written");
    writer.flush().expect("flushed");
    assert_eq!(writer.save().length(), 25 * CELL + 3);
    assert_eq!(writer.finish().expect("finalized"), 25 * CELL + 3);
    let mut reader = SyncReader::new(bench.context.clone(), reader(&bench, 4));
    let mut back = Vec::new();
    reader.read_to_end(&mut back).expect("read");
    assert!(back == bytes);
    reader.seek(SeekFrom::Start(100)).expect("sought");
    let mut some = [0; 100];
    reader.read_exact(&mut some).expect("read");
    assert!(some[..] == bytes[100..200]);
    drop((reader, device));
    bench.drain_and_close();
}

#[test]
fn a_sync_writer_that_is_dropped_cancels_its_save() {
    let bench = Bench::new();
    let mut writer = SyncWriter::new(&*bench.context, writer(&bench, small(4)));
    writer.write_all(b"lost").expect("written");
    drop(writer);
    assert_eq!(bench.writes(), []);
    bench.drain_and_close();
}

#[test]
fn hosted_beside_its_driver_a_save_runs_and_without_one_it_says_so() {
    let bench = Bench::new();
    bench.disk.hold_all();
    let save = VmstateSave::begin(&bench.node, small(2)).expect("begins");
    let bytes = pattern(1, 0, 10 * CELL + 9);
    let undriven = futures::executor::block_on(async {
        let error = save
            .write(0, &bytes)
            .await
            .expect_err("it would have to wait");
        assert_eq!(error.cause, Cause::NotDriven);
        assert_eq!(
            save.finalize().await.expect_err("too").cause,
            Cause::NotDriven
        );
        save.position().0
    });
    assert_eq!(
        (undriven, save.status()),
        (CELL, Ok(())),
        "the save has not failed"
    );
    let handle = bench.context.handle();
    let saving = async {
        save.write(CELL, &bytes[CELL as usize..])
            .await
            .expect("accepted");
        let length = save.finalize().await.expect("good");
        handle.stop_drive();
        length
    };
    // The host polls both again and again; the device ends its calls whenever they had their turn.
    let mut both = Box::pin(futures::future::join(bench.context.drive(), saving));
    let ((), length) = futures::executor::block_on(futures::future::poll_fn(|cx| {
        let polled = both.as_mut().poll(cx);
        if polled.is_pending() {
            bench.disk.release_all();
            cx.waker().wake_by_ref();
        }
        polled
    }));
    drop(both);
    assert_eq!(length, 10 * CELL + 9);
    assert!(bench.disk.vmstate_contents() == bytes);
}

#[test]
fn undriven_reads_say_so_and_lose_nothing() {
    let bench = Bench::new();
    bench.disk.set_vmstate_contents(&pattern(1, 0, 3 * CELL));
    let load = bench
        .run(VmstateLoad::open(&bench.node, small_load(2)))
        .expect("opens");
    let mut bytes = [0; 10];
    assert_eq!(load.try_read(0, &mut bytes), Ok(None));
    let error = futures::executor::block_on(load.read(0, &mut bytes)).expect_err("not driven");
    assert_eq!(error.cause, Cause::NotDriven);
    assert_eq!(bench.run(load.read(0, &mut bytes)), Ok(10));
    assert!(bytes[..] == pattern(1, 0, 10));
}

/// What may go to other threads does, and what belongs to the context does not.
#[test]
fn progress_and_cancel_are_send() {
    fn send<T: Send + Sync + 'static>() {}
    send::<vmstate::Progress>();
    send::<vmstate::CancelHandle>();
    let _: fn() -> std::io::Result<AioContext> = AioContext::new;
}

#[test]
fn an_empty_stream_is_refused_and_an_older_state_stays() {
    let bench = Bench::new();
    let old = pattern(1, 0, CELL + 5);
    let mut first = writer(&bench, small(3));
    bench.run(async {
        first.write_all(&old).await.expect("written");
        first.close().await.expect("finalized");
    });
    drop(first);
    let mut empty = writer(&bench, small(3));
    let error = bench.run(empty.close()).expect_err("no state");
    assert!(error.to_string().contains("empty"), "{error}");
    drop(empty);
    let empty = SyncWriter::new(bench.context.clone(), writer(&bench, small(3)));
    empty.finish().expect_err("no state");
    assert_eq!(bench.disk.vmstate_length(), Some(CELL + 5));
    let mut back = Vec::new();
    bench
        .run(reader(&bench, 3).read_to_end(&mut back))
        .expect("read");
    assert!(back == old);
    bench.drain_and_close();
}
