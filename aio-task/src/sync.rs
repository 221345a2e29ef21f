//! The one file that decides between `std` and `loom`.
//!
//! Every atomic, lock, thread and thread-local of the crate comes from here, so that the code which is model-checked is the code
//! which ships. The wrappers hide poisoning (no lock of this crate is ever held while user code runs) and the one operation that
//! loom cannot do, a wait with a time limit.
#[cfg(loom)]
use loom as primitives;
#[cfg(not(loom))]
use std as primitives;

use std::io;
use std::time::Duration;

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

pub(crate) type MutexGuard<'a, T> = primitives::sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(primitives::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What ended a wait with a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Somebody notified, or the wait ended for no reason.
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

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0
            .wait(guard)
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for at most `limit`. A limit of zero has passed at once, without a wait.
    ///
    /// Under loom there is no time: a limit of zero passes at once, any other never does.
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
            (self.wait(guard), Waited::Woken)
        }
        #[cfg(not(loom))]
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
