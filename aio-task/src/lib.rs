//! QEMU's `AioTaskPool` on a single-threaded futures executor.
//!
//! 1. An [`AioContext`] owns everything that runs on its thread. It is *owned* ([`AioContext::block_on`]) or *hosted* by another
//!    executor ([`AioContext::drive`]).
//! 2. An [`AioTaskPool`] keeps at most `max_busy_tasks` tasks running. `start_task` waits for a slot, then polls the new task once
//!    on the caller's stack, so that its I/O is submitted when `start_task` returns.
//! 3. Blocking calls go to a [`WorkerPool`]; their results come back through one cross-thread [`edge`].
//! 4. When a task ends, its result is folded into the pool's status (the first error wins), then waiters wake.
//! 5. `wait_all` returns that status once nothing is busy.
//!
#![doc = include_str!("../README.md")]
//!
//! # How it is built
//!
//! | module | what it knows |
//! |---|---|
//! | `context` | the loop: run queue, live tasks, timers, descriptors; three ways to drive it |
//! | `reactor` | how the loop sleeps, and how another thread ends that |
//! | [`edge`] | everything that crosses threads: notifier, inbox, slot, counter, cancel flag, a hosted context's watcher |
//! | `workers` | threads for calls that block |
//! | `pool`, `queue`, `mutex` | who waits for whom |
//! | `nesting` | which tasks are being polled on this thread's stack |
//! | `sync` | `std`, `loom` or `shuttle`; the only file that names any of them |
//!
//! A task is an `async-task`. Its wake-up asks a table of this thread for the context's run queue. Found: the task is pushed, and
//! that is all. Not found: this is another thread; the task goes to the inbox, and the notifier's word tells whether the owner
//! sleeps and must be woken by a system call. After 61 runs the loop looks outside again, so that a task which never rests starves
//! no task.
#![forbid(unsafe_code)]
mod clock;
mod context;
pub mod edge;
#[cfg(loom)]
#[doc(hidden)]
pub mod model;
mod mutex;
mod nesting;
mod pool;
mod queue;
mod reactor;
mod sync;
mod wait_list;
mod workers;

pub use clock::ManualClock;
pub use context::{
    AioContext, AioHandle, Builder, ByHand, Closed, Drive, JoinError, JoinHandle, NotDriven,
    Readiness, RemoteHandle, Sleep, TimedOut, Timeout, WhileDriven,
};
pub use mutex::{CoMutex, CoMutexGuard};
pub use pool::{AioTaskPool, PoolError, Slot, WaitAllError, WaitOneError};
pub use queue::{CoQueue, CoQueueWait};
#[cfg(not(any(loom, shuttle)))]
pub use reactor::EpollReactor;
pub use reactor::{CondvarReactor, Interest, Reactor, Unpark, Watch};
pub use workers::{Job, JobError, WorkerPool};
