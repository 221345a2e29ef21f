//! Snapshots are made, listed, read, gone to and deleted.

use crate::support::{Bench, all, pattern, snapshot_bytes, state};
#[cfg(feature = "zlib")]
use crate::support::{cause, vector};
use block_core::{DiskOffset, ZeroFlags};
#[cfg(feature = "zlib")]
use block_core::{NewSnapshot, NodeBuilder, WriteFlags};
use block_drivers::qcow2::{BackingFile, CreateOptions, Qcow2Options, create};
#[cfg(feature = "zlib")]
use block_drivers::qcow2::{Qcow2Driver, Qcow2Error};
use std::error::Error as _;

#[test]
fn snapshots_show_what_the_disk_and_the_state_were() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=8M").await;
        let mut disk = vec![0; 8 << 20];
        let mut kept = Vec::new();
        for round in 0..4_u64 {
            let at = (round * 1_300_000) as usize;
            let bytes = pattern(round, 700_000);
            image.write(at as u64, &bytes).await.expect("written");
            disk[at..at + bytes.len()].copy_from_slice(&bytes);
            let machine = pattern(100 + round, 3_000_001 * (round as usize % 3));
            if round % 3 > 0 {
                image.save_state(&machine).await.expect("saved");
            }
            let info = image.snapshot(&format!("s{round}")).await.expect("made");
            assert_eq!(info.id, (round + 1).to_string());
            assert_eq!(info.vmstate_size, machine.len() as u64);
            kept.push((info, disk.clone(), machine));
        }
        bench.is_clean(&image.control.contents()).await;
        for (info, disk, machine) in &kept {
            let (d, s) = snapshot_bytes(&image.node, &info.name).await.expect("read");
            assert!(d == *disk && s == *machine, "{}", info.name);
        }
        image.node.snapshot_goto("s1").await.expect("gone to");
        bench.is_clean(&image.control.contents()).await;
        assert!(image.disk().await == kept[1].1);
        assert!(state(&image.node, 0, kept[1].2.len()).await.expect("read") == kept[1].2);
        image.node.snapshot_delete("s0").await.expect("deleted");
        bench.is_clean(&image.control.contents()).await;
        image.node.snapshot_delete("s2").await.expect("deleted");
        bench.is_clean(&image.control.contents()).await;
        image.write(0, &pattern(7, 4 << 20)).await.expect("written");
        let image = bench.open(&image.close().await).await;
        for (info, disk, machine) in [&kept[1], &kept[3]] {
            let (d, s) = snapshot_bytes(&image.node, &info.name).await.expect("read");
            assert!(d == *disk && s == *machine, "{}", info.name);
        }
        image.snapshot("again").await.expect("made");
        bench.is_clean(&image.control.contents()).await;
        for name in image.names().await {
            image.node.snapshot_delete(name).await.expect("deleted");
            bench.is_clean(&image.control.contents()).await;
        }
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn a_view_tells_data_from_holes_and_zeroes() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M,cluster_size=4096").await;
        image.write(0, &[1; 8192]).await.expect("written");
        let zeroes = ZeroFlags::default();
        let zeroed = image.node.pwrite_zeroes(DiskOffset(8192), 4096, zeroes);
        zeroed.await.expect("zeroed");
        image.snapshot("a").await.expect("made");
        image.write(0, &[2; 65536]).await.expect("written");
        let view = image.node.snapshot_load_tmp("a").await.expect("a view");
        let mut found = Vec::new();
        let mut at = 0;
        while at < 1 << 20 {
            let status = view.block_status(DiskOffset(at), (1 << 20) - at).await;
            let status = status.expect("known");
            assert_eq!(status.map, None, "the image's file is not the view's");
            match found.last_mut() {
                Some((data, len)) if *data == status.data => *len += status.len,
                _ => found.push((status.data, status.len)),
            }
            at += status.len;
        }
        assert_eq!(found, [(true, 8192), (false, (1 << 20) - 8192)]);
    });
}

