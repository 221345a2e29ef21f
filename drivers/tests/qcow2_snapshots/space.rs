//! What is freed goes back to the host: holes where nothing is in use, and a file that is no longer than it must be.

use crate::support::{Bench, Image, cause, pattern};
use aio_task::WorkerPool;
use block_core::test_disk::{TestDisk, TestDiskOptions};
use block_core::{BlockNode, DiskOffset, Errno, NodeBuilder, Op, Permissions, WriteFlags};
use block_drivers::qcow2::{CreateOptions, Qcow2Driver, Qcow2Options, RepairLevel, create, repair};
use block_drivers::{Create, FileDriver, FileOptions};
use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

const PAIRS: &str = "size=1M,cluster_size=4096";
const STATE: usize = 60 * 4096 + 77;

/// An image with guest data, which is shared with a snapshot that has a state.
async fn image_with_a_state(bench: &Bench) -> Vec<u8> {
    let image = bench.image(PAIRS).await;
    image.write(0, &pattern(1, 50_000)).await.expect("written");
    image.save_state(&pattern(2, STATE)).await.expect("saved");
    image.snapshot("s").await.expect("made");
    image.close().await
}

fn punched(image: &Image) -> Vec<(u64, u64)> {
    let records = image.control.records_of(Op::Discard);
    records.iter().map(|r| (r.offset, r.len)).collect()
}

