//! CoMutex and CoQueue: who gets the lock, or the wake, when wakes come from other threads.
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;

use aio_task::edge::{Completion, slot};
use aio_task::{AioContext, CoMutex, CoQueue};
use futures::future::{Either, join, select};
use loom::thread;

use super::support::{InlineHere, moved_from_another_task};
use crate::check::reach;

crate::models![
    a_lock_held_until_another_thread_completes_goes_to_the_first_in_line: [49],
    a_lock_handed_to_a_waiter_that_leaves_goes_to_the_next: [49] reaches ["in line", "handed over"],
    a_wake_for_a_sleeper_that_leaves_goes_to_the_next: [49] reaches ["in line", "woken"],
    two_wakes_caused_by_two_threads_wake_two_sleepers_in_order: [49],
    waits_for_a_lock_and_in_a_queue_that_move_are_woken_where_they_are: [50, 49],
    a_lock_and_a_wake_reach_a_waker_that_polls_at_once: [51, 49],
];

/// A completion that another thread makes.
fn completed_elsewhere() -> (Completion<()>, thread::JoinHandle<()>) {
    let (completer, completion) = slot();
    (completion, thread::spawn(move || completer.complete(())))
}

/// Holder and successor each hold the lock across an end on another thread; the successor was there before the newcomer.
/// Faults: an unlock makes the lock free though someone is in line; it wakes no waiter.
fn a_lock_held_until_another_thread_completes_goes_to_the_first_in_line() {
    let context = AioContext::new().unwrap();
    let lock = Rc::new(CoMutex::new(Vec::new()));
    let ((a, first), (b, second)) = (completed_elsewhere(), completed_elsewhere());
    let hold = |number, completion: Completion<()>| {
        let lock = lock.clone();
        async move {
            let mut order = lock.lock().await;
            completion.await.unwrap();
            order.push(number);
        }
    };
    let holder = context.handle().spawn(hold(1, a));
    let successor = context.handle().spawn(hold(2, b));
    context.block_on(async {
        holder.await.unwrap();
        // In line after the successor, or after it.
        lock.lock().await.push(3);
        successor.await.unwrap();
    });
    assert_eq!(*lock.try_lock().expect("nothing holds it"), [1, 2, 3]);
    for thread in [first, second] {
        thread.join().unwrap();
    }
}

/// One thread ends the holder, another makes the first waiter leave, perhaps after the lock was handed to it.
/// Faults: a waiter that leaves keeps the lock; it passes on a lock that it was not given.
fn a_lock_handed_to_a_waiter_that_leaves_goes_to_the_next() {
    let context = AioContext::new().unwrap();
    let lock = CoMutex::new(0);
    let ((end, ending), (leave, leaving)) = (completed_elsewhere(), completed_elsewhere());
    context.block_on(async {
        let released = Cell::new(false);
        let holder = async {
            let held = lock.lock().await;
            end.await.unwrap();
            released.set(true);
            drop(held);
        };
        let leaver = async {
            let locked = pin!(lock.lock());
            if let Either::Left((_, _locked)) = select(leave, locked).await {
                reach(if released.get() {
                    "handed over"
                } else {
                    "in line"
                });
            }
        };
        let next = async { *lock.lock().await += 1 };
        join(holder, join(leaver, next)).await;
    });
    assert_eq!(lock.into_inner(), 1);
    for thread in [ending, leaving] {
        thread.join().unwrap();
    }
}

/// As the lock's model: a wake that its sleeper did not live to see belongs to the next.
/// Faults: the wake of a sleeper that leaves is lost; one that was not woken passes one on.
fn a_wake_for_a_sleeper_that_leaves_goes_to_the_next() {
    let context = AioContext::new().unwrap();
    let queue = CoQueue::new();
    let ((end, ending), (leave, leaving)) = (completed_elsewhere(), completed_elsewhere());
    context.block_on(async {
        let woken = Cell::new(false);
        let (first, second) = (queue.wait(), queue.wait());
        let waker = async {
            end.await.unwrap();
            assert!(queue.wake_next(), "the line is not empty");
            woken.set(true);
        };
        let leaver = async {
            let mut first = pin!(first);
            match select(leave, first.as_mut()).await {
                Either::Left(_) => reach(if woken.get() { "woken" } else { "in line" }),
                // The wake was used up: the next one has one of its own.
                Either::Right(_) => assert!(queue.wake_next()),
            }
        };
        join(waker, join(leaver, second)).await;
    });
    assert!(queue.is_empty());
    for thread in [ending, leaving] {
        thread.join().unwrap();
    }
}

