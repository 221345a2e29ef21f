//! The pool's rules, written down a second time: plain data, no futures, no wakers.
//!
//! What happens goes into a trace, in the same words as in `real.rs`. The actors that perform scripts on these rules:
//! `actors.rs`.

use std::collections::VecDeque;
use std::rc::Rc;

use super::script::{Call, End, Id, Script};

/// What happened in a run that a test of the pool must not miss.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub starts_nested: u64,
    pub starts_that_waited: u64,
    pub handed_and_dropped: u64,
    pub hints_dropped_in_turn: u64,
    pub waits_dropped_in_line: u64,
    pub newcomers_after_a_free_slot: u64,
    pub several_ones_at_once: u64,
    pub several_alls_at_once: u64,
    pub alls_that_slept_on: u64,
    pub waits_for_itself: u64,
    pub errors_after_the_first: u64,
    pub panics: u64,
    pub thrown_by_wait_all: u64,
    pub thrown_by_drop: u64,
    pub cancelled_by_drop: u64,
    pub closed_from_inside: u64,
    pub slots_after_the_pool: u64,
}

pub struct Rules {
    pub scripts: Rc<Vec<Script>>,
    pub actors: Vec<Actor>,
    pub max: usize,
    pub busy: usize,
    pub reserved: usize,
    /// How the first failed one failed.
    pub status: Option<String>,
    pub errors: u64,
    /// Whose panic is to be thrown.
    pub payload: Option<Id>,
    pub next_index: u64,
    pub ends: u64,
    /// Who waits for a slot, and who only wants to know of one.
    pub line: Vec<(Id, Wants)>,
    /// Who waits for an end, and how many there had been.
    pub ones: Vec<(Id, u64)>,
    pub alls: Vec<Id>,
    /// Tasks, in the order they started.
    pub tasks: Vec<Id>,
    /// The context's run queue.
    pub ready: VecDeque<Id>,
    /// Who is being polled, innermost last.
    pub stack: Vec<Id>,
    /// The driver's, and one of each actor in a call.
    pub handles: usize,
    pub driver_has_handle: bool,
    pub trace: Vec<String>,
    pub seen: Seen,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    Slot,
    Hint,
}

#[derive(Clone, Default)]
pub struct Actor {
    /// Index, if it is a task of the pool; outsiders are polled by the driver.
    pub task: Option<u64>,
    /// Not freed yet.
    pub alive: bool,
    pub next_action: usize,
    /// In a call: holds a handle. `called` once the call was polled.
    pub in_call: bool,
    pub called: bool,
    /// Served while in a list: has a slot, or its end.
    pub served: bool,
    pub keeps_slot: bool,
    pub yielded: bool,
    pub gate_open: bool,
    /// Whether the gate, or the pool, would wake it.
    pub gate_armed: bool,
    pub armed: bool,
    /// In the run queue, or to be put there when its poll returns.
    pub queued: bool,
}

impl Rules {
    pub fn new(max: usize, scripts: Rc<Vec<Script>>) -> Self {
        Rules {
            actors: vec![Actor::default(); scripts.len()],
            scripts,
            max,
            busy: 0,
            reserved: 0,
            status: None,
            errors: 0,
            payload: None,
            next_index: 0,
            ends: 0,
            line: Vec::new(),
            ones: Vec::new(),
            alls: Vec::new(),
            tasks: Vec::new(),
            ready: VecDeque::new(),
            stack: Vec::new(),
            handles: 1,
            driver_has_handle: true,
            trace: Vec::new(),
            seen: Seen::default(),
        }
    }

    // ---- slots ----

    pub fn slot_is_free(&self) -> bool {
        assert!(self.busy + self.reserved <= self.max);
        self.busy + self.reserved < self.max
    }

    /// A free slot goes to the first in line. One who only wants to know of it holds the line until it has looked.
    pub fn serve_line(&mut self) {
        while self.slot_is_free() && !self.line.is_empty() {
            let (first, wants) = self.line[0];
            if wants == Wants::Hint {
                return self.wake(first);
            }
            self.line.remove(0);
            self.reserved += 1;
            self.actors[first].served = true;
            self.wake(first);
        }
    }

