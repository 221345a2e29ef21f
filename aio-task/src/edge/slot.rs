//! A place for one value that another thread delivers.
use std::error::Error;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::sync::{Arc, Mutex};

/// A pair that carries one value from any thread to the future which waits for it.
///
/// Either side may vanish first: a [`Completer`] that is dropped without a value resolves the [`Completion`] to [`Abandoned`], and
/// a value that no task waits for any more is dropped by the completer's thread.
pub fn slot<T: Send>() -> (Completer<T>, Completion<T>) {
    let state = Arc::new(Mutex::new(State::Empty));
    (
        Completer {
            state: Some(state.clone()),
        },
        Completion { state },
    )
}

/// The sending side of a [`slot()`]. Dropping it without a value resolves the other side to [`Abandoned`].
pub struct Completer<T> {
    /// Taken by `complete`.
    state: Option<Arc<Mutex<State<T>>>>,
}

impl<T> Completer<T> {
    /// Delivers `value` and wakes the waiter. Does not block. If the [`Completion`] is gone, `value` is dropped here.
    pub fn complete(mut self, value: T) {
        if let Some(state) = self.state.take() {
            settle(&state, State::Done(value));
        }
    }

    /// Whether the waiting side has been dropped, so that a value would reach no task.
    pub fn is_abandoned(&self) -> bool {
        self.state
            .as_ref()
            .is_none_or(|state| matches!(*state.lock(), State::Deaf))
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            settle(&state, State::Abandoned);
        }
    }
}

/// The waiting side of a [`slot()`]: a future of the value.
///
/// It resolves once; polled again after that, it resolves to [`Abandoned`]. Dropping it is always allowed: a value that has
/// arrived is dropped with it, a later one by its sender.
#[must_use = "a completion does nothing unless polled"]
pub struct Completion<T> {
    state: Arc<Mutex<State<T>>>,
}

impl<T> Future for Completion<T> {
    type Output = Result<T, Abandoned>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Wakers are cloned and dropped outside the lock: both are foreign code.
        let waker = cx.waker().clone();
        let replaced: Option<Waker>;
        {
            let mut state = self.state.lock();
            match mem::replace(&mut *state, State::Abandoned) {
                State::Done(value) => return Poll::Ready(Ok(value)),
                State::Abandoned | State::Deaf => return Poll::Ready(Err(Abandoned)),
                State::Waiting(old) => replaced = Some(old),
                State::Empty => replaced = None,
            }
            *state = State::Waiting(waker);
        }
        drop(replaced);
        Poll::Pending
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        let last = mem::replace(&mut *self.state.lock(), State::Deaf);
        drop(last); // outside the lock: a value's destructor is user code
    }
}

/// The sender has gone without delivering a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abandoned;

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sender went away without delivering a value")
    }
}

impl Error for Abandoned {}

impl<T> fmt::Debug for Completer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completer").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Completion<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").finish_non_exhaustive()
    }
}

/// What the slot holds. Both ends change it under its lock, and run no foreign code there.
enum State<T> {
    /// No task waits yet, nothing has arrived.
    Empty,
    /// The last poll found nothing. Left by the sender (who wakes it) or by the receiver's drop.
    Waiting(Waker),
    /// Delivered, not yet taken.
    Done(T),
    /// The sender has gone without a value, or the value was taken. Final unless the receiver goes as well.
    Abandoned,
    /// The receiver has gone. Final: what arrives now is dropped by its sender.
    Deaf,
}

/// The sender's last step: leaves `outcome` for the receiver and wakes it.
fn settle<T>(slot: &Mutex<State<T>>, outcome: State<T>) {
    let before = {
        let mut state = slot.lock();
        match *state {
            State::Deaf => outcome,
            _ => mem::replace(&mut *state, outcome),
        }
    };
    // Outside the lock: a waker may run anything, and so may the drop of a value no caller wants.
    if let State::Waiting(waker) = before {
        waker.wake();
    }
}
