//! Tasks that are polled first on their caller's stack.
use std::rc::Rc;

use async_task::Runnable;

use super::run_queue::Item;
use super::shared::Core;
use crate::nesting;

/// A task that was made and not yet queued. Dropping it unrun cancels the task: its future is dropped.
pub(crate) struct InlineTask {
    core: Rc<Core>,
    runnable: Runnable,
}

impl InlineTask {
    pub(super) fn new(core: Rc<Core>, runnable: Runnable) -> Self {
        Self { core, runnable }
    }

    /// Polls the task once, on this stack; if too many polls are nested there already, queues it at the end, as `spawn` does. After
    /// that only its wakers queue it.
    pub(crate) fn begin(self) {
        if nesting::may_nest() {
            self.core.poll_task(self.runnable);
        } else {
            self.core.queue.push(Item::Task(self.runnable));
        }
    }
}
