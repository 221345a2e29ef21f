//! The thread that sleeps in a hosted context's stead: when it is there, when it leaves, and what happens without it.
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use aio_task::{AioContext, CondvarReactor, Reactor, Unpark, Watch};
use futures::executor::block_on;
use futures::future::join;

const HOUR: Duration = Duration::from_secs(3600);

/// A reactor without descriptors that tells when a watcher has gone.
struct Told {
    inner: CondvarReactor,
    gone: Sender<()>,
    may_watch: bool,
}

impl Reactor for Told {
    fn unparker(&self) -> Box<dyn Unpark> {
        self.inner.unparker()
    }

    fn park(&mut self, limit: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        self.inner.park(limit, ready)
    }

    fn watch(&self) -> io::Result<(Box<dyn Watch>, Box<dyn Unpark>)> {
        if !self.may_watch {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let (inner, bell) = self.inner.watch()?;
        let gone = self.gone.clone();
        Ok((Box::new(TellsItsEnd { inner, gone }), bell))
    }
}

/// Owned by the thread, so that it is dropped when the thread leaves.
struct TellsItsEnd {
    inner: Box<dyn Watch>,
    gone: Sender<()>,
}

impl Watch for TellsItsEnd {
    fn watch(&mut self, until: Option<Instant>) {
        self.inner.watch(until);
    }
}

impl Drop for TellsItsEnd {
    fn drop(&mut self) {
        let _ = self.gone.send(()); // no task listens if the test failed
    }
}

fn context(may_watch: bool) -> (AioContext, Receiver<()>) {
    let (gone, told) = channel();
    let reactor = Told {
        inner: CondvarReactor::new(),
        gone,
        may_watch,
    };
    (
        AioContext::builder().reactor(reactor).build().unwrap(),
        told,
    )
}

/// Hosts `context` until `work` is done.
fn host(context: &AioContext, work: impl Future) {
    let work = async {
        work.await;
        context.handle().stop_drive();
    };
    block_on(join(context.drive(), work));
}

#[test]
fn the_watcher_leaves_with_the_last_drive() {
    let (context, gone) = context(true);
    host(&context, context.handle().sleep(Duration::from_millis(1)));
    assert_eq!(gone.recv(), Ok(()));
    host(&context, context.handle().sleep(Duration::from_millis(1)));
    assert_eq!(gone.recv(), Ok(()), "the next host gets a new one");
    drop(context);
    assert_eq!(gone.recv(), Err(RecvError), "and there was no other");
}

#[test]
fn a_watcher_in_the_middle_of_a_long_watch_leaves_at_once() {
    let (context, gone) = context(true);
    context
        .handle()
        .spawn(context.handle().sleep(HOUR))
        .detach();
    {
        let mut drive = pin!(context.drive());
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(drive.as_mut().poll(&mut cx), Poll::Pending);
    }
    assert_eq!(gone.recv(), Ok(()), "it would be there for an hour");
}

#[test]
fn a_nearer_timer_shortens_a_watch_that_stands() {
    let (context, _gone) = context(true);
    let handle = context.handle();
    handle.spawn(handle.sleep(HOUR)).detach();
    let begun = Instant::now();
    host(&context, async {
        let mut drive_goes_first = false;
        std::future::poll_fn(|cx| match std::mem::replace(&mut drive_goes_first, true) {
            true => Poll::Ready(()),
            false => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await;
        handle.sleep(Duration::from_millis(1)).await;
    });
    assert!(begun.elapsed() < HOUR / 2);
}

#[test]
fn without_timers_no_thread_is_started() {
    let (context, gone) = context(true);
    let task = context.handle().spawn(async {});
    context.handle().spawn(pending::<()>()).detach();
    host(&context, task);
    drop(context);
    assert_eq!(gone.recv(), Err(RecvError));
}

#[test]
fn where_no_watcher_can_be_had_timers_fire_all_the_same() {
    let (context, gone) = context(false);
    host(&context, context.handle().sleep(Duration::from_millis(1)));
    drop(context);
    assert_eq!(gone.recv(), Err(RecvError), "there was none");
}
