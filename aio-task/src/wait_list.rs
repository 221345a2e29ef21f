//! The order in which futures sleep, and the wake-ups that a change owes them.
//!
//! Nothing here calls a waker, clones one or drops one: a waker is foreign code, and the lists live in `RefCell`s that
//! must not be borrowed while foreign code runs. Wakers move in by value and out by value; [`Wakes`] carries them out of
//! the borrow.

use std::collections::VecDeque;
use std::task::Waker;

use slab::Slab;

/// Sleepers in the order they came.
///
/// A sleeper has a place (it is *in line*) from [`push`](Self::push) until it is served or removed. A served sleeper
/// keeps its entry until its future looks at it, so that the future can tell "served" from "still waiting", and so that
/// a future dropped in between knows that it holds something to pass on.
pub(crate) struct WaitList<T> {
    /// Every entry that a future still refers to, served or in line.
    entries: Slab<Entry<T>>,
    /// Ends of the line. `None` when the line is empty.
    ends: Option<(usize, usize)>,
}

/// Names one sleeper until its future removes it. Not reused before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(usize);

struct Entry<T> {
    /// Set by the latest poll, taken by a wake. `None`: woken already, or never polled.
    waker: Option<Waker>,
    place: Place,
    tag: T,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    InLine {
        before: Option<usize>,
        after: Option<usize>,
    },
    Served,
}

/// What [`WaitList::remove`] found.
pub(crate) struct Removed<T> {
    /// The sleeper had been served before it was removed.
    pub(crate) served: bool,
    pub(crate) tag: T,
    /// To be dropped by the caller once no borrow is held.
    pub(crate) waker: Option<Waker>,
}

impl<T> WaitList<T> {
    pub(crate) const fn new() -> Self {
        WaitList {
            entries: Slab::new(),
            ends: None,
        }
    }

    /// Joins the end of the line.
    pub(crate) fn push(&mut self, tag: T, waker: Option<Waker>) -> Key {
        let last = self.ends.map(|(_, last)| last);
        let key = self.entries.insert(Entry {
            waker,
            place: Place::InLine {
                before: last,
                after: None,
            },
            tag,
        });
        if let Some(last) = last {
            self.link_after(last, Some(key));
        }
        self.ends = Some((self.ends.map_or(key, |(first, _)| first), key));
        Key(key)
    }

    /// The sleeper whose turn is next.
    pub(crate) fn front(&self) -> Option<Key> {
        self.ends.map(|(first, _)| Key(first))
    }

    /// The line is empty. (Served sleepers that have not looked yet do not count.)
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_none()
    }

    pub(crate) fn tag(&self, key: Key) -> &T {
        &self.entries[key.0].tag
    }

    pub(crate) fn tag_mut(&mut self, key: Key) -> &mut T {
        &mut self.entries[key.0].tag
    }

    pub(crate) fn is_served(&self, key: Key) -> bool {
        self.entries[key.0].place == Place::Served
    }

    /// Takes the sleeper out of line and marks it served; its waker goes to `wakes`.
    pub(crate) fn serve(&mut self, key: Key, wakes: &mut Wakes) {
        self.unlink(key.0);
        self.nudge(key, wakes);
    }

    /// Wakes the sleeper without serving it: it keeps its place. A second nudge before its next poll does nothing.
    pub(crate) fn nudge(&mut self, key: Key, wakes: &mut Wakes) {
        if let Some(waker) = self.entries[key.0].waker.take() {
            wakes.push(waker);
        }
    }

    /// Nudges everyone in line, first come first.
    pub(crate) fn nudge_all(&mut self, wakes: &mut Wakes) {
        let mut next = self.front();
        while let Some(key) = next {
            self.nudge(key, wakes);
            next = match self.entries[key.0].place {
                Place::InLine { after, .. } => after.map(Key),
                Place::Served => None,
            };
        }
    }

    /// Forgets the sleeper, whether served or in line.
    pub(crate) fn remove(&mut self, key: Key) -> Removed<T> {
        let served = self.is_served(key);
        if !served {
            self.unlink(key.0);
        }
        let entry = self.entries.remove(key.0);
        Removed {
            served,
            tag: entry.tag,
            waker: entry.waker,
        }
    }

    /// Whether the next poll by `waker` has to bring a clone for [`swap_waker`](Self::swap_waker).
    pub(crate) fn needs_waker(&self, key: Key, waker: &Waker) -> bool {
        let stored = &self.entries[key.0].waker;
        !stored
            .as_ref()
            .is_some_and(|stored| stored.will_wake(waker))
    }

    /// Stores a clone brought by a poll; the one it replaces is left in its place, to be dropped outside the borrow.
    pub(crate) fn swap_waker(&mut self, key: Key, spare: &mut Option<Waker>) {
        if spare.is_some() {
            std::mem::swap(&mut self.entries[key.0].waker, spare);
        }
    }

    fn unlink(&mut self, key: usize) {
        let place = std::mem::replace(&mut self.entries[key].place, Place::Served);
        let Place::InLine { before, after } = place else {
            unreachable!("a sleeper leaves the line once");
        };
        if let Some(before) = before {
            self.link_after(before, after);
        }
        if let Some(after) = after
            && let Place::InLine { before: link, .. } = &mut self.entries[after].place
        {
            *link = before;
        }
        self.ends = self.ends.and_then(|(first, last)| {
            let first = if first == key { after } else { Some(first) };
            let last = if last == key { before } else { Some(last) };
            first.zip(last)
        });
    }

    fn link_after(&mut self, key: usize, next: Option<usize>) {
        if let Place::InLine { after, .. } = &mut self.entries[key].place {
            *after = next;
        }
    }
}

/// Wake-ups owed, in order. Filled under a borrow, paid after it: [`wake`](Self::wake), or at the latest by drop.
///
/// A waker that panics does not swallow the ones after it.
#[derive(Default)]
#[must_use = "the sleepers wait for it"]
pub(crate) struct Wakes(VecDeque<Waker>);

impl Wakes {
    pub(crate) fn push(&mut self, waker: Waker) {
        self.0.push_back(waker);
    }

    /// Wakes everyone, in order. The caller holds no borrow.
    pub(crate) fn wake(mut self) {
        self.wake_each();
    }

    fn wake_each(&mut self) {
        while let Some(waker) = self.0.pop_front() {
            waker.wake();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.wake_each();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_that_leaves_the_middle_does_not_break_the_line() {
        let mut list = WaitList::new();
        let keys: Vec<Key> = (0..5).map(|tag| list.push(tag, None)).collect();
        list.remove(keys[2]);
        list.remove(keys[4]);
        list.remove(keys[0]);
        let late = list.push(9, None);
        let mut order = Vec::new();
        while let Some(key) = list.front() {
            order.push(*list.tag(key));
            list.serve(key, &mut Wakes::default());
            assert!(list.is_served(key));
        }
        assert_eq!(order, [1, 3, 9]);
        assert!(list.remove(late).served, "its entry outlives its turn");
    }

    #[test]
    fn a_served_sleeper_may_be_removed_while_others_queue() {
        let mut list = WaitList::new();
        let first = list.push((), None);
        list.serve(first, &mut Wakes::default());
        assert!(list.is_empty(), "served is not in line");
        let second = list.push((), None);
        list.remove(first);
        assert_eq!(list.front(), Some(second));
        assert!(!list.remove(second).served);
        assert!(list.is_empty());
    }
}
