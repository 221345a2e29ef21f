//! Bytes that a save leaves out, between others that it writes.
//!
//! | the area | a gap | tests |
//! |---|---|---|
//! | may hold older bytes | is not written, whatever its length | `in_an_area_that_is_not_fresh_no_gap_is_written` |
//! | is fresh | shorter than the threshold, in one buffer: zeroes | `in_a_fresh_area_short_gaps_are_filled_and_a_buffer_is_one_request`, `every_third_page_left_out_costs_one_request_for_each_buffer`, `a_buffer_with_more_gaps_than_its_list_can_hold_is_one_request` |
//! | | of the threshold or longer: not written | `gaps_of_the_threshold_or_longer_stay_holes` |
//! | | from one buffer into another: not written | `a_gap_that_spans_two_buffers_is_not_written_and_nothing_past_the_last_block_is` |
//! | | was written earlier by the same save: keeps those bytes | `bytes_that_were_stored_earlier_are_not_filled_over`, `a_kept_block_that_was_stored_is_not_filled_over`, `bytes_written_into_a_filled_gap_later_win` |
//! | | with unaligned ends: no read | `unaligned_pieces_in_a_fresh_area_cost_no_read` |
//! | of an image, emptied by a named save | as fresh | `a_named_save_fills_short_gaps` |
//! | replaced during the save | as not fresh | `an_area_that_a_snapshot_replaced_is_not_fresh` |

mod support;

use block_core::NewSnapshot;
use support::*;
use vmstate::{
    DEFAULT_GAP_THRESHOLD, LoadOptions, SaveOptions, SnapshotSave, VmstateLoad, VmstateSave,
};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Small buffers in a fresh area, where gaps of fewer bytes than `gap_threshold` are filled.
fn fresh(count: usize, gap_threshold: u64) -> SaveOptions {
    SaveOptions {
        fresh: true,
        gap_threshold,
        ..small(count)
    }
}

/// Writes the pieces, in their order, and finalizes.
fn save(bench: &Bench, options: SaveOptions, pieces: &[(u64, u64)]) -> u64 {
    let save = VmstateSave::begin(&bench.node, options).expect("begins");
    bench.run(async {
        for &(at, len) in pieces {
            let bytes = pattern(1, at, len);
            save.write(at, &bytes).await.expect("accepted");
        }
        save.finalize().await.expect("good")
    })
}

/// Driver writes, by position.
fn sorted_writes(bench: &Bench) -> Vec<(u64, u64)> {
    let mut writes = bench.writes();
    writes.sort_unstable();
    writes
}

/// The state of these pieces over `older` bytes.
fn expected(mut older: Vec<u8>, pieces: &[(u64, u64)]) -> Vec<u8> {
    for &(at, len) in pieces {
        let end = (at + len) as usize;
        older.resize(older.len().max(end), 0);
        older[at as usize..end].copy_from_slice(&pattern(1, at, len));
    }
    older
}

fn assert_stored(bench: &Bench, expected: &[u8]) {
    let stored = bench.disk.vmstate_contents();
    assert_eq!(stored.len(), expected.len(), "length");
    let differs = stored.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "first byte that differs");
}

#[test]
fn in_an_area_that_is_not_fresh_no_gap_is_written() {
    let bench = Bench::new();
    let older = pattern(9, 0, 4 * CELL);
    bench.disk.set_vmstate_contents(&older);
    let pieces = [
        (0, BLOCK),
        (4 * BLOCK, 2 * BLOCK),
        (3 * CELL + 7 * BLOCK, BLOCK),
    ];
    let options = small(4);
    assert!(!options.fresh && options.gap_threshold == DEFAULT_GAP_THRESHOLD);
    assert_eq!(save(&bench, options, &pieces), 4 * CELL);
    assert_eq!(sorted_writes(&bench), pieces);
    assert_eq!(bench.reads(), []);
    assert_stored(&bench, &expected(older, &pieces));
}

#[test]
fn in_a_fresh_area_short_gaps_are_filled_and_a_buffer_is_one_request() {
    let bench = Bench::new();
    // What is there is of no use to any reader.
    bench.disk.set_vmstate_contents(&pattern(9, 0, 4 * CELL));
    let pieces = [
        (0, BLOCK),
        (4 * BLOCK, 2 * BLOCK),
        (7 * BLOCK, BLOCK),
        (50 * CELL, BLOCK),
    ];
    save(&bench, fresh(4, DEFAULT_GAP_THRESHOLD), &pieces);
    assert_eq!(sorted_writes(&bench), [(0, CELL), (50 * CELL, BLOCK)]);
    assert_eq!(bench.reads(), []);
    let stored = bench.disk.vmstate_contents();
    let wanted = expected(Vec::new(), &pieces);
    assert_eq!(stored[..CELL as usize], wanted[..CELL as usize]);
    assert_eq!(stored[50 * CELL as usize..], wanted[50 * CELL as usize..]);
}

