//! Where a context's time comes from.
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use crate::sync;

/// A clock that stands still until a test moves it.
///
/// Clones are the same clock. A context that was built with it fires its timers by this clock alone; one that sleeps in `block_on`
/// with nothing but such a timer pending sleeps until another thread wakes it.
#[derive(Clone)]
pub struct ManualClock {
    shared: Rc<Shared>,
}

struct Shared {
    now: Cell<Instant>,
    /// The contexts that follow this clock, told after each step.
    followers: RefCell<Vec<Weak<dyn ClockFollower>>>,
}

/// A context whose timers may be due after the clock was moved.
pub(crate) trait ClockFollower {
    fn clock_moved(&self);
}

impl ManualClock {
    /// A clock that shows the present moment and stays there.
    pub fn new() -> Self {
        Self {
            shared: Rc::new(Shared {
                now: Cell::new(sync::now()),
                followers: RefCell::default(),
            }),
        }
    }

    /// What the clock shows.
    pub fn now(&self) -> Instant {
        self.shared.now.get()
    }

    /// Moves the clock on. Timers that are due now fire in their context's next turn (not inside this call). A step past the end
    /// of time leaves the clock where it is.
    pub fn advance(&self, by: Duration) {
        let Some(now) = self.now().checked_add(by) else {
            return;
        };
        self.shared.now.set(now);
        self.shared
            .followers
            .borrow_mut()
            .retain(|follower| follower.strong_count() > 0);
        let followers = self.shared.followers.borrow().clone();
        for follower in followers.iter().filter_map(Weak::upgrade) {
            follower.clock_moved();
        }
    }

    pub(crate) fn follow(&self, follower: Weak<dyn ClockFollower>) {
        self.shared.followers.borrow_mut().push(follower);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClock").field(&self.now()).finish()
    }
}

/// The clock of one context.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    /// The machine's monotonic clock.
    Monotonic,
    /// Moved by hand.
    Manual(ManualClock),
}

impl Clock {
    pub(crate) fn now(&self) -> Instant {
        match self {
            Clock::Monotonic => sync::now(),
            Clock::Manual(clock) => clock.now(),
        }
    }
}
