//! The other actors: they perform the scripts on the rules, as `real.rs` does on the pool.

use std::rc::Rc;

use super::real::Counts;
use super::rules::Rules;
use super::script::{Action, Call, Id};

/// What the driver does.
impl Rules {
    pub fn new_outsider(&mut self, id: Id) {
        self.actors[id].alive = true;
    }

    /// True: it has ended.
    pub fn poll_outsider(&mut self, id: Id) -> bool {
        let ended = self.poll(id);
        if ended {
            self.free(id);
        }
        ended
    }

    pub fn drop_outsider(&mut self, id: Id) {
        self.free(id);
    }

    pub fn open_gate(&mut self, id: Id) {
        self.actors[id].gate_open = true;
        if std::mem::take(&mut self.actors[id].gate_armed) {
            self.signal(id);
        }
    }

    pub fn drop_pool(&mut self) {
        self.driver_has_handle = false;
        self.drop_handle();
    }

    /// Runs the first of the run queue; false if there is none.
    pub fn step(&mut self) -> bool {
        let Some(id) = self.ready.pop_front() else {
            return false;
        };
        self.actors[id].queued = false;
        if self.actors[id].alive {
            self.run_task(id);
        }
        true
    }

    pub fn state(&self) -> Option<Counts> {
        self.driver_has_handle.then(|| Counts {
            busy: self.busy,
            reserved: self.reserved,
            errors: self.errors,
            status: self.status.clone().unwrap_or_else(|| "clean".to_owned()),
        })
    }

    /// Those whose gates may be opened.
    pub fn closed_gates(&self) -> Vec<Id> {
        let closed = |id: &Id| self.actors[*id].alive && !self.actors[*id].gate_open;
        (0..self.actors.len()).filter(closed).collect()
    }

    pub fn slots_kept_outside(&self) -> usize {
        let outside = self
            .actors
            .iter()
            .filter(|actor| actor.alive && actor.task.is_none());
        outside.map(|actor| usize::from(actor.keeps_slot)).sum()
    }
}

/// What actors do.
impl Rules {
    /// One poll. True: it has come to its end.
    pub fn poll(&mut self, id: Id) -> bool {
        self.note(format!("poll {id}"));
        self.stack.push(id);
        let ended = self.perform(id);
        if ended && std::mem::take(&mut self.actors[id].keeps_slot) {
            self.give_slot_back();
        }
        self.stack.pop();
        ended
    }

    fn perform(&mut self, id: Id) -> bool {
        let scripts = Rc::clone(&self.scripts);
        while let Some(action) = scripts[id].actions.get(self.actors[id].next_action) {
            match *action {
                Action::Gate => {
                    if !self.pass_gate(id) {
                        return false;
                    }
                }
                Action::Yield => {
                    if !std::mem::replace(&mut self.actors[id].yielded, true) {
                        self.signal(id);
                        return false;
                    }
                    self.actors[id].yielded = false;
                }
                Action::DropSlot => self.keep_slot(id, false),
                Action::StartInSlot(child) => {
                    if std::mem::take(&mut self.actors[id].keeps_slot) {
                        let index = self.start(child);
                        self.note(format!("{id}: in slot {index:?}"));
                    }
                }
                Action::TryReserve if !self.driver_has_handle => return true,
                Action::TryReserve => {
                    let free = self.slot_is_free() && self.line.is_empty();
                    self.note(format!("{id}: tried {free}"));
                    if free {
                        self.reserved += 1;
                        self.keep_slot(id, true);
                    }
                }
                Action::Await(call) | Action::AwaitOrGate(call) => {
                    if !self.actors[id].in_call {
                        if !self.driver_has_handle {
                            return true;
                        }
                        self.actors[id].in_call = true;
                        self.handles += 1;
                    }
                    if matches!(action, Action::AwaitOrGate(_)) && self.pass_gate(id) {
                        self.drop_call(id, call);
                        self.note(format!("{id}: gave up"));
                    } else {
                        let Some(result) = self.poll_call(id, call) else {
                            return false;
                        };
                        self.actors[id].called = false;
                        self.note(format!("{id}: {result}"));
                        if matches!(call, Call::Reserve) {
                            self.keep_slot(id, true);
                        }
                    }
                    self.actors[id].in_call = false;
                    self.drop_handle();
                }
            }
            self.actors[id].next_action += 1;
        }
        true
    }

    fn pass_gate(&mut self, id: Id) -> bool {
        let open = std::mem::take(&mut self.actors[id].gate_open);
        self.actors[id].gate_armed |= !open;
        open
    }

    /// The slot kept so far is dropped.
    fn keep_slot(&mut self, id: Id, another: bool) {
        if std::mem::replace(&mut self.actors[id].keeps_slot, another) {
            self.give_slot_back();
        }
    }

    /// Drops what is left of it, the call first.
    pub fn free(&mut self, id: Id) {
        if std::mem::take(&mut self.actors[id].in_call) {
            let action = self.scripts[id].actions[self.actors[id].next_action];
            if let Action::Await(call) | Action::AwaitOrGate(call) = action {
                self.drop_call(id, call);
            }
            self.drop_handle();
        }
        self.keep_slot(id, false);
        self.actors[id].alive = false;
        let state = self.state();
        self.note(format!("freed {id}: {state:?}"));
    }

    pub fn wake(&mut self, id: Id) {
        if std::mem::take(&mut self.actors[id].armed) {
            self.signal(id);
        }
    }

    pub fn signal(&mut self, id: Id) {
        if self.actors[id].task.is_none() {
            self.note(format!("woken {id}"));
        } else if !std::mem::replace(&mut self.actors[id].queued, true) && !self.stack.contains(&id)
        {
            self.ready.push_back(id);
        }
    }

    pub fn note(&mut self, what: String) {
        self.trace.push(what);
    }
}
