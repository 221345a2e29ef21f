//! An image on a disk in memory whose calls can be held, failed and lost, in a context that the test steps by hand.

use crate::walker::{Findings, Walker};
use aio_task::{AioContext, JoinHandle, WorkerPool};
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{
    BlockChild, BlockLimits, BlockNode, DiskOffset, IoVector, NodeBuilder, Permissions, Perms,
    Preallocation, Result, Truncate, WriteFlags, ZeroFlags,
};
use block_drivers::qcow2::{
    Backing, BackingFile, CreateOptions, DataFile, Qcow2Compressor, Qcow2Driver, Qcow2Options,
    create,
};
use std::cell::RefCell;
use std::rc::Rc;

/// What an image is made and opened with.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub options: CreateOptions,
    /// The backing file's bytes.
    pub backing: Option<Vec<u8>>,
    pub raw_data_file: bool,
    pub data_file: bool,
    /// Block size of the disks.
    pub alignment: u32,
    pub l2_cache: u64,
    pub refcount_cache: u64,
    /// Where clusters are compressed.
    pub workers: Option<WorkerPool>,
}

/// A disk's node, and its knobs.
type Disk = (BlockNode, TestDiskControl);

/// A context, the disks, and the image's node. The image may be closed and opened again.
pub struct Rig {
    pub context: AioContext,
    pub setup: Setup,
    pub file: BlockNode,
    /// The image file.
    pub disk: TestDiskControl,
    data: Option<Disk>,
    backing: Option<Disk>,
    /// `None` while the image is closed.
    pub node: Option<BlockNode>,
    /// Of the node that was opened last.
    pub compressor: Option<Qcow2Compressor>,
    /// They keep the disks' nodes open while the image is not.
    _keepers: Vec<BlockChild>,
}

impl Rig {
    /// Creates the image, and opens it.
    pub fn new(mut setup: Setup) -> Self {
        let context = AioContext::new().expect("a context");
        let (file, disk) = growing(&context, "file", &setup, &[]);
        let backing = setup.backing.clone().map(|bytes| {
            setup.options.backing = Some(Backing {
                file: "backing".into(),
                format: "raw".into(),
            });
            fixed(&context, "backing", &setup, &bytes)
        });
        let data = setup.data_file.then(|| {
            setup.options.data_file = Some(DataFile {
                file: "data".into(),
                raw: setup.raw_data_file,
            });
            growing(&context, "data", &setup, &[])
        });
        let rig = Self::around(context, setup, (file, disk), data, backing);
        rig.create();
        rig.opened()
    }

    /// Opens an image that is there already.
    pub fn on(setup: Setup, image: &[u8], data: Option<&[u8]>) -> Self {
        let context = AioContext::new().expect("a context");
        let (file, disk) = growing(&context, "file", &setup, image);
        let backing = setup.backing.as_ref();
        let backing = backing.map(|bytes| fixed(&context, "backing", &setup, bytes));
        let data = data.map(|bytes| growing(&context, "data", &setup, bytes));
        Self::around(context, setup, (file, disk), data, backing).opened()
    }

    fn around(
        context: AioContext,
        setup: Setup,
        (file, disk): Disk,
        data: Option<Disk>,
        backing: Option<Disk>,
    ) -> Self {
        let nothing = Permissions {
            perm: Perms::NONE,
            shared: Perms::ALL,
        };
        let more = [&data, &backing].into_iter().flatten();
        let nodes = std::iter::once(&file).chain(more.map(|(node, _)| node));
        let keepers = nodes.map(|node| attach(node, nothing)).collect();
        Self {
            context,
            setup,
            file,
            disk,
            data,
            backing,
            node: None,
            compressor: None,
            _keepers: keepers,
        }
    }

    fn create(&self) {
        let child = attach(&self.file, Permissions::writer());
        let data = self.data.as_ref();
        let data = data.map(|(node, _)| attach(node, Permissions::writer()));
        let created = create(&child, data.as_ref(), &self.setup.options);
        self.run(created).expect("create");
    }

    fn opened(mut self) -> Self {
        self.open();
        self
    }

