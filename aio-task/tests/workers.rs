//! Worker threads: started on demand, leave when idle, lose no job.
use std::num::NonZeroUsize;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use aio_task::edge::slot;
use aio_task::{AioContext, JobError, WorkerPool};
use futures::executor::block_on;

fn pool(max: usize) -> WorkerPool {
    WorkerPool::new(NonZeroUsize::new(max).unwrap())
}

#[test]
fn a_job_runs_on_another_thread_and_its_result_wakes_the_context() {
    let context = AioContext::new().unwrap();
    let pool = pool(1);
    let thread = context
        .block_on(pool.run(|| thread::current().id()))
        .unwrap();
    assert_ne!(thread, thread::current().id());
    pool.shutdown();
}

#[test]
fn threads_are_started_on_demand_up_to_the_limit_and_not_beyond() {
    let pool = pool(2);
    assert_eq!(pool.threads(), 0, "no job, no thread");
    let both_run = Arc::new(Barrier::new(3));
    let jobs: Vec<_> = (0..2)
        .map(|_| {
            let both_run = both_run.clone();
            pool.run(move || {
                both_run.wait();
                both_run.wait();
            })
        })
        .collect();
    both_run.wait(); // both jobs run at the same time, so there are two threads
    let third = pool.run(|| ());
    assert_eq!(pool.threads(), 2);
    both_run.wait();
    for job in jobs {
        block_on(job).unwrap();
    }
    block_on(third).unwrap();
    pool.shutdown();
    assert_eq!(pool.threads(), 0);
}

#[test]
fn a_job_is_submitted_at_once_and_runs_on_when_its_future_is_dropped() {
    let pool = pool(1);
    let (tell, told) = channel();
    drop(pool.run(move || tell.send(7).unwrap()));
    assert_eq!(told.recv(), Ok(7));
}

#[test]
fn an_idle_worker_leaves_and_the_next_job_gets_a_new_one() {
    let pool = WorkerPool::with_idle_timeout(NonZeroUsize::MIN, Duration::ZERO);
    for n in 0..if cfg!(miri) { 5 } else { 100 } {
        assert_eq!(block_on(pool.run(move || n)).unwrap(), n);
    }
    // The last worker is between its job's end and its leaving.
    while pool.threads() > 0 {
        thread::yield_now();
    }
    assert_eq!(block_on(pool.run(|| 1)).unwrap(), 1);
}

#[test]
fn a_panicking_job_is_an_error_with_its_payload_and_the_worker_goes_on() {
    let pool = pool(1);
    let bad = pool.run(|| panic!("bad sector"));
    let first = pool.run(|| thread::current().id());
    let Err(JobError::Panicked(payload)) = block_on(bad) else {
        panic!("the panic was lost")
    };
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"bad sector"));
    let second = pool.run(|| thread::current().id());
    assert_eq!(
        block_on(first).unwrap(),
        block_on(second).unwrap(),
        "the thread survived"
    );
    pool.shutdown();
}

#[test]
fn shutdown_runs_what_is_queued_and_refuses_what_comes_later() {
    let pool = pool(1);
    let ran = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Barrier::new(2));
    let first = pool.run({
        let gate = gate.clone();
        move || {
            gate.wait();
        }
    });
    let queued: Vec<_> = (0..50)
        .map(|_| {
            let ran = ran.clone();
            pool.run(move || ran.fetch_add(1, Ordering::Relaxed))
        })
        .collect();
    assert_eq!(ran.load(Ordering::Relaxed), 0, "the only worker is held");
    let closer = thread::spawn({
        let pool = pool.clone();
        move || pool.shutdown()
    });
    gate.wait();
    closer.join().unwrap();
    assert_eq!(
        ran.load(Ordering::Relaxed),
        50,
        "shutdown returned before the queue was empty"
    );
    assert_eq!(pool.threads(), 0);
    block_on(first).unwrap();
    for job in queued {
        block_on(job).unwrap();
    }
    assert!(matches!(block_on(pool.run(|| ())), Err(JobError::Refused)));
    pool.shutdown();
}

