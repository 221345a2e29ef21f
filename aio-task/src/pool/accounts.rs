//! Who is busy, who sleeps, and who is woken by what: the pool's rules, as plain data.
//!
//! No future is polled and no waker is called here. Every method that owes wake-ups puts them into a [`Wakes`], in the
//! order in which the caller must pay them once the borrow is over.

use std::num::NonZeroUsize;
use std::task::{Poll, Waker};

use super::error::WaitOneError;
use crate::wait_list::{Key, WaitList, Wakes};

pub(super) struct Accounts {
    max: NonZeroUsize,
    /// Tasks whose first poll has begun and that have not ended. `busy + reserved <= max`, always.
    busy: usize,
    /// Slots that belong to a [`Slot`](super::Slot), to a waiter that was handed one and has not looked yet, or to a
    /// queued task that waits for its first poll.
    reserved: usize,
    /// Ends so far. Only grows: tells which `wait_one` came before an end.
    ended: u64,
    /// Who wants a slot, in one line. Never holds a `Turn::Reserve` at its front while a slot is free.
    line: WaitList<Turn>,
    /// Waits for the next end. The tag is `ended` at registration, so it rises along the line.
    ones: WaitList<u64>,
    /// Waits for `busy + reserved == 0`. They keep their places when a new task starts before they look.
    alls: WaitList<()>,
}

/// What a waiter in the line for slots wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// A slot of its own: `start_task` and `reserve`. Served means that the slot is counted in `reserved` already.
    Reserve,
    /// To know that a slot is free: `wait_slot`. Nudged in its turn; leaves the line by itself.
    Hint,
}

/// The end of one task, begun and not yet told to those who wait for it.
#[must_use = "who waits for this end must be woken"]
pub(super) struct Ended(u64);

impl Accounts {
    pub(super) fn new(max: NonZeroUsize) -> Self {
        Accounts {
            max,
            busy: 0,
            reserved: 0,
            ended: 0,
            line: WaitList::new(),
            ones: WaitList::new(),
            alls: WaitList::new(),
        }
    }

    pub(super) fn max(&self) -> usize {
        self.max.get()
    }

    pub(super) fn busy(&self) -> usize {
        self.busy
    }

    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Nothing runs and nothing is about to: what `wait_all` waits for.
    pub(super) fn is_idle(&self) -> bool {
        self.busy + self.reserved == 0
    }

    /// Takes a free slot, unless a task is in line for it.
    pub(super) fn try_reserve(&mut self) -> bool {
        let free = self.line.is_empty() && self.has_free_slot();
        if free {
            self.reserved += 1;
        }
        self.check();
        free
    }

    /// A reserved slot becomes a busy task: its first poll begins.
    pub(super) fn begin(&mut self) {
        self.reserved -= 1;
        self.busy += 1;
        self.check();
    }

    /// A reserved slot is given back without a task.
    pub(super) fn release(&mut self, wakes: &mut Wakes) {
        self.reserved -= 1;
        self.slot_came_free(wakes);
    }

    /// A busy task has ended. Its future is freed between this and [`tell`](Self::tell).
    pub(super) fn end(&mut self) -> Ended {
        self.busy -= 1;
        self.ended += 1;
        self.check();
        Ended(self.ended)
    }

    /// Wakes whom an end concerns: (1) every `wait_one` registered before it, (2) the line for slots,
    /// (3) every `wait_all` if the pool is idle.
    pub(super) fn tell(&mut self, Ended(end): Ended, wakes: &mut Wakes) {
        while let Some(key) = self.ones.front()
            && *self.ones.tag(key) < end
        {
            self.ones.serve(key, wakes);
        }
        self.slot_came_free(wakes);
    }

    /// Polls a wait for a slot of its own. Ready: the slot is reserved for the caller.
    pub(super) fn poll_reserve(
        &mut self,
        place: &mut Option<Key>,
        spare: &mut Option<Waker>,
    ) -> Poll<()> {
        match *place {
            None if self.try_reserve() => Poll::Ready(()),
            None => {
                *place = Some(self.line.push(Turn::Reserve, spare.take()));
                Poll::Pending
            }
            Some(key) if self.line.is_served(key) => {
                *place = None;
                *spare = self.line.remove(key).waker;
                Poll::Ready(())
            }
            Some(key) => {
                self.line.swap_waker(key, spare);
                Poll::Pending
            }
        }
    }

