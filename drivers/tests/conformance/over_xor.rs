//! qcow2 over the XOR filter: an image whose file stores nothing as it is read.

use crate::filter::XorFilter;
use crate::{child, disk};
use aio_task::AioContext;
use block_core::test_disk::TestDiskControl;
use block_core::{BlockChild, BlockNode, DiskOffset, NodeBuilder, Preallocation, Truncate};
use block_core::{WriteFlags, ZeroFlags};
use block_drivers::qcow2::{CreateOptions, Qcow2Driver, Qcow2Options, create};

const LEN: u64 = 4 << 20;

/// A filter over a disk with these bytes.
async fn filtered(context: &AioContext, bytes: &[u8]) -> (BlockChild, TestDiskControl) {
    let handle = context.handle();
    let (file, control) = disk(&handle, 512, bytes).await;
    (
        child(&handle, XorFilter::new(file, b"key of the filter")).await,
        control,
    )
}

async fn image(context: &AioContext, file: BlockChild) -> BlockNode {
    let driver = Qcow2Driver::open(file, Qcow2Options::default()).await;
    let driver = driver.expect("an image");
    let handle = context.handle();
    let node = NodeBuilder::new("qcow2").open(&handle, driver).await;
    node.expect("a node")
}

#[test]
fn an_image_on_the_xor_filter_reads_back_and_checks_clean() {
    let context = AioContext::new().expect("a context");
    let mut expected = vec![0; LEN as usize];
    let mut stored = Vec::new();
    for round in 0..4_u64 {
        let (file, disk) = context.block_on(filtered(&context, &stored));
        context.block_on(async {
            if round == 0 {
                let options = CreateOptions {
                    size: Some(LEN),
                    cluster_size: 4096,
                    ..CreateOptions::default()
                };
                create(&file, None, &options).await.expect("create");
            }
            let report = block_drivers::qcow2::check(&file).await.expect("a check");
            assert!(report.findings.is_empty(), "round {round}: {report:?}");
            let node = image(&context, file).await;
            let mut found = vec![0; expected.len()];
            node.pread(DiskOffset(0), &mut found).await.expect("read");
            assert!(found == expected, "round {round}");
            // Far apart, so that the file grows by tables and by clusters.
            for i in 0..40_u64 {
                let at = (i * 97_003 + round * 31_337) % (LEN - 9000);
                let bytes = vec![(i + round * 40 + 1) as u8; 1 + (i * 211 % 9000) as usize];
                let written = node.pwrite(DiskOffset(at), &bytes, WriteFlags::default());
                written.await.expect("write");
                expected[at as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            let zeroed = node.pwrite_zeroes(DiskOffset(1 << 20), 100_000, ZeroFlags::default());
            zeroed.await.expect("zeroes");
            expected[1 << 20..][..100_000].fill(0);
            let to = Truncate {
                len: expected.len() as u64 + 300_032,
                exact: true,
                preallocation: Preallocation::Off,
            };
            node.truncate(to).await.expect("a longer disk");
            expected.resize(to.len as usize, 0);
            node.close().await.expect("close");
        });
        stored = disk.contents();
    }
    let magic = b"QFI\xfb";
    assert_ne!(
        stored[..4],
        magic[..],
        "stored in another form than it is read"
    );
}

#[test]
fn an_unfiltered_reader_of_the_same_bytes_finds_no_image() {
    let context = AioContext::new().expect("a context");
    let (file, disk) = context.block_on(filtered(&context, &[]));
    context.block_on(async {
        let options = CreateOptions {
            size: Some(LEN),
            ..CreateOptions::default()
        };
        create(&file, None, &options).await.expect("create");
    });
    let (bare, _) = context.block_on(crate::disk(&context.handle(), 512, &disk.contents()));
    let opened = context.block_on(Qcow2Driver::open(bare, Qcow2Options::default()));
    assert!(opened.is_err(), "the file holds the filtered form");
}
