use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use aio_task::{AioHandle, PoolError, WaitAllError};
use futures::future::LocalBoxFuture;

use super::accounting::FreedAtTheEnd;
use super::support::{Gate, Log, Probe, now};
use super::{Outcome, Pool, context, counts, pool, start, start_waiting};

#[test]
fn a_task_starts_another_inline_on_its_own_stack() {
    let context = context();
    let _hand = context.by_hand();
    let pool = pool(&context, 2);
    let log = Log::default();
    let (inner, noted) = (pool.clone(), log.clone());
    start(&pool, async move {
        noted.note("outer begins");
        let innermost = noted.clone();
        let nested = async move {
            innermost.note("inner");
            Ok(())
        };
        assert_eq!(inner.start_task(nested).await, Ok(1));
        noted.note("outer ends");
        Ok(())
    });
    assert_eq!(log.take(), ["outer begins", "inner", "outer ends"]);
}

/// A chain of tasks, each started inside the first poll of the one before, which notes the counts. `innermost` is started
/// inside the last of them.
fn chain(
    pool: Pool,
    left: usize,
    log: Log,
    innermost: LocalBoxFuture<'static, Outcome>,
) -> LocalBoxFuture<'static, Outcome> {
    Box::pin(async move {
        log.note(format!("{} {}", pool.busy(), pool.reserved()));
        let next = match left {
            0 => innermost,
            _ => chain(pool.clone(), left - 1, log.clone(), innermost),
        };
        pool.start_task(next).await.expect("a context");
        drop(pool); // or the chain would keep its pool for ever
        pending().await
    })
}

#[test]
fn from_depth_64_on_a_task_is_queued_and_its_slot_counts_as_reserved() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 200);
    let log = Log::default();
    start(
        &pool,
        chain(pool.clone(), 150, log.clone(), Box::pin(pending())),
    );
    assert_eq!(log.take().len(), 64, "as many polls are on one stack");
    assert_eq!(
        counts(&pool),
        (64, 1),
        "the next has its slot, and was not polled"
    );
    assert!(!pool.is_empty());
    assert!(hand.step());
    let polled = log.take();
    assert_eq!(
        polled[0], "65 0",
        "reserved becomes busy when its poll begins"
    );
    assert_eq!((polled.len(), counts(&pool)), (64, (128, 1)));
    hand.run_until_stalled();
    assert_eq!(counts(&pool), (152, 0));
}

#[test]
fn a_queued_task_of_a_dropped_pool_is_dropped_unpolled() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 70);
    let (log, gate) = (Log::default(), Gate::new());
    let noted = log.clone();
    let queued = FreedAtTheEnd::new(gate.clone(), move || noted.note("freed"));
    start(
        &pool,
        chain(pool.clone(), 63, log.clone(), Box::pin(queued)),
    );
    assert_eq!(
        (log.take().len(), counts(&pool), gate.polls()),
        (64, (64, 1), 0)
    );
    drop(pool);
    assert_eq!(log.take(), ["freed"]);
    hand.run_until_stalled();
    assert_eq!(gate.polls(), 0);
}

#[test]
fn a_queued_task_of_a_context_that_goes_away_gives_its_slot_back() {
    let context = context();
    let pool = pool(&context, 70);
    let (log, gate) = (Log::default(), Gate::new());
    start(
        &pool,
        chain(pool.clone(), 63, log.clone(), Box::pin(gate.clone())),
    );
    assert_eq!((counts(&pool), gate.polls()), ((64, 1), 0));
    drop(context);
    assert_eq!(
        (counts(&pool), gate.polls(), pool.status()),
        ((0, 0), 0, None)
    );
}

#[test]
fn a_nested_start_without_a_slot_waits_in_line() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 2);
    let other = start_waiting(&pool);
    let log = Log::default();
    let (inner, noted) = (pool.clone(), log.clone());
    start(&pool, async move {
        let innermost = noted.clone();
        let nested = async move {
            innermost.note("inner");
            Ok(())
        };
        inner.start_task(nested).await.expect("driven");
        noted.note("outer");
        Ok(())
    });
    let mut after = Probe::new(pool.start_task(async { Ok(()) }), || {});
    assert!(after.is_pending());
    other.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["inner", "outer"]);
    assert!(matches!(after.poll(), Poll::Ready(Ok(_))));
}

