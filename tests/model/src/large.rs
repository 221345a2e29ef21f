//! Four workers, eight tasks: more than loom can take. shuttle runs a sample of the schedules, chosen so that a bug which needs few
//! preemptions is likely to show (PCT); every atomic is sequentially consistent there, so that orderings are loom's business.
use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Duration;

use aio_task::edge::{Arc, CancelFlag, slot};
use aio_task::{AioContext, AioTaskPool, JobError, PoolError, WaitAllError, WorkerPool};
use futures::future::{Either, join_all, select};
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

/// A configuration.
#[derive(Clone, Copy, Debug)]
pub struct Large {
    /// The sentence it checks.
    pub name: &'static str,
    /// One execution.
    pub body: fn(),
}

macro_rules! large {
    ($($name:ident),* $(,)?) => {
        /// All of them.
        pub const LARGE: &[Large] = &[$(Large { name: stringify!($name), body: $name }),*];
    };
}

large![
    eight_tasks_over_three_slots_and_four_workers_keep_the_first_error,
    eight_tasks_woken_by_four_threads_all_end,
    eight_jobs_against_a_shutdown_run_or_are_refused,
    eight_jobs_outlive_workers_that_leave_idle,
    eight_tasks_in_flight_go_with_their_context,
    eight_tasks_are_cancelled_or_completed_each_once,
];

const WORKERS: NonZeroUsize = NonZeroUsize::new(4).unwrap();
const TASKS: usize = 8;

fn pool(context: &AioContext, max: usize) -> AioTaskPool<usize> {
    let max = NonZeroUsize::new(max).expect("a pool has a slot");
    AioTaskPool::new(&context.handle(), max)
}

/// Three of the tasks fail: the status is the failure that the context saw first, and nothing is lost.
fn eight_tasks_over_three_slots_and_four_workers_keep_the_first_error() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 3);
    let workers = WorkerPool::new(WORKERS);
    let failed = Rc::new(RefCell::new(Vec::new()));
    let status = context.block_on(async {
        for number in 0..TASKS {
            let (workers, failed) = (workers.clone(), failed.clone());
            let job = move || match number {
                2 | 5 | 6 => Err(number),
                _ => Ok(()),
            };
            let task = async move {
                let result = workers.run(job).await.expect("the worker has it");
                result.inspect_err(|number| failed.borrow_mut().push(*number))
            };
            assert_eq!(pool.start_task(task).await, Ok(number as u64));
            assert!(pool.busy() + pool.reserved() <= 3);
        }
        pool.wait_all().await
    });
    let failed = failed.take();
    assert_eq!((failed.len(), pool.errors(), pool.busy()), (3, 3, 0));
    let first = PoolError::Task {
        index: failed[0] as u64,
        error: failed[0],
    };
    assert_eq!(status, Err(WaitAllError::Status(first)));
    workers.shutdown();
    assert_eq!(workers.threads(), 0);
}

