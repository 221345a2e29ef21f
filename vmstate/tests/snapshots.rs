//! Whole named saves: all or nothing, whatever fails or is dropped.

mod support;

use block_core::test_disk::{TestDisk, TestDiskOptions};
use block_core::{
    BlockError, Cause, DiskOffset, Errno, NewSnapshot, NodeBuilder, Op, SnapshotInfo, WriteFlags,
};
use futures::io::{AsyncRead, AsyncReadExt, Cursor};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use support::*;
use vmstate::{
    LoadOptions, SaveOptions, SnapshotSave, VmstateLoad, VmstateReader, VmstateSave, load_snapshot,
    save_snapshot,
};

/// Bytes of a state of several buffers and a tail that is no whole block.
const LEN: u64 = 5 * CELL + 700;

#[test]
fn a_named_save_streams_finalizes_flushes_and_records_one_after_the_other() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    let names = [Op::SnapshotList, Op::DiscardVmstate];
    assert_eq!(ops(&bench), names, "nothing is written by the begin");
    bench.disk.take_records();
    bench.disk.hold_all();
    let saving = bench.start(async move {
        save.save().write(0, &pattern(1, 0, LEN)).await?;
        save.commit().await
    });
    let mut ended = Vec::new();
    while let Some(first) = bench.disk.held().first().cloned() {
        let held = bench.disk.held();
        assert!(
            held.iter().all(|r| r.op == first.op),
            "no step begins before the one before it has ended: {held:?}"
        );
        ended.push(first.op);
        bench.disk.release(first.id);
        bench.step();
    }
    let steps = [Op::FinalizeVmstate, Op::Flush, Op::SnapshotCreate];
    assert_eq!(ended[ended.len() - 3..], steps);
    assert!(
        ended.len() > 5
            && ended[..ended.len() - 3]
                .iter()
                .all(|op| *op == Op::SaveVmstate)
    );
    let info = saving.done().expect("recorded");
    assert_eq!((info.name.as_str(), info.vmstate_size), ("x", LEN));
    assert_eq!(bench.disk.snapshots(), [info]);
    bench.disk.stop_holding();
    bench.drain_and_close();
}

#[test]
fn a_saved_machine_is_read_back_with_its_disk_while_the_image_works_on() {
    let bench = Bench::with_snapshots();
    write_disk(&bench, b"old");
    record(&bench, "x", 1, LEN);
    record(&bench, "y", 2, 100);
    write_disk(&bench, b"new");
    for (name, version, len) in [("x", 1, LEN), ("y", 2, 100), ("1", 1, LEN)] {
        assert_eq!(stored(&bench, name), pattern(version, 0, len));
    }
    let load = bench.run(load_snapshot(&bench.node, "x", small_load(2)));
    let load = load.expect("opens");
    let mut disk = [0; 3];
    let read = load.view().pread(DiskOffset(0), &mut disk);
    bench.run(read).expect("reads");
    assert_eq!(&disk, b"old");
    let mut tail = [0; 500];
    let read = bench.run(load.load().read(LEN - 300, &mut tail));
    assert_eq!(read, Ok(300), "the end is known");
    let view = load.view().clone();
    bench.run(load.close()).expect("closes");
    assert!(view.is_closed());
    bench.drain_and_close();
}

#[test]
fn a_load_gives_its_parts_to_a_reader() {
    let bench = Bench::with_snapshots();
    record(&bench, "x", 1, LEN);
    let load = bench.run(load_snapshot(&bench.node, "x", small_load(2)));
    let (view, load) = load.expect("opens").into_parts();
    let mut all = Vec::new();
    let mut reader = VmstateReader::new(load);
    bench
        .run(reader.read_to_end(&mut all))
        .expect("reads to the end");
    assert!(all == pattern(1, 0, LEN));
    drop((reader, view));
    assert!(bench.disk.views().iter().all(|view| view.is_dropped()));
}

