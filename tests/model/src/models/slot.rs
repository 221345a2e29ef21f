//! The completion slot: one value from any thread to the future that waits for it.
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use aio_task::edge::{Abandoned, CancelFlag, Counter, slot};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::support::{CountingWaker, Token, Tracked, host, host_inline, poll_by};
use crate::check::reach;

crate::models![
    a_value_delivered_while_the_receiver_looks_first_arrives: [19],
    a_value_delivered_between_two_polls_wakes_the_later_waker: [20] reaches ["first poll", "second poll", "later waker"],
    a_value_delivered_while_the_receiver_leaves_is_dropped_once: [21] reaches ["by the receiver", "by the sender"],
    a_sender_that_leaves_without_a_value_ends_the_wait: [22],
    a_sender_lets_go_of_a_slot_that_the_receiver_has_left: [23],
    what_was_written_before_a_cancel_may_be_read_after_it: [45] reaches ["seen", "not yet"],
    a_cancel_ends_a_wait_that_begins_at_the_same_time: [45],
    a_cancel_while_one_of_three_waiters_leaves_wakes_the_others: [45],
    what_two_threads_count_at_once_is_all_counted: [45],
    a_value_delivered_to_a_waker_that_polls_at_once_arrives: [51],
    a_cancel_between_two_polls_wakes_the_later_waker: [50, 45] reaches ["first poll", "second poll", "later waker"],
    a_cancel_that_wakes_a_waker_that_polls_at_once_ends_the_wait: [51, 45],
];

/// The wait ends with the value, whose memory was written on the other thread.
/// Faults: the sender leaves the value and does not wake; wakes before the value is there; the receiver forgets its waker.
fn a_value_delivered_while_the_receiver_looks_first_arrives() {
    let (completer, completion) = slot();
    let sender = thread::spawn(move || completer.complete(Box::new(Tracked::new(5))));
    assert_eq!(host(completion).unwrap().get(), 5);
    sender.join().unwrap();
}

/// A future moved between executors is polled with another waker: the last one is what counts.
/// Fault: the receiver keeps its first waker.
fn a_value_delivered_between_two_polls_wakes_the_later_waker() {
    let (completer, mut completion) = slot();
    let sender = thread::spawn(move || {
        assert!(!completer.is_abandoned());
        completer.complete(5);
    });
    let (_, first) = CountingWaker::new();
    let (later, second) = CountingWaker::new();
    let mut poll = |waker| Pin::new(&mut completion).poll(&mut Context::from_waker(waker));
    if poll(&first).is_ready() || poll(&first).is_ready() {
        reach("first poll");
        sender.join().unwrap();
        return;
    }
    let polled = poll(&second);
    sender.join().unwrap();
    match polled {
        Poll::Ready(value) => {
            reach("second poll");
            assert_eq!(value, Ok(5));
        }
        Poll::Pending => {
            reach("later waker");
            assert_eq!(later.wakes(), 1, "the waker of the last poll was not woken");
            assert_eq!(poll(&second), Poll::Ready(Ok(5)));
        }
    }
}

/// One of the two drops it, and the other does not touch it.
/// Faults: the sender overwrites the mark of a receiver that has gone; the receiver forgets what has arrived.
fn a_value_delivered_while_the_receiver_leaves_is_dropped_once() {
    let (drops, token) = Token::new();
    let (completer, mut completion) = slot();
    let left = Arc::new(AtomicBool::new(false));
    let sender = thread::spawn({
        let left = left.clone();
        move || {
            let has_left = left.load(Ordering::Acquire);
            let late = completer.is_abandoned();
            assert!(
                late || !has_left,
                "the sender does not see that the receiver has left"
            );
            completer.complete(token);
            late
        }
    });
    let (_, waker) = CountingWaker::new();
    let arrived = Pin::new(&mut completion).poll(&mut Context::from_waker(&waker));
    drop(completion);
    left.store(true, Ordering::Release);
    if let Poll::Ready(value) = arrived {
        reach("by the receiver");
        value.unwrap().touch();
    }
    if sender.join().unwrap() {
        reach("by the sender");
    }
    assert_eq!(drops.load(Ordering::Relaxed), 1);
}

/// Fault: the sender's drop does nothing.
fn a_sender_that_leaves_without_a_value_ends_the_wait() {
    let (completer, completion) = slot::<u8>();
    let sender = thread::spawn(move || drop(completer));
    assert_eq!(host(completion), Err(Abandoned));
    sender.join().unwrap();
}

/// The receiver takes the value and frees its side while the sender may still be waking it; polled once more, it says that nothing
/// is left. loom tracks the shared memory's count and its end.
/// Fault: a value that was taken leaves the slot waiting, not over.
fn a_sender_lets_go_of_a_slot_that_the_receiver_has_left() {
    let (drops, token) = Token::new();
    let (completer, completion) = slot();
    let sender = thread::spawn(move || completer.complete(token));
    let mut completion = Box::pin(completion);
    host(completion.as_mut()).unwrap().touch();
    assert!(host(completion.as_mut()).is_err(), "there is one value");
    drop(completion);
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    sender.join().unwrap();
}

