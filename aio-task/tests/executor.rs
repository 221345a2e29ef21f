//! One thread's executor: what runs when, what a drop does, and who is told.
use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::thread;

use aio_task::edge::slot;
use aio_task::{AioContext, JoinError};
use futures::task::{LocalSpawn, LocalSpawnExt};

/// Counts how often it is dropped, and on which thread.
struct Mark(Rc<RefCell<Vec<thread::ThreadId>>>);

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.borrow_mut().push(thread::current().id());
    }
}

/// A future that gives way once to everyone who is queued.
async fn give_way() {
    let mut first = true;
    poll_fn(|cx| {
        if std::mem::take(&mut first) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

#[test]
fn spawn_queues_at_the_end_and_never_polls_inside_the_call() {
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    let order = Rc::new(RefCell::new(Vec::new()));
    for n in 0..3 {
        let order = order.clone();
        handle
            .spawn(async move { order.borrow_mut().push(n) })
            .detach();
    }
    assert!(order.borrow().is_empty(), "spawn polled a task");
    assert_eq!(context.by_hand().run_until_stalled(), 3);
    assert_eq!(*order.borrow(), [0, 1, 2]);
}

#[test]
#[cfg_attr(
    miri,
    ignore = "a future that borrows from itself, see docs/VERIFICATION.md"
)]
fn block_on_returns_when_its_future_is_ready_and_leaves_the_other_tasks_for_the_next_one() {
    let context = AioContext::new().unwrap();
    let steps = Rc::new(Cell::new(0));
    let seen = steps.clone();
    let task = context.handle().spawn(async move {
        for _ in 0..1000 {
            seen.set(seen.get() + 1);
            give_way().await;
        }
        "done"
    });
    assert_eq!(context.block_on(async { 7 }), 7);
    assert!(
        steps.get() < 1000,
        "the task was finished although no task waited for it"
    );
    assert_eq!(context.block_on(task).unwrap(), "done");
    assert_eq!(steps.get(), 1000);
}

#[test]
fn block_on_inside_the_same_context_panics_with_a_message_that_names_it() {
    let context = Rc::new(AioContext::new().unwrap());
    let inner = context.clone();
    let task = context
        .handle()
        .spawn(async move { inner.block_on(async {}) });
    let Err(JoinError::Panicked(payload)) = context.block_on(task) else {
        panic!("the nested call returned")
    };
    let text = payload.downcast_ref::<&str>().copied().unwrap_or_default();
    assert!(
        text.contains("block_on") && text.contains("inside the same context"),
        "{text}"
    );

    let caught = catch_unwind(AssertUnwindSafe(|| {
        context.block_on(async { context.block_on(async {}) })
    }));
    assert!(caught.is_err(), "block_on's own future may not nest either");
    assert_eq!(
        context.block_on(async { 1 }),
        1,
        "a caught misuse leaves the context usable"
    );
}

#[test]
fn block_on_of_another_context_nests() {
    let outer = AioContext::new().unwrap();
    let inner = AioContext::new().unwrap();
    assert_eq!(outer.block_on(async { inner.block_on(async { 3 }) }), 3);
}

#[test]
fn dropping_the_context_drops_every_future_on_its_own_thread() {
    let context = AioContext::new().unwrap();
    let drops = Rc::new(RefCell::new(Vec::new()));
    let (completer, completion) = slot::<()>();
    let waiting = Mark(drops.clone());
    let on_another_thread = context.handle().spawn(async move {
        let _ = completion.await;
        drop(waiting);
    });
    let queued = Mark(drops.clone());
    let never_polled = context.handle().spawn(async move { drop(queued) });
    let mark = Mark(drops.clone());
    context
        .handle()
        .spawn(async move {
            let _mark = mark;
            pending::<()>().await;
        })
        .detach();
    assert!(context.by_hand().step(), "one task has begun, two have not");
    // The wake-ups of another thread race with the drop.
    let waker = thread::spawn(move || completer.complete(()));
    drop(context);
    assert_eq!(*drops.borrow(), [thread::current().id(); 3]);
    waker.join().unwrap();
    assert!(matches!(
        futures::executor::block_on(on_another_thread),
        Err(JoinError::Cancelled)
    ));
    assert!(matches!(
        futures::executor::block_on(never_polled),
        Err(JoinError::Cancelled)
    ));
}

#[test]
fn a_wake_after_the_context_has_gone_is_harmless_from_any_thread() {
    let context = AioContext::new().unwrap();
    let kept: Rc<RefCell<Option<Waker>>> = Rc::default();
    let keep = kept.clone();
    context
        .handle()
        .spawn(poll_fn(move |cx| {
            *keep.borrow_mut() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }))
        .detach();
    context.by_hand().run_until_stalled();
    drop(context);
    let waker = kept.borrow_mut().take().expect("the task was polled");
    waker.wake_by_ref();
    thread::spawn(move || waker.wake()).join().unwrap();
}

#[test]
fn a_future_that_spawns_while_the_context_is_dropped_gets_a_cancelled_handle() {
    struct SpawnsOnDrop(aio_task::AioHandle, Rc<Cell<bool>>);
    impl Drop for SpawnsOnDrop {
        fn drop(&mut self) {
            let handle = self.0.spawn(async {});
            let result = futures::executor::block_on(handle);
            self.1.set(matches!(result, Err(JoinError::Cancelled)));
        }
    }
    let context = AioContext::new().unwrap();
    let refused = Rc::new(Cell::new(false));
    let guard = SpawnsOnDrop(context.handle(), refused.clone());
    context.handle().spawn(async move { drop(guard) }).detach();
    drop(context);
    assert!(refused.get());
}

#[test]
fn a_context_dropped_by_its_own_task_does_not_wait_for_that_task() {
    // A first poll inside `spawn_now` needs no driver, so a task can own its context and drop it.
    for ends in [true, false] {
        let context = AioContext::new().unwrap();
        let handle = context.handle();
        let other = handle.spawn(pending::<()>());
        let drops = Rc::new(RefCell::new(Vec::new()));
        let mark = Mark(drops.clone());
        let owner = handle.spawn_now(async move {
            let _mark = mark;
            drop(context);
            if !ends {
                pending::<()>().await;
            }
        });
        assert_eq!(
            drops.borrow().len(),
            1,
            "the task went when its poll returned"
        );
        let owner = futures::executor::block_on(owner);
        assert_eq!(owner.is_ok(), ends);
        assert!(matches!(
            futures::executor::block_on(other),
            Err(JoinError::Cancelled)
        ));
        let late = futures::executor::block_on(handle.spawn(async {}));
        assert!(matches!(late, Err(JoinError::Cancelled)));
    }
}

#[test]
#[cfg_attr(
    miri,
    ignore = "a future that borrows from itself, see docs/VERIFICATION.md"
)]
fn spawn_now_polls_once_inside_the_call_and_queues_only_what_is_woken() {
    let context = AioContext::new().unwrap();
    let steps = Rc::new(Cell::new(0));
    let seen = steps.clone();
    let task = context.handle().spawn_now(async move {
        seen.set(1);
        give_way().await;
        seen.set(2);
    });
    assert_eq!(steps.get(), 1, "its own wake-up is for the run queue");
    assert_eq!(context.by_hand().run_until_stalled(), 1);
    assert!(task.is_finished() && steps.get() == 2);
}

