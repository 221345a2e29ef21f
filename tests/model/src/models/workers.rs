//! Worker threads: their start, their idle end, their shutdown; and everything together.
use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::panic::panic_any;
use std::rc::Rc;
use std::time::Duration;

use aio_task::edge::slot;
use aio_task::model::while_time_passes;
use aio_task::{
    AioContext, AioTaskPool, JobError, PoolError, WaitAllError, WaitOneError, WorkerPool,
};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::support::host;
use crate::check::reach;

crate::models![
    a_shutdown_runs_what_is_queued: [35],
    a_dropped_pool_runs_what_is_queued: [35],
    a_job_against_a_shutdown_runs_or_is_refused: [36] reaches ["ran", "refused"],
    two_workers_one_job_and_a_shutdown_leave_none_asleep: [37],
    two_shutdowns_at_once_both_return: [37],
    a_shutdown_inside_a_job_waits_for_the_others_only: [37],
    a_job_that_comes_while_the_worker_goes_idle_is_not_stranded: [38],
    jobs_of_two_threads_start_no_more_workers_than_allowed: [38],
    a_job_that_panics_leaves_its_worker_and_its_result: [39],
    a_result_whose_drop_panics_leaves_its_worker: [39],
    a_worker_that_leaves_idle_as_a_job_comes_strands_nothing: [46] reaches ["stayed", "left"],
    a_worker_that_leaves_idle_is_not_waited_for_by_the_shutdown: [46] reaches ["stayed", "left"],
    a_worker_without_patience_leaves_and_another_takes_the_next_job: [46] reaches ["stayed", "left"],
    a_job_that_waits_for_a_later_one_does_not_wait_for_ever: [53, 38],
    two_first_jobs_of_which_one_waits_for_the_other_both_end: [53, 38],
    two_idle_workers_both_hear_of_two_jobs: [53, 38],
    context_pool_and_worker_together_keep_order_and_status: [40],
    context_pool_and_two_workers_end_all_they_began: [40] reaches ["some ended", "all had ended", "some were busy"],
];

fn workers(max: usize) -> WorkerPool {
    WorkerPool::new(NonZeroUsize::new(max).expect("a pool has a worker"))
}

/// Two jobs, one worker: the second is still queued when the shutdown comes.
/// Faults: a worker leaves when the pool is closed, whatever is queued; a close wakes no waiter; the job that came last runs first.
fn a_shutdown_runs_what_is_queued() {
    let workers = workers(1);
    let order = Arc::new(AtomicUsize::new(0));
    let jobs = [1, 2].map(|number| {
        let order = order.clone();
        workers.run(move || {
            assert_eq!(order.fetch_add(1, Ordering::Relaxed) + 1, number);
            number
        })
    });
    workers.shutdown();
    assert_eq!(workers.threads(), 0, "shutdown left a thread");
    for (job, expected) in jobs.into_iter().zip([1, 2]) {
        assert_eq!(host(job).unwrap(), expected);
    }
}

/// No task waits for the threads, so no task may forget them: loom reports a thread that sleeps for ever.
/// Fault: the drop of the last handle does not close the pool.
fn a_dropped_pool_runs_what_is_queued() {
    let workers = workers(1);
    let jobs = [1, 2].map(|number| workers.run(move || number));
    drop(workers);
    for (job, expected) in jobs.into_iter().zip([1, 2]) {
        assert_eq!(host(job).unwrap(), expected);
    }
}

/// A task that submits while the pool closes is told one thing or the other, and never waits for ever.
/// Faults: a job is queued after the close; a refused job reports to nothing.
fn a_job_against_a_shutdown_runs_or_is_refused() {
    let workers = workers(1);
    let submitting = thread::spawn({
        let workers = workers.clone();
        move || match host(workers.run(|| 5)) {
            Ok(5) => reach("ran"),
            Err(JobError::Refused) => reach("refused"),
            other => panic!("neither ran nor refused: {other:?}"),
        }
    });
    workers.shutdown();
    assert_eq!(workers.threads(), 0);
    submitting.join().unwrap();
}

/// A published bug of a thread pool: one wake-up for a job and a shutdown, and the other worker sleeps on.
/// Faults: the close notifies one worker only; a worker looks at the close before it waits, without the lock.
fn two_workers_one_job_and_a_shutdown_leave_none_asleep() {
    let workers = workers(2);
    let jobs = [1, 2].map(|number| workers.run(move || number));
    for job in jobs {
        host(job).unwrap();
    }
    let third = workers.run(|| 3);
    workers.shutdown();
    assert_eq!(workers.threads(), 0);
    assert_eq!(host(third).unwrap(), 3);
}

