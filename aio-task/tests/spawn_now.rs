//! Tasks that are polled once on their spawner's stack.

use aio_task::{AioContext, AioHandle, JoinError};
use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

#[test]
fn a_task_that_does_not_wait_has_ended_when_spawn_now_returns() {
    let context = AioContext::new().expect("a context");
    let task = context.handle().spawn_now(async { 7 });
    assert!(task.is_finished(), "the context is not driven");
    assert_eq!(context.block_on(task).ok(), Some(7));
}

#[test]
fn a_task_that_waits_runs_on_when_it_is_woken_and_detached() {
    let context = AioContext::new().expect("a context");
    let steps = Rc::new(Cell::new(0));
    let waker: Rc<RefCell<Option<Waker>>> = Rc::default();
    let task = context.handle().spawn_now({
        let (steps, waker) = (steps.clone(), waker.clone());
        poll_fn(move |cx| {
            steps.set(steps.get() + 1);
            *waker.borrow_mut() = Some(cx.waker().clone());
            if steps.get() == 3 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
    });
    assert_eq!(steps.get(), 1, "the first poll is in the call");
    task.detach();
    for expected in 2..=3 {
        waker.take().expect("was polled").wake();
        assert_eq!(steps.get(), expected - 1, "only the first poll is inline");
        context.by_hand().run_until_stalled();
        assert_eq!(steps.get(), expected);
    }
}

#[test]
fn a_panic_of_the_first_poll_is_in_the_handle() {
    let context = AioContext::new().expect("a context");
    let task = context.handle().spawn_now(async { panic!("at once") });
    let result: Result<(), JoinError> = context.block_on(task);
    assert!(matches!(result, Err(JoinError::Panicked(_))));
}

#[test]
fn a_task_of_a_context_that_has_gone_is_never_polled() {
    let context = AioContext::new().expect("a context");
    let handle = context.handle();
    let dropped = Rc::new(());
    drop(context);
    let task = handle.spawn_now({
        let dropped = dropped.clone();
        async move {
            let _dropped = dropped;
            pending::<()>().await
        }
    });
    assert!(task.is_finished());
    assert_eq!(Rc::strong_count(&dropped), 1, "the future is gone");
}

/// Each task spawns the next inside its first poll.
fn nest(handle: AioHandle, left: usize, polled: Rc<Cell<usize>>) {
    if left == 0 {
        return;
    }
    let task = handle.clone().spawn_now(async move {
        polled.set(polled.get() + 1);
        nest(handle, left - 1, polled);
    });
    task.detach();
}

#[test]
fn deep_nesting_goes_on_in_the_queue_and_not_on_the_stack() {
    let context = AioContext::new().expect("a context");
    let polled = Rc::new(Cell::new(0));
    let tasks = if cfg!(miri) { 200 } else { 100_000 };
    nest(context.handle(), tasks, polled.clone());
    assert_eq!(polled.get(), 64);
    context.by_hand().run_until_stalled();
    assert_eq!(polled.get(), tasks);
}
