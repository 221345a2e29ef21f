//! One node over one test disk, in a context that the test steps by hand.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses what it needs"
)]

use aio_task::AioContext;
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{
    BlockError, BlockLimits, BlockNode, CacheMode, Cause, DiskOffset, IoBuf, IoVector, NodeBuilder,
    Op, Preallocation, ReadVector, Result, Truncate, VmstateLimits, WriteFlags,
};
use std::cell::RefCell;
use std::num::{NonZeroU32, NonZeroU64};
use std::rc::Rc;

/// A context, a node, and the knobs of the disk below it.
pub struct Rig {
    pub context: AioContext,
    pub node: BlockNode,
    pub disk: TestDiskControl,
}

impl Rig {
    pub fn new(options: TestDiskOptions) -> Self {
        Self::with(options, |builder| builder)
    }

    pub fn with(options: TestDiskOptions, how: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        let context = AioContext::new().expect("a context");
        let (node, disk) = open(&context, "disk", options, how);
        Self {
            context,
            node,
            disk,
        }
    }

    pub fn cached(options: TestDiskOptions, mode: CacheMode) -> Self {
        Self::with(options, |builder| builder.cache(mode))
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
        let started = self.call(request);
        self.go_on();
        started
    }

    /// Starts a request; it is polled when the context is stepped next.
    pub fn call<T: 'static>(
        &self,
        request: impl AsyncFnOnce(BlockNode) -> T + 'static,
    ) -> Started<T> {
        let node = self.node.clone();
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        let task = self.context.handle().spawn(async move {
            let value = request(node).await;
            *slot.borrow_mut() = Some(value);
        });
        Started {
            result,
            task: Some(task),
        }
    }

    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let request = self
            .node
            .pwrite(DiskOffset(at), bytes, WriteFlags::default());
        self.run(request)
    }

    pub fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut dst = vec![0xee; len];
        self.run(self.node.pread(DiskOffset(at), &mut dst))
            .map(|()| dst)
    }

    pub fn start_write(&self, at: u64, bytes: &[u8]) -> Started<Result<()>> {
        let bytes = bytes.to_vec();
        self.start(async move |node| {
            node.pwrite(DiskOffset(at), &bytes, WriteFlags::default())
                .await
        })
    }

    pub fn start_read(&self, at: u64, len: usize) -> Started<Result<Vec<u8>>> {
        self.start(async move |node| {
            let mut dst = vec![0xee; len];
            node.pread(DiskOffset(at), &mut dst).await.map(|()| dst)
        })
    }

    /// Runs everything that can run.
    pub fn go_on(&self) {
        self.context.by_hand().run_until_stalled();
    }

    /// Releases the held call that came first, and runs on.
    pub fn release_first(&self) -> bool {
        let first = self.disk.held().first().map(|record| record.id);
        let released = first.is_some_and(|id| self.disk.release(id));
        self.go_on();
        released
    }

    /// Releases what is held and what then comes, in the order of arrival, until nothing more comes.
    pub fn release_until_quiet(&self) {
        while self.release_first() {}
    }

    /// The driver's calls so far as (operation, offset, length), and empties the list.
    pub fn calls(&self) -> Vec<(Op, u64, u64)> {
        let records = self.disk.take_records().into_iter();
        records.map(|r| (r.op, r.offset, r.len)).collect()
    }
}

/// A request that was started; dropping it cancels the task that made it, and so drops the request's future.
pub struct Started<T> {
    result: Rc<RefCell<Option<T>>>,
    task: Option<aio_task::JoinHandle<()>>,
}

impl<T> Started<T> {
    /// The result, if it is there.
    pub fn result(&self) -> Option<T> {
        self.result.borrow_mut().take()
    }

    pub fn is_pending(&self) -> bool {
        self.result.borrow().is_none()
    }

    /// Drops the request's future wherever it is.
    pub fn drop_future(mut self) {
        drop(self.task.take());
    }
}

pub fn open(
    context: &AioContext,
    name: &str,
    options: TestDiskOptions,
    how: impl FnOnce(NodeBuilder) -> NodeBuilder,
) -> (BlockNode, TestDiskControl) {
    let (driver, disk) = TestDisk::new(options);
    let node = open_driver(context, name, driver, how);
    disk.take_records();
    (node, disk)
}

pub fn open_driver(
    context: &AioContext,
    name: &str,
    driver: TestDisk,
    how: impl FnOnce(NodeBuilder) -> NodeBuilder,
) -> BlockNode {
    let builder = how(NodeBuilder::new(name));
    context
        .block_on(builder.open(&context.handle(), driver))
        .expect("a node")
}

/// A disk like an O_DIRECT file: everything in 512-byte blocks.
pub fn direct(len: u64) -> TestDiskOptions {
    TestDiskOptions {
        len,
        limits: BlockLimits {
            request_alignment: 512,
            memory_alignment: 512,
            transfer_alignment: 512,
            ..Default::default()
        },
        ..Default::default()
    }
}

/// A disk that takes any byte.
pub fn plain(len: u64) -> TestDiskOptions {
    TestDiskOptions {
        len,
        ..Default::default()
    }
}

pub fn vmstate_area() -> Option<VmstateLimits> {
    Some(VmstateLimits {
        request_alignment: 512,
        memory_alignment: 512,
        cluster_size: 65_536,
    })
}

pub fn nonzero(n: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(n)
}

pub fn pieces(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

/// Aligned memory that repeats `byte`.
pub fn filled(len: usize, byte: u8) -> IoBuf {
    let mut buf = IoBuf::zeroed(len, 4096).expect("memory");
    buf.fill(byte);
    buf
}

/// Memory that repeats `byte`, at an address `shift` after an aligned one.
pub fn shifted(len: usize, shift: usize, byte: u8) -> IoBuf {
    let mut buf = filled(len + shift, byte);
    drop(buf.split_to(shift));
    buf
}

pub fn source(parts: impl IntoIterator<Item = IoBuf>) -> IoVector {
    parts.into_iter().map(IoBuf::freeze).collect()
}

pub fn destination(parts: impl IntoIterator<Item = IoBuf>) -> ReadVector {
    parts.into_iter().collect()
}

pub fn to(len: u64) -> Truncate {
    Truncate {
        len,
        exact: true,
        preallocation: Preallocation::Off,
    }
}

pub fn cause<T: std::fmt::Debug>(result: Result<T>) -> Cause {
    result.expect_err("must fail").cause
}

pub fn error(op: Op, offset: u64, len: u64, cause: Cause) -> BlockError {
    BlockError::new(op, offset, len, cause)
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    (0..len).map(|_| random.below(255) as u8 + 1).collect()
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
}
