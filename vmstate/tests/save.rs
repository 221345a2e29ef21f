//! Buffered save: each row and sentence of the specification, one test or more.
//!
//! | QEMU, or the flaw of its series | here |
//! |---|---|
//! | buffer = max(cluster, 1 MiB), aligned | `a_buffer_is_a_mebibyte_or_a_cluster_rounded_up_to_the_alignment` |
//! | at most 8 in flight, and one being filled | `eight_buffers_are_in_flight_and_a_ninth_is_filled_then_the_caller_waits` |
//! | a write is copied in, a full buffer becomes a task | `bytes_reach_the_driver_one_full_buffer_at_a_time`, `a_write_larger_than_all_buffers_arrives_whole` |
//! | no save_vmstate: passed to `file`, else ENOTSUP | `a_node_without_an_area_passes_the_save_to_its_file`, `without_an_area_anywhere_the_save_is_not_supported_and_nothing_is_written` |
//! | the in-flight count around the driver call | `a_buffer_in_flight_is_counted_by_the_node` |
//! | finalize submits the rest (empty: nothing) and waits for all | `finalize_writes_the_rest_and_waits_for_all`, `an_empty_save_writes_nothing_and_has_length_zero` |
//! | the next save starts clean | `after_finalize_another_save_begins_at_once`, `two_saves_cannot_be_active_on_one_area` |
//! | older bytes land over newer ones | `a_write_over_bytes_in_flight_lands_after_them`, `writes_anywhere_in_any_order_give_the_last_bytes` |
//! | after a write elsewhere the stream is slow | `buffering_goes_on_after_a_write_elsewhere`, `interleaved_streams_fill_a_buffer_each`, `more_streams_than_cursors_still_arrive` |
//! | gaps | `gaps.rs` |
//! | a read during a save is stale | `a_read_sees_buffered_kept_in_flight_and_stored_bytes`, `a_read_during_a_save_ends_at_the_highest_byte` |
//! | two writers at once | `two_writers_at_once_both_arrive_whole` |
//! | an unaligned tail is read and merged | `an_unaligned_tail_is_padded_and_not_read`, `a_partial_block_before_stored_bytes_is_merged` |
//! | zeroes that a later buffer overwrites | `an_unaligned_end_of_one_stream_is_not_padded_before_the_rest_comes` |
//! | a later write inside the tail's block | `a_write_after_a_flushed_tail_reads_nothing` |
//! | many partial blocks | `scattered_bytes_arrive_though_more_blocks_are_partial_than_are_kept` |
//! | a dropped future loses a buffer | `a_dropped_write_keeps_exactly_its_prefix` |
//! | a dropped finalize | `a_length_told_by_a_dropped_finalize_cuts_nothing_off_the_next_save`, `after_a_dropped_finalize_the_save_may_go_on`, `finalize_waits_for_what_a_cancelled_save_left_in_flight_anywhere` |
//! | drain | `a_drained_node_is_quiet_while_buffered_bytes_stay`, `in_a_drained_section_bytes_are_accepted_while_there_is_room`, `finalize_waits_for_the_last_drained_section_to_end` |
//! | positions unchecked | `a_position_past_the_largest_offset_is_refused_and_nothing_is_written` |
//! | no progress, no cancellation | `progress_tells_accepted_submitted_completed`, `a_cancel_from_another_thread_stops_a_waiting_write`, `a_dropped_save_is_a_cancel_and_the_next_one_waits_for_its_flights` |
//! | memory | `buffers_are_reused_and_never_more_than_one_per_worker_and_one` |
//! | QEMU's calls | `the_calls_as_qemu_has_them_save_and_load` |

mod support;

use block_core::VmstateOffset;
use block_core::test_disk::{TestDisk, TestDiskOptions};
use block_core::{Cause, Errno, IoBuf, IoVector, NodeBuilder, Op, Permissions, ReadVector};
use std::rc::Rc;
use support::*;
use vmstate::{
    LoadOptions, SaveOptions, VmstateLoad, VmstateSave, begin_save_vmstate, finalize_vmstate,
    load_vmstate, load_vmstate_vector, save_vmstate, save_vmstate_bytes, vmstate_position,
};

fn begin(bench: &Bench, options: SaveOptions) -> Rc<VmstateSave> {
    Rc::new(VmstateSave::begin(&bench.node, options).expect("the save begins"))
}

fn write(bench: &Bench, save: &Rc<VmstateSave>, at: u64, bytes: &[u8]) {
    bench.run(save.write(at, bytes)).expect("accepted");
}

/// `try_write` while the context is driven.
fn try_write(
    bench: &Bench,
    save: &VmstateSave,
    at: u64,
    bytes: &[u8],
) -> block_core::Result<usize> {
    bench.run(async { save.try_write(at, bytes) })
}

/// The state as a load of its own reads it back, after the end of the save.
fn read_back(bench: &Bench) -> Vec<u8> {
    bench.run(async {
        let options = LoadOptions {
            buffer_size: 3 * 512,
            ..Default::default()
        };
        let load = VmstateLoad::open(&bench.node, options)
            .await
            .expect("opens");
        let mut bytes = vec![0xee; load.length() as usize + 7];
        let len = load.read(0, &mut bytes).await.expect("read");
        assert_eq!(
            len as u64,
            load.length(),
            "the load ends where the state ends"
        );
        bytes.truncate(len);
        bytes
    })
}

fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "length");
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "first byte that differs");
}

