//! The driver as a node sees it: every call goes to a file of its own name, and its errors get the caller's numbers here.

mod compressor;
mod info;
mod open;
mod options;

pub use self::compressor::Qcow2Compressor;
pub use self::info::{ImageInfo, info};
pub use self::options::{BackingFile, Qcow2Options};

use crate::qcow2::format::error::Qcow2Error;
use crate::qcow2::format::offset::GuestOffset;
use crate::qcow2::guest::{Guest, L1Table};
use crate::qcow2::snapshot::{Image, SnapshotView};
use block_core::{
    BlockChild, BlockDriver, BlockError, BlockLimits, BlockStatus, Cause, Children, DiskOffset,
};
use block_core::{DynBlockDriver, IoVector, NewSnapshot, Op, ReadVector, Result};
use block_core::{SnapshotInfo, Truncate, VmstateLimits, VmstateOffset, WriteFlags, ZeroFlags};
use std::rc::Rc;

/// A qcow2 image.
///
/// Changes of its tables stay in memory until a flush, a close, or until much has piled up; what a crash may lose is what QEMU's may:
/// everything since the last flush, and nothing else. Dropped without a close it loses the same.
pub struct Qcow2Driver {
    image: Rc<Image>,
}

impl std::fmt::Debug for Qcow2Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2Driver")
            .field("file", &self.guest().meta().file().child())
            .field("size", &self.guest().meta().size())
            .field("closed", &self.guest().is_closed())
            .finish_non_exhaustive()
    }
}

impl Qcow2Driver {
    /// Opens the image in `file`, which should be a [`FileDriver`](crate::FileDriver)'s node that may grow.
    ///
    /// Errors: a [`Qcow2Error`] that names what is wrong or not supported; nothing has been written then.
    pub async fn open(file: BlockChild, options: Qcow2Options) -> Result<Self, Qcow2Error> {
        let image = Rc::new(open::open(file, options).await?);
        Ok(Self { image })
    }

    /// Writes compressed clusters, once the driver itself is a node's.
    pub fn compressor(&self) -> Qcow2Compressor {
        Qcow2Compressor::new(self.image.clone())
    }

    fn guest(&self) -> &Guest {
        self.image.guest()
    }

    /// What fits on the disk from `at` on: the node pads the last block of a disk that ends inside one.
    fn inside(&self, at: DiskOffset, len: u64) -> u64 {
        len.min(self.guest().meta().size().saturating_sub(at.0))
    }
}

