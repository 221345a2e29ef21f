//! What every command runs in: the context, its workers, and the signals that stop it.
use crate::failure::Failure;
use crate::signals::Signals;
use crate::stdio;
use aio_task::{AioContext, AioHandle, WorkerPool};
use futures::future::{Either, select};
use std::num::NonZeroUsize;
use std::pin::pin;

/// Passed to whatever waits for something.
pub(crate) struct Cx {
    pub(crate) handle: AioHandle,
    /// For files. stdin and stdout have threads of their own, which may sleep for ever.
    pub(crate) workers: WorkerPool,
    signals: Signals,
}

impl Cx {
    /// Runs a command to its end in a new context. `threads`: requests to files that can be in flight at once.
    pub(crate) fn run<T>(
        threads: NonZeroUsize,
        command: impl AsyncFnOnce(&Cx) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let nothing_done = |failure: Failure| failure.leaving("no file was changed");
        let signals = Signals::install().map_err(nothing_done)?;
        let context = AioContext::new()
            .map_err(|e| nothing_done(Failure::io("vmstate", "make a context", &e)))?;
        let cx = Cx {
            handle: context.handle(),
            workers: WorkerPool::new(threads),
            signals,
        };
        context.block_on(command(&cx))
    }

    /// Runs a blocking call in a worker.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let job = self.workers.run(call);
        job.await.map_err(|e| stdio::lost("vmstate", &e))
    }

    /// `work` until a signal stops it: then it is dropped, and this is a failure of `operation` on `file`.
    pub(crate) async fn unless_stopped<T>(
        &self,
        file: &str,
        operation: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match select(pin!(work), self.signals.stopped()).await {
            Either::Left((result, _)) => result,
            Either::Right((Ok(signal), _)) => Err(Failure::new(
                file,
                operation,
                format!("stopped by {signal}"),
            )),
            Either::Right((Err(failure), _)) => Err(failure),
        }
    }

    /// `work` to its end, and the signal that came meanwhile, or why no signal can be waited for; `on_stop` is called then.
    pub(crate) async fn until_stopped<T>(
        &self,
        work: impl Future<Output = T>,
        on_stop: impl FnOnce(),
    ) -> (T, Option<Result<&'static str, Failure>>) {
        match select(pin!(work), self.signals.stopped()).await {
            Either::Left((result, _)) => (result, None),
            Either::Right((signal, work)) => {
                on_stop();
                (work.await, Some(signal))
            }
        }
    }

    /// `work`, with `beside` polled for as long.
    pub(crate) async fn beside<T>(
        &self,
        work: impl Future<Output = T>,
        beside: impl Future<Output = ()>,
    ) -> T {
        match select(pin!(work), pin!(beside)).await {
            Either::Left((result, _)) => result,
            Either::Right(((), work)) => work.await,
        }
    }
}