#[test]
fn a_buffer_is_a_mebibyte_or_a_cluster_rounded_up_to_the_alignment() {
    let size = |request_alignment, cluster, options| {
        let bench = Bench::with_limits(limits(request_alignment, cluster));
        begin(&bench, options).buffer_size()
    };
    let default = SaveOptions::default();
    assert_eq!(size(512, 0, default), 1 << 20);
    assert_eq!(size(512, 64 << 10, default), 1 << 20, "a smaller cluster");
    assert_eq!(size(4096, 2 << 20, default), 2 << 20, "a larger cluster");
    assert_eq!(
        size(
            4096,
            0,
            SaveOptions {
                buffer_size: 1_000_000,
                ..default
            }
        ),
        1_003_520
    );
    assert_eq!(
        size(
            1,
            0,
            SaveOptions {
                buffer_size: 1,
                ..default
            }
        ),
        1
    );
    assert_eq!((default.workers.get(), default.buffer_size), (8, 1 << 20));
    for buffer_size in [0, (1 << 30) + 1, u64::MAX] {
        let bench = Bench::new();
        let error = VmstateSave::begin(
            &bench.node,
            SaveOptions {
                buffer_size,
                ..default
            },
        );
        assert_eq!(error.expect_err("refused").errno(), Errno::INVAL);
    }
    let bench = Bench::with_limits(limits(512, u64::MAX));
    assert!(
        VmstateSave::begin(&bench.node, default).is_err(),
        "an absurd cluster is no panic"
    );
}

#[test]
fn eight_buffers_are_in_flight_and_a_ninth_is_filled_then_the_caller_waits() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(8));
    let bytes = pattern(1, 0, 10 * CELL);
    assert_eq!(
        try_write(&bench, &save, 0, &bytes).expect("accepted"),
        9 * CELL as usize
    );
    assert_eq!(bench.disk.in_flight(), 8);
    assert_eq!(
        try_write(&bench, &save, 9 * CELL, &bytes[..1]).expect("no failure"),
        0,
        "no room"
    );
    let rest = bytes[9 * CELL as usize..].to_vec();
    let writer = bench.start({
        let save = save.clone();
        async move { save.write(9 * CELL, &rest).await }
    });
    assert!(!writer.is_done(), "it waits for a buffer");
    bench.disk.release(bench.disk.held()[3].id);
    bench.step();
    assert!(writer.is_done(), "one end makes room for one buffer");
    assert_eq!(bench.disk.in_flight(), 8);
    bench.release_everything();
    bench.run(save.finalize()).expect("good");
    assert_same(&bench.disk.vmstate_contents(), &bytes);
}

#[test]
fn bytes_reach_the_driver_one_full_buffer_at_a_time() {
    let bench = Bench::new();
    let save = begin(&bench, small(4));
    let bytes = pattern(1, 0, 3 * CELL + 100);
    for (i, piece) in bytes.chunks(700).enumerate() {
        write(&bench, &save, i as u64 * 700, piece);
        let full = (i as u64 * 700 + piece.len() as u64) / CELL;
        assert_eq!(
            bench.writes().len() as u64,
            full,
            "written when full, at once"
        );
    }
    assert_eq!(bench.run(save.finalize()), Ok(3 * CELL + 100));
    assert_eq!(
        bench.writes(),
        [(0, CELL), (CELL, CELL), (2 * CELL, CELL), (3 * CELL, BLOCK)]
    );
    assert_same(&bench.disk.vmstate_contents(), &bytes);
}

#[test]
fn a_write_larger_than_all_buffers_arrives_whole() {
    let bench = Bench::new();
    let save = begin(&bench, small(2));
    let bytes = pattern(1, 0, 20 * CELL + 1);
    write(&bench, &save, 0, &bytes);
    assert_eq!(save.position(), VmstateOffset(20 * CELL + 1));
    bench.run(save.finalize()).expect("good");
    assert_same(&read_back(&bench), &bytes);
}

/// A node without an area over `below`.
fn over(bench: &Bench, below: &block_core::BlockNode) -> block_core::BlockNode {
    let child = below
        .attach("parent", Permissions::writer())
        .expect("attached");
    let (driver, _) = TestDisk::new(TestDiskOptions {
        len: 1 << 20,
        ..Default::default()
    });
    bench.open(NodeBuilder::new("over"), driver.with_file(child))
}

#[test]
fn a_node_without_an_area_passes_the_save_to_its_file() {
    let bench = Bench::new();
    let middle = over(&bench, &bench.node);
    let top = over(&bench, &middle);
    bench.run(async {
        save_vmstate_bytes(&top, 0, b"through two nodes")
            .await
            .expect("accepted");
        assert!(
            VmstateSave::begin(&bench.node, small(1)).is_err(),
            "it is the same area"
        );
        assert_eq!(finalize_vmstate(&top).await, Ok(17));
    });
    assert_eq!(&bench.disk.vmstate_contents()[..], b"through two nodes");
}

