//! [`CoQueue`]: sleep until another task says "next".

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::wait_list::{Key, WaitList, Wakes};

/// A queue of sleeping tasks, woken first come first served. Ports QEMU's `CoQueue`.
///
/// | QEMU | here | difference |
/// |---|---|---|
/// | `qemu_co_queue_init` | [`CoQueue::new`] | none |
/// | `qemu_co_queue_wait(queue, lock)` | [`wait`](Self::wait) | the place is taken by the call: call it, give the lock back, then await |
/// | `qemu_co_queue_next`, `qemu_co_enter_next` | [`wake_next`](Self::wake_next) | a woken sleeper that is dropped passes the wake on |
/// | `qemu_co_queue_restart_all`, `qemu_co_enter_all` | [`wake_all`](Self::wake_all) | none |
/// | `qemu_co_queue_empty` | [`is_empty`](Self::is_empty) | none |
///
/// The queue carries no condition: a sleeper that was woken checks whatever it waits for and sleeps again if need be.
/// A wake with an empty line is not remembered. All sleepers live on one thread: they borrow the queue, which is not
/// `Sync`.
///
/// ```
/// use aio_task::CoQueue;
/// use futures::FutureExt;
///
/// let queue = CoQueue::new();
/// let (mut first, mut second) = (queue.wait(), queue.wait());
/// assert!(queue.wake_next());
/// assert!((&mut second).now_or_never().is_none(), "not its turn");
/// assert!((&mut first).now_or_never().is_some());
/// ```
pub struct CoQueue {
    sleepers: RefCell<WaitList<WokenBy>>,
}

/// What served a sleeper. Read only once it is served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WokenBy {
    /// One wake for one sleeper: if it is dropped before it looks, the wake belongs to the next in line.
    Next,
    /// Everyone in line got one of their own: nothing to pass on.
    All,
}

impl CoQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        CoQueue {
            sleepers: RefCell::new(WaitList::new()),
        }
    }

    /// Joins the end of the line **at this call**, not at the first poll; the future is ready once woken.
    ///
    /// So nothing is lost between the call and the await, for instance while a lock is given back. Dropping the future
    /// leaves the line; if [`wake_next`](Self::wake_next) had chosen it already, the next in line is woken instead.
    pub fn wait(&self) -> CoQueueWait<'_> {
        CoQueueWait {
            queue: self,
            key: Some(self.sleepers.borrow_mut().push(WokenBy::Next, None)),
        }
    }

    /// Wakes the first in line. `false`: no task was there, and the wake is not kept.
    pub fn wake_next(&self) -> bool {
        let mut wakes = Wakes::default();
        let served = {
            let mut sleepers = self.sleepers.borrow_mut();
            let first = sleepers.front();
            if let Some(first) = first {
                sleepers.serve(first, &mut wakes);
            }
            first.is_some()
        };
        wakes.wake();
        served
    }

    /// Wakes everyone who is in line now, in order. Who joins while they are being woken waits for the next wake.
    pub fn wake_all(&self) {
        let mut wakes = Wakes::default();
        {
            let mut sleepers = self.sleepers.borrow_mut();
            while let Some(first) = sleepers.front() {
                *sleepers.tag_mut(first) = WokenBy::All;
                sleepers.serve(first, &mut wakes);
            }
        }
        wakes.wake();
    }

    /// The line is empty. A sleeper that was woken and has not run yet does not count.
    pub fn is_empty(&self) -> bool {
        self.sleepers.borrow().is_empty()
    }
}

impl Default for CoQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CoQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoQueue")
            .field("is_empty", &self.is_empty())
            .finish()
    }
}

/// A place in a [`CoQueue`]'s line; see [`CoQueue::wait`]. Ready once woken; stays ready if polled again.
#[must_use = "a place in line that no task awaits holds up a wake"]
pub struct CoQueueWait<'a> {
    queue: &'a CoQueue,
    /// `None` once the wake was seen.
    key: Option<Key>,
}

impl Future for CoQueueWait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(key) = self.key else {
            return Poll::Ready(());
        };
        let list = &self.queue.sleepers;
        let fresh = list.borrow().needs_waker(key, cx.waker());
        let mut spare = fresh.then(|| cx.waker().clone());
        let removed = {
            let mut list = list.borrow_mut();
            if !list.is_served(key) {
                list.swap_waker(key, &mut spare);
                return Poll::Pending;
            }
            list.remove(key)
        };
        drop(removed);
        self.key = None;
        Poll::Ready(())
    }
}

impl Drop for CoQueueWait<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let removed = self.queue.sleepers.borrow_mut().remove(key);
            if removed.served && removed.tag == WokenBy::Next {
                self.queue.wake_next();
            }
        }
    }
}

impl fmt::Debug for CoQueueWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoQueueWait").finish_non_exhaustive()
    }
}
