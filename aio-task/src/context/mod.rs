//! QEMU's AioContext.
use std::any::Any;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::{Interest, ManualClock, Reactor};

macro_rules! future {
    ($name:ident [$($g:tt)*] [$($a:tt)*] $out:ty) => {
        impl<$($g)*> Future for $name<$($a)*> {
            type Output = $out;
            fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> { todo!() }
        }
    };
}

/// The owner.
#[derive(Debug)]
pub struct AioContext(PhantomData<*mut ()>);
#[allow(missing_docs)]
impl AioContext {
    pub fn new() -> io::Result<Self> {
        todo!()
    }
    pub fn builder() -> Builder {
        todo!()
    }
    pub fn handle(&self) -> AioHandle {
        todo!()
    }
    pub fn remote(&self) -> RemoteHandle {
        todo!()
    }
    pub fn block_on<F: Future>(&self, _f: F) -> F::Output {
        todo!()
    }
    pub fn drive(&self) -> Drive<'_> {
        todo!()
    }
    pub fn by_hand(&self) -> ByHand<'_> {
        todo!()
    }
}
/// Options.
#[derive(Debug)]
pub struct Builder(PhantomData<*mut ()>);
#[allow(missing_docs)]
impl Builder {
    pub fn reactor(self, _r: impl Reactor + 'static) -> Self {
        todo!()
    }
    pub fn clock(self, _c: &ManualClock) -> Self {
        todo!()
    }
    pub fn build(self) -> io::Result<AioContext> {
        todo!()
    }
}
/// Hosted.
#[derive(Debug)]
pub struct Drive<'a>(PhantomData<&'a *mut ()>);
future!(Drive ['a] ['a] ());
/// Stepping.
#[derive(Debug)]
pub struct ByHand<'a>(PhantomData<&'a *mut ()>);
#[allow(missing_docs)]
impl ByHand<'_> {
    pub fn step(&self) -> bool {
        todo!()
    }
    pub fn run_until_stalled(&self) -> usize {
        todo!()
    }
}
/// Weak.
#[derive(Clone, Debug)]
pub struct AioHandle(PhantomData<*mut ()>);
#[allow(missing_docs)]
impl AioHandle {
    pub fn spawn<F: Future + 'static>(&self, _f: F) -> JoinHandle<F::Output> {
        todo!()
    }
    pub fn is_driven(&self) -> bool {
        todo!()
    }
    pub fn while_driven<F: Future>(&self, _f: F) -> WhileDriven<F> {
        todo!()
    }
    pub fn remote(&self) -> RemoteHandle {
        todo!()
    }
    pub fn now(&self) -> Instant {
        todo!()
    }
    pub fn sleep_until(&self, _at: Instant) -> Sleep {
        todo!()
    }
    pub fn sleep(&self, _d: Duration) -> Sleep {
        todo!()
    }
    pub fn timeout<F: Future>(&self, _d: Duration, _f: F) -> Timeout<F> {
        todo!()
    }
    pub fn readable<Fd: AsFd>(&self, _fd: Fd) -> Readiness<Fd> {
        let _ = Interest::Readable;
        todo!()
    }
    pub fn writable<Fd: AsFd>(&self, _fd: Fd) -> Readiness<Fd> {
        todo!()
    }
    pub fn stop_drive(&self) {
        todo!()
    }

    /// Whether the context has been dropped (or is being dropped): nothing can be started on it.
    pub(crate) fn is_closed(&self) -> bool {
        todo!()
    }
    /// Makes a task without queueing it. `Err` gives the future back: the context has gone.
    /// The task is detached: only the pool's own cell can end it early. A panic of the future is caught and dropped.
    pub(crate) fn spawn_inline<F: Future<Output = ()> + 'static>(
        &self,
        _f: F,
    ) -> Result<InlineTask, F> {
        todo!()
    }
    /// Counts one more inline poll on this stack until the guard is dropped.
    pub(crate) fn enter_inline(&self) -> InlineDepth {
        todo!()
    }
    /// The pool task now being polled on this context (a pool's address), until the guard is dropped.
    pub(crate) fn enter_marker(&self, _marker: usize) -> MarkerGuard {
        todo!()
    }
    pub(crate) fn top_marker(&self) -> Option<usize> {
        todo!()
    }
}
/// A task that was made and not yet queued. Dropping it unrun cancels the task: its future is dropped.
pub(crate) struct InlineTask(PhantomData<*mut ()>);
impl InlineTask {
    /// Polls the task once, on this stack. It is queued again by its own wakers only.
    pub(crate) fn run_now(self) {
        todo!()
    }
    /// Queues the task at the end, as `spawn` does.
    pub(crate) fn schedule(self) {
        todo!()
    }
}
pub(crate) struct InlineDepth(PhantomData<*mut ()>);
impl InlineDepth {
    /// How many inline polls are on the stack, this one included (1 = the outermost).
    pub(crate) fn depth(&self) -> usize {
        todo!()
    }
}
pub(crate) struct MarkerGuard(PhantomData<*mut ()>);
/// Task.
#[derive(Debug)]
pub struct JoinHandle<T>(PhantomData<T>);
#[allow(missing_docs)]
impl<T> JoinHandle<T> {
    pub fn detach(self) {
        todo!()
    }
}
future!(JoinHandle [T] [T] Result<T, JoinError>);
/// Why a task has no output.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum JoinError {
    Cancelled,
    Panicked(Box<dyn Any + Send>),
}
/// Waits while driven.
#[derive(Debug)]
pub struct WhileDriven<F>(PhantomData<F>);
future!(WhileDriven [F: Future] [F] Result<F::Output, NotDriven>);
/// Sleeps.
#[derive(Debug)]
pub struct Sleep(PhantomData<*mut ()>);
impl Future for Sleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        todo!()
    }
}
/// Limits.
#[derive(Debug)]
pub struct Timeout<F>(PhantomData<F>);
future!(Timeout [F: Future] [F] Result<F::Output, TimedOut>);
/// Readiness.
#[derive(Debug)]
pub struct Readiness<Fd>(PhantomData<Fd>);
future!(Readiness [Fd: AsFd] [Fd] io::Result<()>);
/// Nobody drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotDriven;
/// Limit passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;
/// Closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;
/// Remote.
#[derive(Clone, Debug)]
pub struct RemoteHandle(());
#[allow(missing_docs)]
impl RemoteHandle {
    pub fn submit(&self, _f: impl FnOnce(&AioHandle) + Send + 'static) -> Result<(), Closed> {
        todo!()
    }
    pub fn wake(&self) {
        todo!()
    }
}