#[test]
fn a_deleted_state_is_punched_in_few_requests_and_stays_clean() {
    let bench = Bench::new();
    bench.run(async {
        let bytes = image_with_a_state(&bench).await;
        let image = bench.open(&bytes).await;
        image.node.snapshot_delete("s").await.expect("deleted");
        let holes = punched(&image);
        let total: u64 = holes.iter().map(|(_, len)| len).sum();
        assert!(total >= STATE as u64, "{total} bytes in {holes:?}");
        assert!(holes.len() <= 4, "{holes:?}");
        let kept = image.disk().await;
        assert_eq!(kept[..50_000], pattern(1, 50_000));
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn a_repair_of_leaks_gives_their_space_back_and_touches_nothing_else() {
    let bench = Bench::new();
    bench.run(async {
        let mut bytes = image_with_a_state(&bench).await;
        bytes[60..64].fill(0); // the header counts no snapshots: what they used is leaked
        let (file, control) = bench.file(&bytes).await;
        let report = repair(&file, RepairLevel::Leaks).await.expect("repaired");
        assert!(report.leaks_fixed * 4096 >= STATE as u64, "{report:?}");
        let holes = control.records_of(Op::Discard);
        let total: u64 = holes.iter().map(|hole| hole.len).sum();
        assert!(total >= STATE as u64, "{total} bytes in {holes:?}");
        let repaired = control.contents();
        bench.is_clean(&repaired).await;
        let image = bench.open(&repaired).await;
        assert_eq!(image.disk().await[..50_000], pattern(1, 50_000));
    });
}

#[test]
fn a_block_device_is_repaired_without_holes() {
    let bench = Bench::new();
    bench.run(async {
        let mut bytes = image_with_a_state(&bench).await;
        bytes[60..64].fill(0);
        let (disk, control) = TestDisk::new(TestDiskOptions {
            len: bytes.len() as u64,
            ..TestDiskOptions::default()
        });
        control.set_contents(&bytes);
        let node = NodeBuilder::new("device").open(&bench.handle(), disk).await;
        let permissions = Permissions::writer();
        let file = node.expect("a node").attach("repair", permissions);
        let file = file.expect("free");
        let report = repair(&file, RepairLevel::Leaks).await.expect("repaired");
        assert!(report.leaks_fixed > 0, "{report:?}");
        assert_eq!(control.records_of(Op::Discard).len(), 0);
    });
}

#[test]
fn a_hole_is_punched_only_after_the_commit_that_frees_it_is_stable() {
    let bench = Bench::new();
    let bytes = bench.run(image_with_a_state(&bench));
    let image = Rc::new(bench.run(bench.open(&bytes)));
    image.control.track_crashes();
    image.control.hold(Op::Discard, 0..u64::MAX);
    let done = Rc::new(RefCell::new(None));
    let task = bench.handle().spawn({
        let (image, done) = (image.clone(), done.clone());
        async move { *done.borrow_mut() = Some(image.node.snapshot_delete("s").await) }
    });
    let mut punches = 0;
    loop {
        bench.go_on();
        if let Some(deleted) = done.borrow_mut().take() {
            deleted.expect("deleted");
            break;
        }
        let held = image.control.held();
        assert!(!held.is_empty(), "it waits for nothing");
        // The machine stops here, and nothing that was not flushed is on the disk, but the hole is.
        let crashed = image.control.contents_after_crash(|r| r.op == Op::Discard);
        bench.run(async {
            let after = bench.open(&crashed).await;
            assert_eq!(after.names().await, Vec::<String>::new());
            assert_eq!(after.disk().await[..50_000], pattern(1, 50_000));
        });
        for record in held {
            punches += 1;
            assert!(image.control.release(record.id));
        }
    }
    drop(task);
    assert!(punches > 0);
    image.control.stop_holding();
}

#[test]
fn nothing_is_allocated_in_a_cluster_before_its_punch_is_over() {
    let bench = Bench::new();
    let bytes = bench.run(image_with_a_state(&bench));
    let image = Rc::new(bench.run(bench.open(&bytes)));
    bench.run(async {
        image.save_state(&pattern(3, STATE)).await.expect("saved");
    });
    image.control.hold(Op::Discard, 0..u64::MAX);
    let task = bench.handle().spawn({
        let image = image.clone();
        async move { image.node.discard_vmstate().await.expect("dropped") }
    });
    bench.go_on();
    assert!(!image.control.held().is_empty(), "a punch is under way");
    let write = bench.handle().spawn({
        let image = image.clone();
        async move {
            let written = image.write(500_000, &pattern(4, 300_000)).await;
            written.expect("written");
        }
    });
    bench.go_on();
    while image.control.release_all() > 0 {
        bench.go_on();
    }
    image.control.stop_holding();
    bench.run(async {
        drop((task.await, write.await));
        assert_eq!(image.disk().await[500_000..800_000], pattern(4, 300_000));
        image.node.close().await.expect("closed");
        let bytes = image.control.contents();
        bench.is_clean(&bytes).await;
        let again = bench.open(&bytes).await;
        assert_eq!(again.disk().await[500_000..800_000], pattern(4, 300_000));
    });
}

#[test]
fn a_dropped_state_leaves_the_file_as_long_as_it_was() {
    let bench = Bench::new();
    bench.run(async {
        let bytes = image_with_a_state(&bench).await;
        let image = bench.open(&bytes).await;
        image
            .save_state(&pattern(3, 3 * STATE))
            .await
            .expect("saved");
        image.node.flush().await.expect("flushed");
        assert!(image.control.len() > bytes.len() as u64 + 2 * STATE as u64);
        image.node.discard_vmstate().await.expect("dropped");
        assert_eq!(image.control.len(), bytes.len() as u64);

        // The same if the state is still there when the image is closed.
        image.save(0, &pattern(3, 3 * STATE)).await.expect("saved");
        assert!(image.control.len() > bytes.len() as u64);
        let closed = image.close().await;
        assert_eq!(closed.len(), bytes.len());
        bench.is_clean(&closed).await;
    });
}

#[test]
fn a_snapshot_that_is_made_and_deleted_leaves_the_file_as_long_as_it_was() {
    let bench = Bench::new();
    bench.run(async {
        let bytes = image_with_a_state(&bench).await;
        let image = bench.open(&bytes).await;
        image.save_state(&pattern(3, STATE)).await.expect("saved");
        image.snapshot("t").await.expect("made");
        let long = image.control.len();
        image.node.snapshot_delete("t").await.expect("deleted");
        let short = image.control.len();
        assert!(short + STATE as u64 <= long, "{short} of {long}");
        assert!(short >= bytes.len() as u64, "{short}");
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn a_file_is_not_cut_below_its_length_at_open() {
    let bench = Bench::new();
    bench.run(async {
        let mut bytes = image_with_a_state(&bench).await;
        let padded = bytes.len() + 1_000_001;
        bytes.resize(padded, 0x77);
        let image = bench.open(&bytes).await;
        image.node.snapshot_delete("s").await.expect("deleted");
        image.save_state(&pattern(3, STATE)).await.expect("saved");
        image.node.discard_vmstate().await.expect("dropped");
        let closed = image.close().await;
        assert_eq!(closed.len(), padded);
        assert!(closed[padded - 500_000..].iter().all(|b| *b == 0x77));
        bench.is_clean(&closed).await;
    });
}

#[test]
fn neither_a_failed_punch_nor_a_failed_cut_fails_what_freed_the_space() {
    let bench = Bench::new();
    bench.run(async {
        let bytes = image_with_a_state(&bench).await;
        for op in [Op::Discard, Op::Truncate] {
            let image = bench.open(&bytes).await;
            image.save_state(&pattern(3, STATE)).await.expect("saved");
            image.control.fail_range(op, 0..u64::MAX, Errno::IO);
            image.node.discard_vmstate().await.expect("dropped");
            image.node.snapshot_delete("s").await.expect("deleted");
            assert!(image.control.faults_fired() > 0, "{op}");
            assert_eq!(image.names().await, Vec::<String>::new());
            bench.is_clean(&image.close().await).await;

            let image = bench.open(&bytes).await;
            image.control.support(op, false);
            image.node.snapshot_delete("s").await.expect("deleted");
            bench.is_clean(&image.close().await).await;
        }
    });
}

#[test]
fn what_the_guest_frees_keeps_its_space_for_the_guest() {
    let bench = Bench::new();
    bench.run(async {
        let bytes = image_with_a_state(&bench).await;
        let image = bench.open(&bytes).await;
        image
            .write(100_000, &pattern(5, 90_000))
            .await
            .expect("written");
        let discarded = image.node.pdiscard(DiskOffset(102_400), 40_960).await;
        discarded.expect("discarded");
        image.write(0, &pattern(6, 50_000)).await.expect("copied");
        image.node.flush().await.expect("flushed");
        assert_eq!(punched(&image), []);
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn a_disk_of_a_fixed_length_is_neither_punched_nor_cut() {
    let bench = Bench::new();
    bench.run(async {
        let mut bytes = image_with_a_state(&bench).await;
        bytes.resize(8 << 20, 0);
        let (disk, control) = TestDisk::new(TestDiskOptions::default());
        control.set_contents(&bytes);
        let handle = bench.handle();
        let node = NodeBuilder::new("device").open(&handle, disk);
        let child = node
            .await
            .expect("a node")
            .attach("image", Permissions::writer());
        let driver = Qcow2Driver::open(child.expect("free"), Qcow2Options::default()).await;
        let node = NodeBuilder::new("image").open(&handle, driver.expect("opened"));
        let node = node.await.expect("a node");
        node.snapshot_delete("s").await.expect("deleted");
        node.close().await.expect("closed");
        for op in [Op::Discard, Op::Truncate] {
            assert_eq!(control.records_of(op), [], "{op}");
        }
        bench.is_clean(&control.contents()).await;
    });
}

#[test]
fn the_table_of_another_snapshot_is_not_punched_though_it_is_counted_too_low() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image(PAIRS).await;
        image.write(0, &pattern(1, 9_000)).await.expect("written");
        image.snapshot("a").await.expect("made");
        image.snapshot("b").await.expect("made");
        let mut bytes = image.close().await;
        // Both lead to one L1 table, which is counted once.
        let number = |bytes: &[u8], at: usize| {
            let field: [u8; 8] = bytes[at..at + 8].try_into().expect("eight");
            u64::from_be_bytes(field) as usize
        };
        let first = number(&bytes, 64);
        let second = {
            let (extra, id) = (bytes[first + 39] as usize, bytes[first + 13] as usize);
            let name = bytes[first + 15] as usize;
            (first + 40 + extra + id + name).next_multiple_of(8)
        };
        let l1 = bytes[first..first + 8].to_vec();
        bytes[second..second + 8].copy_from_slice(&l1);
        let l1 = number(&bytes, first);
        let before = bytes[l1..l1 + 4096].to_vec();
        let image = bench.open(&bytes).await;
        drop(image.node.snapshot_delete("b").await);
        assert_eq!(image.names().await, ["a"]);
        let after = image.control.contents();
        assert_eq!(after[l1..l1 + 4096], before);
    });
}

async fn open_file(bench: &Bench, path: &Path, workers: &WorkerPool) -> BlockNode {
    let handle = bench.handle();
    let options = FileOptions {
        create: Create::Existing,
        ..FileOptions::writer(workers.clone())
    };
    let file = FileDriver::open(path, options).await.expect("opened");
    let node = NodeBuilder::new("file").open(&handle, file).await;
    let child = node.expect("a node").attach("image", Permissions::writer());
    let child = child.expect("free");
    if std::fs::metadata(path).expect("there").len() == 0 {
        let options = CreateOptions::from_pairs("size=64M").expect("options");
        create(&child, None, &options).await.expect("created");
    }
    let driver = Qcow2Driver::open(child, Qcow2Options::default()).await;
    let node = NodeBuilder::new("image").open(&handle, driver.expect("opened"));
    node.await.expect("a node")
}

#[test]
fn the_blocks_of_a_deleted_state_are_the_hosts_again() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image");
    std::fs::write(&path, []).expect("a file");
    let blocks = || std::fs::metadata(&path).expect("there").blocks() * 512;
    const MIB: u64 = 1 << 20;
    let workers = WorkerPool::new(NonZeroUsize::new(4).expect("four"));
    bench.run(async {
        let node = open_file(&bench, &path, &workers).await;
        let guest = pattern(1, MIB as usize);
        let written = node
            .pwrite(DiskOffset(0), &guest, WriteFlags::default())
            .await;
        written.expect("written");
        let (piece, pieces) = (crate::support::vector(&pattern(2, MIB as usize)), 24);
        for number in 0..pieces {
            let at = block_core::VmstateOffset(number * MIB);
            let saved = node.save_vmstate_unbuffered(at, piece.clone()).await;
            saved.expect("saved");
        }
        node.finish_vmstate(pieces * MIB).await.expect("finished");
        let new = block_core::NewSnapshot::new("s");
        node.snapshot_create(new).await.expect("made");
        node.close().await.expect("closed");
        assert!(blocks() >= 24 * MIB, "{} bytes", blocks());

        let node = open_file(&bench, &path, &workers).await;
        let unknown = cause(node.snapshot_delete("nosuch").await);
        assert!(matches!(unknown, block_core::Cause::NoSuchSnapshot { .. }));
        node.snapshot_delete("s").await.expect("deleted");
        node.close().await.expect("closed");
        assert!(blocks() <= 3 * MIB, "{} bytes", blocks());
        let bytes = std::fs::read(&path).expect("read");
        bench.is_clean(&bytes).await;
        let image = bench.open(&bytes).await;
        assert_eq!(image.disk().await[..guest.len()], guest);
    });
}
