//! Every driver of this crate under the conformance suite of block-core, and qcow2 over the XOR filter of its examples.

mod files;
#[path = "../../../block-core/examples/xor/filter.rs"]
mod filter;
mod formats;
mod over_xor;

use aio_task::AioHandle;
use block_core::test_disk::conformance::{Property, Report};
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{BlockChild, BlockDriver, BlockLimits, NodeBuilder, Permissions};

/// Fails with all findings, and if a property was not checked that is not one of `unchecked`.
#[track_caller]
fn assert_conforms(report: &Report, unchecked: &[Property]) {
    report.assert_clean();
    let skipped: Vec<Property> = report
        .skipped
        .iter()
        .map(|(property, _)| *property)
        .collect();
    assert_eq!(skipped, unchecked, "{report}");
}

/// The only user's hold on a test disk that grows, with these bytes.
async fn disk(handle: &AioHandle, alignment: u32, bytes: &[u8]) -> (BlockChild, TestDiskControl) {
    let (disk, control) = TestDisk::new(TestDiskOptions {
        limits: BlockLimits {
            request_alignment: alignment,
            memory_alignment: alignment,
            transfer_alignment: alignment,
            ..BlockLimits::default()
        },
        grows: true,
        ..TestDiskOptions::default()
    });
    control.set_contents(bytes);
    let node = NodeBuilder::new("disk").open(handle, disk).await;
    (attach(node.expect("a node")), control)
}

fn attach(node: block_core::BlockNode) -> BlockChild {
    let child = node.attach("the driver", Permissions::writer());
    child.expect("the only user")
}

/// The only user's hold on a node of its own for `driver`.
async fn child(handle: &AioHandle, driver: impl BlockDriver) -> BlockChild {
    let node = NodeBuilder::new("below").open(handle, driver).await;
    attach(node.expect("a node"))
}
