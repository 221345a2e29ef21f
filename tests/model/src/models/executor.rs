//! The executor: run queue, live tasks, `block_on`, the drop of a context.
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::{pending, poll_fn, ready};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::panic_any;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use aio_task::edge::slot;
use aio_task::model::{time_passes, while_time_passes};
use aio_task::{
    AioContext, CondvarReactor, Interest, JoinError, ManualClock, NotDriven, Reactor, TimedOut,
    Unpark,
};
use futures::future::join;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::support::{CountingWaker, DropsHere, EventFd, InlineHere, Token, poll_by};
use crate::check::reach;

crate::models![
    a_task_that_completes_while_the_owner_goes_to_sleep_wakes_it: [24],
    a_result_for_block_on_itself_ends_its_sleep: [24],
    two_results_for_block_on_itself_are_both_seen: [24],
    a_task_touches_what_is_local_on_its_owner_only: [9],
    a_context_dropped_while_a_wake_is_on_its_way_waits_for_it: [25],
    a_waker_that_outlives_its_context_does_nothing: [26],
    a_task_and_block_on_woken_together_are_both_polled: [27],
    a_panic_with_a_wake_on_its_way_reaches_the_handle: [28],
    a_wake_of_the_context_alone_makes_its_reactor_look_again: [24],
    a_context_dropped_by_another_threads_last_word_is_not_kept_waiting: [25, 10],
    a_task_that_never_rests_keeps_no_other_thread_out: [24],
    a_context_built_where_another_was_has_a_queue_of_its_own: [26],
    a_context_dropped_with_a_task_that_nothing_wakes_ends: [25, 10],
    a_sleep_ends_at_its_deadline_though_nothing_else_wakes_the_context: [41],
    a_result_against_a_deadline_is_one_or_the_other: [41] reaches ["result", "deadline"],
    a_deadline_that_passed_swallows_no_later_wake: [41] reaches ["deadline"],
    a_timer_polled_by_two_wakers_wakes_the_later: [50, 41],
    a_descriptor_polled_by_two_wakers_wakes_the_later: [50],
    the_last_drivers_end_reaches_the_later_of_two_wakers: [50],
    a_timer_whose_waker_polls_at_once_is_over: [51, 41],
    waits_from_outside_whose_wakers_poll_at_once_are_over: [51],
    more_items_than_a_turn_runs_are_run_in_the_next: [57],
    a_ring_of_the_reactor_ends_one_wait: [4],
    a_context_that_ends_wakes_those_who_wait_outside_of_it: [60],
    the_end_of_a_context_reaches_wakers_that_poll_at_once: [60, 51],
];

/// Lost here, and this deadlocks.
/// Faults: notify before push; the owner does not look at the inbox after announcing its sleep; a wake without a system call.
fn a_task_that_completes_while_the_owner_goes_to_sleep_wakes_it() {
    let context = AioContext::new().unwrap();
    let (completer, completion) = slot();
    let task = context
        .handle()
        .spawn(async move { completion.await.unwrap() + 1 });
    let completing = thread::spawn(move || completer.complete(5));
    assert_eq!(context.block_on(task).unwrap(), 6);
    completing.join().unwrap();
}

/// The waker is block_on's own: no task, no inbox.
/// Faults: the mark for block_on's future is set after the notification; it is not looked at.
fn a_result_for_block_on_itself_ends_its_sleep() {
    let context = AioContext::new().unwrap();
    let (completer, completion) = slot();
    let completing = thread::spawn(move || completer.complete(5));
    assert_eq!(context.block_on(completion), Ok(5));
    completing.join().unwrap();
}

/// Two threads wake block_on's future after a relaxed store each. The mark of the second may be taken together with the first one's
/// notification: the mark itself must publish.
/// Faults: the mark set or taken relaxed.
fn two_results_for_block_on_itself_are_both_seen() {
    let context = AioContext::new().unwrap();
    let flags = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let mut waking = Vec::new();
    context.block_on(poll_fn(|cx| {
        if waking.is_empty() {
            waking.extend([0, 1].map(|at| {
                let (flags, waker) = (flags.clone(), cx.waker().clone());
                thread::spawn(move || {
                    flags[at].store(true, Ordering::Relaxed);
                    waker.wake();
                })
            }));
        }
        if flags.iter().all(|flag| flag.load(Ordering::Relaxed)) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }));
    for thread in waking {
        thread.join().unwrap();
    }
}

