//! What is on this thread's stack: which pool's task is being polled, and how deep such polls are nested.
//!
//! A stack belongs to a thread, so this does too. It is no shared state: each guard puts back what it found.

use std::cell::Cell;

use crate::sync::per_thread;

/// Polls of pool tasks on one stack. At this depth a started task is queued instead of polled inline.
pub(super) const DEPTH_LIMIT: usize = 64;

per_thread! {
    static STACK: Cell<Stack> = Cell::default();
}

#[derive(Clone, Copy, Default)]
struct Stack {
    /// Address of the pool whose task is polled innermost; 0 when none is.
    polled: usize,
    depth: usize,
}

/// Notes that a task of the pool at this address is being polled, until the guard is dropped.
pub(super) fn polling(pool: usize) -> Polling {
    let found = STACK.with(Cell::get);
    STACK.with(|stack| {
        stack.set(Stack {
            polled: pool,
            depth: found.depth + 1,
        })
    });
    Polling { found }
}

/// Whether the innermost polled task is one of the pool at this address.
pub(super) fn is_polling(pool: usize) -> bool {
    STACK.with(Cell::get).polled == pool
}

/// Whether this stack has room for one more nested poll.
pub(super) fn may_nest() -> bool {
    STACK.with(Cell::get).depth < DEPTH_LIMIT
}

/// Puts the stack back as it was found.
pub(super) struct Polling {
    found: Stack,
}

impl Drop for Polling {
    fn drop(&mut self) {
        STACK.with(|stack| stack.set(self.found));
    }
}
