//! The notifier: one word decides whether a notification costs a wake.
use aio_task::model::Notifier;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::check::reach;

use super::support::{CountingWaker, EventFd, Tracked, waker_that};

crate::models![
    a_flag_set_before_notify_is_seen_after_the_park: [1],
    data_written_before_notify_may_be_read_after_the_park: [2],
    a_notification_swallowed_by_another_still_publishes: [3],
    a_notification_before_the_park_ends_it_at_once_and_only_once: [4] reaches ["before the park", "in the park"],
    a_sleep_costs_one_wake_and_an_awake_owner_none: [5] reaches ["no wake at all", "one wake for two notifications"],
    a_wake_that_comes_after_its_sleep_costs_one_turn: [6] reaches ["stale wake"],
    a_notification_wakes_every_host: [56, 5] reaches ["woken", "awake"],
    a_host_that_polls_inside_its_wake_is_not_locked_out: [51, 42] reaches ["woken", "awake"],
];

fn notifier() -> (EventFd, Arc<Notifier>) {
    let bell = EventFd::new();
    (bell.clone(), Arc::new(Notifier::new(bell)))
}

/// The owner's loop: takes, checks, announces its sleep, sleeps. What `Core::sleep` does, on a bare notifier.
fn park_until(bell: &EventFd, notifier: &Notifier, done: impl Fn() -> bool) {
    loop {
        notifier.take();
        if done() {
            return;
        }
        if notifier.prepare_sleep() {
            bell.sleep();
        }
    }
}

/// The flag is relaxed: the notification alone must make it visible, and must end the sleep.
/// Faults: `notify` skips the wake, or compares with the wrong state; `prepare_sleep` overwrites a notification.
fn a_flag_set_before_notify_is_seen_after_the_park() {
    let (bell, notifier) = notifier();
    let flag = Arc::new(AtomicBool::new(false));
    let remote = thread::spawn({
        let (notifier, flag) = (notifier.clone(), flag.clone());
        move || {
            flag.store(true, Ordering::Relaxed);
            notifier.notify();
        }
    });
    park_until(&bell, &notifier, || flag.load(Ordering::Relaxed));
    remote.join().unwrap();
}

/// A task that takes a notification reads what was written before it, without a lock.
/// Faults: `notify` without release, `take` without acquire.
fn data_written_before_notify_may_be_read_after_the_park() {
    let (bell, notifier) = notifier();
    let data = Arc::new(Tracked::new(0));
    let remote = thread::spawn({
        let (notifier, data) = (notifier.clone(), data.clone());
        move || {
            data.set(7);
            notifier.notify();
        }
    });
    while !notifier.take() {
        if notifier.prepare_sleep() {
            bell.sleep();
        }
    }
    assert_eq!(data.get(), 7);
    remote.join().unwrap();
}

/// Two threads notify, and the second finds the word notified already. Its flag must be seen all the same.
/// Faults: `notify` as a compare-exchange that does nothing on a pending notification; a relaxed swap in it.
fn a_notification_swallowed_by_another_still_publishes() {
    let (bell, notifier) = notifier();
    let flags = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let remotes = [0, 1].map(|at| {
        let (notifier, flags) = (notifier.clone(), flags.clone());
        thread::spawn(move || {
            flags[at].store(true, Ordering::Relaxed);
            notifier.notify();
        })
    });
    park_until(&bell, &notifier, || {
        flags.iter().all(|flag| flag.load(Ordering::Relaxed))
    });
    for remote in remotes {
        remote.join().unwrap();
    }
}

/// Whether it comes before the park or into it: the owner takes it once, and then may sleep again.
/// Faults: `take` leaves the word notified; `prepare_sleep` sleeps over a pending notification.
fn a_notification_before_the_park_ends_it_at_once_and_only_once() {
    let (bell, notifier) = notifier();
    let remote = thread::spawn({
        let notifier = notifier.clone();
        move || notifier.notify()
    });
    if notifier.prepare_sleep() {
        bell.sleep();
        reach("in the park");
    } else {
        reach("before the park");
    }
    assert!(notifier.take(), "the park ended without a notification");
    assert!(!notifier.take(), "one notification was taken twice");
    remote.join().unwrap();
    assert_eq!(bell.try_sleep(), 0, "a wake was left over");
    assert!(notifier.prepare_sleep(), "nothing is pending any more");
}