/// Fault: a worker that leaves tells one of those who wait for it.
fn two_shutdowns_at_once_both_return() {
    let workers = workers(1);
    let job = workers.run(|| 1);
    let other = thread::spawn({
        let workers = workers.clone();
        move || workers.shutdown()
    });
    workers.shutdown();
    other.join().unwrap();
    assert_eq!(host(job).unwrap(), 1);
}

/// Fault: a worker waits for itself.
fn a_shutdown_inside_a_job_waits_for_the_others_only() {
    let workers = workers(2);
    let other = workers.run(|| 1);
    let closing = workers.run({
        let workers = workers.clone();
        move || workers.shutdown()
    });
    host(closing).unwrap();
    assert_eq!(host(other).unwrap(), 1);
    workers.shutdown();
    assert_eq!(workers.threads(), 0);
}

/// One worker is all there may be: if it goes to sleep past the second job, no task runs it.
/// Faults: no notification for an idle worker; `idle` counted outside the lock or not at all.
fn a_job_that_comes_while_the_worker_goes_idle_is_not_stranded() {
    let workers = workers(1);
    for number in [1, 2] {
        assert_eq!(host(workers.run(move || number)).unwrap(), number);
    }
    assert_eq!(workers.threads(), 1, "an idle worker left for no reason");
}

/// Fault: the limit is compared outside the lock, or off by one.
fn jobs_of_two_threads_start_no_more_workers_than_allowed() {
    let workers = workers(1);
    let inside = Arc::new(AtomicUsize::new(0));
    let job = |inside: &Arc<AtomicUsize>| {
        let inside = inside.clone();
        move || {
            assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "two workers");
            inside.fetch_sub(1, Ordering::Relaxed);
        }
    };
    let other = thread::spawn({
        let (workers, job) = (workers.clone(), job(&inside));
        move || host(workers.run(job)).unwrap()
    });
    host(workers.run(job(&inside))).unwrap();
    other.join().unwrap();
    assert_eq!(workers.threads(), 1);
}

/// One worker is idle, there may be two, and two jobs come, of which the first waits for the second. The idle worker has not woken
/// yet when the second comes: it counts for one job.
/// Fault: a job starts no worker while another is counted as idle.
fn a_job_that_waits_for_a_later_one_does_not_wait_for_ever() {
    let workers = workers(2);
    host(workers.run(|| ())).unwrap();
    let (completer, completion) = slot();
    let waiting = workers.run(move || host(completion).unwrap());
    let completing = workers.run(move || completer.complete(5));
    assert_eq!(host(waiting).unwrap(), 5);
    host(completing).unwrap();
}

/// The first of them starts a worker, which has not begun when the second comes.
/// Fault: a worker that is starting counts for every job.
fn two_first_jobs_of_which_one_waits_for_the_other_both_end() {
    let workers = workers(2);
    let (completer, completion) = slot();
    let waiting = workers.run(move || host(completion).unwrap());
    let completing = workers.run(move || completer.complete(5));
    assert_eq!(host(waiting).unwrap(), 5);
    host(completing).unwrap();
}

/// Both workers are idle, or about to be, and no other may be started. The first one has not taken its job when the second comes.
/// Fault: a job wakes no worker while another one is queued.
fn two_idle_workers_both_hear_of_two_jobs() {
    let workers = workers(2);
    for round in 0..2 {
        let (completer, completion) = slot();
        let waiting = workers.run(move || host(completion).unwrap());
        let completing = workers.run(move || completer.complete(round));
        assert_eq!(host(waiting).unwrap(), round);
        host(completing).unwrap();
    }
}

/// Faults: the panic ends the worker; its payload is lost; the result never comes.
fn a_job_that_panics_leaves_its_worker_and_its_result() {
    let workers = workers(1);
    let panicking = workers.run(|| -> () { panic_any(7_u8) });
    let after = workers.run(|| 2);
    match host(panicking) {
        Err(JobError::Panicked(payload)) => assert_eq!(payload.downcast_ref::<u8>(), Some(&7)),
        other => panic!("not the panic: {other:?}"),
    }
    assert_eq!(host(after).unwrap(), 2);
    workers.shutdown();
    assert_eq!(workers.threads(), 0, "a worker left without a word");
}

