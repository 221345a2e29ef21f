//! Taking turns: a fair lock, and a way to wait for it without standing in line.
//!
//! A future that stands in line may be handed the lock while its owner does not poll it, and then everybody waits for it. Calls that are
//! awaited stand in line; those inside `poll_write` and `poll_read`, which their owners may leave unpolled, try again when a turn ends.

use aio_task::{CoMutex, CoMutexGuard, CoQueue};

/// The lock.
pub(crate) struct TurnLock {
    lock: CoMutex<()>,
    /// Woken, all of them, when a turn ends.
    idle: CoQueue,
}

/// The turn, until dropped.
#[must_use = "dropped at once, the turn ends"]
pub(crate) struct Turn<'a> {
    // Fields drop in this order: those woken find the lock free.
    _guard: CoMutexGuard<'a, ()>,
    _wake: WakeIdle<'a>,
}

struct WakeIdle<'a>(&'a CoQueue);

impl TurnLock {
    pub(crate) fn new() -> Self {
        Self {
            lock: CoMutex::new(()),
            idle: CoQueue::new(),
        }
    }

    /// First come, first served.
    pub(crate) async fn take(&self) -> Turn<'_> {
        self.with(self.lock.lock().await)
    }

    /// The turn, if it is free and the line is empty.
    pub(crate) fn try_take(&self) -> Option<Turn<'_>> {
        self.lock.try_lock().map(|guard| self.with(guard))
    }

    /// Waits until a turn has ended.
    pub(crate) async fn until_idle(&self) {
        self.idle.wait().await;
    }

    fn with<'a>(&'a self, guard: CoMutexGuard<'a, ()>) -> Turn<'a> {
        Turn {
            _guard: guard,
            _wake: WakeIdle(&self.idle),
        }
    }
}

impl Drop for WakeIdle<'_> {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.0.wake_all();
        }
    }
}