#[test]
fn without_an_area_anywhere_the_save_is_not_supported_and_nothing_is_written() {
    let bench = Bench::new();
    let (driver, disk) = TestDisk::new(TestDiskOptions {
        len: 1 << 20,
        ..Default::default()
    });
    disk.set_contents(&pattern(9, 0, 1 << 20));
    let plain = bench.open(NodeBuilder::new("plain"), driver);
    let top = over(&bench, &plain);
    for node in [&plain, &top] {
        let errors = bench.run(async {
            [
                VmstateSave::begin(node, SaveOptions::default()).map(drop),
                save_vmstate_bytes(node, 0, &[1; 5000]).await,
                finalize_vmstate(node).await.map(drop),
                load_vmstate(node, 0, &mut [0; 10]).await.map(drop),
                VmstateLoad::open(node, LoadOptions::default())
                    .await
                    .map(drop),
            ]
        });
        for error in errors {
            let error = error.expect_err("refused");
            assert_eq!(
                (error.cause.clone(), error.errno()),
                (Cause::NotSupported, Errno::NOTSUP)
            );
        }
    }
    assert_eq!(disk.records(), []);
    assert_same(&disk.contents(), &pattern(9, 0, 1 << 20));
}

#[test]
fn a_read_only_node_refuses_the_save() {
    let bench = Bench::new();
    let options = TestDiskOptions {
        vmstate: Some(limits(1, 0)),
        ..Default::default()
    };
    let (driver, disk) = TestDisk::new(options);
    let node = bench.open(NodeBuilder::new("ro").read_only(true), driver);
    let error = VmstateSave::begin(&node, SaveOptions::default()).expect_err("refused");
    assert_eq!(error.cause, Cause::ReadOnly);
    assert_eq!(disk.records(), []);
}

#[test]
fn a_buffer_in_flight_is_counted_by_the_node() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(4));
    write(&bench, &save, 0, &pattern(1, 0, 2 * CELL + 5));
    assert_eq!(
        bench.node.in_flight(),
        2,
        "two full buffers, and not the third"
    );
    bench.release_everything();
    assert_eq!(bench.node.in_flight(), 0);
}

#[test]
fn finalize_writes_the_rest_and_waits_for_all() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(4));
    write(&bench, &save, 0, &pattern(1, 0, 2 * CELL + 600));
    let end = bench.start({
        let save = save.clone();
        async move { save.finalize().await }
    });
    assert_eq!(bench.disk.in_flight(), 3);
    let ids: Vec<_> = bench.disk.held().iter().map(|r| r.id).collect();
    for id in ids.into_iter().rev() {
        assert!(!end.is_done(), "not before the last one has ended");
        assert_eq!(bench.disk.vmstate_length(), None, "nor is the length told");
        bench.disk.release(id);
        bench.step();
    }
    assert_eq!(end.done(), Ok(2 * CELL + 600));
    assert_eq!(bench.disk.vmstate_length(), Some(2 * CELL + 600));
}

#[test]
fn an_empty_save_writes_nothing_and_has_length_zero() {
    let bench = Bench::new();
    let save = begin(&bench, small(4));
    write(&bench, &save, 77, b"");
    assert_eq!(bench.run(save.finalize()), Ok(0));
    assert_eq!(bench.writes(), []);
    assert_eq!(bench.disk.vmstate_length(), Some(0));
    assert_eq!(
        bench.run(finalize_vmstate(&bench.node)),
        Ok(0),
        "and none at all is no error"
    );
}

#[test]
fn after_finalize_another_save_begins_at_once() {
    let bench = Bench::new();
    let first = begin(&bench, small(4));
    write(&bench, &first, 0, &pattern(1, 0, 5000));
    bench.run(first.finalize()).expect("good");
    let late = bench.run(first.write(0, b"late")).expect_err("it is over");
    assert_eq!(late.cause, Cause::Closed);
    assert_eq!(bench.run(first.finalize()), Ok(5000), "the same again");
    assert_eq!(
        bench.run(first.flush()).expect_err("it is over").cause,
        Cause::Closed
    );
    let second = begin(&bench, small(4));
    write(&bench, &second, 0, &pattern(2, 0, 3000));
    drop(first);
    bench
        .run(second.finalize())
        .expect("the end of the first does not touch the second");
    assert_same(&read_back(&bench), &pattern(2, 0, 3000));
    bench.drain_and_close();
}

#[test]
fn two_saves_cannot_be_active_on_one_area() {
    let bench = Bench::new();
    let first = begin(&bench, small(1));
    let error = VmstateSave::begin(&bench.node, small(1)).expect_err("one is active");
    assert_eq!(error.errno(), Errno(16), "EBUSY");
    write(&bench, &first, 0, b"unharmed");
    assert_eq!(bench.run(first.finalize()), Ok(8));
}

#[test]
fn a_write_over_bytes_in_flight_lands_after_them() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(4));
    write(&bench, &save, 0, &pattern(1, 0, CELL));
    assert_eq!(bench.disk.in_flight(), 1, "the old bytes are in flight");
    write(&bench, &save, 0, &pattern(2, 0, CELL));
    write(&bench, &save, CELL, &pattern(3, CELL, CELL));
    let end = bench.start({
        let save = save.clone();
        async move { save.finalize().await }
    });
    assert_eq!(
        bench.writes(),
        [(0, CELL), (CELL, CELL)],
        "the new bytes are not"
    );
    bench.disk.release(bench.disk.held()[1].id);
    bench.step();
    assert_eq!(
        bench.writes().len(),
        2,
        "still not: the old ones could land over them"
    );
    bench.release_everything();
    end.done().expect("good");
    let expected = [pattern(2, 0, CELL), pattern(3, CELL, CELL)].concat();
    assert_same(&bench.disk.vmstate_contents(), &expected);
}

