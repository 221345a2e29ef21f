//! Saves and nodes above the edge: what the block layer promises when I/O ends on other threads.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use aio_task::edge::{Completer, Completion, slot};
use aio_task::{AioContext, WorkerPool};
use block_core::{
    BlockDriver, BlockError, BlockLimits, BlockNode, Cause, DiskOffset, Errno, IoVector,
    NodeBuilder, Op, ReadVector, Result, VmstateLimits, VmstateOffset, WriteFlags,
};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use vmstate::{SaveOptions, VmstateSave};

use super::support::{DropsHere, InlineHere, moved_from_another_task};
use crate::check::reach;

crate::models![
    a_save_cancelled_while_its_buffers_complete_waits_for_them: [47] reaches ["saved", "cancelled"],
    a_save_dropped_while_its_buffer_completes_leaves_room_for_the_next: [47],
    the_first_of_two_buffers_that_fail_is_the_error_of_the_save: [47] reaches ["first", "second", "both"],
    a_node_dropped_with_a_write_in_flight_stays_until_its_end: [48],
    a_write_whose_future_is_dropped_is_waited_for_by_settle: [48],
    a_context_dropped_with_a_write_in_flight_drops_the_node_here: [48],
    settle_in_another_task_waits_for_a_request_that_was_dropped: [54, 48],
    settle_reaches_every_task_and_a_waker_that_polls_at_once: [54, 50, 51],
    two_versions_of_one_cell_land_in_their_order: [55],
    a_cancel_ends_a_save_that_waits_though_nothing_completes: [59, 47] reaches ["before it waits", "as it waits"],
    a_cancel_ends_a_flush_that_waits_though_nothing_completes: [59, 47],
];

/// Bytes of a buffer.
const BUFFER: u64 = 16;

/// A disk in memory whose every write ends when the test says so, on whatever thread. Its own memory is the length of what has landed.
struct Disk {
    /// What ends the writes, in their order.
    ends: RefCell<VecDeque<Completion<Ended>>>,
    landed: Rc<Cell<u64>>,
    /// Where each write that has ended was, the first byte of what it wrote, and whether it landed: in the order of their ends.
    ended: Rc<RefCell<Vec<(u64, u8, bool)>>>,
    _here: DropsHere,
}

impl Disk {
    fn new(ends: impl IntoIterator<Item = Completion<Ended>>) -> (Self, Seen) {
        let (drops, here) = DropsHere::new();
        let landed = Rc::new(Cell::new(0));
        let ended = Rc::new(RefCell::new(Vec::new()));
        let disk = Self {
            ends: RefCell::new(ends.into_iter().collect()),
            landed: landed.clone(),
            ended: ended.clone(),
            _here: here,
        };
        let seen = Seen {
            landed,
            ended,
            drops,
        };
        (disk, seen)
    }

    /// Holds `src` until the write has ended, as a driver must.
    async fn land(&self, op: Op, at: u64, src: IoVector) -> Result<()> {
        let end = self.ends.borrow_mut().pop_front();
        let end = end.expect("the model has an end for every write");
        let failed = |cause| BlockError::new(op, at, src.len(), cause);
        let end = end.await.unwrap_or(Err(Cause::Cancelled));
        let first = src.to_vec().first().copied().unwrap_or_default();
        self.ended.borrow_mut().push((at, first, end.is_ok()));
        end.map_err(failed)?;
        self.landed.set(self.landed.get() + src.len());
        Ok(())
    }
}

/// What a model sees of its disk.
struct Seen {
    landed: Rc<Cell<u64>>,
    ended: Rc<RefCell<Vec<(u64, u8, bool)>>>,
    drops: Rc<Cell<usize>>,
}

