//! Drivers without a twist: the test disk itself, and one that passes everything to its child.

use aio_task::AioHandle;
use block_core::test_disk::conformance::{Conformance, Property, Subject};
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{
    BlockChild, BlockDriver, BlockLimits, Children, DiskOffset, IoVector, NodeBuilder, Permissions,
    RangeLimits, ReadVector, Result, Truncate, WriteFlags, ZeroFlags,
};
use std::num::{NonZeroU32, NonZeroU64};

const LEN: u64 = (128 << 10) + 200;

fn disk(alignment: u32, grows: bool, bytes: Option<&Vec<u8>>) -> (TestDisk, TestDiskControl) {
    let range = RangeLimits {
        alignment: alignment * 2,
        max: NonZeroU64::new(u64::from(alignment) * 64),
    };
    let (disk, control) = TestDisk::new(TestDiskOptions {
        len: LEN,
        limits: BlockLimits {
            request_alignment: alignment,
            memory_alignment: alignment,
            transfer_alignment: alignment,
            max_transfer: NonZeroU64::new(u64::from(alignment) * 64),
            max_iov: NonZeroU32::new(2).expect("two"),
            write_zeroes: range,
            discard: range,
            ..BlockLimits::default()
        },
        grows,
        supports_fua: true,
        ..TestDiskOptions::default()
    });
    if let Some(bytes) = bytes {
        control.set_contents(bytes);
    }
    (disk, control)
}

#[test]
fn the_test_disk_itself_keeps_the_contract() {
    for (alignment, grows) in [(16, true), (512, false), (4096, true)] {
        let make = move |bytes: Option<&Vec<u8>>| {
            let (disk, control) = disk(alignment, grows, bytes);
            Subject::new(disk).over(control)
        };
        let report = Conformance::new(async move |_: AioHandle| make(None))
            .reopen(async move |_: AioHandle, disks: Vec<Vec<u8>>| make(disks.first()))
            .run();
        report.assert_clean();
        let growth = [Property::Gaps, Property::GrowthInFlight];
        let unchecked = growth.into_iter().filter(|_| !grows);
        let unchecked: Vec<Property> = unchecked.chain([Property::ReadOnly]).collect();
        let skipped: Vec<Property> = report
            .skipped
            .iter()
            .map(|(property, _)| *property)
            .collect();
        assert_eq!(skipped, unchecked, "{report}");
    }
}

/// Passes everything to its child, whose node does the alignment.
struct Through {
    file: BlockChild,
    grows: bool,
}

impl BlockDriver for Through {
    fn format_name(&self) -> &'static str {
        "through"
    }
    fn limits(&self) -> BlockLimits {
        BlockLimits::default()
    }
    fn children(&self) -> Children<'_> {
        Children {
            file: Some(&self.file),
            backing: None,
        }
    }
    fn supports_fua(&self) -> bool {
        true
    }
    fn grows(&self) -> bool {
        self.grows
    }
    async fn length(&self) -> Result<u64> {
        self.file.length().await
    }
    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        self.file.preadv(at, dst).await
    }
    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        self.file.pwritev(at, src, flags).await
    }
    async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        self.file.pwrite_zeroes(at, len, flags).await
    }
    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        self.file.pdiscard(at, len).await
    }
    async fn flush(&self) -> Result<()> {
        self.file.flush().await
    }
    async fn truncate(&self, to: Truncate) -> Result<()> {
        self.file.truncate(to).await
    }
    async fn close(&self) -> Result<()> {
        self.file.release().await
    }
}

/// The node's own padding, splitting and bouncing are below the filter here, so this holds the node to the contract, too.
#[test]
fn a_filter_that_passes_everything_through_keeps_the_contract() {
    for (alignment, grows) in [(1, true), (16, false), (512, true), (4096, true)] {
        let make = async move |handle: AioHandle, bytes: Option<Vec<u8>>| {
            let (disk, control) = disk(alignment, grows, bytes.as_ref());
            let node = NodeBuilder::new("disk").open(&handle, disk).await;
            let file = node
                .expect("a node")
                .attach("through", Permissions::writer());
            let file = file.expect("the only user");
            Subject::new(Through { file, grows }).over(control)
        };
        let report = Conformance::new(async move |handle: AioHandle| make(handle, None).await)
            .reopen(async move |handle: AioHandle, disks: Vec<Vec<u8>>| {
                make(handle, disks.into_iter().next()).await
            })
            .run();
        report.assert_clean();
        assert_eq!(report.has_checked(Property::GrowthInFlight), grows);
    }
}
