//! Waiting for a moment.
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use pin_project::pin_project;

use super::AioHandle;
use crate::clock::Clock;

/// The future of [`AioHandle::sleep`] and [`AioHandle::sleep_until`]. Dropping it forgets the timer.
#[must_use = "a future does nothing unless polled"]
pub struct Sleep {
    handle: AioHandle,
    /// `None`: never.
    at: Option<Instant>,
    /// Our timer, set by a poll that came too early. Of a timer that has fired, it is stale.
    key: Option<TimerKey>,
}

impl Sleep {
    pub(super) fn new(handle: AioHandle, at: Option<Instant>) -> Self {
        Self {
            handle,
            at,
            key: None,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(core) = self.handle.open_core() else {
            return Poll::Ready(());
        };
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        if core.clock.now() >= at {
            if let Some(key) = self.key.take() {
                core.timers.remove(key);
            }
            return Poll::Ready(());
        }
        let new = self.key.is_none();
        let key = *self.key.get_or_insert_with(|| core.timers.new_key(at));
        core.timers.set(key, cx.waker().clone());
        if new {
            // A host must have the timer watched. Not for every poll: a host that polls its `Drive` and this future together would
            // wake itself without end.
            core.queue.nudge();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Some(key), Some(core)) = (self.key, self.handle.core.upgrade()) {
            core.timers.remove(key);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// The future of [`AioHandle::timeout`]. Dropping it drops the inner future.
#[pin_project]
#[derive(Debug)]
#[must_use = "a future does nothing unless polled"]
pub struct Timeout<F> {
    #[pin]
    future: F,
    #[pin]
    sleep: Sleep,
}

impl<F> Timeout<F> {
    pub(super) fn new(sleep: Sleep, future: F) -> Self {
        Self { future, sleep }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        this.sleep.poll(cx).map(|()| Err(TimedOut))
    }
}

/// The time given had passed before the future was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time limit passed")
    }
}

impl Error for TimedOut {}

/// When, and which of those at the same moment.
pub(super) type TimerKey = (Instant, u64);

/// The pending timers of a context, the next one first.
#[derive(Default)]
pub(super) struct Timers {
    next: Cell<u64>,
    wakers: RefCell<BTreeMap<TimerKey, Waker>>,
}

impl Timers {
    fn new_key(&self, at: Instant) -> TimerKey {
        let number = self.next.get();
        self.next.set(number + 1);
        (at, number)
    }

    fn set(&self, key: TimerKey, waker: Waker) {
        let replaced = self.wakers.borrow_mut().insert(key, waker);
        drop(replaced);
    }

    fn remove(&self, key: TimerKey) {
        let removed = self.wakers.borrow_mut().remove(&key);
        drop(removed);
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.wakers
            .borrow()
            .first_key_value()
            .map(|((at, _), _)| *at)
    }

    /// Wakes those that are due, in their order.
    pub(super) fn fire(&self, clock: &Clock) {
        let Some(next) = self.next() else { return };
        let now = clock.now();
        if next > now {
            return;
        }
        let due = {
            let mut wakers = self.wakers.borrow_mut();
            let later = wakers.split_off(&(now, u64::MAX)); // no timer has this number
            mem::replace(&mut *wakers, later)
        };
        for (_, waker) in due {
            waker.wake();
        }
    }

    pub(super) fn wake_all(&self) {
        let all = mem::take(&mut *self.wakers.borrow_mut());
        for (_, waker) in all {
            waker.wake();
        }
    }
}
