//! A save that fails: each sentence of the specification's paragraph on errors, one test or more.
//!
//! | sentence | here |
//! |---|---|
//! | one fault, one error value; it says where | `every_later_call_returns_the_first_error_with_its_place` |
//! | the first failure counts | `of_two_failures_the_first_one_counts` |
//! | nothing more is accepted or submitted | `after_a_failure_nothing_more_is_accepted_or_submitted` |
//! | finalize waits for all in flight, returns it (again), frees everything | `finalize_of_a_failed_save_waits_and_returns_the_error_again`, `a_failed_save_leaks_nothing` |
//! | the next save starts clean | `the_save_after_a_failed_one_is_good` |
//! | never out of another save or of guest I/O | `a_failed_save_is_no_business_of_guest_io` |
//! | a failing read of a merge, a failing length | `a_read_that_fails_while_merging_fails_the_save`, `a_length_that_cannot_be_told_fails_the_save`, `a_torn_write_fails_the_save` |
//! | a failure wakes who waits | `a_write_that_waits_for_room_learns_of_the_failure` |
//! | dropping is a cancel | `dropping_a_save_frees_everything_and_lets_flights_land`, `after_a_save_was_dropped_no_further_driver_call_starts` |
//! | closing with an unfinalized save reports it | `closing_the_node_reports_an_unfinalized_save`, `closing_the_node_it_was_begun_on_reports_it_too` |
//! | bytes outside are untouched | `a_failed_save_touches_nothing_outside_its_area` |

mod support;

use block_core::test_disk::{TestDisk, TestDiskOptions};
use block_core::{BlockError, Cause, DiskOffset, Errno, NodeBuilder, Op, Permissions, WriteFlags};
use std::rc::Rc;
use support::*;
use vmstate::{SaveOptions, VmstateSave, finalize_vmstate, save_vmstate_bytes};

fn begin(bench: &Bench, options: SaveOptions) -> Rc<VmstateSave> {
    Rc::new(VmstateSave::begin(&bench.node, options).expect("the save begins"))
}

fn no_space(at: u64, len: u64) -> BlockError {
    BlockError::new(Op::SaveVmstate, at, len, Cause::Os(Errno::NOSPC))
}

/// A save of which the second buffer's write fails.
fn failed(bench: &Bench) -> (Rc<VmstateSave>, BlockError) {
    let save = begin(bench, small(4));
    bench
        .disk
        .fail_range(Op::SaveVmstate, CELL..2 * CELL, Errno::NOSPC);
    let bytes = pattern(1, 0, 3 * CELL);
    let _ = bench.run(save.write(0, &bytes));
    bench.step();
    bench.disk.clear_faults();
    assert_eq!(bench.disk.faults_fired(), 1);
    (save, no_space(CELL, CELL))
}

#[test]
fn every_later_call_returns_the_first_error_with_its_place() {
    let bench = Bench::new();
    let (save, error) = failed(&bench);
    assert_eq!(
        error.to_string(),
        "save vmstate at offset 4096, length 4096: No space left on device (os error 28)"
    );
    assert_eq!(save.status(), Err(error.clone()));
    bench.run(async {
        assert_eq!(save.write(9 * CELL, b"x").await, Err(error.clone()));
        assert_eq!(save.try_write(0, b"x"), Err(error.clone()));
        assert_eq!(save.make_room(0).await, Err(error.clone()));
        assert_eq!(save.read(0, &mut [0]).await, Err(error.clone()));
        assert_eq!(save.flush().await, Err(error.clone()));
        assert_eq!(
            save_vmstate_bytes(&bench.node, 0, b"x").await,
            Err(error.clone())
        );
        assert_eq!(save.finalize().await, Err(error.clone()));
        assert_eq!(save.finalize().await, Err(error.clone()), "again");
        assert_eq!(
            save.write(0, b"x").await,
            Err(error.clone()),
            "and after it"
        );
        assert_eq!(
            finalize_vmstate(&bench.node).await,
            Ok(0),
            "the node has forgotten it"
        );
    });
    bench.drain_and_close();
}

#[test]
fn of_two_failures_the_first_one_counts() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(4));
    bench
        .run(save.write(0, &pattern(1, 0, 2 * CELL)))
        .expect("accepted");
    let held = bench.disk.held();
    bench.disk.fail_held(held[1].id, Errno::NOSPC);
    bench.step();
    bench.disk.fail_held(held[0].id, Errno::IO);
    bench.step();
    assert_eq!(
        bench.run(save.finalize()),
        Err(no_space(CELL, CELL)),
        "the one that came first in time"
    );
    assert_eq!(bench.disk.faults_fired(), 2);
}

