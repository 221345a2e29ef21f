//! What models share: a sleeper that stands for the eventfd, wakers that loom sees, values that tell of their drop.
use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Wake, Waker};

use aio_task::Unpark;
use futures::future::LocalBoxFuture;
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

/// A waker that runs `wake`, on whatever thread it is woken.
pub(crate) fn waker_that(wake: impl Fn() + Send + Sync + 'static) -> Waker {
    struct Runs<F>(F);
    impl<F: Fn() + Send + Sync> Wake for Runs<F> {
        fn wake(self: StdArc<Self>) {
            self.wake_by_ref();
        }

        fn wake_by_ref(self: &StdArc<Self>) {
            (self.0)();
        }
    }
    Waker::from(StdArc::new(Runs(wake)))
}

/// Polls a future once with this waker.
pub(crate) fn poll_by<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

/// The future as the task that now polls it has it from another one, which polled it before.
pub(crate) async fn moved_from_another_task<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let (_, other) = CountingWaker::new();
    match poll_by(future.as_mut(), &other) {
        Poll::Ready(output) => output,
        Poll::Pending => future.await,
    }
}

/// Another executor, on several threads: any task that wakes the future polls it, inside the wake. Returns its output on the thread that
/// called this.
pub(crate) fn host_inline<F>(future: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    struct Inline<F: Future> {
        future: Mutex<Option<Pin<Box<F>>>>,
        output: Mutex<Option<F::Output>>,
        done: EventFd,
    }
    impl<F: Future<Output: Send> + Send + 'static> Wake for Inline<F> {
        fn wake(self: StdArc<Self>) {
            let waker = Waker::from(self.clone());
            let mut place = self.future.lock().unwrap();
            let Some(future) = &mut *place else { return };
            if let Poll::Ready(output) = poll_by(future.as_mut(), &waker) {
                *place = None;
                drop(place);
                *self.output.lock().unwrap() = Some(output);
                self.done.unpark();
            }
        }
    }
    let inline = StdArc::new(Inline {
        future: Mutex::new(Some(Box::pin(future))),
        output: Mutex::new(None),
        done: EventFd::new(),
    });
    inline.clone().wake();
    inline.done.sleep();
    let output = inline.output.lock().unwrap().take();
    output.expect("it is done")
}

/// Another executor on this thread: a wake polls the future at once, inside the wake. Ends with the guard.
pub(crate) struct InlineHere<'a> {
    place: Rc<Place<'a>>,
}

struct Place<'a> {
    /// Out while it is being polled, gone when it is done.
    future: Cell<Option<LocalBoxFuture<'a, ()>>>,
    /// It was woken while it was being polled, and is polled once more after that.
    again: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl<'a> InlineHere<'a> {
    /// Polls `future` for the first time.
    pub(crate) fn start(future: impl Future<Output = ()> + 'a) -> Self {
        let place = Rc::new(Place {
            future: Cell::new(Some(Box::pin(future))),
            again: Cell::new(false),
            waker: Cell::new(None),
        });
        // The waker outlives nothing: it does nothing once the guard has taken the future away.
        let weak = ThisThread(Rc::downgrade(&place), thread::current().id());
        // SAFETY: only the lifetime of what the future borrows is forgotten. `Drop` of the guard, which has that lifetime, takes the
        // future out, and a waker does nothing without it.
        #[allow(unsafe_code)]
        let weak: ThisThread<Weak<Place<'static>>> = unsafe { std::mem::transmute(weak) };
        let waker = waker_that(move || {
            if let Some(place) = weak.get().upgrade() {
                place.poll();
            }
        });
        place.waker.set(Some(waker));
        place.poll();
        Self { place }
    }
}

impl Place<'_> {
    fn poll(&self) {
        let Some(mut future) = self.future.take() else {
            self.again.set(true); // it is being polled, or done
            return;
        };
        let Some(waker) = self.waker.take() else {
            return; // it is being dropped
        };
        self.waker.set(Some(waker.clone()));
        for _ in 0..100 {
            self.again.set(false);
            if poll_by(future.as_mut(), &waker).is_ready() {
                return;
            }
            if !self.again.get() {
                self.future.set(Some(future));
                return;
            }
        }
        panic!("a future wakes itself in every poll");
    }
}

impl Drop for InlineHere<'_> {
    fn drop(&mut self) {
        drop(self.place.future.take());
        drop(self.place.waker.take());
    }
}

/// Something that only one thread touches, though a waker may carry it anywhere.
struct ThisThread<T>(T, thread::ThreadId);

// SAFETY: `get` insists on the thread. A drop elsewhere would be wrong; loom runs all threads of a model on one thread of the system.
#[allow(unsafe_code)]
unsafe impl<T> Send for ThisThread<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T> Sync for ThisThread<T> {}

impl<T> ThisThread<T> {
    fn get(&self) -> &T {
        assert_eq!(self.1, thread::current().id(), "woken on another thread");
        &self.0
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
