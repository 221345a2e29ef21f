//! CoQueue: first come first served, and a wake that is not used passes on.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;

use aio_task::CoQueue;
use support::{Log, Probe, now};

#[test]
fn sleepers_are_woken_in_the_order_they_came() {
    let queue = CoQueue::new();
    let log = Log::default();
    let names = ["a", "b", "c"];
    let mut sleepers = names.map(|name| Probe::named(name, &log, queue.wait()));
    // Polled in another order than they came: the place was taken by the call.
    assert!(
        sleepers
            .iter_mut()
            .rev()
            .all(|sleeper| sleeper.is_pending())
    );
    for (woken, name) in names.iter().enumerate() {
        assert!(queue.wake_next());
        assert_eq!(log.take(), [*name]);
        assert_eq!(sleepers[woken].poll(), Poll::Ready(()));
        assert!(
            sleepers[woken + 1..]
                .iter_mut()
                .all(|sleeper| sleeper.is_pending())
        );
    }
    assert!(!queue.wake_next(), "none is left");
}

#[test]
fn a_wake_between_the_call_and_the_first_poll_is_not_lost() {
    let queue = CoQueue::new();
    let sleeper = queue.wait();
    assert!(queue.wake_next());
    now(sleeper);
}

#[test]
fn a_wake_with_no_task_in_line_is_not_kept() {
    let queue = CoQueue::new();
    assert!(!queue.wake_next());
    queue.wake_all();
    assert!(Probe::new(queue.wait(), || {}).is_pending());
}

#[test]
fn a_sleeper_dropped_after_its_wake_passes_it_on() {
    let queue = CoQueue::new();
    let log = Log::default();
    let mut sleepers = ["a", "b", "c"].map(|name| Probe::named(name, &log, queue.wait()));
    assert!(sleepers.iter_mut().all(|sleeper| sleeper.is_pending()));
    queue.wake_next();
    let [a, b, mut c] = sleepers;
    drop(a);
    assert_eq!(log.take(), ["a", "b"], "the wake of a went to b");
    drop(b);
    assert_eq!(log.take(), ["c"], "and from b to c");
    assert_eq!(c.poll(), Poll::Ready(()));
}

#[test]
fn a_sleeper_dropped_before_its_wake_takes_no_others_turn() {
    let queue = CoQueue::new();
    let log = Log::default();
    let mut sleepers = ["a", "b", "c"].map(|name| Probe::named(name, &log, queue.wait()));
    assert!(sleepers.iter_mut().all(|sleeper| sleeper.is_pending()));
    let [a, b, mut c] = sleepers;
    drop(b);
    drop(a);
    assert_eq!(log.take(), [""; 0], "nothing had been handed to them");
    assert!(queue.wake_next());
    assert_eq!(log.take(), ["c"]);
    assert_eq!(c.poll(), Poll::Ready(()));
}

#[test]
fn wake_all_wakes_those_in_line_in_order_and_no_latecomer() {
    let queue = Rc::new(CoQueue::new());
    let log = Log::default();
    let late = Rc::new(Cell::new(None));
    let (again, keep, noted) = (Rc::clone(&queue), Rc::clone(&late), log.clone());
    // The first to be woken makes a task join the line while the others are being woken.
    let mut a = Probe::new(queue.wait(), move || {
        noted.note("a");
        let again = Rc::clone(&again);
        let mut joined = Probe::named("late", &noted, async move { again.wait().await });
        assert!(joined.is_pending());
        keep.set(Some(joined));
    });
    let mut b = Probe::named("b", &log, queue.wait());
    assert!(a.is_pending() && b.is_pending());
    queue.wake_all();
    assert_eq!(log.take(), ["a", "b"]);
    drop(b);
    assert_eq!(
        log.take(),
        [""; 0],
        "a wake for all is everyone's own: b had nothing to pass on"
    );
    assert!(!queue.is_empty());
    let mut late = late.take().expect("the waker of a ran");
    assert!(late.is_pending());
    queue.wake_next();
    assert_eq!(late.poll(), Poll::Ready(()));
    assert!(queue.is_empty());
}

#[test]
fn the_latest_waker_is_the_one_that_is_called() {
    let queue = CoQueue::new();
    let log = Log::default();
    let shared = Rc::new(std::cell::RefCell::new(Box::pin(queue.wait())));
    let poll_shared = || {
        let shared = Rc::clone(&shared);
        std::future::poll_fn(move |cx| shared.borrow_mut().as_mut().poll(cx))
    };
    let mut early = Probe::named("early", &log, poll_shared());
    let mut late = Probe::named("late", &log, poll_shared());
    assert!(early.is_pending() && late.is_pending());
    queue.wake_next();
    assert_eq!(log.take(), ["late"]);
}
