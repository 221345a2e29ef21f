//! The cross-thread edge from outside: what wakes whom, and what costs a system call.
use std::cell::Cell;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use aio_task::edge::{CancelFlag, Counter};
use aio_task::{AioContext, CondvarReactor, Reactor, Unpark};
use futures::task::noop_waker_ref;

/// The condition variable's reactor, with every sleep and every unpark counted.
struct Counted {
    inner: CondvarReactor,
    sleeps: Rc<Cell<usize>>,
    unparks: Arc<AtomicUsize>,
}

impl Reactor for Counted {
    fn unparker(&self) -> Box<dyn Unpark> {
        Box::new(CountedUnpark(self.inner.unparker(), self.unparks.clone()))
    }

    fn park(&mut self, limit: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        self.sleeps.set(self.sleeps.get() + 1);
        self.inner.park(limit, ready)
    }

    fn look(&mut self, _ready: &mut Vec<u64>) -> io::Result<()> {
        Ok(())
    }
}

struct CountedUnpark(Box<dyn Unpark>, Arc<AtomicUsize>);

impl Unpark for CountedUnpark {
    fn unpark(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// A context, its sleeps and its unparks.
fn counted() -> (AioContext, Rc<Cell<usize>>, Arc<AtomicUsize>) {
    let (sleeps, unparks) = (Rc::new(Cell::new(0)), Arc::new(AtomicUsize::new(0)));
    let reactor = Counted {
        inner: CondvarReactor::new(),
        sleeps: sleeps.clone(),
        unparks: unparks.clone(),
    };
    (
        AioContext::builder().reactor(reactor).build().unwrap(),
        sleeps,
        unparks,
    )
}

#[test]
fn a_wake_up_of_an_owner_that_is_awake_makes_no_system_call() {
    let (context, sleeps, unparks) = counted();
    let remote = context.remote();
    context.block_on(async {
        // The owner waits for the threads inside its own poll: it is awake all the time.
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| remote.submit(|_| ()).unwrap()));
            }
        });
    });
    assert_eq!((sleeps.get(), unparks.load(Ordering::SeqCst)), (0, 0));
}

#[test]
fn many_wake_ups_of_a_sleeping_owner_make_one_system_call() {
    let (context, sleeps, unparks) = counted();
    let remote = context.remote();
    let (tell, told) = std::sync::mpsc::channel();
    let waker = thread::spawn(move || {
        let waker: std::task::Waker = told.recv().unwrap();
        waker.wake_by_ref();
        waker
    });
    let mut sent = false;
    context.block_on(poll_fn(|cx| {
        if sent {
            return Poll::Ready(());
        }
        sent = true;
        tell.send(cx.waker().clone()).unwrap();
        Poll::Pending
    }));
    let waker = waker.join().unwrap();
    let (slept, woken) = (sleeps.get(), unparks.load(Ordering::SeqCst));
    assert!(
        woken <= slept && slept <= 1,
        "{woken} unparks for {slept} sleeps"
    );
    // No task sleeps now.
    for _ in 0..10 {
        waker.wake_by_ref();
        remote.wake();
    }
    assert_eq!(unparks.load(Ordering::SeqCst), woken);
}

#[test]
fn a_wake_before_the_sleep_ends_it_at_once() {
    let (context, _, _) = counted();
    let remote = context.remote();
    let mut polls = 0;
    context.block_on(poll_fn(|cx| {
        polls += 1;
        if polls == 2 {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let remote = remote.clone();
        thread::spawn(move || {
            remote.wake();
            waker.wake();
        })
        .join()
        .unwrap();
        Poll::Pending
    }));
    assert_eq!(polls, 2);
}

#[test]
fn a_cancel_flag_wakes_every_waiter_and_stays_set() {
    let flag = CancelFlag::new();
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    let first = handle.spawn(flag.cancelled());
    let second = handle.spawn(flag.clone().cancelled());
    let given_up = handle.spawn(flag.cancelled());
    context.by_hand().run_until_stalled();
    assert!(!flag.is_cancelled() && !first.is_finished());
    drop(given_up);
    context.by_hand().run_until_stalled();
    let remote = flag.clone();
    let canceller = thread::spawn(move || remote.cancel());
    context.block_on(async {
        first.await.unwrap();
        second.await.unwrap();
        flag.cancelled().await;
    });
    canceller.join().unwrap();
    assert!(flag.is_cancelled());
    flag.cancel();
}

#[test]
fn a_waiter_polled_after_the_flag_was_set_elsewhere_is_ready_and_its_drop_takes_no_others_place() {
    let flag = CancelFlag::default();
    let mut cx = Context::from_waker(noop_waker_ref());
    let mut waiting = pin!(flag.cancelled());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    let also = flag.cancelled();
    flag.cancel();
    assert!(waiting.as_mut().poll(&mut cx).is_ready());
    drop(also);
    assert!(pin!(flag.cancelled()).poll(&mut cx).is_ready());
}

#[test]
fn a_counter_adds_up_what_all_threads_added() {
    let counter = Counter::new();
    thread::scope(|scope| {
        for _ in 0..4 {
            let counter = counter.clone();
            scope.spawn(move || (0..1000).for_each(|_| counter.add(2)));
        }
    });
    assert_eq!(counter.get(), 8000);
}

#[test]
#[cfg_attr(miri, ignore = "reads the sources, runs no code")]
fn no_file_but_sync_names_the_primitives_that_the_model_checker_replaces() {
    let mut files = Vec::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    assert!(files.len() > 10, "the sources were not found");
    let forbidden = [
        "std::sync",
        "core::sync",
        "alloc::sync",
        "std::thread",
        "thread_local!",
        "loom::",
    ];
    for file in files {
        let is_part_of_sync = file
            .parent()
            .is_some_and(|folder| folder.ends_with("src/sync"));
        if is_part_of_sync {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for name in forbidden {
                assert!(
                    !code.contains(name),
                    "{}:{}: names {name}",
                    file.display(),
                    number + 1
                );
            }
        }
    }
}

fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
