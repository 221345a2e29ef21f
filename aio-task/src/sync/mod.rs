//! The one file that decides between `std`, `loom` and `shuttle`.
//!
//! Every atomic, lock, thread and thread-local of the crate comes from here, so that the code which is model-checked is the code
//! which ships. The wrappers hide poisoning (no lock of this crate is ever held while user code runs) and the two things that
//! loom does not know: the time, and a wait with a time limit.
#[cfg(loom)]
pub(crate) mod model_time; // what a time limit means where there is no time

#[cfg(loom)]
use loom as primitives;
#[cfg(shuttle)]
use shuttle as primitives;
#[cfg(not(any(loom, shuttle)))]
use std as primitives;

use std::io;
#[cfg(loom)]
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

pub use primitives::sync::Arc;
pub(crate) use primitives::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
pub(crate) use primitives::thread::{JoinHandle, ThreadId, yield_now};
pub(crate) use primitives::thread_local as per_thread;

/// Whether this thread unwinds. Known to std alone: a model's threads share one.
pub(crate) use std::thread::panicking;

/// The `Arc` that [`std::task::Wake`] insists on. Its count is invisible to loom, what it points to is not.
pub(crate) use std::sync::Arc as WakerArc;

/// A mutex whose lock cannot fail.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(primitives::sync::Mutex<T>);

#[cfg(not(loom))]
pub(crate) type MutexGuard<'a, T> = primitives::sync::MutexGuard<'a, T>;

/// Under loom it also knows its mutex, which a wait that times out gives back and takes again.
#[cfg(loom)]
pub(crate) struct MutexGuard<'a, T> {
    locked: primitives::sync::MutexGuard<'a, T>,
    mutex: &'a Mutex<T>,
}

#[cfg(loom)]
impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.locked
    }
}

#[cfg(loom)]
impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.locked
    }
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(primitives::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let locked = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        #[cfg(loom)]
        let locked = MutexGuard {
            locked,
            mutex: self,
        };
        locked
    }
}

/// What ended a wait with a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// A notification came, or the wait ended for no reason.
    Woken,
    /// The limit passed.
    TimedOut,
}

/// A condition variable for [`Mutex`].
#[derive(Debug, Default)]
pub(crate) struct Condvar(primitives::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(primitives::sync::Condvar::new())
    }

    #[cfg(not(loom))]
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0
            .wait(guard)
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    #[cfg(loom)]
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let MutexGuard { locked, mutex } = guard;
        let locked = self
            .0
            .wait(locked)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        MutexGuard { locked, mutex }
    }

    /// Waits for at most `limit`. A limit of zero has passed at once, without a wait.
    ///
    /// Under loom the outcome is a choice that the checker explores, see [`model_time`]; under shuttle one of four times out.
    pub(crate) fn wait_for<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> (MutexGuard<'a, T>, Waited) {
        if limit.is_zero() {
            return (guard, Waited::TimedOut);
        }
        #[cfg(loom)]
        {
            let until = now() + limit;
            if !model_time::limit_passes() {
                return (self.wait(guard), Waited::Woken);
            }
            // Out of the line before any notification, as any task that times out is: none can be swallowed.
            let mutex = guard.mutex;
            drop(guard);
            model_time::advance_to(until);
            (mutex.lock(), Waited::TimedOut)
        }
        #[cfg(shuttle)]
        {
            use shuttle::rand::Rng;
            if shuttle::rand::thread_rng().gen_range(0..4) > 0 {
                return (self.wait(guard), Waited::Woken);
            }
            (guard, Waited::TimedOut)
        }
        #[cfg(not(any(loom, shuttle)))]
        {
            let (guard, result) = self
                .0
                .wait_timeout(guard, limit)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            let waited = if result.timed_out() {
                Waited::TimedOut
            } else {
                Waited::Woken
            };
            (guard, waited)
        }
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// The present moment.
#[cfg(not(loom))]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The present moment of the execution that is being explored.
#[cfg(loom)]
pub(crate) fn now() -> Instant {
    model_time::now()
}

/// Starts a named thread.
pub(crate) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    primitives::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
}

/// The thread that asks.
pub(crate) fn this_thread() -> ThreadId {
    primitives::thread::current().id()
}