#[test]
#[cfg_attr(
    miri,
    ignore = "a future that borrows from itself, see docs/VERIFICATION.md"
)]
fn a_task_that_wakes_itself_for_ever_does_not_starve_a_remote_completion() {
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    handle
        .spawn(async {
            loop {
                give_way().await;
            }
        })
        .detach();
    let (completer, completion) = slot();
    let waiter = handle.spawn(completion);
    let hand = context.by_hand();
    for _ in 0..4 {
        assert!(hand.step(), "the busy task is always runnable");
    }
    assert!(!waiter.is_finished());
    thread::spawn(move || completer.complete(5)).join().unwrap();
    assert!(
        hand.step() && hand.step(),
        "one turn of the busy task, one of the waiter"
    );
    assert!(
        waiter.is_finished(),
        "the completion was not seen within two steps"
    );
    drop(hand);
    assert_eq!(
        context.block_on(waiter).unwrap(),
        Ok(5),
        "block_on's own future has its turn beside the busy task"
    );
}

#[test]
#[cfg_attr(
    miri,
    ignore = "a future that borrows from itself, see docs/VERIFICATION.md"
)]
fn block_on_sees_a_remote_completion_beside_a_task_that_never_rests() {
    let context = AioContext::new().unwrap();
    context
        .handle()
        .spawn(async {
            loop {
                give_way().await;
            }
        })
        .detach();
    let (completer, completion) = slot();
    let sender = thread::spawn(move || completer.complete(9));
    assert_eq!(context.block_on(completion), Ok(9));
    sender.join().unwrap();
}

#[test]
fn a_remote_wake_ends_the_sleep_of_block_on() {
    let context = AioContext::new().unwrap();
    for n in 0..if cfg!(miri) { 5 } else { 200 } {
        let (completer, completion) = slot();
        let sender = thread::spawn(move || completer.complete(n));
        assert_eq!(context.block_on(completion), Ok(n));
        sender.join().unwrap();
    }
}

