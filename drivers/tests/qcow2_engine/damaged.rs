//! Images whose tables contradict each other: what is written to them does not destroy more.

use crate::support::*;
use block_core::{DiskOffset, NewSnapshot};
use block_drivers::qcow2::Qcow2Error;
use std::error::Error as _;

const CLUSTER: u64 = 4096;
const OPTIONS: &str = "size=1M,cluster_size=4096";

/// An image with the clusters 0 and 1 written.
async fn written(context: &aio_task::AioHandle) -> Vec<u8> {
    let bytes = new_image(context, OPTIONS).await;
    let (node, control) = open(context, &bytes).await;
    write(&node, 0, &[1; 2 * CLUSTER as usize])
        .await
        .expect("written");
    node.close().await.expect("closed");
    control.contents()
}

#[test]
fn a_table_that_a_guests_entry_names_is_not_let_go_with_it() {
    run(async |context| {
        for table in [l1_at, first_l2_at, first_block_at, |image: &[u8]| {
            be64(image, 48)
        }] {
            let mut image = written(context).await;
            let at = table(&image);
            let entry = first_l2_at(&image);
            put(&mut image, entry, &(at | 1 << 63).to_be_bytes());
            let (node, control) = open(context, &image).await;
            node.pdiscard(DiskOffset(0), CLUSTER)
                .await
                .expect("discarded");
            node.flush().await.expect("flushed");
            for cluster in 4..40 {
                let data = [0xAA; CLUSTER as usize];
                write(&node, cluster * CLUSTER, &data)
                    .await
                    .expect("written");
            }
            node.close().await.expect("closed");
            let image = control.contents();
            let here = &image[at as usize..][..CLUSTER as usize];
            assert!(
                here != [0xAA; CLUSTER as usize],
                "the table at {at} is gone"
            );
            let (node, _) = open(context, &image).await;
            assert_eq!(read(&node, CLUSTER, 4096).await, [1; 4096]);
        }
    });
}

#[test]
fn a_cluster_that_cannot_be_let_go_costs_no_other_at_the_close() {
    run(async |context| {
        let mut image = written(context).await;
        let entry = be64(&image, first_l2_at(&image)) & 0x00ff_ffff_ffff_fe00;
        let count = first_block_at(&image) + entry / CLUSTER * 2;
        put(&mut image, count, &[0, 0]); // in use, and counted as free
        let (node, control) = open(context, &image).await;
        // Not in one run.
        node.pdiscard(DiskOffset(CLUSTER), CLUSTER)
            .await
            .expect("discarded");
        node.pdiscard(DiskOffset(0), CLUSTER)
            .await
            .expect("discarded");
        node.close().await.expect_err("a refcount below 0");
        let report = checked(context, &control.contents()).await;
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{report:?}");
    });
}

/// The image with a bitmap, whose table has `entries` at `table`.
fn with_bitmap(image: &mut Vec<u8>, directory: u64, table: u64, entries: u32) {
    let mut extension = Vec::new();
    extension.extend(0x2385_2875_u32.to_be_bytes());
    extension.extend(24_u32.to_be_bytes());
    extension.extend(1_u32.to_be_bytes());
    extension.extend(0_u32.to_be_bytes());
    extension.extend(32_u64.to_be_bytes());
    extension.extend(directory.to_be_bytes());
    extension.extend([0; 8]);
    put(image, 112, &extension);
    put(image, 88, &1_u64.to_be_bytes());
    let mut entry = Vec::new();
    entry.extend(table.to_be_bytes());
    entry.extend(entries.to_be_bytes());
    entry.extend(0_u32.to_be_bytes());
    entry.extend([1, 16, 0, 1, 0, 0, 0, 0, b'b', 0, 0, 0, 0, 0, 0, 0]);
    put(image, directory, &entry);
}