#[test]
fn with_one_slot_a_nested_start_waits_for_itself_until_it_is_dropped() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let (inner, give_up) = (pool.clone(), Gate::new());
    let given_up = give_up.clone();
    start(&pool, async move {
        let nested = Box::pin(inner.start_task(async { Ok(()) }));
        match futures::future::select(nested, given_up).await {
            futures::future::Either::Left(_) => Err("a slot that no task gave back"),
            futures::future::Either::Right(((), _nested)) => Ok(()),
        }
    });
    hand.run_until_stalled();
    assert_eq!(counts(&pool), (1, 0), "it waits for itself");
    give_up.open(());
    hand.run_until_stalled();
    assert_eq!((counts(&pool), pool.status()), ((0, 0), None));
    assert_eq!(
        start(&pool, async { Ok(()) }),
        1,
        "and the pool is as good as new"
    );
}

#[test]
fn wait_all_on_ones_own_pool_is_an_error_in_the_inline_poll_and_later() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 2);
    let (log, gate) = (Log::default(), Gate::new());
    let (inner, noted, opened) = (pool.clone(), log.clone(), gate.clone());
    start(&pool, async move {
        noted.note(format!("{:?}", inner.wait_all().await));
        let result = opened.await;
        noted.note(format!("{:?}", inner.wait_all().await));
        result
    });
    assert_eq!(log.take(), ["Err(WaitsForItself)"]);
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["Err(WaitsForItself)"]);
    assert_eq!(now(pool.wait_all()), Ok(()), "from outside it is no error");
}

#[test]
fn wait_all_on_another_pool_or_after_a_nested_task_looks_at_the_innermost_only() {
    let context = context();
    let _hand = context.by_hand();
    let (outer, inner) = (pool(&context, 2), pool(&context, 1));
    let log = Log::default();
    let (of_outer, of_inner, noted) = (outer.clone(), inner.clone(), log.clone());
    start(&outer, async move {
        let (seen_by_inner, innermost) = (of_outer.clone(), noted.clone());
        let nested = async move {
            let mut all = Probe::new(seen_by_inner.wait_all(), || {});
            innermost.note(format!("inner waits for outer: {:?}", all.poll()));
            Ok(())
        };
        of_inner.start_task(nested).await.expect("a context");
        noted.note(format!(
            "outer waits for inner: {:?}",
            of_inner.wait_all().await
        ));
        noted.note(format!(
            "outer waits for outer: {:?}",
            of_outer.wait_all().await
        ));
        Ok(())
    });
    assert_eq!(
        log.take(),
        [
            "inner waits for outer: Pending",
            "outer waits for inner: Ok(())",
            "outer waits for outer: Err(WaitsForItself)"
        ]
    );
}

#[test]
fn a_spawned_task_may_wait_for_all_on_behalf_of_a_pools_task() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let (log, handle) = (Log::default(), context.handle());
    let (inner, noted) = (pool.clone(), log.clone());
    start(&pool, async move {
        let waiting = async move { noted.note(format!("{:?}", inner.wait_all().await)) };
        handle.spawn(waiting).detach();
        Ok(())
    });
    hand.run_until_stalled();
    assert_eq!(log.take(), ["Ok(())"]);
}

#[test]
#[cfg_attr(
    miri,
    ignore = "a future that borrows from itself, see docs/VERIFICATION.md"
)]
fn a_task_started_with_spawn_now_may_wait_for_all_on_behalf_of_a_pools_task() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let (log, handle) = (Log::default(), context.handle());
    let (inner, noted) = (pool.clone(), log.clone());
    start(&pool, async move {
        let (of_spawned, told) = (inner.clone(), noted.clone());
        let waiting =
            async move { told.note(format!("spawned: {:?}", of_spawned.wait_all().await)) };
        handle.spawn_now(waiting).detach();
        noted.note(format!("task: {:?}", inner.wait_all().await));
        Ok(())
    });
    assert_eq!(
        log.take(),
        ["task: Err(WaitsForItself)"],
        "after the inline poll the task is the pool's again"
    );
    hand.run_until_stalled();
    assert_eq!(log.take(), ["spawned: Ok(())"]);
}