#[test]
fn a_load_of_what_is_not_there_or_has_no_state_is_refused_and_leaves_no_view() {
    let bench = Bench::with_snapshots();
    let disk_only = bench.node.snapshot_create(NewSnapshot::new("disk"));
    bench.run(disk_only).expect("made");
    let open = |name| {
        let opened = bench.run(load_snapshot(&bench.node, name, small_load(2)));
        opened.map(drop).map_err(|error| error.errno())
    };
    assert_eq!(open("absent"), Err(Errno::NOENT));
    assert_eq!(open("disk"), Err(Errno::INVAL));
    assert!(bench.disk.views()[0].is_dropped());
    assert_eq!(bench.disk.views().len(), 1);

    let bench = Bench::new();
    let opened = bench.run(load_snapshot(&bench.node, "x", small_load(2)));
    assert_eq!(opened.map(drop).map_err(|e| e.errno()), Err(Errno::NOTSUP));
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_written() {
    let bench = Bench::with_snapshots();
    record(&bench, "taken", 1, 100);
    bench.disk.take_records();
    let refused = |name: &str| {
        let begun = SnapshotSave::begin(&bench.node, NewSnapshot::new(name), small(2));
        bench.run(begun).map(drop).expect_err("refused")
    };
    let name = "taken".to_string();
    let exists = error(Op::SnapshotCreate, Cause::SnapshotExists { name });
    assert_eq!(refused("taken"), exists);
    for name in ["", &"x".repeat(256), "a\0b"] {
        assert_eq!(refused(name).errno(), Errno::INVAL);
    }
    let active = VmstateSave::begin(&bench.node, small(2)).expect("begins");
    assert_eq!(refused("new").errno(), Errno(16), "EBUSY");
    bench.run(active.finalize()).expect("empty");
    assert!(ops(&bench).iter().all(|op| matches!(
        op,
        Op::SnapshotList | Op::FinalizeVmstate // of the other save
    )));

    let plain = Bench::new();
    let begun = SnapshotSave::begin(&plain.node, NewSnapshot::new("x"), small(2));
    let unsupported = error(Op::SnapshotCreate, Cause::NotSupported);
    assert_eq!(plain.run(begun).map(drop), Err(unsupported));
    assert_eq!(ops(&plain), []);

    let (driver, disk) = TestDisk::new(TestDiskOptions {
        vmstate: Some(limits(512, 0)),
        snapshots: true,
        ..Default::default()
    });
    let node = plain.open(NodeBuilder::new("read-only").read_only(true), driver);
    disk.take_records();
    let begun = SnapshotSave::begin(&node, NewSnapshot::new("x"), small(2));
    let refused = plain.run(begun).map(drop).map_err(|e| e.cause);
    assert_eq!(refused, Err(Cause::ReadOnly));
    assert!(disk.records().iter().all(|r| r.op == Op::SnapshotList));
}

#[test]
fn a_state_that_would_go_to_another_node_than_the_snapshot_is_refused() {
    let bench = Bench::with_snapshots();
    let child = bench.node.attach("top", block_core::Permissions::writer());
    let (driver, disk) = TestDisk::new(TestDiskOptions {
        vmstate: Some(limits(512, 0)),
        ..Default::default()
    });
    let driver = driver.with_file(child.expect("alone"));
    let top = bench.open(NodeBuilder::new("top"), driver);
    disk.take_records();
    let begun = SnapshotSave::begin(&top, NewSnapshot::new("x"), small(2));
    let refused = bench.run(begun).map(drop).map_err(|e| e.cause);
    assert_eq!(refused, Err(Cause::NotSupported));
    assert_eq!((disk.records(), ops(&bench)), (vec![], vec![]));
}

#[test]
fn a_step_that_fails_fails_the_save_once_and_leaves_the_image_as_it_was() {
    for op in [
        Op::SaveVmstate,
        Op::FinalizeVmstate,
        Op::Flush,
        Op::SnapshotCreate,
    ] {
        let bench = Bench::with_snapshots();
        record(&bench, "before", 7, 900);
        let before = bench.disk.snapshots();
        bench.disk.fail_nth(op, 0, Errno::NOSPC);
        let failed = try_record(&bench, NewSnapshot::new("x"), 1, LEN).expect_err("fails");
        assert_eq!(
            (failed.op, failed.cause),
            (op, Cause::Os(Errno::NOSPC)),
            "{op}"
        );
        assert_eq!(bench.disk.snapshots(), before, "{op}");
        assert!(bench.disk.vmstate_contents().is_empty(), "{op}");
        assert_eq!(bench.disk.vmstate_length(), None, "{op}");
        assert_eq!(ops(&bench).last(), Some(&Op::DiscardVmstate), "{op}");

        record(&bench, "x", 2, LEN);
        assert_eq!(stored(&bench, "x"), pattern(2, 0, LEN), "{op}");
        assert_eq!(stored(&bench, "before"), pattern(7, 0, 900), "{op}");
        bench.drain_and_close();
    }
}

#[test]
fn what_cannot_be_dropped_either_is_told_with_the_first_error() {
    for op in [
        Op::SaveVmstate,
        Op::FinalizeVmstate,
        Op::Flush,
        Op::SnapshotCreate,
    ] {
        let bench = Bench::with_snapshots();
        bench.disk.fail_nth(op, 0, Errno::NOSPC);
        bench.disk.fail_nth(Op::DiscardVmstate, 1, Errno::IO); // not the begin's
        let failed = try_record(&bench, NewSnapshot::new("x"), 1, LEN).expect_err("fails");
        let leaked = Cause::Leaked {
            cause: Box::new(Cause::Os(Errno::NOSPC)),
            freeing: Box::new(Cause::Os(Errno::IO)),
        };
        assert_eq!((failed.op, &failed.cause), (op, &leaked));
        assert_eq!(failed.errno(), Errno::NOSPC);
        assert_eq!(bench.disk.snapshots(), []);
        record(&bench, "x", 2, 100);
        assert_eq!(stored(&bench, "x"), pattern(2, 0, 100));
    }
}

#[test]
fn a_replaced_snapshot_is_there_until_the_new_one_is() {
    let bench = Bench::with_snapshots();
    record(&bench, "x", 1, LEN);
    let replace = || NewSnapshot {
        replace: true,
        ..NewSnapshot::new("x")
    };
    bench.disk.fail_nth(Op::SnapshotCreate, 0, Errno::NOSPC);
    try_record(&bench, replace(), 2, LEN).expect_err("fails");
    assert_eq!(stored(&bench, "x"), pattern(1, 0, LEN));
    try_record(&bench, replace(), 2, 600).expect("replaces");
    assert_eq!(bench.disk.snapshots().len(), 1);
    assert_eq!(stored(&bench, "x"), pattern(2, 0, 600));
}

#[test]
fn a_cancel_waits_for_what_is_in_flight_and_drops_it() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    bench
        .run(save.save().write(0, &pattern(1, 0, 2 * CELL)))
        .expect("accepted");
    assert_eq!(bench.disk.in_flight(), 2);
    bench.disk.take_records();
    let cancel = bench.start(save.cancel());
    bench.disk.release(bench.disk.held()[0].id);
    bench.step();
    assert!(!cancel.is_done() && ops(&bench).is_empty());
    bench.release_everything();
    assert_eq!(cancel.done(), Ok(()));
    assert_eq!(ops(&bench), [Op::DiscardVmstate]);
    assert!(bench.disk.vmstate_contents().is_empty());
    bench.drain_and_close();
}

