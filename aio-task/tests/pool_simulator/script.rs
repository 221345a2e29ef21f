//! What the actors of one run do. Made from the seed before the run, so that the pool and the rules play the same piece.

use super::support::Random;

pub type Id = usize;

/// One thing an actor does.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Sleep until the driver opens this actor's gate.
    Gate,
    /// Wake oneself and sleep.
    Yield,
    /// `try_reserve`; keep the slot.
    TryReserve,
    /// Drop the slot kept, if any.
    DropSlot,
    /// Start this actor in the slot kept, if any.
    StartInSlot(Id),
    /// Call, and await.
    Await(Call),
    /// Call, and await it or the gate: if the gate is open, the call is dropped, even if it was ready.
    AwaitOrGate(Call),
}

/// A call of the pool that may have to wait.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    StartTask(Id),
    /// Keep the slot; one kept before is dropped then.
    Reserve,
    WaitSlot,
    WaitOne,
    WaitAll,
}

/// How an actor ends after its last action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Ok,
    Err,
    Panic,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub actions: Vec<Action>,
    pub end: End,
}

/// Writes the script of an actor, and of those it starts. Returns its number.
pub fn write(scripts: &mut Vec<Script>, random: &mut Random, depth: usize) -> Id {
    let id = scripts.len();
    scripts.push(Script {
        actions: Vec::new(),
        end: End::Ok,
    });
    let length = random.below(if depth == 0 { 7 } else { 4 });
    let mut actions = Vec::new();
    for _ in 0..length {
        let kept = actions.last().is_some_and(|last| may_keep_a_slot(*last));
        if kept && random.chance(60) {
            actions.push(Action::Gate);
        }
        actions.push(match kept && depth < 3 && random.chance(60) {
            true => Action::StartInSlot(write(scripts, random, depth + 1)),
            false => action(scripts, random, depth),
        });
    }
    let end = match random.below(10) {
        0 | 1 => End::Err,
        2 => End::Panic,
        _ => End::Ok,
    };
    scripts[id] = Script { actions, end };
    id
}

fn action(scripts: &mut Vec<Script>, random: &mut Random, depth: usize) -> Action {
    match random.below(16) {
        0..4 => Action::Gate,
        4 => Action::Yield,
        5 => Action::TryReserve,
        6 => Action::DropSlot,
        7 if depth < 3 => Action::StartInSlot(write(scripts, random, depth + 1)),
        8..12 => Action::AwaitOrGate(call(scripts, random, depth)),
        _ => Action::Await(call(scripts, random, depth)),
    }
}

fn call(scripts: &mut Vec<Script>, random: &mut Random, depth: usize) -> Call {
    match random.below(16) {
        0..7 if depth < 3 => Call::StartTask(write(scripts, random, depth + 1)),
        7..9 => Call::Reserve,
        9..11 => Call::WaitSlot,
        11..13 => Call::WaitOne,
        // For a task it is an error, always.
        13..16 if depth == 0 || random.chance(20) => Call::WaitAll,
        _ => Call::WaitSlot,
    }
}

fn may_keep_a_slot(action: Action) -> bool {
    use Action::{Await, AwaitOrGate, TryReserve};
    matches!(
        action,
        TryReserve | Await(Call::Reserve) | AwaitOrGate(Call::Reserve)
    )
}
