//! The inbox: what other threads have sent and the owner has not taken.
use std::cell::Cell;
use std::rc::Rc;

use aio_task::AioContext;
use aio_task::edge::slot;
use aio_task::model::{Inbox, Notifier};
use loom::sync::{Arc, Mutex};
use loom::thread::{self, ThreadId};

use super::support::EventFd;
use crate::check::reach;

crate::models![
    what_two_threads_push_is_taken_once_and_in_each_ones_order: [7],
    a_push_while_the_owner_goes_to_sleep_is_not_stranded: [8],
    jobs_of_two_threads_run_once_and_on_the_owner: [7, 8, 9],
    jobs_of_one_thread_run_in_their_order: [7] reaches ["ran between", "ran together"],
    a_push_while_the_inbox_closes_is_taken_or_refused: [10] reaches ["taken", "refused"],
    a_job_submitted_while_the_context_is_dropped_goes_on_the_owner_or_is_refused: [10] reaches ["accepted", "refused"],
];

/// Inbox and notifier as `Remote` puts them together: push, then notify; take the notification, then the items.
/// Faults: the inbox as a stack; a take that leaves an item or gives one twice; notify before push in the model's own threads
/// is what the next model is about.
fn what_two_threads_push_is_taken_once_and_in_each_ones_order() {
    let bell = EventFd::new();
    let notifier = Arc::new(Notifier::new(bell.clone()));
    let inbox = Arc::new(Inbox::new());
    let pushing = [0, 1].map(|thread| {
        let (notifier, inbox) = (notifier.clone(), inbox.clone());
        thread::spawn(move || {
            for number in 0..2 {
                inbox.push((thread, number)).unwrap();
            }
            notifier.notify();
        })
    });
    let mut next = [0, 0];
    while next != [2, 2] {
        if notifier.take() {
            for (thread, number) in inbox.take() {
                assert_eq!(number, next[thread], "lost, twice or out of order");
                next[thread] += 1;
            }
        } else if notifier.prepare_sleep() {
            bell.sleep();
        }
    }
    for thread in pushing {
        thread.join().unwrap();
    }
    assert!(inbox.take().is_empty());
}

/// The whole way: `submit` on another thread against `block_on` with nothing to do.
/// Faults: notify before push; no notify; the owner announces its sleep and does not look at what came before; a take of the inbox
/// without one of the notification.
fn a_push_while_the_owner_goes_to_sleep_is_not_stranded() {
    let context = AioContext::new().unwrap();
    let remote = context.remote();
    let (completer, completion) = slot();
    let submitting = thread::spawn(move || remote.submit(move |_| completer.complete(5)).unwrap());
    assert_eq!(context.block_on(completion), Ok(5));
    submitting.join().unwrap();
}

/// What a job touches belongs to the owner's thread.
/// Faults: an item that came while the owner was awake waits for a notification that no task sends; the inbox gives only the first.
fn jobs_of_two_threads_run_once_and_on_the_owner() {
    let context = AioContext::new().unwrap();
    let owner = thread::current().id();
    let waits: Vec<_> = [0, 1]
        .map(|number| {
            let remote = context.remote();
            let (completer, completion) = slot();
            let submitting = thread::spawn(move || {
                let job = move |_: &_| completer.complete((number, thread::current().id()));
                remote.submit(job).unwrap();
            });
            (submitting, completion)
        })
        .into();
    let ran = Rc::new(Cell::new(0));
    for (number, (submitting, completion)) in waits.into_iter().enumerate() {
        assert_eq!(context.block_on(completion), Ok((number, owner)));
        ran.set(ran.get() + 1);
        submitting.join().unwrap();
    }
    assert_eq!(ran.get(), 2);
}

/// Whether the context takes them one by one or together.
/// Faults: what the inbox had is queued in another order; the run queue gives the last first.
fn jobs_of_one_thread_run_in_their_order() {
    let context = AioContext::new().unwrap();
    let remote = context.remote();
    let ran = Arc::new(Mutex::new(Vec::new()));
    let (completer, completion) = slot();
    let submitting = thread::spawn({
        let ran = ran.clone();
        move || {
            let first = ran.clone();
            let job = move |_: &_| first.lock().unwrap().push(1);
            remote.submit(job).unwrap();
            let between = !ran.lock().unwrap().is_empty();
            let job = move |_: &_| {
                ran.lock().unwrap().push(2);
                completer.complete(between);
            };
            remote.submit(job).unwrap();
        }
    });
    let between = context.block_on(completion).unwrap();
    reach(if between {
        "ran between"
    } else {
        "ran together"
    });
    assert_eq!(*ran.lock().unwrap(), [1, 2]);
    submitting.join().unwrap();
}

/// Nothing is in the inbox after its close, and nothing that was accepted is lost.
/// Faults: `close` forgets to refuse what comes later; `close` forgets what is there; `push` looks at `closed` before it takes the
/// lock.
fn a_push_while_the_inbox_closes_is_taken_or_refused() {
    let inbox = Arc::new(Inbox::new());
    let pushing = thread::spawn({
        let inbox = inbox.clone();
        move || [0, 1, 2].map(|number| inbox.push(number).is_ok())
    });
    let mut taken: Vec<usize> = inbox.take().into();
    taken.extend(inbox.close());
    let accepted = pushing.join().unwrap();
    assert!(inbox.take().is_empty(), "accepted after the close");
    for number in [0, 1, 2] {
        assert_eq!(
            accepted[number],
            taken.contains(&number),
            "accepted and taken are the same"
        );
    }
    reach(if accepted[2] { "taken" } else { "refused" });
}

/// A task that was told `Ok` knows that the job's captures are dropped, run or not, on the context's thread.
/// Faults: `drop` of the context closes the inbox and forgets its items; `submit` says `Ok` to a refused job.
fn a_job_submitted_while_the_context_is_dropped_goes_on_the_owner_or_is_refused() {
    /// Leaves the thread it is dropped on.
    struct Capture(Arc<Mutex<Option<ThreadId>>>);
    impl Drop for Capture {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Some(thread::current().id());
        }
    }
    let context = AioContext::new().unwrap();
    let owner = thread::current().id();
    let remote = context.remote();
    let dropped = Arc::new(Mutex::new(None));
    let capture = Capture(dropped.clone());
    let submitting = thread::spawn(move || {
        let accepted = remote.submit(move |_| drop(capture)).is_ok();
        (accepted, thread::current().id())
    });
    context.by_hand().step();
    drop(context);
    let (accepted, submitter) = submitting.join().unwrap();
    let by = if accepted { owner } else { submitter };
    assert_eq!(
        *dropped.lock().unwrap(),
        Some(by),
        "dropped by the wrong thread, or never"
    );
    reach(if accepted { "accepted" } else { "refused" });
}