#[test]
fn the_backing_file_shows_through_in_a_snapshot_and_not_in_its_state() {
    let bench = Bench::new();
    bench.run(async {
        let below = pattern(5, 4 << 20);
        let (child, control) = bench.file(&[]).await;
        let options = "size=1M,cluster_size=4096,backing_file=x,backing_fmt=raw";
        let options = CreateOptions::from_pairs(options).expect("options");
        create(&child, None, &options).await.expect("created");
        let (backing, _) = bench.file(&below).await;
        let options = Qcow2Options {
            backing: BackingFile::Open(backing),
            ..Qcow2Options::default()
        };
        let image = bench.open_with(&control.contents(), options).await;
        image.write(5000, &[1; 100]).await.expect("written");
        // Of 400,000 bytes only the last are written: what is before them is past the disk, where the backing file has bytes.
        image.save(399_000, &[2; 1000]).await.expect("written");
        image.node.finish_vmstate(400_000).await.expect("length");
        image.snapshot("a").await.expect("made");
        image.write(0, &[3; 20_000]).await.expect("written");
        let (disk, state) = snapshot_bytes(&image.node, "a").await.expect("read");
        let mut expected = below[..1 << 20].to_vec();
        expected[5000..5100].fill(1);
        assert!(disk == expected);
        assert!(state == [vec![0; 399_000], vec![2; 1000]].concat());
        image.node.snapshot_goto("a").await.expect("gone to");
        assert!(all(&image.node).await.expect("read") == expected);
        bench.is_clean(&image.close().await).await;
    });
}

#[cfg(feature = "zlib")]
#[test]
fn compressed_clusters_are_counted_as_often_as_they_share_a_cluster() {
    let bench = Bench::new();
    bench.run(async {
        // 7 guest clusters in one host cluster: 14 references with a snapshot, 21 with two, and 4 bits count 15.
        let pairs = "size=1M,cluster_size=4096,refcount_bits=4";
        let (child, control) = bench.file(&bench.create(pairs).await).await;
        let driver = Qcow2Driver::open(child, Qcow2Options::default()).await;
        let driver = driver.expect("opened");
        let compressor = driver.compressor();
        let node = NodeBuilder::new("image")
            .open(&bench.handle(), driver)
            .await;
        let node = node.expect("a node");
        for cluster in 0..7_u64 {
            let bytes = [cluster as u8 + 1; 4096];
            let written = compressor.write(DiskOffset(cluster * 4096), vector(&bytes));
            written.await.expect("written");
        }
        node.snapshot_create(NewSnapshot::new("a"))
            .await
            .expect("made");
        let refused = node.snapshot_create(NewSnapshot::new("b")).await;
        assert!(overflows(&cause(refused)));
        let refused = node.snapshot_goto("a").await;
        assert!(overflows(&cause(refused)));
        node.pwrite(DiskOffset(0), &[9; 4096], WriteFlags::default())
            .await
            .expect("written");
        let (disk, _) = snapshot_bytes(&node, "a").await.expect("read");
        assert_eq!((disk[0], disk[4096 * 6], disk[4096 * 7]), (1, 7, 0));
        node.flush().await.expect("flushed");
        let (whole, _) = snapshot_bytes(&node, "a").await.expect("read");
        assert!(whole == disk);
        node.snapshot_delete("a").await.expect("deleted");
        bench.is_clean(&control.contents()).await;
    });
}

/// Puts other bytes into the image, wherever these are.
fn patch(image: &mut [u8], old: &[u8], new: &[u8]) {
    let mut places = 0;
    for at in 0..=image.len() - old.len() {
        if image[at..].starts_with(old) {
            image[at..at + new.len()].copy_from_slice(new);
            places += 1;
        }
    }
    assert!(places > 0);
}

#[test]
fn a_snapshot_of_a_length_that_no_disk_can_have_is_not_gone_to() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=9437184").await;
        image.snapshot("a").await.expect("made");
        let mut bytes = image.close().await;
        let length = |len: u64| [&0_u64.to_be_bytes()[..], &len.to_be_bytes()].concat();
        patch(&mut bytes, &length(9_437_184), &length(9_437_183));
        let image = bench.open(&bytes).await;
        let error = image.node.snapshot_goto("a").await.expect_err("refused");
        let source = error.source().and_then(|source| source.downcast_ref());
        let length = matches!(
            source,
            Some(Qcow2Error::Resize {
                size: 9_437_183,
                ..
            })
        );
        assert!(length, "{error:#}");
        assert!(image.control.contents() == bytes);
    });
}

/// Whether one more reference would not fit a refcount of 4 bits.
fn overflows(cause: &block_core::Cause) -> bool {
    let error = crate::support::qcow2_error(cause);
    matches!(error, Some(Qcow2Error::RefcountOverflow { bits: 4, .. }))
}
