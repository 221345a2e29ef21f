//! [`Slot`]: one free place of the pool, held.

use std::fmt;
use std::future::Future;
use std::rc::Rc;

use super::state::State;
use super::task::launch;
use crate::NotDriven;

/// One of the pool's `max_busy_tasks` places, taken and not yet used: the right to start one task without waiting.
///
/// From [`reserve`](super::AioTaskPool::reserve) or [`try_reserve`](super::AioTaskPool::try_reserve). Dropping it gives
/// the place to the next in line at once. A slot does not keep its pool alive, and `wait_all` waits for it.
#[must_use = "a slot that is dropped is given back"]
pub struct Slot<E: 'static> {
    state: Rc<State<E>>,
    /// Not given to a task yet.
    held: bool,
}

impl<E: 'static> Slot<E> {
    /// Starts `task` in this slot and polls it once before returning, like
    /// [`start_task`](super::AioTaskPool::start_task) but without a wait. Returns the task's index.
    ///
    /// # Errors
    ///
    /// [`NotDriven`]: the last handle of the pool was dropped, or the context is gone. `task` was dropped unpolled.
    pub fn start<F>(mut self, task: F) -> Result<u64, NotDriven>
    where
        F: Future<Output = Result<(), E>> + 'static,
    {
        let task = Box::pin(task);
        self.held = false;
        launch(&self.state, task)
    }

    /// Takes charge of a slot that the accounts have just reserved.
    pub(super) fn reserved(state: Rc<State<E>>) -> Self {
        Slot { state, held: true }
    }
}

impl<E: 'static> Drop for Slot<E> {
    fn drop(&mut self) {
        if self.held {
            self.state.release_slot();
        }
    }
}

impl<E: 'static> fmt::Debug for Slot<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}
