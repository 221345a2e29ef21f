//! Time for the model checker: it stands still, and whether a time limit passes before anything else happens is a choice that loom
//! explores.
//!
//! loom branches on which of several unordered stores a relaxed load sees, and on nothing else that one thread could ask for. So a
//! choice is a flag that another thread stores `true` to: any task that loads it, without any order between the two, sees either value.
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize as Invisible;
use std::time::{Duration, Instant};

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

/// How many waits of one execution have a choice. Later ones never time out.
pub(crate) const CHOICES: usize = 3;

loom::lazy_static! {
    static ref TIME: Time = Time {
        choices: Default::default(),
        next: Invisible::new(0),
        nanos: AtomicU64::new(0),
    };
}

struct Time {
    /// Stays false unless the execution runs inside [`passing`]; then either value may be seen, once by each wait.
    choices: [AtomicBool; CHOICES],
    /// The first choice that no task has made.
    next: Invisible,
    /// How far the clock has been moved. Only grows.
    nanos: AtomicU64,
}

/// Runs `body` on a thread of its own, where time limits may pass. Without this they never do.
pub(crate) fn passing(body: impl FnOnce() + Send + 'static) {
    let time: &Time = &TIME; // made before the thread is: its choices start out false for both
    let thread = thread::spawn(body);
    for choice in &time.choices {
        choice.store(true, Ordering::Relaxed);
    }
    if let Err(payload) = thread.join() {
        std::panic::resume_unwind(payload);
    }
}

/// The explored choice: whether the wait that asks ends by its limit.
pub(crate) fn limit_passes() -> bool {
    let next = TIME.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    TIME.choices
        .get(next)
        .is_some_and(|choice| choice.load(Ordering::Relaxed))
}

/// Moves the clock on, if it is not there yet.
pub(crate) fn advance_to(at: Instant) {
    let nanos = at.saturating_duration_since(start()).as_nanos();
    let nanos = u64::try_from(nanos).expect("a model's limits are short");
    TIME.nanos.fetch_max(nanos, Ordering::AcqRel);
}

pub(crate) fn now() -> Instant {
    start() + Duration::from_nanos(TIME.nanos.load(Ordering::Acquire))
}

/// The same for every execution of a process: explored again, an execution computes the same.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}
