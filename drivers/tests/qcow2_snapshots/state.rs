//! The vmstate area: what is written there, and what becomes of it.

use crate::support::{Bench, Image, cause, is_unfinished, pattern, state};
use block_core::{Cause, Op, Preallocation, Truncate};
use futures::future::join;
use std::rc::Rc;

const KIB: u64 = 1024;

async fn resize(image: &Image, len: u64) {
    let to = Truncate {
        len,
        exact: true,
        preallocation: Preallocation::Off,
    };
    image.node.truncate(to).await.expect("the new length");
}

#[test]
fn writes_in_any_order_are_read_back_and_the_gaps_are_zeroes() {
    let bench = Bench::new();
    bench.run(async {
        for pairs in ["size=1M,cluster_size=512", "size=1M", "size=0"] {
            let image = bench.image(pairs).await;
            let mut model = vec![0; 900_000];
            for (at, len) in [
                (500_000, 100_000),
                (0, 3),
                (499_990, 20),
                (70_000, 65_536),
                (899_999, 1),
                (1, 600),
            ] {
                let bytes = pattern(at as u64, len);
                image.save(at as u64, &bytes).await.expect("written");
                model[at..at + len].copy_from_slice(&bytes);
            }
            assert!(state(&image.node, 0, model.len()).await.expect("read") == model);
            let tail = state(&image.node, 899_999, 1 << 20).await.expect("read");
            assert!(tail[1..].iter().all(|byte| *byte == 0));
            image.node.finish_vmstate(900_000).await.expect("length");
            image.snapshot("a").await.expect("made");
            let kept = crate::support::snapshot_bytes(&image.node, "a").await;
            assert!(kept.expect("read").1 == model, "{pairs}");
            bench.is_clean(&image.close().await).await;
        }
    });
}

#[test]
fn a_state_has_a_length_once_it_is_finished_and_until_it_is_written_again() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        let length = async || image.node.vmstate_length().await.expect("asked");
        assert_eq!(length().await, None);
        image.save(0, &[1; 100]).await.expect("written");
        assert_eq!(length().await, None);
        image.node.finish_vmstate(100).await.expect("length");
        assert_eq!(length().await, Some(100));
        image.save(100, &[1]).await.expect("written");
        assert_eq!(length().await, None);
        image.node.finish_vmstate(101).await.expect("length");
        image.snapshot("a").await.expect("made");
        assert_eq!(length().await, None, "it is the snapshot's now");
        let area = state(&image.node, 0, 101).await.expect("read");
        assert!(area.iter().all(|byte| *byte == 0));
    });
}

#[test]
fn a_state_of_which_nothing_was_written_is_zeroes_and_one_of_no_bytes_is_none() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        image.node.finish_vmstate(5000).await.expect("length");
        assert_eq!(image.snapshot("a").await.expect("made").vmstate_size, 5000);
        let (_, kept) = crate::support::snapshot_bytes(&image.node, "a")
            .await
            .expect("read");
        assert_eq!(kept, vec![0; 5000]);
        image.save(0, &[1; 5000]).await.expect("written");
        image.node.finish_vmstate(0).await.expect("length");
        assert_eq!(image.snapshot("b").await.expect("made").vmstate_size, 0);
        bench.is_clean(&image.control.contents()).await;
    });
}

#[test]
fn a_discarded_state_gives_its_clusters_back_on_disk_too() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M,cluster_size=4096").await;
        image.write(0, &pattern(1, 9000)).await.expect("written");
        image.node.flush().await.expect("flushed");
        for round in 0..3 {
            image
                .save_state(&pattern(round, 400_000))
                .await
                .expect("saved");
            image.node.discard_vmstate().await.expect("dropped");
            bench.is_clean(&image.control.contents()).await;
        }
        let len = image.control.len();
        assert!(len < 600_000, "the same clusters each time: {len}");
        image.node.discard_vmstate().await.expect("nothing to drop");
    });
}

#[test]
fn a_close_drops_a_state_that_no_task_recorded() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        image.save_state(&pattern(1, 400_000)).await.expect("saved");
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn what_a_snapshot_brought_back_is_read_until_a_state_begins_and_is_dropped_by_the_next_snapshot() {
    let bench = Bench::new();
    bench.run(async {
        let machine = pattern(9, 300_000);
        let image = bench.image("size=1M,cluster_size=4096").await;
        image.save_state(&machine).await.expect("saved");
        image.snapshot("a").await.expect("made");
        image.node.snapshot_goto("a").await.expect("gone to");
        assert!(state(&image.node, 0, machine.len()).await.expect("read") == machine);
        // The area is QEMU's, on disk: another process finds it, and it is not part of the next snapshot.
        let image = bench.open(&image.close().await).await;
        assert!(state(&image.node, 0, machine.len()).await.expect("read") == machine);
        assert_eq!(image.node.vmstate_length().await.expect("asked"), None);
        image.node.discard_vmstate().await.expect("not ours");
        assert!(state(&image.node, 0, machine.len()).await.expect("read") == machine);
        image.save(0, &[7; 10]).await.expect("written");
        let area = state(&image.node, 0, 20).await.expect("read");
        assert_eq!(area, [[7; 10], [0; 10]].concat(), "a new state begins");
        image.node.discard_vmstate().await.expect("dropped");
        let info = image.snapshot("b").await.expect("made");
        assert_eq!(info.vmstate_size, 0);
        let area = state(&image.node, 0, 20).await.expect("read");
        assert_eq!(area, [0; 20], "dropped");
        image.node.snapshot_delete("a").await.expect("deleted");
        bench.is_clean(&image.control.contents()).await;
        assert!(image.control.len() > 300_000);
        // Nothing holds its clusters any more.
        image.save_state(&machine).await.expect("saved");
        let len = image.control.len();
        assert!(len < 500_000, "the state's clusters are used again: {len}");
    });
}

