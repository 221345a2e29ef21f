//! The XOR filter of the examples keeps the contract; the form that passes the child's zeroes through is found.

use crate::filter::XorFilter;
use crate::naive::NaiveXorFilter;
use aio_task::AioHandle;
use block_core::test_disk::conformance::{Conformance, Property, Report, Subject};
use block_core::test_disk::{TestDisk, TestDiskOptions};
use block_core::{
    BlockChild, BlockDriver, BlockLimits, NodeBuilder, Permissions, Preallocation, Truncate,
};

const KEY: &[u8] = b"a key of 23 bytes, none";

/// The suite for a filter over a disk with this request alignment.
fn suite<D: BlockDriver>(alignment: u32, driver: fn(BlockChild) -> D) -> Conformance {
    Conformance::new(async move |handle: AioHandle| subject(&handle, alignment, None, driver).await)
        .reopen(async move |handle: AioHandle, disks: Vec<Vec<u8>>| {
            subject(&handle, alignment, disks.first(), driver).await
        })
}

async fn subject<D: BlockDriver>(
    handle: &AioHandle,
    alignment: u32,
    bytes: Option<&Vec<u8>>,
    driver: fn(BlockChild) -> D,
) -> Subject {
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
    if let Some(bytes) = bytes {
        control.set_contents(bytes);
    }
    let node = NodeBuilder::new("disk").open(handle, disk).await;
    let child = node.expect("a node").attach("xor", Permissions::writer());
    let driver = driver(child.expect("the only user"));
    if bytes.is_none() {
        let to = Truncate {
            len: 100_000,
            exact: true,
            preallocation: Preallocation::Off,
        };
        driver.truncate(to).await.expect("a longer disk");
    }
    Subject::new(driver).over(control)
}

#[test]
fn the_xor_filter_keeps_the_contract_over_disks_of_bytes_and_of_blocks() {
    for (alignment, seed) in [(1, 1), (1, 2), (512, 3), (4096, 4)] {
        let suite = suite(alignment, |file| XorFilter::new(file, KEY));
        let report = suite.seed(seed).run();
        report.assert_clean();
        for property in [Property::Gaps, Property::GrowthInFlight, Property::Dropped] {
            assert!(report.has_checked(property), "{report}");
        }
    }
}

#[test]
fn an_xor_filter_that_passes_the_childs_zeroes_through_is_found_by_growth_and_gaps() {
    let report: Report = suite(1, |file| NaiveXorFilter(XorFilter::new(file, KEY))).run();
    let found: Vec<Property> = report
        .findings
        .iter()
        .map(|finding| finding.property)
        .collect();
    for property in [Property::Growth, Property::Shrinking, Property::Gaps] {
        assert!(found.contains(&property), "{report}");
    }
    let gap = report
        .findings
        .iter()
        .find(|finding| finding.property == Property::Gaps);
    let sentence = &gap.expect("found above").sentence;
    assert!(
        sentence.contains("past the end left bytes other than zero at"),
        "{sentence}"
    );
}