#[test]
fn after_a_cancel_no_further_driver_write_begins() {
    let bench = Bench::with_snapshots();
    let options = SaveOptions {
        gap_threshold: 0, // so that one buffer is two writes
        ..small(4)
    };
    let begin = SnapshotSave::begin(&bench.node, NewSnapshot::new("x"), options);
    let save = bench.run(begin).expect("begins");
    for at in [0, 2 * BLOCK] {
        let block = pattern(1, at, BLOCK);
        bench.run(save.save().write(at, &block)).expect("accepted");
    }
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let flush = poll_at_most(&bench, 1, save.save().flush(), || {});
    assert_eq!((flush, bench.writes()), (None, vec![(0, BLOCK)]));
    let cancel = bench.start(save.cancel());
    bench.release_everything();
    assert_eq!(cancel.done(), Ok(()));
    assert_eq!(bench.writes().len(), 1, "not the second block");
}

#[test]
fn a_cancel_that_cannot_drop_what_was_written_says_so() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    bench
        .run(save.save().write(0, &pattern(1, 0, LEN)))
        .expect("accepted");
    bench.disk.fail_nth(Op::DiscardVmstate, 0, Errno::NOSPC);
    let kept = error(Op::DiscardVmstate, Cause::Os(Errno::NOSPC));
    assert_eq!(bench.run(save.cancel()), Err(kept));
}