#[test]
fn a_panic_of_a_task_reaches_its_handle_and_the_others_go_on() {
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    let bad = handle.spawn(poll_fn(|_| -> Poll<()> { panic!("bad buffer") }));
    let good = handle.spawn(async { 1 });
    let (bad, good) = context.block_on(async { (bad.await, good.await) });
    let Err(JoinError::Panicked(payload)) = bad else {
        panic!("the panic was lost")
    };
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"bad buffer"));
    assert_eq!(good.unwrap(), 1);
}

#[test]
fn a_panic_in_a_futures_destructor_does_not_end_the_process() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic!("destructor");
            }
        }
    }
    let context = AioContext::new().unwrap();
    let bomb = Bomb;
    let ends = context.handle().spawn(poll_fn(move |_| {
        let _ = &bomb;
        Poll::Ready(1)
    }));
    assert!(matches!(
        context.block_on(ends),
        Err(JoinError::Panicked(_))
    ));
    let bomb = Bomb;
    context
        .handle()
        .spawn(async move {
            let _bomb = bomb;
            pending::<()>().await
        })
        .detach();
    context.by_hand().run_until_stalled();
    drop(context);
}

#[test]
fn dropping_the_join_handle_cancels_the_task_in_the_next_turn() {
    let context = AioContext::new().unwrap();
    let drops = Rc::new(RefCell::new(Vec::new()));
    let mark = Mark(drops.clone());
    let handle = context.handle().spawn(async move {
        let _mark = mark;
        pending::<()>().await;
    });
    let hand = context.by_hand();
    hand.run_until_stalled();
    drop(handle);
    assert!(drops.borrow().is_empty());
    hand.run_until_stalled();
    assert_eq!(drops.borrow().len(), 1);
}

#[test]
fn submitted_jobs_run_on_the_contexts_thread_in_their_order_and_a_panic_of_one_is_caught() {
    let context = AioContext::new().unwrap();
    let remote = context.remote();
    let home = thread::current().id();
    let (completer, completion) = slot();
    thread::spawn(move || {
        remote.submit(|_| panic!("first job")).unwrap();
        remote
            .submit(move |handle| {
                let spawned = handle.spawn(async move { assert_eq!(thread::current().id(), home) });
                spawned.detach();
                completer.complete(thread::current().id());
            })
            .unwrap();
    })
    .join()
    .unwrap();
    assert_eq!(context.block_on(completion), Ok(home));
    let remote = context.remote();
    drop(context);
    remote
        .submit(|_| ())
        .expect_err("a job for a context that has gone is refused");
    remote.wake();
}

#[test]
fn the_handle_is_a_futures_local_spawner_and_says_when_its_context_has_gone() {
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    let task = handle.spawn_local_with_handle(async { 4 }).unwrap();
    assert_eq!(context.block_on(task), 4);
    drop(context);
    assert!(handle.status_local().is_err());
    assert!(handle.spawn_local(async {}).is_err());
}

#[test]
fn a_step_from_inside_the_context_does_nothing() {
    let context = Rc::new(AioContext::new().unwrap());
    let inner = context.clone();
    let stepped = context
        .handle()
        .spawn(async move { inner.by_hand().step() });
    context.handle().spawn(async {}).detach();
    assert!(!context.block_on(stepped).unwrap());
}

/// A payload whose own drop panics.
struct Spiteful;

impl Drop for Spiteful {
    fn drop(&mut self) {
        std::panic::panic_any("of the payload");
    }
}

/// Panics with it when dropped.
struct Fuse;

impl Drop for Fuse {
    fn drop(&mut self) {
        std::panic::panic_any(Spiteful);
    }
}

#[test]
#[cfg_attr(miri, ignore = "leaks on purpose, see docs/VERIFICATION.md")]
fn a_payload_that_panics_when_it_is_dropped_ends_neither_the_context_nor_the_process() {
    let context = AioContext::new().unwrap();
    let job = |_: &aio_task::AioHandle| std::panic::panic_any(Spiteful);
    context.remote().submit(job).unwrap();
    let cancelled = context.handle().spawn({
        let fuse = Fuse;
        async move {
            let _fuse = fuse;
            pending::<()>().await
        }
    });
    drop(cancelled);
    let fuse = Fuse;
    let twice = context.handle().spawn(poll_fn(move |_| -> Poll<()> {
        let _freed_after_the_poll = &fuse;
        std::panic::panic_any("of the poll")
    }));
    let error = context.block_on(twice).unwrap_err();
    let JoinError::Panicked(payload) = error else {
        panic!("{error}");
    };
    assert_eq!(payload.downcast_ref(), Some(&"of the poll"));
    let unused = Fuse;
    context.remote().submit(move |_| drop(unused)).unwrap();
    drop(context); // with the job in its inbox
}