#[test]
fn a_job_that_shuts_its_own_pool_down_does_not_wait_for_itself() {
    let pool = pool(2);
    let inner = pool.clone();
    block_on(pool.run(move || inner.shutdown())).unwrap();
    assert!(matches!(block_on(pool.run(|| ())), Err(JobError::Refused)));
    pool.shutdown();
}

#[test]
fn dropping_the_last_clone_loses_no_queued_job() {
    let pool = pool(1);
    let gate = Arc::new(Barrier::new(2));
    let held = pool.run({
        let gate = gate.clone();
        move || {
            gate.wait();
        }
    });
    let queued = pool.run(|| 3);
    drop(pool);
    gate.wait();
    block_on(held).unwrap();
    assert_eq!(block_on(queued).unwrap(), 3);
}

#[test]
fn a_result_that_no_task_waits_for_is_dropped_by_the_worker() {
    let pool = pool(1);
    let value = Arc::new(());
    let watch = Arc::downgrade(&value);
    let gate = Arc::new(Barrier::new(2));
    let job = pool.run({
        let gate = gate.clone();
        move || {
            gate.wait();
            value
        }
    });
    drop(job);
    gate.wait();
    pool.shutdown();
    assert!(watch.upgrade().is_none(), "the result leaked");
}

#[test]
fn a_slot_resolves_when_either_side_vanishes_first() {
    let (completer, completion) = slot::<u8>();
    drop(completer);
    assert!(
        block_on(completion).is_err(),
        "nothing is left to complete it"
    );

    let (completer, completion) = slot();
    let value = Arc::new(());
    let watch = Arc::downgrade(&value);
    drop(completion);
    assert!(completer.is_abandoned());
    completer.complete(value);
    assert!(
        watch.upgrade().is_none(),
        "a value no task waits for must not leak"
    );

    let (completer, completion) = slot();
    let value = Arc::new(());
    let watch = Arc::downgrade(&value);
    completer.complete(value);
    drop(completion);
    assert!(
        watch.upgrade().is_none(),
        "a value that arrived and was not taken must not leak"
    );
}

#[test]
fn a_slot_dropped_by_its_sender_on_another_thread_wakes_the_waiter() {
    let context = AioContext::new().unwrap();
    for _ in 0..100 {
        let (completer, completion) = slot::<()>();
        let sender = thread::spawn(move || drop(completer));
        assert!(context.block_on(completion).is_err());
        sender.join().unwrap();
    }
}

#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn a_job_for_which_no_thread_can_be_started_is_dropped_and_says_why() {
    const CHILD: &str = "AIO_TASK_TEST_WITHOUT_THREADS";
    const NAME: &str = "a_job_for_which_no_thread_can_be_started_is_dropped_and_says_why";
    if std::env::var_os(CHILD).is_some() {
        return without_threads();
    }
    // A stack that no address space has room for: only a process of its own can be asked for it.
    let child = Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--test-threads=1", "--nocapture"])
        .env(CHILD, "1")
        .env("RUST_MIN_STACK", (1u64 << 47).to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let complained = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}{complained}");
    assert!(said.contains("1 passed"), "{said}");
    assert!(said.contains("no worker thread could be started"), "{said}");
}

/// In the child.
fn without_threads() {
    let pool = pool(2);
    for _ in 0..2 {
        let held = Arc::new(());
        let theirs = held.clone();
        let refused = block_on(pool.run(move || drop(theirs)));
        let Err(error @ JobError::Spawn(_)) = refused else {
            panic!("a thread was started all the same: {refused:?}");
        };
        println!("{error}");
        assert_eq!(Arc::strong_count(&held), 1, "the job is dropped");
        assert_eq!(pool.threads(), 0, "a thread that never was does not count");
    }
    pool.shutdown(); // waits for nothing
}
