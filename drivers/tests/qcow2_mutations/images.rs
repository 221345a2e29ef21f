//! Sound images with snapshots and states, and one or two wrong fields in them.

use crate::readable::Disk;
use block_core::{DiskOffset, IoVector, NewSnapshot, VmstateOffset, WriteFlags, ZeroFlags};
use block_core::{IoBuf, NodeBuilder, Permissions};
use block_drivers::qcow2::{self, CreateOptions, Qcow2Driver, Qcow2Options};

/// Bytes of each disk. Its second half is never written here.
pub(crate) const SIZE: u64 = 1 << 20;

/// Name, options, snapshots.
pub(crate) const KINDS: [(&str, &str, u32); 7] = [
    ("plain", "cluster_size=4k", 0),
    ("two snapshots", "cluster_size=4k", 2),
    ("small clusters", "cluster_size=512", 1),
    ("version 2", "compat=0.10,cluster_size=4k", 2),
    ("subclusters", "extended_l2=on,cluster_size=16k", 1),
    ("narrow refcounts", "refcount_bits=4,cluster_size=4k", 2),
    ("wide refcounts", "refcount_bits=64,cluster_size=8k", 1),
];

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}

/// An image with data, and snapshots with states and changes between them.
pub(crate) fn image(options: &str, snapshots: u32) -> Vec<u8> {
    let mut disk = Disk::new(&[]);
    let mut create = CreateOptions::from_pairs(options).expect("options");
    create.size = Some(SIZE);
    disk.with_node(async |file, handle| {
        let attach = || file.attach("qcow2", Permissions::writer()).expect("alone");
        let made = qcow2::create(&attach(), None, &create).await;
        made.expect("created");
        let driver = Qcow2Driver::open(attach(), Qcow2Options::default()).await;
        let image = NodeBuilder::new("image").open(handle, driver.expect("opened"));
        let image = image.await.expect("a node");
        for i in 0..=u64::from(snapshots) {
            for at in (0..SIZE / 2).step_by(60_000) {
                let bytes = vec![1 + i as u8; 5000];
                let at = DiskOffset((at + 3000 * i) % (SIZE / 2 - 5000));
                let written = image.pwrite(at, &bytes, WriteFlags::default());
                written.await.expect("written");
            }
            let zeroes = image.pwrite_zeroes(DiskOffset(100_000), 20_000, ZeroFlags::default());
            zeroes.await.expect("zeroed");
            if i < u64::from(snapshots) {
                let state = IoBuf::copy_of(&vec![0x50 + i as u8; 30_000], 512).expect("memory");
                let state = IoVector::from(state.freeze());
                let saved = image.save_vmstate_unbuffered(VmstateOffset(0), state).await;
                saved.expect("saved");
                image.finish_vmstate(30_000).await.expect("finished");
                let snapshot = NewSnapshot::new(format!("s{i}"));
                image.snapshot_create(snapshot).await.expect("a snapshot");
            }
        }
        image.close().await.expect("closed");
    });
    disk.contents()
}

/// `sound` with one or two fields of its metadata wrong, or cut.
pub(crate) fn damaged(sound: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = sound.to_vec();
    let tables = tables(sound);
    for _ in 0..1 + random.below(2) {
        change(&mut bytes, 1 << sound[23], &tables, &mut random);
    }
    if random.below(12) == 0 {
        let end = 1024 + random.below(bytes.len() as u64 - 1024);
        bytes.truncate(end as usize);
    }
    bytes
}

/// Where clusters are that look like tables: some of their bytes are not 0, but most are.
fn tables(sound: &[u8]) -> Vec<u64> {
    let cluster = 1_usize << sound[23];
    let is_table = |at: &usize| {
        let cluster = &sound[*at..(*at + cluster).min(sound.len())];
        let full = cluster.iter().filter(|byte| **byte != 0).count();
        full != 0 && full < cluster.len() / 2
    };
    let starts = (0..sound.len()).step_by(cluster).filter(is_table);
    starts.map(|at| at as u64).collect()
}

fn change(bytes: &mut [u8], cluster: u64, tables: &[u64], random: &mut Random) {
    let len = bytes.len() as u64;
    let table = |random: &mut Random| tables[random.below(tables.len() as u64) as usize];
    let snapshots = u64::from_be_bytes(*bytes[64..].first_chunk().expect("a header"));
    let at = match random.below(6) {
        0 => 20 + random.below(84),
        // A field of one of the first two entries of the snapshot table.
        1 | 2 if snapshots != 0 => snapshots + 4 * random.below(36),
        _ => table(random) + 8 * random.below(64),
    };
    let at = at.min(len - 8) as usize;
    let value = match random.below(9) {
        0 => 0,
        1 => u64::MAX,
        2 => len.next_multiple_of(512),
        3 => len.next_multiple_of(cluster) + cluster * random.below(3),
        4 => 1 << random.below(64),
        5 => table(random),
        6 => (1 << 63) | table(random),
        7 => cluster * random.below(len / cluster),
        _ => random.below(u64::MAX),
    };
    let value = value.to_be_bytes();
    match random.below(4) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at..at + 4].copy_from_slice(&value[4..]),
        _ => bytes[at..at + 8].copy_from_slice(&value),
    }
}