#[test]
fn writes_anywhere_in_any_order_give_the_last_bytes() {
    let bench = Bench::new();
    let save = begin(&bench, small(2));
    let mut expected = vec![0; 6 * CELL as usize];
    let mut random = Seeded::new(7);
    for version in 0..400 {
        let at = random.below(5 * CELL);
        let len = random.below(CELL) + 1;
        let bytes = pattern(version, at, len);
        write(&bench, &save, at, &bytes);
        expected[at as usize..(at + len) as usize].copy_from_slice(&bytes);
    }
    let length = bench.run(save.finalize()).expect("good");
    assert_same(&read_back(&bench), &expected[..length as usize]);
}

#[test]
fn buffering_goes_on_after_a_write_elsewhere() {
    let bench = Bench::new();
    let save = begin(&bench, small(4));
    write(&bench, &save, 0, &pattern(1, 0, 1000));
    write(&bench, &save, 100 * CELL, b"elsewhere");
    let mut at = 1000;
    while at < 10 * CELL {
        write(&bench, &save, at, &pattern(1, at, 104));
        at += 104;
    }
    assert_eq!(
        bench.writes(),
        (0..10).map(|i| (i * CELL, CELL)).collect::<Vec<_>>()
    );
    bench.run(save.finalize()).expect("good");
}

#[test]
fn interleaved_streams_fill_a_buffer_each() {
    let bench = Bench::with_limits(limits(4096, 0));
    let options = SaveOptions {
        workers: workers(8),
        buffer_size: 64 << 10,
        ..Default::default()
    };
    let save = begin(&bench, options);
    // Pages at ascending places with gaps; after them small stream pieces.
    let (mut page, mut piece) = (0, 1 << 30);
    let mut pages = Vec::new();
    for i in 0..600_u64 {
        page += if i % 7 == 0 { 2 * 4096 } else { 4096 };
        pages.push(page);
        assert_eq!(
            try_write(&bench, &save, page, &pattern(1, page, 4096)),
            Ok(4096)
        );
        if i % 5 == 0 {
            write(&bench, &save, piece, &pattern(2, piece, 133));
            piece += 133;
        }
        bench.step();
    }
    let length = bench.run(save.finalize()).expect("good");
    assert_eq!(length, piece);
    let stored = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        assert_eq!(
            bench.run(load_vmstate(&bench.node, at, &mut bytes)),
            Ok(len)
        );
        bytes
    };
    for page in &pages {
        assert_same(&stored(*page, 4096), &pattern(1, *page, 4096));
    }
    assert_same(
        &stored(1 << 30, (piece - (1 << 30)) as usize),
        &pattern(2, 1 << 30, piece - (1 << 30)),
    );
    let written: u64 = bench.writes().iter().map(|w| w.1).sum();
    let pieces = (piece - (1 << 30)).next_multiple_of(4096);
    assert_eq!(
        written,
        600 * 4096 + pieces,
        "gaps and partial blocks are not written"
    );
    let runs = pages
        .windows(2)
        .filter(|w| w[1] != w[0] + 4096 || w[1] % (64 << 10) == 0)
        .count()
        + 1;
    assert_eq!(
        bench.writes().iter().filter(|w| w.0 < 1 << 30).count(),
        runs,
        "one call per run"
    );
    assert!(bench.reads().len() < 700, "nothing but this test has read");
}

#[test]
fn more_streams_than_cursors_still_arrive() {
    for cursors in [1, 2, 4] {
        let bench = Bench::new();
        let save = begin(
            &bench,
            SaveOptions {
                cursors: workers(cursors),
                ..small(3)
            },
        );
        let streams = 7;
        for i in 0..300_u64 {
            for stream in 0..streams {
                let at = stream * 20 * CELL + i * 91;
                write(&bench, &save, at, &pattern(stream, at, 91));
            }
        }
        bench.run(save.finalize()).expect("good");
        let state = read_back(&bench);
        for stream in 0..streams {
            let at = stream * 20 * CELL;
            let found = &state[at as usize..(at + 300 * 91) as usize];
            assert_same(found, &pattern(stream, at, 300 * 91));
        }
    }
}

#[test]
fn a_read_sees_buffered_kept_in_flight_and_stored_bytes() {
    let bench = Bench::new();
    let save = begin(
        &bench,
        SaveOptions {
            cursors: workers(1),
            ..small(4)
        },
    );
    let mut expected = vec![0; 4 * CELL as usize];
    let mut put = |save: &Rc<VmstateSave>, version, at: u64, len: u64| {
        let bytes = pattern(version, at, len);
        assert_eq!(try_write(&bench, save, at, &bytes), Ok(len as usize));
        expected[at as usize..(at + len) as usize].copy_from_slice(&bytes);
    };
    put(&save, 1, 0, CELL); // stored
    put(&save, 2, CELL, 700); // evicted by the next: a run, and a kept block
    bench.disk.hold(Op::SaveVmstate, 2 * CELL..3 * CELL);
    put(&save, 3, 2 * CELL, CELL); // in flight
    put(&save, 4, 3 * CELL, 300); // buffered
    assert_eq!(bench.disk.in_flight(), 1);
    assert_eq!(bench.writes(), [(0, CELL), (CELL, BLOCK), (2 * CELL, CELL)]);
    let read = bench.start({
        let save = save.clone();
        async move {
            let mut bytes = vec![0xee; 3 * CELL as usize + 300];
            save.read(0, &mut bytes)
                .await
                .map(|len| bytes[..len].to_vec())
        }
    });
    assert!(!read.is_done(), "it waits for the bytes in flight");
    bench.release_everything();
    assert_same(
        &read.done().expect("read"),
        &expected[..3 * CELL as usize + 300],
    );
    // Each alone, and through the free call; the driver is not asked for what is buffered.
    for (at, len) in [
        (5, 100),
        (CELL + 511, 150),
        (2 * CELL + 1, 600),
        (3 * CELL, 300),
    ] {
        let mut bytes = vec![0; len];
        assert_eq!(
            bench.run(load_vmstate(&bench.node, at, &mut bytes)),
            Ok(len)
        );
        assert_same(&bytes, &expected[at as usize..at as usize + len]);
    }
    assert!(bench.reads().iter().all(|r| r.0 < 3 * CELL));
    let error = bench.run(async {
        bench.disk.fail_nth(Op::LoadVmstate, 0, Errno::IO);
        save.read(0, &mut [0; 10])
            .await
            .expect_err("the driver failed")
    });
    assert_eq!((error.op, error.errno()), (Op::LoadVmstate, Errno::IO));
    bench
        .run(save.finalize())
        .expect("a failed read is no failure of the save");
}

