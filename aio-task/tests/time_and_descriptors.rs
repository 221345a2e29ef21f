//! Timers on a clock that is moved by hand, and readiness of descriptors.
use std::cell::RefCell;
use std::fs::File;
use std::future::pending;
use std::io::{self, Write, pipe};
use std::rc::Rc;
use std::time::{Duration, Instant};

use aio_task::{AioContext, CondvarReactor, ManualClock, TimedOut};
use futures::FutureExt;
use futures::task::noop_waker_ref;

const SECOND: Duration = Duration::from_secs(1);

fn stepped() -> (AioContext, ManualClock) {
    let clock = ManualClock::new();
    (AioContext::builder().clock(&clock).build().unwrap(), clock)
}

#[test]
fn timers_fire_in_the_order_of_their_moments_and_only_when_the_clock_is_there() {
    let (context, clock) = stepped();
    let handle = context.handle();
    let fired = Rc::new(RefCell::new(Vec::new()));
    for seconds in [3, 1, 2, 1] {
        let (fired, sleep) = (fired.clone(), handle.sleep(seconds * SECOND));
        handle
            .spawn(async move {
                sleep.await;
                fired.borrow_mut().push(seconds);
            })
            .detach();
    }
    let hand = context.by_hand();
    hand.run_until_stalled();
    assert!(fired.borrow().is_empty());
    clock.advance(SECOND - Duration::from_nanos(1));
    assert!(!hand.step(), "a timer fired too early");
    clock.advance(Duration::from_nanos(1));
    hand.run_until_stalled();
    assert_eq!(*fired.borrow(), [1, 1]);
    clock.advance(10 * SECOND);
    hand.run_until_stalled();
    assert_eq!(*fired.borrow(), [1, 1, 2, 3]);
}

#[test]
fn a_timeout_ends_a_future_that_is_late_and_lets_one_pass_that_is_ready() {
    let (context, clock) = stepped();
    let handle = context.handle();
    let late = handle.spawn(handle.timeout(SECOND, pending::<()>()));
    let ready = handle.spawn(handle.timeout(Duration::ZERO, async { 5 }));
    let hand = context.by_hand();
    hand.run_until_stalled();
    assert!(!late.is_finished() && ready.is_finished());
    clock.advance(SECOND);
    hand.run_until_stalled();
    drop(hand);
    assert_eq!(context.block_on(late).unwrap(), Err(TimedOut));
    assert_eq!(context.block_on(ready).unwrap(), Ok(5));
}

#[test]
fn a_sleep_of_zero_is_over_at_once_one_beyond_the_end_of_time_never() {
    let (context, clock) = stepped();
    let handle = context.handle();
    context.block_on(handle.sleep(Duration::ZERO));
    context.block_on(handle.sleep_until(clock.now()));
    let never = handle.spawn(handle.sleep(Duration::MAX));
    clock.advance(Duration::from_secs(1 << 40));
    context.by_hand().run_until_stalled();
    assert!(!never.is_finished());
}

#[test]
fn a_dropped_sleep_leaves_nothing_that_wakes_anyone() {
    let (context, clock) = stepped();
    let handle = context.handle();
    let sleeping = handle.spawn(handle.sleep(SECOND));
    let hand = context.by_hand();
    hand.run_until_stalled();
    drop(sleeping);
    hand.run_until_stalled();
    clock.advance(2 * SECOND);
    assert_eq!(hand.run_until_stalled(), 0);
}

#[test]
fn the_monotonic_clock_ends_a_sleep_of_the_thread_not_before_its_moment() {
    for reactor in [true, false] {
        let builder = AioContext::builder();
        let builder = if reactor {
            builder
        } else {
            builder.reactor(CondvarReactor::new())
        };
        let context = builder.build().unwrap();
        let from = Instant::now();
        context.block_on(context.handle().sleep(Duration::from_micros(1500)));
        assert!(from.elapsed() >= Duration::from_micros(1500));
    }
}

#[test]
fn a_sleep_whose_context_has_gone_is_over() {
    let context = AioContext::new().unwrap();
    let mut sleep = context.handle().sleep(100 * SECOND);
    let mut cx = std::task::Context::from_waker(noop_waker_ref());
    assert!(sleep.poll_unpin(&mut cx).is_pending());
    drop(context);
    assert!(sleep.poll_unpin(&mut cx).is_ready());
}

#[test]
fn a_pipe_is_readable_when_bytes_or_its_end_have_come() {
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    let (reader, mut writer) = pipe().unwrap();
    let readable = handle.spawn(handle.readable(&reader));
    let hand = context.by_hand();
    hand.run_until_stalled();
    assert!(!readable.is_finished(), "an empty pipe would block");
    writer.write_all(b"x").unwrap();
    hand.run_until_stalled();
    assert!(readable.is_finished());
    drop(hand);
    context.block_on(readable).unwrap().unwrap();
    context.block_on(handle.readable(&reader)).unwrap();

    let (reader, writer) = pipe().unwrap();
    let at_end = handle.spawn(handle.readable(&reader));
    context.by_hand().run_until_stalled();
    drop(writer);
    context.block_on(at_end).unwrap().unwrap();
}

#[test]
fn a_pipe_is_writable_while_it_has_room() {
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    let (reader, mut writer) = pipe().unwrap();
    context.block_on(handle.writable(&writer)).unwrap();
    writer.write_all(&[0; 65536]).unwrap(); // the kernel's default room
    let room = handle.spawn(handle.writable(&writer));
    context.by_hand().run_until_stalled();
    assert!(!room.is_finished(), "a full pipe would block");
    drop(reader);
    context.block_on(room).unwrap().unwrap(); // an error is there to be fetched
}

#[test]
fn both_directions_and_several_waits_for_one_descriptor_stand_beside_each_other() {
    let context = AioContext::new().unwrap();
    let handle = context.handle();
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let first = handle.spawn(handle.readable(&ours));
    let second = handle.spawn(handle.readable(&ours));
    let writable = handle.spawn(handle.writable(&ours));
    let given_up = handle.spawn(handle.readable(&ours));
    let hand = context.by_hand();
    hand.run_until_stalled();
    assert!(writable.is_finished() && !first.is_finished() && !second.is_finished());
    drop(given_up);
    hand.run_until_stalled();
    theirs.write_all(b"x").unwrap();
    drop(ours); // the waits have duplicates
    hand.run_until_stalled();
    assert!(first.is_finished() && second.is_finished());
}

#[test]
fn a_regular_file_is_always_ready() {
    let context = AioContext::new().unwrap();
    let file = File::open("/proc/self/exe").unwrap();
    context.block_on(context.handle().readable(&file)).unwrap();
}

#[test]
fn a_reactor_without_descriptors_refuses_them_with_an_error() {
    let context = AioContext::builder()
        .reactor(CondvarReactor::new())
        .build()
        .unwrap();
    let (reader, _writer) = pipe().unwrap();
    let error = context
        .block_on(context.handle().readable(&reader))
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
}

#[test]
fn a_wait_for_a_descriptor_whose_context_has_gone_is_an_error() {
    let context = AioContext::new().unwrap();
    let (reader, _writer) = pipe().unwrap();
    let mut readable = context.handle().readable(&reader);
    let mut cx = std::task::Context::from_waker(noop_waker_ref());
    assert!(readable.poll_unpin(&mut cx).is_pending());
    drop(context);
    assert!(matches!(
        readable.poll_unpin(&mut cx),
        std::task::Poll::Ready(Err(_))
    ));
}
