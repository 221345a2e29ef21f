//! How other threads end a context's sleep: one word, and a system call only when the owner sleeps.
use std::mem;
use std::task::Waker;

use crate::reactor::Unpark;
use crate::sync::{AtomicU8, Mutex, Ordering};

/// The owner is awake and has seen every notification.
const EMPTY: u8 = 0;
/// The owner sleeps, or is about to: any task that notifies now must wake it. Set by the owner alone.
const SLEEPING: u8 = 1;
/// A notification came since the owner last looked. The owner does not sleep before it has looked.
const NOTIFIED: u8 = 2;

/// The word that decides who wakes whom.
///
/// Every access is a read-modify-write, so that two notifications in a row form one release sequence: the owner that sees the
/// second has also seen what was published before the first.
pub(crate) struct Notifier {
    word: AtomicU8,
    /// Ends the sleep of an owned context.
    unpark: Box<dyn Unpark>,
    /// The hosts of a hosted context, each under the key of its `Drive`. Non-empty only while a `Drive` waits; then they are what
    /// sleeps, and the reactor is not.
    hosts: Mutex<Vec<(u64, Waker)>>,
}

impl Notifier {
    pub(crate) fn new(unpark: Box<dyn Unpark>) -> Self {
        Self {
            word: AtomicU8::new(EMPTY),
            unpark,
            hosts: Mutex::new(Vec::new()),
        }
    }

    /// Any thread: what was published before this call is seen by the owner's next turn. Wakes the owner if it sleeps.
    pub(crate) fn notify(&self) {
        if self.word.swap(NOTIFIED, Ordering::AcqRel) != SLEEPING {
            return; // awake, or another user is waking it
        }
        let hosts = mem::take(&mut *self.hosts.lock());
        if hosts.is_empty() {
            self.unpark.unpark();
        }
        for (_, host) in hosts {
            host.wake();
        }
    }

    /// Owner: takes the pending notification. `true` if there was one, so that the inbox must be looked at.
    pub(crate) fn take(&self) -> bool {
        self.word.swap(EMPTY, Ordering::AcqRel) == NOTIFIED
    }

    /// Owner: announces a sleep. `false` if a notification is pending; then it must not sleep.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.word
            .compare_exchange(EMPTY, SLEEPING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Owner: who is to be woken by the next notification instead of the reactor.
    pub(crate) fn set_host(&self, key: u64, waker: Waker) {
        let mut hosts = self.hosts.lock();
        let replaced = match hosts.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => Some(mem::replace(old, waker)),
            None => {
                hosts.push((key, waker));
                None
            }
        };
        drop(hosts);
        drop(replaced);
    }

    /// Owner: the host under `key` no longer waits.
    pub(crate) fn remove_host(&self, key: u64) {
        let mut hosts = self.hosts.lock();
        let removed = hosts
            .iter()
            .position(|(k, _)| *k == key)
            .map(|at| hosts.swap_remove(at));
        drop(hosts);
        drop(removed);
    }

    /// Owner: takes all hosts, so that a sleep in the reactor is ended by the reactor's own handle.
    pub(crate) fn take_hosts(&self) -> Vec<(u64, Waker)> {
        mem::take(&mut *self.hosts.lock())
    }

    /// Whether the word says that no task has notified. For tests of what does *not* touch it.
    #[cfg(test)]
    pub(crate) fn is_untouched(&self) -> bool {
        self.word.load(Ordering::Acquire) == EMPTY
    }
}
