use std::cell::Cell;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Poll;

use aio_task::{AioTaskPool, PoolError, WaitAllError};

use super::accounting::FreedAtTheEnd;
use super::support::{Gate, Log, Probe, now};
use super::{Outcome, Pool, context, counts, pool, start, start_waiting};

/// What `wait_all` throws, as text.
fn thrown(pool: &Pool) -> Option<&'static str> {
    let caught = catch_unwind(AssertUnwindSafe(|| now(pool.wait_all())));
    caught
        .err()
        .map(|payload| *payload.downcast::<&'static str>().expect("a text"))
}

async fn panics(gate: Gate<&'static str>) -> Outcome {
    let text = gate.await;
    std::panic::panic_any(text)
}

#[test]
fn the_first_error_in_the_order_of_ends_is_kept_and_later_ones_are_counted() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 4);
    let gates = [(); 4].map(|()| start_waiting(&pool));
    for (gate, result) in [
        (3, Ok(())),
        (2, Err("first")),
        (0, Err("second")),
        (1, Ok(())),
    ] {
        gates[gate].open(result);
        hand.run_until_stalled();
    }
    assert_eq!(
        pool.status(),
        Some(PoolError::Task {
            index: 2,
            error: "first"
        })
    );
    assert_eq!(pool.errors(), 2);
    start(&pool, async { Err("third") });
    assert_eq!(
        (pool.status().map(|error| error.index()), pool.errors()),
        (Some(2), 3)
    );
}

#[test]
fn a_panic_ends_the_task_like_an_error() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = Gate::new();
    start(&pool, panics(gate.clone()));
    let log = Log::default();
    let mut one = Probe::named("one", &log, pool.wait_one());
    let mut slot = Probe::named("slot", &log, pool.reserve());
    let mut all = Probe::named("all", &log, pool.wait_all());
    assert!(one.is_pending() && slot.is_pending() && all.is_pending());
    gate.open("boom");
    hand.run_until_stalled();
    assert_eq!(log.take(), ["one", "slot"], "waiters wake");
    assert_eq!(counts(&pool), (0, 1), "busy drops");
    assert_eq!(
        pool.status(),
        Some(PoolError::Panicked { index: 0 }),
        "status is set"
    );
    assert_eq!(pool.errors(), 1);
    drop(slot);
    assert_eq!(log.take(), ["all"]);
    drop(all);
    assert_eq!(thrown(&pool), Some("boom"));
}

#[test]
fn start_task_never_unwinds() {
    let context = context();
    let pool = pool(&context, 1);
    let index = catch_unwind(AssertUnwindSafe(|| {
        start(&pool, async { std::panic::panic_any("in the inline poll") })
    }));
    assert_eq!(index.expect("it returns"), 0);
    assert_eq!(pool.status(), Some(PoolError::Panicked { index: 0 }));
    assert_eq!(start(&pool, async { Ok(()) }), 1, "the slot is free again");
    assert_eq!(thrown(&pool), Some("in the inline poll"));
}

#[test]
fn the_next_wait_all_throws_the_payload_once_and_the_status_stays() {
    let context = context();
    let pool = pool(&context, 1);
    start(&pool, async { std::panic::panic_any("first") });
    start(&pool, async { std::panic::panic_any("second") });
    assert_eq!(thrown(&pool), Some("first"));
    let status = PoolError::Panicked { index: 0 };
    assert_eq!(now(pool.wait_all()), Err(WaitAllError::Status(status)));
    assert_eq!(pool.errors(), 2);
    start(&pool, async { std::panic::panic_any("third") });
    assert_eq!(
        thrown(&pool),
        Some("third"),
        "a later panic is thrown by the next wait_all again"
    );
}

#[test]
fn a_panic_after_an_error_leaves_the_status_and_is_thrown_all_the_same() {
    let context = context();
    let pool = pool(&context, 1);
    start(&pool, async { Err("first") });
    start(&pool, async { std::panic::panic_any("boom") });
    let status = PoolError::Task {
        index: 0,
        error: "first",
    };
    assert_eq!(pool.status(), Some(status.clone()));
    assert_eq!(thrown(&pool), Some("boom"));
    assert_eq!(now(pool.wait_all()), Err(WaitAllError::Status(status)));
}

#[test]
fn only_one_of_several_wait_alls_throws() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = Gate::new();
    start(&pool, panics(gate.clone()));
    let mut first = Probe::new(pool.wait_all(), || {});
    let mut second = Probe::new(pool.wait_all(), || {});
    assert!(first.is_pending() && second.is_pending());
    gate.open("boom");
    hand.run_until_stalled();
    assert!(catch_unwind(AssertUnwindSafe(|| first.poll())).is_err());
    let status = WaitAllError::Status(PoolError::Panicked { index: 0 });
    assert_eq!(second.poll(), Poll::Ready(Err(status)));
}

#[test]
fn without_a_wait_all_the_pools_drop_throws_the_payload() {
    let context = context();
    let pool = pool(&context, 1);
    start(&pool, async { std::panic::panic_any("boom") });
    let clone = pool.clone();
    drop(pool); // not the last handle
    let payload = catch_unwind(AssertUnwindSafe(|| drop(clone))).expect_err("it throws");
    assert_eq!(payload.downcast_ref(), Some(&"boom"));
}

