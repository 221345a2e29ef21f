//! Images that were damaged on purpose: whatever is in the tables, there is no panic, a refused image is not written to, and every error
//! has words.

use aio_task::AioContext;
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{BlockError, BlockNode, Cause, DiskOffset, NewSnapshot, NodeBuilder, Op};
use block_core::{Permissions, Preallocation, Truncate, VmstateOffset, WriteFlags, ZeroFlags};
use block_drivers::qcow2::{self, BackingFile, CreateOptions, Qcow2Driver, Qcow2Options};

const SIZE: u64 = 1 << 20;
/// Damaged images of each kind.
const ROUNDS: u64 = 400;
/// Longest request that may reach the file: no table here is longer, and no guest's request.
const LONGEST: u64 = 33 << 20;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

fn disk(bytes: &[u8]) -> (TestDisk, TestDiskControl) {
    let (disk, control) = TestDisk::new(TestDiskOptions {
        grows: true,
        ..TestDiskOptions::default()
    });
    control.set_contents(bytes);
    (disk, control)
}

async fn open(node: &BlockNode, read_only: bool) -> Result<BlockNode, String> {
    let permissions = match read_only {
        true => Permissions::reader(),
        false => Permissions::writer(),
    };
    let child = node.attach("qcow2", permissions).expect("the only user");
    let options = Qcow2Options {
        read_only,
        backing: BackingFile::Ignore,
        ..Qcow2Options::default()
    };
    let driver = Qcow2Driver::open(child, options)
        .await
        .map_err(|e| e.to_string())?;
    NodeBuilder::new("image")
        .read_only(read_only)
        .open(node.handle(), driver)
        .await
        .map_err(|e| e.to_string())
}

/// An image with data, a snapshot with a state, and changes since.
async fn sample(node: &BlockNode, options: &str) {
    let child = node.attach("create", Permissions::writer()).expect("alone");
    let mut create = CreateOptions::from_pairs(options).expect("options");
    create.size = Some(SIZE);
    qcow2::create(&child, None, &create).await.expect("created");
    drop(child);
    let image = open(node, false).await.expect("open");
    for at in (0..SIZE).step_by(100_000) {
        let bytes = vec![at as u8 | 1; 30_000];
        let written = image.pwrite(DiskOffset(at), &bytes, WriteFlags::default());
        written.await.expect("written");
    }
    let state = vec![7; 100_000];
    let state = block_core::IoVector::copy_of(&state, 1).expect("memory");
    let saved = image.save_vmstate_unbuffered(VmstateOffset(0), state);
    saved.await.expect("saved");
    image.finish_vmstate(100_000).await.expect("finished");
    let snapshot = image.snapshot_create(NewSnapshot::new("one")).await;
    snapshot.expect("a snapshot");
    for at in (50_000..SIZE - 9000).step_by(200_000) {
        let bytes = vec![at as u8 | 1; 9000];
        let written = image.pwrite(DiskOffset(at), &bytes, WriteFlags::default());
        written.await.expect("written");
    }
    image.close().await.expect("closed");
}

/// Everything that can be asked of an image. What fails must say why.
async fn use_it(image: &BlockNode, random: &mut Random) {
    let check = |result: Result<(), BlockError>| {
        if let Err(error) = result {
            assert_ne!(error.cause, Cause::Panicked, "{error}");
            assert!(!error.to_string().is_empty());
        }
    };
    let len = image.length().await.expect("the length is known");
    let mut bytes = vec![0; len.min(2 * SIZE) as usize];
    check(image.pread(DiskOffset(0), &mut bytes).await);
    for _ in 0..6 {
        let at = random.below(len);
        let n = random.below(60_000).min(len - at);
        match random.below(5) {
            0 => {
                let bytes = vec![9; n as usize];
                check(
                    image
                        .pwrite(DiskOffset(at), &bytes, WriteFlags::default())
                        .await,
                );
            }
            1 => check(image.pdiscard(DiskOffset(at), n).await),
            2 => check(
                image
                    .pwrite_zeroes(DiskOffset(at), n, ZeroFlags::default())
                    .await,
            ),
            3 => check(image.flush().await),
            _ => check(image.block_status(DiskOffset(at), n).await.map(drop)),
        }
    }
    check(image.snapshot_list().await.map(drop));
    if let Ok(view) = image.snapshot_load_tmp("one").await {
        let len = view.length().await.expect("the length is known");
        let mut bytes = vec![0; len.min(2 * SIZE) as usize];
        check(view.pread(DiskOffset(0), &mut bytes).await);
        check(view.close().await);
    }
    match random.below(4) {
        0 => check(image.snapshot_goto("one").await),
        1 => check(image.snapshot_delete("one").await),
        2 => check(
            image
                .snapshot_create(NewSnapshot::new("two"))
                .await
                .map(drop),
        ),
        _ => {
            let to = Truncate {
                len: random.below(3 * SIZE) & !511,
                exact: true,
                preallocation: Preallocation::Off,
            };
            check(image.truncate(to).await);
        }
    }
    check(image.flush().await);
}