#[test]
fn after_an_inline_poll_that_panicked_the_task_is_still_the_pools() {
    let context = context();
    let _hand = context.by_hand();
    let pool = pool(&context, 1);
    let (log, handle) = (Log::default(), context.handle());
    let (inner, noted) = (pool.clone(), log.clone());
    start(&pool, async move {
        handle
            .spawn_now(async { panic!("in the inline poll") })
            .detach();
        noted.note(format!("{:?}", inner.wait_all().await));
        Ok(())
    });
    assert_eq!(log.take(), ["Err(WaitsForItself)"]);
}

#[test]
fn a_task_of_another_context_that_runs_inside_a_pools_task_may_wait_for_the_pool() {
    let (outer, inner) = (context(), context());
    let hand = outer.by_hand();
    let pool = pool(&outer, 1);
    let log = Log::default();
    let (all, handle, noted) = (pool.clone(), inner.handle(), log.clone());
    let inner = Rc::new(inner);
    let runs = Rc::clone(&inner);
    start(&pool, async move {
        let (of_task, told) = (all.clone(), noted.clone());
        let waiting = async move { told.note(format!("task: {:?}", of_task.wait_all().await)) };
        handle.spawn(waiting).detach();
        runs.by_hand().run_until_stalled();
        noted.note(format!("block_on: {:?}", runs.block_on(all.wait_all())));
        Ok(())
    });
    assert_eq!(
        log.take(),
        ["block_on: Err(WaitsForItself)"],
        "the other context's task waits; block_on holds up the pool's task until its future is ready"
    );
    hand.run_until_stalled();
    inner.by_hand().run_until_stalled();
    assert_eq!(log.take(), ["task: Ok(())"]);
}

#[test]
fn a_job_that_runs_inside_a_pools_task_is_not_that_task() {
    thread_local! {
        /// A job must be `Send`, so it finds the pool here.
        static POOL: RefCell<Option<Pool>> = RefCell::default();
    }
    let (outer, inner) = (context(), context());
    let _hand = outer.by_hand();
    let pool = pool(&outer, 1);
    POOL.set(Some(pool.clone()));
    let waits = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&waits);
    let job = move |_: &AioHandle| {
        let pool = POOL.take().expect("this thread's");
        let waiting = Probe::new(pool.wait_all(), || {}).is_pending();
        told.store(waiting, Ordering::Relaxed);
    };
    inner.remote().submit(job).expect("the context is there");
    start(&pool, async move {
        inner.by_hand().run_until_stalled();
        Ok(())
    });
    assert!(waits.load(Ordering::Relaxed));
}

#[test]
fn one_limit_holds_for_nested_polls_of_spawn_now_of_pools_and_of_other_contexts() {
    let (first, second) = (context(), context());
    let _hand = first.by_hand();
    let pool = pool(&first, 200);
    let log = Log::default();
    start(
        &pool,
        alternate(
            pool.clone(),
            first.handle(),
            second.handle(),
            150,
            log.clone(),
        ),
    );
    assert_eq!(log.take().len(), 64, "as many polls are on one stack");
}

/// A chain of tasks: each starts the next inside its first poll, in turn in the pool, in the first and in the second context.
fn alternate(
    pool: Pool,
    first: AioHandle,
    second: AioHandle,
    left: usize,
    log: Log,
) -> LocalBoxFuture<'static, Outcome> {
    Box::pin(async move {
        log.note("polled");
        if left == 0 {
            return Ok(());
        }
        let next = alternate(pool.clone(), first.clone(), second.clone(), left - 1, log);
        let next_alone = |next: LocalBoxFuture<'static, Outcome>| async move {
            let _ends = next.await;
        };
        match left % 3 {
            0 => {
                pool.start_task(next).await.expect("a context");
            }
            1 => first.spawn_now(next_alone(next)).detach(),
            _ => second.spawn_now(next_alone(next)).detach(),
        }
        Ok(())
    })
}

