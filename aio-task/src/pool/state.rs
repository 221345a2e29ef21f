//! What all handles, slots and tasks of one pool share.

use std::cell::{Cell, RefCell};
use std::mem;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::{Rc, Weak};

use slab::Slab;

use super::accounts::{Accounts, Ended};
use super::error::PoolError;
use super::verdict::{Outcome, Payload, Verdict, text};
use crate::AioHandle;
use crate::sync;
use crate::wait_list::Wakes;

/// A task that was started and has not ended, as its pool sees it.
pub(super) trait LiveTask {
    fn index(&self) -> u64;

    /// The last handle of the pool is gone.
    fn cancel(&self);
}

/// No method holds one of these borrows while foreign code runs: a future, a waker, an error's clone or drop.
pub(super) struct State<E: 'static> {
    /// Weak: the pool does not keep its context alive.
    pub(super) handle: AioHandle,
    pub(super) accounts: RefCell<Accounts>,
    verdict: RefCell<Verdict<E>>,
    /// Every task that was started and has not ended. Weak: the context owns the tasks, so that no cycle keeps a pool
    /// alive; a task holds its pool's `State` only, never a handle that would keep the pool open.
    tasks: RefCell<Slab<Weak<dyn LiveTask>>>,
    /// Index of the next task to start.
    next_index: Cell<u64>,
    /// The context went away with a task that had not ended: the pool's work was not done, and `wait_all` must not say so. Set once.
    pub(super) lost: Cell<bool>,
    life: Cell<Life>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    /// The last handle is gone: whatever still runs ends at its current poll's return. Payloads are still thrown.
    Closing,
    /// No caller is left to throw a payload at.
    Closed,
}

impl<E: 'static> State<E> {
    pub(super) fn new(handle: AioHandle, max: NonZeroUsize) -> Self {
        State {
            handle,
            accounts: RefCell::new(Accounts::new(max)),
            verdict: RefCell::new(Verdict::new()),
            tasks: RefCell::new(Slab::new()),
            next_index: Cell::new(0),
            lost: Cell::new(false),
            life: Cell::new(Life::Open),
        }
    }

    /// Tells this pool from every other that is alive.
    pub(super) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.life.get() != Life::Open
    }

    pub(super) fn take_index(&self) -> u64 {
        self.next_index.replace(self.next_index.get() + 1)
    }

    /// The last handle is gone: every task is cancelled now, in the order they were started. The one that drops the
    /// handle, if it is a task, is being polled; it goes when that poll returns.
    pub(super) fn close(&self) {
        self.life.set(Life::Closing);
        for cell in self.live_tasks() {
            cell.cancel();
        }
        self.life.set(Life::Closed);
        if let Some(payload) = self.take_payload() {
            throw_or_print(payload);
        }
    }

    /// Notes a started task; the key is for [`ended`](Self::ended) or [`released`](Self::released).
    pub(super) fn enter(&self, cell: Weak<dyn LiveTask>) -> usize {
        self.tasks.borrow_mut().insert(cell)
    }

    /// A task's whole end, in the order that its waiters rely on: busy drops, the status is set, the future is freed,
    /// and only then is anyone woken.
    pub(super) fn ended(&self, key: usize, index: u64, outcome: Outcome<E>, future: impl Sized) {
        self.tasks.borrow_mut().remove(key);
        let end = self.accounts.borrow_mut().end();
        let (error, payload) = outcome.into_error(index);
        let failed = error.is_some();
        self.record(error, payload);
        self.drop_future(index, future, failed);
        self.tell(end);
    }

    /// A queued task's end before its first poll: its slot comes back, and it counts as nothing else.
    pub(super) fn released(&self, key: usize, index: u64, future: impl Sized) {
        self.tasks.borrow_mut().remove(key);
        self.drop_future(index, future, false);
        self.release_slot();
    }

    /// A reserved slot is given back.
    pub(super) fn release_slot(&self) {
        let mut wakes = Wakes::default();
        self.accounts.borrow_mut().release(&mut wakes);
        wakes.wake();
    }

    pub(super) fn status(&self) -> Option<PoolError<E>>
    where
        E: Clone,
    {
        let status = self.verdict.borrow().status();
        status.map(|error| (*error).clone())
    }

    pub(super) fn errors(&self) -> u64 {
        self.verdict.borrow().errors()
    }

    pub(super) fn take_payload(&self) -> Option<Payload> {
        self.verdict.borrow_mut().take_payload()
    }

    /// In the order they were started.
    fn live_tasks(&self) -> Vec<Rc<dyn LiveTask>> {
        let tasks = self.tasks.borrow();
        let mut cells: Vec<_> = tasks
            .iter()
            .filter_map(|(_, cell)| cell.upgrade())
            .collect();
        cells.sort_by_key(|cell| cell.index());
        cells
    }

    fn tell(&self, end: Ended) {
        let mut wakes = Wakes::default();
        self.accounts.borrow_mut().tell(end, &mut wakes);
        wakes.wake();
    }

    /// Takes note of a failure. What no caller wants is dropped here: foreign code, whose panic must not keep those who wait for the task's
    /// end from being woken. It counts as this task's panic.
    fn record(&self, error: Option<PoolError<E>>, payload: Option<Payload>) {
        if let Some(error) = error.map(Rc::new) {
            let spare = self.verdict.borrow_mut().count(error);
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(spare))) {
                self.keep(payload);
            }
        }
        if let Some(payload) = payload {
            self.keep(payload);
        }
    }

    /// Keeps a payload for the next `wait_all`; prints it where there will be none.
    fn keep(&self, payload: Payload) {
        let spare = if self.life.get() == Life::Closed {
            // The panic hook has printed its message; this says whose it was.
            print(&payload);
            Some(payload)
        } else {
            self.verdict.borrow_mut().keep(payload)
        };
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(spare))) {
            mem::forget(again); // a payload that panics when dropped, of one that did
        }
    }

    /// Drops a task's future, which is foreign code: its panic counts like one in a poll, unless the task failed anyway.
    fn drop_future(&self, index: u64, future: impl Sized, failed: bool) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(future))) {
            let error = (!failed).then_some(PoolError::Panicked { index });
            self.record(error, Some(payload));
        }
    }
}

fn throw_or_print(payload: Payload) {
    if sync::panicking() {
        print(&payload);
    } else {
        resume_unwind(payload);
    }
}

fn print(payload: &Payload) {
    // `eprintln` panics where stderr cannot be written, and this thread may be panicking already.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        eprintln!(
            "aio-task: a task of a dropped pool had panicked: {}",
            text(payload)
        );
    }));
}
