//! How a context sleeps: until woken, until a moment, or until a file descriptor is ready.
mod condvar;
#[cfg(not(any(loom, shuttle)))]
mod epoll;

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

pub use condvar::CondvarReactor;
#[cfg(not(any(loom, shuttle)))]
pub use epoll::EpollReactor;

/// The seam between a context and what it sleeps in.
///
/// The context calls it from its own thread only. Another thread reaches a sleeping context through the [`Unpark`] handle.
pub trait Reactor {
    /// The handle that ends a [`park`](Self::park). Called once, when the context is built; it may outlive the reactor.
    fn unparker(&self) -> Box<dyn Unpark>;

    /// Sleeps until unparked, until `limit` has passed (`None`: no limit; zero: only looks), or until a registered descriptor is
    /// ready. The keys of ready descriptors are appended to `ready`; each is reported once and is then registered no more.
    ///
    /// An unpark that came before the call ends it at once. It may return early for no reason; a signal is such a reason, not an
    /// error.
    fn park(&mut self, limit: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()>;

    /// Looks for ready descriptors without sleeping. Called between runs of tasks, so it should do nothing at all when nothing is
    /// registered; it need not take notice of an unpark.
    fn look(&mut self, ready: &mut Vec<u64>) -> io::Result<()> {
        self.park(Some(Duration::ZERO), ready)
    }

    /// Reports `key` once when `fd` becomes ready for `interest`. The reactor owns the descriptor until it was reported or
    /// [`forget`](Self::forget)ten. Keys are never used twice.
    ///
    /// `Ok(false)`: this descriptor is always ready (a regular file) and was not registered.
    /// An error: it cannot be waited for, [`io::ErrorKind::Unsupported`] if this reactor waits for no descriptors at all.
    fn register(&mut self, key: u64, fd: OwnedFd, interest: Interest) -> io::Result<bool> {
        let _ = (key, fd, interest);
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this reactor does not wait for file descriptors",
        ))
    }

    /// Takes a registration back. Keys that are not registered are ignored.
    fn forget(&mut self, key: u64) {
        let _ = key;
    }

    /// A second pair of eyes for a hosted context, which does not sleep itself: [`Watch::watch`] runs on a thread of its own, and
    /// the handle ends it early.
    fn watch(&self) -> io::Result<(Box<dyn Watch>, Box<dyn Unpark>)> {
        Ok(condvar::deadline_watch())
    }
}

/// Ends a sleep, from any thread, at any time, also when no task sleeps (then the next sleep ends at once).
pub trait Unpark: Send + Sync {
    /// Does it. Must not block.
    fn unpark(&self);
}

/// Waits, on a helper thread, for what a hosted context would sleep for.
pub trait Watch: Send {
    /// Blocks until a registered descriptor is ready, `until` has passed, or the handle that came with it was used. Takes nothing
    /// away: the context itself looks afterwards. It may return early for no reason.
    fn watch(&mut self, until: Option<Instant>);
}

/// What a descriptor is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// A read would not block: bytes, end of file or an error are there.
    Readable,
    /// A write would not block: there is room, or an error.
    Writable,
}
