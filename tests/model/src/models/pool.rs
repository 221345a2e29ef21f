//! AioTaskPool under completions from other threads.
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, panic_any};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use aio_task::edge::{CancelFlag, Completer, slot};
use aio_task::{AioContext, AioTaskPool, PoolError, WaitAllError, WaitOneError};
use futures::FutureExt;
use futures::future::{Either, join, select};
use loom::thread::{self, JoinHandle};

use super::support::{
    CountingWaker, DropsHere, InlineHere, Token, moved_from_another_task, poll_by,
};
use crate::check::reach;

crate::models![
    two_tasks_that_end_elsewhere_wake_who_waits_for_all_with_the_first_error: [29] reaches ["first", "second"],
    with_one_slot_the_second_start_waits_for_the_first_end: [30],
    wait_one_returns_though_both_tasks_ended_before_it_looked: [31] reaches ["one", "both"],
    a_task_that_panics_while_another_ends_frees_its_slot_once: [32] reaches ["first", "second"],
    a_pool_dropped_while_its_io_completes_drops_the_task_once: [33],
    a_task_that_drops_its_pool_ends_with_that_poll: [33],
    a_task_cancelled_while_its_io_completes_frees_its_slot_once: [33, 45] reaches ["completed", "cancelled"],
    a_waiter_that_leaves_the_line_passes_its_slot_on: [34] reaches ["in line", "served"],
    a_start_that_leaves_the_line_drops_its_task_unpolled: [34] reaches ["in line", "served"],
    a_hint_that_leaves_in_its_turn_wakes_the_next_in_line: [34] reaches ["in line", "its turn"],
    who_waits_for_all_stays_asleep_until_the_last_of_two_ends: [29],
    a_newcomer_does_not_overtake_a_hint_in_its_turn: [34] reaches ["waited", "had ended"],
    waits_of_a_pool_that_move_to_another_task_are_woken_there: [50],
    a_wait_polled_inside_its_wake_sees_a_whole_end: [51],
    a_slot_given_back_is_handed_to_a_waker_that_polls_at_once: [51, 34],
];

fn pool(context: &AioContext, max: usize) -> AioTaskPool<u8> {
    AioTaskPool::new(
        &context.handle(),
        NonZeroUsize::new(max).expect("a pool has a slot"),
    )
}

fn complete_elsewhere<T: Send + 'static>(completer: Completer<T>, value: T) -> JoinHandle<()> {
    thread::spawn(move || completer.complete(value))
}

fn join_all(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// The status is the error of the task whose end the context saw first, whichever thread was faster.
/// Faults: the last error is kept; who waits for all is woken by one end only, or before `busy` drops.
fn two_tasks_that_end_elsewhere_wake_who_waits_for_all_with_the_first_error() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 2);
    let ended = Rc::new(RefCell::new(Vec::new()));
    let ((a, first), (b, second)) = (slot(), slot());
    let threads = [complete_elsewhere(a, 0), complete_elsewhere(b, 1)];
    let status = context.block_on(async {
        for completion in [first, second] {
            let ended = ended.clone();
            let task = async move {
                let number = completion.await.unwrap();
                ended.borrow_mut().push(number);
                Err(number)
            };
            pool.start_task(task).await.unwrap();
        }
        pool.wait_all().await
    });
    let first = ended.borrow()[0];
    reach(["first", "second"][usize::from(first)]);
    let expected = PoolError::Task {
        index: u64::from(first),
        error: first,
    };
    assert_eq!(status, Err(WaitAllError::Status(expected)));
    assert_eq!((pool.busy(), pool.errors()), (0, 2));
    join_all(threads);
}

/// Never more than one busy, and the second task's first poll comes after the first one's end.
/// Faults: the end does not serve the line; a slot is given away while it is taken; the second start does not wait.
fn with_one_slot_the_second_start_waits_for_the_first_end() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 1);
    let ended = Rc::new(Cell::new(0));
    let ((a, first), (b, second)) = (slot(), slot());
    let threads = [complete_elsewhere(a, 0), complete_elsewhere(b, 1)];
    context.block_on(async {
        for (before, completion) in [first, second].into_iter().enumerate() {
            let ended = ended.clone();
            let task = async move {
                assert_eq!(ended.get(), before, "two tasks in one slot");
                completion.await.unwrap();
                ended.set(before + 1);
                Ok(())
            };
            pool.start_task(task).await.unwrap();
            assert!(pool.busy() + pool.reserved() <= 1);
        }
        assert_eq!(pool.wait_all().await, Ok(()));
    });
    assert_eq!(ended.get(), 2);
    join_all(threads);
}

