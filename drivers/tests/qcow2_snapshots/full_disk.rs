//! A disk without space: what takes new blocks fails, what overwrites old ones does not. The clean-up must do with what is there.

use crate::support::{Bench, cause, pattern, smallest_caches};
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{
    BlockDriver, BlockError, BlockLimits, BlockNode, Cause, DiskOffset, Errno, IoVector,
    NewSnapshot, NodeBuilder, Op, Permissions, ReadVector, Result, Truncate, VmstateOffset,
    WriteFlags,
};
use block_drivers::qcow2::Qcow2Driver;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

const BLOCK: u64 = 4096;

/// The blocks of a file system that the file has, and how many it may have.
#[derive(Clone, Default)]
struct Blocks {
    taken: Rc<RefCell<BTreeSet<u64>>>,
    budget: Rc<Cell<usize>>,
}

/// A file on a file system with few blocks left, as on tmpfs: a hole takes a block when it is written.
struct FullDisk {
    disk: TestDisk,
    blocks: Blocks,
}

impl FullDisk {
    /// Blocks of zeroes are holes, if there are any.
    fn new(bytes: &[u8], holes: bool, spare: usize) -> (Self, TestDiskControl, Blocks) {
        let (disk, control) = TestDisk::new(TestDiskOptions {
            grows: true,
            ..TestDiskOptions::default()
        });
        control.set_contents(bytes);
        let blocks = Blocks::default();
        let pieces = bytes.chunks(BLOCK as usize);
        let is_full = |block: &[u8]| !holes || block.iter().any(|byte| *byte != 0);
        let full = (0..).zip(pieces).filter(|(_, block)| is_full(block));
        blocks.taken.borrow_mut().extend(full.map(|(n, _)| n));
        blocks.budget.set(blocks.taken.borrow().len() + spare);
        let full = Self {
            disk,
            blocks: blocks.clone(),
        };
        (full, control, blocks)
    }

    /// How many bytes from `at` on have a block, or get one.
    fn take(&self, at: u64, len: u64) -> u64 {
        let mut taken = self.blocks.taken.borrow_mut();
        let mut end = at;
        while end < at + len {
            let block = end / BLOCK;
            if !taken.contains(&block) && taken.len() >= self.blocks.budget.get() {
                break;
            }
            taken.insert(block);
            end = (block + 1) * BLOCK;
        }
        end.min(at + len) - at
    }
}

impl BlockDriver for FullDisk {
    fn format_name(&self) -> &'static str {
        "full-disk"
    }

    fn limits(&self) -> BlockLimits {
        BlockDriver::limits(&self.disk)
    }

    fn grows(&self) -> bool {
        true
    }

    async fn length(&self) -> Result<u64> {
        BlockDriver::length(&self.disk).await
    }

    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        BlockDriver::preadv(&self.disk, at, dst).await
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        let len = src.len();
        let there = self.take(at.0, len);
        if there > 0 {
            BlockDriver::pwritev(&self.disk, at, src.slice(0..there), flags).await?;
        }
        match there == len {
            true => Ok(()),
            false => Err(BlockError::new(
                Op::Write,
                at.0,
                len,
                Cause::Os(Errno::NOSPC),
            )),
        }
    }

    async fn flush(&self) -> Result<()> {
        BlockDriver::flush(&self.disk).await
    }

    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        let whole = at.0.div_ceil(BLOCK)..(at.0 + len) / BLOCK;
        self.blocks
            .taken
            .borrow_mut()
            .retain(|b| !whole.contains(b));
        BlockDriver::pdiscard(&self.disk, at, len).await
    }

    async fn truncate(&self, to: Truncate) -> Result<()> {
        let end = to.len.div_ceil(BLOCK);
        self.blocks.taken.borrow_mut().retain(|b| *b < end);
        BlockDriver::truncate(&self.disk, to).await
    }

    async fn close(&self) -> Result<()> {
        BlockDriver::close(&self.disk).await
    }
}

struct Full {
    node: BlockNode,
    control: TestDiskControl,
    blocks: Blocks,
}

/// The image on a file system with so many blocks to spare.
async fn open(bench: &Bench, bytes: &[u8], holes: bool, spare: usize) -> Full {
    let (disk, control, blocks) = FullDisk::new(bytes, holes, spare);
    let handle = bench.handle();
    let node = NodeBuilder::new("file").open(&handle, disk).await;
    let child = node.expect("a node").attach("image", Permissions::writer());
    let driver = Qcow2Driver::open(child.expect("free"), smallest_caches()).await;
    let node = NodeBuilder::new("image").open(&handle, driver.expect("opened"));
    Full {
        node: node.await.expect("a node"),
        control,
        blocks,
    }
}

