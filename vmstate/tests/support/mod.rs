//! What the tests of this crate share: a node over the test disk, a context stepped by hand, and bytes that tell where they belong.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its part of it"
)]

use aio_task::AioContext;
use block_core::test_disk::{Record, TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{BlockNode, NodeBuilder, Op, VmstateLimits};
use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::rc::Rc;
use vmstate::{LoadOptions, SaveOptions};

/// Bytes of a buffer in most tests: small, so that a few writes fill several.
pub const CELL: u64 = 4096;
/// Block of the area in most tests.
pub const BLOCK: u64 = 512;

/// A node with a vmstate area, on a context of its own.
pub struct Bench {
    // Fields drop in this order: the node before its context.
    pub node: BlockNode,
    pub disk: TestDiskControl,
    pub context: Rc<AioContext>,
}

impl Bench {
    /// An area of 512-byte blocks, and a guest's disk of 64 KiB beside it.
    pub fn new() -> Self {
        Self::with_limits(limits(BLOCK as u32, 0))
    }

    pub fn with_limits(vmstate: VmstateLimits) -> Self {
        Self::with_disk(TestDiskOptions {
            len: 64 << 10,
            vmstate: Some(vmstate),
            ..Default::default()
        })
    }

    /// As [`Bench::new`], on an image that has snapshots.
    pub fn with_snapshots() -> Self {
        Self::with_disk(TestDiskOptions {
            len: 64 << 10,
            vmstate: Some(limits(BLOCK as u32, 0)),
            snapshots: true,
            ..Default::default()
        })
    }

    pub fn with_disk(options: TestDiskOptions) -> Self {
        let context = Rc::new(AioContext::new().expect("a context"));
        let (driver, disk) = TestDisk::new(options);
        let handle = context.handle();
        let opened = NodeBuilder::new("disk").open(&handle, driver);
        let node = context.block_on(opened).expect("the node opens");
        Self {
            node,
            disk,
            context,
        }
    }

    /// Another node of the same context.
    pub fn open(&self, builder: NodeBuilder, driver: TestDisk) -> BlockNode {
        let handle = self.context.handle();
        self.run(builder.open(&handle, driver))
            .expect("the node opens")
    }

    /// Runs `f` to its end.
    pub fn run<F: Future>(&self, f: F) -> F::Output {
        self.context.block_on(f)
    }

    /// Runs everything that can run now. Nothing here takes time: what is still waiting then waits for the test.
    pub fn step(&self) {
        self.context.by_hand().run_until_stalled();
    }

    /// Begins `f` as a task and runs everything that can run.
    pub fn start<T: 'static>(&self, f: impl Future<Output = T> + 'static) -> Started<T> {
        let output = Rc::new(RefCell::new(None));
        let slot = output.clone();
        let task = self.context.handle().spawn(async move {
            let value = f.await;
            *slot.borrow_mut() = Some(value);
        });
        let started = Started { task, output };
        self.step();
        started
    }

    /// Driver writes to the vmstate area so far: offset and length.
    pub fn writes(&self) -> Vec<(u64, u64)> {
        spans(&self.disk.records_of(Op::SaveVmstate))
    }

    /// Driver reads from the vmstate area so far.
    pub fn reads(&self) -> Vec<(u64, u64)> {
        spans(&self.disk.records_of(Op::LoadVmstate))
    }

    /// Releases what is held, and what comes after it, until nothing is held.
    pub fn release_everything(&self) {
        self.disk.stop_holding();
        self.step();
        while self.disk.release_all() > 0 {
            self.step();
        }
    }

    /// Nothing is in flight, nothing waits, and the node closes without an error.
    pub fn drain_and_close(&self) {
        assert_eq!(self.drain_then_close(), Ok(()));
    }

    /// The same, with a save left that no task finalized.
    pub fn drain_and_close_reporting(&self, error: &block_core::BlockError) {
        assert_eq!(self.drain_then_close().as_ref(), Err(error));
    }

    fn drain_then_close(&self) -> block_core::Result<()> {
        self.release_everything();
        let drained = self
            .run(self.node.drain_begin())
            .expect("it can be drained");
        drop(drained);
        assert_eq!(self.node.in_flight(), 0);
        self.run(self.node.close())
    }
}

/// A task that was begun. Dropping it drops its future.
pub struct Started<T> {
    task: aio_task::JoinHandle<()>,
    output: Rc<RefCell<Option<T>>>,
}

impl<T> Started<T> {
    pub fn is_done(&self) -> bool {
        self.output.borrow().is_some()
    }

    /// Its output. Panics if it is not done.
    pub fn done(self) -> T {
        let output = self.output.borrow_mut().take();
        output.expect("the task is done")
    }
}

pub fn limits(request_alignment: u32, cluster_size: u64) -> VmstateLimits {
    VmstateLimits {
        request_alignment,
        memory_alignment: request_alignment.max(16),
        cluster_size,
    }
}

pub fn workers(workers: usize) -> NonZeroUsize {
    NonZeroUsize::new(workers).expect("not zero")
}

/// Small buffers, so that little data fills many.
pub fn small(count: usize) -> SaveOptions {
    SaveOptions {
        workers: workers(count),
        buffer_size: CELL,
        ..Default::default()
    }
}

pub fn small_load(count: usize) -> LoadOptions {
    LoadOptions {
        workers: workers(count),
        buffer_size: CELL,
        ..Default::default()
    }
}

/// `len` bytes that differ at every place, so that swapped, shifted or stale ones are seen. `version` tells writes apart.
pub fn pattern(version: u64, at: u64, len: u64) -> Vec<u8> {
    (at..at + len)
        .map(|at| {
            let mixed = (at ^ version.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                .wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((mixed >> 32) as u8) | 1
        })
        .collect()
}

pub fn spans(records: &[Record]) -> Vec<(u64, u64)> {
    records.iter().map(|r| (r.offset, r.len)).collect()
}

/// A small generator (xorshift), so that a failing seed can be run again.
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// 0 to `end` - 1.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Drops `f` after `polls` polls, running the context's tasks in between; its output if it was ready before.
pub fn poll_at_most<F: Future>(
    bench: &Bench,
    polls: usize,
    f: F,
    between: impl Fn(),
) -> Option<F::Output> {
    let mut f: Pin<Box<F>> = Box::pin(f);
    for _ in 0..polls {
        let polled = bench.run(futures::future::poll_fn(|cx| {
            std::task::Poll::Ready(f.as_mut().poll(cx))
        }));
        if let std::task::Poll::Ready(output) = polled {
            return Some(output);
        }
        between();
        bench.step();
    }
    None
}