impl BlockDriver for Disk {
    fn format_name(&self) -> &'static str {
        "model"
    }

    fn limits(&self) -> BlockLimits {
        BlockLimits::default()
    }

    async fn length(&self) -> Result<u64> {
        Ok(1 << 20)
    }

    async fn preadv(&self, _at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        (dst, Ok(()))
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, _flags: WriteFlags) -> Result<()> {
        self.land(Op::Write, at.0, src).await
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn vmstate(&self) -> Option<VmstateLimits> {
        Some(VmstateLimits {
            request_alignment: 1,
            memory_alignment: 1,
            cluster_size: 0,
        })
    }

    async fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> Result<()> {
        self.land(Op::SaveVmstate, at.0, src).await
    }
}

/// An end, and who makes it.
fn end() -> (Completer<Ended>, Completion<Ended>) {
    slot()
}

/// How a write has ended.
type Ended = Result<(), Cause>;

async fn node(context: &AioContext, driver: impl BlockDriver) -> BlockNode {
    let opened = NodeBuilder::new("disk")
        .open(&context.handle(), driver)
        .await;
    opened.unwrap_or_else(|e| panic!("the node opens: {e:?}"))
}

fn options(workers: usize) -> SaveOptions {
    SaveOptions {
        workers: NonZeroUsize::new(workers).expect("a save has a worker"),
        buffer_size: BUFFER,
        ..SaveOptions::default()
    }
}

fn no_space() -> Ended {
    Err(Cause::Os(Errno(28)))
}

/// One thread cancels while another ends the two writes. `finalize` says which came first, and by then nothing is in flight.
/// Faults: a cancel wakes no waiter; `finalize` does not wait for what is in flight after a failure; a cancel is found too late to be told.
fn a_save_cancelled_while_its_buffers_complete_waits_for_them() {
    let context = AioContext::new().unwrap();
    let ((a, first), (b, second)) = (end(), end());
    let (disk, seen) = Disk::new([first, second]);
    context.block_on(async {
        let node = node(&context, disk).await;
        let save = VmstateSave::begin(&node, options(1)).unwrap();
        let cancelling = thread::spawn({
            let handle = save.cancel_handle();
            move || handle.cancel()
        });
        let completing = thread::spawn(move || {
            a.complete(Ok(()));
            b.complete(Ok(()));
        });
        let bytes = [7; 2 * BUFFER as usize];
        let written = save.write(0, &bytes).await;
        match save.finalize().await {
            Ok(length) => {
                assert_eq!((written, length), (Ok(()), 2 * BUFFER));
                assert_eq!(seen.landed.get(), 2 * BUFFER);
                reach("saved");
            }
            Err(error) => {
                assert_eq!(error.cause, Cause::Cancelled);
                reach("cancelled");
            }
        }
        assert_eq!(node.in_flight(), 0, "finalize returned too early");
        assert_eq!(save.progress().completed(), seen.landed.get());
        cancelling.join().unwrap();
        completing.join().unwrap();
    });
    drop(context);
    assert_eq!(seen.drops.get(), 1);
}

/// The dropped save's write may land later: the node counts it, and the next save works.
/// Faults: a dropped save stays active; its flight is forgotten, or never taken off the area.
fn a_save_dropped_while_its_buffer_completes_leaves_room_for_the_next() {
    let context = AioContext::new().unwrap();
    let ((a, first), (b, second)) = (end(), end());
    let (disk, seen) = Disk::new([first, second]);
    b.complete(Ok(()));
    context.block_on(async {
        let node = node(&context, disk).await;
        let save = VmstateSave::begin(&node, options(1)).unwrap();
        let completing = thread::spawn(move || a.complete(Ok(())));
        save.write(0, &[1; BUFFER as usize]).await.unwrap();
        drop(save);
        // The same bytes again: in order after what is in flight.
        let next = VmstateSave::begin(&node, options(1)).unwrap();
        next.write(0, &[2; BUFFER as usize]).await.unwrap();
        assert_eq!(next.finalize().await, Ok(BUFFER));
        assert_eq!(node.in_flight(), 0);
        assert_eq!(seen.landed.get(), 2 * BUFFER);
        node.close().await.unwrap();
        completing.join().unwrap();
    });
}

