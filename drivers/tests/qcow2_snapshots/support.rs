//! An image on a test disk, and what all tests do with it.

use aio_task::{AioContext, AioHandle};
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{
    BlockChild, BlockNode, Cause, DiskOffset, IoBuf, IoVector, NewSnapshot, NodeBuilder,
    Permissions, ReadVector, Result, SnapshotInfo, VmstateOffset, WriteFlags,
};
use block_drivers::qcow2::{
    CheckReport, CreateOptions, Qcow2Driver, Qcow2Error, Qcow2Options, check, create,
};

/// Where everything runs.
pub(crate) struct Bench {
    context: AioContext,
}

/// An open image. Its file is a test disk.
pub(crate) struct Image {
    pub(crate) node: BlockNode,
    pub(crate) control: TestDiskControl,
}

/// A few slices of tables in memory, which is the least that the driver keeps.
pub(crate) fn smallest_caches() -> Qcow2Options {
    Qcow2Options {
        l2_cache: 1,
        refcount_cache: 1,
        ..Qcow2Options::default()
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            context: AioContext::new().expect("a context"),
        }
    }

    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        self.context.block_on(future)
    }

    /// Runs everything that can run.
    pub(crate) fn go_on(&self) {
        self.context.by_hand().run_until_stalled();
    }

    pub(crate) fn handle(&self) -> AioHandle {
        self.context.handle()
    }

    /// A file with these bytes, which grows.
    pub(crate) async fn file(&self, bytes: &[u8]) -> (BlockChild, TestDiskControl) {
        let (disk, control) = TestDisk::new(TestDiskOptions {
            grows: true,
            ..TestDiskOptions::default()
        });
        control.set_contents(bytes);
        let node = NodeBuilder::new("file").open(&self.handle(), disk).await;
        let node = node.expect("a node");
        let child = node.attach("the image", Permissions::writer());
        (child.expect("nothing else uses it"), control)
    }

    /// The bytes of a new image, with `qemu-img create`'s options.
    pub(crate) async fn create(&self, pairs: &str) -> Vec<u8> {
        let (child, control) = self.file(&[]).await;
        let options = CreateOptions::from_pairs(pairs).expect("options");
        create(&child, None, &options).await.expect("created");
        control.contents()
    }

    pub(crate) async fn open(&self, bytes: &[u8]) -> Image {
        self.open_with(bytes, Qcow2Options::default()).await
    }

    /// Opens the image with the smallest caches, so that much has to be written and read again.
    pub(crate) async fn open_small(&self, bytes: &[u8]) -> Image {
        self.open_with(bytes, smallest_caches()).await
    }

    pub(crate) async fn open_with(&self, bytes: &[u8], options: Qcow2Options) -> Image {
        let (child, control) = self.file(bytes).await;
        let driver = Qcow2Driver::open(child, options).await.expect("opened");
        let node = NodeBuilder::new("image").open(&self.handle(), driver).await;
        Image {
            node: node.expect("a node"),
            control,
        }
    }

    /// A new image, open.
    pub(crate) async fn image(&self, pairs: &str) -> Image {
        let bytes = self.create(pairs).await;
        self.open(&bytes).await
    }
}

impl Image {
    pub(crate) async fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.node
            .pwrite(DiskOffset(at), bytes, WriteFlags::default())
            .await
    }

    pub(crate) async fn save(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.node
            .save_vmstate_unbuffered(VmstateOffset(at), vector(bytes))
            .await
    }

    /// A whole state, finished.
    pub(crate) async fn save_state(&self, state: &[u8]) -> Result<()> {
        for (number, piece) in state.chunks(1 << 20).enumerate() {
            self.save((number as u64) << 20, piece).await?;
        }
        self.node.finish_vmstate(state.len() as u64).await
    }

    pub(crate) async fn snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        self.node.snapshot_create(NewSnapshot::new(name)).await
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        let list = self.node.snapshot_list().await.expect("a list");
        list.into_iter().map(|info| info.name).collect()
    }

    pub(crate) async fn disk(&self) -> Vec<u8> {
        all(&self.node).await.expect("read")
    }

    /// Closes the image: the bytes of its file.
    pub(crate) async fn close(self) -> Vec<u8> {
        self.node.close().await.expect("closed");
        self.control.contents()
    }
}

/// The whole disk.
pub(crate) async fn all(node: &BlockNode) -> Result<Vec<u8>> {
    let mut bytes = vec![0xEE; node.length().await? as usize];
    node.pread(DiskOffset(0), &mut bytes).await?;
    Ok(bytes)
}

/// `len` bytes of the vmstate area.
pub(crate) async fn state(node: &BlockNode, at: u64, len: usize) -> Result<Vec<u8>> {
    let (dst, result) = node
        .load_vmstate_unbuffered(VmstateOffset(at), room(len))
        .await;
    result.map(|()| dst.to_vec())
}

/// What the disk and the state of a snapshot are.
pub(crate) async fn snapshot_bytes(
    node: &BlockNode,
    id_or_name: &str,
) -> Result<(Vec<u8>, Vec<u8>)> {
    let view = node.snapshot_load_tmp(id_or_name).await?;
    let disk = all(&view).await?;
    let len = view.vmstate_length().await?.expect("a view knows it");
    let state = state(&view, 0, len as usize).await?;
    view.close().await?;
    Ok((disk, state))
}

pub(crate) fn vector(bytes: &[u8]) -> IoVector {
    IoVector::copy_of(bytes, 4096).expect("memory")
}

pub(crate) fn room(len: usize) -> ReadVector {
    ReadVector::from(IoBuf::copy_of(&vec![0xEE; len], 4096).expect("memory"))
}

/// Bytes that depend on `seed`.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8))
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    bytes.truncate(len);
    bytes
}

/// Numbers that are the same in each run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

impl Bench {
    /// What our check says of an image with these bytes.
    pub(crate) async fn check(&self, bytes: &[u8]) -> CheckReport {
        let (child, _control) = self.file(bytes).await;
        check(&child).await.expect("checked")
    }

    /// Nothing is wrong with an image of these bytes, and nothing is leaked.
    pub(crate) async fn is_clean(&self, bytes: &[u8]) {
        let report = self.check(bytes).await;
        assert!(report.is_clean(), "{report:?}");
    }
}

pub(crate) fn cause<T>(result: Result<T>) -> Cause {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.cause,
    }
}

/// The driver's own error in a cause.
pub(crate) fn qcow2_error(cause: &Cause) -> Option<&Qcow2Error> {
    match cause {
        Cause::Driver(error) | Cause::Corrupt(error) | Cause::Busy(error) => error.downcast_ref(),
        _ => None,
    }
}

/// Whether a snapshot was refused because the state is not finished.
pub(crate) fn is_unfinished(cause: &Cause) -> bool {
    matches!(qcow2_error(cause), Some(Qcow2Error::StateUnfinished))
}
