use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;

use aio_task::{PoolError, WaitAllError, WaitOneError};

use super::support::{Gate, Log, Probe, now};
use super::{context, counts, pool, start, start_waiting};

#[test]
fn a_new_pool_is_idle_and_clean_and_keeps_its_limit() {
    let context = context();
    let pool = pool(&context, 3);
    assert_eq!((counts(&pool), pool.max()), ((0, 0), 3));
    assert_eq!((pool.status(), pool.errors()), (None, 0));
    assert!(pool.is_empty());
    assert_eq!(now(pool.wait_all()), Ok(()));
}

#[test]
fn start_task_does_nothing_before_it_is_polled() {
    let context = context();
    let pool = pool(&context, 1);
    let ran = Rc::new(Cell::new(false));
    let seen = Rc::clone(&ran);
    let starting = pool.start_task(async move {
        seen.set(true);
        Ok(())
    });
    assert!(!ran.get() && pool.is_empty());
    drop(starting);
    assert!(!ran.get() && pool.is_empty());
}

#[test]
fn a_task_runs_to_its_first_wait_inside_start_task() {
    let context = context();
    let _hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = Gate::new();
    let (log, noted, inner) = (Log::default(), Log::default(), gate.clone());
    let task_log = log.clone();
    start(&pool, async move {
        task_log.note("submitted");
        let result = inner.await;
        noted.note("never, in this test");
        result
    });
    assert_eq!(log.take(), ["submitted"]);
    assert_eq!((gate.polls(), counts(&pool)), (1, (1, 0)));
}

#[test]
fn a_task_that_never_suspends_has_ended_when_start_task_returns() {
    let context = context();
    let pool = pool(&context, 1);
    for expected in 0..3 {
        assert_eq!(start(&pool, async { Ok(()) }), expected, "the task's index");
        assert!(pool.is_empty());
    }
    assert_eq!(start(&pool, async { Err("bad") }), 3);
    assert_eq!(
        pool.status(),
        Some(PoolError::Task {
            index: 3,
            error: "bad"
        })
    );
}

#[test]
fn a_pools_task_runs_on_while_its_starter_does_something_else() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert!(
        pool.is_empty(),
        "no task polled the pool, and yet its task ended"
    );
}

#[test]
fn start_task_waits_for_a_slot_and_then_runs_its_task_inline() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let second = Gate::new();
    let mut starting = Probe::new(pool.start_task(second.clone()), || {});
    assert!(starting.is_pending());
    hand.run_until_stalled();
    assert_eq!(second.polls(), 0, "no slot, no poll");
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(
        (counts(&pool), second.polls()),
        ((0, 1), 0),
        "handed over, not started"
    );
    assert_eq!(starting.poll(), Poll::Ready(Ok(1)));
    assert_eq!((counts(&pool), second.polls()), ((1, 0), 1));
}

#[test]
fn status_never_waits_and_survives_wait_all() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 2);
    let gate = start_waiting(&pool);
    start(&pool, async { Err("first") });
    let first = PoolError::Task {
        index: 1,
        error: "first",
    };
    assert_eq!(
        pool.status(),
        Some(first.clone()),
        "while the other is busy"
    );
    gate.open(Ok(()));
    hand.run_until_stalled();
    for _ in 0..2 {
        assert_eq!(
            now(pool.wait_all()),
            Err(WaitAllError::Status(first.clone()))
        );
        assert_eq!(pool.status(), Some(first.clone()));
    }
}

#[test]
fn wait_one_on_an_idle_pool_says_so_at_once() {
    let context = context();
    let _hand = context.by_hand();
    let pool = pool(&context, 1);
    assert_eq!(now(pool.wait_one()), Err(WaitOneError::NothingBusy));
    let _slot = pool.try_reserve().expect("it is free");
    assert_eq!(
        now(pool.wait_one()),
        Err(WaitOneError::NothingBusy),
        "reserved is not busy"
    );
}