/// A thread and the context itself end one write each, with errors that differ: the save's error is the one that the disk gave first,
/// and it stays.
/// Faults: a later failure replaces the first; `finalize` returns before the second has ended.
fn the_first_of_two_buffers_that_fail_is_the_error_of_the_save() {
    let context = AioContext::new().unwrap();
    let ((a, first), (b, second)) = (end(), end());
    let (disk, seen) = Disk::new([first, second]);
    context.block_on(async {
        let node = node(&context, disk).await;
        let save = VmstateSave::begin(&node, options(2)).unwrap();
        let completing = thread::spawn(move || a.complete(no_space()));
        let written = save.write(0, &[7; 2 * BUFFER as usize]).await;
        b.complete(Err(Cause::Os(Errno(5))));
        let error = save.finalize().await.expect_err("both writes fail");
        let ended = seen.ended.borrow().clone();
        let (at, _, landed) = ended[0];
        assert!(!landed);
        let cause = Cause::Os(Errno(if at == 0 { 28 } else { 5 }));
        assert_eq!((error.offset, error.len), (at, BUFFER), "not the first");
        assert_eq!(error.cause, cause, "not the first");
        reach(if at == 0 { "first" } else { "second" });
        if ended.len() == 2 {
            reach("both");
        }
        if let Err(early) = written {
            assert_eq!(early, error, "a save has one error");
        }
        assert_eq!(save.finalize().await, Err(error));
        assert_eq!(node.in_flight(), 0, "finalize returned too early");
        completing.join().unwrap();
    });
}

