//! A context inside another executor, and waits that need a driver.
use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::io::{Write, pipe};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use aio_task::edge::slot;
use aio_task::{AioContext, CondvarReactor, ManualClock, NotDriven, WorkerPool};
use futures::executor::block_on;
use futures::future::join;

/// Hosts `context` in the futures crate's executor until `work` is done.
fn host<F: Future>(context: &AioContext, work: F) -> F::Output {
    let handle = context.handle();
    let work = async move {
        let output = work.await;
        handle.stop_drive();
        output
    };
    block_on(join(context.drive(), work)).1
}

/// Counts wake-ups.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn hosted_tasks_run_beside_the_callers_code() {
    let context = AioContext::new().unwrap();
    let task = context.handle().spawn(async { 6 });
    assert_eq!(host(&context, task).unwrap(), 6);
}

#[test]
fn a_task_that_the_callers_code_wakes_runs_although_nothing_else_happens() {
    // The wake-up is a local one: neither inbox nor notifier see it.
    let context = AioContext::new().unwrap();
    let (tell, told) = futures::channel::oneshot::channel::<u8>();
    let task = context.handle().spawn(told);
    let work = async {
        for _ in 0..3 {
            give_way().await; // the drive has been polled and waits
        }
        tell.send(8).unwrap();
        task.await
    };
    assert_eq!(host(&context, work).unwrap(), Ok(8));
}

#[test]
fn remote_completions_reach_a_hosted_context() {
    let context = AioContext::new().unwrap();
    let pool = WorkerPool::new(NonZeroUsize::MIN);
    let task = context.handle().spawn({
        let pool = pool.clone();
        async move {
            let mut sum = 0;
            for n in 0..100 {
                sum += pool.run(move || n).await.unwrap();
            }
            sum
        }
    });
    assert_eq!(host(&context, task).unwrap(), 4950);
    pool.shutdown();
}

#[test]
fn timers_fire_while_hosted_with_and_without_descriptors() {
    for condvar in [false, true] {
        let builder = AioContext::builder();
        let builder = if condvar {
            builder.reactor(CondvarReactor::new())
        } else {
            builder
        };
        let context = builder.build().unwrap();
        let handle = context.handle();
        let task = context.handle().spawn(async move {
            // A later timer first, so that the watch has to be shortened.
            let long = handle.sleep(Duration::from_secs(3600));
            let short = async {
                for _ in 0..3 {
                    handle.sleep(Duration::from_millis(1)).await;
                }
            };
            futures::future::select(pin!(long), pin!(short)).await;
        });
        host(&context, task).unwrap();
    }
}

#[test]
fn a_timer_of_the_callers_own_code_fires_while_hosted() {
    let context = AioContext::new().unwrap();
    let sleep = context.handle().sleep(Duration::from_millis(1));
    host(&context, async move {
        give_way().await;
        sleep.await;
    });
}

#[test]
fn a_host_that_polls_a_timer_beside_its_drive_comes_to_rest() {
    let context = AioContext::new().unwrap();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    let mut drive = pin!(context.drive());
    let mut sleep = pin!(context.handle().sleep(Duration::from_secs(3600)));
    for _ in 0..5 {
        assert!(drive.as_mut().poll(&mut cx).is_pending());
        assert!(sleep.as_mut().poll(&mut cx).is_pending());
    }
    // The first poll of the timer wakes the host, which must have it watched. Later polls change nothing.
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
}

#[test]
fn a_clock_moved_by_the_callers_code_wakes_the_host() {
    let clock = ManualClock::new();
    let context = AioContext::builder().clock(&clock).build().unwrap();
    let handle = context.handle();
    let task = handle.spawn(handle.sleep(Duration::from_secs(5)));
    host(&context, async {
        for _ in 0..3 {
            give_way().await;
        }
        clock.advance(Duration::from_secs(5));
        task.await.unwrap();
    });
}

#[test]
fn a_clock_moved_by_a_task_of_a_hosted_context_ends_the_sleep_of_another() {
    let clock = ManualClock::new();
    let context = AioContext::builder().clock(&clock).build().unwrap();
    let handle = context.handle();
    let second = Duration::from_secs(1);
    let sleeper = handle.spawn(handle.sleep(second));
    let mover = async move { clock.advance(second) };
    handle.spawn(mover).detach();
    let (wakes, mut drive) = (Arc::new(Wakes::default()), pin!(context.drive()));
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(drive.as_mut().poll(&mut cx).is_pending());
    assert!(!sleeper.is_finished());
    let woken = wakes.0.load(Ordering::SeqCst);
    assert_eq!(woken, 1, "the host sleeps over a timer that is due");
    assert!(drive.as_mut().poll(&mut cx).is_pending());
    assert!(sleeper.is_finished());
}

