//! Each rule of the pool is a test by name. The same rules in random order: `pool_simulator.rs`.

#[path = "../support/mod.rs"]
mod support;

mod accounting; // busy, reserved, and who is woken by what in which order
mod calls; // each call by itself
mod drops; // waits, slots, tasks and pools that are dropped
mod errors; // errors and panics of tasks
mod nested; // what a task may do from inside
mod undriven; // a context that is not driven, or that is gone

use std::future::Future;
use std::num::NonZeroUsize;

use aio_task::{AioContext, AioTaskPool};
use support::{Gate, now};

type Outcome = Result<(), &'static str>;
type Pool = AioTaskPool<&'static str>;

fn context() -> AioContext {
    AioContext::new().expect("a reactor")
}

fn pool(context: &AioContext, max: usize) -> Pool {
    AioTaskPool::new(&context.handle(), NonZeroUsize::new(max).expect("not zero"))
}

/// Starts a task that must find a slot at once.
fn start(pool: &Pool, task: impl Future<Output = Outcome> + 'static) -> u64 {
    now(pool.start_task(task)).expect("a context")
}

/// Starts a task that waits until its gate is opened.
fn start_waiting(pool: &Pool) -> Gate<Outcome> {
    let gate = Gate::new();
    start(pool, gate.clone());
    gate
}

/// The counts that every test looks at: busy, reserved.
fn counts(pool: &Pool) -> (usize, usize) {
    (pool.busy(), pool.reserved())
}