#[test]
fn a_pool_dropped_by_a_panic_prints_the_payload_and_does_not_abort() {
    let context = context();
    let payload = catch_unwind(AssertUnwindSafe(|| {
        let pool = pool(&context, 1);
        start(&pool, async { std::panic::panic_any("of the task") });
        std::panic::panic_any("of the caller");
    }));
    assert_eq!(
        payload.expect_err("it panicked").downcast_ref(),
        Some(&"of the caller")
    );
}

#[test]
fn a_panic_while_an_ended_tasks_future_is_freed_counts_as_the_tasks() {
    let context = context();
    let pool = pool(&context, 1);
    let freed = || std::panic::panic_any("while freed");
    start(&pool, FreedAtTheEnd::new(async { Ok(()) }, freed));
    assert_eq!((counts(&pool), pool.errors()), ((0, 0), 1));
    assert_eq!(pool.status(), Some(PoolError::Panicked { index: 0 }));
    assert_eq!(thrown(&pool), Some("while freed"));
    start(
        &pool,
        FreedAtTheEnd::new(async { Err("and failed") }, freed),
    );
    assert_eq!(pool.errors(), 2, "one task, one error");
    assert_eq!(thrown(&pool), Some("while freed"));
}

#[test]
fn a_panic_while_a_cancelled_task_is_freed_cancels_the_others_all_the_same() {
    let context = context();
    let pool = pool(&context, 3);
    let log = Log::default();
    for number in 0..3 {
        let noted = log.clone();
        let freed = move || {
            noted.note(number);
            if number == 0 {
                std::panic::panic_any("while cancelled");
            }
        };
        start(&pool, FreedAtTheEnd::new(Gate::new(), freed));
    }
    let caught = catch_unwind(AssertUnwindSafe(|| drop(pool)));
    assert_eq!(log.take(), ["0", "1", "2"]);
    let payload = caught.expect_err("nothing else could tell");
    assert_eq!(payload.downcast_ref(), Some(&"while cancelled"));
}

#[test]
fn errors_say_which_task_and_what() {
    let task = PoolError::Task {
        index: 7,
        error: "no space",
    };
    assert_eq!(task.to_string(), "task 7 failed", "the rest is its source");
    assert_eq!(format!("{task:#}"), "task 7 failed: no space");
    let status = WaitAllError::Status(task);
    assert_eq!(status.to_string(), "task 7 failed");
    assert_eq!(format!("{status:#}"), "task 7 failed: no space");
    assert_eq!(
        PoolError::<&str>::Panicked { index: 3 }.to_string(),
        "task 3 panicked"
    );
}

/// An error that panics when it is dropped, while that is wanted.
#[derive(Clone)]
struct Bomb(Rc<Cell<bool>>);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0.get() {
            std::panic::panic_any("of the error");
        }
    }
}

#[test]
fn a_panic_while_a_later_error_is_freed_still_wakes_everyone_and_is_thrown() {
    let context = context();
    let hand = context.by_hand();
    let pool = AioTaskPool::<Bomb>::new(&context.handle(), NonZeroUsize::MIN);
    let armed = Rc::new(Cell::new(false));
    let (first, second) = (Bomb(Rc::default()), Bomb(Rc::clone(&armed)));
    assert!(now(pool.start_task(async { Err(first) })).is_ok());
    let gate = Gate::new();
    let fails = gate.clone();
    let task = async move {
        fails.await;
        Err(second)
    };
    assert!(now(pool.start_task(task)).is_ok());
    let log = Log::default();
    let noted = |what: &'static str| {
        let log = log.clone();
        move || log.note(what)
    };
    let mut one = Probe::new(pool.wait_one(), noted("one"));
    let mut slot = Probe::new(pool.wait_slot(), noted("slot"));
    let mut all = Probe::new(pool.wait_all(), noted("all"));
    assert!(one.is_pending() && slot.is_pending() && all.is_pending());
    armed.set(true);
    gate.open(());
    hand.run_until_stalled();
    armed.set(false);
    assert_eq!(log.take(), ["one", "slot", "all"]);
    assert_eq!((pool.busy(), pool.reserved(), pool.errors()), (0, 0, 2));
    assert!(matches!(one.poll(), Poll::Ready(Ok(()))));
    assert!(matches!(slot.poll(), Poll::Ready(Ok(()))));
    let caught = catch_unwind(AssertUnwindSafe(|| all.poll().is_ready()));
    let payload = caught.expect_err("it is thrown");
    assert_eq!(payload.downcast_ref(), Some(&"of the error"));
    assert_eq!(pool.status().map(|error| error.index()), Some(0));
}

/// A payload whose own drop panics.
struct Spiteful;

impl Drop for Spiteful {
    fn drop(&mut self) {
        std::panic::panic_any("of the payload");
    }
}

#[test]
#[cfg_attr(miri, ignore = "leaks on purpose, see docs/VERIFICATION.md")]
fn a_payload_that_panics_when_no_task_wants_it_holds_up_no_task() {
    let context = context();
    let pool = pool(&context, 1);
    start(&pool, async { std::panic::panic_any("kept") });
    start(&pool, async { std::panic::panic_any(Spiteful) });
    assert_eq!((counts(&pool), pool.errors()), ((0, 0), 2));
    assert_eq!(thrown(&pool), Some("kept"));
}