#[test]
#[cfg_attr(miri, ignore = "needs epoll")]
fn descriptors_become_ready_while_hosted() {
    let context = AioContext::new().unwrap();
    let (reader, mut writer) = pipe().unwrap();
    let handle = context.handle();
    let task = handle.spawn(handle.readable(&reader));
    let sender = host(&context, async move {
        for _ in 0..3 {
            give_way().await;
        }
        let sender = thread::spawn(move || writer.write_all(b"x").unwrap());
        task.await.unwrap().unwrap();
        sender
    });
    sender.join().unwrap();
}

#[test]
#[cfg_attr(
    miri,
    ignore = "a future that borrows from itself, see docs/VERIFICATION.md"
)]
fn a_poll_of_the_drive_runs_a_bounded_number_of_tasks_and_comes_again() {
    let context = AioContext::new().unwrap();
    let runs = Rc::new(Cell::new(0));
    let count = runs.clone();
    context
        .handle()
        .spawn(async move {
            loop {
                count.set(count.get() + 1);
                give_way().await;
            }
        })
        .detach();
    let mut drive = pin!(context.drive());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    for polls in 1..=3 {
        assert!(
            drive
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        assert_eq!(
            (runs.get(), wakes.0.load(Ordering::SeqCst)),
            (61 * polls, polls)
        );
    }
}

#[test]
fn a_sleeping_hosts_waker_is_called_once_however_many_wake_ups_come() {
    let context = AioContext::builder()
        .reactor(CondvarReactor::new())
        .build()
        .unwrap();
    let mut drive = pin!(context.drive());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    assert!(
        drive
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    assert_eq!(
        wakes.0.load(Ordering::SeqCst),
        0,
        "nothing to do: the host sleeps"
    );
    let remote = context.remote();
    thread::spawn(move || (0..10).for_each(|_| remote.wake()))
        .join()
        .unwrap();
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
}

#[test]
fn block_on_beside_a_waiting_drive_gives_the_context_back_to_it() {
    let context = AioContext::new().unwrap();
    let mut drive = pin!(context.drive());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    assert!(
        drive
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    let (completer, completion) = slot();
    let sender = thread::spawn(move || completer.complete(1));
    assert_eq!(context.block_on(completion), Ok(1));
    sender.join().unwrap();
    assert!(
        wakes.0.load(Ordering::SeqCst) >= 1,
        "the host was not told that it drives again"
    );
}

#[test]
fn a_second_drive_takes_over_when_the_first_is_dropped() {
    let context = AioContext::new().unwrap();
    let mut waiting = pin!(context.drive());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    assert!(
        waiting
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    let dropped = context.drive();
    drop(dropped);
    assert!(
        wakes.0.load(Ordering::SeqCst) >= 1,
        "what the dropped one had taken would be lost"
    );
    assert!(context.handle().is_driven());
}

#[test]
fn block_on_drive_and_by_hand_count_as_drivers_while_they_last() {
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    assert!(!handle.is_driven());
    assert!(context.block_on(async { handle.is_driven() }));
    assert!(!handle.is_driven());
    let hand = context.by_hand();
    assert!(handle.is_driven());
    drop(hand);
    assert!(!handle.is_driven());
    let drive = context.drive();
    assert!(
        handle.is_driven(),
        "from its creation, not from its first poll"
    );
    handle.stop_drive();
    let mut drive = pin!(drive);
    block_on(drive.as_mut());
    assert!(!handle.is_driven(), "it has resolved");
}

#[test]
fn a_wait_on_a_context_that_is_not_driven_ends_with_not_driven() {
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    assert_eq!(
        block_on(handle.while_driven(pending::<()>())),
        Err(NotDriven)
    );
    assert_eq!(
        block_on(handle.while_driven(async { 1 })),
        Ok(1),
        "one that is ready does not wait"
    );
    drop(context);
    assert_eq!(
        block_on(handle.while_driven(pending::<()>())),
        Err(NotDriven)
    );
}

#[test]
fn a_wait_ends_with_not_driven_when_the_last_driver_goes_away_meanwhile() {
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    let drive = context.drive();
    let hand = context.by_hand();
    let mut wait = pin!(handle.while_driven(pending::<()>()));
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    assert_eq!(wait.as_mut().poll(&mut cx), Poll::Pending);
    drop(drive);
    assert_eq!(wakes.0.load(Ordering::SeqCst), 0, "another driver is left");
    drop(hand);
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1, "the waiter was not told");
    assert_eq!(wait.as_mut().poll(&mut cx), Poll::Ready(Err(NotDriven)));

    // The same with a real host: the drive is stopped, the wait beside it ends.
    let wait = handle.while_driven(pending::<()>());
    let stop = async {
        give_way().await;
        handle.stop_drive();
    };
    let (_, (result, ())) = block_on(join(context.drive(), join(wait, stop)));
    assert_eq!(result, Err(NotDriven));
}

/// A future that gives way once to everyone else in the host.
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
