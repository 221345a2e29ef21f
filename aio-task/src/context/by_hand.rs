//! A context that tests step themselves.
use std::fmt;

use super::HostsStandBy;
use super::shared::{Core, Driver};

/// Runs a context one item at a time, without ever sleeping. See [`AioContext::by_hand`](crate::AioContext::by_hand).
///
/// Dropping it stops nothing: what is queued stays for the next driver.
pub struct ByHand<'a> {
    core: &'a Core,
    _driver: Driver<'a>,
}

impl<'a> ByHand<'a> {
    pub(super) fn new(core: &'a Core) -> Self {
        Self {
            core,
            _driver: Driver::new(core),
        }
    }

    /// Takes what has come from outside (inbox, due timers, ready descriptors), then runs the first item of the queue: one poll of
    /// one task, or one submitted job. `false`: there was nothing to run. From inside the context it does nothing.
    pub fn step(&self) -> bool {
        if self.core.is_on_stack() {
            return false;
        }
        let _hosts = HostsStandBy::new(self.core);
        let _turning = self.core.queue.begin_turn();
        self.core.gather();
        self.core.run(1) == 1
    }

    /// Steps until there is nothing to run, and says how many items ran. Does not return while a task wakes itself for ever.
    pub fn run_until_stalled(&self) -> usize {
        let mut ran = 0;
        while self.step() {
            ran += 1;
        }
        ran
    }
}

impl fmt::Debug for ByHand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByHand").finish_non_exhaustive()
    }
}
