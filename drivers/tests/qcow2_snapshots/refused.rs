//! What is refused, by name, and with no byte of the image changed.

use crate::support::{Bench, Image, cause, is_unfinished, pattern, snapshot_bytes, vector};
use crate::world::World;
use block_core::{Cause, NewSnapshot, NodeBuilder, Permissions, VmstateOffset};
use block_drivers::qcow2::{CreateOptions, Qcow2Driver, Qcow2Options, create};

/// The words of what was refused.
fn words(cause: &Cause) -> String {
    cause.to_string()
}

fn bytes_of(image: &Image) -> Vec<u8> {
    image.control.contents()
}

#[test]
fn a_name_that_is_taken_or_too_long_or_has_a_zero_in_it_is_refused() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        image.snapshot("a").await.expect("made");
        let before = bytes_of(&image);
        let taken = Cause::SnapshotExists { name: "a".into() };
        assert_eq!(cause(image.snapshot("a").await), taken);
        for name in ["x".repeat(256), "a\0b".into()] {
            let refused = cause(image.snapshot(&name).await);
            assert!(matches!(refused, Cause::Driver(_)), "{refused:?}");
        }
        assert!(bytes_of(&image) == before);
        image.snapshot(&"x".repeat(255)).await.expect("made");
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn a_snapshot_that_is_not_there_is_refused_by_its_name() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        image.snapshot("a").await.expect("made");
        let before = bytes_of(&image);
        let none = Cause::NoSuchSnapshot { name: "b".into() };
        let node = &image.node;
        assert_eq!(cause(node.snapshot_goto("b").await), none);
        assert_eq!(cause(node.snapshot_delete("b").await), none);
        assert_eq!(cause(node.snapshot_load_tmp("b").await), none);
        assert!(bytes_of(&image) == before);
    });
}

#[test]
fn an_id_is_looked_for_before_a_name() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        let info = image.snapshot("2").await.expect("made");
        assert_eq!(info.id, "1");
        image.write(0, &[1; 512]).await.expect("written");
        let info = image.snapshot("x").await.expect("made");
        assert_eq!(info.id, "2");
        let (disk, _) = snapshot_bytes(&image.node, "2").await.expect("read");
        assert_eq!(disk[0], 1, "the one with the id 2");
        image.node.snapshot_delete("2").await.expect("deleted");
        assert_eq!(image.names().await, ["2"]);
        let (disk, _) = snapshot_bytes(&image.node, "2").await.expect("read");
        assert_eq!(disk[0], 0, "the one with the name 2");
    });
}

#[test]
fn a_state_that_is_not_finished_is_not_recorded() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        image.save(0, &pattern(1, 70_000)).await.expect("written");
        let before = bytes_of(&image);
        let refused = cause(image.snapshot("a").await);
        assert!(is_unfinished(&refused), "{refused:?}");
        assert!(bytes_of(&image) == before);
        image.node.finish_vmstate(70_000).await.expect("length");
        image.save(70_000, &[1]).await.expect("written");
        assert_eq!(cause(image.snapshot("a").await), refused);
        assert!(image.names().await.is_empty());
        image.node.finish_vmstate(70_001).await.expect("length");
        let info = image.snapshot("a").await.expect("made");
        assert_eq!(info.vmstate_size, 70_001);
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn a_snapshot_that_a_task_reads_is_neither_deleted_nor_replaced() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        image.write(0, &pattern(1, 100_000)).await.expect("written");
        image.snapshot("a").await.expect("made");
        let view = image.node.snapshot_load_tmp("a").await.expect("a view");
        let before = bytes_of(&image);
        let refused = cause(image.node.snapshot_delete("a").await);
        assert!(matches!(refused, Cause::Busy(_)), "{refused:?}");
        let replace = NewSnapshot {
            replace: true,
            ..NewSnapshot::new("a")
        };
        assert_eq!(cause(image.node.snapshot_create(replace).await), refused);
        assert!(bytes_of(&image) == before);
        // Gone to it can be, and others can be made.
        image.node.snapshot_goto("a").await.expect("gone to");
        image.snapshot("b").await.expect("made");
        view.close().await.expect("closed");
        image.node.snapshot_delete("a").await.expect("deleted");
        let view = image.node.snapshot_load_tmp("b").await.expect("a view");
        drop(view);
        image.node.settle().await.expect("quiet");
        image.node.snapshot_delete("b").await.expect("deleted");
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn a_view_fails_once_its_image_is_closed() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        image.save_state(&[1; 1000]).await.expect("saved");
        image.snapshot("a").await.expect("made");
        let view = image.node.snapshot_load_tmp("a").await.expect("a view");
        image.close().await;
        let mut byte = [0];
        let read = view.pread(block_core::DiskOffset(0), &mut byte).await;
        assert_eq!(cause(read), Cause::Closed);
        let read = crate::support::state(&view, 0, 1).await;
        assert_eq!(cause(read), Cause::Closed);
        view.close().await.expect("closed");
    });
}

#[test]
fn a_view_is_read_only() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        image.snapshot("a").await.expect("made");
        let view = image.node.snapshot_load_tmp("a").await.expect("a view");
        let save = view.save_vmstate_unbuffered(VmstateOffset(0), vector(&[1]));
        assert_eq!(cause(save.await), Cause::ReadOnly);
        let write = view.pwrite(block_core::DiskOffset(0), &[1], Default::default());
        assert_eq!(cause(write.await), Cause::ReadOnly);
    });
}