#[test]
fn spawn_from_inside_a_task_queues_at_the_end_and_never_runs_inline() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let log = Log::default();
    let (handle, noted, before) = (context.handle(), log.clone(), log.clone());
    context
        .handle()
        .spawn(async move { before.note("before") })
        .detach();
    start(&pool, async move {
        let spawned = noted.clone();
        handle
            .spawn(async move { spawned.note("spawned") })
            .detach();
        noted.note("task");
        Ok(())
    });
    assert_eq!(log.take(), ["task"]);
    hand.run_until_stalled();
    assert_eq!(log.take(), ["before", "spawned"]);
}

#[test]
fn block_on_in_the_same_context_panics_with_a_clear_message() {
    let context = Rc::new(context());
    let pool = pool(&context, 1);
    let inner = Rc::clone(&context);
    context.block_on(async {
        let nested = async move {
            inner.block_on(async {});
            Ok(())
        };
        pool.start_task(nested).await.expect("driven");
    });
    assert_eq!(
        pool.status(),
        Some(PoolError::Panicked { index: 0 }),
        "it is the task's panic"
    );
    let payload = catch_unwind(AssertUnwindSafe(|| now(pool.wait_all()))).expect_err("thrown");
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    let text = text
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .expect("a text");
    assert!(text.contains("block_on"), "{text}");
}

#[test]
fn a_task_that_wakes_itself_is_polled_again_from_the_run_queue() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let polls = Rc::new(Cell::new(0));
    let counted = Rc::clone(&polls);
    start(
        &pool,
        poll_fn(move |cx| {
            counted.set(counted.get() + 1);
            if counted.get() == 3 {
                return Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }),
    );
    assert_eq!(polls.get(), 1, "not inside start_task");
    assert!(hand.step());
    assert_eq!((polls.get(), pool.busy()), (2, 1));
    hand.run_until_stalled();
    assert_eq!((polls.get(), pool.busy()), (3, 0));
}

#[test]
fn a_task_that_drops_the_last_handle_cancels_the_others_at_once_and_itself_at_its_polls_return() {
    for inline in [true, false] {
        let context = context();
        let hand = context.by_hand();
        let pool = pool(&context, 2);
        let log = Log::default();
        let noted = log.clone();
        start(
            &pool,
            FreedAtTheEnd::new(Gate::new(), move || noted.note("other freed")),
        );
        let last = Rc::new(RefCell::new(None));
        let (taken, noted, gate) = (Rc::clone(&last), log.clone(), Gate::new());
        let go = gate.clone();
        let task = async move {
            if !inline {
                go.await;
            }
            noted.note("drops the pool");
            drop(taken.take());
            noted.note("goes on");
            pending().await
        };
        let noted = log.clone();
        let task = FreedAtTheEnd::new(task, move || noted.note("itself freed"));
        if inline {
            let slot = pool.try_reserve().expect("it is free");
            last.replace(Some(pool));
            slot.start(task).expect("a context");
        } else {
            start(&pool, task);
            last.replace(Some(pool));
            gate.open(());
            hand.run_until_stalled();
        }
        assert_eq!(
            log.take(),
            ["drops the pool", "other freed", "goes on", "itself freed"]
        );
    }
}

#[test]
fn a_task_that_ends_after_it_dropped_the_pool_bothers_no_task() {
    for panics in [false, true] {
        let context = context();
        let hand = context.by_hand();
        let pool = pool(&context, 1);
        let slot = pool.try_reserve().expect("it is free");
        let task = async move {
            drop(pool);
            assert!(!panics, "printed: nothing is left to throw it at");
            Err("nothing is left to read it")
        };
        slot.start(task).expect("a context");
        assert_eq!(hand.run_until_stalled(), 0);
    }
}

#[test]
fn waits_of_one_pool_work_from_inside_another_pools_task() {
    let context = context();
    let hand = context.by_hand();
    let (outer, inner) = (pool(&context, 1), pool(&context, 1));
    let gate = start_waiting(&inner);
    let waiting = inner.clone();
    start(&outer, async move {
        waiting.wait_all().await.map_err(|error| match error {
            WaitAllError::Status(PoolError::Task { error, .. }) => error,
            _ => "another error",
        })
    });
    hand.run_until_stalled();
    assert_eq!(outer.busy(), 1);
    gate.open(Err("of the inner"));
    hand.run_until_stalled();
    assert_eq!(
        outer.status(),
        Some(PoolError::Task {
            index: 0,
            error: "of the inner"
        })
    );
}