#[test]
fn a_read_during_a_save_ends_at_the_highest_byte() {
    let bench = Bench::new();
    bench.disk.set_vmstate_contents(&pattern(9, 0, 3 * CELL));
    let save = begin(&bench, small(4));
    write(&bench, &save, 10, &pattern(1, 10, 90));
    let mut bytes = [0; 200];
    assert_eq!(bench.run(save.read(50, &mut bytes)), Ok(50));
    assert_same(&bytes[..50], &pattern(1, 50, 50));
    assert_eq!(bench.run(save.read(100, &mut bytes)), Ok(0));
    assert_eq!(bench.run(save.read(5000, &mut bytes)), Ok(0));
    let error = bench
        .run(save.read(u64::MAX, &mut bytes))
        .expect_err("past the largest offset");
    assert_eq!(error.cause, Cause::Overflow);
}

#[test]
fn two_writers_at_once_both_arrive_whole() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(1));
    // Both are larger than all buffers, and overlap: the second call's bytes must win everywhere.
    let writers: Vec<_> = [1, 2]
        .map(|version| {
            let save = save.clone();
            bench.start(async move { save.write(0, &pattern(version, 0, 6 * CELL)).await })
        })
        .into();
    assert!(writers.iter().all(|w| !w.is_done()), "both wait");
    bench.release_everything();
    for writer in writers {
        writer.done().expect("accepted");
    }
    bench.run(save.finalize()).expect("good");
    assert_same(&bench.disk.vmstate_contents(), &pattern(2, 0, 6 * CELL));
}

#[test]
fn an_unaligned_tail_is_padded_and_not_read() {
    let bench = Bench::new();
    let save = begin(&bench, small(4));
    write(&bench, &save, 0, &pattern(1, 0, CELL + BLOCK + 17));
    bench.run(save.finalize()).expect("good");
    assert_eq!(bench.reads(), []);
    assert_eq!(
        bench.writes(),
        [(0, CELL), (CELL, 2 * BLOCK)],
        "one call, padding included"
    );
    assert_eq!(
        bench.disk.vmstate_length(),
        Some(CELL + BLOCK + 17),
        "and the true length"
    );
    assert_same(
        &bench.disk.vmstate_contents(),
        &pattern(1, 0, CELL + BLOCK + 17),
    );
}

#[test]
fn a_partial_block_before_stored_bytes_is_merged() {
    let bench = Bench::new();
    let save = begin(&bench, small(4));
    write(&bench, &save, 0, &pattern(1, 0, 2 * CELL));
    bench.run(save.flush()).expect("flushed");
    write(&bench, &save, 100, b"in the middle");
    bench.run(save.finalize()).expect("good");
    assert_eq!(
        bench.reads(),
        [(0, BLOCK)],
        "only the block that is partly written"
    );
    let mut expected = pattern(1, 0, 2 * CELL);
    expected[100..113].copy_from_slice(b"in the middle");
    assert_same(&bench.disk.vmstate_contents(), &expected);
    // Of a save that begins later on the same area the same is true: it does not know what is there.
    let save = begin(&bench, small(4));
    write(&bench, &save, 700, b"x");
    bench.run(save.finalize()).expect("good");
    assert_eq!(bench.reads(), [(0, BLOCK), (BLOCK, BLOCK)]);
}

#[test]
fn what_was_stored_before_the_node_was_opened_is_merged_and_not_padded_away() {
    let bench = Bench::new();
    let older = pattern(9, 0, 3 * CELL);
    bench.disk.set_vmstate_contents(&older);
    let save = begin(&bench, small(4));
    write(&bench, &save, 700, b"x");
    write(&bench, &save, 2 * CELL, &pattern(1, 2 * CELL, 100));
    bench.run(save.finalize()).expect("good");
    assert_eq!(bench.reads(), [(BLOCK, BLOCK), (2 * CELL, BLOCK)]);
    let mut expected = older;
    expected[700] = b'x';
    expected.truncate(2 * CELL as usize);
    expected.extend(pattern(1, 2 * CELL, 100));
    assert_same(&bench.disk.vmstate_contents()[..expected.len()], &expected);
}

