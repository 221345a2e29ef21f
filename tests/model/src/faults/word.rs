//! Faults of a task's word: what async-task would do wrong if its one atomic did. They are put between the word and loom, where the
//! shim is, so that no copy of async-task is needed.
use super::{Fault, Killer, fault};

const SHIM: &str = "tests/model/atomic-shim/src/lib.rs";
const LOOMS: &str = "pub use loom::sync::atomic::*;";

/// A word over loom's, with everything that async-task asks of it, each in the words given. `self.0` is loom's.
macro_rules! word {
    (change: $change:literal, count_down: $count_down:literal, flag: $flag:literal) => {
        concat!(
            "pub use loom::sync::atomic::*;
#[cfg(loom)]
#[derive(Debug)]
pub struct AtomicUsize(loom::sync::atomic::AtomicUsize);
#[cfg(loom)]
type Changed = Result<usize, usize>;
#[cfg(loom)]
impl AtomicUsize {
    #[track_caller]
    pub fn new(value: usize) -> Self {
        Self(loom::sync::atomic::AtomicUsize::new(value))
    }
    pub fn load(&self, order: Ordering) -> usize {
        self.0.load(order)
    }
    pub fn store(&self, value: usize, order: Ordering) {
        self.0.store(value, order)
    }
    pub fn compare_exchange_weak(&self, old: usize, new: usize, done: Ordering, failed: Ordering) -> Changed {
        ",
            $change,
            "
    }
    pub fn compare_exchange(&self, old: usize, new: usize, done: Ordering, failed: Ordering) -> Changed {
        self.compare_exchange_weak(old, new, done, failed)
    }
    pub fn fetch_add(&self, n: usize, order: Ordering) -> usize {
        self.0.fetch_add(n, order)
    }
    pub fn fetch_sub(&self, n: usize, order: Ordering) -> usize {
        ",
            $count_down,
            "
    }
    pub fn fetch_or(&self, n: usize, order: Ordering) -> usize {
        ",
            $flag,
            "
    }
    pub fn fetch_and(&self, n: usize, order: Ordering) -> usize {
        self.0.fetch_and(n, order)
    }
}"
        )
    };
    (flag: $flag:literal) => {
        word!(
            change: "self.0.compare_exchange(old, new, done, failed)",
            count_down: "self.0.fetch_sub(n, order)",
            flag: $flag
        )
    };
    (change: $change:literal) => {
        word!(
            change: $change,
            count_down: "self.0.fetch_sub(n, order)",
            flag: "self.0.fetch_or(n, order)"
        )
    };
    (count_down: $count_down:literal) => {
        word!(
            change: "self.0.compare_exchange(old, new, done, failed)",
            count_down: $count_down,
            flag: "self.0.fetch_or(n, order)"
        )
    };
}

const COALESCED: &str = "a_wake_happens_before_the_poll_it_causes_even_when_two_become_one";
const LITMUS: &str = "litmus_a_wake_after_a_coalesced_one_is_not_lost";
const RUNNABLES: &str = "two_wakers_at_once_make_one_runnable";
const OUTPUT: &str = "an_output_awaited_on_another_thread_is_read_after_it_was_written";
const ELSEWHERE: &str = "a_task_of_one_context_awaited_in_another_ends_with_its_output";
const LAST: &str = "the_last_waker_dropped_elsewhere_frees_the_task_once";

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "a task's word has a word around it",
        file: SHIM,
        search: LOOMS,
        replacement: word!(change: "self.0.compare_exchange(old, new, done, failed)"),
        killer: Killer::Equivalent {
            why: "every operation is passed on as it is: what the other faults of this word change is what is noticed",
            watched: &[COALESCED, RUNNABLES, OUTPUT, ELSEWHERE, LAST],
        },
    },
    fault(
        "a change of a task's word does not release",
        SHIM,
        LOOMS,
        word!(change: "let _ = done; self.0.compare_exchange(old, new, Ordering::Acquire, failed)"),
        &[COALESCED],
    ),
    fault(
        "a change of a task's word does not acquire",
        SHIM,
        LOOMS,
        word!(change: "let _ = done; self.0.compare_exchange(old, new, Ordering::Release, failed)"),
        &[COALESCED],
    ),
    fault(
        "nothing that is done to a task's word releases",
        SHIM,
        LOOMS,
        word!(
            change: "let _ = done; self.0.compare_exchange(old, new, Ordering::Acquire, failed)",
            count_down: "let _ = order; self.0.fetch_sub(n, Ordering::Acquire)",
            flag: "let _ = order; self.0.fetch_or(n, Ordering::Acquire)"
        ),
        &[COALESCED, OUTPUT],
    ),
    fault(
        "a wake leaves the word of a task alone that was woken before",
        SHIM,
        LOOMS,
        word!(change: "if old == new { return Ok(old); } self.0.compare_exchange(old, new, done, failed)"),
        &[COALESCED, LITMUS],
    ),
    fault(
        "a task's references are counted down by a load and a store",
        SHIM,
        LOOMS,
        word!(count_down: "let was = self.0.load(Ordering::Acquire); self.0.store(was - n, Ordering::Release); let _ = order; was"),
        &[LAST, RUNNABLES],
    ),
    fault(
        "a task's end does not see who waits for it",
        SHIM,
        LOOMS,
        word!(flag: "let was = self.0.fetch_or(n, order); if n == 0 { was } else { was | n }"),
        &[OUTPUT, ELSEWHERE],
    ),
    fault(
        "a task's flags are set by a load and a store",
        SHIM,
        LOOMS,
        word!(flag: "let was = self.0.load(Ordering::Acquire); self.0.store(was | n, Ordering::Release); let _ = order; was"),
        &[OUTPUT, ELSEWHERE],
    ),
];