#[test]
fn a_bitmap_table_longer_than_any_is_not_read() {
    run(async |context| {
        let mut image = written(context).await;
        let end = image.len() as u64;
        let entries = 4 << 20;
        with_bitmap(&mut image, end, end + CLUSTER, entries);
        image.resize((end + CLUSTER + u64::from(entries) * 8) as usize, 0);
        let (node, control) = open(context, &image).await;
        let longest = control.records().iter().map(|record| record.len).max();
        assert!(longest <= Some(1 << 20), "{longest:?} bytes at once");
        assert_eq!(read(&node, 0, 4096).await, [1; 4096]);
        assert_eq!(be64(&control.contents(), 88), 1, "an open changes nothing");
        write(&node, 0, &[2; 512]).await.expect("written");
        let longest = control.records().iter().map(|record| record.len).max();
        assert!(longest <= Some(1 << 20), "{longest:?} bytes at once");
        assert_eq!(be64(&control.contents(), 88), 0, "the bitmaps are disowned");
    });
}

#[test]
fn a_snapshot_is_gone_to_as_soon_as_the_bitmaps_are_disowned() {
    run(async |context| {
        let (node, control) = open(context, &written(context).await).await;
        let new = NewSnapshot::new("a");
        node.snapshot_create(new).await.expect("made");
        node.close().await.expect("closed");
        let mut image = control.contents();
        let end = image.len() as u64;
        // The table of the bitmap is longer than any can be.
        with_bitmap(&mut image, end, end + CLUSTER, 4 << 20);
        image.resize((end + 2 * CLUSTER) as usize, 0);
        let (node, control) = open(context, &image).await;
        let refused = node
            .snapshot_goto("a")
            .await
            .expect_err("there are bitmaps");
        let source = refused.source().and_then(|source| source.downcast_ref());
        let bitmaps = matches!(source, Some(Qcow2Error::ActiveBitmaps { .. }));
        assert!(bitmaps, "{refused:#}");
        assert!(
            control.contents() == image,
            "a refused goto changes nothing"
        );
        write(&node, 0, &[2; 512]).await.expect("written");
        assert_eq!(be64(&control.contents(), 88), 0, "the bitmaps are disowned");
        node.snapshot_goto("a").await.expect("gone to");
        assert_eq!(read(&node, 0, 4096).await, [1; 4096]);
        node.close().await.expect("closed");
    });
}

#[test]
fn a_table_that_a_bitmap_names_is_not_let_go_with_it() {
    run(async |context| {
        let mut image = written(context).await;
        let (directory, l1) = (image.len() as u64, l1_at(&image));
        with_bitmap(&mut image, directory, l1, 2);
        image.resize((directory + CLUSTER) as usize, 0);
        let count = first_block_at(&image) + directory / CLUSTER * 2;
        put(&mut image, count, &1_u16.to_be_bytes());
        let (node, control) = open(context, &image).await;
        for cluster in 4..40 {
            let data = [0xAA; CLUSTER as usize];
            write(&node, cluster * CLUSTER, &data)
                .await
                .expect("written");
        }
        node.close().await.expect("closed");
        let image = control.contents();
        let here = &image[l1 as usize..][..CLUSTER as usize];
        assert!(here != [0xAA; CLUSTER as usize], "the L1 table is gone");
    });
}

#[test]
fn a_bitmap_directory_that_is_counted_as_free_is_not_written_over() {
    run(async |context| {
        let mut image = written(context).await;
        let directory = image.len() as u64;
        with_bitmap(&mut image, directory, directory + CLUSTER, 1);
        image.resize((directory + 2 * CLUSTER) as usize, 0);
        let (node, control) = open(context, &image).await;
        let data = [0xAA; CLUSTER as usize];
        write(&node, 4 * CLUSTER, &data).await.expect("elsewhere");
        node.close().await.expect("closed");
        let there = &control.contents()[directory as usize..][..CLUSTER as usize];
        assert_eq!(&there[..8], (directory + CLUSTER).to_be_bytes());
        assert_eq!(there[15], 1, "only marked as in use");
    });
}
