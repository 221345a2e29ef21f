//! Counts the reads and writes that reach a driver.
use block_core::{
    BlockDriver, BlockLimits, BlockStatus, Children, DiskOffset, IoVector, ReadVector, Result,
    Truncate, VmstateLimits, VmstateOffset, WriteFlags, ZeroFlags,
};
use std::cell::Cell;
use std::rc::Rc;

/// What a driver was asked to move.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) reads: Cell<u64>,
    pub(crate) read_bytes: Cell<u64>,
    pub(crate) writes: Cell<u64>,
    pub(crate) written_bytes: Cell<u64>,
}

/// A driver, and what it was asked to move.
pub(crate) struct Counting<D> {
    pub(crate) inner: D,
    pub(crate) counts: Rc<Counts>,
}

fn add(count: &Cell<u64>, n: u64) {
    count.set(count.get().saturating_add(n));
}

impl<D: BlockDriver> BlockDriver for Counting<D> {
    fn format_name(&self) -> &'static str {
        self.inner.format_name()
    }
    fn limits(&self) -> BlockLimits {
        self.inner.limits()
    }
    fn children(&self) -> Children<'_> {
        self.inner.children()
    }
    fn supports_fua(&self) -> bool {
        self.inner.supports_fua()
    }
    fn grows(&self) -> bool {
        self.inner.grows()
    }
    async fn length(&self) -> Result<u64> {
        self.inner.length().await
    }
    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        add(&self.counts.reads, 1);
        add(&self.counts.read_bytes, dst.len());
        self.inner.preadv(at, dst).await
    }
    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        add(&self.counts.writes, 1);
        add(&self.counts.written_bytes, src.len());
        self.inner.pwritev(at, src, flags).await
    }
    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }
    async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        self.inner.pwrite_zeroes(at, len, flags).await
    }
    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        self.inner.pdiscard(at, len).await
    }
    async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        self.inner.block_status(at, len).await
    }
    async fn truncate(&self, to: Truncate) -> Result<()> {
        self.inner.truncate(to).await
    }
    fn vmstate(&self) -> Option<VmstateLimits> {
        self.inner.vmstate()
    }
    async fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> Result<()> {
        self.inner.save_vmstate(at, src).await
    }
    async fn load_vmstate(&self, at: VmstateOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        self.inner.load_vmstate(at, dst).await
    }
    async fn vmstate_length(&self) -> Result<Option<u64>> {
        self.inner.vmstate_length().await
    }
    async fn finish_vmstate(&self, len: u64) -> Result<()> {
        self.inner.finish_vmstate(len).await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
