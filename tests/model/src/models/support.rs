//! What models share: a sleeper that stands for the eventfd, wakers that loom sees, values that tell of their drop.
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Wake, Waker};

use aio_task::Unpark;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// An eventfd: a number that a wake raises and a sleep takes, blocking while it is zero. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct EventFd(Arc<(Mutex<u64>, Condvar)>);

impl EventFd {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Sleeps until woken, and says how many wakes that took.
    pub(crate) fn sleep(&self) -> u64 {
        let (number, changed) = &*self.0;
        let mut number = number.lock().unwrap();
        while *number == 0 {
            number = changed.wait(number).unwrap();
        }
        std::mem::take(&mut *number)
    }

    /// Takes what is there, without sleeping.
    pub(crate) fn try_sleep(&self) -> u64 {
        std::mem::take(&mut *self.0.0.lock().unwrap())
    }
}

impl Unpark for EventFd {
    fn unpark(&self) {
        let (number, changed) = &*self.0;
        *number.lock().unwrap() += 1;
        changed.notify_one();
    }
}

/// A waker that counts, over loom's atomics.
#[derive(Default)]
pub(crate) struct CountingWaker {
    wakes: AtomicUsize,
}

impl CountingWaker {
    pub(crate) fn new() -> (StdArc<Self>, Waker) {
        let counter = StdArc::new(Self::default());
        let waker = Waker::from(counter.clone());
        (counter, waker)
    }

    pub(crate) fn wakes(&self) -> usize {
        self.wakes.load(Ordering::Acquire)
    }
}

impl Wake for CountingWaker {
    fn wake(self: StdArc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &StdArc<Self>) {
        self.wakes.fetch_add(1, Ordering::AcqRel);
    }
}

/// Another executor: polls one future on this thread and sleeps in between.
pub(crate) fn host<F: Future>(future: F) -> F::Output {
    struct Sleeper(EventFd);
    impl Wake for Sleeper {
        fn wake(self: StdArc<Self>) {
            self.0.unpark();
        }
    }
    let bell = EventFd::new();
    let waker = Waker::from(StdArc::new(Sleeper(bell.clone())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        bell.sleep();
    }
}

/// Memory that loom tracks: two accesses without an order between them, one of them a write, fail the model.
pub(crate) struct Tracked<T>(UnsafeCell<T>);

// SAFETY: loom itself reports every access that is not ordered, and runs one thread at a time: there is no data race to be had.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for Tracked<T> {}

impl<T: Copy> Tracked<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    #[allow(unsafe_code)]
    pub(crate) fn set(&self, value: T) {
        // SAFETY: one thread runs at a time, and no reference outlives the closure.
        self.0.with_mut(|place| unsafe { *place = value });
    }

    #[allow(unsafe_code)]
    pub(crate) fn get(&self) -> T {
        // SAFETY: as above.
        self.0.with(|place| unsafe { *place })
    }
}

/// Counts its drops, and insists on its owner's thread.
pub(crate) struct DropsHere {
    drops: Rc<Cell<usize>>,
    owner: thread::ThreadId,
}

impl DropsHere {
    pub(crate) fn new() -> (Rc<Cell<usize>>, Self) {
        let drops = Rc::new(Cell::new(0));
        let here = Self {
            drops: drops.clone(),
            owner: thread::current().id(),
        };
        (drops, here)
    }
}

impl Drop for DropsHere {
    fn drop(&mut self) {
        assert_eq!(
            self.owner,
            thread::current().id(),
            "dropped on another thread"
        );
        self.drops.set(self.drops.get() + 1);
    }
}

/// Counts its drops, on any thread, and is tracked by loom: a drop that races with anything fails the model.
pub(crate) struct Token {
    drops: Arc<AtomicUsize>,
    memory: Tracked<u8>,
}

impl Token {
    pub(crate) fn new() -> (Arc<AtomicUsize>, Self) {
        let drops = Arc::new(AtomicUsize::new(0));
        let token = Self {
            drops: drops.clone(),
            memory: Tracked::new(0),
        };
        (drops, token)
    }

    /// Touches its memory.
    pub(crate) fn touch(&self) {
        self.memory.set(self.memory.get() + 1);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.touch();
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}