/// `true` is an edge: no lock is needed to read what the canceller did before.
/// Faults: the flag stored relaxed, or loaded relaxed.
fn what_was_written_before_a_cancel_may_be_read_after_it() {
    let flag = CancelFlag::new();
    let reason = Arc::new(Tracked::new(0));
    let cancel = thread::spawn({
        let (flag, reason) = (flag.clone(), reason.clone());
        move || {
            reason.set(3);
            flag.cancel();
        }
    });
    let (_, waker) = CountingWaker::new();
    let mut wait = pin!(flag.cancelled());
    let waited = wait.as_mut().poll(&mut Context::from_waker(&waker));
    // Either answer alone must be enough to read by.
    if waited.is_ready() || flag.is_cancelled() {
        reach("seen");
        assert_eq!(reason.get(), 3);
    } else {
        reach("not yet");
    }
    cancel.join().unwrap();
    assert!(flag.is_cancelled());
}

/// Faults: the canceller looks for waiters before it sets the flag; the waiter looks at the flag before it takes the lock; no task is
/// woken.
fn a_cancel_ends_a_wait_that_begins_at_the_same_time() {
    let flag = CancelFlag::new();
    let reason = Arc::new(Tracked::new(0));
    let cancel = thread::spawn({
        let (flag, reason) = (flag.clone(), reason.clone());
        move || {
            reason.set(3);
            flag.cancel();
        }
    });
    host(flag.cancelled());
    assert_eq!(reason.get(), 3);
    cancel.join().unwrap();
}

/// The one that leaves takes its own place only, and the cancel wakes all others.
/// Faults: the leaving waiter removes the first in the list; a cancel wakes one waiter.
fn a_cancel_while_one_of_three_waiters_leaves_wakes_the_others() {
    let flag = CancelFlag::new();
    let left = Arc::new(AtomicBool::new(false));
    let (_, waker) = CountingWaker::new();
    let mut stays = Box::pin(flag.cancelled());
    let mut leaves = Box::pin(flag.cancelled());
    let mut cx = Context::from_waker(&waker);
    assert!(stays.as_mut().poll(&mut cx).is_pending());
    assert!(leaves.as_mut().poll(&mut cx).is_pending());
    let mut last = Box::pin(flag.cancelled());
    let (woken, waker) = CountingWaker::new();
    assert!(poll_by(last.as_mut(), &waker).is_pending());
    let cancel = thread::spawn({
        let flag = flag.clone();
        move || flag.cancel()
    });
    let leaving = thread::spawn({
        let left = left.clone();
        move || {
            drop(leaves);
            left.store(true, Ordering::Relaxed);
        }
    });
    host(stays);
    cancel.join().unwrap();
    assert_eq!(woken.wakes(), 1, "the cancel did not wake the last");
    leaving.join().unwrap();
    assert!(left.load(Ordering::Relaxed));
}

/// Fault: the counter adds by a load and a store.
fn what_two_threads_count_at_once_is_all_counted() {
    let counter = Counter::new();
    let adding = [3, 4].map(|n| {
        let counter = counter.clone();
        thread::spawn(move || counter.add(n))
    });
    let seen = counter.get();
    assert!(counter.get() >= seen, "a counter never falls");
    for thread in adding {
        thread.join().unwrap();
    }
    assert_eq!(counter.get(), 7);
}

/// The receiver is polled inside the wake, on the sender's thread.
/// Fault: the sender wakes while it holds the slot's lock.
fn a_value_delivered_to_a_waker_that_polls_at_once_arrives() {
    let (completer, completion) = slot();
    let sender = thread::spawn(move || completer.complete(5));
    assert_eq!(host_inline(completion), Ok(5));
    sender.join().unwrap();
}

/// As for the slot: the last waker is what counts, and a wait that was dropped keeps no waker.
/// Faults: a wait keeps its first waker; a wait that is dropped stays in the list.
fn a_cancel_between_two_polls_wakes_the_later_waker() {
    let flag = CancelFlag::new();
    let cancel = thread::spawn({
        let flag = flag.clone();
        move || flag.cancel()
    });
    let (_, first) = CountingWaker::new();
    let (later, second) = CountingWaker::new();
    let mut wait = Box::pin(flag.cancelled());
    if poll_by(wait.as_mut(), &first).is_ready() {
        reach("first poll");
        cancel.join().unwrap();
        return;
    }
    let mut other = Box::pin(flag.cancelled());
    let (dropped, third) = CountingWaker::new();
    let _ = poll_by(other.as_mut(), &third);
    drop((other, third));
    let kept = std::sync::Arc::strong_count(&dropped) > 1;
    // Perhaps by a cancel that is about to wake it.
    assert!(!kept || flag.is_cancelled(), "a wait that is over is kept");
    let polled = poll_by(wait.as_mut(), &second);
    cancel.join().unwrap();
    if polled.is_ready() {
        reach("second poll");
    } else {
        reach("later waker");
        assert_eq!(later.wakes(), 1, "the waker of the last poll was not woken");
        assert!(poll_by(wait.as_mut(), &second).is_ready());
    }
}

/// Fault: the flag wakes while it holds its list.
fn a_cancel_that_wakes_a_waker_that_polls_at_once_ends_the_wait() {
    let flag = CancelFlag::new();
    let cancel = thread::spawn({
        let flag = flag.clone();
        move || flag.cancel()
    });
    host_inline(flag.cancelled());
    assert!(flag.is_cancelled());
    cancel.join().unwrap();
}
