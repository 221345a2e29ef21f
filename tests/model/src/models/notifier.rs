//! The notifier: one word decides whether a notification costs a wake.
use aio_task::model::Notifier;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::support::{EventFd, Tracked};

crate::models![
    a_flag_set_before_notify_is_seen_after_the_park: [1],
    data_written_before_notify_may_be_read_after_the_park: [2],
    a_notification_swallowed_by_another_still_publishes: [3],
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

/// Whoever takes a notification reads what was written before it, without a lock.
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