#[test]
fn gaps_of_the_threshold_or_longer_stay_holes() {
    for (gap_threshold, wanted) in [
        (0, &[(0, BLOCK), (2 * BLOCK, BLOCK), (5 * BLOCK, BLOCK)][..]),
        (BLOCK, &[(0, BLOCK), (2 * BLOCK, BLOCK), (5 * BLOCK, BLOCK)]),
        (BLOCK + 1, &[(0, 3 * BLOCK), (5 * BLOCK, BLOCK)]),
        (2 * BLOCK, &[(0, 3 * BLOCK), (5 * BLOCK, BLOCK)]),
        (2 * BLOCK + 1, &[(0, 6 * BLOCK)]),
        (u64::MAX, &[(0, 6 * BLOCK)]),
    ] {
        let bench = Bench::new();
        let pieces = [(0, BLOCK), (2 * BLOCK, BLOCK), (5 * BLOCK, BLOCK)];
        save(&bench, fresh(4, gap_threshold), &pieces);
        assert_eq!(sorted_writes(&bench), wanted, "threshold {gap_threshold}");
        assert_stored(&bench, &expected(Vec::new(), &pieces));
    }
}

#[test]
fn every_third_page_left_out_costs_one_request_for_each_buffer() {
    let pieces: Vec<_> = (0..8 * MIB / PAGE)
        .filter(|page| page % 3 != 2)
        .map(|page| (page * PAGE, PAGE))
        .collect();
    let fresh = SaveOptions {
        fresh: true,
        ..SaveOptions::default()
    };
    for (options, requests) in [(SaveOptions::default(), 686), (fresh, 8)] {
        let bench = Bench::with_limits(limits(PAGE as u32, 64 << 10));
        let length = save(&bench, options, &pieces);
        assert_eq!(bench.writes().len(), requests, "{options:?}");
        assert_stored(&bench, &expected(Vec::new(), &pieces));
        // The load reads chunks, whatever was filled.
        bench.run(async {
            let load = VmstateLoad::open(&bench.node, LoadOptions::default()).await;
            let load = load.expect("opens");
            let mut page = [0; PAGE as usize];
            for &(at, len) in &pieces {
                assert_eq!(load.read(at, &mut page).await, Ok(PAGE as usize));
                assert_eq!(page[..], pattern(1, at, len));
            }
            assert_eq!(load.length(), length);
        });
        assert_eq!(bench.reads().len(), 8);
        bench.drain_and_close();
    }
}

#[test]
fn a_buffer_with_more_gaps_than_its_list_can_hold_is_one_request() {
    let bench = Bench::with_limits(limits(1, 0));
    let options = SaveOptions {
        buffer_size: 64 << 10,
        ..fresh(4, DEFAULT_GAP_THRESHOLD)
    };
    let pieces: Vec<_> = (0..4096).map(|n| (n * 16, 8)).collect();
    let length = save(&bench, options, &pieces);
    assert_eq!(sorted_writes(&bench), [(0, length)]);
    assert_stored(&bench, &expected(Vec::new(), &pieces));
}

#[test]
fn a_gap_that_spans_two_buffers_is_not_written_and_nothing_past_the_last_block_is() {
    let bench = Bench::new();
    let pieces = [
        (BLOCK, BLOCK),
        (CELL - 2 * BLOCK, BLOCK), // then a gap of one block here and one there
        (CELL + BLOCK, BLOCK),
        (CELL + 3 * BLOCK, 100),
    ];
    let length = save(&bench, fresh(4, DEFAULT_GAP_THRESHOLD), &pieces);
    assert_eq!(length, CELL + 3 * BLOCK + 100);
    assert_eq!(
        sorted_writes(&bench),
        [(BLOCK, CELL - 2 * BLOCK), (CELL + BLOCK, 3 * BLOCK)]
    );
    assert_stored(&bench, &expected(Vec::new(), &pieces));
}

#[test]
fn bytes_that_were_stored_earlier_are_not_filled_over() {
    for workers in 1..4 {
        let bench = Bench::new();
        let options = SaveOptions {
            cursors: support::workers(1),
            ..fresh(workers, DEFAULT_GAP_THRESHOLD)
        };
        let pieces = [
            (2 * BLOCK, BLOCK),
            (10 * CELL, BLOCK), // the only cursor leaves the first buffer
            (0, BLOCK),
            (4 * BLOCK, BLOCK), // the gap between these two holds stored bytes
            (6 * BLOCK, BLOCK), // and this one does not
            (20 * CELL, BLOCK),
            (3 * BLOCK + 7, 9), // a block that is read, since it may hold stored bytes
        ];
        save(&bench, options, &pieces);
        assert_stored(&bench, &expected(Vec::new(), &pieces));
        assert_eq!(
            sorted_writes(&bench),
            [
                (0, BLOCK),
                (2 * BLOCK, BLOCK),
                (3 * BLOCK, BLOCK),
                (4 * BLOCK, 3 * BLOCK),
                (10 * CELL, BLOCK),
                (20 * CELL, BLOCK),
            ]
        );
    }
}

