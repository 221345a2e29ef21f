use std::cell::Cell;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::Poll;

use aio_task::{NotDriven, WorkerPool};

use super::accounting::FreedAtTheEnd;
use super::support::{Gate, Log, OnDrop, Probe, now};
use super::{context, counts, pool, start, start_waiting};

#[test]
fn a_reserve_dropped_after_the_hand_over_passes_the_slot_on_at_once() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let log = Log::default();
    let mut handed = Probe::named("handed", &log, pool.reserve());
    let mut next = Probe::named("next", &log, pool.start_task(Gate::new()));
    let mut last = Probe::named("last", &log, pool.reserve());
    assert!(handed.is_pending() && next.is_pending() && last.is_pending());
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["handed"]);
    drop(handed);
    assert_eq!(
        (log.take(), counts(&pool)),
        (vec!["next".to_owned()], (0, 1))
    );
    drop(next);
    assert_eq!(
        (log.take(), counts(&pool)),
        (vec!["last".to_owned()], (0, 1))
    );
    drop(last);
    assert_eq!(counts(&pool), (0, 0));
    assert!(pool.try_reserve().is_some(), "none is left: it is free");
}

#[test]
fn a_wait_slot_dropped_in_its_turn_passes_the_wake_on() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let log = Log::default();
    let mut hint = Probe::named("hint", &log, pool.wait_slot());
    let mut next = Probe::named("next", &log, pool.reserve());
    assert!(hint.is_pending() && next.is_pending());
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["hint"]);
    drop(hint);
    assert_eq!(
        (log.take(), counts(&pool)),
        (vec!["next".to_owned()], (0, 1))
    );
}

#[test]
fn a_waiter_dropped_before_its_turn_takes_no_others() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let log = Log::default();
    let mut reserves = ["a", "b", "c"].map(|name| Probe::named(name, &log, pool.reserve()));
    assert!(reserves.iter_mut().all(|reserve| reserve.is_pending()));
    let [a, b, mut c] = reserves;
    drop(b);
    drop(a);
    assert_eq!((log.take(), counts(&pool)), (vec![], (1, 0)));
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["c"]);
    assert!(matches!(c.poll(), Poll::Ready(Ok(_))));
}

#[test]
fn a_dropped_wait_one_or_wait_all_leaves_the_others_alone() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    let log = Log::default();
    let mut ones = ["one a", "one b"].map(|name| Probe::named(name, &log, pool.wait_one()));
    let mut alls = ["all a", "all b"].map(|name| Probe::named(name, &log, pool.wait_all()));
    assert!(ones.iter_mut().all(|one| one.is_pending()));
    assert!(alls.iter_mut().all(|all| all.is_pending()));
    let ([one_a, mut one_b], [all_a, mut all_b]) = (ones, alls);
    drop((one_a, all_a));
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["one b", "all b"]);
    assert_eq!(one_b.poll(), Poll::Ready(Ok(())));
    assert_eq!(all_b.poll(), Poll::Ready(Ok(())));
}

#[test]
fn a_start_task_dropped_while_waiting_drops_its_task_unpolled() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let gate = start_waiting(&pool);
    for handed in [false, true] {
        let (task, dropped) = (Gate::new(), Rc::new(Cell::new(false)));
        let noted = Rc::clone(&dropped);
        let freed = FreedAtTheEnd::new(task.clone(), move || noted.set(true));
        let mut starting = Probe::new(pool.start_task(freed), || {});
        assert!(starting.is_pending());
        if handed {
            gate.open(Ok(()));
            hand.run_until_stalled();
            assert_eq!(counts(&pool), (0, 1), "its slot had been handed over");
        }
        drop(starting);
        assert!(dropped.get());
        assert_eq!(task.polls(), 0);
    }
    assert_eq!(counts(&pool), (0, 0));
    assert_eq!(
        start(&pool, async { Ok(()) }),
        1,
        "what never started has no index"
    );
}

#[test]
fn a_dropped_slot_goes_to_the_next_in_line_and_wakes_no_wait_one() {
    let context = context();
    let _hand = context.by_hand();
    let pool = pool(&context, 2);
    let _busy = start_waiting(&pool);
    let slot = now(pool.reserve()).expect("a free slot");
    let log = Log::default();
    let mut one = Probe::named("one", &log, pool.wait_one());
    let mut next = Probe::named("next", &log, pool.reserve());
    assert!(one.is_pending() && next.is_pending());
    drop(slot);
    assert_eq!(
        (log.take(), counts(&pool)),
        (vec!["next".to_owned()], (1, 1)),
        "no task ended"
    );
}