/// Another thread completes, one after the other, the two things that a task waits for: every poll and the drop are on the owner.
/// Fault: a wake from elsewhere runs the task where it is.
fn a_task_touches_what_is_local_on_its_owner_only() {
    let context = AioContext::new().unwrap();
    let owner = thread::current().id();
    let (drops, here) = DropsHere::new();
    let ((a, first), (b, second)) = (slot(), slot());
    let both = join(first, second);
    let task = context.handle().spawn(async move {
        let _here = here;
        let mut both = std::pin::pin!(both);
        poll_fn(|cx| {
            assert_eq!(thread::current().id(), owner);
            both.as_mut().poll(cx)
        })
        .await
    });
    let completing = thread::spawn(move || {
        a.complete(1);
        b.complete(2);
    });
    assert_eq!(context.block_on(task).unwrap(), (Ok(1), Ok(2)));
    assert_eq!(drops.get(), 1);
    completing.join().unwrap();
}

/// The other thread has taken the right to schedule the task and has not pushed it yet: the drop returns only when the future is
/// gone, and it goes on this thread.
/// Faults: the drop does not wait; it closes the inbox first; it takes its queue from the thread's table before the tasks are gone.
fn a_context_dropped_while_a_wake_is_on_its_way_waits_for_it() {
    let context = AioContext::new().unwrap();
    let (completer, completion) = slot();
    let (drops, here) = DropsHere::new();
    let waiting = async move {
        let _here = here;
        let _ = completion.await;
    };
    context.handle().spawn(waiting).detach();
    context.by_hand().step();
    let completing = thread::spawn(move || completer.complete(5));
    drop(context);
    assert_eq!(drops.get(), 1, "the future outlived its context");
    completing.join().unwrap();
}

/// Wakers of a task that ended and of block_on, used there while the context is dropped, and here after it, with that of a task which
/// went with the context. They keep alive what other threads share of the context, and nothing that was sent to it: a job is dropped by
/// then, refused or not.
/// Faults: the end of the context leaves its inbox open; a closed inbox goes on accepting; a task that ended stays among the living.
fn a_waker_that_outlives_its_context_does_nothing() {
    let context = AioContext::new().unwrap();
    let (drops, here) = DropsHere::new();
    let wakers = Rc::new(RefCell::new(Vec::new()));
    let keep = |polled: Poll<()>| {
        let wakers = wakers.clone();
        poll_fn(move |cx| {
            wakers.borrow_mut().push(cx.waker().clone());
            polled
        })
    };
    let ended = context.handle().spawn(keep(Poll::Ready(())));
    context.block_on(keep(Poll::Ready(())));
    context.block_on(ended).unwrap();
    let theirs = wakers.borrow().clone();
    assert_eq!(theirs.len(), 2);
    let sleeping = keep(Poll::Pending);
    let sleeping = context.handle().spawn(async move {
        let _here = here;
        sleeping.await;
    });
    context.by_hand().step();
    let (sent, token) = Token::new();
    let remote = context.remote();
    let waking = thread::spawn(move || {
        for waker in theirs {
            waker.wake();
        }
        let _ = remote.submit(move |_| drop(token));
    });
    drop(context);
    assert_eq!(drops.get(), 1);
    waking.join().unwrap();
    let all = wakers.take();
    assert_eq!(all.len(), 3);
    for waker in &all {
        waker.wake_by_ref();
    }
    assert_eq!(sent.load(Ordering::Relaxed), 1, "the job is kept");
    drop(sleeping);
}

/// One notification may stand for both.
/// Fault: a notification is used up for the inbox alone.
fn a_task_and_block_on_woken_together_are_both_polled() {
    let context = AioContext::new().unwrap();
    let ((a, for_task), (b, for_main)) = (slot(), slot());
    let done = Rc::new(Cell::new(false));
    let task = context.handle().spawn({
        let done = done.clone();
        async move {
            assert_eq!(for_task.await, Ok(1));
            done.set(true);
        }
    });
    let completing =
        [(a, 1), (b, 2)].map(|(completer, value)| thread::spawn(move || completer.complete(value)));
    assert_eq!(context.block_on(for_main), Ok(2));
    context.block_on(task).unwrap();
    assert!(done.get());
    for thread in completing {
        thread.join().unwrap();
    }
}