/// The future and the node are gone; the driver and the request's memory are not, as long as the write may land.
/// Faults: a dropped future cancels its request; a request does not keep its node.
fn a_node_dropped_with_a_write_in_flight_stays_until_its_end() {
    let context = AioContext::new().unwrap();
    let (a, first) = end();
    let (disk, seen) = Disk::new([first]);
    let completing = context.block_on(async {
        let node = node(&context, disk).await;
        let src = IoVector::copy_of(&[7; 8], 1).unwrap();
        {
            let mut write = pin!(node.pwritev(DiskOffset(0), src, WriteFlags::default()));
            poll_fn(|cx| {
                assert!(write.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        assert_eq!(node.in_flight(), 1);
        let weak = node.downgrade();
        drop(node);
        assert_eq!(seen.drops.get(), 0, "the driver went under its request");
        let completing = thread::spawn(move || a.complete(Ok(())));
        // Runs the context until the request has let go.
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if weak.upgrade().is_some() {
                loom::thread::yield_now();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        completing
    });
    assert_eq!((seen.landed.get(), seen.drops.get()), (8, 1));
    completing.join().unwrap();
}

/// The write is in the hands of a worker thread, memory and all, as the file driver does it. Its future is dropped at once.
/// Faults: a dropped future ends its share of the in-flight count; `settle` returns while something may land.
fn a_write_whose_future_is_dropped_is_waited_for_by_settle() {
    let context = AioContext::new().unwrap();
    let (disk, landed) = Blocking::new();
    context.block_on(async {
        let node = node(&context, disk).await;
        drop_after_one_poll(&node).await;
        node.settle().await.unwrap();
        assert_eq!(landed.load(Ordering::Relaxed), 8, "settle was too early");
        assert_eq!(node.in_flight(), 0);
    });
}

/// The task that made the request has dropped it and goes on; another one waits for the node. Nothing but the request's end wakes it.
/// Fault: the end of the last request wakes no waiter.
fn settle_in_another_task_waits_for_a_request_that_was_dropped() {
    let context = AioContext::new().unwrap();
    let (disk, landed) = Blocking::new();
    context.block_on(async {
        let node = Rc::new(node(&context, disk).await);
        drop_after_one_poll(&node).await;
        let settling = context.handle().spawn({
            let node = node.clone();
            async move { node.settle().await }
        });
        settling.await.unwrap().unwrap();
        assert_eq!(landed.load(Ordering::Relaxed), 8, "settle was too early");
    });
}

/// Four wait for the end of one request: one is woken where it moved to, one in its own task, and two are polled inside the wake.
/// Faults: a wait keeps its first waker; a second poll ends it; the end wakes one of them; it wakes them while their list is borrowed, or
/// before the request is over.
fn settle_reaches_every_task_and_a_waker_that_polls_at_once() {
    let context = AioContext::new().unwrap();
    let (disk, landed) = Blocking::new();
    let context = &context;
    context.block_on(async {
        let node = Rc::new(node(context, disk).await);
        drop_after_one_poll(&node).await;
        let settle = || {
            let (node, landed) = (node.clone(), landed.clone());
            async move {
                node.settle().await.unwrap();
                assert_eq!(landed.load(Ordering::Relaxed), 8, "settle was too early");
            }
        };
        let moved = context.handle().spawn(moved_from_another_task(settle()));
        let settled = Cell::new(0);
        let inline = [(), ()].map(|()| {
            let (settle, settled) = (settle(), &settled);
            InlineHere::start(async move {
                settle.await;
                settled.set(settled.get() + 1);
            })
        });
        context.handle().spawn(settle()).await.unwrap();
        moved.await.unwrap();
        assert_eq!(settled.get(), 2, "a wait was not woken by the end");
        drop(inline);
    });
}

/// The second version of a cell is complete while the first is still in flight, and so is another cell that was written between them;
/// there is a worker for it. A write of the second version could end at once, before the first: it must not begin before the first has
/// ended, so that what was written last is what stays.
/// Faults: a cell is written though an older version of it is in flight; only what took off last is looked at.
fn two_versions_of_one_cell_land_in_their_order() {
    let context = AioContext::new().unwrap();
    let ((a, first), (b, other), (c, second)) = (end(), end(), end());
    let (disk, seen) = Disk::new([first, other, second]);
    c.complete(Ok(()));
    context.block_on(async {
        let node = node(&context, disk).await;
        let save = VmstateSave::begin(&node, options(3)).unwrap();
        let completing = thread::spawn(move || {
            a.complete(Ok(()));
            b.complete(Ok(()));
        });
        for (at, version) in [(0, 1), (BUFFER, 1), (0, 2)] {
            save.write(at, &[version; BUFFER as usize]).await.unwrap();
        }
        assert_eq!(save.finalize().await, Ok(2 * BUFFER));
        let ended = seen.ended.borrow();
        let versions: Vec<u8> = ended
            .iter()
            .filter(|(at, ..)| *at == 0)
            .map(|(_, version, _)| *version)
            .collect();
        assert_eq!(versions, [1, 2], "the older version landed last");
        drop(ended);
        completing.join().unwrap();
    });
}

/// The only worker is busy and both buffers are full, so the write waits; nothing completes until it has returned.
/// Fault: a save that waits for a flight to end does not hear of its cancel.
fn a_cancel_ends_a_save_that_waits_though_nothing_completes() {
    let context = AioContext::new().unwrap();
    let (a, first) = end();
    let (disk, seen) = Disk::new([first]);
    context.block_on(async {
        let node = node(&context, disk).await;
        let save = VmstateSave::begin(&node, options(1)).unwrap();
        let cancelling = thread::spawn({
            let handle = save.cancel_handle();
            move || handle.cancel()
        });
        let written = save.write(0, &[7; 3 * BUFFER as usize]).await;
        assert_eq!(written.unwrap_err().cause, Cause::Cancelled);
        reach(if save.position().0 == 0 {
            "before it waits"
        } else {
            "as it waits"
        });
        assert_eq!(seen.landed.get(), 0);
        a.complete(Ok(()));
        let ended = save.finalize().await;
        assert_eq!(ended.unwrap_err().cause, Cause::Cancelled);
        assert_eq!(node.in_flight(), 0, "finalize returned too early");
        cancelling.join().unwrap();
    });
}

/// The same for a flush, which waits for what is in flight.
/// Fault: a flush does not hear of its cancel.
fn a_cancel_ends_a_flush_that_waits_though_nothing_completes() {
    let context = AioContext::new().unwrap();
    let (a, first) = end();
    let (disk, seen) = Disk::new([first]);
    context.block_on(async {
        let node = node(&context, disk).await;
        let save = VmstateSave::begin(&node, options(1)).unwrap();
        save.write(0, &[7; BUFFER as usize]).await.unwrap();
        let cancelling = thread::spawn({
            let handle = save.cancel_handle();
            move || handle.cancel()
        });
        let flushed = save.flush().await;
        assert_eq!(flushed.unwrap_err().cause, Cause::Cancelled);
        assert_eq!(seen.landed.get(), 0);
        a.complete(Ok(()));
        let ended = save.finalize().await;
        assert_eq!(ended.unwrap_err().cause, Cause::Cancelled);
        assert_eq!(node.in_flight(), 0, "finalize returned too early");
        cancelling.join().unwrap();
    });
}

/// Context, node and driver go on this thread, whatever the worker still does; its memory is its own.
/// Faults: a request is dropped by the thread that ends it; the context goes while a wake of the request is on its way.
fn a_context_dropped_with_a_write_in_flight_drops_the_node_here() {
    let context = AioContext::new().unwrap();
    let (disk, landed) = Blocking::new();
    let drops = disk.drops.clone();
    let workers = disk.workers.clone();
    let node = context.block_on(async {
        let node = node(&context, disk).await;
        drop_after_one_poll(&node).await;
        node
    });
    drop(context);
    assert_eq!(
        node.in_flight(),
        0,
        "the context is gone, its request is not"
    );
    drop(node);
    assert_eq!(drops.get(), 1);
    workers.shutdown();
    assert_eq!(landed.load(Ordering::Relaxed), 8);
}

/// Submits a write of 8 bytes and loses interest.
async fn drop_after_one_poll(node: &BlockNode) {
    let src = IoVector::copy_of(&[7; 8], 1).unwrap();
    let mut write = pin!(node.pwritev(DiskOffset(0), src, WriteFlags::default()));
    poll_fn(|cx| {
        let _ = write.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

/// A disk whose writes block in a worker thread.
struct Blocking {
    workers: WorkerPool,
    landed: Arc<AtomicUsize>,
    drops: Rc<Cell<usize>>,
    _here: DropsHere,
}

impl Blocking {
    fn new() -> (Self, Arc<AtomicUsize>) {
        let landed = Arc::new(AtomicUsize::new(0));
        let (drops, here) = DropsHere::new();
        let disk = Self {
            workers: WorkerPool::new(NonZeroUsize::MIN),
            landed: landed.clone(),
            drops,
            _here: here,
        };
        (disk, landed)
    }
}

impl BlockDriver for Blocking {
    fn format_name(&self) -> &'static str {
        "blocking"
    }

    fn limits(&self) -> BlockLimits {
        BlockLimits::default()
    }

    async fn length(&self) -> Result<u64> {
        Ok(1 << 20)
    }

    async fn preadv(&self, _at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        (dst, Ok(()))
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, _flags: WriteFlags) -> Result<()> {
        let landed = self.landed.clone();
        let job = self.workers.run(move || {
            let sum = src.to_vec().iter().filter(|byte| **byte == 7).count();
            landed.fetch_add(sum, Ordering::Relaxed);
        });
        let lost = |_| BlockError::new(Op::Write, at.0, 0, Cause::Cancelled);
        job.await.map_err(lost)
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}
