//! Read-ahead load: each row and sentence of the specification, one test or more.
//!
//! | QEMU, or the flaw of its series | here |
//! |---|---|
//! | eight chunks are read ahead, a read waits for a loading one | `eight_chunks_are_read_ahead_of_the_readers_own`, `a_read_waits_for_the_chunk_it_needs_and_no_other` |
//! | a consumed chunk is reused for the next position | `a_consumed_chunk_makes_room_for_the_next`, `a_load_has_one_buffer_per_worker_and_one` |
//! | read-ahead only from 0 | `read_ahead_begins_wherever_the_reader_does` |
//! | reads past the end | `no_driver_read_touches_a_block_past_the_last_bytes`, `a_read_across_the_end_is_short_and_one_after_it_is_empty` |
//! | the end is known | `the_length_is_the_drivers_or_the_callers`, `without_a_length_the_load_asks_for_one` |
//! | any chunk's error fails the load | `an_error_comes_when_the_reader_reaches_its_chunk_and_not_before`, `after_an_error_a_read_tries_again`, `a_failed_chunk_no_task_reaches_is_no_tasks_error` |
//! | a read elsewhere leaves later ones slow | `after_a_seek_read_ahead_begins_again_there`, `chunks_that_a_seek_left_in_flight_are_no_answers` |
//! | a save voids what was read | `a_save_voids_what_was_read_before_it`, `a_load_during_a_save_sees_its_bytes` |
//! | positions, drain, drop | `positions_past_the_largest_offset_are_refused`, `a_drained_node_is_quiet`, `a_dropped_load_leaves_nothing` |

mod support;

use block_core::test_disk::{TestDisk, TestDiskOptions};
use block_core::{Cause, Errno, NodeBuilder, Op};
use std::rc::Rc;
use support::*;
use vmstate::{LoadOptions, VmstateLoad, VmstateSave, load_vmstate, save_vmstate_bytes};

/// A bench whose area holds a state of `len` bytes.
fn with_state(len: u64) -> Bench {
    let bench = Bench::new();
    bench.disk.set_vmstate_contents(&pattern(1, 0, len));
    bench
}

fn open(bench: &Bench, options: LoadOptions) -> Rc<VmstateLoad> {
    Rc::new(
        bench
            .run(VmstateLoad::open(&bench.node, options))
            .expect("opens"),
    )
}

/// Reads and compares.
fn read(bench: &Bench, load: &VmstateLoad, at: u64, len: u64) {
    let mut bytes = vec![0; len as usize];
    assert_eq!(bench.run(load.read(at, &mut bytes)), Ok(len as usize));
    assert!(bytes == pattern(1, at, len), "bytes at {at}");
}

fn start_read(
    bench: &Bench,
    load: &Rc<VmstateLoad>,
    at: u64,
    len: usize,
) -> Started<block_core::Result<Vec<u8>>> {
    let load = load.clone();
    bench.start(async move {
        let mut bytes = vec![0; len];
        let read = load.read(at, &mut bytes).await?;
        bytes.truncate(read);
        Ok(bytes)
    })
}

#[test]
fn eight_chunks_are_read_ahead_of_the_readers_own() {
    let bench = with_state(20 * CELL);
    bench.disk.hold(Op::LoadVmstate, 0..u64::MAX);
    let load = open(
        &bench,
        LoadOptions {
            buffer_size: CELL,
            ..Default::default()
        },
    );
    assert_eq!(bench.reads(), [], "nothing before the first read");
    let _reading = start_read(&bench, &load, 0, 10);
    assert_eq!(
        bench.reads(),
        (0..8).map(|i| (i * CELL, CELL)).collect::<Vec<_>>()
    );
    assert_eq!(
        (bench.disk.in_flight(), bench.node.in_flight()),
        (8, 8),
        "counted by the node"
    );
    bench.disk.release(bench.disk.held()[0].id);
    bench.step();
    read(&bench, &load, 10, 10);
    assert_eq!(
        bench.reads().len(),
        9,
        "a chunk being read from is none of the eight ahead"
    );
    read(&bench, &load, 20, 10);
    assert_eq!(bench.reads().len(), 9);
    bench.release_everything();
}

#[test]
fn a_read_waits_for_the_chunk_it_needs_and_no_other() {
    let bench = with_state(6 * CELL);
    bench.disk.hold(Op::LoadVmstate, 0..u64::MAX);
    let load = open(&bench, small_load(3));
    let first = start_read(&bench, &load, 0, CELL as usize + 1);
    let held = bench.disk.held();
    bench.disk.release(held[2].id);
    bench.disk.release(held[0].id);
    bench.step();
    assert!(!first.is_done(), "its last byte is in the second chunk");
    bench.disk.release(held[1].id);
    bench.step();
    assert!(first.done().expect("read") == pattern(1, 0, CELL + 1));
    bench.release_everything();
}

