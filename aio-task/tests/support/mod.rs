//! What the tests of the pool, the queue and the mutex share: futures that are opened by hand, futures that are polled
//! by hand, and a log.
#![allow(dead_code, unreachable_pub)] // no test file uses all of it

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// What happened, in order.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub fn note(&self, what: impl Display) {
        self.0.borrow_mut().push(what.to_string());
    }

    /// Everything noted since the last call.
    pub fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// A future that is ready once [`open`](Gate::open)ed, with the value given there. Clones are the same gate.
pub struct Gate<T>(Rc<GateState<T>>);

struct GateState<T> {
    value: Cell<Option<T>>,
    waker: Cell<Option<Waker>>,
    polls: Cell<usize>,
}

impl<T> Gate<T> {
    pub fn new() -> Self {
        Gate(Rc::new(GateState {
            value: Cell::new(None),
            waker: Cell::new(None),
            polls: Cell::new(0),
        }))
    }

    pub fn open(&self, value: T) {
        self.0.value.set(Some(value));
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }

    pub fn polls(&self) -> usize {
        self.0.polls.get()
    }
}

impl<T> Clone for Gate<T> {
    fn clone(&self) -> Self {
        Gate(Rc::clone(&self.0))
    }
}

impl<T> Future for Gate<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.0.polls.set(self.0.polls.get() + 1);
        match self.0.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                self.0.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// Runs its closure when dropped.
pub struct OnDrop<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A future polled by the test itself. Its waker runs `on_wake`, on this thread, each time.
pub struct Probe<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + 'a>>,
    waker: Waker,
}

impl<'a, T> Probe<'a, T> {
    pub fn new(future: impl Future<Output = T> + 'a, on_wake: impl FnMut() + 'static) -> Self {
        let hook = HOOKS.with_borrow_mut(|hooks| {
            hooks.push(Some(Box::new(on_wake)));
            hooks.len() - 1
        });
        Probe {
            future: Box::pin(future),
            waker: Waker::from(Arc::new(Hook(hook))),
        }
    }

    /// A probe whose wakes are noted in the log as `name`.
    pub fn named(name: &str, log: &Log, future: impl Future<Output = T> + 'a) -> Self {
        let (name, log) = (name.to_owned(), log.clone());
        Probe::new(future, move || log.note(&name))
    }

    pub fn poll(&mut self) -> Poll<T> {
        self.future
            .as_mut()
            .poll(&mut Context::from_waker(&self.waker))
    }

    pub fn is_pending(&mut self) -> bool {
        self.poll().is_pending()
    }
}

/// Polls a future that must be ready at its first poll.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match Probe::new(future, || {}).poll() {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it had to be ready at once"),
    }
}

type HookFn = Box<dyn FnMut()>;

thread_local! {
    /// What wakers do. A waker is `Send`, what these tests want to look at is not: the waker holds a number.
    static HOOKS: RefCell<Vec<Option<HookFn>>> = const { RefCell::new(Vec::new()) };
}

struct Hook(usize);

impl Wake for Hook {
    fn wake(self: Arc<Self>) {
        let Hook(number) = *self;
        // Out while it runs: it may make new probes.
        let Some(mut hook) = HOOKS.with_borrow_mut(|hooks| hooks[number].take()) else {
            return;
        };
        hook();
        HOOKS.with_borrow_mut(|hooks| hooks[number] = Some(hook));
    }
}

/// Seeded numbers (splitmix64): the same seed, the same run.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `0..end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