#[test]
fn a_block_that_is_let_go_for_want_of_room_is_merged_with_what_was_stored_before() {
    let bench = Bench::new();
    let mut expected = pattern(9, 0, 200 * CELL);
    bench.disk.set_vmstate_contents(&expected);
    let save = begin(&bench, small(4));
    for cell in 0..200u64 {
        // More partly written blocks than are kept.
        let at = cell * CELL + 700;
        write(&bench, &save, at, b"x");
        expected[at as usize] = b'x';
    }
    write(
        &bench,
        &save,
        200 * CELL - 1,
        &expected[expected.len() - 1..],
    );
    bench.run(save.finalize()).expect("good");
    assert_same(&bench.disk.vmstate_contents()[..expected.len()], &expected);
}

#[test]
fn an_unaligned_end_of_one_stream_is_not_padded_before_the_rest_comes() {
    let bench = Bench::new();
    let save = begin(
        &bench,
        SaveOptions {
            cursors: workers(1),
            ..small(4)
        },
    );
    write(&bench, &save, 0, &pattern(1, 0, 700));
    write(&bench, &save, 10 * CELL, &pattern(1, 10 * CELL, 10)); // takes the only cursor
    assert_eq!(bench.writes(), [(0, BLOCK)], "the tail is kept");
    write(&bench, &save, 700, &pattern(1, 700, CELL - 700));
    bench.run(save.finalize()).expect("good");
    let expected = [(0, BLOCK), (BLOCK, CELL - BLOCK), (10 * CELL, BLOCK)];
    assert_eq!(bench.writes(), expected, "and goes out whole");
    assert_eq!(bench.reads(), []);
    assert_same(
        &bench.disk.vmstate_contents()[..CELL as usize],
        &pattern(1, 0, CELL),
    );
    assert_same(
        &bench.disk.vmstate_contents()[10 * CELL as usize..],
        &pattern(1, 10 * CELL, 10),
    );
}

#[test]
fn a_write_after_a_flushed_tail_reads_nothing() {
    let bench = Bench::new();
    let save = begin(&bench, small(4));
    write(&bench, &save, 0, &pattern(1, 0, 1000));
    bench.run(save.flush()).expect("flushed");
    assert_eq!(bench.writes(), [(0, 1024)]);
    write(&bench, &save, 1000, &pattern(1, 1000, 1000));
    bench.run(save.finalize()).expect("good");
    assert_eq!(bench.reads(), [], "served from the kept tail");
    assert_eq!(bench.writes(), [(0, 1024), (512, 1536)]);
    assert_same(&bench.disk.vmstate_contents(), &pattern(1, 0, 2000));
}

#[test]
fn scattered_bytes_arrive_though_more_blocks_are_partial_than_are_kept() {
    let bench = Bench::new();
    let save = begin(
        &bench,
        SaveOptions {
            buffer_size: 256 << 10,
            ..small(2)
        },
    );
    let mut expected = vec![0; 900 << 10];
    // Every 150th byte of several buffers: hundreds of partial blocks, and more ranges than a buffer takes.
    for round in 0..2 {
        for at in (round * 75..900_u64 << 10).step_by(150) {
            let byte = pattern(round, at, 1);
            write(&bench, &save, at, &byte);
            expected[at as usize] = byte[0];
        }
    }
    let length = bench.run(save.finalize()).expect("good") as usize;
    assert!(
        !bench.reads().is_empty(),
        "some blocks had to be merged, or this tests nothing"
    );
    assert_same(&read_back(&bench), &expected[..length]);
}

#[test]
fn a_dropped_write_keeps_exactly_its_prefix() {
    let bytes = pattern(1, 0, 8 * CELL);
    for polls in 1..8 {
        let bench = Bench::new();
        bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
        let save = begin(&bench, small(2));
        let release_one = || {
            if let Some(held) = bench.disk.held().first() {
                bench.disk.release(held.id);
            }
        };
        let written = poll_at_most(&bench, polls, save.write(0, &bytes), release_one);
        let kept = save.position().0;
        assert!(
            written.is_some() || kept < 8 * CELL,
            "dropped in the middle"
        );
        assert!(kept >= 3 * CELL, "it had copied what there was room for");
        bench.disk.stop_holding();
        let end = bench.start({
            let save = save.clone();
            async move { save.finalize().await }
        });
        bench.release_everything();
        assert_eq!(end.done(), Ok(kept));
        assert_same(&bench.disk.vmstate_contents(), &bytes[..kept as usize]);
        bench.drain_and_close();
    }
}

#[test]
fn a_length_told_by_a_dropped_finalize_cuts_nothing_off_the_next_save() {
    let bench = Bench::new();
    let first = begin(&bench, small(2));
    write(&bench, &first, 0, &pattern(1, 0, 100));
    bench.disk.hold(Op::FinalizeVmstate, 0..u64::MAX);
    assert!(poll_at_most(&bench, 3, first.finalize(), || {}).is_none());
    assert_eq!(bench.disk.in_flight(), 1, "the driver is being told");
    drop(first);
    let second = begin(&bench, small(2));
    write(&bench, &second, 0, &pattern(2, 0, 3 * CELL));
    let end = bench.start({
        let second = second.clone();
        async move { second.finalize().await }
    });
    bench.release_everything();
    assert_eq!(end.done(), Ok(3 * CELL));
    assert_same(&bench.disk.vmstate_contents(), &pattern(2, 0, 3 * CELL));
}