#[test]
fn a_consumed_chunk_makes_room_for_the_next() {
    let bench = with_state(30 * CELL + 5);
    let load = open(&bench, small_load(2));
    for at in (0..30 * CELL).step_by(1000) {
        read(&bench, &load, at, 1000.min(30 * CELL - at));
        let ahead = (at + 999).min(30 * CELL - 1) / CELL + 2;
        assert_eq!(
            bench.reads().len() as u64,
            ahead.min(30) + 1,
            "reader at {at}"
        );
    }
    let mut expected: Vec<_> = (0..30).map(|i| (i * CELL, CELL)).collect();
    expected.push((30 * CELL, BLOCK));
    assert_eq!(bench.reads(), expected, "each chunk once, in order");
}

#[test]
fn a_load_has_one_buffer_per_worker_and_one() {
    let bench = with_state(100 * CELL);
    bench.disk.hold(Op::LoadVmstate, 0..u64::MAX);
    let load = open(&bench, small_load(2));
    // Seeks all over the place while nothing ends: chunks in flight keep their buffers and slots.
    for at in [0, 50, 90, 10, 70] {
        let _ = bench
            .run(async { load.try_read(at * CELL, &mut [0; 9]) })
            .expect("no error");
        assert!(bench.disk.in_flight() <= 2);
    }
    let reading = start_read(&bench, &load, 33 * CELL, 9);
    bench.release_everything();
    assert!(reading.done().expect("read") == pattern(1, 33 * CELL, 9));
}

#[test]
fn read_ahead_begins_wherever_the_reader_does() {
    let bench = with_state(20 * CELL);
    let load = open(&bench, small_load(3));
    read(&bench, &load, 7 * CELL + 99, 10);
    assert_eq!(
        bench.reads()[..3],
        [(7 * CELL, CELL), (8 * CELL, CELL), (9 * CELL, CELL)]
    );
}

#[test]
fn no_driver_read_touches_a_block_past_the_last_bytes() {
    for len in [
        1,
        BLOCK,
        BLOCK + 1,
        CELL - 1,
        CELL,
        CELL + 1,
        3 * CELL - BLOCK - 1,
    ] {
        let bench = with_state(len);
        let load = open(&bench, small_load(8));
        read(&bench, &load, 0, len);
        let last = bench.reads().into_iter().map(|r| r.0 + r.1).max();
        assert_eq!(
            last,
            Some(len.next_multiple_of(BLOCK)),
            "a state of {len} bytes"
        );
    }
    let bench = with_state(0);
    let load = open(&bench, small_load(8));
    assert_eq!(bench.run(load.read(0, &mut [0; 10])), Ok(0));
    assert_eq!(bench.reads(), []);
}

#[test]
fn a_read_across_the_end_is_short_and_one_after_it_is_empty() {
    let bench = with_state(CELL + 100);
    let load = open(&bench, small_load(2));
    let mut bytes = vec![0xee; 32 << 10];
    assert_eq!(bench.run(load.read(CELL, &mut bytes)), Ok(100));
    assert!(bytes[..100] == pattern(1, CELL, 100) && bytes[100..].iter().all(|b| *b == 0xee));
    let reads = bench.reads().len();
    for at in [CELL + 100, CELL + 101, 50 * CELL, 1 << 60] {
        assert_eq!(bench.run(load.read(at, &mut bytes)), Ok(0));
        assert_eq!(
            bench.run(async { load.try_read(at, &mut bytes) }),
            Ok(Some(0))
        );
        assert_eq!(bench.run(load.ready(at)), Ok(()));
    }
    assert_eq!(bench.run(load.read(0, &mut [])), Ok(0));
    assert_eq!(bench.reads().len(), reads, "the driver is not asked");
}

#[test]
fn the_length_is_the_drivers_or_the_callers() {
    let bench = with_state(5000);
    assert_eq!(open(&bench, LoadOptions::default()).length(), 5000);
    let given = open(
        &bench,
        LoadOptions {
            length: Some(700),
            ..Default::default()
        },
    );
    assert_eq!(bench.run(given.read(600, &mut [0; 1000])), Ok(100));
    assert_eq!(bench.reads(), [(0, 1024)]);
    let length = Some(i64::MAX as u64 + 1);
    let error = bench.run(VmstateLoad::open(
        &bench.node,
        LoadOptions {
            length,
            ..Default::default()
        },
    ));
    assert_eq!(error.expect_err("too long").cause, Cause::Overflow);
}

