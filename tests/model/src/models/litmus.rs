//! The [litmus set](crate::litmus) over the production executor, pool, node and workers.
use std::cell::RefCell;
use std::num::NonZeroUsize;

use aio_task::edge::{Completer, slot};
use aio_task::{AioContext, AioHandle, AioTaskPool, WorkerPool};

use crate::litmus::{self, Device, Executor, Group, Kernel, Memory, Workers};

crate::models![
    litmus_a_wake_after_a_coalesced_one_is_not_lost: [12],
    litmus_a_completion_taken_among_tasks_reaches_block_on: [27],
    litmus_memory_outlives_the_future_that_is_dropped: [48],
    litmus_members_run_while_no_task_awaits_the_group: [30],
    litmus_an_idle_worker_hears_of_the_shutdown: [37],
];

fn litmus_a_wake_after_a_coalesced_one_is_not_lost() {
    litmus::a_wake_after_a_coalesced_one_is_not_lost::<AioContext>();
}

fn litmus_a_completion_taken_among_tasks_reaches_block_on() {
    litmus::a_completion_taken_among_tasks_reaches_block_on::<AioContext>();
}

fn litmus_memory_outlives_the_future_that_is_dropped() {
    litmus::memory_outlives_the_future_that_is_dropped::<Requests>();
}

fn litmus_members_run_while_no_task_awaits_the_group() {
    litmus::members_run_while_no_task_awaits_the_group::<AioTaskPool<()>>();
}

fn litmus_an_idle_worker_hears_of_the_shutdown() {
    litmus::an_idle_worker_hears_of_the_shutdown::<WorkerPool>();
}

impl Executor for AioContext {
    fn new() -> Self {
        AioContext::new().unwrap()
    }

    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.handle().spawn(future).detach();
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        AioContext::block_on(self, future)
    }
}

impl Group for AioTaskPool<()> {
    type Executor = AioContext;

    fn new(context: &AioContext, max: usize) -> Self {
        let max = NonZeroUsize::new(max).expect("room for a member");
        AioTaskPool::new(&context.handle(), max)
    }

    async fn start(&self, member: impl Future<Output = ()> + 'static) {
        let task = async move {
            member.await;
            Ok(())
        };
        self.start_task(task).await.unwrap();
    }

    async fn wait_all(&self) {
        AioTaskPool::wait_all(self).await.unwrap();
    }
}

/// Requests as a driver makes them: the memory goes along with the I/O, and comes back with its completion.
struct Requests {
    handle: AioHandle,
    /// Dropped with the device; a completion that no task waits for drops its memory where it is.
    made: RefCell<Vec<aio_task::JoinHandle<()>>>,
}

impl Device for Requests {
    type Executor = AioContext;

    fn new(context: &AioContext) -> Self {
        Self {
            handle: context.handle(),
            made: RefCell::default(),
        }
    }

    async fn read(&self, memory: Memory, kernel: Kernel) {
        let (completer, completion) = slot();
        submit(memory, kernel, completer);
        let request = self.handle.spawn_now(async move {
            let memory: Result<Memory, _> = completion.await;
            drop(memory);
        });
        self.made.borrow_mut().push(request);
    }
}

/// What an engine does: it owns the memory until the kernel is done, and hands it back with the result.
fn submit(memory: Memory, kernel: Kernel, completer: Completer<Memory>) {
    kernel.submit(memory.address(), move || completer.complete(memory));
}

impl Workers for WorkerPool {
    fn new() -> Self {
        WorkerPool::new(NonZeroUsize::MIN)
    }

    fn run(&self, job: impl FnOnce() + Send + 'static) {
        drop(WorkerPool::run(self, job));
    }

    fn shutdown(self) {
        WorkerPool::shutdown(&self);
    }
}