/// The task panics on the first of two results while the wake of the second is on its way to it.
/// Fault: a panic goes through the loop, or is taken for a cancel.
fn a_panic_with_a_wake_on_its_way_reaches_the_handle() {
    struct Meant;
    let context = AioContext::new().unwrap();
    let (drops, here) = DropsHere::new();
    let ((a, first), (b, second)) = (slot::<()>(), slot::<()>());
    let task = context.handle().spawn(async move {
        let _here = here;
        futures::future::select(first, second).await;
        panic_any(Meant);
    });
    let completing = thread::spawn(move || {
        a.complete(());
        b.complete(());
    });
    match context.block_on(task) {
        Err(JoinError::Panicked(payload)) => assert!(payload.is::<Meant>()),
        Err(JoinError::Cancelled) => panic!("the panic was lost"),
        Ok(()) => unreachable!("the task ends by a panic"),
    }
    assert_eq!(drops.get(), 1);
    let next = context.handle().spawn(async { 3 });
    assert_eq!(context.block_on(next).unwrap(), 3);
    completing.join().unwrap();
}

/// A reactor with one device, which another thread makes ready. It looks at it after each sleep.
struct DeviceReactor {
    bell: EventFd,
    ready: Arc<AtomicBool>,
    waited_for: Option<u64>,
}

impl Reactor for DeviceReactor {
    fn unparker(&self) -> Box<dyn Unpark> {
        Box::new(self.bell.clone())
    }

    fn park(&mut self, limit: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        if limit.is_none() {
            self.bell.sleep();
        }
        if self.waited_for.is_some() && self.ready.load(Ordering::Relaxed) {
            ready.extend(self.waited_for.take());
        }
        Ok(())
    }

    fn register(&mut self, key: u64, _fd: OwnedFd, _interest: Interest) -> io::Result<bool> {
        self.waited_for = Some(key);
        Ok(true)
    }
}

/// `RemoteHandle::wake` sends nothing: it makes the loop look again at what its reactor watches. The device's state is relaxed.
/// Fault: `wake` notifies nothing.
fn a_wake_of_the_context_alone_makes_its_reactor_look_again() {
    let flag = Arc::new(AtomicBool::new(false));
    let reactor = DeviceReactor {
        bell: EventFd::new(),
        ready: flag.clone(),
        waited_for: None,
    };
    let context = AioContext::builder().reactor(reactor).build().unwrap();
    let remote = context.remote();
    let device = thread::spawn(move || {
        flag.store(true, Ordering::Relaxed);
        remote.wake();
    });
    let null = File::open("/dev/null").unwrap();
    context.block_on(context.handle().readable(&null)).unwrap();
    device.join().unwrap();
}

/// Tasks wait for what never comes, jobs come from another thread until the drop refuses them: the drop ends, and every future and
/// job has gone when it does.
/// Faults: the drop does not call sleeping tasks in, or looks at the inbox only while its own queue is empty.
fn a_context_dropped_by_another_threads_last_word_is_not_kept_waiting() {
    let context = AioContext::new().unwrap();
    let (drops, here) = DropsHere::new();
    let waiting = async move {
        let _here = here;
        std::future::pending::<()>().await;
    };
    context.handle().spawn(waiting).detach();
    context.by_hand().step();
    let remote = context.remote();
    let submitting = thread::spawn(move || {
        let mut accepted = 0;
        while remote.submit(|_| {}).is_ok() {
            accepted += 1;
            assert!(accepted < 50, "the context takes jobs and does not end");
            thread::yield_now();
        }
    });
    drop(context);
    assert_eq!(drops.get(), 1);
    submitting.join().unwrap();
}

