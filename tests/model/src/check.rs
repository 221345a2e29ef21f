//! How one model is explored, so that it cannot pass without checking anything.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// One model: what `models` lists, and what a process runs.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// The sentence it checks.
    pub name: &'static str,
    /// The numbers of the [`properties`](crate::properties) it is about.
    pub properties: &'static [u8],
    /// What at least one interleaving must [`reach`]: a model that never sees one of its cases says nothing about it.
    pub reaches: &'static [&'static str],
    /// One execution. loom calls it once for each interleaving.
    pub body: fn(),
}

/// A list of models: `models![name: [property, ...], name: [property, ...] reaches ["case", ...], ...]`.
#[macro_export]
macro_rules! models {
    ($($name:ident: [$($property:literal),*] $(reaches [$($case:literal),*])?),* $(,)?) => {
        /// This file's models.
        pub const MODELS: &[$crate::check::Model] = &[$($crate::check::Model {
            name: stringify!($name),
            properties: &[$($property),*],
            reaches: &[$($($case),*)?],
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
    /// How much processor time that took.
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
    let start = spent();
    let body = Arc::new(body);
    let explored = catch_unwind(AssertUnwindSafe(|| {
        builder.check(move || {
            EXECUTION.fetch_add(1, Ordering::Relaxed);
            body();
        })
    }));
    if explored.is_err() {
        // The model meant this panic, and the code under test should have caught it. The hook has said nothing.
        let execution = EXECUTION.load(Ordering::Relaxed);
        println!(
            "execution {execution}: panicked at the end of a thread:\na panic that was to be caught was not"
        );
        end_as_failed();
    }
    Explored {
        interleavings: EXECUTION.load(Ordering::Relaxed),
        seconds: spent() - start,
    }
}

/// The seconds of processor time that this process has used, where the system tells; else those that have passed.
fn spent() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let passed = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    std::fs::read_to_string("/proc/self/schedstat")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .map_or(passed, |nanos: f64| nanos / 1e9)
}

/// Notes that an interleaving came to this case.
pub fn reach(case: &'static str) {
    let mut reached = REACHED.lock().unwrap();
    if !reached.contains(&case) {
        reached.push(case);
    }
}

/// Every case that was reached in this process. A lock of std's, never held across an operation of loom's.
static REACHED: Mutex<Vec<&str>> = Mutex::new(Vec::new());

impl Model {
    /// The first case that no interleaving came to.
    pub fn unreached(&self) -> Option<&'static str> {
        let reached = REACHED.lock().unwrap();
        self.reaches
            .iter()
            .copied()
            .find(|case| !reached.contains(case))
    }
}

/// Ends the process unless aio-task runs over loom and async-task's state word is visible: a wake against a run must have more than
/// one interleaving, which it has not over core's atomics.
#[allow(
    clippy::assertions_on_constants,
    reason = "it is constant in every build, and must be true in this one"
)]
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

/// Not an unwind: it would run through the code under test, and through loom's own destructors.
fn end_as_failed() -> ! {
    std::process::exit(101);
}

/// A caught panic must not hide a failed assertion, nor one of loom's own reports.
fn exit_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        if !payload.is::<&str>() && !payload.is::<String>() {
            return; // meant by the model, or how one of loom's coroutines ends
        }
        println!("execution {}: {panic}", EXECUTION.load(Ordering::Relaxed));
        end_as_failed();
    }));
}
