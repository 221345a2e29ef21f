//! What a user of a node may ask without a permission: reads, and the node's facts.

use super::BlockChild;
use crate::{
    BlockLimits, BlockNode, BlockStatus, CacheMode, DiskOffset, ReadVector, Result, SnapshotInfo,
    VmstateLimits, VmstateOffset,
};
use aio_task::AioHandle;

impl BlockChild {
    /// [`BlockNode::name`].
    pub fn name(&self) -> &str {
        self.node().name()
    }

    /// [`BlockNode::format_name`].
    pub fn format_name(&self) -> &'static str {
        self.node().format_name()
    }

    /// [`BlockNode::handle`].
    pub fn handle(&self) -> &AioHandle {
        self.node().handle()
    }

    /// [`BlockNode::limits`].
    pub fn limits(&self) -> &BlockLimits {
        self.node().limits()
    }

    /// [`BlockNode::cache`].
    pub fn cache(&self) -> CacheMode {
        self.node().cache()
    }

    /// [`BlockNode::is_read_only`].
    pub fn is_read_only(&self) -> bool {
        self.node().is_read_only()
    }

    /// [`BlockNode::grows`].
    pub fn grows(&self) -> bool {
        self.node().grows()
    }

    /// [`BlockNode::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.node().is_closed()
    }

    /// [`BlockNode::length`].
    pub async fn length(&self) -> Result<u64> {
        self.node().length().await
    }

    /// [`BlockNode::preadv`].
    pub async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        self.node().preadv(at, dst).await
    }

    /// [`BlockNode::pread`].
    pub async fn pread(&self, at: DiskOffset, dst: &mut [u8]) -> Result<()> {
        self.node().pread(at, dst).await
    }

    /// [`BlockNode::flush`].
    pub async fn flush(&self) -> Result<()> {
        self.node().flush().await
    }

    /// [`BlockNode::block_status`].
    pub async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        self.node().block_status(at, len).await
    }

    /// [`BlockNode::vmstate_node`].
    pub fn vmstate_node(&self) -> Option<BlockNode> {
        self.node().vmstate_node()
    }

    /// [`BlockNode::vmstate_limits`].
    pub fn vmstate_limits(&self) -> Option<VmstateLimits> {
        self.node().vmstate_limits()
    }

    /// [`BlockNode::load_vmstate_unbuffered`].
    pub async fn load_vmstate_unbuffered(
        &self,
        at: VmstateOffset,
        dst: ReadVector,
    ) -> (ReadVector, Result<()>) {
        self.node().load_vmstate_unbuffered(at, dst).await
    }

    /// [`BlockNode::vmstate_length`].
    pub async fn vmstate_length(&self) -> Result<Option<u64>> {
        self.node().vmstate_length().await
    }

    /// [`BlockNode::snapshot_list`].
    pub async fn snapshot_list(&self) -> Result<Vec<SnapshotInfo>> {
        self.node().snapshot_list().await
    }
}
