//! The trait that drivers implement, and its boxed twin for a graph of mixed drivers.

use crate::{
    BlockChild, BlockError, BlockLimits, BlockStatus, Cause, DiskOffset, IoVector, Op, ReadVector,
    Result,
};
use crate::{NewSnapshot, SnapshotInfo, VmstateLimits, VmstateOffset, WriteFlags, ZeroFlags};
use futures::future::LocalBoxFuture;

/// How new space is backed when a node grows, QEMU's `PreallocMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing is allocated.
    #[default]
    Off,
    /// The format's metadata is.
    Metadata,
    /// Space is reserved without writing it.
    Falloc,
    /// Every byte is written.
    Full,
}

/// A change of length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// The new length in bytes.
    pub len: u64,
    /// Fail unless the length becomes exactly this.
    pub exact: bool,
    /// How new space is backed.
    pub preallocation: Preallocation,
}

/// The children of a driver, for those who walk the graph.
#[derive(Default)]
pub struct Children<'a> {
    /// Where this driver's bytes are: the primary child.
    pub file: Option<&'a BlockChild>,
    /// What shows through where this driver has nothing.
    pub backing: Option<&'a BlockChild>,
}

/// How bytes are laid out. The node calls it with requests inside its limits only: aligned, bounded, split.
///
/// Several requests may be in flight at once; two that overlap may land in either order unless the node serialised them. A driver that
/// owns memory of a request keeps it until its I/O is over, and has dropped its references to a write's [`IoVector`] when it returns, so
/// that the caller can use the memory again. The node never drops a driver's future before it is ready, except when its context goes away.
///
/// The offsets and lengths of an error that a driver returns are not seen by the node's user, who gets those of his own request; its
/// cause is. A driver that panics ends its request with [`Cause::Panicked`], and the node goes on.
#[allow(
    async_fn_in_trait,
    reason = "single-threaded by design: no Send bound is wanted"
)]
pub trait BlockDriver: 'static {
    /// QEMU's name of the format or protocol: `file`, `raw`, `qcow2`.
    fn format_name(&self) -> &'static str;

    /// What one request may be. Asked once, when the node is built.
    fn limits(&self) -> BlockLimits;

    /// The children, so that calls can be passed down. A driver that is closed lets go of them ([`BlockChild::release`]), which closes
    /// those that nobody else uses.
    fn children(&self) -> Children<'_> {
        Children::default()
    }

    /// True where FUA writes are done by the driver itself.
    fn supports_fua(&self) -> bool {
        false
    }

    /// True where a write, or a write of zeroes, behind the end makes the node longer (protocol drivers on files). Where the alignment is
    /// not 1 such a driver truncates too: the node sets back a length that padding has moved.
    fn grows(&self) -> bool {
        false
    }

    /// The length in bytes; need not be a multiple of the request alignment. The node asks when it is opened, after truncates and failed
    /// writes, and where a request reaches behind what it knows.
    async fn length(&self) -> Result<u64>;

    /// Fills `dst` from `at`; QEMU's `bdrv_co_preadv`. Bytes behind the end read as zeroes. The memory comes back with the result.
    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>);

    /// Writes `src` at `at`; QEMU's `bdrv_co_pwritev`. `flags.fua` is set only where [`BlockDriver::supports_fua`]. Where the driver does
    /// not grow and its length is no multiple of the alignment, the last block's padding is behind the end and to be left out.
    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()>;

    /// Makes all writes that returned before stable; QEMU's `bdrv_co_flush`.
    async fn flush(&self) -> Result<()>;

    /// Writes zeroes without data; QEMU's `bdrv_co_pwrite_zeroes`. "Not supported" makes the node write explicit zeroes; it is an answer
    /// for the driver or its state, not for one range, and nothing has been changed. `flags.fua` as in [`BlockDriver::pwritev`].
    async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        let _ = flags;
        Err(BlockError::new(
            Op::WriteZeroes,
            at.0,
            len,
            Cause::NotSupported,
        ))
    }

    /// The content of the range no longer matters; QEMU's `bdrv_co_pdiscard`. "Not supported" is ignored by the node.
    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        Err(BlockError::new(Op::Discard, at.0, len, Cause::NotSupported))
    }

    /// What is known of the range; QEMU's `bdrv_co_block_status`. The default knows nothing: all is data.
    async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        let _ = at;
        Ok(BlockStatus {
            len,
            data: true,
            zero: false,
            allocated: true,
            map: None,
        })
    }

    /// Changes the length; QEMU's `bdrv_co_truncate`.
    async fn truncate(&self, to: Truncate) -> Result<()> {
        Err(BlockError::new(
            Op::Truncate,
            to.len,
            0,
            Cause::NotSupported,
        ))
    }

    /// `Some` where this driver has a vmstate area of its own (QEMU's `bdrv_save_vmstate` is set); `None` passes vmstate calls to `file`.
    fn vmstate(&self) -> Option<VmstateLimits> {
        None
    }

    /// Writes to the vmstate area at any position and length; QEMU's `bdrv_co_save_vmstate`.
    async fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> Result<()> {
        Err(BlockError::new(
            Op::SaveVmstate,
            at.0,
            src.len(),
            Cause::NotSupported,
        ))
    }

    /// Reads from the vmstate area; QEMU's `bdrv_co_load_vmstate`. Bytes never written read as zeroes.
    async fn load_vmstate(&self, at: VmstateOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        let len = dst.len();
        (
            dst,
            Err(BlockError::new(
                Op::LoadVmstate,
                at.0,
                len,
                Cause::NotSupported,
            )),
        )
    }

    /// The length of the state that is stored, where the driver knows it.
    async fn vmstate_length(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// All of the state is written and its true length is `len`: a driver that padded cuts the padding off. No QEMU counterpart.
    async fn finish_vmstate(&self, len: u64) -> Result<()> {
        let _ = len;
        Ok(())
    }

    /// Drops what [`BlockDriver::save_vmstate`] wrote and no snapshot recorded: the next state begins on an empty area. A driver without
    /// snapshots, whose state is overwritten in place, has nothing to drop. No QEMU counterpart.
    async fn discard_vmstate(&self) -> Result<()> {
        Ok(())
    }

    /// True where this driver has internal snapshots, whether or not this image can take another one now; false passes snapshot calls to
    /// `file`. Such a driver has a vmstate area, too.
    fn supports_snapshots(&self) -> bool {
        false
    }

    /// Records the disk as it is, and the state that [`BlockDriver::finish_vmstate`] completed and no snapshot recorded yet, if there is
    /// one: that state is then the snapshot's, and the area is empty. A state that is not complete stays. QEMU's `bdrv_snapshot_create`.
    ///
    /// Atomic, a replaced snapshot included: after an error, and after a crash at any moment before it returns, the list of snapshots is
    /// the old or the new one, and after an error it is the old one, and the state is still there to be discarded. What it returned is
    /// stable. The node sees to it that no other request on the disk is under way; vmstate calls may be.
    async fn snapshot_create(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        let _ = new;
        Err(unsupported(Op::SnapshotCreate))
    }

    /// Makes the disk, its length and the state in the vmstate area those of a snapshot; QEMU's `bdrv_snapshot_goto`. The snapshot stays.
    /// A state that no snapshot recorded is dropped. Atomic, stable and alone as [`BlockDriver::snapshot_create`] is.
    ///
    /// `id_or_name` here and below: the snapshot with this id, else the first with this name; [`Cause::NoSuchSnapshot`] if there is none.
    async fn snapshot_goto(&self, id_or_name: String) -> Result<()> {
        let _ = id_or_name;
        Err(unsupported(Op::SnapshotGoto))
    }

    /// Drops a snapshot; QEMU's `bdrv_snapshot_delete`. Atomic and stable. Other requests may be under way.
    async fn snapshot_delete(&self, id_or_name: String) -> Result<()> {
        let _ = id_or_name;
        Err(unsupported(Op::SnapshotDelete))
    }

    /// The snapshots in the image's order; QEMU's `bdrv_snapshot_list`.
    async fn snapshot_list(&self) -> Result<Vec<SnapshotInfo>> {
        Err(unsupported(Op::SnapshotList))
    }

    /// A view of a snapshot: a driver whose disk and vmstate area are the snapshot's, to be opened read-only; QEMU's
    /// `bdrv_snapshot_load_tmp`, except that this image works on.
    ///
    /// A view shows the snapshot's bytes or fails (with [`Cause::Closed`] once this driver is closed), whatever becomes of the snapshot.
    /// Its requests are not this node's: they are not in flight here, and a drained section does not keep them out. Closing a view, or
    /// dropping it, lets go of the snapshot.
    async fn snapshot_load_tmp(&self, id_or_name: String) -> Result<Box<dyn DynBlockDriver>> {
        let _ = id_or_name;
        Err(unsupported(Op::SnapshotLoad))
    }

    /// Writes back what the driver keeps, and lets go of its resources and its children. A state that no snapshot recorded is dropped where
    /// the driver has snapshots. Nothing is called after it.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

fn unsupported(op: Op) -> BlockError {
    BlockError::new(op, 0, 0, Cause::NotSupported)
}

/// [`BlockDriver`] behind a pointer. Implemented for every driver; one box per request.
#[allow(missing_docs, reason = "each method is its BlockDriver twin")]
pub trait DynBlockDriver: 'static {
    fn format_name(&self) -> &'static str;
    fn limits(&self) -> BlockLimits;
    fn children(&self) -> Children<'_>;
    fn supports_fua(&self) -> bool;
    fn grows(&self) -> bool;
    fn length(&self) -> LocalBoxFuture<'_, Result<u64>>;
    fn preadv(
        &self,
        at: DiskOffset,
        dst: ReadVector,
    ) -> LocalBoxFuture<'_, (ReadVector, Result<()>)>;
    fn pwritev(
        &self,
        at: DiskOffset,
        src: IoVector,
        flags: WriteFlags,
    ) -> LocalBoxFuture<'_, Result<()>>;
    fn flush(&self) -> LocalBoxFuture<'_, Result<()>>;
    fn pwrite_zeroes(
        &self,
        at: DiskOffset,
        len: u64,
        flags: ZeroFlags,
    ) -> LocalBoxFuture<'_, Result<()>>;
    fn pdiscard(&self, at: DiskOffset, len: u64) -> LocalBoxFuture<'_, Result<()>>;
    fn block_status(&self, at: DiskOffset, len: u64) -> LocalBoxFuture<'_, Result<BlockStatus>>;
    fn truncate(&self, to: Truncate) -> LocalBoxFuture<'_, Result<()>>;
    fn vmstate(&self) -> Option<VmstateLimits>;
    fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> LocalBoxFuture<'_, Result<()>>;
    fn load_vmstate(
        &self,
        at: VmstateOffset,
        dst: ReadVector,
    ) -> LocalBoxFuture<'_, (ReadVector, Result<()>)>;
    fn vmstate_length(&self) -> LocalBoxFuture<'_, Result<Option<u64>>>;
    fn finish_vmstate(&self, len: u64) -> LocalBoxFuture<'_, Result<()>>;
    fn discard_vmstate(&self) -> LocalBoxFuture<'_, Result<()>>;
    fn supports_snapshots(&self) -> bool;
    fn snapshot_create(&self, new: NewSnapshot) -> LocalBoxFuture<'_, Result<SnapshotInfo>>;
    fn snapshot_goto(&self, id_or_name: String) -> LocalBoxFuture<'_, Result<()>>;
    fn snapshot_delete(&self, id_or_name: String) -> LocalBoxFuture<'_, Result<()>>;
    fn snapshot_list(&self) -> LocalBoxFuture<'_, Result<Vec<SnapshotInfo>>>;
    fn snapshot_load_tmp(
        &self,
        id_or_name: String,
    ) -> LocalBoxFuture<'_, Result<Box<dyn DynBlockDriver>>>;
    fn close(&self) -> LocalBoxFuture<'_, Result<()>>;
}