#[test]
fn a_cancel_handle_works_until_the_record_is_being_written() {
    for (hold, recorded) in [
        (Op::SaveVmstate, false),
        (Op::FinalizeVmstate, false),
        (Op::Flush, false),
        (Op::SnapshotCreate, true),
    ] {
        let bench = Bench::with_snapshots();
        let save = begin(&bench, "x");
        let handle = save.save().cancel_handle();
        bench.disk.hold(hold, 0..u64::MAX);
        let saving = bench.start(async move {
            save.save().write(0, &pattern(1, 0, LEN)).await?;
            save.commit().await
        });
        assert_eq!(bench.disk.held()[0].op, hold, "it has come so far");
        std::thread::spawn(move || handle.cancel())
            .join()
            .expect("cancels");
        bench.release_everything();
        let ended = saving.done().map(drop).map_err(|e| e.cause);
        if recorded {
            assert_eq!(ended, Ok(()));
        } else {
            assert_eq!(ended, Err(Cause::Cancelled), "{hold}");
        }
        assert_eq!(bench.disk.snapshots().len(), usize::from(recorded));
        assert!(bench.disk.vmstate_contents().is_empty());
    }
}

#[test]
fn a_save_dropped_at_any_await_is_recorded_whole_or_not_at_all() {
    let (mut whole, mut none) = (0, 0);
    for polls in 0..40 {
        let bench = Bench::with_snapshots();
        write_disk(&bench, b"disk");
        record(&bench, "before", 7, 300);
        bench.disk.hold_all();
        let save = async {
            let save = SnapshotSave::begin(&bench.node, NewSnapshot::new("x"), small(2)).await?;
            save.save().write(0, &pattern(1, 0, LEN)).await?;
            save.commit().await
        };
        let between = || {
            if let Some(first) = bench.disk.held().first() {
                bench.disk.release(first.id);
            }
        };
        let finished = poll_at_most(&bench, polls, save, between);
        bench.release_everything();
        let names: Vec<_> = names(&bench.disk.snapshots());
        match names.as_slice() {
            [_, x] if x == "x" => {
                whole += usize::from(finished.is_none());
                assert_eq!(stored(&bench, "x"), pattern(1, 0, LEN), "{polls} polls");
            }
            [_] => {
                none += 1;
                assert!(finished.is_none(), "{polls} polls: {finished:?}");
            }
            other => panic!("{polls} polls: {other:?}"),
        }
        assert!(bench.disk.vmstate_contents().is_empty(), "{polls} polls");
        assert_eq!(bench.disk.vmstate_length(), None, "{polls} polls");
        assert_eq!(stored(&bench, "before"), pattern(7, 0, 300));
        assert_eq!(&bench.disk.contents()[..4], b"disk");
        record(&bench, "after", 3, LEN);
        assert_eq!(stored(&bench, "after"), pattern(3, 0, LEN));
        bench.drain_and_close();
    }
    assert!(
        whole > 0 && none > 5,
        "dropped in time {none} times, too late {whole} times"
    );
}

