use std::rc::Rc;
use std::task::Poll;

use aio_task::{NotDriven, WaitAllError, WaitOneError};

use super::support::{Gate, Probe, now};
use super::{context, counts, pool, start, start_waiting};

#[test]
fn a_call_that_would_have_to_wait_while_it_is_not_driven_says_so() {
    let context = context();
    let pool = pool(&context, 1);
    let _busy = start_waiting(&pool);
    assert_eq!(now(pool.start_task(Gate::new())), Err(NotDriven));
    assert_eq!(now(pool.reserve()).err(), Some(NotDriven));
    assert_eq!(now(pool.wait_slot()), Err(NotDriven));
    assert_eq!(now(pool.wait_one()), Err(WaitOneError::NotDriven));
    assert_eq!(now(pool.wait_all()), Err(WaitAllError::NotDriven));
    assert_eq!(counts(&pool), (1, 0), "none is left in line");
}

#[test]
fn a_call_that_need_not_wait_works_without_a_driver() {
    let context = context();
    let pool = pool(&context, 2);
    assert_eq!(now(pool.wait_slot()), Ok(()));
    let slot = now(pool.reserve()).expect("a free slot");
    assert_eq!(slot.start(async { Ok(()) }), Ok(0));
    assert_eq!(start(&pool, async { Ok(()) }), 1);
    assert_eq!(now(pool.wait_one()), Err(WaitOneError::NothingBusy));
    assert_eq!(now(pool.wait_all()), Ok(()));
}

#[test]
fn a_wait_ends_when_its_driver_goes_away() {
    let context = context();
    let pool = pool(&context, 1);
    let _busy = start_waiting(&pool);
    let woken = Rc::new(std::cell::Cell::new(0));
    let noted = Rc::clone(&woken);
    let hand = context.by_hand();
    let mut waiting = Probe::new(pool.wait_all(), move || noted.set(noted.get() + 1));
    assert!(waiting.is_pending());
    drop(hand);
    assert_eq!(woken.get(), 1, "it is told, it need not ask");
    assert_eq!(waiting.poll(), Poll::Ready(Err(WaitAllError::NotDriven)));
}

#[test]
fn tasks_of_a_context_that_goes_away_end_without_a_status() {
    let context = context();
    let pool = pool(&context, 2);
    let task = Gate::new();
    start(&pool, task.clone());
    let slot = pool.try_reserve().expect("it is free");
    drop(context);
    assert_eq!(counts(&pool), (0, 1));
    assert_eq!((pool.status(), pool.errors()), (None, 0));
    assert_eq!(now(pool.wait_one()), Err(WaitOneError::NothingBusy));
    assert_eq!(
        now(pool.wait_all()),
        Err(WaitAllError::NotDriven),
        "a slot is reserved"
    );
    drop(slot);
    assert_eq!(
        now(pool.wait_all()),
        Err(WaitAllError::NotDriven),
        "the task's work was not done: that is no success"
    );
}

#[test]
fn a_pool_whose_tasks_had_all_ended_is_clean_without_its_context() {
    let context = context();
    let pool = pool(&context, 2);
    start(&pool, async { Ok(()) });
    assert_eq!(counts(&pool), (0, 0));
    drop(context);
    assert_eq!(now(pool.wait_all()), Ok(()));
}

#[test]
fn nothing_starts_in_a_context_that_is_gone() {
    let context = context();
    let pool = pool(&context, 1);
    drop(context);
    let (task, alive) = (Gate::new(), Rc::new(()));
    let (polled, held) = (task.clone(), Rc::clone(&alive));
    let body = async move {
        let _held = held;
        polled.await
    };
    assert_eq!(now(pool.start_task(body)), Err(NotDriven));
    assert_eq!(
        (task.polls(), Rc::strong_count(&alive)),
        (0, 1),
        "dropped unpolled"
    );
    let slot = pool.try_reserve().expect("it is free");
    assert_eq!(slot.start(task.clone()), Err(NotDriven));
    assert_eq!((task.polls(), counts(&pool)), (0, (0, 0)));
}

#[test]
fn a_waiter_is_released_when_its_context_goes_away() {
    let context = context();
    let pool = pool(&context, 1);
    let _slot = pool.try_reserve().expect("it is free");
    let hand = context.by_hand();
    let mut waiting = Probe::new(pool.wait_all(), || {});
    assert!(waiting.is_pending());
    drop(hand);
    drop(context);
    assert_eq!(waiting.poll(), Poll::Ready(Err(WaitAllError::NotDriven)));
}