impl<D: BlockDriver> DynBlockDriver for D {
    fn format_name(&self) -> &'static str {
        BlockDriver::format_name(self)
    }
    fn limits(&self) -> BlockLimits {
        BlockDriver::limits(self)
    }
    fn children(&self) -> Children<'_> {
        BlockDriver::children(self)
    }
    fn supports_fua(&self) -> bool {
        BlockDriver::supports_fua(self)
    }
    fn grows(&self) -> bool {
        BlockDriver::grows(self)
    }
    fn length(&self) -> LocalBoxFuture<'_, Result<u64>> {
        Box::pin(BlockDriver::length(self))
    }
    fn preadv(
        &self,
        at: DiskOffset,
        dst: ReadVector,
    ) -> LocalBoxFuture<'_, (ReadVector, Result<()>)> {
        Box::pin(BlockDriver::preadv(self, at, dst))
    }
    fn pwritev(
        &self,
        at: DiskOffset,
        src: IoVector,
        flags: WriteFlags,
    ) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::pwritev(self, at, src, flags))
    }
    fn flush(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::flush(self))
    }
    fn pwrite_zeroes(
        &self,
        at: DiskOffset,
        len: u64,
        flags: ZeroFlags,
    ) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::pwrite_zeroes(self, at, len, flags))
    }
    fn pdiscard(&self, at: DiskOffset, len: u64) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::pdiscard(self, at, len))
    }
    fn block_status(&self, at: DiskOffset, len: u64) -> LocalBoxFuture<'_, Result<BlockStatus>> {
        Box::pin(BlockDriver::block_status(self, at, len))
    }
    fn truncate(&self, to: Truncate) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::truncate(self, to))
    }
    fn vmstate(&self) -> Option<VmstateLimits> {
        BlockDriver::vmstate(self)
    }
    fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::save_vmstate(self, at, src))
    }
    fn load_vmstate(
        &self,
        at: VmstateOffset,
        dst: ReadVector,
    ) -> LocalBoxFuture<'_, (ReadVector, Result<()>)> {
        Box::pin(BlockDriver::load_vmstate(self, at, dst))
    }
    fn vmstate_length(&self) -> LocalBoxFuture<'_, Result<Option<u64>>> {
        Box::pin(BlockDriver::vmstate_length(self))
    }
    fn finish_vmstate(&self, len: u64) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::finish_vmstate(self, len))
    }
    fn discard_vmstate(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::discard_vmstate(self))
    }
    fn supports_snapshots(&self) -> bool {
        BlockDriver::supports_snapshots(self)
    }
    fn snapshot_create(&self, new: NewSnapshot) -> LocalBoxFuture<'_, Result<SnapshotInfo>> {
        Box::pin(BlockDriver::snapshot_create(self, new))
    }
    fn snapshot_goto(&self, id_or_name: String) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::snapshot_goto(self, id_or_name))
    }
    fn snapshot_delete(&self, id_or_name: String) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::snapshot_delete(self, id_or_name))
    }
    fn snapshot_list(&self) -> LocalBoxFuture<'_, Result<Vec<SnapshotInfo>>> {
        Box::pin(BlockDriver::snapshot_list(self))
    }
    fn snapshot_load_tmp(
        &self,
        id_or_name: String,
    ) -> LocalBoxFuture<'_, Result<Box<dyn DynBlockDriver>>> {
        Box::pin(BlockDriver::snapshot_load_tmp(self, id_or_name))
    }
    fn close(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::close(self))
    }
}