#[test]
fn a_later_save_waits_until_a_dropped_ones_state_is_gone() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    bench
        .run(save.save().write(0, &pattern(1, 0, 2 * CELL)))
        .expect("accepted");
    drop(save);
    bench.disk.stop_holding();
    let node = bench.node.clone();
    let next = bench.start(async move {
        let save = SnapshotSave::begin(&node, NewSnapshot::new("y"), small(2)).await?;
        save.save().write(0, &pattern(2, 0, 3 * CELL)).await?;
        save.commit().await
    });
    assert!(!next.is_done() && bench.disk.in_flight() == 2);
    bench.release_everything();
    next.done().expect("recorded");
    assert_eq!(names(&bench.disk.snapshots()), ["y"]);
    assert_eq!(stored(&bench, "y"), pattern(2, 0, 3 * CELL));
}

#[test]
fn a_plain_save_after_a_dropped_one_loses_nothing_to_its_end() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    bench
        .run(save.save().write(0, &pattern(1, 0, 2 * CELL)))
        .expect("accepted");
    drop(save);
    bench.disk.stop_holding();
    let plain = VmstateSave::begin(&bench.node, small(2)).expect("begins");
    let at = 9 * CELL; // elsewhere: no write of the other one is in its way
    let saving = bench.start(async move {
        plain.write(at, &pattern(2, at, 2 * CELL)).await?;
        plain.finalize().await
    });
    bench.release_everything();
    assert_eq!(saving.done(), Ok(11 * CELL));
    let contents = bench.disk.vmstate_contents();
    assert!(contents[..at as usize].iter().all(|byte| *byte == 0));
    assert!(contents[at as usize..] == pattern(2, at, 2 * CELL));
    assert!(bench.disk.records_of(Op::DiscardVmstate).len() == 2);
}

#[test]
fn a_snapshot_made_after_a_save_was_dropped_does_not_take_its_state() {
    let bench = Bench::with_snapshots();
    let info = bench.run(async {
        let begun = SnapshotSave::begin(&bench.node, NewSnapshot::new("x"), small(2));
        let save = begun.await.expect("begins");
        let state = pattern(1, 0, LEN);
        save.save().write(0, &state).await.expect("accepted");
        save.save().finalize().await.expect("finalized");
        drop(save);
        bench.node.snapshot_create(NewSnapshot::new("disk")).await
    });
    assert_eq!(info.expect("made").vmstate_size, 0);
}

#[test]
fn no_other_save_gets_between_the_last_byte_and_the_record() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    bench.disk.hold(Op::Flush, 0..u64::MAX);
    let first = bench.start(async move {
        save.save().write(0, &pattern(1, 0, LEN)).await?;
        save.commit().await
    });
    assert_eq!(bench.disk.held().len(), 1, "the flush");
    bench.disk.stop_holding();
    let node = bench.node.clone();
    let second = bench.start(async move {
        let mut source = Cursor::new(pattern(2, 0, LEN + 1));
        save_snapshot(&node, NewSnapshot::new("y"), small(2), &mut source).await
    });
    assert!(!second.is_done());
    bench.release_everything();
    first.done().expect("recorded");
    second.done().expect("recorded");
    assert_eq!(stored(&bench, "x"), pattern(1, 0, LEN));
    assert_eq!(stored(&bench, "y"), pattern(2, 0, LEN + 1));
}

