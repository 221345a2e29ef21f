//! A context inside another executor.
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::HostsStandBy;
use super::shared::{Core, Driver, RUNS_PER_TURN};
use crate::clock::Clock;
use crate::edge::watcher::Watcher;

/// The future that runs a hosted context. See [`AioContext::drive`](crate::AioContext::drive).
///
/// Each poll takes what has come from outside and runs at most 61 items; if there is more, it wakes itself and lets the host go on.
/// While timers or descriptors are pending, a helper thread watches them and wakes the host.
///
/// Dropping it leaves the tasks to the next driver. The context has none then, unless there is another.
#[must_use = "a context is driven only while its `Drive` is polled"]
pub struct Drive<'a> {
    core: &'a Rc<Core>,
    /// `None` once it has resolved.
    driver: Option<Driver<'a>>,
    key: u64,
    /// `drive_stops` when it was made: it resolves when that has changed.
    stops: u64,
}

impl<'a> Drive<'a> {
    pub(super) fn new(core: &'a Rc<Core>) -> Self {
        let key = core.drive_keys.get();
        core.drive_keys.set(key + 1);
        core.drives.set(core.drives.get() + 1);
        Self {
            core,
            driver: Some(Driver::new(core)),
            key,
            stops: core.drive_stops.get(),
        }
    }

    /// Ends our part as a driver, once.
    fn leave(&mut self) {
        let Some(driver) = self.driver.take() else {
            return;
        };
        let core = self.core;
        core.queue.remove_host(self.key);
        core.remote.notifier.remove_host(self.key);
        core.drives.set(core.drives.get() - 1);
        if core.drives.get() == 0 {
            let watcher = core.watcher.take();
            drop(watcher);
        }
        if core.drives.get() > 0 {
            // We may have taken what was meant for another `Drive`: it takes over.
            drop(HostsStandBy::new(core));
        }
        drop(driver); // last: it wakes those who wait for a driver's end
    }
}

impl Future for Drive<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let core = self.core;
        if core.drive_stops.get() == self.stops && !core.is_on_stack() {
            let _turning = core.queue.begin_turn();
            if core.watcher.borrow().is_some() {
                core.gather_watched();
            } else {
                core.gather();
            }
            core.run(RUNS_PER_TURN);
        }
        if core.drive_stops.get() != self.stops {
            self.leave();
            return Poll::Ready(());
        }
        core.queue.set_host(self.key, cx.waker().clone());
        core.remote.notifier.set_host(self.key, cx.waker().clone());
        // From here on a wake-up from any side reaches the host.
        if !core.queue.is_empty()
            || core.clock_passed_a_timer()
            || !core.remote.notifier.prepare_sleep()
            || watch(core).is_err()
        {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Drive<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Drive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive")
            .field("resolved", &self.driver.is_none())
            .finish_non_exhaustive()
    }
}

/// Has timers and descriptors watched while the host does something else. An error: they cannot be.
fn watch(core: &Core) -> io::Result<()> {
    let until = match core.clock {
        Clock::Monotonic => core.timers.next(),
        Clock::Manual(_) => None, // a step of the clock tells the host itself
    };
    if until.is_none() && core.readiness.is_empty() {
        return Ok(());
    }
    if core.watcher.borrow().is_none() {
        let (watch, bell) = core.reactor.borrow().watch()?;
        let remote = core.remote.clone();
        let watcher = Watcher::start(watch, bell, move || remote.notifier.notify())?;
        core.watcher.replace(Some(watcher));
    }
    if let Some(watcher) = &*core.watcher.borrow() {
        watcher.order(until);
    }
    Ok(())
}
