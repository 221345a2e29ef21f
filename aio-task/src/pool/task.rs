//! One task of a pool: the user's future, where the pool can reach it, inside a shell that the context runs.
//!
//! The future lives in a [`TaskCell`] and not in the shell itself, because the drop of the pool's last handle has to
//! free it at once, and a context frees its tasks only in its own time.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use futures::future::LocalBoxFuture;

use super::state::{LiveTask, State};
use super::verdict::Outcome;
use crate::{NotDriven, nesting};

/// Turns a reserved slot into a task: polled once before this returns, unless inline polls are nested too deep. Returns its index.
///
/// The slot is the task's from here on. If the pool or its context is gone, the slot is given back and the future is dropped unpolled.
pub(super) fn launch<E: 'static>(
    state: &Rc<State<E>>,
    future: LocalBoxFuture<'static, Result<(), E>>,
) -> Result<u64, NotDriven> {
    let index = state.take_index();
    let cell = Rc::new_cyclic(|cell| TaskCell {
        index,
        key: state.enter(cell.clone() as Weak<dyn LiveTask>),
        phase: Cell::new(Phase::Queued),
        future: Cell::new(Some(future)),
        shell: Cell::new(None),
        state: Rc::clone(state),
    });
    if state.is_closed() {
        cell.abandon();
        return Err(NotDriven);
    }
    let shell = state.handle.spawn_inline(Shell { cell });
    let shell = shell.map_err(|_abandoned: Shell<E>| NotDriven)?;
    shell.begin();
    Ok(index)
}

/// What the pool knows of one task.
pub(super) struct TaskCell<E: 'static> {
    index: u64,
    /// Where the pool keeps its weak reference.
    key: usize,
    phase: Cell<Phase>,
    /// Out while it is being polled; gone for good once the task ended.
    future: Cell<Option<LocalBoxFuture<'static, Result<(), E>>>>,
    /// Wakes the shell, so that it goes when its future was cancelled. Set when a poll leaves the task waiting.
    shell: Cell<Option<Waker>>,
    state: Rc<State<E>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not polled yet: its slot counts as reserved.
    Queued,
    /// Its first poll has begun.
    Busy,
    /// Its slot was given back.
    Ended,
}

/// The future that the context runs. Gone from the pool's accounts when it ends or is dropped.
struct Shell<E: 'static> {
    cell: Rc<TaskCell<E>>,
}

impl<E: 'static> Future for Shell<E> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.cell.poll(cx)
    }
}

impl<E: 'static> Drop for Shell<E> {
    fn drop(&mut self) {
        if self.cell.is_alive() && !self.cell.state.is_closed() {
            self.cell.state.lost.set(true);
        }
        self.cell.abandon();
    }
}

impl<E: 'static> LiveTask for TaskCell<E> {
    fn index(&self) -> u64 {
        self.index
    }

    /// The last handle of the pool is gone. Frees the future now; if it is being polled, [`poll`](Self::poll) does it.
    fn cancel(&self) {
        self.abandon();
        if let Some(shell) = self.shell.take() {
            shell.wake();
        }
    }
}

impl<E: 'static> TaskCell<E> {
    /// It has not ended, and is not being polled.
    fn is_alive(&self) -> bool {
        self.phase.get() != Phase::Ended
    }

    /// Ends the task without a result, unless it ended already or is being polled.
    fn abandon(&self) {
        let Some(future) = self.future.take() else {
            return;
        };
        match self.phase.replace(Phase::Ended) {
            Phase::Queued => self.state.released(self.key, self.index, future),
            Phase::Busy => self.end(Outcome::Cancelled, future),
            Phase::Ended => unreachable!("an ended task has no future"),
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(mut future) = self.future.take() else {
            return Poll::Ready(()); // cancelled
        };
        if self.phase.replace(Phase::Busy) == Phase::Queued {
            self.state.accounts.borrow_mut().begin();
        }
        let polled = {
            let _named = nesting::of_pool(self.state.address());
            catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)))
        };
        let outcome = match polled {
            Ok(Poll::Pending) if self.state.is_closed() => Outcome::Cancelled,
            Ok(Poll::Pending) => {
                self.keep(future, cx.waker());
                return Poll::Pending;
            }
            Ok(Poll::Ready(Ok(()))) => Outcome::Done,
            Ok(Poll::Ready(Err(error))) => Outcome::Failed(error),
            Err(payload) => Outcome::Panicked(payload),
        };
        self.phase.set(Phase::Ended);
        self.end(outcome, future);
        Poll::Ready(())
    }

    fn keep(&self, future: LocalBoxFuture<'static, Result<(), E>>, waker: &Waker) {
        let shell = self.shell.take().unwrap_or_else(|| waker.clone());
        self.shell.set(Some(shell));
        self.future.set(Some(future));
    }

    fn end(&self, outcome: Outcome<E>, future: LocalBoxFuture<'static, Result<(), E>>) {
        self.state.ended(self.key, self.index, outcome, future);
    }
}
