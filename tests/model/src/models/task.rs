//! A task's state: async-task's word, made visible, with memory of ours around it.
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use aio_task::{AioContext, JoinError};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::support::{DropsHere, Tracked, host};
use crate::check::reach;

crate::models![
    a_wake_before_during_or_after_a_run_is_followed_by_a_poll: [11] reaches ["two polls", "three polls"],
    a_wake_happens_before_the_poll_it_causes_even_when_two_become_one: [12],
    two_wakers_at_once_make_one_runnable: [13],
    a_wake_while_the_owner_cancels_drops_the_future_once_on_the_owner: [14],
    a_cancel_from_another_thread_never_overlaps_a_poll: [15] reaches ["polled", "cancelled unpolled"],
    an_output_awaited_on_another_thread_is_read_after_it_was_written: [16],
    the_last_waker_dropped_elsewhere_frees_the_task_once: [17],
    a_runnable_dropped_unrun_ends_the_wait_for_its_task: [18],
];

/// Where a future leaves its waker for the model.
type Held = Rc<RefCell<Option<Waker>>>;

/// Already polled once, a task is woken here and elsewhere: the last poll sees what came before the last wake.
/// Faults: the inbox is not looked at; an item is taken from it and not queued.
fn a_wake_before_during_or_after_a_run_is_followed_by_a_poll() {
    let context = AioContext::new().unwrap();
    let flag = Arc::new(AtomicBool::new(false));
    let (polls, seen) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let waker = Held::default();
    let task = context.handle().spawn(poll_fn({
        let (flag, polls, seen, waker) = (flag.clone(), polls.clone(), seen.clone(), waker.clone());
        move |cx| {
            polls.set(polls.get() + 1);
            seen.set(flag.load(Ordering::Relaxed));
            waker.replace(Some(cx.waker().clone()));
            Poll::<()>::Pending
        }
    }));
    let stepper = context.by_hand();
    assert_eq!(stepper.run_until_stalled(), 1);
    let here = waker.take().unwrap();
    let there = here.clone();
    let waking = thread::spawn(move || {
        flag.store(true, Ordering::Relaxed);
        there.wake();
    });
    here.wake();
    stepper.step();
    waking.join().unwrap();
    stepper.run_until_stalled();
    assert!(seen.get(), "no poll after the last wake");
    match polls.get() {
        2 => reach("two polls"),
        3 => reach("three polls"),
        polls => panic!("{polls} polls for two wakes"),
    }
    drop(task);
}

/// The flags are relaxed, and the task sleeps until both are seen. The second wake may find the task scheduled already, and must
/// publish all the same.
/// Faults: a wake leaves the word of a task alone that was woken before; it changes the word without release, or a run without acquire.
fn a_wake_happens_before_the_poll_it_causes_even_when_two_become_one() {
    let context = AioContext::new().unwrap();
    let flags = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let waker = Held::default();
    let task = context.handle().spawn(poll_fn({
        let (flags, waker) = (flags.clone(), waker.clone());
        move |cx| {
            waker.replace(Some(cx.waker().clone()));
            if flags.iter().all(|flag| flag.load(Ordering::Relaxed)) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }
    }));
    context.by_hand().step();
    let remote = waker.take().unwrap();
    let waking = thread::spawn(move || {
        for flag in flags.iter() {
            flag.store(true, Ordering::Relaxed);
            remote.wake_by_ref();
        }
    });
    context.block_on(task).unwrap();
    waker.take();
    waking.join().unwrap();
}

/// async-task alone, with a queue of the model's: never two runnables of one task.
/// Faults: references are counted by a load and a store; the state word is invisible to loom. (Then this explores what two pushes to a
/// queue explore, and no more.)
fn two_wakers_at_once_make_one_runnable() {
    let queue = Arc::new(Mutex::new(Vec::new()));
    let memory = Arc::new(Tracked::new(0));
    let (runnable, task) = async_task::spawn(
        poll_fn({
            let memory = memory.clone();
            move |_| {
                memory.set(memory.get() + 1);
                Poll::<()>::Pending
            }
        }),
        {
            let queue = queue.clone();
            move |runnable| {
                let mut queue: loom::sync::MutexGuard<'_, Vec<async_task::Runnable>> =
                    queue.lock().unwrap();
                queue.push(runnable);
                assert_eq!(queue.len(), 1, "two runnables of one task");
            }
        },
    );
    let waker = runnable.waker();
    runnable.run();
    let waking = [0, 1].map(|_| {
        let waker = waker.clone();
        thread::spawn(move || waker.wake())
    });
    let woken = queue.lock().unwrap().pop();
    if let Some(runnable) = woken {
        runnable.run();
    }
    for thread in waking {
        thread.join().unwrap();
    }
    drop((waker, task));
    // The cancel may have scheduled it once more, for its future to be dropped.
    let last = queue.lock().unwrap().pop();
    drop(last);
    let polls = memory.get();
    assert!((1..=2).contains(&polls), "{polls} polls");
}

