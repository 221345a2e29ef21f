//! How a driver is written and checked: a filter that stores bytes XORed with a key.
//!
//! `cargo run -p block-core --example xor` runs the conformance suite on the right filter, and on one whose author did not know that a
//! truncate must add zeroes.

mod filter;
mod naive;

use aio_task::AioHandle;
use block_core::test_disk::conformance::{Conformance, Subject};
use block_core::test_disk::{TestDisk, TestDiskOptions};
use block_core::{BlockChild, BlockDriver, NodeBuilder, Permissions};
use filter::XorFilter;
use naive::NaiveXorFilter;

fn main() {
    let right = suite(|file| XorFilter::new(file, b"key")).run();
    println!("the filter:\n{right}\n");
    right.assert_clean();

    let naive = suite(|file| NaiveXorFilter(XorFilter::new(file, b"key"))).run();
    println!("the filter that passes the child's zeroes through:\n{naive}");
    assert!(!naive.findings.is_empty(), "the suite finds it");
}

/// The suite for one driver: how it is made on a new disk, and how it is opened on the bytes that an older one left.
fn suite<D: BlockDriver>(driver: fn(BlockChild) -> D) -> Conformance {
    let fresh = async move |handle: AioHandle| over_a_disk(&handle, None, driver).await;
    let reopen = async move |handle: AioHandle, disks: Vec<Vec<u8>>| {
        over_a_disk(&handle, disks.first(), driver).await
    };
    Conformance::new(fresh).reopen(reopen)
}

async fn over_a_disk<D: BlockDriver>(
    handle: &AioHandle,
    bytes: Option<&Vec<u8>>,
    driver: fn(BlockChild) -> D,
) -> Subject {
    let options = TestDiskOptions {
        grows: true,
        ..TestDiskOptions::default()
    };
    let (disk, control) = TestDisk::new(options);
    if let Some(bytes) = bytes {
        control.set_contents(bytes);
    }
    let node = NodeBuilder::new("disk").open(handle, disk).await;
    let node = node.expect("a node on a test disk");
    let child = node.attach("xor", Permissions::writer());
    let driver = driver(child.expect("the only user"));
    if bytes.is_none() {
        // A new disk of 256 KiB, made by the driver itself, so that it reads as zeroes.
        let to = block_core::Truncate {
            len: 256 << 10,
            exact: true,
            preallocation: block_core::Preallocation::Off,
        };
        driver.truncate(to).await.expect("a longer disk");
    }
    Subject::new(driver).over(control)
}