/// A system call for each announced sleep at the most, however many notify; none if the owner never slept.
/// Fault: `notify` wakes whatever the word was.
fn a_sleep_costs_one_wake_and_an_awake_owner_none() {
    let (bell, notifier) = notifier();
    let flags = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let remotes = [0, 1].map(|at| {
        let (notifier, flags) = (notifier.clone(), flags.clone());
        thread::spawn(move || {
            flags[at].store(true, Ordering::Relaxed);
            notifier.notify();
        })
    });
    let (mut sleeps, mut wakes) = (0, 0);
    loop {
        notifier.take();
        if flags.iter().all(|flag| flag.load(Ordering::Relaxed)) {
            break;
        }
        if notifier.prepare_sleep() {
            sleeps += 1;
            wakes += bell.sleep();
        }
    }
    for remote in remotes {
        remote.join().unwrap();
    }
    wakes += bell.try_sleep();
    assert!(wakes <= sleeps, "{wakes} wakes for {sleeps} sleeps");
    if sleeps == 0 {
        reach("no wake at all");
    }
    if wakes == 1 {
        reach("one wake for two notifications");
    }
}

/// The owner announces a sleep and goes on for another reason, a deadline or a descriptor; the wake meant for that sleep may come at
/// any later moment.
/// Fault: `take` leaves the word sleeping.
fn a_wake_that_comes_after_its_sleep_costs_one_turn() {
    let (bell, notifier) = notifier();
    let flag = Arc::new(AtomicBool::new(false));
    let remote = thread::spawn({
        let (notifier, flag) = (notifier.clone(), flag.clone());
        move || {
            notifier.notify();
            flag.store(true, Ordering::Relaxed);
            notifier.notify();
        }
    });
    let announced = notifier.prepare_sleep();
    notifier.take(); // the sleep was over at once
    let mut turns = 0;
    while !flag.load(Ordering::Relaxed) {
        turns += 1;
        assert!(turns <= 3, "{turns} turns for two notifications");
        if notifier.prepare_sleep() {
            bell.sleep();
            if announced && !notifier.take() {
                reach("stale wake");
            }
        } else {
            notifier.take();
        }
    }
    remote.join().unwrap();
}

/// Two `Drive`s wait: each host is woken once, the one that left not at all.
/// Faults: a notification wakes one host only; a host that leaves takes another one off the list.
fn a_notification_wakes_every_host() {
    let (bell, notifier) = notifier();
    let (replaced, waker) = CountingWaker::new();
    notifier.set_host(0, waker);
    let hosts = [0, 1, 2].map(|key| {
        let (host, waker) = CountingWaker::new();
        notifier.set_host(key, waker);
        host
    });
    notifier.remove_host(1);
    let notifying = [(), ()].map(|()| {
        let notifier = notifier.clone();
        thread::spawn(move || notifier.notify())
    });
    let slept = notifier.prepare_sleep();
    for thread in notifying {
        thread.join().unwrap();
    }
    reach(if slept { "woken" } else { "awake" });
    let wakes = hosts.map(|host| host.wakes());
    assert_eq!(wakes, [usize::from(slept), 0, usize::from(slept)]);
    assert_eq!(replaced.wakes(), 0, "a host has one waker");
    assert_eq!(bell.try_sleep(), 0);
    for key in [0, 2] {
        notifier.remove_host(key);
    }
}

/// The host registers again inside its wake, as a `Drive` does that is polled there.
/// Fault: the hosts are woken under their lock.
fn a_host_that_polls_inside_its_wake_is_not_locked_out() {
    let (_bell, notifier) = notifier();
    let (again, later) = CountingWaker::new();
    let waker = waker_that({
        let notifier = notifier.clone();
        move || notifier.set_host(0, later.clone())
    });
    notifier.set_host(0, waker);
    let notifying = [(), ()].map(|()| {
        let notifier = notifier.clone();
        thread::spawn(move || notifier.notify())
    });
    let slept = notifier.prepare_sleep();
    for thread in notifying {
        thread.join().unwrap();
    }
    reach(if slept { "woken" } else { "awake" });
    assert_eq!(again.wakes(), 0, "one sleep, one wake");
    assert!(notifier.take());
    if slept {
        assert!(notifier.prepare_sleep());
        notifier.notify();
        assert_eq!(again.wakes(), 1, "the host is registered no more");
    }
    notifier.remove_host(0);
}
