//! The models. Each is one execution, for `loom::model` or `crate::check::explore`.
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::{Device, Executor, Group, Kernel, Memory, Workers};

/// Two threads each set a flag, relaxed, and wake the same task. The second finds it woken already and leaves it at that: the poll that
/// is coming must see its flag all the same, or another poll must come.
pub fn a_wake_after_a_coalesced_one_is_not_lost<E: Executor>() {
    let executor = E::new();
    let flags = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let done = Signal::new();
    let threads = Rc::new(RefCell::new(Vec::new()));
    executor.spawn({
        let (flags, done, threads) = (flags.clone(), done.clone(), threads.clone());
        poll_fn(move |cx| {
            if threads.borrow().is_empty() {
                let waking = [0, 1].map(|at| {
                    let (flags, waker) = (flags.clone(), cx.waker().clone());
                    thread::spawn(move || {
                        flags[at].store(true, Ordering::Relaxed);
                        waker.wake();
                    })
                });
                threads.borrow_mut().extend(waking);
            }
            if !flags.iter().all(|flag| flag.load(Ordering::Relaxed)) {
                return Poll::Pending;
            }
            done.fire();
            Poll::Ready(())
        })
    });
    executor.block_on(done.fired());
    let threads = threads.take();
    assert_eq!(threads.len(), 2, "the task ran");
    for thread in threads {
        thread.join().unwrap();
    }
}

/// One thread completes what `block_on`'s own future waits for, another what a task waits for, as it may happen in one turn.
pub fn a_completion_taken_among_tasks_reaches_block_on<E: Executor>() {
    let executor = E::new();
    let [for_main, for_task, done] = [(); 3].map(|()| Signal::new());
    executor.spawn({
        let (for_task, done) = (for_task.clone(), done.clone());
        async move {
            for_task.fired().await;
            done.fire();
        }
    });
    let threads = [for_main.clone(), for_task].map(|signal| thread::spawn(move || signal.fire()));
    executor.block_on(for_main.fired());
    executor.block_on(done.fired());
    for thread in threads {
        thread.join().unwrap();
    }
}

/// A read is submitted and its future dropped, while the kernel writes or before it does.
pub fn memory_outlives_the_future_that_is_dropped<D: Device>() {
    let executor = D::Executor::new();
    let device = D::new(&executor);
    let started = Rc::new(RefCell::new(Vec::new()));
    let kernel = Kernel {
        started: started.clone(),
    };
    executor.block_on(async {
        let mut read = pin!(device.read(Memory::new(), kernel));
        poll_fn(|cx| {
            let _ = read.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
    });
    let threads = started.take();
    assert_eq!(threads.len(), 1, "the first poll submits");
    for thread in threads {
        thread.join().unwrap();
    }
    drop(device);
    drop(executor);
}

/// Two members each wait for another thread and then tell the caller, who waits for that and not for the group.
pub fn members_run_while_no_task_awaits_the_group<G: Group>() {
    let executor = G::Executor::new();
    let group = G::new(&executor, 1);
    let [first, second] = [(); 2].map(|()| (Signal::new(), Signal::new()));
    let completing = first.0.clone();
    let completing = thread::spawn(move || completing.fire());
    second.0.fire();
    executor.block_on(async {
        for (completed, told) in [first, second] {
            let member = {
                let told = told.clone();
                async move {
                    completed.fired().await;
                    told.fire();
                }
            };
            group.start(member).await;
            told.fired().await;
        }
        group.wait_all().await;
    });
    completing.join().unwrap();
}

/// The worker has run its job and is about to sleep, or sleeps.
pub fn an_idle_worker_hears_of_the_shutdown<W: Workers>() {
    let workers = W::new();
    let ran = Arc::new(AtomicBool::new(false));
    workers.run({
        let ran = ran.clone();
        move || ran.store(true, Ordering::Relaxed)
    });
    workers.shutdown();
    assert!(ran.load(Ordering::Relaxed), "the job was forgotten");
}

/// Fired once, from any thread. Clones are the same.
#[derive(Clone)]
struct Signal(Arc<Mutex<(bool, Option<Waker>)>>);

impl Signal {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((false, None))))
    }

    fn fire(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap();
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn fired(&self) {
        poll_fn(|cx| {
            let replaced;
            {
                let mut state = self.0.lock().unwrap();
                if state.0 {
                    return Poll::Ready(());
                }
                replaced = state.1.replace(cx.waker().clone());
            }
            drop(replaced);
            Poll::Pending
        })
        .await;
    }
}
