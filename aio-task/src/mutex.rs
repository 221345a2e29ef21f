//! [`CoMutex`]: a fair lock between tasks of one thread.

use std::cell::{Ref, RefCell, RefMut};
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::wait_list::{Key, WaitList, Wakes};

/// A lock that may be held across an await, given to its waiters first come first served. Ports QEMU's `CoMutex`.
///
/// | QEMU | here | difference |
/// |---|---|---|
/// | `qemu_co_mutex_init` | [`CoMutex::new`] | the lock owns what it guards |
/// | `qemu_co_mutex_lock` | [`lock`](Self::lock) | hand-over: the lock goes to the first waiter, a newcomer cannot overtake it |
/// | `qemu_co_mutex_unlock`, `QEMU_LOCK_GUARD` | dropping the [`CoMutexGuard`] | none |
/// | `qemu_co_mutex_assert_locked` | holding the guard | a type instead of an assertion |
///
/// A task that locks what it holds itself waits for ever (dropping that wait works). All waiters live on
/// one thread: they borrow the lock, which is not `Sync`. There is no poisoning: a holder that panics gives the lock to
/// the next.
pub struct CoMutex<T> {
    queue: RefCell<LockQueue>,
    /// Borrowed by the guard only, which exists once: see [`LockQueue::held`].
    value: RefCell<T>,
}

struct LockQueue {
    /// A guard exists, or the lock was handed to a waiter that has not run yet. Never false while someone is in line.
    held: bool,
    waiters: WaitList<()>,
}

impl<T> CoMutex<T> {
    /// An unlocked lock around `value`.
    pub const fn new(value: T) -> Self {
        CoMutex {
            queue: RefCell::new(LockQueue {
                held: false,
                waiters: WaitList::new(),
            }),
            value: RefCell::new(value),
        }
    }

    /// Waits for the lock, in line from the first poll on.
    ///
    /// Dropping the future leaves the line; if the lock had been handed to it already, the next in line gets it.
    pub async fn lock(&self) -> CoMutexGuard<'_, T> {
        Acquire {
            queue: &self.queue,
            key: None,
        }
        .await;
        self.guard()
    }

    /// The lock, if it is free and not waited for.
    pub fn try_lock(&self) -> Option<CoMutexGuard<'_, T>> {
        let taken = self.queue.borrow_mut().try_take();
        taken.then(|| self.guard())
    }

    /// The value, without locking: `&mut self` proves that nothing holds it.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Gives the value back.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }

    /// Only for the one who took [`LockQueue::held`], or was handed it.
    fn guard(&self) -> CoMutexGuard<'_, T> {
        CoMutexGuard {
            value: self.value.borrow_mut(),
            _unlock: Unlock(&self.queue),
        }
    }
}

impl<T: Default> Default for CoMutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for CoMutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value: Option<Ref<'_, T>> = self.value.try_borrow().ok();
        f.debug_struct("CoMutex").field("value", &value).finish()
    }
}

/// The lock of a [`CoMutex`], held. Dropping it hands the lock to the first waiter.
#[must_use = "dropped at once, it locks nothing"]
pub struct CoMutexGuard<'a, T> {
    // Fields drop in this order: the value must be free before the next holder may run.
    value: RefMut<'a, T>,
    _unlock: Unlock<'a>,
}

impl<T> Deref for CoMutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for CoMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for CoMutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CoMutexGuard").field(&&**self).finish()
    }
}

struct Unlock<'a>(&'a RefCell<LockQueue>);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        hand_over(self.0);
    }
}

impl LockQueue {
    fn try_take(&mut self) -> bool {
        debug_assert!(self.held || self.waiters.is_empty());
        !std::mem::replace(&mut self.held, true)
    }
}

/// The lock goes to the first in line, or becomes free.
fn hand_over(queue: &RefCell<LockQueue>) {
    let mut wakes = Wakes::default();
    {
        let mut queue = queue.borrow_mut();
        match queue.waiters.front() {
            Some(first) => queue.waiters.serve(first, &mut wakes),
            None => queue.held = false,
        }
    }
    wakes.wake();
}

/// Ready once the lock is ours.
struct Acquire<'a> {
    queue: &'a RefCell<LockQueue>,
    /// Our place in line. `None`: not polled yet, or the lock was given to us and taken note of.
    key: Option<Key>,
}

impl Future for Acquire<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let fresh = self
            .key
            .is_none_or(|key| self.queue.borrow().waiters.needs_waker(key, cx.waker()));
        let mut spare = fresh.then(|| cx.waker().clone());
        let removed = {
            let mut queue = self.queue.borrow_mut();
            let Some(key) = self.key else {
                if queue.try_take() {
                    return Poll::Ready(());
                }
                self.key = Some(queue.waiters.push((), spare));
                return Poll::Pending;
            };
            if !queue.waiters.is_served(key) {
                queue.waiters.swap_waker(key, &mut spare);
                return Poll::Pending;
            }
            queue.waiters.remove(key)
        };
        drop(removed);
        self.key = None;
        Poll::Ready(())
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let removed = self.queue.borrow_mut().waiters.remove(key);
            if removed.served {
                hand_over(self.queue);
            }
        }
    }
}