/// The handle is dropped here while a wake is on its way from elsewhere.
/// Faults: a task's end leaves its entry among the live ones; what comes through the inbox is dropped there.
fn a_wake_while_the_owner_cancels_drops_the_future_once_on_the_owner() {
    let context = AioContext::new().unwrap();
    let (drops, here) = DropsHere::new();
    let waker = Held::default();
    let task = context.handle().spawn(poll_fn({
        let waker = waker.clone();
        move |cx| {
            let _here = &here;
            waker.replace(Some(cx.waker().clone()));
            Poll::<()>::Pending
        }
    }));
    let stepper = context.by_hand();
    stepper.step();
    let remote = waker.take().unwrap();
    let waking = thread::spawn(move || remote.wake());
    drop(task);
    stepper.run_until_stalled();
    waking.join().unwrap();
    stepper.run_until_stalled();
    assert_eq!(drops.get(), 1);
    waker.take();
    assert!(!stepper.step(), "nothing is left");
}

/// The handle is dropped elsewhere while the owner polls: the future, and the memory in it, stay the owner's.
/// Faults: a wake from elsewhere is pushed without a notification, so that the future is not dropped; it is dropped there.
fn a_cancel_from_another_thread_never_overlaps_a_poll() {
    let context = AioContext::new().unwrap();
    let (drops, here) = DropsHere::new();
    let memory = Tracked::new(0);
    let polls = Rc::new(Cell::new(0));
    let task = context.handle().spawn(poll_fn({
        let polls = polls.clone();
        move |cx| {
            let _here = &here;
            memory.set(memory.get() + 1);
            polls.set(memory.get());
            if polls.get() == 1 {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        }
    }));
    let cancelling = thread::spawn(move || drop(task));
    let stepper = context.by_hand();
    stepper.step();
    stepper.step();
    cancelling.join().unwrap();
    stepper.run_until_stalled();
    assert_eq!(drops.get(), 1);
    reach(if polls.get() == 0 {
        "cancelled unpolled"
    } else {
        "polled"
    });
}

/// The handle travels to another thread, which waits for the task there. The output's memory is tracked.
/// Faults: nothing that is done to the task's word releases; the task's end does not see who waits for it.
fn an_output_awaited_on_another_thread_is_read_after_it_was_written() {
    let context = AioContext::new().unwrap();
    let (drops, here) = DropsHere::new();
    let task = context.handle().spawn(async move {
        let _here = here;
        let output = Box::new(Tracked::new(0));
        output.set(7);
        output
    });
    let waiting = thread::spawn(move || host(task).unwrap().get());
    context.by_hand().run_until_stalled();
    assert_eq!(drops.get(), 1);
    assert_eq!(waiting.join().unwrap(), 7);
}

/// A waker dropped on another thread while the task ends and its context goes: the last of them frees the task and what its
/// schedule function holds. loom reports what leaks.
/// Faults: references are counted by a load and a store; a task's entry keeps its waker.
fn the_last_waker_dropped_elsewhere_frees_the_task_once() {
    let context = AioContext::new().unwrap();
    let waker = Held::default();
    let ready = Rc::new(Cell::new(false));
    let task = context.handle().spawn(poll_fn({
        let (waker, ready) = (waker.clone(), ready.clone());
        move |cx| {
            if ready.replace(true) {
                return Poll::Ready(());
            }
            waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        }
    }));
    task.detach();
    context.by_hand().step();
    let remote = waker.take().unwrap();
    remote.wake_by_ref();
    let dropping = thread::spawn(move || {
        remote.wake_by_ref();
        drop(remote);
    });
    context.by_hand().step();
    drop(context);
    dropping.join().unwrap();
}

/// The context goes before the task ran; a task that waits for it elsewhere learns that.
/// Fault: the context's drop forgets the run queue.
fn a_runnable_dropped_unrun_ends_the_wait_for_its_task() {
    let context = AioContext::new().unwrap();
    let (drops, here) = DropsHere::new();
    let task = context.handle().spawn(async move { drop(here) });
    let waiting = thread::spawn(move || host(task));
    drop(context);
    assert_eq!(drops.get(), 1);
    let ended = waiting.join().unwrap();
    assert!(matches!(ended, Err(JoinError::Cancelled)));
}
