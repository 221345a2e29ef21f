//! An image on a test disk, and bytes of it that a test changes.

use aio_task::{AioContext, AioHandle};
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{BlockChild, BlockNode, DiskOffset, NodeBuilder, Permissions, Result, WriteFlags};
use block_drivers::qcow2::{
    BackingFile, CheckReport, CreateOptions, Qcow2Driver, Qcow2Options, check, create,
};

pub(crate) fn run<T>(test: impl AsyncFnOnce(&AioHandle) -> T) -> T {
    let context = AioContext::new().expect("a context");
    let handle = context.handle();
    context.block_on(test(&handle))
}

/// A file with these bytes, which grows.
pub(crate) async fn file(context: &AioHandle, bytes: &[u8]) -> (BlockChild, TestDiskControl) {
    let (disk, control) = TestDisk::new(TestDiskOptions {
        grows: true,
        ..TestDiskOptions::default()
    });
    control.set_contents(bytes);
    let node = NodeBuilder::new("file").open(context, disk).await;
    let node = node.expect("a node");
    let child = node.attach("the image", Permissions::writer());
    (child.expect("nothing else uses it"), control)
}

/// The bytes of a new image, with `qemu-img create`'s options.
pub(crate) async fn new_image(context: &AioHandle, pairs: &str) -> Vec<u8> {
    let (child, control) = file(context, &[]).await;
    let options = CreateOptions::from_pairs(pairs).expect("options");
    create(&child, None, &options).await.expect("created");
    control.contents()
}

/// The image in these bytes, open.
pub(crate) async fn open(context: &AioHandle, bytes: &[u8]) -> (BlockNode, TestDiskControl) {
    let (child, control) = file(context, bytes).await;
    (open_in(context, child, None).await, control)
}

/// The image in this file, open.
pub(crate) async fn open_in(
    context: &AioHandle,
    child: BlockChild,
    data_file: Option<BlockChild>,
) -> BlockNode {
    let options = Qcow2Options {
        backing: BackingFile::Ignore,
        data_file,
        ..Qcow2Options::default()
    };
    let driver = Qcow2Driver::open(child, options).await.expect("opened");
    let node = NodeBuilder::new("image").open(context, driver).await;
    node.expect("a node")
}

/// What a check says of the image in these bytes.
pub(crate) async fn checked(context: &AioHandle, bytes: &[u8]) -> CheckReport {
    let (child, _) = file(context, bytes).await;
    check(&child).await.expect("checked")
}

pub(crate) async fn write(node: &BlockNode, at: u64, bytes: &[u8]) -> Result<()> {
    node.pwrite(DiskOffset(at), bytes, WriteFlags::default())
        .await
}

pub(crate) async fn read(node: &BlockNode, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; len];
    let read = node.pread(DiskOffset(at), &mut bytes).await;
    read.expect("read");
    bytes
}

/// A big-endian number of the image.
pub(crate) fn be64(image: &[u8], at: u64) -> u64 {
    let at = at as usize;
    u64::from_be_bytes(image[at..at + 8].try_into().expect("8 bytes"))
}

pub(crate) fn put(image: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let end = at as usize + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[at as usize..end].copy_from_slice(bytes);
}

/// Where the L1 table is.
pub(crate) fn l1_at(image: &[u8]) -> u64 {
    be64(image, 40)
}

/// Where the first L2 table is.
pub(crate) fn first_l2_at(image: &[u8]) -> u64 {
    be64(image, l1_at(image)) & 0x00ff_ffff_ffff_fe00
}

/// Where the first refcount block is.
pub(crate) fn first_block_at(image: &[u8]) -> u64 {
    be64(image, be64(image, 48))
}
