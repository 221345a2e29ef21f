//! A node of the graph: a driver with the caller's side in front of it. QEMU's `BlockDriverState` and `block/io.c`.
#![allow(clippy::todo, unused_variables, reason = "shape first; bodies follow")]

use crate::*;
use aio_task::AioHandle;
use std::any::Any;
use std::rc::Rc;

/// Makes a node around a driver.
pub struct NodeBuilder {
    _todo: (),
}

impl NodeBuilder {
    /// A node called `name` in errors and lists.
    pub fn new(name: impl Into<String>) -> Self {
        todo!()
    }
    /// Writes are refused with [`Cause::ReadOnly`]. Default: false.
    pub fn read_only(self, yes: bool) -> Self {
        todo!()
    }
    /// Default: writeback. Decides about flushes; whether a file is opened O_DIRECT is the driver's option.
    pub fn cache(self, mode: CacheMode) -> Self {
        todo!()
    }
    /// Asks the driver for limits and length, and makes the node. It belongs to `handle`'s context.
    pub async fn open(self, handle: &AioHandle, driver: impl BlockDriver) -> Result<BlockNode> {
        todo!()
    }
}

/// A node. Cloning makes another reference to the same node.
///
/// Every operation checks its range first (offset + length <= i64::MAX, inside the node unless it grows), then becomes a request task of
/// the node's context, polled once at once. Dropping the returned future lets the request run on.
#[derive(Clone)]
pub struct BlockNode {
    _todo: Rc<()>,
}

impl BlockNode {
    /// The name given to the builder.
    pub fn name(&self) -> &str {
        todo!()
    }
    /// The driver's name.
    pub fn format_name(&self) -> &'static str {
        todo!()
    }
    /// The context this node belongs to.
    pub fn handle(&self) -> &AioHandle {
        todo!()
    }
    /// The driver's limits.
    pub fn limits(&self) -> &BlockLimits {
        todo!()
    }
    /// The cache mode.
    pub fn cache(&self) -> CacheMode {
        todo!()
    }
    /// True if writes are refused.
    pub fn is_read_only(&self) -> bool {
        todo!()
    }
    /// Length in bytes, as the driver tells it now.
    pub async fn length(&self) -> Result<u64> {
        todo!()
    }

    /// Reads `dst.len()` bytes at `at` (`bdrv_co_preadv`). The range must lie inside the node, whose end may be unaligned.
    pub async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        todo!()
    }
    /// Reads into borrowed memory, through a bounce buffer.
    pub async fn pread(&self, at: DiskOffset, dst: &mut [u8]) -> Result<()> {
        todo!()
    }
    /// Writes (`bdrv_co_pwritev`).
    pub async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        todo!()
    }
    /// Writes a copy of borrowed bytes.
    pub async fn pwrite(&self, at: DiskOffset, src: &[u8], flags: WriteFlags) -> Result<()> {
        todo!()
    }
    /// `bdrv_co_flush`.
    pub async fn flush(&self) -> Result<()> {
        todo!()
    }
    /// `bdrv_co_pwrite_zeroes`.
    pub async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        todo!()
    }
    /// `bdrv_co_pdiscard`.
    pub async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        todo!()
    }
    /// `bdrv_co_block_status`; at most as many bytes as asked.
    pub async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        todo!()
    }
    /// `bdrv_co_truncate`.
    pub async fn truncate(&self, to: Truncate) -> Result<()> {
        todo!()
    }

    /// The node whose driver has the vmstate area: this one, or its primary child's, recursively; `None` if there is none.
    pub fn vmstate_node(&self) -> Option<BlockNode> {
        todo!()
    }
    /// Limits of the vmstate area of [`BlockNode::vmstate_node`].
    pub fn vmstate_limits(&self) -> Option<VmstateLimits> {
        todo!()
    }
    /// One driver call, unbuffered, any position and length (`bdrv_co_save_vmstate` down to the driver): waits at the drain gate, raises the in-flight count.
    /// Not checked against the node's length; pos + len is.
    pub async fn save_vmstate_unbuffered(&self, at: VmstateOffset, src: IoVector) -> Result<()> {
        todo!()
    }
    /// One driver call (`bdrv_co_load_vmstate`).
    pub async fn load_vmstate_unbuffered(
        &self,
        at: VmstateOffset,
        dst: ReadVector,
    ) -> (ReadVector, Result<()>) {
        todo!()
    }
    /// The stored state's length where the driver knows it.
    pub async fn vmstate_length(&self) -> Result<Option<u64>> {
        todo!()
    }
    /// Tells the driver the true length (see [`BlockDriver::finish_vmstate`]); gated and counted like a write.
    pub async fn finish_vmstate(&self, len: u64) -> Result<()> {
        todo!()
    }

    /// Requests that have passed the gate and whose I/O is not over, those whose futures were dropped included.
    pub fn in_flight(&self) -> usize {
        todo!()
    }
    /// Returns when no request is in flight; new ones may start meanwhile and are waited for too.
    pub async fn settle(&self) -> Result<()> {
        todo!()
    }
    /// `bdrv_drained_begin`: no new request passes the gate; returns when none is in flight. Sections nest. The gate closes at the call, not at the first poll.
    pub fn drain_begin(&self) -> impl Future<Output = Result<Drained>> + 'static {
        async { todo!() }
    }
    /// True in a drained section.
    pub fn is_drained(&self) -> bool {
        todo!()
    }

    /// Takes permissions on the node for a parent or user called `who`; refused with [`Cause::Conflict`] where another holds or does not share them.
    pub fn attach(&self, who: impl Into<String>, permissions: Permissions) -> Result<BlockChild> {
        todo!()
    }

    /// State of a higher layer that lives with the node, one per type.
    pub fn extension<T: NodeExtension>(&self) -> Option<Rc<T>> {
        todo!()
    }
    /// Sets it; the one that was there before comes back.
    pub fn set_extension<T: NodeExtension>(&self, ext: Rc<T>) -> Option<Rc<T>> {
        todo!()
    }
    /// Takes it away.
    pub fn remove_extension<T: NodeExtension>(&self) -> Option<Rc<T>> {
        todo!()
    }

    /// `bdrv_close`: refuses new requests, asks extensions, waits for what is in flight, flushes, closes the driver. The first error is returned; all steps are taken.
    pub async fn close(&self) -> Result<()> {
        todo!()
    }
}

/// Something a higher layer keeps with a node (the buffered save).
pub trait NodeExtension: Any {
    /// Called when the node closes, before its driver does: what would be lost is an error of the close.
    fn on_close(&self) -> Result<()>;
}

/// A user's hold on a node: derefs to it, and takes its permissions back when dropped. QEMU's `BdrvChild`.
pub struct BlockChild {
    _todo: (),
}

impl BlockChild {
    /// The node.
    pub fn node(&self) -> &BlockNode {
        todo!()
    }
    /// What was taken.
    pub fn permissions(&self) -> Permissions {
        todo!()
    }
}

impl std::ops::Deref for BlockChild {
    type Target = BlockNode;
    fn deref(&self) -> &BlockNode {
        todo!()
    }
}

/// A drained section; dropping it ends the section (`bdrv_drained_end`).
#[must_use = "the section ends when this is dropped"]
pub struct Drained {
    _todo: (),
}