    /// Opens the image, which is closed.
    pub fn open(&mut self) {
        let options = Qcow2Options {
            backing: match &self.backing {
                Some((node, _)) => BackingFile::Open(attach(node, Permissions::reader())),
                None => BackingFile::Deny,
            },
            data_file: self
                .data
                .as_ref()
                .map(|(node, _)| attach(node, Permissions::writer())),
            l2_cache: self.setup.l2_cache,
            refcount_cache: self.setup.refcount_cache,
            workers: self.setup.workers.clone(),
            ..Qcow2Options::default()
        };
        let child = attach(&self.file, Permissions::writer());
        let driver = self.run(Qcow2Driver::open(child, options)).expect("open");
        self.compressor = Some(driver.compressor());
        let handle = self.context.handle();
        let node = NodeBuilder::new("qcow2").open(&handle, driver);
        self.node = Some(self.run(node).expect("a node"));
    }

    pub fn node(&self) -> BlockNode {
        self.node.clone().expect("the image is open")
    }

    /// Closes the image; the file stays.
    pub fn close(&mut self) -> Result<()> {
        let node = self.node.take().expect("the image is open");
        self.run(node.close())
    }

    /// Closes the image, opens the file's node again where that closed it, and checks what is on the disk: nothing may be wrong.
    #[track_caller]
    pub fn close_and_check(mut self) -> Vec<u8> {
        self.close().expect("close");
        let findings = self.check();
        findings.assert_clean("closed");
        self.stored()
    }

    /// The image file's and the data file's bytes.
    pub fn files(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let data = self.data.as_ref().map(|(_, disk)| disk.contents());
        (self.disk.contents(), data)
    }

    pub fn check(&self) -> Findings {
        let (image, data) = self.files();
        Walker::new(&image, data.as_deref()).check()
    }

    /// The guest's disk as it is in the files.
    pub fn stored(&self) -> Vec<u8> {
        let (image, data) = self.files();
        let backing = self.setup.backing.as_deref().unwrap_or_default();
        Walker::new(&image, data.as_deref()).read(backing)
    }

    /// Runs what needs no release to its end.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        self.context.block_on(future)
    }

    /// Starts a request and runs everything as far as it goes without a release.
    pub fn start<T: 'static>(
        &self,
        request: impl AsyncFnOnce(BlockNode) -> T + 'static,
    ) -> Started<T> {
        let node = self.node();
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        let task = self.context.handle().spawn(async move {
            let value = request(node).await;
            *slot.borrow_mut() = Some(value);
        });
        self.go_on();
        Started {
            result,
            _task: task,
        }
    }

    pub fn start_write(&self, at: u64, bytes: &[u8]) -> Started<Result<()>> {
        let bytes = bytes.to_vec();
        self.start(async move |node| {
            node.pwrite(DiskOffset(at), &bytes, WriteFlags::default())
                .await
        })
    }

    pub fn start_read(&self, at: u64, len: u64) -> Started<Result<Vec<u8>>> {
        self.start(async move |node| {
            let mut dst = vec![0xee; len as usize];
            node.pread(DiskOffset(at), &mut dst).await.map(|()| dst)
        })
    }

    pub fn start_zeroes(&self, at: u64, len: u64, may_unmap: bool) -> Started<Result<()>> {
        let flags = ZeroFlags {
            may_unmap,
            ..ZeroFlags::default()
        };
        self.start(async move |node| node.pwrite_zeroes(DiskOffset(at), len, flags).await)
    }

    /// Writes whole clusters, compressed.
    pub fn start_compressed(&self, at: u64, bytes: &[u8]) -> Started<Result<()>> {
        let compressor = self.compressor.clone().expect("the image is open");
        let src = IoVector::copy_of(bytes, 512).expect("memory");
        self.start(async move |_| compressor.write(DiskOffset(at), src).await)
    }

    pub fn start_discard(&self, at: u64, len: u64) -> Started<Result<()>> {
        self.start(async move |node| node.pdiscard(DiskOffset(at), len).await)
    }

    pub fn start_flush(&self) -> Started<Result<()>> {
        self.start(async move |node| node.flush().await)
    }

    pub fn start_truncate(&self, to: Truncate) -> Started<Result<()>> {
        self.start(async move |node| node.truncate(to).await)
    }

    #[track_caller]
    pub fn write(&self, at: u64, bytes: &[u8]) {
        let node = self.node();
        let written = node.pwrite(DiskOffset(at), bytes, WriteFlags::default());
        self.run(written).expect("write");
    }

    #[track_caller]
    pub fn read(&self, at: u64, len: u64) -> Vec<u8> {
        let mut dst = vec![0xee; len as usize];
        let node = self.node();
        self.run(node.pread(DiskOffset(at), &mut dst))
            .expect("read");
        dst
    }

    #[track_caller]
    pub fn flush(&self) {
        self.run(self.node().flush()).expect("flush");
    }

    #[track_caller]
    pub fn discard(&self, at: u64, len: u64) {
        let discarded = self.run(self.node().pdiscard(DiskOffset(at), len));
        discarded.expect("discard");
    }

    #[track_caller]
    pub fn zero(&self, at: u64, len: u64) {
        let node = self.node();
        let zeroed = node.pwrite_zeroes(DiskOffset(at), len, ZeroFlags::default());
        self.run(zeroed).expect("zeroes");
    }

    /// Runs everything that can run.
    pub fn go_on(&self) {
        self.context.by_hand().run_until_stalled();
    }

    /// The disks whose calls may be held: image, data and backing file.
    pub fn disks(&self) -> Vec<TestDiskControl> {
        let more = [&self.data, &self.backing];
        let more = more.into_iter().flatten().map(|(_, disk)| disk.clone());
        std::iter::once(self.disk.clone()).chain(more).collect()
    }

    pub fn hold_all(&self) {
        self.disks().iter().for_each(TestDiskControl::hold_all);
    }

    /// Nothing waits any more.
    pub fn let_all_go(&self) {
        self.disks().iter().for_each(TestDiskControl::stop_holding);
        while self
            .disks()
            .iter()
            .map(TestDiskControl::release_all)
            .sum::<usize>()
            > 0
        {
            self.go_on();
        }
        self.go_on();
    }

    /// Releases one held call, whichever `pick` (any number) says; false if none is held.
    pub fn release_any(&self, pick: u64) -> bool {
        let disks = self.disks();
        let held = disks.iter().flat_map(|disk| {
            let held = disk.held();
            held.into_iter().map(move |record| (disk, record.id))
        });
        let held: Vec<_> = held.collect();
        let Some((disk, id)) = held.get(pick as usize % held.len().max(1)) else {
            return false;
        };
        disk.release(*id);
        self.go_on();
        true
    }
}

