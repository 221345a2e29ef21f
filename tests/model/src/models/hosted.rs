//! A context inside another executor, and two contexts that exchange work.
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use aio_task::edge::{Completer, slot};
use aio_task::model::{Notifier, Watcher, time_passes_until, while_time_passes};
use aio_task::{AioContext, Interest, ManualClock, Reactor, Unpark, Watch};
use futures::future::join;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::time::Instant;

use super::executor::{RUNS_PER_TURN, restless};
use super::support::{CountingWaker, DropsHere, EventFd, InlineHere, host, poll_by, waker_that};
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
    an_order_given_while_the_watcher_reports_is_met: [52, 44],
    a_report_that_gives_an_order_is_not_locked_out: [52, 51],
    a_drive_polled_by_two_hosts_wakes_the_later: [50, 42] reaches ["taken", "later host"],
    what_is_queued_outside_wakes_the_hosts_of_two_drives: [56],
    a_drive_that_leaves_hands_a_notification_to_the_other: [56] reaches ["by the other", "before it left"],
    the_watcher_stays_until_the_last_of_two_drives_leaves: [56, 44],
    more_items_than_a_hosted_turn_runs_are_run_in_the_next: [57, 42],
    a_drive_polled_inside_the_wake_of_its_host_runs_what_it_was_woken_for: [51, 42],
    a_timer_set_outside_a_turn_is_watched: [58, 44, 41],
    a_descriptor_waited_for_outside_a_turn_is_watched: [58, 44],
    a_clock_moved_outside_a_turn_wakes_the_host: [58, 42],
    a_clock_moved_by_a_task_of_a_hosted_context_ends_sleeps: [58, 51],
    hosts_that_poll_inside_their_wake_take_over_from_block_on: [51, 56],
    what_is_set_outside_a_turn_is_seen_by_a_host_that_polls_at_once: [58, 51, 52],
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

/// The host gives up after one poll and drops the context while a wake is between its decision and its push: none is left in the
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
    let (left, waker) = CountingWaker::new();
    let mut drive = Box::pin(context.drive());
    assert!(poll_by(drive.as_mut(), &waker).is_pending());
    drop(drive);
    context.handle().spawn(async {}).detach();
    assert_eq!(left.wakes(), 0, "a host that has left is woken");
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

/// A host is what sleeps: no system call for a reactor that no task is in, and one wake of the host for each of its sleeps.
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
    assert_eq!(reactor.try_sleep(), 0, "a wake for a reactor no task is in");
    assert!(notifier.take());
    notifier.remove_host(0);
}

/// The context does not sleep itself: its watcher does, and wakes the host when the time limit passes, which is loom's choice.
/// Faults: no caller is told of a new timer; the watcher reports to nothing; a due timer is not fired by the host's next poll.
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

/// The second order may come after the thread has seen that the first is met, and before its report is over.
/// Fault: the watcher forgets what it was ordered while it reported.
fn an_order_given_while_the_watcher_reports_is_met() {
    let bell = EventFd::new();
    let reports = EventFd::new();
    let watcher = Watcher::start(Bell(bell.clone()), Bell(bell), {
        let reports = reports.clone();
        move || reports.unpark()
    });
    for _ in 0..2 {
        watcher.order(Some(Instant::now()));
        assert_eq!(reports.sleep(), 1);
    }
    drop(watcher);
}

/// The report wakes a host, and a host may poll its `Drive` inside the wake: that gives the next order.
/// Fault: the watcher reports under its lock.
fn a_report_that_gives_an_order_is_not_locked_out() {
    let bell = EventFd::new();
    let reports = EventFd::new();
    let place: Arc<Mutex<Option<Arc<Watcher>>>> = Arc::default();
    let watcher = Watcher::start(Bell(bell.clone()), Bell(bell), {
        let (reports, place) = (reports.clone(), place.clone());
        let first = AtomicUsize::new(0);
        move || {
            if first.fetch_add(1, Ordering::Relaxed) == 0 {
                let watcher = place.lock().unwrap().clone();
                watcher.unwrap().order(Some(Instant::now()));
            }
            reports.unpark();
        }
    });
    let watcher = Arc::new(watcher);
    *place.lock().unwrap() = Some(watcher.clone());
    watcher.order(Some(Instant::now()));
    let mut seen = 0;
    while seen < 2 {
        seen += reports.sleep();
    }
    *place.lock().unwrap() = None;
}

