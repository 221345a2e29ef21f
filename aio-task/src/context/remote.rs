//! A context as other threads see it.
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::task::{Wake, Waker};

use super::AioHandle;
use super::run_queue::{Item, here};
use crate::edge::inbox::Inbox;
use crate::edge::notifier::Notifier;
use crate::reactor::Unpark;
use crate::sync::{Arc, AtomicBool, Ordering, WakerArc};

/// The way into a context from other threads: it wakes it and submits work to it.
///
/// It does not keep the context alive. Clones reach the same context.
#[derive(Clone)]
pub struct RemoteHandle {
    pub(super) remote: Arc<Remote>,
}

impl RemoteHandle {
    /// Queues `job` to be called on the context's thread, after what is queued there, and wakes the context if it sleeps.
    ///
    /// Jobs of one thread run in the order in which they were submitted. A panic of the job is caught; the context goes on.
    /// `Err(Closed)`: the context has gone, and the job was dropped by this call. A job that was accepted and not run before the
    /// context is dropped is dropped with it, on its thread.
    pub fn submit(&self, job: impl FnOnce(&AioHandle) + Send + 'static) -> Result<(), Closed> {
        self.remote
            .send(Item::Job(Box::new(job)))
            .map_err(|_refused| Closed)
    }

    /// Makes the context take a turn: it looks at its inbox, descriptors and timers. Wakes it if it sleeps; harmless after its end.
    pub fn wake(&self) {
        self.remote.notifier.notify();
    }
}

impl fmt::Debug for RemoteHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteHandle").finish_non_exhaustive()
    }
}

/// The context has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the context has gone")
    }
}

impl Error for Closed {}

/// The part of a context that other threads share.
pub(crate) struct Remote {
    pub(super) notifier: Notifier,
    inbox: Inbox<Item>,
    /// `block_on`'s own future was woken from another thread. Set before the notification, cleared by the turn that takes it.
    main_woken: AtomicBool,
}

impl Remote {
    pub(super) fn new(unpark: Box<dyn Unpark>) -> Self {
        Self {
            notifier: Notifier::new(unpark),
            inbox: Inbox::new(),
            main_woken: AtomicBool::new(false),
        }
    }

    /// Any thread: leaves `item` in the inbox and notifies, or hands it back because the context has gone.
    pub(super) fn send(&self, item: Item) -> Result<(), Item> {
        self.inbox.push(item)?;
        self.notifier.notify();
        Ok(())
    }

    /// Owner: takes what was sent.
    pub(super) fn take_inbox(&self) -> VecDeque<Item> {
        self.inbox.take()
    }

    /// Owner: takes what was sent; from now on everything is refused.
    pub(super) fn close_inbox(&self) -> VecDeque<Item> {
        self.inbox.close()
    }

    /// Owner: whether another thread woke `block_on`'s future since the last time.
    pub(super) fn take_main(&self) -> bool {
        self.main_woken.swap(false, Ordering::AcqRel)
    }
}

/// The waker of `block_on`'s own future. One for all calls: a wake that comes late costs the next call one poll.
pub(super) fn main_waker(remote: &Arc<Remote>) -> Waker {
    Waker::from(WakerArc::new(MainWaker {
        remote: remote.clone(),
    }))
}

struct MainWaker {
    remote: Arc<Remote>,
}

impl Wake for MainWaker {
    fn wake(self: WakerArc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &WakerArc<Self>) {
        match here(&self.remote) {
            Some(queue) => queue.wake_main(),
            None => {
                self.remote.main_woken.swap(true, Ordering::AcqRel);
                self.remote.notifier.notify();
            }
        }
    }
}
