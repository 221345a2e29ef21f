//! Threads for calls that block: QEMU's thread pool.
use std::any::Any;
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::io;
use std::mem;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use slab::Slab;

use crate::edge::{Abandoned, Completion, slot};
use crate::sync::{Arc, Condvar, Mutex, ThreadId, Waited, spawn, this_thread};

/// How long a worker without work stays, unless the pool says otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Worker threads for calls that block, such as `preadv` and `fsync`: QEMU's thread pool.
///
/// A thread is started when a job comes that no idle thread takes, up to a limit; one that stays idle leaves. Jobs begin in the
/// order they were submitted. Clones are the same pool. Dropping the last clone waits for nothing: what is queued still runs, then
/// the threads leave.
#[derive(Clone)]
pub struct WorkerPool {
    owner: Arc<Owner>,
}

impl WorkerPool {
    /// A pool of at most `max` threads, none of which runs yet. A thread leaves after ten idle seconds.
    pub fn new(max: NonZeroUsize) -> Self {
        Self::with_idle_timeout(max, IDLE_TIMEOUT)
    }

    /// A pool whose threads leave after `idle` without work; with zero, as soon as nothing is queued.
    pub fn with_idle_timeout(max: NonZeroUsize, idle: Duration) -> Self {
        let state = State {
            queue: VecDeque::new(),
            idle: 0,
            workers: Slab::new(),
            closed: false,
        };
        let shared = Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            left: Condvar::new(),
            max: max.get(),
            idle,
        };
        Self {
            owner: Arc::new(Owner {
                shared: Arc::new(shared),
            }),
        }
    }

    /// Submits `job` now, whether or not the result is ever polled. Never blocks.
    ///
    /// Dropping the result lets the job run on: memory that the kernel reads or writes for it must belong to the job.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Job<T> {
        let (completer, completion) = slot();
        Shared::submit(
            &self.owner.shared,
            Box::new(move |refusal| {
                completer.complete(match refusal {
                    None => catch_unwind(AssertUnwindSafe(job)).map_err(JobError::Panicked),
                    Some(refusal) => Err(refusal),
                });
            }),
        );
        Job { completion }
    }

    /// How many threads there are, idle and starting ones included.
    pub fn threads(&self) -> usize {
        self.owner.shared.state.lock().workers.len()
    }

    /// Refuses new jobs, runs those that are queued, and blocks until every thread has left. Any number of callers may do so.
    ///
    /// Called from inside a job, it waits for all other threads; the calling one leaves after its job. It blocks its thread, so a
    /// context should not be running on it.
    pub fn shutdown(&self) {
        let shared = &self.owner.shared;
        shared.close();
        let me = Some(this_thread());
        let mut state = shared.state.lock();
        while state.workers.iter().any(|(_, worker)| *worker != me) {
            state = shared.left.wait(state);
        }
    }
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool")
            .field("max", &self.owner.shared.max)
            .field("threads", &self.threads())
            .finish()
    }
}

/// The future of a job's result. Dropping it lets the job run on; its result is then dropped by the worker.
#[must_use = "the job runs in any case, but its result is lost"]
pub struct Job<T> {
    completion: Completion<Result<T, JobError>>,
}

impl<T> Future for Job<T> {
    type Output = Result<T, JobError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let arrived = Pin::new(&mut self.completion).poll(cx);
        arrived.map(|arrived| arrived.unwrap_or_else(|Abandoned| Err(JobError::Abandoned)))
    }
}

impl<T> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

/// Why a job has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum JobError {
    /// It panicked, with this payload. Its thread goes on.
    Panicked(Box<dyn Any + Send>),
    /// The pool had been shut down. The job did not run.
    Refused,
    /// The result was taken already, or the job vanished without one.
    Abandoned,
    /// There is no thread, and none could be started. The job did not run.
    Spawn(io::Error),
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::Panicked(_) => f.write_str("the job panicked"),
            JobError::Refused => f.write_str("the worker pool was shut down"),
            JobError::Abandoned => f.write_str("the job has no result to give"),
            JobError::Spawn(e) if f.alternate() => {
                write!(f, "no worker thread could be started: {e}")
            }
            JobError::Spawn(_) => f.write_str("no worker thread could be started"),
        }
    }
}

impl Error for JobError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            JobError::Spawn(e) => Some(e),
            _ => None,
        }
    }
}

impl From<JobError> for io::Error {
    /// A thread that could not be started keeps the system's error; anything else is an error without an errno, in words.
    fn from(error: JobError) -> Self {
        match error {
            JobError::Spawn(error) => error,
            error => Self::other(error.to_string()),
        }
    }
}

/// A queued job: runs with `None`, or reports why it does not. Either resolves the result; it may panic in a destructor.
type Work = Box<dyn FnOnce(Option<JobError>) + Send>;

/// What the clones of a pool share, and the threads do not.
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

struct Shared {
    state: Mutex<State>,
    /// A job was queued, or the pool closed. Idle workers wait for it.
    work: Condvar,
    /// A worker left. `shutdown` waits for it.
    left: Condvar,
    max: usize,
    idle: Duration,
}

struct State {
    /// Jobs that no worker has taken. Non-empty only while there is a worker, starting or running.
    queue: VecDeque<Work>,
    /// Workers that wait for work, those included which were notified and have not woken yet.
    idle: usize,
    /// All workers; `None` until the thread runs. At most `max`.
    workers: Slab<Option<ThreadId>>,
    /// No job is taken any more. Set once.
    closed: bool,
}

impl Shared {
    fn submit(shared: &Arc<Self>, work: Work) {
        let (idle, started) = {
            let mut state = shared.state.lock();
            if state.closed {
                drop(state);
                return work(Some(JobError::Refused));
            }
            state.queue.push_back(work);
            // Each idle worker takes one of the queued jobs.
            let wanting = state.queue.len() > state.idle && state.workers.len() < shared.max;
            (state.idle > 0, wanting.then(|| state.workers.insert(None)))
        };
        if idle {
            // Not under the lock: the worker that wakes would wait for it.
            shared.work.notify_one();
        }
        if let Some(key) = started {
            let theirs = shared.clone();
            if let Err(e) = spawn("aio-worker", move || theirs.work(key)) {
                shared.could_not_start(key, &e);
            }
        }
    }

    /// The other workers do the work; if there are none, the jobs are told.
    fn could_not_start(&self, key: usize, e: &io::Error) {
        let stranded = {
            let mut state = self.state.lock();
            state.workers.remove(key);
            self.left.notify_all();
            if state.workers.is_empty() {
                mem::take(&mut state.queue)
            } else {
                VecDeque::new()
            }
        };
        for work in stranded {
            let e = e
                .raw_os_error()
                .map_or_else(|| e.kind().into(), io::Error::from_raw_os_error);
            work(Some(JobError::Spawn(e)));
        }
    }

    /// A worker's life.
    fn work(&self, key: usize) {
        let mut state = self.state.lock();
        state.workers[key] = Some(this_thread());
        loop {
            if let Some(work) = state.queue.pop_front() {
                drop(state);
                // The job's own panic is part of its result; this one is a destructor's, and its payload's may panic again.
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(None))) {
                    mem::forget(payload);
                }
                state = self.state.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (locked, waited) = self.work.wait_for(state, self.idle);
            state = locked;
            state.idle -= 1;
            // A job that came in the same moment counted on us.
            if waited == Waited::TimedOut && state.queue.is_empty() {
                break;
            }
        }
        state.workers.remove(key);
        self.left.notify_all();
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.work.notify_all();
    }
}
