//! How the pool's tasks have fared: the first error, the count of all, and the first panic's payload.

use std::any::Any;
use std::rc::Rc;

use super::error::PoolError;

pub(super) type Payload = Box<dyn Any + Send>;

/// How one task ended.
pub(super) enum Outcome<E> {
    /// It returned `Ok`.
    Done,
    /// It returned this error.
    Failed(E),
    /// It panicked with this payload.
    Panicked(Payload),
    /// Its future was dropped before it was ready. Not an error: no caller is left to report to, or its context went away.
    Cancelled,
}

impl<E> Outcome<E> {
    /// What the task counts as, and what may have to be thrown again.
    pub(super) fn into_error(self, index: u64) -> (Option<PoolError<E>>, Option<Payload>) {
        match self {
            Outcome::Done | Outcome::Cancelled => (None, None),
            Outcome::Failed(error) => (Some(PoolError::Task { index, error }), None),
            Outcome::Panicked(payload) => (Some(PoolError::Panicked { index }), Some(payload)),
        }
    }
}

pub(super) struct Verdict<E> {
    /// First failure of any ended task. Set once. Shared, so that it can be cloned for the caller (`E`'s code) while
    /// nothing is borrowed.
    status: Option<Rc<PoolError<E>>>,
    /// Tasks that failed, the first included.
    errors: u64,
    /// Of the first panic since the last `wait_all` threw one.
    payload: Option<Payload>,
}

impl<E> Verdict<E> {
    pub(super) const fn new() -> Self {
        Verdict {
            status: None,
            errors: 0,
            payload: None,
        }
    }

    pub(super) fn status(&self) -> Option<Rc<PoolError<E>>> {
        self.status.clone()
    }

    pub(super) fn errors(&self) -> u64 {
        self.errors
    }

    /// Counts a failure. It becomes the status if that was clean; else it is given back, to be dropped by the caller.
    #[must_use = "an error's drop is foreign code: not while the verdict is borrowed"]
    pub(super) fn count(&mut self, error: Rc<PoolError<E>>) -> Option<Rc<PoolError<E>>> {
        self.errors += 1;
        if self.status.is_some() {
            return Some(error);
        }
        self.status = Some(error);
        None
    }

    /// Keeps a payload for the next `wait_all` if none is kept; else gives it back, to be dropped by the caller.
    #[must_use = "a payload's drop is foreign code: not while the verdict is borrowed"]
    pub(super) fn keep(&mut self, payload: Payload) -> Option<Payload> {
        if self.payload.is_some() {
            return Some(payload);
        }
        self.payload = Some(payload);
        None
    }

    pub(super) fn take_payload(&mut self) -> Option<Payload> {
        self.payload.take()
    }
}

/// The text of a panic, where it has one.
pub(super) fn text(payload: &Payload) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
