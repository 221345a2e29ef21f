//! Tables of snapshots that point anywhere: what would follow them is refused, by name, and no byte of the image is written. The snapshot can
//! be deleted, and keeps nothing else from being done.

use crate::support::{Bench, cause, pattern};
use block_core::{Cause, DiskOffset, NewSnapshot};

const CLUSTER: u64 = 4096;
const COPIED: u64 = 1 << 63;

fn be64(bytes: &[u8], at: u64) -> u64 {
    let field = bytes[at as usize..].first_chunk().expect("inside");
    u64::from_be_bytes(*field)
}

fn put(bytes: &mut [u8], at: u64, value: u64) {
    bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
}

/// Where things are in an image with one snapshot, whose disk has been written to since.
struct Places {
    table: u64,
    l1: u64,
    /// The first L2 table of the snapshot, and its first cluster.
    l2: u64,
    data: u64,
    /// The same in the active tables.
    active_l1: u64,
    active_l2: u64,
    /// The first refcount block, with 16 bits for each cluster.
    refcounts: u64,
}

impl Places {
    fn of(bytes: &[u8]) -> Self {
        let offset = |entry: u64| entry & 0x00ff_ffff_ffff_fe00;
        let table = be64(bytes, 64);
        let l1 = be64(bytes, table);
        let l2 = offset(be64(bytes, l1));
        let active_l1 = be64(bytes, 40);
        Self {
            table,
            l1,
            l2,
            data: offset(be64(bytes, l2)),
            active_l1,
            active_l2: offset(be64(bytes, active_l1)),
            refcounts: be64(bytes, be64(bytes, 48)),
        }
    }
}

/// An image of two L2 tables, which map 2 MiB each, with a snapshot and its state, and other data since.
async fn sample(bench: &Bench) -> Vec<u8> {
    let image = bench.image("size=3M,cluster_size=4096").await;
    image.write(0, &pattern(1, 40_000)).await.expect("written");
    let second = 2 << 20;
    image.write(second, &pattern(2, 9000)).await.expect("there");
    image.save_state(&pattern(3, 20_000)).await.expect("saved");
    image.snapshot("a").await.expect("made");
    image.write(0, &pattern(4, 10_000)).await.expect("written");
    image.close().await
}

type Damage = fn(&mut Vec<u8>, &Places);