/// A host that moved to another task has another waker. The job comes before, between or after the two polls.
/// Faults: notifier or run queue keep a host's first waker.
fn a_drive_polled_by_two_hosts_wakes_the_later() {
    let context = AioContext::new().unwrap();
    let remote = context.remote();
    let submitting = thread::spawn(move || remote.submit(|handle| handle.stop_drive()).unwrap());
    let (before, first) = CountingWaker::new();
    let (later, second) = CountingWaker::new();
    let mut drive = pin!(context.drive());
    if poll_by(drive.as_mut(), &first).is_ready() || poll_by(drive.as_mut(), &second).is_ready() {
        reach("taken");
        submitting.join().unwrap();
        return;
    }
    reach("later host");
    context.handle().spawn(async {}).detach();
    submitting.join().unwrap();
    // One for the task, one for the job.
    assert_eq!(later.wakes(), 2, "the host of the last poll was not woken");
    assert_eq!(before.wakes(), 0, "a host has one waker");
    assert!(poll_by(drive.as_mut(), &second).is_ready());
}

/// Each host is another executor, which sleeps on a thread of its own until it is woken.
/// Fault: what is queued on the context's thread wakes one host only.
fn what_is_queued_outside_wakes_the_hosts_of_two_drives() {
    let context = AioContext::new().unwrap();
    let mut drives = [Box::pin(context.drive()), Box::pin(context.drive())];
    let mut sleeping = Vec::new();
    for drive in &mut drives {
        let bell = EventFd::new();
        let waker = waker_that({
            let bell = bell.clone();
            move || bell.unpark()
        });
        assert!(poll_by(drive.as_mut(), &waker).is_pending());
        sleeping.push(thread::spawn(move || bell.sleep()));
    }
    context.handle().spawn(async {}).detach();
    for thread in sleeping {
        assert_eq!(thread.join().unwrap(), 1);
    }
}

/// A notification that comes in the turn of one `Drive` wakes no waiter: that one looks again, or leaves. The other's host sleeps.
/// Faults: a `Drive` that leaves hands over to no other; it takes the other one's host off the list.
fn a_drive_that_leaves_hands_a_notification_to_the_other() {
    let context = AioContext::new().unwrap();
    let ran = Rc::new(Cell::new(false));
    let (completer, completion) = slot::<()>();
    let task = context.handle().spawn({
        let ran = ran.clone();
        async move {
            completion.await.unwrap();
            ran.set(true);
        }
    });
    let bell = EventFd::new();
    let waker = waker_that({
        let bell = bell.clone();
        move || bell.unpark()
    });
    let mut leaves = Box::pin(context.drive());
    let mut stays = pin!(context.drive());
    assert!(poll_by(stays.as_mut(), &waker).is_pending());
    let completing = thread::spawn(move || completer.complete(()));
    let (_, other) = CountingWaker::new();
    assert!(poll_by(leaves.as_mut(), &other).is_pending());
    drop(leaves);
    reach(if ran.get() {
        "before it left"
    } else {
        "by the other"
    });
    while !ran.get() {
        bell.sleep();
        assert!(poll_by(stays.as_mut(), &waker).is_pending());
    }
    completing.join().unwrap();
    drop(task);
}

/// The reactor's watch is over when it is asked to wait for a moment: the clock shows that moment then.
struct TimedReactor(EventFd);

impl Reactor for TimedReactor {
    fn unparker(&self) -> Box<dyn Unpark> {
        Box::new(self.0.clone())
    }

