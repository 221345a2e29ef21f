//! A context inside another executor, and two contexts that exchange work.
use std::time::Duration;

use aio_task::edge::slot;
use aio_task::model::{Notifier, Watcher, while_time_passes};
use aio_task::{AioContext, Unpark, Watch};
use futures::future::join;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use std::time::Instant;

use super::support::{CountingWaker, DropsHere, EventFd, host};
use crate::check::reach;

crate::models![
    a_remote_wake_reaches_the_host_of_a_hosted_context: [42],
    a_remote_wake_while_the_host_blocks_on_the_context_is_not_lost: [42],
    a_job_submitted_to_a_hosted_context_wakes_its_host: [42],
    a_hosted_context_dropped_by_its_host_drops_what_is_on_its_way: [42, 25],
    two_contexts_wait_for_each_others_work: [43],
    a_task_of_one_context_awaited_in_another_ends_with_its_output: [43, 16],
    a_watcher_reports_what_it_was_ordered_last: [44],
    a_watcher_dropped_while_it_watches_leaves: [44],
    a_watcher_dropped_after_its_report_leaves: [44],
    a_notification_to_a_hosted_context_wakes_its_host_alone: [42, 5],
    a_hosted_contexts_deadline_wakes_its_host: [44, 41] reaches ["deadline", "result"],
];

/// The task waits for two results, the host sleeps in its own executor between them.
/// Faults: the host is registered after the sleep is announced; the notifier wakes the reactor instead of the host, or forgets one.
fn a_remote_wake_reaches_the_host_of_a_hosted_context() {
    let context = AioContext::new().unwrap();
    let ((a, first), (b, second)) = (slot(), slot());
    let task = context
        .handle()
        .spawn(async move { first.await.unwrap() + second.await.unwrap() });
    let completing = thread::spawn(move || {
        a.complete(5);
        b.complete(6);
    });
    let handle = context.handle();
    let ((), sum) = host(join(context.drive(), async move {
        let sum = task.await;
        handle.stop_drive();
        sum
    }));
    assert_eq!(sum.unwrap(), 11);
    completing.join().unwrap();
}

/// Inside the host's own poll the context sleeps in its reactor; then the host takes over again.
/// Faults: `block_on` leaves the hosts where a notification finds them; it does not wake them when it is done.
fn a_remote_wake_while_the_host_blocks_on_the_context_is_not_lost() {
    let context = AioContext::new().unwrap();
    let ((a, for_task), (b, for_main)) = (slot(), slot());
    let task = context.handle().spawn(for_task);
    let completing = thread::spawn(move || {
        b.complete(6);
        a.complete(5);
    });
    let (handle, inner) = (context.handle(), &context);
    let ((), ended) = host(join(context.drive(), async move {
        assert_eq!(inner.block_on(for_main), Ok(6));
        let ended = task.await;
        handle.stop_drive();
        ended
    }));
    assert_eq!(ended.unwrap(), Ok(5));
    completing.join().unwrap();
}

/// Fault: a push to the inbox without a notification.
fn a_job_submitted_to_a_hosted_context_wakes_its_host() {
    let context = AioContext::new().unwrap();
    let remote = context.remote();
    let submitting = thread::spawn(move || remote.submit(|handle| handle.stop_drive()).unwrap());
    host(context.drive());
    submitting.join().unwrap();
}

/// The host gives up after one poll and drops the context while a wake is between its decision and its push: nobody is left in the
/// host's list, and the drop waits in the reactor.
/// Fault: a dropped `Drive` leaves its host registered.
fn a_hosted_context_dropped_by_its_host_drops_what_is_on_its_way() {
    let context = AioContext::new().unwrap();
    let (completer, completion) = slot::<u8>();
    let (drops, here) = DropsHere::new();
    let waiting = async move {
        let _here = here;
        let _ = completion.await;
    };
    context.handle().spawn(waiting).detach();
    host(futures::future::select(
        context.drive(),
        futures::future::ready(()),
    ));
    let completing = thread::spawn(move || completer.complete(5));
    drop(context);
    assert_eq!(drops.get(), 1);
    completing.join().unwrap();
}

/// Each runs what the other sent while it waits for its own.
/// Faults: notify before push; all threads share one table of queues.
fn two_contexts_wait_for_each_others_work() {
    let here = AioContext::new().unwrap();
    let remote = here.remote();
    let (theirs, for_us) = slot();
    let there = thread::spawn(move || {
        let context = AioContext::new().unwrap();
        theirs.complete(context.remote());
        let (completer, completion) = slot();
        let owner = thread::current().id();
        remote
            .submit(move |_| {
                assert_ne!(thread::current().id(), owner);
                completer.complete(1);
            })
            .unwrap();
        assert_eq!(context.block_on(completion), Ok(1));
        // Dropped with what we sent to it, run or not.
    });
    let remote = here.block_on(for_us).unwrap();
    let (completer, completion) = slot();
    let sent = remote.submit(move |_| completer.complete(2));
    let answer = here.block_on(completion);
    assert!(sent.is_ok() || answer.is_err());
    // Until the other one has gone, its job to us may still come.
    let (job_ran, wait) = slot();
    let watching = thread::spawn(move || {
        there.join().unwrap();
        job_ran.complete(());
    });
    here.block_on(wait).unwrap();
    watching.join().unwrap();
}