#[test]
fn wait_one_returns_after_one_end_though_others_are_busy() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 3);
    let gates = [(); 3].map(|()| start_waiting(&pool));
    let mut waiting = Probe::new(pool.wait_one(), || {});
    assert!(waiting.is_pending());
    hand.run_until_stalled();
    assert!(waiting.is_pending(), "no end, no return");
    gates[1].open(Ok(()));
    hand.run_until_stalled();
    assert_eq!((waiting.poll(), pool.busy()), (Poll::Ready(Ok(())), 2));
}

#[test]
fn two_ends_before_wait_one_runs_are_one_return() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 3);
    let gates = [(); 3].map(|()| start_waiting(&pool));
    let log = Log::default();
    let mut waiting = Probe::named("woken", &log, pool.wait_one());
    assert!(waiting.is_pending());
    gates[0].open(Ok(()));
    gates[1].open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["woken"]);
    assert_eq!(waiting.poll(), Poll::Ready(Ok(())));
    let mut next = Probe::new(pool.wait_one(), || {});
    assert!(next.is_pending(), "the second end was before this wait");
}

#[test]
fn wait_slot_returns_at_once_while_a_slot_is_free_and_takes_nothing() {
    let context = context();
    let _hand = context.by_hand();
    let pool = pool(&context, 1);
    assert_eq!(now(pool.wait_slot()), Ok(()));
    assert_eq!(now(pool.wait_slot()), Ok(()));
    assert_eq!(counts(&pool), (0, 0));
}

#[test]
fn wait_slot_returns_when_a_slot_came_free_and_passes_the_wake_to_the_next_in_line() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let log = Log::default();
    let mut hint = Probe::named("hint", &log, pool.wait_slot());
    let mut other = Probe::named("other hint", &log, pool.wait_slot());
    let mut reserve = Probe::named("reserve", &log, pool.reserve());
    assert!(hint.is_pending() && other.is_pending() && reserve.is_pending());
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["hint"], "one slot wakes one");
    assert!(other.is_pending() && reserve.is_pending(), "not their turn");
    assert_eq!(hint.poll(), Poll::Ready(Ok(())));
    assert_eq!(
        (log.take(), counts(&pool)),
        (vec!["other hint".to_owned()], (0, 0))
    );
    assert_eq!(other.poll(), Poll::Ready(Ok(())));
    assert_eq!(
        (log.take(), counts(&pool)),
        (vec!["reserve".to_owned()], (0, 1))
    );
    assert!(matches!(reserve.poll(), Poll::Ready(Ok(_))));
}

#[test]
fn a_reserved_slot_is_held_until_it_is_started_or_dropped() {
    let context = context();
    let _hand = context.by_hand();
    let pool = pool(&context, 1);
    let slot = now(pool.reserve()).expect("a free slot");
    assert_eq!(counts(&pool), (0, 1));
    assert!(pool.try_reserve().is_none());
    assert!(Probe::new(pool.start_task(async { Ok(()) }), || {}).is_pending());
    let gate = Gate::new();
    assert_eq!(slot.start(gate.clone()), Ok(0));
    assert_eq!(
        (counts(&pool), gate.polls()),
        ((1, 0), 1),
        "polled inside start"
    );
    assert!(pool.try_reserve().is_none());
}

#[test]
fn wait_all_waits_for_tasks_that_were_started_meanwhile() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 2);
    let first = start_waiting(&pool);
    let mut waiting = Probe::new(pool.wait_all(), || {});
    assert!(waiting.is_pending());
    let second = start_waiting(&pool);
    first.open(Ok(()));
    hand.run_until_stalled();
    assert!(waiting.is_pending(), "the second is busy");
    second.open(Ok(()));
    hand.run_until_stalled();
    // Woken, but before it looks a third one comes.
    let third = start_waiting(&pool);
    assert!(waiting.is_pending(), "the third is busy");
    third.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(waiting.poll(), Poll::Ready(Ok(())));
}