    fn park(&mut self, limit: Option<Duration>, _ready: &mut Vec<u64>) -> io::Result<()> {
        if limit.is_none() {
            self.0.sleep();
        }
        Ok(())
    }

    fn watch(&self) -> io::Result<(Box<dyn Watch>, Box<dyn Unpark>)> {
        let bell = EventFd::new();
        Ok((Box::new(Moment(bell.clone())), Box::new(bell)))
    }
}

struct Moment(EventFd);

impl Watch for Moment {
    fn watch(&mut self, until: Option<Instant>) {
        match until {
            Some(at) => time_passes_until(at),
            None => {
                self.0.sleep();
            }
        }
    }
}

fn timed() -> AioContext {
    let reactor = TimedReactor(EventFd::new());
    AioContext::builder().reactor(reactor).build().unwrap()
}

/// Two `Drive`s share a watcher. One leaves, and the other's host is still woken when the time has come.
/// Fault: the first `Drive` that leaves takes the watcher along, and no task starts another.
fn the_watcher_stays_until_the_last_of_two_drives_leaves() {
    let context = timed();
    let task = context
        .handle()
        .spawn(context.handle().sleep(Duration::from_secs(1)));
    let (_, waker) = CountingWaker::new();
    let mut leaves = Box::pin(context.drive());
    let bell = EventFd::new();
    let host = waker_that({
        let bell = bell.clone();
        move || bell.unpark()
    });
    let mut stays = pin!(context.drive());
    assert!(poll_by(stays.as_mut(), &host).is_pending());
    assert!(poll_by(leaves.as_mut(), &waker).is_pending());
    drop(leaves);
    while !task.is_finished() {
        bell.sleep();
        assert!(poll_by(stays.as_mut(), &host).is_pending());
    }
}

/// The task wakes itself more often than one poll of the `Drive` runs items.
/// Fault: a `Drive` with something queued rests until it is woken.
fn more_items_than_a_hosted_turn_runs_are_run_in_the_next() {
    let context = AioContext::new().unwrap();
    let (completer, completion) = slot();
    let completing = thread::spawn(move || completer.complete(5));
    let task = context.handle().spawn(async {
        assert_eq!(completion.await, Ok(5));
        restless(RUNS_PER_TURN + 2).await;
    });
    let handle = context.handle();
    host(join(context.drive(), async move {
        task.await.unwrap();
        handle.stop_drive();
    }));
    completing.join().unwrap();
}

/// The host's executor polls inside a wake, where it may.
/// Fault: a queue or a list of hosts is borrowed while hosts are woken.
fn a_drive_polled_inside_the_wake_of_its_host_runs_what_it_was_woken_for() {
    let context = AioContext::new().unwrap();
    let remote = context.remote();
    let waking = thread::spawn(move || {
        // It wakes the host on the other thread's side only if the host sleeps, which it may not do inside its own turn.
        drop(remote);
    });
    let ran = Rc::new(RefCell::new(Vec::new()));
    let hosts = [(), ()].map(|()| InlineHere::start(context.drive()));
    for number in 0..2 {
        let task = {
            let ran = ran.clone();
            async move { ran.borrow_mut().push(number) }
        };
        context.handle().spawn(task).detach();
        assert_eq!(ran.borrow().len(), number + 1, "its host was not woken");
    }
    context.handle().stop_drive();
    assert!(!context.handle().is_driven(), "a host was not woken");
    waking.join().unwrap();
    drop(hosts);
}

/// The host itself sets a timer, between two polls of the `Drive`: nothing else would watch it.
/// Both are polled whenever the host wakes: it must come to rest.
/// Faults: a timer that is set outside a turn wakes no host; each of its polls does; the watcher gets one order only.
fn a_timer_set_outside_a_turn_is_watched() {
    let context = timed();
    let handle = context.handle();
    let second = Duration::from_secs(1);
    let mut sleep = pin!(async {
        handle.sleep(second).await;
        handle.sleep(second).await;
    });
    let mut polls = 0;
    host(join(
        context.drive(),
        poll_fn(|cx| {
            polls += 1;
            assert!(polls < 20, "the host never rests");
            let polled = sleep.as_mut().poll(cx);
            if polled.is_ready() {
                handle.stop_drive();
            }
            polled
        }),
    ));
}