    pub fn give_slot_back(&mut self) {
        self.reserved -= 1;
        self.serve_line();
        self.wake_alls_if_idle();
    }

    pub fn wake_alls_if_idle(&mut self) {
        if self.busy + self.reserved == 0 {
            let alls = self.alls.clone();
            self.seen.several_alls_at_once += u64::from(alls.len() > 1);
            alls.into_iter().for_each(|id| self.wake(id));
        }
    }

    // ---- a task's life ----

    /// Uses a reserved slot.
    /// The task's index; `None` if the pool is gone.
    pub fn start(&mut self, id: Id) -> Option<u64> {
        let index = self.next_index;
        self.next_index += 1;
        self.actors[id] = Actor {
            task: Some(index),
            alive: true,
            ..Actor::default()
        };
        if self.handles == 0 {
            self.seen.slots_after_the_pool += 1;
            self.free(id);
            self.give_slot_back();
            return None;
        }
        let inside = self.stack.iter().any(|id| self.actors[*id].task.is_some());
        self.seen.starts_nested += u64::from(inside);
        self.tasks.push(id);
        self.reserved -= 1;
        self.busy += 1;
        self.run_task(id);
        Some(index)
    }

    pub fn run_task(&mut self, id: Id) {
        if self.poll(id) {
            let (end, index) = (self.scripts[id].end, self.actors[id].task.expect("a task"));
            let early = self.actors[id].next_action < self.scripts[id].actions.len();
            match end {
                _ if early => self.end(id, None), // without a pool it stopped before its end
                End::Ok => self.end(id, None),
                End::Err => self.end(id, Some(format!("{index} failed as {id}"))),
                End::Panic => {
                    self.seen.panics += 1;
                    let closed = self.handles == 0;
                    self.payload = self.payload.or((!closed).then_some(id));
                    self.end(id, Some(format!("{index} panicked")));
                }
            }
        } else if self.handles == 0 {
            self.end(id, None); // it dropped the last handle
        } else if self.actors[id].queued {
            self.ready.push_back(id); // it woke itself
        }
    }

    /// Busy drops, then the status is set, then the task is freed, and then those who wait are woken.
    pub fn end(&mut self, id: Id, error: Option<String>) {
        self.busy -= 1;
        self.ends += 1;
        let end = self.ends;
        if let Some(error) = error {
            self.errors += 1;
            self.seen.errors_after_the_first += u64::from(self.status.is_some());
            self.status.get_or_insert(error);
        }
        self.tasks.retain(|task| *task != id);
        self.free(id);
        // (1) every wait_one that came before this end
        let before = self.ones.iter().filter(|(_, ends)| *ends < end);
        let before: Vec<Id> = before.map(|(id, _)| *id).collect();
        self.ones.retain(|(_, ends)| *ends >= end);
        self.seen.several_ones_at_once += u64::from(before.len() > 1);
        for one in before {
            self.actors[one].served = true;
            self.wake(one);
        }
        // (2) the first who waits for a slot
        self.serve_line();
        // (3) every wait_all if nothing is left
        self.wake_alls_if_idle();
    }

    pub fn drop_handle(&mut self) {
        self.handles -= 1;
        if self.handles > 0 {
            return;
        }
        self.seen.closed_from_inside += u64::from(!self.stack.is_empty());
        for id in self.tasks.clone() {
            if self.stack.contains(&id) {
                continue; // it goes when its poll returns
            }
            self.seen.cancelled_by_drop += 1;
            self.end(id, None);
            if !std::mem::replace(&mut self.actors[id].queued, true) {
                self.ready.push_back(id); // the context clears up after it
            }
        }
        if let Some(thrower) = self.payload.take() {
            self.seen.thrown_by_drop += 1;
            self.note(format!("drop threw {thrower}"));
        }
    }

