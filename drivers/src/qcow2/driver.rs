//! The driver as a node sees it: every call goes to a file of its own name, and its errors get the caller's numbers here.

use super::compressor::Qcow2Compressor;
use super::error::Qcow2Error;
use super::image::Image;
use super::offset::GuestOffset;
use super::options::Qcow2Options;
use super::snapshot::SnapshotView;
use super::tree::Tree;
use block_core::{
    BlockChild, BlockDriver, BlockError, BlockLimits, BlockStatus, Cause, Children, DiskOffset,
};
use block_core::{DynBlockDriver, IoVector, NewSnapshot, Op, RangeLimits, ReadVector, Result};
use block_core::{SnapshotInfo, Truncate, VmstateLimits, VmstateOffset, WriteFlags, ZeroFlags};
use std::rc::Rc;

/// A qcow2 image.
///
/// Changes of its tables stay in memory until a flush, a close, or until much has piled up; what a crash may lose is what QEMU's may:
/// everything since the last flush, and nothing else. Dropped without a close it loses the same.
pub struct Qcow2Driver {
    image: Rc<Image>,
}

impl Qcow2Driver {
    /// Opens the image in `file`, which should be a [`FileDriver`](crate::FileDriver)'s node that may grow.
    ///
    /// Errors: a [`Qcow2Error`] that names what is wrong or not supported; nothing has been written then.
    pub async fn open(file: BlockChild, options: Qcow2Options) -> Result<Self, Qcow2Error> {
        let image = Rc::new(Image::open(file, options).await?);
        Ok(Self { image })
    }

    /// Writes compressed clusters, once the driver itself is a node's.
    pub fn compressor(&self) -> Qcow2Compressor {
        Qcow2Compressor::new(self.image.clone())
    }

    /// What fits on the disk from `at` on: the node pads the last block of a disk that ends inside one.
    fn inside(&self, at: DiskOffset, len: u64) -> u64 {
        len.min(self.image.size.get().saturating_sub(at.0))
    }
}

impl BlockDriver for Qcow2Driver {
    fn format_name(&self) -> &'static str {
        "qcow2"
    }

    fn limits(&self) -> BlockLimits {
        limits(&self.image)
    }

    fn children(&self) -> Children<'_> {
        Children {
            file: Some(self.image.file.child()),
            backing: self.image.backing.file().map(|file| file.child()),
        }
    }

    async fn length(&self) -> Result<u64> {
        Ok(self.image.size.get())
    }

    async fn preadv(&self, at: DiskOffset, mut dst: ReadVector) -> (ReadVector, Result<()>) {
        let len = dst.len();
        let head = dst.split_to(self.inside(at, len));
        let (mut filled, result) = self
            .image
            .read_guest(&Tree::Active, GuestOffset(at.0), head)
            .await;
        let rest = dst.len();
        dst.fill_zero(0, rest);
        filled.unsplit(dst);
        (filled, during(Op::Read, at.0, len, result))
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, _: WriteFlags) -> Result<()> {
        let len = src.len();
        let result = match self.image.check_writable() {
            Ok(()) => {
                let src = src.slice(0..self.inside(at, len));
                self.image
                    .write_guest(&Tree::Active, GuestOffset(at.0), src)
                    .await
            }
            refused => refused,
        };
        during(Op::Write, at.0, len, result)
    }

    async fn flush(&self) -> Result<()> {
        if self.image.read_only {
            return Ok(());
        }
        during(Op::Flush, 0, 0, self.image.commit().await)
    }

    async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        let result = match self.image.check_writable() {
            Ok(()) => {
                let tree = &Tree::Active;
                let zeroed = self
                    .image
                    .zero_guest(tree, GuestOffset(at.0), len, flags.may_unmap);
                zeroed.await
            }
            refused => refused,
        };
        during(Op::WriteZeroes, at.0, len, result)
    }

    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        let result = match self.image.check_writable() {
            Ok(()) => {
                let tree = &Tree::Active;
                self.image.discard_guest(tree, GuestOffset(at.0), len).await
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
        let result = match self.image.closed.get() {
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
                self.image.status(&Tree::Active, at, inside).await
            }
        };
        during(Op::BlockStatus, at.0, len, result)
    }

    fn vmstate(&self) -> Option<VmstateLimits> {
        Some(vmstate_limits(&self.image))
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

/// Of the image and of views of its snapshots.
pub(super) fn limits(image: &Image) -> BlockLimits {
    let geometry = &image.geometry;
    let data = image.data_file().child().limits();
    BlockLimits {
        request_alignment: request_alignment(image),
        memory_alignment: data.memory_alignment,
        opt_transfer: geometry.cluster_size() as u32, // at most 2 MiB
        write_zeroes: RangeLimits {
            alignment: geometry.subcluster_size() as u32,
            max: None,
        },
        discard: RangeLimits {
            alignment: geometry.cluster_size() as u32,
            max: None,
        },
        ..BlockLimits::default()
    }
}

/// Of the image and of views of its snapshots.
pub(super) fn vmstate_limits(image: &Image) -> VmstateLimits {
    VmstateLimits {
        request_alignment: request_alignment(image),
        memory_alignment: image.data_file().child().limits().memory_alignment,
        cluster_size: image.geometry.cluster_size(),
    }
}

/// The data file's, so that what is aligned above is aligned below; but a block is never larger than a cluster.
fn request_alignment(image: &Image) -> u32 {
    let data = image.data_file().child().limits();
    let cluster_size = image.geometry.cluster_size() as u32; // at most 2 MiB
    data.request_alignment.min(cluster_size)
}

/// An error gets the numbers of the call.
pub(super) fn during<T>(op: Op, at: u64, len: u64, result: Result<T, Cause>) -> Result<T> {
    result.map_err(|cause| BlockError::new(op, at, len, cause))
}
