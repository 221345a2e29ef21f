//! What is on this thread's stack: how many polls of tasks are nested there, and which pool's task is polled innermost.
//!
//! The state belongs to the thread whose stack it describes, so the contexts of one thread share one limit. Each guard restores what it
//! found, also when the stack unwinds.

use std::cell::Cell;

use crate::sync::per_thread;

/// How many polls of tasks one stack takes. A task that is started at this depth is queued instead of polled inline.
const DEPTH_LIMIT: usize = 64;

per_thread! {
    static STACK: Cell<Stack> = Cell::default();
}

#[derive(Clone, Copy, Default)]
struct Stack {
    /// Address of the pool whose task is polled innermost; 0 if the innermost task belongs to no pool.
    pool: usize,
    depth: usize,
}

/// Notes that a task is polled on top of what is on the stack, until the guard is dropped. The task belongs to no pool until
/// [`of_pool`] says otherwise: it does not inherit the pool of the task whose poll started it.
pub(crate) fn poll_begins() -> Restore {
    change(|found| Stack {
        pool: 0,
        depth: found.depth + 1,
    })
}

/// Notes that what runs now is on the stack but part of no task: a submitted job.
pub(crate) fn job_begins() -> Restore {
    change(|found| Stack { pool: 0, ..found })
}

/// Notes that the task that is polled innermost is one of the pool at this address, until the guard is dropped.
pub(crate) fn of_pool(pool: usize) -> Restore {
    change(|found| Stack { pool, ..found })
}

/// Whether the task that is polled innermost is one of the pool at this address.
pub(crate) fn is_polling(pool: usize) -> bool {
    STACK.with(Cell::get).pool == pool
}

/// Whether this stack has room for one more nested poll.
pub(crate) fn may_nest() -> bool {
    STACK.with(Cell::get).depth < DEPTH_LIMIT
}

fn change(change: impl FnOnce(Stack) -> Stack) -> Restore {
    STACK.with(|stack| {
        let found = stack.get();
        stack.set(change(found));
        Restore { found }
    })
}

/// Puts the stack back as it was found.
#[must_use]
pub(crate) struct Restore {
    found: Stack,
}

impl Drop for Restore {
    fn drop(&mut self) {
        STACK.with(|stack| stack.set(self.found));
    }
}