#[test]
fn after_a_failure_nothing_more_is_accepted_or_submitted() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(2));
    // The second buffer has two runs: the first is in flight when the other buffer fails.
    bench.run(async {
        save.write(0, &pattern(1, 0, CELL)).await.expect("accepted");
        save.write(CELL, &pattern(1, 0, BLOCK))
            .await
            .expect("accepted");
        save.write(CELL + 4 * BLOCK, &pattern(1, 0, BLOCK))
            .await
            .expect("accepted");
    });
    let flush = bench.start({
        let save = save.clone();
        async move { save.flush().await }
    });
    let held = bench.disk.held();
    assert_eq!(spans(&held), [(0, CELL), (CELL, BLOCK)]);
    let accepted = save.progress().accepted();
    bench.disk.fail_held(held[0].id, Errno::NOSPC);
    bench.step();
    assert_eq!(flush.done(), Err(no_space(0, CELL)));
    assert_eq!(
        bench.run(async { save.try_write(2 * CELL, b"x") }),
        Err(no_space(0, CELL))
    );
    assert_eq!(save.progress().accepted(), accepted);
    bench.release_everything();
    assert_eq!(bench.run(save.finalize()), Err(no_space(0, CELL)));
    assert_eq!(
        bench.writes().len(),
        2,
        "the second run was never submitted"
    );
    assert_eq!(bench.disk.vmstate_length(), None);
}

#[test]
fn finalize_of_a_failed_save_waits_and_returns_the_error_again() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(4));
    bench
        .run(save.write(0, &pattern(1, 0, 3 * CELL)))
        .expect("accepted");
    bench.disk.fail_held(bench.disk.held()[0].id, Errno::NOSPC);
    bench.step();
    let end = bench.start({
        let save = save.clone();
        async move { save.finalize().await }
    });
    for _ in 0..2 {
        assert!(!end.is_done(), "two are in flight");
        bench.disk.release(bench.disk.held()[0].id);
        bench.step();
    }
    assert_eq!(end.done(), Err(no_space(0, CELL)));
    bench.drain_and_close();
}

#[test]
fn a_failed_save_leaks_nothing() {
    let bench = Bench::new();
    let (save, _) = failed(&bench);
    bench.run(save.finalize()).expect_err("failed");
    drop(save);
    // The driver lives as long as anything that points to the node: tasks, saves, requests.
    let Bench {
        node,
        disk,
        context,
    } = bench;
    context.block_on(node.close()).expect("closed");
    drop(node);
    context.by_hand().run_until_stalled();
    assert!(disk.is_dropped());
}

#[test]
fn the_save_after_a_failed_one_is_good() {
    let bench = Bench::new();
    let (save, error) = failed(&bench);
    assert_eq!(bench.run(save.finalize()), Err(error.clone()));
    let next = begin(&bench, small(4));
    assert_eq!(next.status(), Ok(()));
    bench
        .run(next.write(0, &pattern(2, 0, 5 * CELL + 3)))
        .expect("accepted");
    assert_eq!(save.status(), Err(error), "which is the other's");
    assert_eq!(bench.run(next.finalize()), Ok(5 * CELL + 3));
    assert_eq!(bench.disk.vmstate_contents(), pattern(2, 0, 5 * CELL + 3));
}

#[test]
fn a_failed_save_is_no_business_of_guest_io() {
    let bench = Bench::new();
    let (_save, _) = failed(&bench);
    bench.run(async {
        let write = bench
            .node
            .pwrite(DiskOffset(0), b"guest", WriteFlags::default());
        write.await.expect("the guest writes");
        let mut bytes = [0; 5];
        bench
            .node
            .pread(DiskOffset(0), &mut bytes)
            .await
            .expect("and reads");
        assert_eq!(&bytes, b"guest");
        bench.node.flush().await.expect("and flushes");
    });
}

#[test]
fn a_read_that_fails_while_merging_fails_the_save() {
    let bench = Bench::new();
    let save = begin(&bench, small(4));
    bench.run(async {
        save.write(0, &pattern(1, 0, CELL)).await.expect("accepted");
        save.flush().await.expect("flushed");
        save.write(5, b"unaligned").await.expect("accepted");
    });
    bench.disk.fail_nth(Op::LoadVmstate, 0, Errno::IO);
    let error = BlockError::new(Op::LoadVmstate, 0, BLOCK, Cause::Os(Errno::IO));
    assert_eq!(bench.run(save.flush()), Err(error.clone()));
    assert_eq!(bench.run(save.finalize()), Err(error));
    assert_eq!(
        bench.writes().len(),
        1,
        "what could not be merged is not written"
    );
}

#[test]
fn a_length_that_cannot_be_told_fails_the_save() {
    let bench = Bench::new();
    let save = begin(&bench, small(4));
    bench.run(save.write(0, b"bytes")).expect("accepted");
    bench.disk.fail_nth(Op::FinalizeVmstate, 0, Errno::NOSPC);
    let error = BlockError::new(Op::FinalizeVmstate, 0, 5, Cause::Os(Errno::NOSPC));
    assert_eq!(bench.run(save.finalize()), Err(error.clone()));
    assert_eq!(bench.run(save.finalize()), Err(error));
    begin(&bench, small(4));
}

#[test]
fn a_torn_write_fails_the_save() {
    let bench = Bench::new();
    let save = begin(&bench, small(4));
    bench.disk.short_nth(Op::SaveVmstate, 0, 100, Errno::IO);
    bench
        .run(save.write(0, &pattern(1, 0, CELL)))
        .expect("accepted");
    let error = bench.run(save.finalize()).expect_err("torn");
    assert_eq!(
        (error.op, error.offset, error.len),
        (Op::SaveVmstate, 0, CELL)
    );
}

