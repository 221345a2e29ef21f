//! One snapshot as a read-only disk: QEMU's `qcow2_snapshot_load_tmp`, except that the image works on.

use super::Image;
use crate::qcow2::format::error::Result;
use crate::qcow2::format::offset::GuestOffset;
use crate::qcow2::guest::{L1Table, SNAPSHOTS, SnapshotL1};
use block_core::{
    BlockDriver, BlockError, BlockLimits, BlockStatus, Cause, DiskOffset, IoVector, Op,
};
use block_core::{ReadVector, VmstateLimits, VmstateOffset, WriteFlags};
use std::cell::RefCell;
use std::rc::Rc;

/// A snapshot's disk and state. The snapshot cannot be deleted while this is open; the image can be closed, and then every read fails.
pub(crate) struct SnapshotView {
    image: Rc<Image>,
    /// `None` once closed.
    tree: RefCell<Option<Rc<SnapshotL1>>>,
}

impl SnapshotView {
    /// Reads the snapshot's L1 table. Memory: 32 MiB at most.
    ///
    /// Errors: [`Cause::NoSuchSnapshot`], [`Cause::Closed`], what is wrong with its L1 table, and what reading it gave.
    pub(crate) async fn open(image: &Rc<Image>, id_or_name: &str) -> Result<Self> {
        let _lock = image.guest.locks().shared(SNAPSHOTS).await;
        image.guest.check_open()?;
        let (_, snapshot) = image.snapshots.find(id_or_name)?;
        let entries = image.read_snapshot_l1(&snapshot).await?;
        let tree = Rc::new(SnapshotL1 {
            entries,
            disk_size: snapshot.disk_size,
            vmstate_size: snapshot.vmstate_size,
        });
        image.snapshots.add_view(snapshot, &tree);
        Ok(Self {
            image: image.clone(),
            tree: RefCell::new(Some(tree)),
        })
    }

    fn tree(&self) -> Result<Rc<SnapshotL1>> {
        self.image.guest.check_open()?;
        self.tree.borrow().clone().ok_or(Cause::Closed)
    }

    /// Without the places in the image's file, which is not a child of this.
    async fn status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        let tree = self.tree()?;
        let inside = len.min(tree.disk_size.saturating_sub(at.0));
        if inside == 0 {
            return Ok(BlockStatus {
                len,
                data: false,
                zero: true,
                allocated: true,
                map: None,
            });
        }
        let (tree, at) = (L1Table::Snapshot(tree), GuestOffset(at.0));
        let status = self.image.guest.status(&tree, at, inside).await?;
        Ok(BlockStatus {
            map: None,
            ..status
        })
    }

    async fn read(&self, space: Space, at: u64, dst: ReadVector) -> (ReadVector, Result<()>) {
        let tree = match self.tree() {
            Ok(tree) => tree,
            Err(cause) => return (dst, Err(cause)),
        };
        let start = match space {
            Space::Disk => Some(GuestOffset(0)),
            Space::Vmstate => self.image.meta().geometry().vmstate_start(tree.disk_size),
        };
        let place = start.and_then(|start| start.checked_add(at));
        let Some(place) = place.filter(|place| place.checked_add(dst.len()).is_some()) else {
            return (dst, Err(Cause::Overflow));
        };
        let disk_size = tree.disk_size;
        let tree = L1Table::Snapshot(tree);
        let mut dst = dst;
        // The node pads the last block of a disk that ends inside one.
        let inside = match space {
            Space::Disk => disk_size.saturating_sub(at),
            Space::Vmstate => u64::MAX,
        };
        let head = dst.split_to(inside.min(dst.len()));
        let (mut filled, result) = self.image.guest.read_guest(&tree, place, head).await;
        let rest = dst.len();
        dst.fill_zero(0, rest);
        filled.unsplit(dst);
        (filled, result)
    }
}

/// What a read counts from.
#[derive(Clone, Copy)]
enum Space {
    Disk,
    Vmstate,
}

impl BlockDriver for SnapshotView {
    fn format_name(&self) -> &'static str {
        "qcow2"
    }

    fn limits(&self) -> BlockLimits {
        self.image.guest.limits()
    }

    async fn length(&self) -> block_core::Result<u64> {
        let tree = self.tree().map_err(|c| error(Op::Length, 0, 0, c))?;
        Ok(tree.disk_size)
    }

    async fn preadv(
        &self,
        at: DiskOffset,
        dst: ReadVector,
    ) -> (ReadVector, block_core::Result<()>) {
        let len = dst.len();
        let (dst, result) = self.read(Space::Disk, at.0, dst).await;
        (dst, result.map_err(|c| error(Op::Read, at.0, len, c)))
    }

    async fn pwritev(
        &self,
        at: DiskOffset,
        src: IoVector,
        _: WriteFlags,
    ) -> block_core::Result<()> {
        Err(error(Op::Write, at.0, src.len(), Cause::ReadOnly))
    }

    async fn flush(&self) -> block_core::Result<()> {
        Ok(())
    }

    async fn block_status(&self, at: DiskOffset, len: u64) -> block_core::Result<BlockStatus> {
        let status = self.status(at, len).await;
        status.map_err(|c| error(Op::BlockStatus, at.0, len, c))
    }

    fn vmstate(&self) -> Option<VmstateLimits> {
        Some(self.image.guest.vmstate_limits())
    }

    async fn load_vmstate(
        &self,
        at: VmstateOffset,
        dst: ReadVector,
    ) -> (ReadVector, block_core::Result<()>) {
        let len = dst.len();
        let (dst, result) = self.read(Space::Vmstate, at.0, dst).await;
        (
            dst,
            result.map_err(|c| error(Op::LoadVmstate, at.0, len, c)),
        )
    }

    async fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> block_core::Result<()> {
        Err(error(Op::SaveVmstate, at.0, src.len(), Cause::ReadOnly))
    }

    async fn vmstate_length(&self) -> block_core::Result<Option<u64>> {
        let tree = self.tree().map_err(|c| error(Op::LoadVmstate, 0, 0, c))?;
        Ok(Some(tree.vmstate_size))
    }

    async fn close(&self) -> block_core::Result<()> {
        self.tree.take();
        Ok(())
    }
}

fn error(op: Op, at: u64, len: u64, cause: Cause) -> BlockError {
    BlockError::new(op, at, len, cause)
}