#[test]
fn a_disk_of_another_length_has_its_snapshots_and_their_states_where_they_were() {
    let bench = Bench::new();
    bench.run(async {
        // An L1 entry maps 32 KiB.
        let image = bench.image("size=100K,cluster_size=512").await;
        let mut kept = Vec::new();
        for (number, len) in [100, 300, 20, 64, 96].into_iter().enumerate() {
            resize(&image, len * KIB).await;
            let bytes = pattern(len, (len * KIB) as usize);
            image.write(0, &bytes).await.expect("written");
            let machine = pattern(1000 + len, 40_000 + 50_000 * (number % 2));
            image.save_state(&machine).await.expect("saved");
            image.snapshot(&len.to_string()).await.expect("made");
            kept.push((len.to_string(), bytes, machine));
            bench.is_clean(&image.control.contents()).await;
        }
        for (name, disk, machine) in kept.iter().chain(kept.iter().rev()) {
            let read = crate::support::snapshot_bytes(&image.node, name).await;
            assert!(read.expect("read") == (disk.clone(), machine.clone()));
            image.node.snapshot_goto(name.as_str()).await.expect("gone");
            assert!(image.disk().await == *disk, "{name}");
            let area = state(&image.node, 0, machine.len()).await.expect("read");
            assert!(area == *machine, "{name}");
            bench.is_clean(&image.control.contents()).await;
        }
        resize(&image, 200 * KIB).await;
        let disk = image.disk().await;
        assert!(disk[..100 * 1024] == kept[0].1);
        assert!(disk[100 * 1024..].iter().all(|byte| *byte == 0));
        let known = image.node.vmstate_length().await.expect("asked");
        assert_eq!(known, None, "the state past the old end is gone");
        for (name, ..) in kept {
            image.node.snapshot_delete(name).await.expect("deleted");
        }
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn a_state_goes_on_while_the_disk_becomes_longer_and_shorter() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=100K,cluster_size=512").await;
        let machine = pattern(4, 150_000);
        for (number, piece) in machine.chunks(30_000).enumerate() {
            resize(&image, [500, 10, 64, 65, 33][number] * KIB).await;
            image
                .save(number as u64 * 30_000, piece)
                .await
                .expect("written");
        }
        image.node.finish_vmstate(150_000).await.expect("length");
        image.snapshot("a").await.expect("made");
        let read = crate::support::snapshot_bytes(&image.node, "a").await;
        assert!(read.expect("read").1 == machine);
        bench.is_clean(&image.close().await).await;
    });
}

/// The snapshot has the state, and a write that comes while it is being made begins the next one.
#[test]
fn a_write_while_a_snapshot_is_made_is_not_in_it() {
    let bench = Bench::new();
    let image = Rc::new(bench.run(bench.image("size=1M,cluster_size=4096")));
    bench.run(async {
        image.save_state(&[1; 9000]).await.expect("saved");
    });
    image.control.hold(Op::Write, 0..u64::MAX);
    let both = bench.handle().spawn({
        let image = image.clone();
        async move {
            let made = async { image.snapshot("a").await.expect("made") };
            let written = async { image.save(0, &[2; 9000]).await.expect("written") };
            join(made, written).await;
        }
    });
    bench.go_on();
    assert!(image.control.in_flight() > 0, "the snapshot is being made");
    image.control.stop_holding();
    image.control.release_all();
    bench.run(both).expect("both are done");
    bench.run(async {
        let read = crate::support::snapshot_bytes(&image.node, "a").await;
        assert_eq!(read.expect("read").1, [1; 9000]);
        assert_eq!(state(&image.node, 0, 9000).await, Ok(vec![2; 9000]));
        let refused = cause(image.snapshot("b").await);
        assert!(is_unfinished(&refused), "{refused}");
        image.node.discard_vmstate().await.expect("dropped");
        bench.is_clean(&image.control.contents()).await;
    });
}

#[test]
fn a_discard_waits_for_writes_of_the_state_and_those_after_it_begin_another() {
    let bench = Bench::new();
    let image = Rc::new(bench.run(bench.image("size=1M,cluster_size=4096")));
    image.control.hold(Op::Write, 0..u64::MAX);
    let calls = bench.handle().spawn({
        let image = image.clone();
        async move {
            let first = async { image.save(0, &[1; 4096]).await };
            let dropped = async { image.node.discard_vmstate().await };
            let last = async { image.save(0, &[2; 100]).await };
            let (first, (dropped, last)) = join(first, join(dropped, last)).await;
            assert!(matches!(&first, Ok(())), "{first:?}");
            dropped.expect("dropped");
            last.expect("written");
        }
    });
    bench.go_on();
    assert!(
        image.control.in_flight() > 0,
        "the first write is under way"
    );
    image.control.stop_holding();
    image.control.release_all();
    bench.run(calls).expect("all are done");
    bench.run(async {
        let area = state(&image.node, 0, 200).await.expect("read");
        assert_eq!(area, [[2; 100], [0; 100]].concat());
        image.node.discard_vmstate().await.expect("dropped");
        bench.is_clean(&image.control.contents()).await;
    });
}

#[test]
fn a_closed_image_has_no_area() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        image.node.close().await.expect("closed");
        assert_eq!(cause(image.save(0, &[1]).await), Cause::Closed);
        assert_eq!(cause(state(&image.node, 0, 1).await), Cause::Closed);
        assert_eq!(cause(image.snapshot("a").await), Cause::Closed);
    });
}