#[test]
fn a_save_that_was_finalized_by_hand_and_overtaken_records_and_drops_nothing() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    bench
        .run(save.save().write(0, &pattern(1, 0, LEN)))
        .expect("accepted");
    bench.run(save.save().finalize()).expect("finalized");
    let other = begin(&bench, "y");
    bench
        .run(other.save().write(0, &pattern(2, 0, LEN)))
        .expect("accepted");
    bench.disk.take_records();
    let overtaken = bench.run(save.commit()).map_err(|e| e.errno());
    assert_eq!(overtaken, Err(Errno(16)), "EBUSY");
    assert_eq!(ops(&bench), []);
    bench.run(other.commit()).expect("recorded");
    assert_eq!(stored(&bench, "y"), pattern(2, 0, LEN));
}

#[test]
fn a_save_under_which_the_state_is_replaced_fails() {
    for goto in [true, false] {
        let bench = Bench::with_snapshots();
        record(&bench, "old", 1, LEN);
        let save = begin(&bench, "x");
        bench
            .run(save.save().write(0, &pattern(2, 0, LEN)))
            .expect("accepted");
        if goto {
            bench.run(bench.node.snapshot_goto("old")).expect("gone to");
        } else {
            bench.run(bench.node.discard_vmstate()).expect("discarded");
        }
        let failed = bench.run(save.commit()).expect_err("fails");
        assert_eq!(failed.to_string().matches("under the save").count(), 1);
        assert_eq!(names(&bench.disk.snapshots()), ["old"]);
        record(&bench, "x", 3, LEN);
        assert_eq!(stored(&bench, "x"), pattern(3, 0, LEN));
    }
}

#[test]
fn a_goto_during_the_flush_of_a_commit_fails_it() {
    let bench = Bench::with_snapshots();
    record(&bench, "old", 1, LEN);
    let save = begin(&bench, "x");
    bench.disk.hold(Op::Flush, 0..u64::MAX);
    let saving = bench.start(async move {
        save.save().write(0, &pattern(2, 0, LEN)).await?;
        save.commit().await
    });
    assert_eq!(bench.disk.held().len(), 1, "the flush");
    bench.run(bench.node.snapshot_goto("old")).expect("gone to");
    bench.release_everything();
    assert_eq!(saving.done().map_err(|e| e.errno()), Err(Errno(16)));
    assert_eq!(names(&bench.disk.snapshots()), ["old"]);
}

#[test]
fn a_disk_may_be_recorded_while_a_state_is_being_saved() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    let (first, rest) = (pattern(1, 0, 2 * CELL), pattern(1, 2 * CELL, 300));
    bench.run(save.save().write(0, &first)).expect("accepted");
    let disk = bench.node.snapshot_create(NewSnapshot::new("disk"));
    assert_eq!(bench.run(disk).expect("made").vmstate_size, 0);
    bench
        .run(save.save().write(2 * CELL, &rest))
        .expect("accepted");
    bench.run(save.commit()).expect("recorded");
    assert_eq!(stored(&bench, "x"), pattern(1, 0, 2 * CELL + 300));
}

#[test]
fn a_save_that_was_finalized_by_hand_can_be_committed() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    bench
        .run(save.save().write(0, &pattern(1, 0, LEN)))
        .expect("accepted");
    assert_eq!(bench.run(save.save().finalize()), Ok(LEN));
    bench.run(save.commit()).expect("recorded");
    assert_eq!(stored(&bench, "x"), pattern(1, 0, LEN));
}

#[test]
fn a_tail_is_padded_unread_whatever_was_saved_before() {
    let bench = Bench::with_snapshots();
    record(&bench, "long", 1, LEN);
    let mut unfinished = begin(&bench, "unfinished");
    bench
        .run(unfinished.save().write(0, &pattern(2, 0, LEN)))
        .expect("accepted");
    drop(unfinished);
    unfinished = begin(&bench, "short");
    bench
        .run(bench.node.snapshot_goto("long"))
        .expect("gone to");
    drop(unfinished);
    record(&bench, "short", 3, 700);
    assert_eq!(bench.disk.records_of(Op::LoadVmstate), []);
    assert_eq!(stored(&bench, "short"), pattern(3, 0, 700));
}

