//! The smallest implementations that the litmus set passes, and each once more with the bug that its model must catch.
//!
//! The bug is a const parameter: a wrong one differs from the right one in the lines that ask for it.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{
    Device, Executor, Group, Kernel, Memory, Workers,
    a_completion_taken_among_tasks_reaches_block_on, a_wake_after_a_coalesced_one_is_not_lost,
    an_idle_worker_hears_of_the_shutdown, members_run_while_no_task_awaits_the_group,
    memory_outlives_the_future_that_is_dropped,
};

/// One bug, its model over the right implementation and over the wrong one.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The bug.
    pub name: &'static str,
    /// Passes.
    pub right: fn(),
    /// Fails.
    pub wrong: fn(),
    /// What the report of the failure says.
    pub report: &'static str,
}

/// Every published bug of the set.
pub const CASES: &[Case] = &[
    Case {
        name: "a remote wake lost after a coalesced one",
        right: a_wake_after_a_coalesced_one_is_not_lost::<ToyExecutor<RIGHT>>,
        wrong: a_wake_after_a_coalesced_one_is_not_lost::<ToyExecutor<MARK_CLEARED_LATE>>,
        report: "deadlock",
    },
    Case {
        name: "a completion consumed and block_on never polled again",
        right: a_completion_taken_among_tasks_reaches_block_on::<ToyExecutor<RIGHT>>,
        wrong: a_completion_taken_among_tasks_reaches_block_on::<ToyExecutor<MAIN_FORGOTTEN>>,
        report: "deadlock",
    },
    Case {
        name: "a buffer freed by a dropped future while the kernel writes",
        right: memory_outlives_the_future_that_is_dropped::<ToyDevice<RIGHT>>,
        wrong: memory_outlives_the_future_that_is_dropped::<ToyDevice<OWNED_BY_THE_FUTURE>>,
        report: "Causality violation",
    },
    Case {
        name: "a bounded group that starves unless it is awaited",
        right: members_run_while_no_task_awaits_the_group::<ToyGroup<RIGHT>>,
        wrong: members_run_while_no_task_awaits_the_group::<ToyGroup<POLLED_WHEN_AWAITED>>,
        report: "deadlock",
    },
    Case {
        name: "a worker that sleeps for ever at the shutdown",
        right: an_idle_worker_hears_of_the_shutdown::<ToyWorkers<RIGHT>>,
        wrong: an_idle_worker_hears_of_the_shutdown::<ToyWorkers<CLOSED_WITHOUT_THE_LOCK>>,
        report: "deadlock",
    },
];

/// No bug.
pub const RIGHT: u8 = 0;
/// A task's mark "is queued" is cleared after its poll: a wake during the poll finds it set, and is lost.
pub const MARK_CLEARED_LATE: u8 = 1;
/// What woke `block_on`'s own future while tasks ran is thrown away with their wake-ups.
pub const MAIN_FORGOTTEN: u8 = 2;
/// The memory of a request belongs to its future.
pub const OWNED_BY_THE_FUTURE: u8 = 3;
/// The members of a group are polled by `start` and `wait_all`, and by nothing else.
pub const POLLED_WHEN_AWAITED: u8 = 4;
/// The mark "is closed" is set without the lock under which the worker looks at it and goes to sleep.
pub const CLOSED_WITHOUT_THE_LOCK: u8 = 5;

/// An executor. Clones are the same.
#[derive(Clone)]
pub struct ToyExecutor<const BUG: u8> {
    bell: Arc<Bell>,
    tasks: Rc<RefCell<Vec<Rc<Task>>>>,
}

struct Task {
    future: RefCell<Option<LocalFuture>>,
    state: StdArc<TaskState>,
}

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

struct TaskState {
    number: usize,
    /// It is in the queue.
    queued: AtomicBool,
    bell: Arc<Bell>,
}

impl Wake for TaskState {
    fn wake(self: StdArc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.bell.ring(|woken| woken.tasks.push_back(self.number));
        }
    }
}