#[test]
fn bytes_written_into_a_filled_gap_later_win() {
    let bench = Bench::new();
    let options = SaveOptions {
        cursors: workers(1),
        ..fresh(2, DEFAULT_GAP_THRESHOLD)
    };
    let pieces = [
        (0, 700),
        (1500, 700), // the gap is filled when the cursor leaves
        (2 * CELL, 100),
        (800, 300),
    ];
    save(&bench, options, &pieces);
    assert_stored(&bench, &expected(Vec::new(), &pieces));
}

#[test]
fn a_kept_block_that_was_stored_is_not_filled_over() {
    let bench = Bench::new();
    let options = SaveOptions {
        cursors: workers(1),
        ..fresh(4, DEFAULT_GAP_THRESHOLD)
    };
    let save = VmstateSave::begin(&bench.node, options).expect("begins");
    let mut pieces: Vec<_> = (0..300).map(|cell| (cell * CELL + 1700, 10)).collect();
    let around = [(0, BLOCK), (6 * BLOCK, BLOCK)];
    bench.run(async {
        for (n, &(at, len)) in pieces.iter().enumerate() {
            let bytes = pattern(1, at, len);
            save.write(at, &bytes).await.expect("accepted");
            // The first blocks are stored here, and forgotten when more blocks come than are kept.
            if n == 150 {
                save.flush().await.expect("good");
            }
        }
        for (at, len) in around {
            let bytes = pattern(1, at, len);
            save.write(at, &bytes).await.expect("accepted");
        }
        save.finalize().await.expect("good");
    });
    pieces.extend(around);
    assert_stored(&bench, &expected(Vec::new(), &pieces));
}

#[test]
fn unaligned_pieces_in_a_fresh_area_cost_no_read() {
    // More buffers than blocks are kept; each begins and ends inside a block, with gaps in between.
    let cells = 100;
    let pieces: Vec<_> = (0..cells)
        .flat_map(|cell| {
            [(100, 700), (900, 50), (2000, 1000)].map(|(at, len)| (cell * CELL + at, len))
        })
        .collect();
    let bench = Bench::new();
    save(&bench, fresh(4, DEFAULT_GAP_THRESHOLD), &pieces);
    assert_eq!(bench.reads(), []);
    assert_stored(&bench, &expected(Vec::new(), &pieces));
    let end = pieces.last().map_or(0, |(at, len)| at + len);
    let past = end.next_multiple_of(BLOCK);
    assert!(bench.writes().iter().all(|(at, len)| at + len <= past));
    let most = cells as usize + 64;
    assert!(bench.writes().len() <= most, "{}", bench.writes().len());
}

#[test]
fn a_named_save_fills_short_gaps() {
    let bench = Bench::with_snapshots();
    let pieces = [(0, BLOCK), (3 * BLOCK, BLOCK), (6 * BLOCK, BLOCK)];
    for (name, gap_threshold, requests) in [
        ("short", DEFAULT_GAP_THRESHOLD, 1),
        ("none", 0, 3),
        ("again", DEFAULT_GAP_THRESHOLD, 1),
    ] {
        let before = bench.writes().len();
        bench.run(async {
            let options = SaveOptions {
                gap_threshold,
                ..small(4)
            };
            let save = SnapshotSave::begin(&bench.node, NewSnapshot::new(name), options).await;
            let save = save.expect("begins");
            for (at, len) in pieces {
                let bytes = pattern(1, at, len);
                save.save().write(at, &bytes).await.expect("accepted");
            }
            save.commit().await.expect("recorded");
        });
        assert_eq!(bench.writes().len() - before, requests, "{name}");
    }
}

#[test]
fn an_area_that_a_snapshot_replaced_is_not_fresh() {
    let bench = Bench::with_snapshots();
    // The first is a kept block when the area is replaced, the others are in a buffer.
    let pieces = [(100, 50), (CELL + 10, 10), (CELL + 3 * BLOCK, BLOCK)];
    bench.run(async {
        let save = SnapshotSave::begin(&bench.node, NewSnapshot::new("old"), small(4)).await;
        let save = save.expect("begins");
        let old = pattern(9, 0, 2 * CELL);
        save.save().write(0, &old).await.expect("accepted");
        save.commit().await.expect("recorded");
    });
    let before = bench.writes().len();
    let options = SaveOptions {
        cursors: workers(1),
        ..fresh(4, DEFAULT_GAP_THRESHOLD)
    };
    let save = VmstateSave::begin(&bench.node, options).expect("begins");
    bench.run(async {
        for (at, len) in pieces {
            save.write(at, &pattern(1, at, len))
                .await
                .expect("accepted");
        }
        bench.node.snapshot_goto("old").await.expect("gone to");
        save.finalize().await.expect("good");
    });
    let mut writes = bench.writes().split_off(before);
    writes.sort_unstable();
    assert_eq!(
        writes,
        [(0, BLOCK), (CELL, BLOCK), (CELL + 3 * BLOCK, BLOCK)]
    );
    let mut reads = bench.reads();
    reads.sort_unstable();
    assert_eq!(
        reads,
        [(0, BLOCK), (CELL, BLOCK)],
        "what is there is merged"
    );
}