/// Both may have ended in one turn: one `wait_one` returns, and the next has nothing to wait for.
/// Faults: an end wakes no task that waits for one; `wait_one` waits though nothing is busy.
fn wait_one_returns_though_both_tasks_ended_before_it_looked() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 2);
    let ((a, first), (b, second)) = (slot::<()>(), slot());
    let threads = [complete_elsewhere(a, ()), complete_elsewhere(b, ())];
    context.block_on(async {
        for completion in [first, second] {
            let task = async move { completion.await.map_err(|_| 0) };
            pool.start_task(task).await.unwrap();
        }
        let before = pool.busy();
        if before > 0 {
            assert_eq!(pool.wait_one().await, Ok(()));
            assert!(pool.busy() < before, "woken though no task ended");
        }
        reach(if pool.busy() == 0 { "both" } else { "one" });
        while pool.busy() > 0 {
            assert_eq!(pool.wait_one().await, Ok(()));
        }
        assert_eq!(pool.wait_one().await, Err(WaitOneError::NothingBusy));
    });
    join_all(threads);
}

/// The panic counts as the task's end: the slot passes on, the payload comes out of `wait_all`, and only then.
/// Faults: a panic frees no slot, or two; it is not the status; its payload is lost.
fn a_task_that_panics_while_another_ends_frees_its_slot_once() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 2);
    let ((a, first), (b, second)) = (slot(), slot());
    let threads = [complete_elsewhere(a, 0), complete_elsewhere(b, 1)];
    let order = Rc::new(RefCell::new(Vec::new()));
    context.block_on(async {
        for completion in [first, second] {
            let order = order.clone();
            let task = async move {
                let number = completion.await.unwrap();
                order.borrow_mut().push(number);
                if number == 0 {
                    panic_any(7_u8);
                }
                Err(number)
            };
            pool.start_task(task).await.unwrap();
        }
        let third = pool.reserve().await.unwrap();
        assert!(pool.busy() + pool.reserved() <= 2);
        drop(third);
        let ended = AssertUnwindSafe(pool.wait_all()).catch_unwind().await;
        let payload = ended.expect_err("the panic comes out of wait_all");
        assert_eq!(payload.downcast_ref::<u8>(), Some(&7));
    });
    let first = order.borrow()[0];
    reach(["first", "second"][usize::from(first)]);
    let expected = match first {
        0 => PoolError::Panicked { index: 0 },
        _ => PoolError::Task { index: 1, error: 1 },
    };
    assert_eq!(pool.status(), Some(expected));
    assert_eq!((pool.busy(), pool.reserved(), pool.errors()), (0, 0, 2));
    join_all(threads);
}

/// The task's future goes when its pool does, here; its late result is dropped by its owner.
/// Faults: the last handle cancels nothing; a cancelled task is dropped by the thread that completes its I/O.
fn a_pool_dropped_while_its_io_completes_drops_the_task_once() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 1);
    let (completer, completion) = slot();
    let (tokens, token) = Token::new();
    let (drops, here) = DropsHere::new();
    let thread = complete_elsewhere(completer, token);
    context.block_on(async {
        let task = async move {
            let token: Token = completion.await.map_err(|_| 1)?;
            token.touch();
            drop(here);
            Ok(())
        };
        pool.start_task(task).await.unwrap();
    });
    drop(pool);
    // The context is as good as new.
    let another = self::pool(&context, 1);
    context.block_on(async {
        another.start_task(async { Ok(()) }).await.unwrap();
        assert_eq!(another.wait_all().await, Ok(()));
    });
    assert_eq!(drops.get(), 1, "the pool is gone, its task is not");
    thread.join().unwrap();
    context.by_hand().run_until_stalled();
    let tasks = format!("{context:?}");
    assert!(
        tasks.contains("live_tasks: 0"),
        "its shell is left: {tasks}"
    );
    drop(context);
    assert_eq!(tokens.load(loom::sync::atomic::Ordering::Acquire), 1);
}