/// A device that another thread makes ready, and a watch that hears of it.
struct WatchedDevice {
    bell: EventFd,
    heard: EventFd,
    ready: Arc<AtomicUsize>,
    waited_for: Option<u64>,
}

impl Reactor for WatchedDevice {
    fn unparker(&self) -> Box<dyn Unpark> {
        Box::new(self.bell.clone())
    }

    fn park(&mut self, limit: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        if limit.is_none() {
            self.bell.sleep();
        }
        if self.ready.load(Ordering::Relaxed) == 1 {
            ready.extend(self.waited_for.take());
        }
        Ok(())
    }

    fn register(&mut self, key: u64, _fd: OwnedFd, _interest: Interest) -> io::Result<bool> {
        self.waited_for = Some(key);
        Ok(true)
    }

    fn watch(&self) -> io::Result<(Box<dyn Watch>, Box<dyn Unpark>)> {
        Ok((
            Box::new(Bell(self.heard.clone())),
            Box::new(self.heard.clone()),
        ))
    }
}

/// The host itself waits for a descriptor, between two polls of the `Drive`.
/// Fault: a wait that begins outside a turn wakes no host.
fn a_descriptor_waited_for_outside_a_turn_is_watched() {
    let (heard, ready) = (EventFd::new(), Arc::new(AtomicUsize::new(0)));
    let reactor = WatchedDevice {
        bell: EventFd::new(),
        heard: heard.clone(),
        ready: ready.clone(),
        waited_for: None,
    };
    let context = AioContext::builder().reactor(reactor).build().unwrap();
    let device = thread::spawn(move || {
        ready.store(1, Ordering::Relaxed);
        heard.unpark();
    });
    let handle = context.handle();
    let null = File::open("/dev/null").unwrap();
    host(join(context.drive(), async move {
        handle.readable(&null).await.unwrap();
        handle.stop_drive();
    }));
    device.join().unwrap();
}

/// The host moves the clock by which a task of the context sleeps.
/// Fault: a clock that is moved wakes no host.
fn a_clock_moved_outside_a_turn_wakes_the_host() {
    let clock = ManualClock::new();
    let context = AioContext::builder().clock(&clock).build().unwrap();
    let (completer, completion): (Completer<()>, _) = slot();
    let completing = thread::spawn(move || completer.complete(()));
    let handle = context.handle();
    let task = handle.spawn(handle.sleep(Duration::from_secs(1)));
    host(join(context.drive(), async move {
        completion.await.unwrap();
        clock.advance(Duration::from_secs(1));
        task.await.unwrap();
        handle.stop_drive();
    }));
    completing.join().unwrap();
}

/// The host polls inside the wake of the clock, and a task moves the clock again there.
/// Faults: the hosts are woken before the clock shows the later time, or while the list of followers is borrowed; a timer that a task
/// makes due is left to a host that sleeps.
fn a_clock_moved_by_a_task_of_a_hosted_context_ends_sleeps() {
    let clock = ManualClock::new();
    let context = AioContext::builder().clock(&clock).build().unwrap();
    let (completer, completion) = slot();
    let completing = thread::spawn(move || completer.complete(()));
    let second = Duration::from_secs(1);
    let ended = Rc::new(Cell::new(0));
    for seconds in 1..=3 {
        let sleep = context.handle().sleep(second * seconds);
        let (clock, ended) = (clock.clone(), ended.clone());
        let task = async move {
            sleep.await;
            ended.set(ended.get() + 1);
            clock.advance(second);
        };
        context.handle().spawn(task).detach();
    }
    context.block_on(completion).unwrap();
    let host = InlineHere::start(context.drive());
    assert_eq!(ended.get(), 0);
    clock.advance(second);
    assert_eq!(ended.get(), 3, "a sleep did not end though its time came");
    drop(host);
    completing.join().unwrap();
}

