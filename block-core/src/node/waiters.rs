//! Sleepers that wait for a condition of the node: in the order they came.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Who waits. Allocates only while a task waits.
#[derive(Default)]
pub(super) struct Waiters {
    /// The next ticket; only grows, so that the map is in the order of arrival.
    next: Cell<u64>,
    /// Ticket -> waker. An entry is set by a poll that found the condition false, taken by `wake_all` or by dropping the wait.
    asleep: RefCell<BTreeMap<u64, Waker>>,
}

impl Waiters {
    /// Ready as soon as `done` says so when polled. A task that makes `done` true calls [`Waiters::wake_all`] after it.
    pub(super) fn until<C: Fn() -> bool + Unpin>(&self, done: C) -> Until<'_, C> {
        Until {
            waiters: self,
            done,
            ticket: None,
        }
    }

    /// Wakes everybody; each looks at its condition again.
    pub(super) fn wake_all(&self) {
        // The borrow ends before a waker runs: a waker may come back here.
        let woken = std::mem::take(&mut *self.asleep.borrow_mut());
        woken.into_values().for_each(Waker::wake);
    }

    /// Wakes the one that came first.
    pub(super) fn wake_first(&self) {
        let first = self.asleep.borrow_mut().pop_first();
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }
}

/// The future of [`Waiters::until`]. Dropping it gives up the place.
pub(super) struct Until<'a, C> {
    waiters: &'a Waiters,
    done: C,
    /// Set by the first poll that had to wait.
    ticket: Option<u64>,
}

impl<C: Fn() -> bool + Unpin> Future for Until<'_, C> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if (this.done)() {
            return Poll::Ready(());
        }
        let waiters = this.waiters;
        let ticket = *this.ticket.get_or_insert_with(|| {
            let ticket = waiters.next.get();
            waiters.next.set(ticket + 1);
            ticket
        });
        let waker = cx.waker().clone();
        let old = waiters.asleep.borrow_mut().insert(ticket, waker);
        drop(old); // outside the borrow
        Poll::Pending
    }
}

impl<C> Drop for Until<'_, C> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let waker = self.waiters.asleep.borrow_mut().remove(&ticket);
            drop(waker); // outside the borrow
        }
    }
}