/// What is wrong with what the snapshot leads to, and the words that say so.
const DAMAGE: [(&str, Damage, &str); 14] = [
    (
        "the L1 table lies past the end of the file",
        |bytes, places| {
            let end = (bytes.len() as u64).next_multiple_of(CLUSTER);
            put(bytes, places.table, end + CLUSTER);
        },
        "snapshot's L1 table",
    ),
    (
        "the L1 table starts inside a cluster",
        |bytes, places| put(bytes, places.table, places.l1 + 512),
        "is not aligned",
    ),
    (
        "the L1 table lies past all files",
        |bytes, places| put(bytes, places.table, u64::MAX << 12),
        "reaches past",
    ),
    (
        "the L1 table is longer than any can be",
        |bytes, places| {
            let at = places.table as usize + 8;
            bytes[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        },
        "at most",
    ),
    (
        "the disk is larger than any can be",
        |bytes, places| put(bytes, places.table + 48, i64::MAX as u64 & !511),
        "at most",
    ),
    (
        "an L1 entry leads past the end of the file",
        |bytes, places| put(bytes, places.l1, 1 << 50),
        "L2 table",
    ),
    (
        "an L1 entry leads into a cluster",
        |bytes, places| put(bytes, places.l1, places.l2 + 512),
        "L2 table",
    ),
    (
        "two L1 entries lead to one table",
        |bytes, places| put(bytes, places.l1 + 8, places.l2),
        "overlaps the",
    ),
    (
        "an L1 entry leads to the L1 table itself",
        |bytes, places| put(bytes, places.l1, places.l1),
        "overlaps the",
    ),
    (
        "an L2 table is a cluster of its own",
        |bytes, places| put(bytes, places.l2, places.l2),
        "overlaps the",
    ),
    (
        "a cluster of the guest is a table of the image",
        |bytes, places| put(bytes, places.l2, places.refcounts),
        "overlaps the",
    ),
    (
        "a cluster lies past the end of the file",
        |bytes, places| {
            let end = (bytes.len() as u64).next_multiple_of(CLUSTER);
            put(bytes, places.l2, end);
        },
        "reaches past",
    ),
    (
        "a compressed cluster lies past the end of the file",
        |bytes, places| put(bytes, places.l2, 1 << 62 | 1 << 40),
        "reaches past",
    ),
    (
        "a cluster is counted as free",
        |bytes, places| {
            let at = (places.refcounts + places.data / CLUSTER * 2) as usize;
            bytes[at..at + 2].fill(0);
        },
        "its refcount is 0",
    ),
];

fn is_typed(cause: &Cause, words: &str) -> bool {
    matches!(cause, Cause::Corrupt(_) | Cause::Driver(_)) && cause.to_string().contains(words)
}

#[test]
fn a_snapshot_whose_tables_point_anywhere_is_neither_gone_to_nor_replaced_and_can_be_deleted() {
    let bench = Bench::new();
    bench.run(async {
        let sound = sample(&bench).await;
        bench.is_clean(&sound).await;
        for (what, damage, words) in DAMAGE {
            let mut bytes = sound.clone();
            damage(&mut bytes, &Places::of(&sound));
            let image = bench.open(&bytes).await;
            assert_eq!(image.names().await, ["a"]);
            let replace = NewSnapshot {
                replace: true,
                ..NewSnapshot::new("a")
            };
            let refused = [
                cause(image.node.snapshot_goto("a").await),
                cause(image.node.snapshot_create(replace).await),
            ];
            for cause in &refused {
                assert!(is_typed(cause, words), "{what}: {cause:?}");
            }
            // Reading it fails or not, but it is no panic.
            if let Ok(view) = image.node.snapshot_load_tmp("a").await {
                let mut bytes = vec![0; 100_000];
                let read = view.pread(DiskOffset(0), &mut bytes).await;
                assert!(!matches!(&read, Err(e) if e.cause == Cause::Panicked));
                view.close().await.expect("closed");
            }
            assert!(image.control.contents() == bytes, "{what}: written to");
            // It does not keep another from being made, and goes when it is to go.
            image.snapshot("b").await.expect("made");
            let image = bench.open(&bytes).await;
            match cause(image.node.snapshot_delete("a").await) {
                Cause::Done { but } => assert!(is_typed(&but, words), "{what}: {but:?}"),
                refused => panic!("{what}: {refused:?}"),
            }
            assert!(image.names().await.is_empty(), "{what}");
            image.write(0, &[1; 512]).await.expect("written");
            image.node.close().await.expect("closed");
            let report = bench.check(&image.control.contents()).await;
            let harmless = report.corruptions == 0 && report.check_errors == 0;
            assert!(harmless, "{what}: {report:?}");
        }
    });
}

#[test]
fn a_disk_whose_tables_point_anywhere_is_not_recorded() {
    let bench = Bench::new();
    bench.run(async {
        let sound = sample(&bench).await;
        let damage: [(&str, Damage, &str); 6] = [
            (
                "an L2 entry leads past the end",
                |bytes, places| put(bytes, places.active_l2, 1 << 50 | COPIED),
                "reaches past",
            ),
            (
                "an L2 entry leads into a cluster",
                |bytes, places| put(bytes, places.active_l2, places.data + 512),
                "is not aligned",
            ),
            (
                "an L2 entry leads to the snapshot's table",
                |bytes, places| put(bytes, places.active_l2, places.l1),
                "overlaps the",
            ),
            (
                "two L2 entries lead to one cluster",
                |bytes, places| {
                    let first = be64(bytes, places.active_l2);
                    put(bytes, places.active_l2 + 8, first);
                },
                "overlaps the",
            ),
            (
                "a cluster is counted as free",
                |bytes, places| {
                    let cluster = (be64(bytes, places.active_l2) & !COPIED) / CLUSTER;
                    let at = (places.refcounts + cluster * 2) as usize;
                    bytes[at..at + 2].fill(0);
                },
                "its refcount is 0",
            ),
            (
                "a table is counted as free",
                |bytes, places| {
                    let cluster = (be64(bytes, places.active_l1) & !COPIED) / CLUSTER;
                    let at = (places.refcounts + cluster * 2) as usize;
                    bytes[at..at + 2].fill(0);
                },
                "its refcount is 0",
            ),
        ];
        for (what, damage, words) in damage {
            let mut bytes = sound.clone();
            damage(&mut bytes, &Places::of(&sound));
            let image = bench.open(&bytes).await;
            let refused = cause(image.snapshot("b").await);
            assert!(is_typed(&refused, words), "{what}: {refused:?}");
            assert!(image.control.contents() == bytes, "{what}: written to");
        }
    });
}

/// The id and name are moved over the extra data, as version 2 images of old QEMUs have them.
fn drop_extra_data(bytes: &mut [u8]) {
    let table = be64(bytes, 64) as usize;
    let names = bytes[table + 64..table + 66].to_vec();
    bytes[table + 36..table + 40].fill(0);
    bytes[table + 40..table + 42].copy_from_slice(&names);
}

#[test]
fn an_entry_without_extra_data_has_the_disk_size_of_the_header() {
    let bench = Bench::new();
    bench.run(async {
        let mut bytes = sample(&bench).await;
        drop_extra_data(&mut bytes);
        let image = bench.open(&bytes).await;
        let list = image.node.snapshot_list().await.expect("a list");
        assert_eq!((list[0].name.as_str(), list[0].disk_size), ("a", 3 << 20));
        assert_eq!(list[0].vmstate_size, 20_000, "the 32-bit field");
        let (disk, state) = crate::support::snapshot_bytes(&image.node, "a")
            .await
            .expect("read");
        assert!(disk[..40_000] == pattern(1, 40_000) && state == pattern(3, 20_000));
        image.node.snapshot_goto("a").await.expect("gone to");
        image.snapshot("b").await.expect("made");
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn a_snapshot_that_does_not_say_its_length_keeps_it_when_the_disk_gets_another() {
    let bench = Bench::new();
    bench.run(async {
        let mut bytes = sample(&bench).await;
        drop_extra_data(&mut bytes);
        let image = bench.open(&bytes).await;
        let to = block_core::Truncate {
            len: 64 << 20,
            exact: true,
            preallocation: block_core::Preallocation::Off,
        };
        image.node.truncate(to).await.expect("longer");
        let bytes = image.close().await;
        bench.is_clean(&bytes).await;
        let image = bench.open(&bytes).await;
        let list = image.node.snapshot_list().await.expect("a list");
        assert_eq!((list[0].name.as_str(), list[0].disk_size), ("a", 3 << 20));
        let (disk, state) = crate::support::snapshot_bytes(&image.node, "a")
            .await
            .expect("read");
        assert!(disk.len() == 3 << 20 && disk[..40_000] == pattern(1, 40_000));
        assert!(state == pattern(3, 20_000));
    });
}

#[test]
fn a_version_2_image_keeps_its_length_when_a_snapshot_has_another() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M,cluster_size=4096,compat=0.10").await;
        image.snapshot("a").await.expect("made");
        let mut bytes = image.close().await;
        let table = be64(&bytes, 64);
        put(&mut bytes, table + 48, 2 << 20);
        let image = bench.open(&bytes).await;
        let refused = cause(image.node.snapshot_goto("a").await);
        assert!(is_typed(&refused, "version 2"), "{refused:?}");
        assert!(image.control.contents() == bytes);
    });
}

#[test]
fn of_two_snapshots_of_one_name_the_first_is_replaced() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M,cluster_size=4096").await;
        image.write(0, &pattern(1, 9000)).await.expect("written");
        image.snapshot("a").await.expect("made");
        image.snapshot("b").await.expect("made");
        let mut bytes = image.close().await;
        let table = be64(&bytes, 64) as usize;
        let second = bytes[table + 72..].iter().position(|byte| *byte == b'b');
        bytes[table + 72 + second.expect("the name")] = b'a';
        let image = bench.open(&bytes).await;
        assert_eq!(image.names().await, ["a", "a"]);
        let new = NewSnapshot {
            replace: true,
            ..NewSnapshot::new("a")
        };
        let made = image.node.snapshot_create(new).await.expect("made");
        assert_eq!(made.id, "3");
        let list = image.node.snapshot_list().await.expect("a list");
        let ids: Vec<&str> = list.iter().map(|info| info.id.as_str()).collect();
        assert_eq!(ids, ["2", "3"]);
        bench.is_clean(&image.close().await).await;
    });
}
