//! Tasks: how a future becomes one, and how its end is told.
use std::any::Any;
use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use async_task::{FallibleTask, Runnable};
use pin_project::{pin_project, pinned_drop};
use slab::Slab;

use super::Remote;
use super::run_queue::{Item, deliver};
use crate::sync::Arc;

type Payload = Box<dyn Any + Send>;

/// The owner's handle of a spawned task: a future of its output.
///
/// Dropping it cancels the task: its future is dropped by the context, on the context's thread, in its next turn.
/// [`detach`](Self::detach) lets the task run on instead.
#[must_use = "dropping the handle cancels the task; use `detach` to let it run on"]
pub struct JoinHandle<T> {
    /// `None`: the context had gone before the task was made, or the output was taken.
    task: Option<FallibleTask<Result<T, Payload>>>,
}

impl<T> JoinHandle<T> {
    pub(super) fn of(task: FallibleTask<Result<T, Payload>>) -> Self {
        Self { task: Some(task) }
    }

    pub(super) fn cancelled() -> Self {
        Self { task: None }
    }

    /// Gives up the output; the task runs on until it ends or its context is dropped.
    pub fn detach(mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }

    /// Whether the task has ended, so that the handle resolves at once.
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(FallibleTask::is_finished)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = self.task.as_mut() else {
            return Poll::Ready(Err(JoinError::Cancelled));
        };
        let output = ready!(Pin::new(task).poll(cx));
        self.task = None;
        Poll::Ready(match output {
            Some(Ok(output)) => Ok(output),
            Some(Err(payload)) => Err(JoinError::Panicked(payload)),
            None => Err(JoinError::Cancelled),
        })
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// Why a task has no output.
#[derive(Debug)]
pub enum JoinError {
    /// Its context has gone, or had gone before it was spawned.
    Cancelled,
    /// It panicked, with this payload. The context and all other tasks go on.
    Panicked(Payload),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JoinError::Cancelled => "the task was cancelled",
            JoinError::Panicked(_) => "the task panicked",
        })
    }
}

impl Error for JoinError {}

/// Makes a task of `future`. It is not queued: the runnable is the right to poll it once.
pub(super) fn make<F: Future + 'static>(
    tasks: &Rc<Tasks>,
    remote: &Arc<Remote>,
    future: F,
) -> (Runnable, FallibleTask<Result<F::Output, Payload>>) {
    let key = tasks.wakers.borrow_mut().insert(None);
    let body = Body {
        future: Some(future),
        _live: Live {
            tasks: tasks.clone(),
            key,
        },
    };
    let remote = remote.clone();
    let (runnable, task) =
        async_task::spawn_local(body, move |runnable| deliver(&remote, Item::Task(runnable)));
    tasks.wakers.borrow_mut()[key] = Some(runnable.waker());
    (runnable, task.fallible())
}

/// The tasks whose futures are alive. Owned by the context; each task holds its own entry.
#[derive(Default)]
pub(super) struct Tasks {
    /// `None` only while the task is being made.
    wakers: RefCell<Slab<Option<Waker>>>,
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.wakers.borrow().len()
    }

    /// A waker for each.
    pub(super) fn wakers(&self) -> Vec<Waker> {
        self.wakers
            .borrow()
            .iter()
            .filter_map(|(_, waker)| waker.clone())
            .collect()
    }
}

/// A task's entry among the live ones. Dropped after the user's future, by the context's thread.
struct Live {
    tasks: Rc<Tasks>,
    key: usize,
}

impl Drop for Live {
    fn drop(&mut self) {
        let waker = self.tasks.wakers.borrow_mut().try_remove(self.key);
        drop(waker); // outside the borrow: it may be the last reference to something of the task
    }
}

/// A user's future inside its task. No panic leaves it: async-task would take the process down for one in a destructor.
#[pin_project(PinnedDrop)]
struct Body<F> {
    /// `None` once it has ended: it is dropped before its output is seen by anyone.
    #[pin]
    future: Option<F>,
    _live: Live,
}

impl<F: Future> Future for Body<F> {
    type Output = Result<F::Output, Payload>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.project().future;
        let Some(future) = slot.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let output = match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(payload) => Err(payload),
        };
        let dropped = catch_unwind(AssertUnwindSafe(|| slot.set(None)));
        Poll::Ready(match (output, dropped) {
            (Ok(output), Ok(())) => Ok(output),
            (Err(payload), Ok(())) | (Ok(_), Err(payload)) => Err(payload),
            (Err(payload), Err(second)) => {
                swallow_panic(|| drop(second));
                Err(payload)
            }
        })
    }
}

#[pinned_drop]
impl<F> PinnedDrop for Body<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut slot = self.project().future;
        // There is no caller left to report to.
        swallow_panic(|| slot.set(None));
    }
}

/// Runs foreign code whose panic concerns no caller: the panic hook has told of it. Nor does a payload that panics when it is dropped.
pub(super) fn swallow_panic(code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code))
        && let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload)))
    {
        mem::forget(again);
    }
}
