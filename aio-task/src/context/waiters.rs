//! Wakers under keys that are never used twice.
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::mem;
use std::task::Waker;

/// A set of waiting futures. Wakers come and go outside its borrow: they are foreign code.
#[derive(Default)]
pub(super) struct Waiters {
    next: Cell<u64>,
    wakers: RefCell<BTreeMap<u64, Waker>>,
}

impl Waiters {
    /// A key that no task has had.
    pub(super) fn new_key(&self) -> u64 {
        let key = self.next.get();
        self.next.set(key + 1);
        key
    }

    /// Adds a waiter, or gives it another waker.
    pub(super) fn set(&self, key: u64, waker: Waker) {
        let replaced = self.wakers.borrow_mut().insert(key, waker);
        drop(replaced);
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.wakers.borrow().contains_key(&key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wakers.borrow().is_empty()
    }

    pub(super) fn remove(&self, key: u64) {
        let removed = self.wakers.borrow_mut().remove(&key);
        drop(removed);
    }

    /// Takes one out and wakes it.
    pub(super) fn wake(&self, key: u64) {
        let removed = self.wakers.borrow_mut().remove(&key);
        if let Some(waker) = removed {
            waker.wake();
        }
    }

    /// Takes all out and wakes them in the order of their keys.
    pub(super) fn wake_all(&self) {
        let all = mem::take(&mut *self.wakers.borrow_mut());
        for (_, waker) in all {
            waker.wake();
        }
    }
}