    /// Polls a wait for the hint that a slot is free. Ready: its turn is over, and the next in line had been woken.
    pub(super) fn poll_hint(
        &mut self,
        place: &mut Option<Key>,
        spare: &mut Option<Waker>,
        wakes: &mut Wakes,
    ) -> Poll<()> {
        match *place {
            None if self.line.is_empty() && self.has_free_slot() => Poll::Ready(()),
            None => {
                *place = Some(self.line.push(Turn::Hint, spare.take()));
                Poll::Pending
            }
            Some(key) if self.line.front() == Some(key) && self.has_free_slot() => {
                *place = None;
                *spare = self.line.remove(key).waker;
                self.advance_line(wakes);
                Poll::Ready(())
            }
            Some(key) => {
                self.line.swap_waker(key, spare);
                Poll::Pending
            }
        }
    }

    /// Polls a wait for the next end.
    pub(super) fn poll_one(
        &mut self,
        place: &mut Option<Key>,
        spare: &mut Option<Waker>,
    ) -> Poll<Result<(), WaitOneError>> {
        match *place {
            None if self.busy == 0 => Poll::Ready(Err(WaitOneError::NothingBusy)),
            None => {
                *place = Some(self.ones.push(self.ended, spare.take()));
                Poll::Pending
            }
            Some(key) if self.ones.is_served(key) => {
                *place = None;
                *spare = self.ones.remove(key).waker;
                Poll::Ready(Ok(()))
            }
            Some(key) => {
                self.ones.swap_waker(key, spare);
                Poll::Pending
            }
        }
    }

    /// Polls a wait for the pool to be idle.
    pub(super) fn poll_all(
        &mut self,
        place: &mut Option<Key>,
        spare: &mut Option<Waker>,
    ) -> Poll<()> {
        match *place {
            _ if self.is_idle() => {
                if let Some(key) = place.take() {
                    *spare = self.alls.remove(key).waker;
                }
                Poll::Ready(())
            }
            None => {
                *place = Some(self.alls.push((), spare.take()));
                Poll::Pending
            }
            Some(key) => {
                self.alls.swap_waker(key, spare);
                Poll::Pending
            }
        }
    }

    /// Whether the next poll of this wait has to bring a clone of its waker.
    pub(super) fn needs_waker(&self, wait: Wait, key: Key, waker: &Waker) -> bool {
        match wait {
            Wait::Reserve | Wait::Hint => self.line.needs_waker(key, waker),
            Wait::One => self.ones.needs_waker(key, waker),
            Wait::All => self.alls.needs_waker(key, waker),
        }
    }

    /// A wait was dropped before it was ready. What it had been handed goes to the next in line. Returns its waker, to
    /// be dropped outside the borrow.
    pub(super) fn leave(&mut self, wait: Wait, key: Key, wakes: &mut Wakes) -> Option<Waker> {
        match wait {
            Wait::Reserve => {
                let removed = self.line.remove(key);
                if removed.served {
                    self.release(wakes);
                }
                removed.waker
            }
            Wait::Hint => {
                let its_turn = self.line.front() == Some(key);
                let removed = self.line.remove(key);
                if its_turn {
                    self.advance_line(wakes);
                }
                removed.waker
            }
            Wait::One => self.ones.remove(key).waker,
            Wait::All => self.alls.remove(key).waker,
        }
    }

    fn has_free_slot(&self) -> bool {
        self.busy + self.reserved < self.max()
    }

    fn slot_came_free(&mut self, wakes: &mut Wakes) {
        self.advance_line(wakes);
        if self.is_idle() {
            self.alls.nudge_all(wakes);
        }
        self.check();
    }

    /// Serves the line as far as free slots go. A hint at the front holds the others until it has looked, or left.
    fn advance_line(&mut self, wakes: &mut Wakes) {
        while self.has_free_slot()
            && let Some(first) = self.line.front()
        {
            match self.line.tag(first) {
                Turn::Reserve => {
                    self.reserved += 1;
                    self.line.serve(first, wakes);
                }
                Turn::Hint => {
                    self.line.nudge(first, wakes);
                    break;
                }
            }
        }
    }

    fn check(&self) {
        debug_assert!(
            self.busy + self.reserved <= self.max(),
            "{} busy + {} reserved > {}",
            self.busy,
            self.reserved,
            self.max
        );
    }
}

/// Which of the four waits a place belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// `start_task`, `reserve`
    Reserve,
    /// `wait_slot`
    Hint,
    /// `wait_one`
    One,
    /// `wait_all`
    All,
}
