//! A request to stop that any thread may make.
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

/// A flag that is set once, from any thread, and seen by all clones.
///
/// It stops nothing by itself: work looks at [`is_cancelled`](Self::is_cancelled) between two steps, or waits for
/// [`cancelled`](Self::cancelled) beside its I/O.
#[derive(Clone)]
pub struct CancelFlag {
    shared: Arc<Shared>,
}

impl CancelFlag {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                set: AtomicBool::new(false),
                waiters: Mutex::new(Slab::new()),
            }),
        }
    }

    /// Sets the flag for ever and wakes everyone who waits for it. Does not block.
    pub fn cancel(&self) {
        self.shared.set.store(true, Ordering::Release);
        // A waiter that looked before the store is in the list by the time the lock is ours; a later one sees the flag.
        let woken = mem::take(&mut *self.shared.waiters.lock());
        for (_, waker) in woken {
            waker.wake();
        }
    }

    /// Whether [`cancel`](Self::cancel) was called. What its caller did before is visible after `true`.
    pub fn is_cancelled(&self) -> bool {
        self.shared.set.load(Ordering::Acquire)
    }

    /// Resolves when the flag is set; at once if it is. Dropping the future leaves the line.
    pub fn cancelled(&self) -> Cancelled {
        Cancelled {
            shared: self.shared.clone(),
            key: None,
        }
    }
}

impl Default for CancelFlag {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CancelFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelFlag")
            .field(&self.is_cancelled())
            .finish()
    }
}

/// The future of [`CancelFlag::cancelled`].
#[must_use = "a future does nothing unless polled"]
pub struct Cancelled {
    shared: Arc<Shared>,
    /// Our place among the waiters. Set by a poll that found the flag clear; stale once the flag is set.
    key: Option<usize>,
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // Wakers are cloned and dropped outside the lock: both are foreign code.
        let waker = cx.waker().clone();
        let unused: Option<Waker>;
        {
            let mut waiters = this.shared.waiters.lock();
            // Looked at under the lock: `cancel` sets the flag before it takes the list.
            if this.shared.set.load(Ordering::Acquire) {
                this.key = None;
                drop(waiters);
                return Poll::Ready(());
            }
            unused = match this.key.and_then(|key| waiters.get_mut(key)) {
                Some(place) => Some(mem::replace(place, waker)),
                None => {
                    this.key = Some(waiters.insert(waker));
                    None
                }
            };
        }
        drop(unused);
        Poll::Pending
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        // No task joins the list after the flag is set, so a key is never another waiter's; the list may be gone, though.
        let waker = self.shared.waiters.lock().try_remove(key);
        drop(waker);
    }
}

impl fmt::Debug for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancelled").finish_non_exhaustive()
    }
}

struct Shared {
    /// Set by the first `cancel`, never cleared.
    set: AtomicBool,
    /// Those who found the flag clear. Emptied by `cancel`, stays empty after it.
    waiters: Mutex<Slab<Waker>>,
}
