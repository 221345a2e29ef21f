//! Threads for calls that block: QEMU's thread pool.
use std::any::Any;
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Worker threads for blocking calls.
#[derive(Clone, Debug)]
pub struct WorkerPool {}

impl WorkerPool {
    /// At most `max` threads.
    pub fn new(max: NonZeroUsize) -> Self {
        Self::with_idle_timeout(max, Duration::from_secs(10))
    }
    /// As `new`, with the time after which an idle thread leaves.
    pub fn with_idle_timeout(_max: NonZeroUsize, _idle: Duration) -> Self {
        todo!()
    }
    /// Submits a job at once.
    pub fn run<T: Send + 'static>(&self, _job: impl FnOnce() -> T + Send + 'static) -> Job<T> {
        todo!()
    }
    /// Runs what is queued, then ends the threads.
    pub fn shutdown(&self) {
        todo!()
    }
}

/// The future of a job's result.
#[derive(Debug)]
pub struct Job<T>(PhantomData<T>);

impl<T> Future for Job<T> {
    type Output = Result<T, JobError>;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        todo!()
    }
}

/// Why a job has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum JobError {
    /// It panicked.
    Panicked(Box<dyn Any + Send>),
    /// The pool was shut down before.
    Refused,
    /// It was thrown away.
    Abandoned,
    /// No thread could be started.
    Spawn(io::Error),
}