/// No caller wants the result, so the worker drops it, and the drop panics.
/// Fault: only the job itself is protected from panics.
fn a_result_whose_drop_panics_leaves_its_worker() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic_any(7_u8);
            }
        }
    }
    let workers = workers(1);
    // Dropped before the job is submitted that would run it: so by the worker, in any interleaving.
    let gate = Arc::new(loom::sync::Mutex::new(()));
    let held = gate.lock().unwrap();
    let unwanted = workers.run({
        let gate = gate.clone();
        move || {
            drop(gate.lock().unwrap());
            Bomb
        }
    });
    drop(unwanted);
    drop(held);
    assert_eq!(host(workers.run(|| 2)).unwrap(), 2);
    workers.shutdown();
    assert_eq!(workers.threads(), 0, "a worker left without a word");
}

/// Whether the time limit of an idle worker passes is explored. If it passes as the job comes, the worker or another one takes it.
/// Faults: a worker leaves though a job is queued; it is not taken off the list when it leaves; it stays counted as idle.
fn a_worker_that_leaves_idle_as_a_job_comes_strands_nothing() {
    while_time_passes(|| {
        let workers = workers(1);
        let first = workers.run(thread_id);
        let first = host(first).unwrap();
        let second = host(workers.run(thread_id)).unwrap();
        reach(if first == second { "stayed" } else { "left" });
        assert!(workers.threads() <= 1);
    });
}

/// Faults: a worker that leaves reports to nothing; it stays on the list.
fn a_worker_that_leaves_idle_is_not_waited_for_by_the_shutdown() {
    while_time_passes(|| {
        let workers = workers(1);
        host(workers.run(|| 1)).unwrap();
        let there = workers.threads();
        reach(if there == 1 { "stayed" } else { "left" });
        workers.shutdown();
        assert_eq!(workers.threads(), 0);
    });
}

/// With no patience at all a worker leaves as soon as nothing is queued: always between two jobs.
/// Fault: as above, without a wait in between.
fn a_worker_without_patience_leaves_and_another_takes_the_next_job() {
    let workers = WorkerPool::with_idle_timeout(NonZeroUsize::MIN, Duration::ZERO);
    let first = host(workers.run(thread_id)).unwrap();
    let second = host(workers.run(thread_id)).unwrap();
    reach(if first == second { "stayed" } else { "left" });
    workers.shutdown();
    assert_eq!(workers.threads(), 0);
}

fn thread_id() -> thread::ThreadId {
    thread::current().id()
}

/// A slot and a worker: two requests, of which the second fails. Each crosses pool, inbox, queue and edge.
/// Faults: those of every layer; an order lost between two of them.
fn context_pool_and_worker_together_keep_order_and_status() {
    let context = AioContext::new().unwrap();
    let pool = AioTaskPool::<u8>::new(&context.handle(), NonZeroUsize::MIN);
    let workers = workers(1);
    let ended = Rc::new(RefCell::new(Vec::new()));
    let status = context.block_on(async {
        for number in 0..2 {
            let (workers, ended) = (workers.clone(), ended.clone());
            let task = async move {
                let done = workers.run(move || number).await.unwrap();
                ended.borrow_mut().push(done);
                if done == 1 { Err(done) } else { Ok(()) }
            };
            pool.start_task(task).await.unwrap();
        }
        pool.wait_all().await
    });
    let expected = PoolError::Task { index: 1, error: 1 };
    assert_eq!(status, Err(WaitAllError::Status(expected)));
    assert_eq!(*ended.borrow(), [0, 1]);
}

/// Two slots and two workers, and the jobs are still in the workers' hands when the context goes.
/// Faults: those of every layer; a completion that touches what the context has freed.
fn context_pool_and_two_workers_end_all_they_began() {
    let context = AioContext::new().unwrap();
    let pool = AioTaskPool::<u8>::new(&context.handle(), NonZeroUsize::MIN.saturating_add(1));
    let workers = workers(2);
    let ran = Arc::new(AtomicUsize::new(0));
    context.block_on(async {
        for _ in 0..2 {
            let job = workers.run({
                let ran = ran.clone();
                move || {
                    ran.fetch_add(1, Ordering::AcqRel);
                }
            });
            let task = async move { job.await.map_err(|_| 1) };
            pool.start_task(task).await.unwrap();
        }
        match pool.wait_one().await {
            Ok(()) => reach("some ended"),
            Err(WaitOneError::NothingBusy) => reach("all had ended"),
            Err(WaitOneError::NotDriven) => panic!("block_on drives"),
        }
        if pool.busy() > 0 {
            reach("some were busy");
        }
    });
    let all = match pool.busy() {
        0 => Ok(()),
        _ => Err(WaitAllError::NotDriven),
    };
    drop(context);
    assert_eq!(host(pool.wait_all()), all, "a lost task is not reported");
    assert_eq!(pool.busy(), 0, "the context is gone, its task is not");
    workers.shutdown();
    assert_eq!(ran.load(Ordering::Acquire), 2);
}
