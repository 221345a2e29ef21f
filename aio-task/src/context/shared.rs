//! The loop: what one turn of a context does.
use std::cell::{Cell, RefCell};
use std::mem;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::Duration;

use super::remote::main_waker;
use super::run_queue::{Item, RunQueue};
use super::task::{Tasks, swallow_panic};
use super::timer::Timers;
use super::waiters::Waiters;
use super::{AioHandle, Remote};
use crate::clock::Clock;
use crate::edge::watcher::Watcher;
use crate::nesting;
use crate::reactor::Reactor;
use crate::sync::{Arc, yield_now};

/// Runs between two looks at inbox, reactor, timers and `block_on`'s own future. A prime, so that it does not fall into step with
/// what the tasks do.
pub(super) const RUNS_PER_TURN: usize = 61;

/// What a context consists of. Shared with its handles, which hold it weakly.
pub(crate) struct Core {
    me: Weak<Core>,
    pub(super) remote: Arc<Remote>,
    pub(super) queue: Rc<RunQueue>,
    pub(super) tasks: Rc<Tasks>,
    pub(super) clock: Clock,
    pub(super) timers: Timers,
    /// Futures that wait for a descriptor, under the key the reactor knows. Woken ones leave.
    pub(super) readiness: Waiters,
    pub(super) reactor: RefCell<Box<dyn Reactor>>,
    /// The waker of `block_on`'s own future.
    pub(super) main_waker: Waker,
    /// How many `block_on`, `Drive` and `ByHand` there are now.
    pub(super) drivers: Cell<usize>,
    /// Who wants to know that `drivers` fell to zero.
    pub(super) driven_waiters: Waiters,
    /// Tasks being polled on this thread's stack, inline polls included. Each is alive.
    pub(super) polling: Cell<usize>,
    /// Set when the owner starts to drop the context, for ever: no task is made any more.
    pub(super) closed: Cell<bool>,
    /// Raised by each `stop_drive`.
    pub(super) drive_stops: Cell<u64>,
    /// Keys of `Drive`s.
    pub(super) drive_keys: Cell<u64>,
    /// `Drive`s that live.
    pub(super) drives: Cell<usize>,
    /// Sleeps in a hosted context's stead. There while timers or descriptors were ever pending under a living `Drive`.
    pub(super) watcher: RefCell<Option<Watcher>>,
    /// Room for the reactor's answer. Empty between calls.
    ready: RefCell<Vec<u64>>,
}

impl Core {
    pub(super) fn new(reactor: Box<dyn Reactor>, clock: Clock) -> Rc<Self> {
        let remote = Arc::new(Remote::new(reactor.unparker()));
        let queue = RunQueue::enlist(&remote);
        if let Clock::Manual(clock) = &clock {
            let follower: Weak<RunQueue> = Rc::downgrade(&queue);
            clock.follow(follower);
        }
        Rc::new_cyclic(|me| Self {
            me: me.clone(),
            main_waker: main_waker(&remote),
            remote,
            queue,
            tasks: Rc::default(),
            clock,
            timers: Timers::default(),
            readiness: Waiters::default(),
            reactor: RefCell::new(reactor),
            drivers: Cell::new(0),
            driven_waiters: Waiters::default(),
            polling: Cell::new(0),
            closed: Cell::new(false),
            drive_stops: Cell::new(0),
            drive_keys: Cell::new(0),
            drives: Cell::new(0),
            watcher: RefCell::new(None),
            ready: RefCell::default(),
        })
    }

    pub(super) fn handle(&self) -> AioHandle {
        AioHandle {
            core: self.me.clone(),
            remote: self.remote.clone(),
            clock: self.clock.clone(),
        }
    }

    /// Whether a task of this context, or its loop, is on this thread's stack.
    pub(super) fn is_on_stack(&self) -> bool {
        self.queue.is_turning() || self.polling.get() > 0
    }

    /// Runs at most `limit` items in the order they were queued, and says how many it ran.
    pub(super) fn run(&self, limit: usize) -> usize {
        for ran in 0..limit {
            let Some(item) = self.queue.pop() else {
                return ran;
            };
            match item {
                Item::Task(runnable) => self.poll_task(runnable),
                Item::Job(job) => {
                    let handle = self.handle();
                    let _no_task = nesting::job_begins();
                    // The submitter is on another thread.
                    swallow_panic(|| job(&handle));
                }
            }
        }
        limit
    }