#[test]
fn finalize_waits_for_what_a_cancelled_save_left_in_flight_anywhere() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 5 * CELL..6 * CELL);
    let first = begin(&bench, small(2));
    write(&bench, &first, 5 * CELL, &pattern(1, 0, CELL));
    drop(first);
    let second = begin(&bench, small(2));
    write(&bench, &second, 0, &pattern(2, 0, 100));
    let end = bench.start({
        let second = second.clone();
        async move { second.finalize().await }
    });
    assert!(!end.is_done(), "the old bytes would land past the new end");
    bench.release_everything();
    assert_eq!(end.done(), Ok(100));
    assert_same(&bench.disk.vmstate_contents(), &pattern(2, 0, 100));
}

#[test]
fn after_a_dropped_finalize_the_save_may_go_on() {
    let bench = Bench::new();
    let save = begin(&bench, small(2));
    write(&bench, &save, 0, &pattern(1, 0, 100));
    bench.disk.hold(Op::FinalizeVmstate, 0..u64::MAX);
    assert!(poll_at_most(&bench, 3, save.finalize(), || {}).is_none());
    write(&bench, &save, 100, &pattern(1, 100, CELL));
    let end = bench.start({
        let save = save.clone();
        async move { save.finalize().await }
    });
    bench.release_everything();
    assert_eq!(end.done(), Ok(CELL + 100), "the length is told again");
    assert_same(&bench.disk.vmstate_contents(), &pattern(1, 0, CELL + 100));
}

#[test]
fn a_drained_node_is_quiet_while_buffered_bytes_stay() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..CELL);
    let save = begin(&bench, small(4));
    write(&bench, &save, 0, &pattern(1, 0, CELL + 100));
    let drain = bench.start(bench.node.drain_begin());
    assert!(!drain.is_done(), "a call is in flight");
    bench.release_everything();
    let section = drain.done().expect("drained");
    assert_eq!(
        bench.writes(),
        [(0, CELL)],
        "what was buffered is not flushed"
    );
    drop(section);
    bench.run(save.finalize()).expect("good");
    assert_same(&bench.disk.vmstate_contents(), &pattern(1, 0, CELL + 100));
}

#[test]
fn in_a_drained_section_bytes_are_accepted_while_there_is_room() {
    let bench = Bench::new();
    let save = begin(&bench, small(2));
    let section = bench.run(bench.node.drain_begin()).expect("drained");
    let bytes = pattern(1, 0, 4 * CELL);
    assert_eq!(
        try_write(&bench, &save, 0, &bytes),
        Ok(3 * CELL as usize),
        "two wait at the gate, one is filled"
    );
    assert_eq!(
        (bench.writes(), bench.node.in_flight()),
        (vec![], 0),
        "busy, but not in flight"
    );
    let rest = bench.start({
        let save = save.clone();
        let rest = bytes[3 * CELL as usize..].to_vec();
        async move { save.write(3 * CELL, &rest).await }
    });
    assert!(!rest.is_done(), "then it waits");
    drop(section);
    bench.step();
    rest.done().expect("accepted after the section");
    bench.run(save.finalize()).expect("good");
    assert_same(&bench.disk.vmstate_contents(), &bytes);
}

#[test]
fn finalize_waits_for_the_last_drained_section_to_end() {
    let bench = Bench::new();
    let save = begin(&bench, small(2));
    write(&bench, &save, 0, &pattern(1, 0, 10));
    let outer = bench.run(bench.node.drain_begin()).expect("drained");
    let inner = bench.run(bench.node.drain_begin()).expect("nested");
    let end = bench.start({
        let save = save.clone();
        async move { save.finalize().await }
    });
    drop(outer);
    bench.step();
    assert!(!end.is_done() && bench.writes().is_empty(), "sections nest");
    drop(inner);
    bench.step();
    assert_eq!(end.done(), Ok(10));
}

#[test]
fn a_position_past_the_largest_offset_is_refused_and_nothing_is_written() {
    let bench = Bench::new();
    let save = begin(&bench, small(2));
    let max = i64::MAX as u64;
    for at in [u64::MAX, max + 1, max, max - 3, u64::MAX - 3] {
        for error in [
            save.try_write(at, b"12345").map(drop),
            bench.run(save.write(at, b"12345")),
            bench.run(save.make_room(at)),
            bench.run(save_vmstate_bytes(&bench.node, at, b"12345")),
        ] {
            let error = error.expect_err("refused");
            assert_eq!((error.cause.clone(), error.offset), (Cause::Overflow, at));
        }
    }
    write(&bench, &save, max - 1022, b"the last whole block");
    assert_eq!(
        bench.run(save.finalize()),
        Ok(max - 1002),
        "the save goes on, up to the last block"
    );
    assert_eq!(bench.writes(), [(max + 1 - 1024, BLOCK)]);
}

#[test]
fn progress_tells_accepted_submitted_completed() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(2));
    let progress = save.progress();
    let numbers = {
        let progress = progress.clone();
        // From another thread: that is what it is for.
        move || {
            let progress = progress.clone();
            std::thread::spawn(move || {
                (
                    progress.accepted(),
                    progress.submitted(),
                    progress.completed(),
                )
            })
            .join()
            .expect("no panic")
        }
    };
    assert_eq!(numbers(), (0, 0, 0));
    write(&bench, &save, 0, &pattern(1, 0, CELL + 100));
    assert_eq!(numbers(), (CELL + 100, CELL, 0));
    bench.release_everything();
    assert_eq!(numbers(), (CELL + 100, CELL, CELL));
    bench.run(save.finalize()).expect("good");
    assert_eq!(numbers(), (CELL + 100, CELL + BLOCK, CELL + BLOCK));
}