/// Saves a state in pieces, and records it.
async fn save(node: &BlockNode, state: &[u8]) -> Result<()> {
    for (number, piece) in state.chunks(9000).enumerate() {
        let at = VmstateOffset(number as u64 * 9000);
        node.save_vmstate_unbuffered(at, crate::support::vector(piece))
            .await?;
    }
    node.finish_vmstate(state.len() as u64).await?;
    node.snapshot_create(NewSnapshot::new("new"))
        .await
        .map(drop)
}

/// Images, the bytes of the state, and the fewest blocks to spare.
const IMAGES: [(&str, usize, usize); 4] = [
    // More tables than are kept in memory, so that raised refcounts and L2 tables are on disk before the space is used up.
    ("size=256k,cluster_size=512,refcount_bits=64", 150_000, 0),
    ("size=1M,cluster_size=4096", 300_000, 0),
    ("size=8M", 900_000, 0),
    // The space is used up where the refcounts of the state's last clusters would be in a hole of their block.
    (
        "size=1M,cluster_size=8192,refcount_bits=64",
        5_500_000,
        1150,
    ),
];

#[test]
fn a_save_that_uses_up_the_space_is_undone_without_any_more_of_it_and_leaves_no_leak() {
    let bench = Bench::new();
    bench.run(async {
        let mut failed = 0;
        for (pairs, len, fewest) in IMAGES {
            let image = bench.image(pairs).await;
            image
                .write(5000, &pattern(1, 70_000))
                .await
                .expect("written");
            image.snapshot("old").await.expect("made");
            image.write(9000, &pattern(2, 9000)).await.expect("written");
            let bytes = image.close().await;
            let state = pattern(3, len);
            for spare in fewest.. {
                let what = format!("{pairs}: {spare} blocks to spare");
                let full = open(&bench, &bytes, true, spare).await;
                let before = full.blocks.taken.borrow().len();
                let Err(error) = save(&full.node, &state).await else {
                    full.node.close().await.expect("closed");
                    bench.is_clean(&full.control.contents()).await;
                    break;
                };
                failed += 1;
                // A snapshot that could not be made may call its tables leaked: the state is still there, and its counts have no space.
                assert_eq!(error.errno(), Errno::NOSPC, "{what}");
                assert_eq!(full.node.discard_vmstate().await, Ok(()), "{what}");
                // As it is now, whatever becomes of the close.
                let report = bench.check(&full.control.contents()).await;
                assert!(report.leaks == 0, "{what}: {report:?}");
                assert_eq!(full.node.close().await, Ok(()), "{what}");
                let after = full.control.contents();
                bench.is_clean(&after).await;
                let again = bench.open(&after).await;
                assert_eq!(again.names().await, ["old"], "{what}");
                let disk = again.disk().await;
                assert!(
                    disk[18_000..75_000] == pattern(1, 70_000)[13_000..],
                    "{what}"
                );
                assert!(disk[9000..18_000] == pattern(2, 9000), "{what}");
                // What is smaller than a block of the file system cannot be given back. A refcount block may have been made.
                let cluster = 1 << u32::from_be_bytes(bytes[20..24].try_into().expect("four"));
                let taken = full.blocks.taken.borrow().len();
                let more = taken.saturating_sub(before) as u64 * BLOCK;
                let blocks = cluster + 4 * BLOCK;
                assert!(
                    cluster < BLOCK || more <= blocks,
                    "{what}: {more} bytes more"
                );
            }
        }
        assert!(failed > 100, "only {failed} failed");
    });
}

#[test]
fn a_snapshot_without_space_for_its_tables_is_undone_without_any_more_of_it() {
    let bench = Bench::new();
    bench.run(async {
        for (pairs, ..) in IMAGES {
            let image = bench.image(pairs).await;
            image
                .write(5000, &pattern(1, 70_000))
                .await
                .expect("written");
            let bytes = image.close().await;
            for spare in 0.. {
                let what = format!("{pairs}: {spare} blocks to spare");
                let full = open(&bench, &bytes, true, spare).await;
                let made = full.node.snapshot_create(NewSnapshot::new("new")).await;
                let done = made.is_ok();
                if !done {
                    assert_eq!(cause(made), Cause::Os(Errno::NOSPC), "{what}");
                }
                assert_eq!(full.node.close().await, Ok(()), "{what}");
                bench.is_clean(&full.control.contents()).await;
                if done {
                    break;
                }
                assert!(spare < 1000, "{what}");
            }
        }
    });
}
