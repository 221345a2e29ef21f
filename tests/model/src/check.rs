//! How one model is explored, so that it cannot pass without checking anything.
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// One model: what `models` lists, and what a process runs.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// The sentence it checks.
    pub name: &'static str,
    /// The numbers of the [`properties`](crate::properties) it is about.
    pub properties: &'static [u8],
    /// One execution. loom calls it once for each interleaving.
    pub body: fn(),
}

/// A list of models: `models![name: [property, ...], ...]`.
#[macro_export]
macro_rules! models {
    ($($name:ident: [$($property:literal),*]),* $(,)?) => {
        /// This file's models.
        pub const MODELS: &[$crate::check::Model] = &[$($crate::check::Model {
            name: stringify!($name),
            properties: &[$($property),*],
            body: $name,
        }),*];
    };
}

/// How far to explore, and what to tell of it.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// At most so many preemptions in one execution; `None`: every interleaving.
    pub preemptions: Option<usize>,
    /// Where an execution's path is stored every so many executions, and taken up from if the file is there.
    pub checkpoint: Option<(PathBuf, usize)>,
    /// Print each operation and where it stands in the source.
    pub trace: bool,
}

/// What was explored.
#[derive(Clone, Copy, Debug)]
pub struct Explored {
    /// Executions, each another interleaving.
    pub interleavings: u64,
    /// How long that took.
    pub seconds: f64,
}

/// The execution that is being explored, counted from 1.
static EXECUTION: AtomicU64 = AtomicU64::new(0);

/// Explores `body`. Any panic in it, on any thread, caught by the code under test or not, ends the process with code 101 and the
/// number of the execution. A panic that a model means to happen carries something else than a text.
pub fn explore(limits: &Limits, body: impl Fn() + Send + Sync + 'static) -> Explored {
    EXECUTION.store(0, Ordering::Relaxed);
    exit_on_panic();
    let mut builder = loom::model::Builder::new();
    builder.max_threads = loom::MAX_THREADS;
    builder.max_branches = 20_000;
    // These two end a model as a pass: never.
    builder.max_permutations = None;
    builder.max_duration = None;
    builder.preemption_bound = limits.preemptions;
    builder.checkpoint_file = None;
    if let Some((file, interval)) = &limits.checkpoint {
        builder.checkpoint_file = Some(file.clone());
        builder.checkpoint_interval = *interval;
    }
    builder.expect_explicit_explore = false;
    builder.location = limits.trace;
    builder.log = limits.trace;
    let start = Instant::now();
    let body = Arc::new(body);
    builder.check(move || {
        EXECUTION.fetch_add(1, Ordering::Relaxed);
        body();
    });
    Explored {
        interleavings: EXECUTION.load(Ordering::Relaxed),
        seconds: start.elapsed().as_secs_f64(),
    }
}

/// Ends the process unless aio-task runs over loom and async-task's state word is visible: a wake against a run must have more than
/// one interleaving, which it has not over core's atomics.
pub fn assert_that_loom_sees_the_state_words() {
    assert!(
        aio_task::model::OVER_LOOM,
        "aio-task was built without the cfg"
    );
    let explored = explore(
        &Limits {
            preemptions: Some(1),
            ..Limits::default()
        },
        || {
            let (runnable, task) = async_task::spawn(std::future::pending::<()>(), drop);
            let waker = runnable.waker();
            let waking = loom::thread::spawn(move || waker.wake());
            runnable.run();
            drop(task);
            waking.join().unwrap();
        },
    );
    assert!(
        explored.interleavings > 1,
        "async-task's state word is invisible: a wake against a run explored one interleaving"
    );
}

/// A caught panic must not hide a failed assertion, nor one of loom's own reports.
fn exit_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        if !payload.is::<&str>() && !payload.is::<String>() {
            return; // meant by the model, or how one of loom's coroutines ends
        }
        println!("execution {}: {panic}", EXECUTION.load(Ordering::Relaxed));
        // Not an unwind: it would run through the code under test, and through loom's own destructors.
        std::process::exit(101);
    }));
}
