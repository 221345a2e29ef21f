//! Counts the reads and writes that reach a driver, of its data and of its vmstate area.
use block_core::{
    BlockDriver, BlockLimits, BlockStatus, Children, DiskOffset, DynBlockDriver, IoVector,
    NewSnapshot, ReadVector, Result, SnapshotInfo, Truncate, VmstateLimits, VmstateOffset,
    WriteFlags, ZeroFlags,
};
use std::cell::Cell;
use std::rc::Rc;

/// What a driver was asked to move.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) data: Moved,
    pub(crate) state: Moved,
}

/// Requests of one kind, and their bytes.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) reads: Cell<u64>,
    pub(crate) read_bytes: Cell<u64>,
    pub(crate) writes: Cell<u64>,
    pub(crate) written_bytes: Cell<u64>,
}

impl Moved {
    fn read(&self, len: u64) {
        add(&self.reads, 1);
        add(&self.read_bytes, len);
    }

    fn write(&self, len: u64) {
        add(&self.writes, 1);
        add(&self.written_bytes, len);
    }
}

fn add(count: &Cell<u64>, n: u64) {
    count.set(count.get().saturating_add(n));
}

/// A driver, and what it was asked to move. What is asked of its views of snapshots counts too.
pub(crate) struct Counting {
    inner: Box<dyn DynBlockDriver>,
    counts: Rc<Counts>,
}

impl Counting {
    pub(crate) fn new(inner: impl BlockDriver, counts: &Rc<Counts>) -> Self {
        Self {
            inner: Box::new(inner),
            counts: counts.clone(),
        }
    }
}

impl BlockDriver for Counting {
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
        self.counts.data.read(dst.len());
        self.inner.preadv(at, dst).await
    }
    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        self.counts.data.write(src.len());
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
        self.counts.state.write(src.len());
        self.inner.save_vmstate(at, src).await
    }
    async fn load_vmstate(&self, at: VmstateOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        self.counts.state.read(dst.len());
        self.inner.load_vmstate(at, dst).await
    }
    async fn vmstate_length(&self) -> Result<Option<u64>> {
        self.inner.vmstate_length().await
    }
    async fn finish_vmstate(&self, len: u64) -> Result<()> {
        self.inner.finish_vmstate(len).await
    }
    async fn discard_vmstate(&self) -> Result<()> {
        self.inner.discard_vmstate().await
    }
    fn supports_snapshots(&self) -> bool {
        self.inner.supports_snapshots()
    }
    async fn snapshot_create(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        self.inner.snapshot_create(new).await
    }
    async fn snapshot_goto(&self, id_or_name: String) -> Result<()> {
        self.inner.snapshot_goto(id_or_name).await
    }
    async fn snapshot_delete(&self, id_or_name: String) -> Result<()> {
        self.inner.snapshot_delete(id_or_name).await
    }
    async fn snapshot_list(&self) -> Result<Vec<SnapshotInfo>> {
        self.inner.snapshot_list().await
    }
    async fn snapshot_load_tmp(&self, id_or_name: String) -> Result<Box<dyn DynBlockDriver>> {
        let inner = self.inner.snapshot_load_tmp(id_or_name).await?;
        let counts = self.counts.clone();
        Ok(Box::new(Self { inner, counts }))
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aio_task::AioHandle;
    use block_core::test_disk::conformance::{Conformance, Property, Subject};
    use block_core::test_disk::{TestDisk, TestDiskOptions};

    #[test]
    fn a_counted_driver_keeps_the_contract_of_drivers() {
        let make = |bytes: Option<&Vec<u8>>| {
            let (disk, control) = TestDisk::new(TestDiskOptions {
                len: 128 << 10,
                limits: BlockLimits {
                    request_alignment: 512,
                    memory_alignment: 512,
                    ..BlockLimits::default()
                },
                grows: true,
                supports_fua: true,
                ..TestDiskOptions::default()
            });
            if let Some(bytes) = bytes {
                control.set_contents(bytes);
            }
            Subject::new(Counting::new(disk, &Rc::default())).over(control)
        };
        let report = Conformance::new(async move |_: AioHandle| make(None))
            .reopen(async move |_: AioHandle, disks: Vec<Vec<u8>>| make(disks.first()))
            .run();
        report.assert_clean();
        let skipped: Vec<Property> = report
            .skipped
            .iter()
            .map(|(property, _)| *property)
            .collect();
        assert_eq!(skipped, [Property::ReadOnly], "{report}");
    }
}
