//! The pool against its rules, over thousands of seeded schedules.
//!
//! A run has a pool of 1 to 8 slots and actors: outsiders that the driver polls, and tasks that the context runs, one step
//! at a time. Each performs a script: it waits for its gate, wakes itself, starts others, reserves slots, waits for slots
//! and ends, gives up waits, fails, panics. The driver opens gates, steps, polls (also those that no task woke) and drops, in
//! random order. After each move everything that was seen (polls, wakes, results, frees, counts, status) must be what
//! `rules.rs` and `actors.rs` say, in the same order. A run is its seed.
#![allow(unreachable_pub)] // the modules of one test

mod actors; // perform the scripts on the rules
mod real; // perform them on the pool
mod rules; // the rules as plain data
mod script; // what actors do, from the seed
#[path = "../support/mod.rs"]
mod support;

use std::num::NonZeroUsize;
use std::rc::Rc;

use aio_task::AioContext;
use real::World;
use rules::{Rules, Seen};
use script::Id;
use support::{Probe, Random};

const SEEDS: u64 = 5000;

/// Seeds that once found a fault, here or in a change that was never made. They stay.
const REGRESSIONS: &[(u64, &str)] = &[
    (3, "a future freed after its waiters woke"),
    (4, "a slot leaked by a dropped waiter"),
    (16, "a slot not passed on by a dropped waiter"),
    (27, "a hint dropped in its turn, a newcomer that overtook"),
    (35, "a wait_all woken before the slot was handed"),
    (102, "a slot used after its pool"),
    (153, "tasks cancelled out of order"),
    (155, "a task that lived on after it dropped its pool"),
];