    /// Polls a task once, on this stack.
    pub(super) fn poll_task(&self, runnable: async_task::Runnable) {
        struct Polling<'a>(&'a Cell<usize>);
        impl Drop for Polling<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.polling.set(self.polling.get() + 1);
        let _polling = Polling(&self.polling);
        let _nested = nesting::poll_begins();
        runnable.run();
    }

    /// Takes what has come from outside, without sleeping: the inbox, ready descriptors, due timers.
    pub(super) fn gather(&self) {
        self.take_notification();
        self.ask_reactor(|reactor, ready| reactor.look(ready));
        self.timers.fire(&self.clock);
    }

    /// As [`gather`](Self::gather), and also clears what made a hosted context's watcher look.
    pub(super) fn gather_watched(&self) {
        self.take_notification();
        self.ask_reactor(|reactor, ready| reactor.park(Some(Duration::ZERO), ready));
        self.timers.fire(&self.clock);
    }

    /// Sleeps until something comes from outside, and takes it.
    pub(super) fn sleep(&self) {
        if self.remote.notifier.prepare_sleep() {
            let limit = match &self.clock {
                Clock::Monotonic => self
                    .timers
                    .next()
                    .map(|at| at.saturating_duration_since(self.clock.now())),
                Clock::Manual(_) => None, // moved on this thread only, which is about to sleep
            };
            self.ask_reactor(|reactor, ready| reactor.park(limit, ready));
        }
        self.take_notification();
        self.timers.fire(&self.clock);
    }

    pub(super) fn take_notification(&self) {
        if !self.remote.notifier.take() {
            return;
        }
        for item in self.remote.take_inbox() {
            self.queue.push(item);
        }
        if self.remote.take_main() {
            self.queue.wake_main();
        }
    }

    /// Whether a task has moved a manual clock past a timer since the timers were looked at. The clock wakes no host in its own turn.
    pub(super) fn clock_passed_a_timer(&self) -> bool {
        match &self.clock {
            Clock::Monotonic => false, // the watcher waits for the next timer, also for one that is over
            Clock::Manual(clock) => self.timers.next().is_some_and(|at| at <= clock.now()),
        }
    }

    fn ask_reactor(
        &self,
        question: impl FnOnce(&mut dyn Reactor, &mut Vec<u64>) -> std::io::Result<()>,
    ) {
        let mut ready = mem::take(&mut *self.ready.borrow_mut());
        if question(&mut **self.reactor.borrow_mut(), &mut ready).is_err() {
            // A reactor that cannot sleep makes the loop a busy one; it still sees everything but its descriptors.
            yield_now();
        }
        for key in ready.drain(..) {
            self.readiness.wake(key);
        }
        *self.ready.borrow_mut() = ready;
    }

    /// Drops every future, on this thread, and cuts the context off from the others. The last thing that happens to a context.
    pub(super) fn close(&self) {
        self.closed.set(true);
        let turning = self.queue.begin_turn();
        // A task that is woken is queued, here or by the thread that was about to do so; what is queued can be dropped.
        for waker in self.tasks.wakers() {
            waker.wake();
        }
        loop {
            while let Some(item) = self.queue.pop() {
                drop_quietly(item);
            }
            self.take_notification();
            if !self.queue.is_empty() {
                continue;
            }
            // Tasks below us on the stack end when their poll returns: woken, they are queued again, and refused.
            if self.tasks.len() <= self.polling.get() {
                break;
            }
            // Another thread is between taking a task's wake-up and sending it.
            if self.remote.notifier.prepare_sleep() {
                self.ask_reactor(|reactor, ready| reactor.park(None, ready));
            }
        }
        drop(turning);
        RunQueue::retire(&self.remote);
        for item in self.remote.close_inbox() {
            drop_quietly(item);
        }
        let watcher = self.watcher.take();
        drop(watcher);
        self.timers.wake_all();
        self.readiness.wake_all();
        self.driven_waiters.wake_all();
    }
}

/// A task's future catches its own panics; the captures of a job do not.
fn drop_quietly(item: Item) {
    swallow_panic(|| drop(item));
}

/// The context is driven for as long as this lives.
pub(super) struct Driver<'a> {
    core: &'a Core,
}

impl<'a> Driver<'a> {
    pub(super) fn new(core: &'a Core) -> Self {
        core.drivers.set(core.drivers.get() + 1);
        Self { core }
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        let left = self.core.drivers.get() - 1;
        self.core.drivers.set(left);
        if left == 0 {
            self.core.driven_waiters.wake_all();
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use crate::AioContext;

    /// A wake-up on the context's own thread ends at the run queue: neither inbox nor notifier see it.
    #[test]
    fn a_local_wake_touches_no_word_that_other_threads_share() {
        let context = AioContext::new().unwrap();
        let mut wakes = 0;
        let task = context.handle().spawn(poll_fn(move |cx| {
            if wakes == 10 {
                return Poll::Ready(());
            }
            wakes += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        let core = &context.core;
        assert_eq!(
            core.run(100),
            11,
            "the task must have woken itself for this test to mean anything"
        );
        assert!(core.remote.notifier.is_untouched());
        core.main_waker.wake_by_ref();
        assert!(core.remote.notifier.is_untouched());
        context.remote().wake();
        assert!(
            !core.remote.notifier.is_untouched(),
            "the word shows what it is asked for"
        );
        assert!(task.is_finished());
    }
}