/// The task itself drops the last handle when another thread has completed what it waits for, and waits on: it is over then.
/// Fault: a task of a pool that has gone is kept as long as it is pending.
fn a_task_that_drops_its_pool_ends_with_that_poll() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 1);
    let (completer, completion) = slot();
    let (drops, here) = DropsHere::new();
    let thread = complete_elsewhere(completer, ());
    let (dropping, dropped) = slot();
    context.block_on(async {
        let held = pool.clone();
        let task = async move {
            let _here = here;
            completion.await.unwrap();
            drop(held);
            dropping.complete(());
            std::future::pending().await
        };
        pool.start_task(task).await.unwrap();
        drop(pool);
        dropped.await.unwrap();
        assert_eq!(drops.get(), 1, "the pool is gone, its task is not");
    });
    thread.join().unwrap();
}

/// One thread cancels, another completes: one end of the task, whichever came first, and the next in line has the slot.
/// Faults: `cancel` takes its waiters before it sets the flag; an end frees two slots.
fn a_task_cancelled_while_its_io_completes_frees_its_slot_once() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 1);
    let flag = CancelFlag::new();
    let (completer, completion) = slot();
    let threads = [
        complete_elsewhere(completer, ()),
        thread::spawn({
            let flag = flag.clone();
            move || flag.cancel()
        }),
    ];
    let status = context.block_on(async {
        let cancelled = flag.cancelled();
        let task = async move {
            match select(completion, cancelled).await {
                Either::Left(_) => Ok(()),
                Either::Right(_) => Err(9),
            }
        };
        pool.start_task(task).await.unwrap();
        let slot = pool.reserve().await.unwrap();
        assert_eq!((pool.busy(), pool.reserved()), (0, 1));
        drop(slot);
        pool.wait_all().await
    });
    match status {
        Ok(()) => reach("completed"),
        Err(_) => reach("cancelled"),
    }
    assert_eq!((pool.busy(), pool.reserved()), (0, 0));
    join_all(threads);
}

/// The first in line gives up when another thread says so, perhaps after the slot was handed to it. The second must get the slot
/// either way, or this deadlocks.
/// Faults: a waiter that leaves keeps what it was handed; it takes the next one's wake with it.
fn a_waiter_that_leaves_the_line_passes_its_slot_on() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 1);
    let ((end, busy), (leave, leaves)) = (slot(), slot());
    let threads = [complete_elsewhere(end, ()), complete_elsewhere(leave, ())];
    context.block_on(async {
        let task = async move { busy.await.map_err(|_| 1) };
        pool.start_task(task).await.unwrap();
        let first = async {
            let reserve = pin!(pool.reserve());
            // Asked first, so that a waiter may leave that was served and has not looked.
            match select(leaves, reserve).await {
                Either::Left((_, _reserve)) => {
                    let served = pool.reserved() == 1;
                    reach(if served { "served" } else { "in line" });
                }
                Either::Right((slot, _)) => drop(slot),
            }
        };
        let second = async { drop(pool.reserve().await.unwrap()) };
        join(first, second).await;
        assert_eq!(pool.wait_all().await, Ok(()));
    });
    assert_eq!((pool.busy(), pool.reserved()), (0, 0));
    join_all(threads);
}

