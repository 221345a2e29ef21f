//! What is on this thread's stack: which pool's task is being polled, and how deep inline first polls are nested.
//!
//! A stack belongs to a thread, so this does too. It is no shared state: each guard puts back what it found.

use std::cell::Cell;

/// Inline first polls on one stack. From here on a started task is queued instead.
pub(super) const DEPTH_LIMIT: usize = 64;

thread_local! {
    static STACK: Cell<Stack> = const { Cell::new(Stack { polled: 0, depth: 0 }) };
}

#[derive(Clone, Copy)]
struct Stack {
    /// Address of the pool whose task is polled innermost; 0 when none is.
    polled: usize,
    depth: usize,
}

/// While it lives, the innermost polled task is one of the pool at this address.
pub(super) fn polling(pool: usize) -> Restore {
    change(|stack| stack.polled = pool)
}

/// Whether the innermost polled task is one of the pool at this address.
pub(super) fn is_polling(pool: usize) -> bool {
    STACK.get().polled == pool
}

/// One inline poll deeper, while it lives; `None` at the limit.
pub(super) fn deeper() -> Option<Restore> {
    (STACK.get().depth < DEPTH_LIMIT).then(|| change(|stack| stack.depth += 1))
}

fn change(change: impl FnOnce(&mut Stack)) -> Restore {
    let found = STACK.get();
    let mut stack = found;
    change(&mut stack);
    STACK.set(stack);
    Restore(found)
}

/// Puts the stack back as it was found.
pub(super) struct Restore(Stack);

impl Drop for Restore {
    fn drop(&mut self) {
        STACK.set(self.0);
    }
}