impl BlockDriver for Qcow2Driver {
    fn format_name(&self) -> &'static str {
        "qcow2"
    }

    fn limits(&self) -> BlockLimits {
        self.guest().limits()
    }

    fn children(&self) -> Children<'_> {
        Children {
            file: Some(self.guest().meta().file().child()),
            backing: self.guest().backing().file().map(|file| file.child()),
        }
    }

    async fn length(&self) -> Result<u64> {
        Ok(self.guest().meta().size())
    }

    async fn preadv(&self, at: DiskOffset, mut dst: ReadVector) -> (ReadVector, Result<()>) {
        let len = dst.len();
        let head = dst.split_to(self.inside(at, len));
        let (mut filled, result) = self
            .guest()
            .read_guest(&L1Table::Active, GuestOffset(at.0), head)
            .await;
        let rest = dst.len();
        dst.fill_zero(0, rest);
        filled.unsplit(dst);
        (filled, during(Op::Read, at.0, len, result))
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, _: WriteFlags) -> Result<()> {
        let len = src.len();
        let result = match self.guest().check_writable() {
            Ok(()) => {
                let src = src.slice(0..self.inside(at, len));
                self.guest()
                    .write_guest(&L1Table::Active, GuestOffset(at.0), src)
                    .await
            }
            refused => refused,
        };
        during(Op::Write, at.0, len, result)
    }

    async fn flush(&self) -> Result<()> {
        if self.guest().is_read_only() {
            return Ok(());
        }
        during(Op::Flush, 0, 0, self.guest().meta().commit().await)
    }

    async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        let result = match self.guest().check_writable() {
            Ok(()) => {
                let l1 = &L1Table::Active;
                let zeroed = self
                    .guest()
                    .zero_guest(l1, GuestOffset(at.0), len, flags.may_unmap);
                zeroed.await
            }
            refused => refused,
        };
        during(Op::WriteZeroes, at.0, len, result)
    }

    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        let result = match self.guest().check_writable() {
            Ok(()) => {
                let l1 = &L1Table::Active;
                self.guest().discard_guest(l1, GuestOffset(at.0), len).await
            }
            refused => refused,
        };
        during(Op::Discard, at.0, len, result)
    }

    async fn truncate(&self, to: Truncate) -> Result<()> {
        during(Op::Truncate, to.len, 0, self.image.truncate(to).await)
    }

    async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        let inside = self.inside(at, len);
        let result = match self.guest().is_closed() {
            true => Err(Cause::Closed),
            false if inside == 0 => Ok(BlockStatus {
                len,
                data: false,
                zero: true,
                allocated: true,
                map: None,
            }),
            false => {
                let at = GuestOffset(at.0);
                self.guest().status(&L1Table::Active, at, inside).await
            }
        };
        during(Op::BlockStatus, at.0, len, result)
    }

    fn vmstate(&self) -> Option<VmstateLimits> {
        Some(self.guest().vmstate_limits())
    }

    async fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> Result<()> {
        let len = src.len();
        let result = self.image.save_vmstate(at, src).await;
        during(Op::SaveVmstate, at.0, len, result)
    }

    async fn load_vmstate(&self, at: VmstateOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        let len = dst.len();
        let (dst, result) = self.image.load_vmstate(at, dst).await;
        (dst, during(Op::LoadVmstate, at.0, len, result))
    }

    async fn vmstate_length(&self) -> Result<Option<u64>> {
        Ok(self.image.vmstate_length())
    }

    async fn finish_vmstate(&self, len: u64) -> Result<()> {
        let result = self.image.finish_vmstate(len).await;
        during(Op::FinalizeVmstate, 0, len, result)
    }

    async fn discard_vmstate(&self) -> Result<()> {
        let result = self.image.discard_vmstate().await;
        during(Op::DiscardVmstate, 0, 0, result)
    }

    fn supports_snapshots(&self) -> bool {
        true
    }

    async fn snapshot_create(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        let result = self.image.create_snapshot(new).await;
        during(Op::SnapshotCreate, 0, 0, result)
    }

    async fn snapshot_goto(&self, id_or_name: String) -> Result<()> {
        let result = self.image.go_to_snapshot(&id_or_name).await;
        during(Op::SnapshotGoto, 0, 0, result)
    }

    async fn snapshot_delete(&self, id_or_name: String) -> Result<()> {
        let result = self.image.delete_snapshot(&id_or_name).await;
        during(Op::SnapshotDelete, 0, 0, result)
    }

    async fn snapshot_list(&self) -> Result<Vec<SnapshotInfo>> {
        during(Op::SnapshotList, 0, 0, self.image.snapshots().await)
    }

    async fn snapshot_load_tmp(&self, id_or_name: String) -> Result<Box<dyn DynBlockDriver>> {
        let view = SnapshotView::open(&self.image, &id_or_name).await;
        let view: Box<dyn DynBlockDriver> = match view {
            Ok(view) => Box::new(view),
            Err(cause) => return during(Op::SnapshotLoad, 0, 0, Err(cause)),
        };
        Ok(view)
    }

    async fn close(&self) -> Result<()> {
        during(Op::Close, 0, 0, self.image.close().await)
    }
}

/// An error gets the numbers of the call.
pub(crate) fn during<T>(op: Op, at: u64, len: u64, result: Result<T, Cause>) -> Result<T> {
    result.map_err(|cause| BlockError::new(op, at, len, cause))
}
