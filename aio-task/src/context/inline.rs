//! Tasks that are polled first on their caller's stack.
use std::rc::Rc;

use async_task::Runnable;

use super::core::Core;
use super::run_queue::Item;

/// A task that was made and not yet queued. Dropping it unrun cancels the task: its future is dropped.
pub(crate) struct InlineTask {
    core: Rc<Core>,
    runnable: Runnable,
}

impl InlineTask {
    pub(super) fn new(core: Rc<Core>, runnable: Runnable) -> Self {
        Self { core, runnable }
    }

    /// Polls the task once, on this stack. From then on only its wakers queue it.
    pub(crate) fn run_now(self) {
        self.core.poll_task(self.runnable);
    }

    /// Queues the task at the end, as `spawn` does.
    pub(crate) fn schedule(self) {
        self.core.queue.push(Item::Task(self.runnable));
    }
}

/// One inline poll on this stack.
pub(crate) struct InlineDepth {
    core: Option<Rc<Core>>,
    depth: usize,
}

impl InlineDepth {
    pub(super) fn new(core: Option<Rc<Core>>) -> Self {
        let depth = core.as_ref().map_or(1, |core| core.inline_depth.get() + 1);
        if let Some(core) = &core {
            core.inline_depth.set(depth);
        }
        Self { core, depth }
    }

    /// How many inline polls are on the stack, this one included: 1 is the outermost.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }
}

impl Drop for InlineDepth {
    fn drop(&mut self) {
        if let Some(core) = &self.core {
            core.inline_depth.set(self.depth - 1);
        }
    }
}