/// Two tasks, woken by two threads, each wake one sleeper. A wake is for one, and in the order of the line.
/// Faults: a wake serves no waiter, or the last in line.
fn two_wakes_caused_by_two_threads_wake_two_sleepers_in_order() {
    let context = AioContext::new().unwrap();
    let queue = Rc::new(CoQueue::new());
    let order = Rc::new(RefCell::new(Vec::new()));
    let sleepers = [1, 2].map(|number| {
        let (queue, order) = (queue.clone(), order.clone());
        context.handle().spawn(async move {
            queue.wait().await;
            order.borrow_mut().push(number);
        })
    });
    context.by_hand().run_until_stalled();
    let threads = [(), ()].map(|()| {
        let (completion, thread) = completed_elsewhere();
        let queue = queue.clone();
        let task = async move {
            completion.await.unwrap();
            assert!(queue.wake_next(), "two sleepers, two wakes");
        };
        context.handle().spawn(task).detach();
        thread
    });
    context.block_on(async {
        for sleeper in sleepers {
            sleeper.await.unwrap();
        }
    });
    assert_eq!(*order.borrow(), [1, 2]);
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Both are polled by another task first; each has a task of its own.
/// Faults: a place in line keeps its first waker; a second poll does not bring its waker.
fn waits_for_a_lock_and_in_a_queue_that_move_are_woken_where_they_are() {
    let context = AioContext::new().unwrap();
    let (lock, queue) = (Rc::new(CoMutex::new(0)), Rc::new(CoQueue::new()));
    let (end, ending) = completed_elsewhere();
    let held = lock.try_lock().expect("nothing holds it");
    let locking = context.handle().spawn({
        let lock = lock.clone();
        async move { *moved_from_another_task(lock.lock()).await += 1 }
    });
    let sleeping = context.handle().spawn({
        let queue = queue.clone();
        async move { moved_from_another_task(queue.wait()).await }
    });
    context.by_hand().run_until_stalled();
    context.block_on(async {
        end.await.unwrap();
        drop(held);
        assert!(queue.wake_next());
        locking.await.unwrap();
        sleeping.await.unwrap();
    });
    assert_eq!(*lock.try_lock().expect("nothing holds it"), 1);
    ending.join().unwrap();
}

/// The next holder is polled inside the drop of the guard: what the lock guards is free by then. The same for a sleeper.
/// Faults: the value is freed after the lock is handed over; a wake is given while the line is borrowed.
fn a_lock_and_a_wake_reach_a_waker_that_polls_at_once() {
    let context = AioContext::new().unwrap();
    let (lock, queue) = (CoMutex::new(0), CoQueue::new());
    let (end, ending) = completed_elsewhere();
    context.block_on(async {
        let held = lock.lock().await;
        let woken = Cell::new(0);
        let (lock, queue, woken) = (&lock, &queue, &woken);
        let locking = [(), ()].map(|()| {
            InlineHere::start(async move {
                *lock.lock().await += 1;
            })
        });
        let sleeping = [(), (), ()].map(|()| {
            InlineHere::start(async move {
                queue.wait().await;
                woken.set(woken.get() + 1);
                queue.wait().await;
                woken.set(woken.get() + 1);
            })
        });
        end.await.unwrap();
        drop(held);
        assert_eq!(lock.try_lock().map(|value| *value), Some(2));
        assert!(queue.wake_next());
        assert_eq!(woken.get(), 1);
        queue.wake_all();
        assert_eq!(
            woken.get(),
            4,
            "those who join meanwhile wait for the next wake"
        );
        drop((locking, sleeping));
    });
    ending.join().unwrap();
}