#[test]
fn the_pool_follows_its_rules_over_thousands_of_schedules() {
    let mut runs_with = Vec::new();
    let mut moves = 0;
    for seed in 0..SEEDS {
        let run = Run::play(seed);
        moves += run.moves;
        runs_with.push(run.rules.seen);
    }
    assert!(moves > SEEDS * 40, "{moves} moves are too few");
    let share = |name: &str, at_least: f64, of: fn(&Seen) -> u64| {
        let runs = runs_with.iter().filter(|seen| of(seen) > 0).count();
        let percent = 100.0 * runs as f64 / SEEDS as f64;
        println!("{percent:5.1} % of runs: {name}");
        assert!(
            percent >= at_least,
            "{name}: only {percent} % of runs, at least {at_least} %"
        );
    };
    share("a nested start", 25.0, |seen| seen.starts_nested);
    share("a start or reserve that waited", 25.0, |seen| {
        seen.starts_that_waited
    });
    share("a waiter dropped after it was handed a slot", 7.0, |seen| {
        seen.handed_and_dropped
    });
    share("a hint dropped in its turn", 2.5, |seen| {
        seen.hints_dropped_in_turn
    });
    share("a wait dropped in line", 20.0, |seen| {
        seen.waits_dropped_in_line
    });
    share("a newcomer after a free slot", 2.0, |seen| {
        seen.newcomers_after_a_free_slot
    });
    share("several wait_one at one end", 2.5, |seen| {
        seen.several_ones_at_once
    });
    share("several wait_all at one end", 2.5, |seen| {
        seen.several_alls_at_once
    });
    share("a woken wait_all that slept on", 1.0, |seen| {
        seen.alls_that_slept_on
    });
    share("a task that waits for itself", 5.0, |seen| {
        seen.waits_for_itself
    });
    share("an error after the first", 15.0, |seen| {
        seen.errors_after_the_first
    });
    share("a panic", 15.0, |seen| seen.panics);
    share("a payload thrown by wait_all", 5.0, |seen| {
        seen.thrown_by_wait_all
    });
    share("a payload thrown by the drop", 10.0, |seen| {
        seen.thrown_by_drop
    });
    share("a task cancelled by the drop", 5.0, |seen| {
        seen.cancelled_by_drop
    });
    share("a pool closed from inside a task", 5.0, |seen| {
        seen.closed_from_inside
    });
    share("a slot used after its pool", 0.5, |seen| {
        seen.slots_after_the_pool
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..100 {
        let traces = [(); 2].map(|()| Run::play(seed).trace);
        assert!(traces[0].len() > 3, "seed {seed}: nothing happened");
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
    assert_ne!(Run::play(1).trace, Run::play(2).trace);
}

#[test]
fn seeds_that_once_failed_do_not_fail_again() {
    for (seed, fault) in REGRESSIONS {
        println!("seed {seed}: {fault}");
        Run::play(*seed);
    }
}

/// The context goes away in the middle. What order it frees its tasks in is its own business, but all of them end, no
/// status is set by that, and every wait returns.
#[test]
fn a_context_that_goes_away_leaves_a_pool_that_waits_for_nothing() {
    let mut busy_runs = 0;
    for seed in 0..SEEDS / 4 {
        let context = context();
        let mut run = Run::new(seed, &context);
        let hand = context.by_hand();
        for _ in 0..40 {
            run.random_move(&hand);
        }
        let before = run.world.state().expect("the driver has a handle");
        busy_runs += usize::from(before.busy > 0);
        drop(hand);
        drop(context);
        let after = run.world.state().expect("the driver has a handle");
        assert_eq!(
            (after.busy, after.errors),
            (0, before.errors),
            "seed {seed}"
        );
        for (id, outsider) in &mut run.outsiders {
            let mut left = 100;
            while outsider.is_pending() {
                run.world.open_gate(*id);
                left -= 1;
                assert!(left > 0, "seed {seed}: actor {id} waits for ever");
            }
        }
        run.outsiders.clear();
        assert_eq!(
            run.world.state().expect("the driver has a handle").reserved,
            0,
            "seed {seed}"
        );
    }
    assert!(busy_runs > 300, "{busy_runs}: most contexts were idle");
}

fn context() -> AioContext {
    AioContext::new().expect("a reactor")
}

/// One run: the pool and the rules side by side.
struct Run {
    seed: u64,
    random: Random,
    world: Rc<World>,
    rules: Rules,
    /// Scripts of outsiders that have not come yet.
    to_come: Vec<Id>,
    outsiders: Vec<(Id, Probe<'static, Result<(), Id>>)>,
    trace: Vec<String>,
    moves: u64,
}

impl Run {
    fn play(seed: u64) -> Run {
        let context = context();
        let mut run = Run::new(seed, &context);
        let hand = context.by_hand();
        let length = 30 + run.random.below(60);
        for _ in 0..length {
            run.random_move(&hand);
        }
        if run.random.chance(40) {
            run.finish(&hand);
        }
        run.drop_all(&hand);
        run
    }

    fn new(seed: u64, context: &AioContext) -> Run {
        let mut random = Random::new(seed);
        let max = 1 + random.below(if seed.is_multiple_of(3) { 8 } else { 3 });
        let mut scripts = Vec::new();
        let count = 4 + random.below(12);
        let to_come: Vec<Id> = (0..count)
            .map(|_| script::write(&mut scripts, &mut random, 0))
            .collect();
        for id in &to_come {
            // What an outsider returns does not matter.
            scripts[*id].end = script::End::Ok;
        }
        let scripts = Rc::new(scripts);
        let limit = NonZeroUsize::new(max).expect("1 to 8");
        Run {
            seed,
            random,
            world: World::new(&context.handle(), limit, Rc::clone(&scripts)),
            rules: Rules::new(max, scripts),
            to_come,
            outsiders: Vec::new(),
            trace: Vec::new(),
            moves: 0,
        }
    }

    fn random_move(&mut self, hand: &aio_task::ByHand<'_>) {
        match self.random.below(20) {
            0..4 => self.next_outsider_comes(),
            4..9 => self.step(hand),
            9..13 => {
                let closed = self.rules.closed_gates();
                if !closed.is_empty() {
                    let id = closed[self.random.below(closed.len())];
                    self.open_gate(id);
                }
            }
            13..19 if !self.outsiders.is_empty() => {
                let which = self.random.below(self.outsiders.len());
                self.poll(which);
            }
            19 if !self.outsiders.is_empty() => {
                let which = self.random.below(self.outsiders.len());
                self.drop_outsider(which);
            }
            _ => {}
        }
    }

    /// Everyone goes on as far as they can: all gates open, again and again.
    fn finish(&mut self, hand: &aio_task::ByHand<'_>) {
        while !self.to_come.is_empty() {
            self.next_outsider_comes();
        }
        for _ in 0..20 {
            for id in self.rules.closed_gates() {
                self.open_gate(id);
            }
            for _ in 0..20 {
                self.step(hand);
            }
            for which in (0..self.outsiders.len()).rev() {
                self.poll(which);
            }
        }
    }

    /// The driver drops all that it has, in random order, and the context runs what is left.
    fn drop_all(&mut self, hand: &aio_task::ByHand<'_>) {
        let pool_goes_after = match self.random.chance(50) {
            true => 0,
            false => self.random.below(self.outsiders.len() + 1),
        };
        for dropped in 0.. {
            if dropped == pool_goes_after {
                self.world.drop_pool();
                self.rules.drop_pool();
                self.compare("drop the pool");
            }
            if self.outsiders.is_empty() {
                break;
            }
            if self.random.chance(50) {
                let which = self.random.below(self.outsiders.len());
                self.poll(which);
            } else {
                let which = self.random.below(self.outsiders.len());
                self.drop_outsider(which);
            }
            for id in self.rules.closed_gates() {
                if self.random.chance(30) {
                    self.open_gate(id);
                }
            }
            self.step(hand);
        }
        for _ in 0..100 {
            for id in self.rules.closed_gates() {
                self.open_gate(id);
            }
            self.step(hand);
        }
        assert_eq!(self.rules.slots_kept_outside(), 0);
    }

    fn next_outsider_comes(&mut self) {
        if let Some(id) = self.to_come.pop() {
            self.outsiders.push((id, self.world.outsider(id)));
            self.rules.new_outsider(id);
            self.compare("come");
        }
    }

    fn step(&mut self, hand: &aio_task::ByHand<'_>) {
        let (ran, expected) = (hand.step(), self.rules.step());
        self.compare("step");
        assert_eq!(ran, expected, "seed {}: the run queues differ", self.seed);
    }

    fn open_gate(&mut self, id: Id) {
        self.world.open_gate(id);
        self.rules.open_gate(id);
        self.compare("open");
    }

    fn poll(&mut self, which: usize) {
        let (id, outsider) = &mut self.outsiders[which];
        let id = *id;
        let ended = outsider.poll().is_ready();
        if ended {
            self.outsiders.remove(which);
        }
        let expected = self.rules.poll_outsider(id);
        self.compare("poll");
        assert_eq!(ended, expected, "seed {}: actor {id}", self.seed);
    }

    fn drop_outsider(&mut self, which: usize) {
        let (id, outsider) = self.outsiders.remove(which);
        drop(outsider);
        self.rules.drop_outsider(id);
        self.compare("drop");
    }

    fn compare(&mut self, what: &str) {
        self.moves += 1;
        let (seen, expected) = (self.world.log.take(), std::mem::take(&mut self.rules.trace));
        let (state, expected_state) = (self.world.state(), self.rules.state());
        if seen != expected || state != expected_state {
            let (seed, moves) = (self.seed, self.moves);
            let before = self.trace.join("\n  ");
            panic!(
                "seed {seed}, move {moves} ({what}): the pool departs from its rules\n  {before}\npool:  {seen:#?} {state:?}\nrules: {expected:#?} {expected_state:?}"
            );
        }
        self.trace.push(format!("-- {what}"));
        self.trace.extend(seen);
        self.trace.push(format!("{state:?}"));
    }
}