/// Each thread completes what two tasks wait for, and one task waits for all others.
fn eight_tasks_woken_by_four_threads_all_end() {
    let context = AioContext::new().unwrap();
    let (completers, completions): (Vec<_>, Vec<_>) = (0..TASKS).map(|_| slot::<usize>()).unzip();
    let mut completers = completers.into_iter().enumerate();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mine = [completers.next().unwrap(), completers.next().unwrap()];
            thread::spawn(move || {
                for (number, completer) in mine {
                    completer.complete(number);
                }
            })
        })
        .collect();
    let tasks: Vec<_> = completions
        .into_iter()
        .map(|completion| context.handle().spawn(completion))
        .collect();
    let all = context.handle().spawn(async {
        join_all(tasks)
            .await
            .into_iter()
            .map(|n| n.unwrap().unwrap())
            .sum()
    });
    let sum: usize = context.block_on(all).unwrap();
    assert_eq!(sum, (0..TASKS).sum());
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Two threads submit four jobs each while a third shuts the workers down.
fn eight_jobs_against_a_shutdown_run_or_are_refused() {
    let workers = WorkerPool::new(WORKERS);
    let ran = Arc::new(AtomicUsize::new(0));
    let submitting: Vec<_> = (0..2)
        .map(|_| {
            let (workers, ran) = (workers.clone(), ran.clone());
            thread::spawn(move || {
                let context = AioContext::new().unwrap();
                let jobs: Vec<_> = (0..TASKS / 2)
                    .map(|_| {
                        let ran = ran.clone();
                        workers.run(move || ran.fetch_add(1, Ordering::SeqCst))
                    })
                    .collect();
                let results = context.block_on(join_all(jobs));
                let refused = |r: &&Result<usize, JobError>| matches!(r, Err(JobError::Refused));
                let refused = results.iter().filter(refused).count();
                let done = results.iter().filter(|r| r.is_ok()).count();
                assert_eq!(refused + done, TASKS / 2);
                done
            })
        })
        .collect();
    workers.shutdown();
    assert_eq!(workers.threads(), 0);
    let done: usize = submitting.into_iter().map(|t| t.join().unwrap()).sum();
    assert_eq!(done, ran.load(Ordering::SeqCst));
}

/// Idle workers leave at any time, while two contexts submit one job after the other.
fn eight_jobs_outlive_workers_that_leave_idle() {
    let workers = WorkerPool::with_idle_timeout(WORKERS, Duration::from_secs(1));
    let submit = |workers: WorkerPool| {
        let context = AioContext::new().unwrap();
        for number in 0..TASKS / 2 {
            let job = workers.run(move || number);
            assert_eq!(context.block_on(job).unwrap(), number);
        }
    };
    let other = thread::spawn({
        let workers = workers.clone();
        move || submit(workers)
    });
    submit(workers.clone());
    other.join().unwrap();
    workers.shutdown();
    assert_eq!(workers.threads(), 0);
}

/// The context goes while eight results are on their way: every future goes with it, on its thread.
fn eight_tasks_in_flight_go_with_their_context() {
    struct Here(Rc<Cell<usize>>, thread::ThreadId);
    impl Drop for Here {
        fn drop(&mut self) {
            assert_eq!(thread::current().id(), self.1);
            self.0.set(self.0.get() + 1);
        }
    }
    let context = AioContext::new().unwrap();
    let workers = WorkerPool::new(WORKERS);
    let drops = Rc::new(Cell::new(0));
    for number in 0..TASKS {
        let here = Here(drops.clone(), thread::current().id());
        let job = workers.run(move || number);
        let task = async move {
            assert_eq!(job.await.unwrap(), number);
            drop(here);
        };
        context.handle().spawn(task).detach();
    }
    context.by_hand().step();
    drop(context);
    assert_eq!(drops.get(), TASKS, "a future outlived its context");
}

/// A cancel against eight completions, four slots: each task ends once, one way or the other.
fn eight_tasks_are_cancelled_or_completed_each_once() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 4);
    let workers = WorkerPool::new(WORKERS);
    let flag = CancelFlag::new();
    let cancelling = thread::spawn({
        let flag = flag.clone();
        move || flag.cancel()
    });
    let ends = Rc::new(Cell::new(0));
    context.block_on(async {
        for number in 0..TASKS {
            let (job, cancelled) = (workers.run(move || number), flag.cancelled());
            let ends = ends.clone();
            let task = async move {
                let ended = select(job, cancelled).await;
                ends.set(ends.get() + 1);
                match ended {
                    Either::Left((done, _)) => done.map(|_| ()).map_err(|_| number),
                    Either::Right(_) => Err(number),
                }
            };
            pool.start_task(task).await.unwrap();
        }
        let _ = pool.wait_all().await;
    });
    assert_eq!((ends.get(), pool.busy(), pool.reserved()), (TASKS, 0, 0));
    cancelling.join().unwrap();
}