#[test]
fn without_a_length_the_load_asks_for_one() {
    let bench = Bench::new(); // its driver was never told one
    let error = bench.run(VmstateLoad::open(&bench.node, LoadOptions::default()));
    let error = error.expect_err("how long is it?");
    assert!(
        matches!(&error.cause, Cause::Driver(text) if text.to_string().contains("length")),
        "{error}"
    );
    let mut bytes = [0xee; 1000];
    assert_eq!(
        bench.run(load_vmstate(&bench.node, 3, &mut bytes)),
        Ok(1000),
        "QEMU's call does not need one"
    );
    assert_eq!(
        (bytes, bench.reads()),
        ([0; 1000], vec![(3, 1000)]),
        "and reads nothing ahead"
    );
}

#[test]
fn an_error_comes_when_the_reader_reaches_its_chunk_and_not_before() {
    let bench = with_state(6 * CELL);
    bench
        .disk
        .fail_range(Op::LoadVmstate, 2 * CELL..3 * CELL, Errno::IO);
    let load = open(&bench, small_load(4));
    read(&bench, &load, 0, 2 * CELL);
    assert_eq!(bench.disk.faults_fired(), 1, "the chunk has failed already");
    let mut bytes = vec![0; 2 * CELL as usize];
    let error = bench
        .run(load.read(CELL, &mut bytes))
        .expect_err("it reaches into the bad chunk");
    assert_eq!(
        (error.op, error.offset, error.errno()),
        (Op::LoadVmstate, 2 * CELL, Errno::IO)
    );
    read(&bench, &load, CELL, CELL);
    read(&bench, &load, 3 * CELL, 3 * CELL);
    // The synchronous form copies what is good first.
    let load = open(&bench, small_load(4));
    bench.run(load.ready(0)).expect("ready");
    assert_eq!(
        bench.run(async { load.try_read(CELL + 10, &mut bytes) }),
        Ok(Some(CELL as usize - 10))
    );
    let error = bench
        .run(async { load.try_read(2 * CELL, &mut bytes) })
        .expect_err("now it is reached");
    assert_eq!(error.offset, 2 * CELL);
}

#[test]
fn after_an_error_a_read_tries_again() {
    let bench = with_state(3 * CELL);
    bench.disk.fail_nth(Op::LoadVmstate, 1, Errno::IO);
    let load = open(&bench, small_load(4));
    let mut bytes = vec![0; 3 * CELL as usize];
    bench
        .run(load.read(0, &mut bytes))
        .expect_err("the second chunk");
    read(&bench, &load, 0, 3 * CELL);
    assert_eq!(bench.reads().iter().filter(|r| r.0 == CELL).count(), 2);
    // An error for ever is an error each time, and no loop.
    bench
        .disk
        .fail_range(Op::LoadVmstate, 0..u64::MAX, Errno::NOSPC);
    let load = open(&bench, small_load(4));
    for _ in 0..3 {
        let error = bench.run(load.read(0, &mut bytes)).expect_err("bad");
        assert_eq!((error.offset, error.errno()), (0, Errno::NOSPC));
    }
}

#[test]
fn a_failed_chunk_no_task_reaches_is_no_tasks_error() {
    let bench = with_state(6 * CELL);
    bench
        .disk
        .fail_range(Op::LoadVmstate, 2 * CELL..3 * CELL, Errno::IO);
    let load = open(&bench, small_load(4));
    read(&bench, &load, 0, CELL);
    assert_eq!(bench.disk.faults_fired(), 1);
    read(&bench, &load, 3 * CELL, 3 * CELL);
    drop(load);
    bench.drain_and_close();
}

#[test]
fn after_a_seek_read_ahead_begins_again_there() {
    let bench = with_state(100 * CELL);
    let load = open(&bench, small_load(2));
    read(&bench, &load, 0, 10);
    let before = bench.reads().len();
    read(&bench, &load, 50 * CELL, 10);
    let expected = [(50 * CELL, CELL), (51 * CELL, CELL), (52 * CELL, CELL)];
    assert_eq!(
        bench.reads()[before..],
        expected[..bench.reads().len() - before]
    );
    assert!(bench.reads().len() - before >= 2);
    read(&bench, &load, 10, 10);
    read(&bench, &load, 99 * CELL, CELL);
    // A small step forward inside the window keeps what is there.
    read(&bench, &load, 20 * CELL, 10);
    let before = bench.reads().len();
    read(&bench, &load, 21 * CELL, 10);
    assert!(bench.reads()[before..].iter().all(|r| r.0 >= 22 * CELL));
}