/// A handle is a future anywhere: polled in one context, run in another.
/// Faults: a remote wake finds a run queue that is not its own; the task's end does not see who waits for it.
fn a_task_of_one_context_awaited_in_another_ends_with_its_output() {
    let here = AioContext::new().unwrap();
    let (completer, completion) = slot();
    let task = here.handle().spawn(completion);
    let there = thread::spawn(move || {
        let context = AioContext::new().unwrap();
        completer.complete(4);
        context.block_on(task).unwrap()
    });
    let remote = here.remote();
    let (stop, stopped) = slot();
    let waiting = thread::spawn(move || {
        let value = there.join().unwrap();
        remote.submit(move |_| stop.complete(value)).unwrap();
    });
    assert_eq!(here.block_on(stopped).unwrap(), Ok(4));
    waiting.join().unwrap();
}

/// A bell that ends a watch, and the watch that it ends: `until` never comes by itself.
struct Bell(EventFd);

impl Unpark for Bell {
    fn unpark(&self) {
        self.0.unpark();
    }
}

impl Watch for Bell {
    fn watch(&mut self, until: Option<Instant>) {
        // Due at once, or when rung.
        if until.is_none() {
            self.0.sleep();
        }
    }
}

/// The second order comes while the thread takes the first: one that cannot end by itself, then one that is due. A report must come.
/// Faults: an order does not ring; a changed order is taken for a finished one; an order to a resting thread does not wake it.
fn a_watcher_reports_what_it_was_ordered_last() {
    let bell = EventFd::new();
    let reports = EventFd::new();
    let watcher = Watcher::start(Bell(bell.clone()), Bell(bell), {
        let reports = reports.clone();
        move || reports.unpark()
    });
    watcher.order(None);
    watcher.order(Some(Instant::now()));
    assert_eq!(reports.sleep(), 1);
    drop(watcher);
}

/// Its thread must end: loom reports a thread that sleeps for ever. A report that comes in that moment is one too many, no more.
/// Faults: the drop does not ring; it does not wake a resting thread; the thread overwrites the order to leave.
fn a_watcher_dropped_while_it_watches_leaves() {
    let bell = EventFd::new();
    let reports = Arc::new(AtomicUsize::new(0));
    let watcher = Watcher::start(Bell(bell.clone()), Bell(bell), {
        let reports = reports.clone();
        move || {
            reports.fetch_add(1, Ordering::Relaxed);
        }
    });
    watcher.order(None);
    drop(watcher);
    assert!(reports.load(Ordering::Relaxed) <= 1);
}

/// The same with an order that is met at once: the thread may be resting when it is told to leave, or not even have begun.
/// Faults: the drop does not wake a resting thread; an order does not.
fn a_watcher_dropped_after_its_report_leaves() {
    let bell = EventFd::new();
    let reports = EventFd::new();
    let watcher = Watcher::start(Bell(bell.clone()), Bell(bell), {
        let reports = reports.clone();
        move || reports.unpark()
    });
    watcher.order(Some(Instant::now()));
    assert_eq!(reports.sleep(), 1);
    drop(watcher);
}

/// A host is what sleeps: no system call for a reactor that nobody is in, and one wake of the host for each of its sleeps.
/// Fault: a notification rings the reactor as well.
fn a_notification_to_a_hosted_context_wakes_its_host_alone() {
    let reactor = EventFd::new();
    let notifier = Arc::new(Notifier::new(reactor.clone()));
    let (host, waker) = CountingWaker::new();
    notifier.set_host(0, waker);
    let notifying = [0, 1].map(|_| {
        let notifier = notifier.clone();
        thread::spawn(move || notifier.notify())
    });
    let slept = notifier.prepare_sleep();
    for thread in notifying {
        thread.join().unwrap();
    }
    assert_eq!(host.wakes(), usize::from(slept));
    assert_eq!(reactor.try_sleep(), 0, "a wake for a reactor nobody is in");
    assert!(notifier.take());
    notifier.remove_host(0);
}

/// The context does not sleep itself: its watcher does, and wakes the host when the time limit passes, which is loom's choice.
/// Faults: nobody is told of a new timer; the watcher reports to nobody; a due timer is not fired by the host's next poll.
fn a_hosted_contexts_deadline_wakes_its_host() {
    while_time_passes(|| {
        let context = AioContext::new().unwrap();
        let (completer, completion) = slot();
        let completing = thread::spawn(move || completer.complete(5));
        let handle = context.handle();
        let limited = handle.timeout(Duration::from_secs(1), completion);
        let task = context.handle().spawn(limited);
        let ((), ended) = host(join(context.drive(), async move {
            let ended = task.await;
            handle.stop_drive();
            ended
        }));
        match ended.unwrap() {
            Ok(value) => {
                reach("result");
                assert_eq!(value, Ok(5));
            }
            Err(_) => reach("deadline"),
        }
        completing.join().unwrap();
    });
}