#[test]
fn wait_all_returns_the_first_error() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 2);
    let gates = [(); 2].map(|()| start_waiting(&pool));
    let mut waiting = Probe::new(pool.wait_all(), || {});
    assert!(waiting.is_pending());
    gates[1].open(Err("second task, first end"));
    hand.run_until_stalled();
    gates[0].open(Err("first task, second end"));
    hand.run_until_stalled();
    let first = PoolError::Task {
        index: 1,
        error: "second task, first end",
    };
    assert_eq!(
        waiting.poll(),
        Poll::Ready(Err(WaitAllError::Status(first)))
    );
}

#[test]
#[cfg_attr(
    miri,
    ignore = "a future that borrows from itself, see docs/VERIFICATION.md"
)]
fn any_task_of_the_context_may_wait_and_several_at_once() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let log = Log::default();
    for number in 0..2 {
        let (one, all, slot) = (pool.clone(), pool.clone(), pool.clone());
        let logs = [(); 3].map(|()| log.clone());
        let [one_log, all_log, slot_log] = logs;
        let handle = context.handle();
        let one = async move { one_log.note(format!("one {number}: {:?}", one.wait_one().await)) };
        let all = async move { all_log.note(format!("all {number}: {:?}", all.wait_all().await)) };
        let slot =
            async move { slot_log.note(format!("slot {number}: {:?}", slot.wait_slot().await)) };
        handle.spawn(one).detach();
        handle.spawn(slot).detach();
        handle.spawn(all).detach();
    }
    hand.run_until_stalled();
    assert_eq!(log.take(), [""; 0]);
    gate.open(Ok(()));
    hand.run_until_stalled();
    let mut returned = log.take();
    returned.sort();
    let expected = ["all 0", "all 1", "one 0", "one 1", "slot 0", "slot 1"];
    assert_eq!(returned, expected.map(|name| format!("{name}: Ok(())")));
}

#[test]
fn slots_are_given_in_the_order_that_waiters_came() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let log = Log::default();
    let names = ["a", "b", "c", "d"];
    let mut starts = names.map(|name| {
        let task_log = log.clone();
        Probe::new(
            pool.start_task(async move {
                task_log.note(name);
                Ok(())
            }),
            || {},
        )
    });
    assert!(starts.iter_mut().all(|start| start.is_pending()));
    gate.open(Ok(()));
    hand.run_until_stalled();
    // Polled in the wrong order: in each round only the one whose turn it is may go.
    let mut waiting: Vec<_> = starts.iter_mut().collect();
    for name in names {
        waiting.reverse();
        waiting.retain_mut(|start| {
            start.is_pending() || {
                assert_eq!(log.take(), [name]);
                false
            }
        });
        waiting.reverse();
    }
    assert!(waiting.is_empty());
}

#[test]
fn a_newcomer_never_takes_the_slot_of_one_who_waits() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let mut waiting = Probe::new(pool.start_task(Gate::new()), || {});
    assert!(waiting.is_pending());
    gate.open(Ok(()));
    hand.run_until_stalled();
    let mut newcomer = Probe::new(pool.start_task(async { Ok(()) }), || {});
    assert!(newcomer.is_pending());
    assert!(pool.try_reserve().is_none());
    assert!(Probe::new(pool.wait_slot(), || {}).is_pending());
    assert_eq!(waiting.poll(), Poll::Ready(Ok(1)), "it was first");
    assert!(newcomer.is_pending());
}

#[test]
fn a_newcomer_queues_after_a_hint_though_the_slot_is_free() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let mut hint = Probe::new(pool.wait_slot(), || {});
    assert!(hint.is_pending());
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(
        counts(&pool),
        (0, 0),
        "the slot is free, and it is the hint's turn"
    );
    let mut newcomer = Probe::new(pool.reserve(), || {});
    assert!(newcomer.is_pending());
    assert!(pool.try_reserve().is_none());
    let mut other_hint = Probe::new(pool.wait_slot(), || {});
    assert!(other_hint.is_pending(), "a hint waits for its turn too");
    assert_eq!(hint.poll(), Poll::Ready(Ok(())));
    assert!(matches!(newcomer.poll(), Poll::Ready(Ok(_))));
}