#[test]
fn a_cancel_from_another_thread_stops_a_waiting_write() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let save = begin(&bench, small(1));
    let writer = bench.start({
        let save = save.clone();
        async move { save.write(0, &pattern(1, 0, 9 * CELL)).await }
    });
    assert!(!writer.is_done());
    let cancel = save.cancel_handle();
    std::thread::spawn(move || cancel.cancel())
        .join()
        .expect("no panic");
    bench.step();
    let error = writer.done().expect_err("cancelled");
    assert_eq!(
        (error.cause.clone(), error.errno()),
        (Cause::Cancelled, Errno::CANCELED)
    );
    assert_eq!(save.try_write(0, b"more"), Err(error.clone()));
    let end = bench.start({
        let save = save.clone();
        async move { save.finalize().await }
    });
    assert!(!end.is_done(), "what is in flight is waited for");
    bench.release_everything();
    assert_eq!(end.done(), Err(error));
    assert_eq!(bench.writes(), [(0, CELL)], "nothing more was submitted");
    assert_eq!(bench.disk.vmstate_length(), None);
    begin(&bench, small(1));
    bench.drain_and_close();
}

#[test]
fn a_dropped_save_is_a_cancel_and_the_next_one_waits_for_its_flights() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    let first = begin(&bench, small(2));
    write(&bench, &first, 0, &pattern(1, 0, CELL + 10));
    Rc::try_unwrap(first).expect("the only one").cancel();
    assert_eq!(
        bench.node.in_flight(),
        1,
        "the driver call goes on, and the node counts it"
    );
    let second = begin(&bench, small(2));
    write(&bench, &second, 0, &pattern(2, 0, CELL));
    let end = bench.start({
        let second = second.clone();
        async move { second.finalize().await }
    });
    assert_eq!(
        bench.writes(),
        [(0, CELL)],
        "the new bytes wait for the old"
    );
    bench.release_everything();
    assert_eq!(end.done(), Ok(CELL));
    assert_same(&bench.disk.vmstate_contents(), &pattern(2, 0, CELL));
    bench.drain_and_close();
}

#[test]
fn buffers_are_reused_and_never_more_than_one_per_worker_and_one() {
    let bench = Bench::new();
    bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    for count in [1, 2, 5] {
        let save = begin(&bench, small(count));
        // Sixty cells at as many places, each touched: only as many as there are buffers are accepted while nothing ends.
        let mut accepted = 0;
        for i in 0..60 {
            let bytes = pattern(1, i * 3 * CELL, CELL);
            accepted += try_write(&bench, &save, i * 3 * CELL, &bytes).expect("no failure");
        }
        assert_eq!(accepted as u64, (count as u64 + 1) * CELL);
        Rc::try_unwrap(save).expect("the only one").cancel();
        bench.release_everything();
        bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
        // Partly filled ones are handed over when a buffer is needed, one for one.
        let cursors = workers(100);
        let save = begin(
            &bench,
            SaveOptions {
                cursors,
                ..small(count)
            },
        );
        let block = pattern(1, 0, BLOCK);
        let touched = (0..60)
            .take_while(|i| try_write(&bench, &save, i * CELL, &block) == Ok(block.len()))
            .count();
        assert_eq!((touched, bench.disk.in_flight()), (count + 1, 1));
        bench.release_everything();
        Rc::try_unwrap(save).expect("the only one").cancel();
        bench.disk.hold(Op::SaveVmstate, 0..u64::MAX);
    }
}

#[test]
fn the_calls_as_qemu_has_them_save_and_load() {
    let bench = Bench::new();
    let node = &bench.node;
    let bytes = pattern(1, 0, 9000);
    bench.run(async {
        assert_eq!(vmstate_position(node), None);
        begin_save_vmstate(node, small(2)).expect("begins");
        let mut vector = IoVector::new();
        for part in bytes[..8000].chunks(1111) {
            vector.push(IoBuf::copy_of(part, 1).expect("small").freeze());
        }
        save_vmstate(node, 0, &vector).await.expect("accepted");
        assert_eq!(vmstate_position(node), Some(VmstateOffset(8000)));
        save_vmstate_bytes(node, 8000, &bytes[8000..])
            .await
            .expect("accepted");
        let mut some = vec![0; 3000];
        assert_eq!(
            load_vmstate(node, 7000, &mut some).await,
            Ok(2000),
            "during the save"
        );
        assert_same(&some[..2000], &bytes[7000..]);
        assert_eq!(finalize_vmstate(node).await, Ok(9000));
        assert_eq!(vmstate_position(node), None);
        assert_eq!(
            load_vmstate(node, 7000, &mut some).await,
            Ok(2000),
            "and after it"
        );
        assert_same(&some[..2000], &bytes[7000..]);
        assert_eq!(load_vmstate(node, 9000, &mut some).await, Ok(0));
        let mut parts = ReadVector::new();
        for len in [10, 0, 4000, 6000] {
            parts.push(IoBuf::zeroed(len, 1).expect("small"));
        }
        let (parts, read) = load_vmstate_vector(node, 100, parts).await;
        assert_eq!(read, Ok(8900));
        assert_same(&parts.to_vec()[..8900], &bytes[100..]);
        assert_eq!(finalize_vmstate(node).await, Ok(0), "drops the read-ahead");
    });
    bench.drain_and_close();
}