#[test]
fn a_load_of_the_image_itself_follows_the_snapshot_that_is_gone_to() {
    let bench = Bench::with_snapshots();
    record(&bench, "x", 1, LEN);
    record(&bench, "y", 2, 900);
    bench.run(bench.node.snapshot_goto("x")).expect("gone to");
    let load = bench.run(VmstateLoad::open(&bench.node, small_load(2)));
    let load = load.expect("opens");
    let mut bytes = vec![0; 2 * LEN as usize];
    for (name, version, len) in [("x", 1, LEN), ("y", 2, 900)] {
        bench.run(bench.node.snapshot_goto(name)).expect("gone to");
        let read = bench.run(load.read(0, &mut bytes));
        assert_eq!(read, Ok(len as usize));
        assert!(bytes[..len as usize] == pattern(version, 0, len));
    }
}

#[test]
fn a_node_that_closes_under_a_save_reports_it_and_the_save_fails() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    bench
        .run(save.save().write(0, &pattern(1, 0, LEN)))
        .expect("accepted");
    let closed = bench.run(bench.node.close()).map_err(|e| e.cause);
    assert_eq!(closed, Err(Cause::Unfinalized));
    let failed = bench.run(save.commit()).map_err(|e| e.cause);
    assert_eq!(failed, Err(Cause::Unfinalized), "and no word of a leak");
    assert_eq!(bench.disk.snapshots(), []);
}

#[test]
fn a_save_that_is_not_driven_ends_when_it_is_driven() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    bench
        .run(save.save().write(0, &pattern(1, 0, LEN)))
        .expect("accepted");
    let failed = futures::executor::block_on(save.commit()).map_err(|e| e.cause);
    assert_eq!(failed, Err(Cause::NotDriven));
    bench.step();
    assert_eq!(bench.disk.snapshots(), []);
    assert!(bench.disk.vmstate_contents().is_empty());
    record(&bench, "x", 1, 100);
}

#[test]
fn a_save_dropped_while_it_is_not_driven_harms_no_later_one() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    bench
        .run(save.save().write(0, &pattern(1, 0, LEN)))
        .expect("accepted");
    bench.disk.hold(Op::DiscardVmstate, 0..u64::MAX);
    drop(save);
    let plain = VmstateSave::begin(&bench.node, small(2)).expect("begins");
    let saving = bench.start(async move {
        plain.write(0, &pattern(2, 0, LEN)).await?;
        plain.finalize().await
    });
    assert_eq!(bench.disk.held().len(), 1, "the discard, and no write");
    bench.release_everything();
    assert_eq!(saving.done(), Ok(LEN));
    assert!(bench.disk.vmstate_contents() == pattern(2, 0, LEN));
}

#[test]
fn a_save_may_be_dropped_when_its_context_is_gone() {
    let Bench {
        node,
        disk,
        context,
    } = Bench::with_snapshots();
    let save = context
        .block_on(SnapshotSave::begin(&node, NewSnapshot::new("x"), small(2)))
        .expect("begins");
    drop(context);
    drop(save);
    drop(node);
    assert!(disk.is_dropped(), "nothing holds the node");
}

#[test]
fn a_stream_becomes_a_snapshot() {
    let bench = Bench::with_snapshots();
    let mut source = Cursor::new(pattern(4, 0, LEN));
    let options = SaveOptions::default();
    let saved = save_snapshot(&bench.node, NewSnapshot::new("x"), options, &mut source);
    let info = bench.run(saved).expect("recorded");
    assert_eq!(info.vmstate_size, LEN);
    assert_eq!(stored(&bench, "x"), pattern(4, 0, LEN));
}