/// Where a thread sleeps.
#[derive(Default)]
struct Bell {
    woken: Mutex<Woken>,
    rung: Condvar,
}

#[derive(Default)]
struct Woken {
    tasks: VecDeque<usize>,
    main: bool,
}

impl Bell {
    fn ring(&self, why: impl FnOnce(&mut Woken)) {
        why(&mut self.woken.lock().unwrap());
        self.rung.notify_one();
    }
}

struct MainWaker(Arc<Bell>);

impl Wake for MainWaker {
    fn wake(self: StdArc<Self>) {
        self.0.ring(|woken| woken.main = true);
    }
}

impl<const BUG: u8> Executor for ToyExecutor<BUG> {
    fn new() -> Self {
        Self {
            bell: Arc::default(),
            tasks: Rc::default(),
        }
    }

    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        let state = StdArc::new(TaskState {
            number: tasks.len(),
            queued: AtomicBool::new(false),
            bell: self.bell.clone(),
        });
        tasks.push(Rc::new(Task {
            future: RefCell::new(Some(Box::pin(future))),
            state: state.clone(),
        }));
        state.wake();
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let waker = Waker::from(StdArc::new(MainWaker(self.bell.clone())));
        let mut future = pin!(future);
        let mut woken = Woken {
            tasks: VecDeque::new(),
            main: true,
        };
        loop {
            if woken.main
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                // Who was taken with it runs in the next call.
                let mut left = self.bell.woken.lock().unwrap();
                woken.tasks.append(&mut left.tasks);
                left.tasks = woken.tasks;
                return output;
            }
            for number in woken.tasks.drain(..) {
                self.run(number);
            }
            woken = self.sleep();
        }
    }
}

impl<const BUG: u8> ToyExecutor<BUG> {
    fn run(&self, number: usize) {
        let task = self.tasks.borrow()[number].clone();
        let clear = || task.state.queued.swap(false, Ordering::AcqRel);
        if BUG != MARK_CLEARED_LATE {
            clear();
        }
        let waker = Waker::from(task.state.clone());
        let mut place = task.future.borrow_mut();
        if let Some(future) = &mut *place
            && future
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
        {
            *place = None;
        }
        if BUG == MARK_CLEARED_LATE {
            clear();
        }
    }

    fn sleep(&self) -> Woken {
        let mut woken = self.bell.woken.lock().unwrap();
        if BUG == MAIN_FORGOTTEN && !woken.tasks.is_empty() {
            woken.main = false;
        }
        while woken.tasks.is_empty() && !woken.main {
            woken = self.bell.rung.wait(woken).unwrap();
        }
        std::mem::take(&mut *woken)
    }
}

/// A device on [`ToyExecutor`].
pub struct ToyDevice<const BUG: u8> {
    /// Requests that the kernel has, with their memory.
    requests: RefCell<Vec<Request>>,
}

struct Request {
    memory: Memory,
    done: Arc<AtomicBool>,
}

impl<const BUG: u8> Device for ToyDevice<BUG> {
    type Executor = ToyExecutor<RIGHT>;

    fn new(_executor: &Self::Executor) -> Self {
        Self {
            requests: RefCell::default(),
        }
    }