/// The same with a task in its hands: it was never polled, and goes once.
/// Faults: as above, for `start_task`; a task whose start was dropped runs.
fn a_start_that_leaves_the_line_drops_its_task_unpolled() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 1);
    let (drops, here) = DropsHere::new();
    let ((end, busy), (leave, leaves)) = (slot(), slot());
    let threads = [complete_elsewhere(end, ()), complete_elsewhere(leave, ())];
    let (left, ran) = (Cell::new(false), Rc::new(Cell::new(0)));
    context.block_on(async {
        let task = async move { busy.await.map_err(|_| 1) };
        pool.start_task(task).await.unwrap();
        let started = {
            let ran = ran.clone();
            async move {
                let _here = here;
                ran.set(ran.get() + 1);
                Ok(())
            }
        };
        let first = async {
            let start = pin!(pool.start_task(started));
            if let Either::Left(_) = select(leaves, start).await {
                let served = pool.reserved() == 1;
                reach(if served { "served" } else { "in line" });
                left.set(true);
            }
        };
        let second = pool.start_task(async { Ok(()) });
        join(first, second).await.1.unwrap();
        assert_eq!(pool.wait_all().await, Ok(()));
    });
    assert_eq!(ran.get(), usize::from(!left.get()));
    assert_eq!(drops.get(), 1);
    join_all(threads);
}

/// A hint reserves nothing but holds up the line while it is its turn: who leaves it must wake the next.
/// Faults: a hint that leaves in its turn wakes no waiter; one that looked does not pass the wake on.
fn a_hint_that_leaves_in_its_turn_wakes_the_next_in_line() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 1);
    let ((end, busy), (leave, leaves)) = (slot(), slot());
    let threads = [complete_elsewhere(end, ()), complete_elsewhere(leave, ())];
    context.block_on(async {
        let task = async move { busy.await.map_err(|_| 1) };
        pool.start_task(task).await.unwrap();
        let first = async {
            let hint = pin!(pool.wait_slot());
            if let Either::Left(_) = select(leaves, hint).await {
                let free = pool.busy() == 0;
                reach(if free { "its turn" } else { "in line" });
            }
        };
        let second = async { drop(pool.reserve().await.unwrap()) };
        join(first, second).await;
        assert_eq!(pool.wait_all().await, Ok(()));
    });
    join_all(threads);
}

/// A task that starts another when it is woken: the pool is busy all the time, though the first has ended.
/// Faults: `wait_all` returns when woken without looking again; an end does not count the reserved.
fn who_waits_for_all_stays_asleep_until_the_last_of_two_ends() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 2);
    let ((a, first), (b, second)) = (slot(), slot());
    let threads = [complete_elsewhere(a, ()), complete_elsewhere(b, ())];
    let done = Rc::new(Cell::new(false));
    context.block_on(async {
        let task = {
            let (pool, done) = (pool.clone(), done.clone());
            async move {
                first.await.map_err(|_| 1)?;
                let nested = async move {
                    second.await.map_err(|_| 1)?;
                    done.set(true);
                    Ok(())
                };
                pool.start_task(nested).await.map_err(|_| 2)?;
                Ok(())
            }
        };
        pool.start_task(task).await.unwrap();
        assert_eq!(pool.wait_all().await, Ok(()));
        assert!(done.get(), "wait_all returned while a task was busy");
    });
    assert!(pool.is_empty());
    join_all(threads);
}

/// A hint in its turn holds the line though a slot is free: newcomers wait after it, each of the three kinds.
/// Fault: a slot, or the hint of one, is given to a newcomer while another is in line.
fn a_newcomer_does_not_overtake_a_hint_in_its_turn() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 1);
    let (end, busy) = slot();
    let thread = complete_elsewhere(end, ());
    context.block_on(async {
        let task = async move { busy.await.map_err(|_| 1) };
        pool.start_task(task).await.unwrap();
        let mut hint = pin!(pool.wait_slot());
        let (woken, waker) = CountingWaker::new();
        if poll_by(hint.as_mut(), &waker).is_ready() {
            reach("had ended");
            return;
        }
        reach("waited");
        pool.wait_one().await.unwrap();
        assert_eq!((woken.wakes(), pool.busy()), (1, 0));
        assert!(pool.try_reserve().is_none(), "a slot was given away");
        let mut second = pin!(pool.wait_slot());
        let mut third = pin!(pool.reserve());
        let (_, other) = CountingWaker::new();
        assert!(poll_by(second.as_mut(), &other).is_pending());
        assert!(poll_by(third.as_mut(), &other).is_pending());
        assert_eq!(poll_by(hint.as_mut(), &waker), Poll::Ready(Ok(())));
        assert!(poll_by(third.as_mut(), &other).is_pending());
        assert_eq!(poll_by(second.as_mut(), &other), Poll::Ready(Ok(())));
        assert!(poll_by(third.as_mut(), &other).is_ready());
    });
    thread.join().unwrap();
}