/// Puts something wrong into `image`: one or two 8-byte fields, a byte, or a cut.
fn damage(image: &mut Vec<u8>, tables: &[u64], random: &mut Random) {
    let len = image.len() as u64;
    for _ in 0..1 + random.below(2) {
        let at = match random.below(3) {
            0 => random.below(112),
            // Somewhere in what was written as a table.
            1 => tables[random.below(tables.len() as u64) as usize] + 8 * random.below(64),
            _ => random.below(len),
        };
        let at = at.min(len.saturating_sub(8)) as usize;
        let value = match random.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << 63,
            3 => len.next_multiple_of(512),
            4 => (1 << 63) | tables[random.below(tables.len() as u64) as usize],
            5 => 1 << random.below(64),
            6 => tables[random.below(tables.len() as u64) as usize],
            _ => random.next(),
        };
        match random.below(3) {
            0 => image[at] = value as u8,
            1 => image[at..at + 4].copy_from_slice(&(value as u32).to_be_bytes()),
            _ => image[at..at + 8].copy_from_slice(&value.to_be_bytes()),
        }
    }
    if random.below(12) == 0 {
        image.truncate(random.below(len) as usize);
    }
}

fn damaged_images(options: &str) {
    let context = AioContext::new().expect("a context");
    let handle = context.handle();
    context.block_on(async {
        let (driver, control) = disk(&[]);
        let file = NodeBuilder::new("file")
            .open(&handle, driver)
            .await
            .expect("a node");
        sample(&file, options).await;
        let sound = control.contents();
        // Whatever begins with something like a table's entry.
        let cluster = 1_usize
            << sound[20..24]
                .iter()
                .fold(0_u32, |n, b| n << 8 | u32::from(*b));
        let looks_like_a_table = |at: &usize| {
            let entry = &sound[*at..*at + 8];
            entry != [0; 8]
                && (entry[0] & 0x3f == 0)
                && entry[1..5].iter().filter(|b| **b != 0).count() < 3
        };
        let tables: Vec<u64> = (0..sound.len() - 8)
            .step_by(cluster)
            .filter(looks_like_a_table)
            .map(|at| at as u64)
            .collect();
        assert!(tables.len() >= 3, "{tables:?}");
        file.close().await.expect("closed");

        let mut opened = 0;
        for seed in 0..ROUNDS {
            let mut random = Random(seed);
            let mut bytes = sound.clone();
            damage(&mut bytes, &tables, &mut random);
            let (driver, control) = disk(&bytes);
            let file = NodeBuilder::new("file")
                .open(&handle, driver)
                .await
                .expect("a node");
            let read_only = random.below(4) == 0;
            match open(&file, read_only).await {
                Ok(image) => {
                    opened += 1;
                    use_it(&image, &mut random).await;
                    let closed = image.close().await;
                    let panicked = closed.is_err_and(|e| e.cause == Cause::Panicked);
                    assert!(!panicked, "seed {seed}");
                }
                Err(words) => {
                    assert!(!words.is_empty(), "seed {seed}");
                    assert_eq!(control.contents(), bytes, "seed {seed}: {words}");
                }
            }
            if read_only {
                assert_eq!(control.contents(), bytes, "seed {seed}: read only");
            }
            let longest = control
                .records()
                .iter()
                .filter(|r| r.op == Op::Read)
                .map(|r| r.len)
                .max();
            assert!(longest.unwrap_or(0) <= LONGEST, "seed {seed}: {longest:?}");
            let _ = file.close().await;
        }
        assert!(
            opened > ROUNDS / 10,
            "only {opened} of {ROUNDS} were opened"
        );
        assert!(opened < ROUNDS, "every one of them was opened");
    });
}

#[test]
fn damage_in_images_of_the_usual_form_is_told_and_makes_nothing_worse() {
    damaged_images("");
}

#[test]
fn damage_in_images_with_the_smallest_clusters_is_told() {
    damaged_images("cluster_size=512");
}

#[test]
fn damage_in_images_with_wide_refcounts_is_told() {
    damaged_images("cluster_size=1k,refcount_bits=64");
}

#[test]
fn damage_in_images_with_narrow_refcounts_is_told() {
    damaged_images("cluster_size=4k,refcount_bits=2");
}

#[test]
fn damage_in_images_of_version_2_is_told() {
    damaged_images("compat=0.10,cluster_size=4k");
}

#[test]
fn damage_in_images_with_subclusters_is_told() {
    damaged_images("extended_l2=on,cluster_size=16k");
}