    async fn read(&self, memory: Memory, kernel: Kernel) {
        let done = Arc::new(AtomicBool::new(false));
        let waker = Arc::new(Mutex::new(None::<Waker>));
        kernel.submit(memory.address(), {
            let (done, waker) = (done.clone(), waker.clone());
            move || {
                done.store(true, Ordering::Release);
                if let Some(waker) = waker.lock().unwrap().take() {
                    waker.wake();
                }
            }
        });
        let mut own = None;
        if BUG == OWNED_BY_THE_FUTURE {
            own = Some(memory);
        } else {
            let done = done.clone();
            self.requests.borrow_mut().push(Request { memory, done });
        }
        poll_fn(|cx| {
            *waker.lock().unwrap() = Some(cx.waker().clone());
            if done.load(Ordering::Acquire) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        drop(own);
    }
}

impl<const BUG: u8> Drop for ToyDevice<BUG> {
    fn drop(&mut self) {
        for request in self.requests.take() {
            while !request.done.load(Ordering::Acquire) {
                thread::yield_now();
            }
            drop(request.memory);
        }
    }
}

/// A group on [`ToyExecutor`].
pub struct ToyGroup<const BUG: u8> {
    executor: ToyExecutor<RIGHT>,
    max: usize,
    members: Rc<Members>,
}

#[derive(Default)]
struct Members {
    /// Started and not ended.
    running: Cell<usize>,
    /// Waits for an end.
    waiter: RefCell<Option<Waker>>,
    /// With the bug: the members themselves.
    futures: RefCell<Vec<LocalFuture>>,
}

impl Members {
    fn ended(&self) {
        self.running.set(self.running.get() - 1);
        if let Some(waker) = self.waiter.take() {
            waker.wake();
        }
    }

    /// Ready while no more than `most` are running.
    async fn at_most(&self, most: usize) {
        poll_fn(|cx| {
            // Empty but for the bug: tasks are polled by their executor.
            let mut futures = self.futures.take();
            futures.retain_mut(|future| {
                let ended = future.as_mut().poll(cx).is_ready();
                if ended {
                    self.ended();
                }
                !ended
            });
            self.futures.replace(futures);
            if self.running.get() <= most {
                return Poll::Ready(());
            }
            self.waiter.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl<const BUG: u8> Group for ToyGroup<BUG> {
    type Executor = ToyExecutor<RIGHT>;

    fn new(executor: &Self::Executor, max: usize) -> Self {
        Self {
            executor: executor.clone(),
            max,
            members: Rc::default(),
        }
    }

    async fn start(&self, member: impl Future<Output = ()> + 'static) {
        self.members.at_most(self.max - 1).await;
        self.members.running.set(self.members.running.get() + 1);
        if BUG == POLLED_WHEN_AWAITED {
            self.members.futures.borrow_mut().push(Box::pin(member));
            return;
        }
        let members = self.members.clone();
        self.executor.spawn(async move {
            member.await;
            members.ended();
        });
    }

    async fn wait_all(&self) {
        self.members.at_most(0).await;
    }
}

/// One worker thread.
pub struct ToyWorkers<const BUG: u8> {
    desk: Arc<Desk>,
    thread: thread::JoinHandle<()>,
}

#[derive(Default)]
struct Desk {
    jobs: Mutex<VecDeque<Box<dyn FnOnce() + Send>>>,
    /// Looked at under the lock.
    closed: AtomicBool,
    changed: Condvar,
}

impl<const BUG: u8> Workers for ToyWorkers<BUG> {
    fn new() -> Self {
        let desk: Arc<Desk> = Arc::default();
        let theirs = desk.clone();
        Self {
            desk,
            thread: thread::spawn(move || theirs.work()),
        }
    }

    fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.desk.jobs.lock().unwrap().push_back(Box::new(job));
        self.desk.changed.notify_one();
    }

    fn shutdown(self) {
        let locked = (BUG != CLOSED_WITHOUT_THE_LOCK).then(|| self.desk.jobs.lock().unwrap());
        self.desk.closed.store(true, Ordering::Release);
        drop(locked);
        self.desk.changed.notify_one();
        self.thread.join().unwrap();
    }
}

impl Desk {
    fn work(&self) {
        let mut jobs = self.jobs.lock().unwrap();
        loop {
            if let Some(job) = jobs.pop_front() {
                drop(jobs);
                job();
                jobs = self.jobs.lock().unwrap();
            } else if self.closed.load(Ordering::Acquire) {
                return;
            } else {
                jobs = self.changed.wait(jobs).unwrap();
            }
        }
    }
}
