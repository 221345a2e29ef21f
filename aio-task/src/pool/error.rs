//! What a pool call can answer besides success.

use std::error::Error;
use std::fmt;

use crate::NotDriven;

/// How a task failed. The pool keeps the first one of its life as its [`status`](super::AioTaskPool::status).
///
/// `index` is what [`start_task`](super::AioTaskPool::start_task) returned for that task: 0 for the first task that the
/// pool started, 1 for the second, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolError<E> {
    /// The task returned this error.
    Task {
        /// Which task.
        index: u64,
        /// What it returned.
        error: E,
    },
    /// The task panicked, in a poll or while its future was dropped. The payload goes to the next
    /// [`wait_all`](super::AioTaskPool::wait_all).
    Panicked {
        /// Which task.
        index: u64,
    },
}

impl<E> PoolError<E> {
    /// Which task failed first.
    pub fn index(&self) -> u64 {
        match self {
            PoolError::Task { index, .. } | PoolError::Panicked { index } => *index,
        }
    }
}

/// `{}` leaves the task's own error out, which is the source; `{:#}` prints it too.
impl<E: fmt::Display> fmt::Display for PoolError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::Task { index, error } if f.alternate() => {
                write!(f, "task {index} failed: {error:#}")
            }
            PoolError::Task { index, .. } => write!(f, "task {index} failed"),
            PoolError::Panicked { index } => write!(f, "task {index} panicked"),
        }
    }
}

impl<E: Error + 'static> Error for PoolError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            PoolError::Task { error, .. } => Some(error),
            PoolError::Panicked { .. } => None,
        }
    }
}

/// Why [`wait_one`](super::AioTaskPool::wait_one) did not wait for a task's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitOneError {
    /// No task is busy: there is no end to wait for. (QEMU asserts here.)
    NothingBusy,
    /// A task is busy, but the pool's context is not driven, so that it cannot end.
    NotDriven,
}

impl fmt::Display for WaitOneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WaitOneError::NothingBusy => "no task of the pool is busy",
            WaitOneError::NotDriven => "a task of the pool is busy, but its context is not driven",
        })
    }
}

impl Error for WaitOneError {}

impl From<NotDriven> for WaitOneError {
    fn from(_: NotDriven) -> Self {
        WaitOneError::NotDriven
    }
}

/// Why [`wait_all`](super::AioTaskPool::wait_all) has no clean end to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitAllError<E> {
    /// Every task has ended; this was the first failure of the pool's life.
    Status(PoolError<E>),
    /// A task of this pool waited for all tasks of this pool, itself included. (QEMU waits for ever.)
    WaitsForItself,
    /// A task is busy or a slot is reserved, but the pool's context is not driven; or the context went away before its tasks had ended.
    NotDriven,
}

impl<E: fmt::Display> fmt::Display for WaitAllError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitAllError::Status(error) => error.fmt(f),
            WaitAllError::WaitsForItself => {
                f.write_str("a task of the pool waits for all tasks of the pool, itself included")
            }
            WaitAllError::NotDriven => {
                f.write_str("tasks of the pool have not ended, and its context is not driven")
            }
        }
    }
}

impl<E: Error + 'static> Error for WaitAllError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            WaitAllError::Status(error) => error.source(), // this prints what the status prints
            WaitAllError::WaitsForItself | WaitAllError::NotDriven => None,
        }
    }
}

impl<E> From<NotDriven> for WaitAllError<E> {
    fn from(_: NotDriven) -> Self {
        WaitAllError::NotDriven
    }
}