/// Each wait is polled by another task first. What another thread ends wakes each where it is now: they have a task of their own, so
/// that no wake is for two.
/// Faults: a place in line keeps its first waker; a second poll does not bring its waker.
fn waits_of_a_pool_that_move_to_another_task_are_woken_there() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 1);
    let (end, busy) = slot();
    let thread = complete_elsewhere(end, ());
    context.block_on(async {
        let task = async move { busy.await.map_err(|_| 1) };
        pool.start_task(task).await.unwrap();
        let handle = context.handle();
        let waits = [0, 1, 2, 3].map(|which| {
            let pool = pool.clone();
            handle.spawn(async move {
                match which {
                    0 => drop(moved_from_another_task(pool.reserve()).await.unwrap()),
                    1 => moved_from_another_task(pool.wait_slot()).await.unwrap(),
                    2 => match moved_from_another_task(pool.wait_one()).await {
                        Ok(()) | Err(WaitOneError::NothingBusy) => {}
                        Err(WaitOneError::NotDriven) => panic!("block_on drives"),
                    },
                    _ => assert_eq!(moved_from_another_task(pool.wait_all()).await, Ok(())),
                }
            })
        });
        for wait in waits {
            wait.await.unwrap();
        }
    });
    thread.join().unwrap();
}

/// The waits are polled inside the wake, by another executor on this thread. `busy` has dropped by then, the status is set and the
/// future is gone.
/// Faults: an end wakes while the accounts are borrowed; it wakes before the status is set, or before the future is gone.
fn a_wait_polled_inside_its_wake_sees_a_whole_end() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 1);
    let (end, mut busy) = slot();
    let (drops, here) = DropsHere::new();
    let thread = complete_elsewhere(end, ());
    let waited = Cell::new(0);
    let waits = context.block_on(async {
        // Not an async block: that would drop what it holds at its end, and not with the future.
        let task = poll_fn(move |cx| {
            let _with_the_future = &here;
            busy.poll_unpin(cx).map(|_| Err(7))
        });
        pool.start_task(task).await.unwrap();
        let whole = || {
            assert_eq!((pool.busy(), pool.errors(), drops.get()), (0, 1, 1));
            waited.set(waited.get() + 1);
        };
        let (pool, whole) = (&pool, &whole);
        let waits = [
            InlineHere::start(async move {
                let _ = pool.wait_one().await;
                whole();
            }),
            InlineHere::start(async move {
                drop(pool.reserve().await.unwrap());
                whole();
            }),
            InlineHere::start(async move {
                let status = PoolError::Task { index: 0, error: 7 };
                assert_eq!(pool.wait_all().await, Err(WaitAllError::Status(status)));
                whole();
            }),
        ];
        let _ = pool.wait_all().await;
        // The waits end with this guard, and borrow what is here.
        drop(waits);
        waited.get()
    });
    assert_eq!(waits, 3, "a wait was not woken by the end");
    thread.join().unwrap();
}

/// A slot that is dropped goes to the next in line inside the drop, and from there to the one after.
/// Fault: a slot is given back while the accounts are borrowed.
fn a_slot_given_back_is_handed_to_a_waker_that_polls_at_once() {
    let context = AioContext::new().unwrap();
    let pool = pool(&context, 1);
    let (end, released) = slot();
    let thread = complete_elsewhere(end, ());
    context.block_on(async {
        let held = pool.reserve().await.unwrap();
        let had = Cell::new(0);
        let (pool, had) = (&pool, &had);
        let waits = [(), ()].map(|()| {
            InlineHere::start(async move {
                drop(pool.reserve().await.unwrap());
                had.set(had.get() + 1);
            })
        });
        released.await.unwrap();
        assert_eq!(had.get(), 0);
        drop(held);
        assert_eq!(had.get(), 2, "a slot was not handed on");
        drop(waits);
    });
    thread.join().unwrap();
}
