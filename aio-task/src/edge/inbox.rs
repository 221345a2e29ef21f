//! What other threads have sent to a context and its owner has not taken yet.
use std::collections::VecDeque;
use std::mem;

use crate::sync::Mutex;

/// A queue that many threads fill and one thread empties, first in first out, until it is closed.
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    items: VecDeque<T>,
    /// Set once by the owner. Never with a non-empty `items`.
    closed: bool,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                closed: false,
            }),
        }
    }

    /// Adds an item at the end, or hands it back when the inbox is closed.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(item); // the guard is released before the caller drops the item
        }
        state.items.push_back(item);
        Ok(())
    }

    /// Takes everything.
    pub(crate) fn take(&self) -> VecDeque<T> {
        mem::take(&mut self.state.lock().items)
    }

    /// Refuses every later push, and takes what is there.
    pub(crate) fn close(&self) -> VecDeque<T> {
        let mut state = self.state.lock();
        state.closed = true;
        mem::take(&mut state.items)
    }
}