#[test]
fn a_write_that_waits_for_room_learns_of_the_failure() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(1));
    let writer = bench.start({
        let save = save.clone();
        async move { save.write(0, &pattern(1, 0, 9 * CELL)).await }
    });
    let room = bench.start({
        let save = save.clone();
        async move { save.make_room(3 * CELL).await }
    });
    assert!(!writer.is_done() && !room.is_done());
    bench.disk.fail_held(bench.disk.held()[0].id, Errno::NOSPC);
    bench.step();
    assert_eq!(writer.done(), Err(no_space(0, CELL)));
    assert_eq!(room.done(), Err(no_space(0, CELL)));
    bench.drain_and_close_reporting(&no_space(0, CELL));
}

#[test]
fn dropping_a_save_frees_everything_and_lets_flights_land() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(4));
    bench
        .run(save.write(0, &pattern(1, 0, CELL + 700)))
        .expect("accepted");
    drop(save);
    bench.release_everything();
    assert_eq!(bench.writes(), [(0, CELL)], "what was buffered is lost");
    assert_eq!(
        bench.disk.vmstate_contents(),
        pattern(1, 0, CELL),
        "what was in flight has landed"
    );
    let Bench {
        node,
        disk,
        context,
    } = bench;
    context
        .block_on(node.close())
        .expect("a cancelled save is nothing to report");
    drop(node);
    context.by_hand().run_until_stalled();
    assert!(disk.is_dropped());
}

#[test]
fn after_a_save_was_dropped_no_further_driver_call_starts() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(4));
    bench.run(async {
        // Two runs of one buffer: one task, which makes one call after the other.
        save.write(0, &pattern(1, 0, BLOCK))
            .await
            .expect("accepted");
        save.write(4 * BLOCK, &pattern(1, 0, BLOCK))
            .await
            .expect("accepted");
    });
    drop(bench.start({
        let save = save.clone();
        async move { save.flush().await }
    }));
    assert_eq!(bench.writes(), [(0, BLOCK)]);
    drop(save);
    bench.release_everything();
    assert_eq!(
        bench.writes(),
        [(0, BLOCK)],
        "the second run was not in flight"
    );
    bench.drain_and_close();
}

#[test]
fn a_node_dropped_with_an_unfinalized_save_leaks_nothing() {
    let bench = Bench::new();
    bench
        .run(save_vmstate_bytes(&bench.node, 0, &[1; 700]))
        .expect("accepted");
    let Bench {
        node,
        disk,
        context,
    } = bench;
    drop(node);
    context.by_hand().run_until_stalled();
    assert!(
        disk.is_dropped(),
        "the save that lives with the node does not keep it"
    );
}

#[test]
fn closing_the_node_reports_an_unfinalized_save() {
    let bench = Bench::new();
    bench
        .run(save_vmstate_bytes(&bench.node, 0, &[1; 700]))
        .expect("accepted");
    let error = bench.run(bench.node.close()).expect_err("bytes are lost");
    assert_eq!(error.cause, Cause::Unfinalized);
    assert_eq!(
        (error.offset, bench.writes()),
        (700, vec![]),
        "the position that was reached"
    );
    assert!(bench.disk.is_closed(), "closed nevertheless");

    let bench = Bench::new();
    let save = begin(&bench, small(1));
    bench.run(save.write(0, b"lost")).expect("accepted");
    let error = bench.run(bench.node.close()).expect_err("bytes are lost");
    assert_eq!(bench.run(save.write(4, b"more")), Err(error.clone()));
    assert_eq!(
        bench.run(save.finalize()),
        Err(error),
        "the holder learns the same"
    );

    let bench = Bench::new();
    let (save, error) = failed(&bench);
    assert_eq!(
        bench.run(bench.node.close()),
        Err(error),
        "one fault, one error"
    );
    drop(save);
}

#[test]
fn closing_the_node_it_was_begun_on_reports_it_too() {
    let bench = Bench::new();
    let child = bench
        .node
        .attach("parent", Permissions::writer())
        .expect("attached");
    let (driver, _) = TestDisk::new(TestDiskOptions {
        len: 4096,
        ..Default::default()
    });
    let top = bench.open(NodeBuilder::new("top"), driver.with_file(child));
    bench
        .run(save_vmstate_bytes(&top, 0, b"lost"))
        .expect("accepted");
    assert_eq!(
        bench.run(top.close()).expect_err("lost").cause,
        Cause::Unfinalized
    );
    assert_eq!(bench.run(bench.node.close()), Ok(()), "once is enough");
}

#[test]
fn a_failed_save_touches_nothing_outside_its_area() {
    let bench = Bench::new();
    bench.disk.set_contents(&pattern(7, 0, 64 << 10));
    let (save, _) = failed(&bench);
    bench.run(save.finalize()).expect_err("failed");
    assert_eq!(bench.disk.contents(), pattern(7, 0, 64 << 10));
}