    // ---- calls that may have to wait ----

    /// What the call returned; `None`: it waits.
    pub fn poll_call(&mut self, id: Id, call: Call) -> Option<String> {
        let first_poll = !std::mem::replace(&mut self.actors[id].called, true);
        let result = match call {
            Call::StartTask(_) | Call::Reserve => {
                self.poll_reserve(id, first_poll).then(|| match call {
                    Call::StartTask(child) => {
                        let index = self
                            .start(child)
                            .expect("a pool that is waited for is open");
                        format!("started {index}")
                    }
                    _ => "reserved".to_owned(),
                })
            }
            Call::WaitSlot => self
                .poll_hint(id, first_poll)
                .then(|| "slot Ok(())".to_owned()),
            Call::WaitOne if first_poll && self.busy == 0 => {
                Some("one Err(NothingBusy)".to_owned())
            }
            Call::WaitOne => {
                if first_poll {
                    self.ones.push((id, self.ends));
                }
                std::mem::take(&mut self.actors[id].served).then(|| "one Ok(())".to_owned())
            }
            Call::WaitAll => self.poll_all(id),
        };
        self.actors[id].armed = result.is_none();
        result
    }

    pub fn poll_reserve(&mut self, id: Id, first_poll: bool) -> bool {
        if first_poll {
            if self.slot_is_free() && self.line.is_empty() {
                self.reserved += 1;
                return true;
            }
            self.seen.starts_that_waited += 1;
            self.seen.newcomers_after_a_free_slot += u64::from(self.slot_is_free());
            self.line.push((id, Wants::Slot));
        }
        std::mem::take(&mut self.actors[id].served)
    }

    pub fn poll_hint(&mut self, id: Id, first_poll: bool) -> bool {
        if first_poll {
            if self.slot_is_free() && self.line.is_empty() {
                return true;
            }
            self.line.push((id, Wants::Hint));
            return false;
        }
        let its_turn = self.line[0].0 == id && self.slot_is_free();
        if its_turn {
            self.line.remove(0);
            self.serve_line();
        }
        its_turn
    }

    pub fn poll_all(&mut self, id: Id) -> Option<String> {
        if self.actors[id].task.is_some() {
            self.seen.waits_for_itself += 1;
            return Some("all WaitsForItself".to_owned());
        }
        if self.busy + self.reserved > 0 {
            let waits = self.alls.contains(&id);
            self.seen.alls_that_slept_on += u64::from(waits && !self.actors[id].armed);
            if !waits {
                self.alls.push(id);
            }
            return None;
        }
        self.alls.retain(|other| *other != id);
        if let Some(thrower) = self.payload.take() {
            self.seen.thrown_by_wait_all += 1;
            return Some(format!("all threw {thrower}"));
        }
        Some(format!("all {}", self.status.as_deref().unwrap_or("clean")))
    }

    /// A wait is dropped. What it had been given goes to the next.
    pub fn drop_call(&mut self, id: Id, call: Call) {
        let called = std::mem::take(&mut self.actors[id].called);
        if !called {
            return;
        }
        self.actors[id].armed = false;
        let place = self.line.iter().position(|(other, _)| *other == id);
        self.seen.waits_dropped_in_line += u64::from(place.is_some());
        self.ones.retain(|(other, _)| *other != id);
        self.alls.retain(|other| *other != id);
        let served = std::mem::take(&mut self.actors[id].served);
        let slot = matches!(call, Call::StartTask(_) | Call::Reserve);
        if slot && served {
            self.seen.handed_and_dropped += 1;
            self.give_slot_back();
        }
        if let Some(place) = place {
            let (_, wants) = self.line.remove(place);
            if place == 0 && wants == Wants::Hint {
                self.seen.hints_dropped_in_turn += u64::from(self.slot_is_free());
                self.serve_line();
            }
        }
        if let Call::StartTask(child) = call {
            self.free(child); // unpolled
        }
    }
}