/// A request that was started.
pub struct Started<T> {
    result: Rc<RefCell<Option<T>>>,
    _task: JoinHandle<()>,
}

impl<T> Started<T> {
    /// The result, if it is there.
    pub fn result(&self) -> Option<T> {
        self.result.borrow_mut().take()
    }

    pub fn is_pending(&self) -> bool {
        self.result.borrow().is_none()
    }
}

fn attach(node: &BlockNode, permissions: Permissions) -> BlockChild {
    node.attach("the test", permissions).expect("nothing else")
}

fn fixed(context: &AioContext, name: &str, setup: &Setup, bytes: &[u8]) -> Disk {
    make(context, name, setup, bytes, false)
}

fn growing(context: &AioContext, name: &str, setup: &Setup, bytes: &[u8]) -> Disk {
    make(context, name, setup, bytes, true)
}

fn make(context: &AioContext, name: &str, setup: &Setup, bytes: &[u8], grows: bool) -> Disk {
    let (driver, control) = TestDisk::new(TestDiskOptions {
        limits: BlockLimits {
            request_alignment: setup.alignment.max(1),
            memory_alignment: setup.alignment.max(1),
            ..BlockLimits::default()
        },
        grows,
        ..TestDiskOptions::default()
    });
    control.set_contents(bytes);
    let handle = context.handle();
    let node = NodeBuilder::new(name).open(&handle, driver);
    (context.block_on(node).expect("a node"), control)
}

pub fn to(len: u64) -> Truncate {
    Truncate {
        len,
        exact: true,
        preallocation: Preallocation::Off,
    }
}

/// Bytes that differ from place to place, none of them 0.
pub fn pattern(len: u64, seed: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..len).map(|_| random.below(255) as u8 + 1).collect()
}

/// Bytes that get smaller when they are compressed, a little or much.
pub fn soft(len: u64, seed: u64) -> Vec<u8> {
    let mut bytes = pattern(len, seed);
    let run = 8 + seed as usize % 60;
    for chunk in bytes.chunks_mut(run).step_by(2) {
        chunk.fill(seed as u8 | 1);
    }
    bytes
}

/// xorshift64*: the same seed, the same test.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n.max(1)
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