#[test]
fn a_stream_that_breaks_leaves_nothing() {
    let of_node = BlockError::new(Op::LoadVmstate, 5, 6, Cause::Os(Errno::NOSPC));
    let carried: io::Error = of_node.clone().into();
    let system = io::Error::from_raw_os_error(Errno::IO.0);
    let at_1000 = BlockError::new(Op::Read, 1000, 0, Cause::Os(Errno::IO));
    for (error, expected) in [(carried, of_node), (system, at_1000)] {
        let bench = Bench::with_snapshots();
        let mut source = Script::of([
            Ok(pattern(1, 0, 1000)),
            Err(io::ErrorKind::Interrupted.into()), // tried again
            Err(error),
        ]);
        let saved = save_snapshot(&bench.node, NewSnapshot::new("x"), small(2), &mut source);
        assert_eq!(bench.run(saved), Err(expected));
        assert_eq!(bench.disk.snapshots(), []);
        assert_eq!(ops(&bench).last(), Some(&Op::DiscardVmstate));
        bench.drain_and_close();
    }
}

/// A reader that gives what the test says, then the end.
struct Script(VecDeque<io::Result<Vec<u8>>>);

impl Script {
    fn of(steps: impl IntoIterator<Item = io::Result<Vec<u8>>>) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let step = self.0.pop_front().unwrap_or(Ok(Vec::new()));
        Poll::Ready(step.map(|bytes| {
            buf[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        }))
    }
}

fn begin(bench: &Bench, name: &str) -> SnapshotSave {
    let begun = SnapshotSave::begin(&bench.node, NewSnapshot::new(name), small(2));
    bench.run(begun).expect("begins")
}

fn try_record(
    bench: &Bench,
    new: NewSnapshot,
    version: u64,
    len: u64,
) -> block_core::Result<SnapshotInfo> {
    bench.run(async {
        let save = SnapshotSave::begin(&bench.node, new, small(2)).await?;
        // An error of a write is the save's, and comes out of the commit.
        let _ = save.save().write(0, &pattern(version, 0, len)).await;
        save.commit().await
    })
}

fn record(bench: &Bench, name: &str, version: u64, len: u64) {
    try_record(bench, NewSnapshot::new(name), version, len).expect("recorded");
}

/// The state of a snapshot, read back.
fn stored(bench: &Bench, name: &str) -> Vec<u8> {
    bench.run(async {
        let options: LoadOptions = small_load(2);
        let load = load_snapshot(&bench.node, name, options)
            .await
            .expect("opens");
        let mut bytes = vec![0; load.load().length() as usize];
        let read = load.load().read(0, &mut bytes).await.expect("reads");
        assert_eq!(read, bytes.len());
        load.close().await.expect("closes");
        bytes
    })
}

fn write_disk(bench: &Bench, bytes: &[u8]) {
    let flags = WriteFlags::default();
    let write = bench.node.pwrite(DiskOffset(0), bytes, flags);
    bench.run(write).expect("written");
}

fn ops(bench: &Bench) -> Vec<Op> {
    bench.disk.records().iter().map(|r| r.op).collect()
}

fn names(snapshots: &[SnapshotInfo]) -> Vec<String> {
    snapshots.iter().map(|info| info.name.clone()).collect()
}

fn error(op: Op, cause: Cause) -> BlockError {
    BlockError::new(op, 0, 0, cause)
}

#[test]
fn an_empty_stream_becomes_no_snapshot() {
    let bench = Bench::with_snapshots();
    let save = begin(&bench, "x");
    let error = bench.run(save.commit()).expect_err("no state");
    assert_eq!(error.errno(), block_core::Errno::INVAL);
    assert!(error.to_string().contains("empty"), "{error}");
    let mut empty = Cursor::new([0; 0]);
    let saved = save_snapshot(&bench.node, NewSnapshot::new("x"), small(2), &mut empty);
    bench.run(saved).expect_err("no state");
    assert_eq!(bench.disk.snapshots(), []);
    bench.drain_and_close();
}