/// `block_on` ends while a task is queued: both hosts are polled when it returns, inside their wakes, and one of them runs the task.
/// Faults: the hosts are woken while `block_on` still counts as a turn; only one of them is woken.
fn hosts_that_poll_inside_their_wake_take_over_from_block_on() {
    let context = AioContext::new().unwrap();
    let (completer, completion) = slot();
    let completing = thread::spawn(move || completer.complete(5));
    assert_eq!(context.block_on(completion), Ok(5));
    // From here on nothing comes from the other thread, on which these hosts could not be polled.
    let hosts = [(), ()].map(|()| InlineHere::start(context.drive()));
    let ran = Rc::new(Cell::new(false));
    context.block_on(async {
        let ran = ran.clone();
        let task = async move { ran.set(true) };
        context.handle().spawn(task).detach();
    });
    assert!(ran.get(), "no host took over");
    context.handle().stop_drive();
    assert!(!context.handle().is_driven(), "a host was not woken");
    drop(hosts);
    completing.join().unwrap();
}

/// A reactor that waits for nothing. Its watch reports nothing by itself, but says what it is asked to watch.
struct Listening {
    bell: EventFd,
    ordered: EventFd,
    until: Arc<Mutex<Option<Instant>>>,
}

impl Reactor for Listening {
    fn unparker(&self) -> Box<dyn Unpark> {
        Box::new(self.bell.clone())
    }

    fn park(&mut self, _limit: Option<Duration>, _ready: &mut Vec<u64>) -> io::Result<()> {
        Ok(())
    }

    fn register(&mut self, _key: u64, _fd: OwnedFd, _interest: Interest) -> io::Result<bool> {
        Ok(true)
    }

    fn watch(&self) -> io::Result<(Box<dyn Watch>, Box<dyn Unpark>)> {
        let bell = EventFd::new();
        let watch = ListeningWatch {
            bell: bell.clone(),
            ordered: self.ordered.clone(),
            until: self.until.clone(),
        };
        Ok((Box::new(watch), Box::new(bell)))
    }
}

struct ListeningWatch {
    bell: EventFd,
    ordered: EventFd,
    until: Arc<Mutex<Option<Instant>>>,
}

impl Watch for ListeningWatch {
    fn watch(&mut self, until: Option<Instant>) {
        *self.until.lock().unwrap() = until;
        self.ordered.unpark();
        self.bell.sleep();
    }
}

/// The host is polled inside the wake, so what wakes it must be there by then. Each of the three is nearer than the one before.
/// Faults: a wait for a descriptor, or a timer, wakes the host before it is on the list; only the first timer wakes the host.
fn what_is_set_outside_a_turn_is_seen_by_a_host_that_polls_at_once() {
    let ordered = EventFd::new();
    let until = Arc::new(Mutex::new(None));
    let reactor = Listening {
        bell: EventFd::new(),
        ordered: ordered.clone(),
        until: until.clone(),
    };
    let context = AioContext::builder().reactor(reactor).build().unwrap();
    let handle = context.handle();
    let host = InlineHere::start(context.drive());
    let (_, waker) = CountingWaker::new();
    let null = File::open("/dev/null").unwrap();
    let mut readable = pin!(handle.readable(&null));
    assert!(poll_by(readable.as_mut(), &waker).is_pending());
    ordered.sleep();
    assert_eq!(*until.lock().unwrap(), None);
    let mut sleeps = Vec::new(); // the first stays set while the second comes
    for seconds in [2, 1] {
        let at = handle.now() + Duration::from_secs(seconds);
        let mut sleep = Box::pin(handle.sleep_until(at));
        assert!(poll_by(sleep.as_mut(), &waker).is_pending());
        sleeps.push(sleep);
        ordered.sleep();
        assert_eq!(*until.lock().unwrap(), Some(at), "not what is nearest");
    }
    drop((sleeps, host));
}