/// The task wakes itself in every poll. After so many runs the loop looks outside all the same.
/// Fault: the inbox is looked at only when the queue is empty.
fn a_task_that_never_rests_keeps_no_other_thread_out() {
    let context = AioContext::new().unwrap();
    let mut polls = 0;
    let restless = poll_fn(move |cx| {
        polls += 1;
        assert!(polls < 1000, "no other thread gets in");
        if polls % 64 == 0 {
            thread::yield_now(); // else loom would never let the other thread run
        }
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    context.handle().spawn(restless).detach();
    let (completer, completion) = slot();
    let completing = thread::spawn(move || completer.complete(5));
    assert_eq!(context.block_on(completion), Ok(5));
    completing.join().unwrap();
}

/// The address by which wakers find their context's queue may be used again.
/// Fault: a dropped context stays in its thread's table.
fn a_context_built_where_another_was_has_a_queue_of_its_own() {
    drop(AioContext::new().unwrap());
    let context = AioContext::new().unwrap();
    let (completer, completion) = slot();
    let task = context.handle().spawn(async move {
        // Woken here first: that is what a wrong queue loses.
        let mut woken = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut woken, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        completion.await
    });
    let completing = thread::spawn(move || completer.complete(5));
    assert_eq!(context.block_on(task).unwrap(), Ok(5));
    completing.join().unwrap();
}

/// A task waits for something that never comes. The end of the context drops it without help from another thread, whose one notification is
/// no reason to end.
/// Fault: the end does not wake the tasks, and waits for them.
fn a_context_dropped_with_a_task_that_nothing_wakes_ends() {
    let context = AioContext::new().unwrap();
    let (drops, here) = DropsHere::new();
    let waiting = async move {
        let _here = here;
        std::future::pending::<()>().await;
    };
    context.handle().spawn(waiting).detach();
    context.by_hand().step();
    let remote = context.remote();
    let waking = thread::spawn(move || {
        remote.wake();
        remote.wake();
    });
    drop(context);
    assert_eq!(drops.get(), 1);
    waking.join().unwrap();
}

/// A sleep with a time limit lasts as long as the limit; one without is ended by another thread only.
struct PatientReactor(EventFd);

impl Reactor for PatientReactor {
    fn unparker(&self) -> Box<dyn Unpark> {
        Box::new(self.0.clone())
    }

    fn park(&mut self, limit: Option<Duration>, _ready: &mut Vec<u64>) -> io::Result<()> {
        match limit {
            Some(limit) => time_passes(limit),
            None => drop(self.0.sleep()),
        }
        Ok(())
    }
}

/// Another thread wakes the context, which is no reason for the sleep to end; then only the time limit can end it.
/// Fault: the reactor sleeps without a limit.
fn a_sleep_ends_at_its_deadline_though_nothing_else_wakes_the_context() {
    let reactor = PatientReactor(EventFd::new());
    let context = AioContext::builder().reactor(reactor).build().unwrap();
    let remote = context.remote();
    let waking = thread::spawn(move || {
        remote.wake();
        remote.wake();
    });
    let second = Duration::from_secs(1);
    context.block_on(context.handle().sleep(second));
    waking.join().unwrap();
}

/// Whether the time limit of the sleep passes first is loom's choice.
/// Faults: a sleep that never asks for the next timer; a due timer that is not fired after the sleep.
fn a_result_against_a_deadline_is_one_or_the_other() {
    while_time_passes(|| {
        let context = AioContext::new().unwrap();
        let (completer, completion) = slot();
        let completing = thread::spawn(move || completer.complete(5));
        let limit = Duration::from_secs(1);
        let ended = context.block_on(context.handle().timeout(limit, completion));
        match ended {
            Ok(value) => {
                reach("result");
                assert_eq!(value, Ok(5));
            }
            Err(TimedOut) => reach("deadline"),
        }
        completing.join().unwrap();
    });
}

/// The deadline ends the first wait; the wake that comes in that moment belongs to the second one.
/// Fault: after a sleep that timed out the word stays sleeping, or its notification is thrown away.
fn a_deadline_that_passed_swallows_no_later_wake() {
    while_time_passes(|| {
        let context = AioContext::new().unwrap();
        let (completer, completion) = slot();
        let task = context.handle().spawn(completion);
        let (other, waits) = slot();
        let completing = thread::spawn(move || {
            completer.complete(5);
            other.complete(6);
        });
        let limit = Duration::from_secs(1);
        if context
            .block_on(context.handle().timeout(limit, waits))
            .is_err()
        {
            reach("deadline");
        }
        assert_eq!(context.block_on(task).unwrap(), Ok(5));
        completing.join().unwrap();
    });
}

/// The timer is polled outside of every task, by one executor and then by another. Jobs come meanwhile.
/// Faults: a timer keeps its first waker; a second poll, of it or of a time limit, does not bring its waker; a due timer takes a later
/// one along.
fn a_timer_polled_by_two_wakers_wakes_the_later() {
    let clock = ManualClock::new();
    let context = AioContext::builder().clock(&clock).build().unwrap();
    let remote = context.remote();
    let submitting = thread::spawn(move || {
        for _ in 0..2 {
            remote.submit(|_| {}).unwrap();
        }
    });
    let mut sleep = pin!(context.handle().sleep(Duration::from_secs(1)));
    let (_, first) = CountingWaker::new();
    let (later, second) = CountingWaker::new();
    assert!(poll_by(sleep.as_mut(), &first).is_pending());
    assert!(poll_by(sleep.as_mut(), &second).is_pending());
    // One that belongs to a time limit moves along with it.
    let limited = context
        .handle()
        .timeout(Duration::from_secs(1), pending::<()>());
    let mut limited = pin!(limited);
    assert!(poll_by(limited.as_mut(), &first).is_pending());
    assert!(poll_by(limited.as_mut(), &second).is_pending());
    assert_keeps_nothing(context.handle().sleep(Duration::from_secs(1)));
    let (woken, third) = CountingWaker::new();
    let mut longer = pin!(context.handle().sleep(Duration::from_secs(2)));
    assert!(poll_by(longer.as_mut(), &third).is_pending());
    clock.advance(Duration::from_secs(1));
    context.by_hand().run_until_stalled();
    assert_eq!(later.wakes(), 2, "the waker of the last poll was not woken");
    assert!(poll_by(sleep.as_mut(), &second).is_ready());
    let limited = poll_by(limited.as_mut(), &second);
    assert_eq!(limited, Poll::Ready(Err(TimedOut)));
    assert_eq!(woken.wakes(), 0, "a timer that is not due has fired");
    clock.advance(Duration::from_secs(1));
    context.by_hand().run_until_stalled();
    assert_eq!(woken.wakes(), 1, "a later timer is lost");
    let both = pin!(context.handle().timeout(Duration::ZERO, ready(5)));
    assert_eq!(poll_by(both, &third), Poll::Ready(Ok(5)));
    submitting.join().unwrap();
}

/// A wait that is dropped after a poll leaves nothing.
fn assert_keeps_nothing(wait: impl Future) {
    let (kept, waker) = CountingWaker::new();
    let mut wait = Box::pin(wait);
    assert!(poll_by(wait.as_mut(), &waker).is_pending());
    drop((wait, waker));
    let others = std::sync::Arc::strong_count(&kept) - 1;
    assert_eq!(others, 0, "a wait that is over keeps its waker");
}

/// The same for a descriptor, which another thread makes ready.
/// Faults: a wait keeps its first waker; a second poll does not bring its waker.
fn a_descriptor_polled_by_two_wakers_wakes_the_later() {
    let flag = Arc::new(AtomicBool::new(false));
    let reactor = DeviceReactor {
        bell: EventFd::new(),
        ready: flag.clone(),
        waited_for: None,
    };
    let context = AioContext::builder().reactor(reactor).build().unwrap();
    let remote = context.remote();
    let device = thread::spawn(move || {
        flag.store(true, Ordering::Relaxed);
        remote.wake();
    });
    let remote = context.remote();
    let submitting = thread::spawn(move || {
        for _ in 0..2 {
            remote.submit(|_| {}).unwrap();
        }
    });
    let null = File::open("/dev/null").unwrap();
    let mut readable = pin!(context.handle().readable(&null));
    let (_, first) = CountingWaker::new();
    let (later, second) = CountingWaker::new();
    assert!(poll_by(readable.as_mut(), &first).is_pending());
    assert!(poll_by(readable.as_mut(), &second).is_pending());
    device.join().unwrap();
    context.by_hand().run_until_stalled();
    assert_eq!(later.wakes(), 1, "the waker of the last poll was not woken");
    assert!(poll_by(readable.as_mut(), &second).is_ready());
    submitting.join().unwrap();
}

/// A wait from outside learns that the last driver has left, through the waker of its last poll. A job comes meanwhile.
/// Faults: a wait keeps its first waker; the last driver wakes no waiter.
fn the_last_drivers_end_reaches_the_later_of_two_wakers() {
    let context = AioContext::new().unwrap();
    let remote = context.remote();
    let submitting = thread::spawn(move || {
        for _ in 0..2 {
            remote.submit(|_| {}).unwrap();
        }
    });
    let (_completer, completion) = slot::<u8>();
    let mut wait = pin!(context.handle().while_driven(completion));
    let (_, first) = CountingWaker::new();
    let (later, second) = CountingWaker::new();
    let (stepper, other) = (context.by_hand(), context.by_hand());
    assert!(poll_by(wait.as_mut(), &first).is_pending());
    assert!(poll_by(wait.as_mut(), &second).is_pending());
    assert_keeps_nothing(context.handle().while_driven(std::future::pending::<()>()));
    stepper.step();
    drop(stepper);
    assert_eq!(later.wakes(), 0, "another driver is there");
    drop(other);
    assert_eq!(later.wakes(), 1, "the waker of the last poll was not woken");
    assert_eq!(poll_by(wait.as_mut(), &second), Poll::Ready(Err(NotDriven)));
    submitting.join().unwrap();
}

/// Two timers are due at once; the first one's waker polls it inside its wake, and sets another.
/// Fault: timers are woken while their list is borrowed.
fn a_timer_whose_waker_polls_at_once_is_over() {
    let clock = ManualClock::new();
    let context = AioContext::builder().clock(&clock).build().unwrap();
    let remote = context.remote();
    let waking = thread::spawn(move || remote.wake());
    let second = Duration::from_secs(1);
    let over = Cell::new(0);
    let sleeping = [(), ()].map(|()| {
        let (handle, over) = (context.handle(), &over);
        InlineHere::start(async move {
            handle.sleep(second).await;
            over.set(over.get() + 1);
            handle.sleep(second).await;
            over.set(over.get() + 1);
        })
    });
    for expected in [2, 4] {
        clock.advance(second);
        context.by_hand().step();
        assert_eq!(over.get(), expected, "a timer that was due has not ended");
    }
    waking.join().unwrap();
    drop(sleeping);
}

/// A descriptor that another thread makes ready, and the end of the last driver: both waits are polled inside their wakes.
/// The first begins another wait there.
/// Faults: waiters are woken while their list is borrowed, one or all; a wait is woken while the reactor is borrowed.
fn waits_from_outside_whose_wakers_poll_at_once_are_over() {
    let flag = Arc::new(AtomicBool::new(false));
    let reactor = DeviceReactor {
        bell: EventFd::new(),
        ready: flag.clone(),
        waited_for: None,
    };
    let context = AioContext::builder().reactor(reactor).build().unwrap();
    let remote = context.remote();
    let device = thread::spawn(move || {
        flag.store(true, Ordering::Relaxed);
        for _ in 0..2 {
            remote.wake();
        }
    });
    let null = File::open("/dev/null").unwrap();
    let (ready, left) = (Cell::new(false), Cell::new(false));
    let stepper = context.by_hand();
    let waits = {
        let (handle, ready, left) = (context.handle(), &ready, &left);
        let (readable, again) = (handle.readable(&null), handle.readable(&null));
        let driven = handle.while_driven(std::future::pending::<()>());
        (
            InlineHere::start(async move {
                readable.await.unwrap();
                ready.set(true);
                let _ = again.await;
            }),
            InlineHere::start(async move {
                assert_eq!(driven.await, Err(NotDriven));
                left.set(true);
            }),
        )
    };
    stepper.step();
    device.join().unwrap();
    stepper.step();
    assert_eq!((ready.get(), left.get()), (true, false));
    drop(stepper);
    assert!(left.get(), "the wait for the last driver was not woken");
    drop(waits);
}

/// The reactor alone: each ring ends one wait, whether it comes before the wait or during it; at most one more ends early, since a ring
/// is noted before it wakes.
/// Fault: a ring is heard by every later wait.
fn a_ring_of_the_reactor_ends_one_wait() {
    let mut reactor = CondvarReactor::new();
    let ringer = reactor.unparker();
    let (heard, rings) = (EventFd::new(), Arc::new(AtomicBool::new(false)));
    let ringing = thread::spawn({
        let (heard, again) = (heard.clone(), rings.clone());
        move || {
            ringer.unpark();
            heard.sleep();
            again.store(true, Ordering::Release);
            ringer.unpark();
        }
    });
    reactor.park(None, &mut Vec::new()).unwrap();
    heard.unpark();
    let mut waits = 0;
    while !rings.load(Ordering::Acquire) {
        waits += 1;
        assert!(waits <= 2, "a ring ends every wait");
        reactor.park(None, &mut Vec::new()).unwrap();
    }
    ringing.join().unwrap();
}

/// A task wakes itself more often than a turn runs items, and nothing else comes.
/// Fault: the loop sleeps though something is queued.
fn more_items_than_a_turn_runs_are_run_in_the_next() {
    let context = AioContext::new().unwrap();
    let (completer, completion) = slot();
    let completing = thread::spawn(move || completer.complete(5));
    assert_eq!(context.block_on(completion), Ok(5));
    context
        .block_on(context.handle().spawn(restless(RUNS_PER_TURN + 2)))
        .unwrap();
    completing.join().unwrap();
}

/// What a turn runs at the most.
pub(super) const RUNS_PER_TURN: usize = 61;

/// Wakes itself in so many polls.
pub(super) fn restless(mut polls: usize) -> impl Future<Output = ()> {
    poll_fn(move |cx| {
        if polls == 0 {
            return Poll::Ready(());
        }
        polls -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// A timer and a descriptor are polled by another executor when the context is dropped, while a notification
/// is on its way.
/// Fault: the end of a context forgets one of the two.
fn a_context_that_ends_wakes_those_who_wait_outside_of_it() {
    let reactor = DeviceReactor {
        bell: EventFd::new(),
        ready: Arc::new(AtomicBool::new(false)),
        waited_for: None,
    };
    let context = AioContext::builder().reactor(reactor).build().unwrap();
    let handle = context.handle();
    let remote = context.remote();
    let waking = thread::spawn(move || remote.wake());
    let null = File::open("/dev/null").unwrap();
    let mut sleep = pin!(handle.sleep(Duration::from_secs(1)));
    assert_keeps_nothing(handle.readable(&null));
    let mut readable = pin!(handle.readable(&null));
    let [timer, device] = [(), ()].map(|()| CountingWaker::new());
    assert!(poll_by(sleep.as_mut(), &timer.1).is_pending());
    assert!(poll_by(readable.as_mut(), &device.1).is_pending());
    drop(context);
    assert_eq!((timer.0.wakes(), device.0.wakes()), (1, 1));
    assert!(poll_by(sleep, &timer.1).is_ready());
    assert!(poll_by(readable, &device.1).is_ready());
    waking.join().unwrap();
}

/// Timers are polled inside the wakes of the context's end, and a wait that begins there ends at once.
/// Fault: timers are woken while their list is borrowed.
fn the_end_of_a_context_reaches_wakers_that_poll_at_once() {
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    let remote = context.remote();
    let waking = thread::spawn(move || {
        for _ in 0..3 {
            remote.wake();
        }
    });
    let second = Duration::from_secs(1);
    let over = Cell::new(0);
    let sleeping = [(), ()].map(|()| {
        let (handle, over) = (handle.clone(), &over);
        InlineHere::start(async move {
            handle.sleep(second).await;
            handle.sleep(second).await;
            over.set(over.get() + 1);
        })
    });
    drop(context);
    assert_eq!(over.get(), 2, "a wait goes on though its context has gone");
    drop(sleeping);
    waking.join().unwrap();
}