/// A refcount of `bits` bits counts an active table and so many snapshots.
#[test]
fn a_refcount_that_does_not_fit_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    bench.run(async {
        for (bits, most) in [(1, 0), (2, 2), (4, 14)] {
            let image = bench
                .image(&format!("size=1M,cluster_size=4096,refcount_bits={bits}"))
                .await;
            image.write(0, &pattern(1, 9000)).await.expect("written");
            for number in 0..most {
                image.snapshot(&number.to_string()).await.expect("made");
            }
            image.node.flush().await.expect("flushed");
            let before = bytes_of(&image);
            let refused = cause(image.snapshot("one more").await);
            assert!(words(&refused).contains(&format!("{bits} bits")));
            if most > 0 {
                let refused = cause(image.node.snapshot_goto("0").await);
                assert!(words(&refused).contains(&format!("{bits} bits")));
            }
            assert!(bytes_of(&image) == before, "{bits} bits");
            bench.is_clean(&image.close().await).await;
        }
    });
}

#[test]
fn an_image_with_an_external_data_file_has_no_snapshots_and_no_state() {
    let bench = Bench::new();
    bench.run(async {
        let (child, control) = bench.file(&[]).await;
        let (data, _) = bench.file(&[]).await;
        let options = CreateOptions::from_pairs("size=1M,data_file=x").expect("options");
        create(&child, Some(&data), &options)
            .await
            .expect("created");
        let options = Qcow2Options {
            data_file: Some(data),
            ..Qcow2Options::default()
        };
        let driver = Qcow2Driver::open(child, options).await.expect("opened");
        let node = NodeBuilder::new("image")
            .open(&bench.handle(), driver)
            .await
            .expect("a node");
        let before = control.contents();
        let refused = [
            cause(node.snapshot_create(NewSnapshot::new("a")).await),
            cause(
                node.save_vmstate_unbuffered(VmstateOffset(0), vector(&[1]))
                    .await,
            ),
            cause(node.finish_vmstate(1).await),
        ];
        for cause in &refused {
            assert!(words(cause).contains("external data file"), "{cause:?}");
        }
        assert_eq!(node.snapshot_list().await, Ok(Vec::new()));
        assert!(control.contents() == before);
    });
}

#[test]
fn a_read_only_image_shows_its_snapshots_and_changes_none() {
    let bench = Bench::new();
    bench.run(async {
        let (bytes, world) = World::build(&bench, "size=1M,cluster_size=4096").await;
        let (child, control) = bench.file(&bytes).await;
        let options = Qcow2Options {
            read_only: true,
            ..Qcow2Options::default()
        };
        let driver = Qcow2Driver::open(child, options).await.expect("opened");
        let node = NodeBuilder::new("image")
            .open(&bench.handle(), driver)
            .await
            .expect("a node");
        let image = Image { node, control };
        world.assert(&image, "read only").await;
        let node = &image.node;
        let refused = [
            cause(image.snapshot("a").await),
            cause(node.snapshot_goto("s0").await),
            cause(node.snapshot_delete("s0").await),
            cause(image.save(0, &[1]).await),
            cause(node.finish_vmstate(1).await),
        ];
        assert!(refused.iter().all(|cause| *cause == Cause::ReadOnly));
        image.node.discard_vmstate().await.expect("nothing to drop");
        assert!(image.close().await == bytes);
    });
}

#[test]
fn a_state_after_what_an_l1_table_can_map_is_refused() {
    let bench = Bench::new();
    bench.run(async {
        // 4 Mi entries of 64 clusters of 512 bytes.
        let image = bench.image("size=1M,cluster_size=512").await;
        let most = (4_u64 << 20) * 64 * 512 - (1 << 20);
        let before = bytes_of(&image);
        let refused = cause(image.save(most, &[1]).await);
        assert!(words(&refused).contains("L1 table"), "{refused:?}");
        let refused = cause(image.node.finish_vmstate(most + 1).await);
        assert!(words(&refused).contains("L1 table"), "{refused:?}");
        let far = cause(image.save(i64::MAX as u64, &[1]).await);
        assert_eq!(far, Cause::Overflow);
        assert!(bytes_of(&image) == before);
        image.save(most - 512, &[1; 512]).await.expect("the last");
        image.node.finish_vmstate(most).await.expect("length");
        image.node.discard_vmstate().await.expect("dropped");
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn any_task_that_may_only_read_changes_no_snapshots() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M").await;
        let user = image.node.attach("reader", Permissions::reader());
        let user = user.expect("shared");
        let refused = cause(user.snapshot_create(NewSnapshot::new("a")).await);
        assert!(matches!(refused, Cause::NoPermission { .. }));
    });
}

#[test]
fn there_are_65536_snapshots_and_no_more() {
    let bench = Bench::new();
    bench.run(async {
        let mut bytes = bench.create("size=1M").await;
        let at = bytes.len().next_multiple_of(65536);
        bytes.resize(at, 0);
        for number in 1..=65536_u32 {
            // Without an L1 table, extra data or a name.
            let id = number.to_string();
            let start = bytes.len();
            bytes.resize(start + 40, 0);
            bytes[start + 12..start + 14].copy_from_slice(&(id.len() as u16).to_be_bytes());
            bytes.extend(id.bytes());
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(65536), 0);
        bytes[60..64].copy_from_slice(&65536_u32.to_be_bytes());
        bytes[64..72].copy_from_slice(&(at as u64).to_be_bytes());
        let image = bench.open(&bytes).await;
        assert_eq!(image.names().await.len(), 65536);
        let refused = cause(image.snapshot("one more").await);
        assert!(words(&refused).contains("65536"), "{refused:?}");
        assert!(bytes_of(&image) == bytes);
    });
}
