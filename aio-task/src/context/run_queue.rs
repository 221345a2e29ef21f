//! What is ready to run on a context's own thread, and how a wake-up finds its way there.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem;
use std::rc::Rc;
use std::task::Waker;

use async_task::Runnable;

use super::{AioHandle, Remote};
use crate::clock::ClockFollower;
use crate::sync::{Arc, per_thread};

/// One thing to run.
pub(crate) enum Item {
    /// A woken task: one poll.
    Task(Runnable),
    /// Work that another thread submitted.
    Job(Box<dyn FnOnce(&AioHandle) + Send>),
}

/// Sends `item` to its context: on the context's own thread to the run queue, without lock, atomic or system call; from any other
/// thread through the inbox. An item that comes too late is dropped.
pub(super) fn deliver(remote: &Arc<Remote>, item: Item) {
    match here(remote) {
        Some(queue) => queue.push(item),
        // A refused task has lost its future already: its context drops every future before it closes the inbox.
        None => drop(remote.send(item)),
    }
}

/// The run queue of `remote`'s context, if this is its thread.
pub(super) fn here(remote: &Arc<Remote>) -> Option<Rc<RunQueue>> {
    let id = Arc::as_ptr(remote);
    // While a thread ends there is no table any more; then the inbox does as well.
    let found = QUEUES.try_with(|queues| {
        queues
            .borrow()
            .iter()
            .find(|(key, _)| *key == id)
            .map(|(_, queue)| queue.clone())
    });
    found.ok().flatten()
}

per_thread! {
    /// The contexts of this thread. Mostly one, so a list is enough. The key is the address of the remote side: any task that asks holds
    /// it alive, so that it cannot be another context's.
    static QUEUES: RefCell<Vec<(*const Remote, Rc<RunQueue>)>> = RefCell::default();
}

pub(super) struct RunQueue {
    /// First in, first out.
    items: RefCell<VecDeque<Item>>,
    /// `block_on`'s own future was woken on this thread, or is new. Cleared by the poll that follows.
    main_woken: Cell<bool>,
    /// The loop is on this thread's stack and looks at the queue before it sleeps: no task needs to be told of a push.
    turning: Cell<bool>,
    /// The hosts that wait for something to run, each under the key of its `Drive`. Emptied by waking them all.
    hosts: RefCell<Vec<(u64, Waker)>>,
}

impl RunQueue {
    /// The queue of a new context on this thread, known to [`here`] until [`retire`](Self::retire).
    pub(super) fn enlist(remote: &Arc<Remote>) -> Rc<Self> {
        let queue = Rc::new(Self {
            items: RefCell::default(),
            main_woken: Cell::new(false),
            turning: Cell::new(false),
            hosts: RefCell::default(),
        });
        let _ = QUEUES.try_with(|queues| {
            queues
                .borrow_mut()
                .push((Arc::as_ptr(remote), queue.clone()))
        });
        queue
    }

    /// From now on every wake-up takes the way of other threads.
    pub(super) fn retire(remote: &Arc<Remote>) {
        let id = Arc::as_ptr(remote);
        let _ = QUEUES.try_with(|queues| queues.borrow_mut().retain(|(key, _)| *key != id));
    }

    pub(super) fn push(&self, item: Item) {
        self.items.borrow_mut().push_back(item);
        self.nudge();
    }

    pub(super) fn pop(&self) -> Option<Item> {
        self.items.borrow_mut().pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.borrow().is_empty()
    }

    pub(super) fn wake_main(&self) {
        self.main_woken.set(true);
    }

    pub(super) fn main_is_woken(&self) -> bool {
        self.main_woken.get()
    }

    pub(super) fn take_main(&self) -> bool {
        self.main_woken.replace(false)
    }

    pub(super) fn is_turning(&self) -> bool {
        self.turning.get()
    }

    /// The loop is on the stack until the guard is dropped.
    pub(super) fn begin_turn(&self) -> Turning<'_> {
        Turning {
            queue: self,
            before: self.turning.replace(true),
        }
    }

    /// There is something to do: wakes the hosts, unless the loop is at it already.
    pub(super) fn nudge(&self) {
        if !self.turning.get() {
            for (_, host) in self.take_hosts() {
                host.wake();
            }
        }
    }

    pub(super) fn set_host(&self, key: u64, waker: Waker) {
        let replaced = {
            let mut hosts = self.hosts.borrow_mut();
            match hosts.iter_mut().find(|(k, _)| *k == key) {
                Some((_, old)) => Some(mem::replace(old, waker)),
                None => {
                    hosts.push((key, waker));
                    None
                }
            }
        };
        drop(replaced); // a host's waker is foreign code
    }

    pub(super) fn remove_host(&self, key: u64) {
        let removed = {
            let mut hosts = self.hosts.borrow_mut();
            hosts
                .iter()
                .position(|(k, _)| *k == key)
                .map(|at| hosts.swap_remove(at))
        };
        drop(removed);
    }

    pub(super) fn take_hosts(&self) -> Vec<(u64, Waker)> {
        if self.hosts.borrow().is_empty() {
            Vec::new()
        } else {
            self.hosts.take()
        }
    }
}

impl ClockFollower for RunQueue {
    fn clock_moved(&self) {
        self.nudge();
    }
}

/// See [`RunQueue::begin_turn`].
pub(super) struct Turning<'a> {
    queue: &'a RunQueue,
    before: bool,
}

impl Drop for Turning<'_> {
    fn drop(&mut self) {
        self.queue.turning.set(self.before);
    }
}
