//! QEMU's AioContext: one thread's executor.
mod by_hand;
mod driven;
mod handle;
mod hosted;
mod inline;
mod readiness;
mod remote;
mod run_queue;
mod shared;
mod task;
mod timer;
mod waiters;

use std::fmt;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

pub use by_hand::ByHand;
pub use driven::{NotDriven, WhileDriven};
pub use handle::AioHandle;
pub use hosted::Drive;
pub(crate) use inline::InlineTask;
pub use readiness::Readiness;
pub(crate) use remote::Remote;
pub use remote::{Closed, RemoteHandle};
pub use task::{JoinError, JoinHandle};
pub use timer::{Sleep, TimedOut, Timeout};

use self::shared::{Core, Driver, RUNS_PER_TURN};
use crate::clock::{Clock, ManualClock};
use crate::reactor::Reactor;

/// The owner of everything that runs on one thread: tasks, timers, waits for descriptors. It is QEMU's `AioContext`, and lives and
/// dies on the thread that made it.
///
/// Nothing runs by itself. A context is driven by [`block_on`](Self::block_on), by a host that polls [`drive`](Self::drive), or
/// [`by_hand`](Self::by_hand).
///
/// Dropping it drops every future that was spawned on it, on this thread, before the drop returns (a task that is just being polled
/// further up this stack goes when its poll returns). Wakers and handles that outlive it do nothing.
pub struct AioContext {
    core: Rc<Core>,
}

impl AioContext {
    /// A context that sleeps in epoll and follows the monotonic clock. Fails if the kernel gives no more descriptors.
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// A context with another way to sleep, or another clock.
    pub fn builder() -> Builder {
        Builder {
            reactor: None,
            clock: Clock::Monotonic,
        }
    }

    /// The handle through which code on this thread uses the context.
    pub fn handle(&self) -> AioHandle {
        self.core.handle()
    }

    /// The handle for other threads.
    pub fn remote(&self) -> RemoteHandle {
        self.handle().remote()
    }

    /// Runs the context until `future` is ready, and returns its output. Tasks that are not finished then stay for the next driver.
    ///
    /// `future` itself has its turn at least every 61 runs of tasks. A panic of `future` goes through to the caller.
    ///
    /// # Panics
    ///
    /// At once, if it is called from inside this context: from a task, a job or `future` itself. Waiting there would wait for the
    /// very stack it waits on.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let core = &*self.core;
        assert!(
            !core.is_on_stack(),
            "AioContext::block_on was called from inside the same context: a task cannot block the thread that runs it; await instead"
        );
        let _host = HostsStandBy::new(core);
        let _driver = Driver::new(core);
        let _turning = core.queue.begin_turn();
        let mut future = pin!(future);
        let mut cx = Context::from_waker(&core.main_waker);
        core.queue.wake_main();
        loop {
            if core.queue.take_main()
                && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
            {
                return output;
            }
            core.run(RUNS_PER_TURN);
            core.gather();
            if core.queue.is_empty() && !core.queue.main_is_woken() {
                core.sleep();
            }
        }
    }

    /// Hosts the context in another executor: the returned future runs its tasks whenever it is polled.
    ///
    /// It counts as a driver from now until it is dropped or resolves, which it does after [`AioHandle::stop_drive`].
    pub fn drive(&self) -> Drive<'_> {
        Drive::new(&self.core)
    }

    /// Steps the context by hand, for tests. Counts as a driver until it is dropped.
    pub fn by_hand(&self) -> ByHand<'_> {
        ByHand::new(&self.core)
    }
}

impl Drop for AioContext {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl fmt::Debug for AioContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioContext")
            .field("live_tasks", &self.core.tasks.len())
            .field("drivers", &self.core.drivers.get())
            .finish_non_exhaustive()
    }
}

/// The parts of a context that can be chosen.
pub struct Builder {
    reactor: Option<Box<dyn Reactor>>,
    clock: Clock,
}

impl Builder {
    /// How the context sleeps. Without it: epoll; under loom, shuttle and Miri a condition variable.
    pub fn reactor(mut self, reactor: impl Reactor + 'static) -> Self {
        self.reactor = Some(Box::new(reactor));
        self
    }

    /// The clock its timers follow. Without it: the monotonic one.
    pub fn clock(mut self, clock: &ManualClock) -> Self {
        self.clock = Clock::Manual(clock.clone());
        self
    }

    /// Builds the context on this thread. Fails if the default reactor cannot be opened.
    pub fn build(self) -> io::Result<AioContext> {
        let reactor = match self.reactor {
            Some(reactor) => reactor,
            None => default_reactor()?,
        };
        Ok(AioContext {
            core: Core::new(reactor, self.clock),
        })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

#[cfg(not(any(loom, shuttle, miri)))]
fn default_reactor() -> io::Result<Box<dyn Reactor>> {
    Ok(Box::new(crate::reactor::EpollReactor::new()?))
}

/// The model checkers know no descriptors, and Miri cannot make the system calls of epoll.
#[cfg(any(loom, shuttle, miri))]
fn default_reactor() -> io::Result<Box<dyn Reactor>> {
    Ok(Box::new(crate::reactor::CondvarReactor::new()))
}

/// While `block_on` runs, the reactor sleeps and is what a notification ends; the hosts of a waiting `Drive` are woken afterwards,
/// so that they take over again.
struct HostsStandBy {
    hosts: Vec<(u64, Waker)>,
}

impl HostsStandBy {
    fn new(core: &Core) -> Self {
        let mut hosts = core.queue.take_hosts();
        hosts.append(&mut core.remote.notifier.take_hosts());
        Self { hosts }
    }
}

impl Drop for HostsStandBy {
    fn drop(&mut self) {
        for (_, host) in self.hosts.drain(..) {
            host.wake();
        }
    }
}