#[test]
fn chunks_that_a_seek_left_in_flight_are_no_answers() {
    let bench = with_state(100 * CELL);
    bench.disk.hold(Op::LoadVmstate, 0..u64::MAX);
    let load = open(&bench, small_load(2));
    drop(start_read(&bench, &load, 0, 10));
    let reading = start_read(&bench, &load, 60 * CELL, 10);
    assert_eq!(
        bench.disk.in_flight(),
        2,
        "slots are taken by the old place"
    );
    for record in bench.disk.held() {
        bench.disk.fail_held(record.id, Errno::IO);
    }
    bench.step();
    assert!(!reading.is_done(), "those errors are of no interest");
    bench.release_everything();
    assert!(reading.done().expect("read") == pattern(1, 60 * CELL, 10));
}

#[test]
fn a_save_voids_what_was_read_before_it() {
    let bench = with_state(3 * CELL);
    let load = open(&bench, small_load(4));
    read(&bench, &load, 0, 3 * CELL);
    bench.run(async {
        let save = VmstateSave::begin(&bench.node, small(2)).expect("begins");
        save.write(0, &pattern(2, 0, 2 * CELL + 50))
            .await
            .expect("accepted");
        save.finalize().await.expect("good");
        let mut bytes = vec![0; 3 * CELL as usize];
        let len = load.read(0, &mut bytes).await.expect("read");
        assert_eq!(len as u64, 2 * CELL + 50, "the new end");
        assert!(
            bytes[..len] == pattern(2, 0, 2 * CELL + 50),
            "the new bytes"
        );
    });
    assert_eq!(load.length(), 2 * CELL + 50);
}

#[test]
fn a_load_during_a_save_sees_its_bytes() {
    let bench = with_state(3 * CELL);
    let load = open(&bench, small_load(4));
    bench.run(async {
        save_vmstate_bytes(&bench.node, 0, b"new bytes")
            .await
            .expect("accepted");
        let mut bytes = [0; 20];
        assert_eq!(
            load.try_read(0, &mut bytes),
            Ok(None),
            "not without waiting"
        );
        load.ready(0)
            .await
            .expect("does not wait for the save to end");
        assert_eq!(load.read(0, &mut bytes).await, Ok(9));
        assert_eq!(&bytes[..9], b"new bytes");
    });
    let short = open(
        &bench,
        LoadOptions {
            length: Some(3),
            ..Default::default()
        },
    );
    assert_eq!(
        bench.run(short.read(0, &mut [0; 20])),
        Ok(3),
        "the caller's length counts too"
    );
}

#[test]
fn positions_past_the_largest_offset_are_refused() {
    let bench = with_state(100);
    let load = open(&bench, small_load(1));
    for at in [u64::MAX, i64::MAX as u64] {
        for error in [
            bench.run(load.read(at, &mut [0; 5])).map(drop),
            load.try_read(at, &mut [0; 5]).map(drop),
            bench.run(load.ready(at)),
        ] {
            assert_eq!(error.expect_err("refused").cause, Cause::Overflow);
        }
    }
}

#[test]
fn a_drained_node_is_quiet() {
    let bench = with_state(20 * CELL);
    let load = open(&bench, small_load(4));
    read(&bench, &load, 0, 10);
    let section = bench.run(bench.node.drain_begin()).expect("drained");
    let calls = bench.reads().len();
    let reading = start_read(&bench, &load, 10 * CELL, 10);
    assert_eq!(bench.reads().len(), calls, "no driver call starts");
    assert!(!reading.is_done());
    drop(section);
    bench.step();
    assert!(reading.done().expect("read") == pattern(1, 10 * CELL, 10));
}

#[test]
fn a_dropped_load_leaves_nothing() {
    let bench = with_state(20 * CELL);
    bench.disk.hold(Op::LoadVmstate, 0..u64::MAX);
    let load = open(&bench, small_load(4));
    drop(start_read(&bench, &load, 0, 10));
    drop(load);
    assert_eq!(
        bench.node.in_flight(),
        4,
        "driver calls end by themselves, and the node counts them"
    );
    bench.release_everything();
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
fn without_an_area_there_is_nothing_to_load() {
    let bench = Bench::new();
    let (driver, disk) = TestDisk::new(TestDiskOptions {
        len: 4096,
        ..Default::default()
    });
    let plain = bench.open(NodeBuilder::new("plain"), driver);
    let error = bench.run(VmstateLoad::open(&plain, LoadOptions::default()));
    assert_eq!(error.expect_err("refused").errno(), Errno::NOTSUP);
    assert_eq!(disk.records(), []);
}
