//! The litmus set: published bugs of executors, worker pools and engines, as models of anybody's executor.
//!
//! | the bug | its model | needs |
//! |---|---|---|
//! | a remote wake is lost after one that was coalesced | [`a_wake_after_a_coalesced_one_is_not_lost`] | [`Executor`] |
//! | a completion is consumed, and `block_on`'s own future never polled again | [`a_completion_taken_among_tasks_reaches_block_on`] | [`Executor`] |
//! | a dropped future frees the buffer that the kernel still writes to | [`memory_outlives_the_future_that_is_dropped`] | [`Device`] |
//! | a bounded group starves, because its members are polled only while it is awaited | [`members_run_while_no_task_awaits_the_group`] | [`Group`] |
//! | a worker sleeps for ever at the shutdown | [`an_idle_worker_hears_of_the_shutdown`] | [`Workers`] |
//!
//! A bug shows as a deadlock, a leak, an unordered access (all reported by loom) or a failed assertion.
//!
//! # On another project's executor
//!
//! 1. Its atomics, locks, condition variables and threads must be loom's under `--cfg loom`; so must those of the task type it uses
//!    (see `atomic-shim`: what loom does not see is not checked, and passes).
//! 2. Depend on this crate under that cfg, implement the trait, and run each model in a process of its own:
//!
//! ```text
//! [target.'cfg(loom)'.dev-dependencies]
//! model = { path = "..." }
//! loom = "0.7"
//! ```
//! ```
//! # #[cfg(loom)] mod theirs {
//! struct Theirs(/* their executor */);
//!
//! impl model::litmus::Executor for Theirs {
//! #   fn new() -> Self { Theirs() }
//! #   fn spawn(&self, _: impl Future<Output = ()> + 'static) {}
//! #   fn block_on<T>(&self, future: impl Future<Output = T>) -> T { loom::future::block_on(future) }
//!     // new, spawn, block_on
//! }
//!
//! // A test:
//! fn a_wake_after_a_coalesced_one_is_not_lost() {
//!     let mut loom = loom::model::Builder::new();
//!     loom.preemption_bound = Some(2);
//!     loom.check(model::litmus::a_wake_after_a_coalesced_one_is_not_lost::<Theirs>);
//! }
//! # }
//! ```
//! 3. See that it can fail: [`toy`] has an executor, a group, a device and a worker pool that are right, and each once more with its
//!    bug. `cargo loom` runs all of these: the right ones must pass, each wrong one must be caught.
mod models; // the five models
pub mod toy; // right and wrong implementations, to see that the models can tell

pub use models::{
    a_completion_taken_among_tasks_reaches_block_on, a_wake_after_a_coalesced_one_is_not_lost,
    an_idle_worker_hears_of_the_shutdown, members_run_while_no_task_awaits_the_group,
    memory_outlives_the_future_that_is_dropped,
};

use std::future::Future;

use loom::sync::Arc;

use crate::models::support::Tracked;

/// A single-threaded executor. Each execution of a model makes one, uses it on the thread that made it, and drops it there.
pub trait Executor: Sized + 'static {
    /// A new one.
    fn new() -> Self;

    /// Makes a task of `future`: from now on it runs whenever it is woken and the executor runs. It may be dropped with the executor.
    fn spawn(&self, future: impl Future<Output = ()> + 'static);

    /// Runs tasks and `future` on this thread until `future` is ready, and sleeps while there is nothing to do.
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T;
}

/// Something that keeps at most so many futures going.
pub trait Group: Sized {
    /// What its futures run on.
    type Executor: Executor;

    /// A group of at most `max` members.
    fn new(executor: &Self::Executor, max: usize) -> Self;

    /// Waits for room, then adds a member.
    fn start(&self, member: impl Future<Output = ()> + 'static) -> impl Future<Output = ()>;

    /// Waits for the end of all members.
    fn wait_all(&self) -> impl Future<Output = ()>;
}

/// Something that lets a kernel write to memory.
pub trait Device: Sized {
    /// What its requests run on.
    type Executor: Executor;

    /// A device without requests.
    fn new(executor: &Self::Executor) -> Self;

    /// Submits at its first poll: gives [`Memory::address`] to `kernel`, which calls back, on its own thread, when it has written
    /// there. Ready after that. It may be dropped at any time.
    fn read(&self, memory: Memory, kernel: Kernel) -> impl Future<Output = ()>;
}

/// Threads that run jobs.
pub trait Workers: Sized {
    /// At least one thread.
    fn new() -> Self;

    /// Runs `job` on one of the threads.
    fn run(&self, job: impl FnOnce() + Send + 'static);

    /// Runs what is queued, and returns when all threads have ended.
    fn shutdown(self);
}

/// Memory that its owner frees by dropping it.
pub struct Memory(Arc<Tracked<bool>>);

impl Memory {
    fn new() -> Self {
        Self(Arc::new(Tracked::new(false)))
    }

    /// What the kernel is given. It does not keep the memory.
    pub fn address(&self) -> Address {
        Address(self.0.clone())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.set(true); // a write that no task has ordered after the kernel's fails the model
    }
}

/// Where some [`Memory`] is, or was.
pub struct Address(Arc<Tracked<bool>>);

impl Address {
    fn write(&self) {
        assert!(!self.0.get(), "the kernel wrote to memory that was freed");
    }
}

/// One request of the kernel's, which it carries out on another thread.
pub struct Kernel {
    /// Keeps the thread, so that the model can wait for it.
    started: std::rc::Rc<std::cell::RefCell<Vec<loom::thread::JoinHandle<()>>>>,
}

impl Kernel {
    /// Writes to `at`, some time, then calls `done`.
    pub fn submit(self, at: Address, done: impl FnOnce() + Send + 'static) {
        let thread = loom::thread::spawn(move || {
            at.write();
            drop(at);
            done();
        });
        self.started.borrow_mut().push(thread);
    }
}