#[test]
fn dropping_a_busy_pool_cancels_its_tasks_at_once_in_the_order_they_started() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 5);
    let log = Log::default();
    let gates: Vec<_> = (0..5).map(|_| Gate::new()).collect();
    for (number, gate) in gates.iter().enumerate() {
        let noted = log.clone();
        start(
            &pool,
            FreedAtTheEnd::new(gate.clone(), move || noted.note(number)),
        );
        // Ends of the first ones leave gaps that later tasks fill: the order must not follow the gaps.
        if number == 2 {
            gates[0].open(Ok(()));
            hand.run_until_stalled();
            assert_eq!(log.take(), ["0"]);
        }
    }
    let clone = pool.clone();
    drop(pool);
    assert_eq!(
        (log.take(), clone.busy()),
        (vec![], 4),
        "not the last handle"
    );
    drop(clone);
    assert_eq!(log.take(), ["1", "2", "3", "4"]);
    // Late completions touch nothing.
    gates[1].open(Ok(()));
    hand.run_until_stalled();
    assert_eq!((log.take(), gates[1].polls()), (vec![], 1));
}

#[test]
fn nothing_of_a_dropped_pool_stays_in_its_context() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 2);
    let alive = Rc::new(());
    for _ in 0..2 {
        let (gate, alive) = (Gate::new(), Rc::clone(&alive));
        start(&pool, async move {
            let _alive = alive;
            gate.await
        });
    }
    assert_eq!(Rc::strong_count(&alive), 3);
    drop(pool);
    assert_eq!(
        Rc::strong_count(&alive),
        1,
        "freed by the drop, before the context ran"
    );
    assert_eq!(hand.run_until_stalled(), 2, "the two empty shells end");
    assert_eq!(hand.run_until_stalled(), 0);
}

#[test]
fn a_task_that_holds_a_handle_keeps_the_pool_until_it_ends() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 2);
    let log = Log::default();
    let (gate, handle, noted) = (Gate::new(), pool.clone(), log.clone());
    let opened = gate.clone();
    start(&pool, async move {
        let result = opened.await;
        noted.note(format!("still {} busy", handle.busy()));
        result
    });
    let noted = log.clone();
    start(
        &pool,
        FreedAtTheEnd::new(Gate::new(), move || noted.note("other cancelled")),
    );
    drop(pool);
    assert_eq!(log.take(), [""; 0]);
    gate.open(Ok(()));
    hand.run_until_stalled();
    assert_eq!(log.take(), ["still 2 busy", "other cancelled"]);
}

#[test]
fn no_cycle_keeps_a_pool_whose_task_holds_it_beyond_its_context() {
    let alive = Rc::new(());
    {
        let context = context();
        let pool = pool(&context, 1);
        let (handle, alive, gate) = (pool.clone(), Rc::clone(&alive), Gate::new());
        start(&pool, async move {
            let _both = (handle, alive);
            gate.await
        });
    }
    assert_eq!(Rc::strong_count(&alive), 1);
}

#[test]
fn a_slot_outlives_its_pool_and_starts_nothing() {
    let context = context();
    let hand = context.by_hand();
    let pool = pool(&context, 1);
    let slot = pool.try_reserve().expect("it is free");
    let unused = pool.try_reserve();
    assert!(unused.is_none());
    drop(pool);
    let (task, dropped) = (Gate::new(), Rc::new(Cell::new(false)));
    let noted = Rc::clone(&dropped);
    let started = slot.start(FreedAtTheEnd::new(task.clone(), move || noted.set(true)));
    assert_eq!(started, Err(NotDriven), "an index would name nothing");
    assert!(dropped.get());
    assert_eq!((task.polls(), hand.run_until_stalled()), (0, 0));
}

#[test]
fn a_cancelled_tasks_slot_is_dropped_with_it() {
    let context = context();
    let _hand = context.by_hand();
    let pool = pool(&context, 2);
    let slot = pool.try_reserve().expect("it is free");
    let freed = Rc::new(Cell::new(false));
    let noted = Rc::clone(&freed);
    let gate = Gate::new();
    start(&pool, async move {
        let _slot = slot;
        let _noted = OnDrop(move || noted.set(true));
        gate.await
    });
    assert_eq!(counts(&pool), (1, 1));
    drop(pool);
    assert!(freed.get());
}

#[test]
fn memory_of_io_that_is_under_way_lives_until_the_io_is_over_though_its_pool_is_gone() {
    let context = context();
    let _hand = context.by_hand();
    let pool = pool(&context, 1);
    let workers = WorkerPool::new(NonZeroUsize::MIN);
    let buffer = Arc::new(vec![7_u8; 4096]);
    let (io_may_end, io) = mpsc::channel::<()>();
    let (in_flight, running) = (Arc::clone(&buffer), workers.clone());
    start(&pool, async move {
        let io = running.run(move || {
            let _ = io.recv();
            in_flight.len()
        });
        io.await.map(|_| ()).map_err(|_| "the worker failed")
    });
    drop(pool);
    assert_eq!(Arc::strong_count(&buffer), 2, "the I/O still owns it");
    drop(io_may_end);
    workers.shutdown();
    assert_eq!(Arc::strong_count(&buffer), 1);
}
