//! Signals as a future. None of them ends the process by itself: a stopped command takes its temporary file away first.
use crate::failure::Failure;
use aio_task::AioHandle;
use futures::future::{FutureExt, LocalBoxFuture, select_all};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::low_level::pipe;
use std::io;
use std::os::unix::net::UnixStream;

/// The signals that stop a command, and what they are called.
const STOPPING: [(i32, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")];

/// The receiving ends of the signals' pipes.
pub(crate) struct Signals {
    stopping: Vec<(UnixStream, &'static str)>,
    /// Never read: a handler that does nothing makes a write past the file-size limit fail with EFBIG. (SIGPIPE is ignored since before `main`.)
    _too_large: UnixStream,
}

impl Signals {
    /// Takes the signals over, for the whole process.
    pub(crate) fn install() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io("vmstate", "install signal handlers", &error);
        let mut stopping = Vec::new();
        for (signal, name) in STOPPING {
            stopping.push((register(signal).map_err(failed)?, name));
        }
        Ok(Self {
            stopping,
            _too_large: register(SIGXFSZ).map_err(failed)?,
        })
    }

    /// The name of the first signal that arrives, or that arrived since [`Signals::install`].
    pub(crate) fn stopped(&self, handle: &AioHandle) -> LocalBoxFuture<'_, &'static str> {
        let handle = handle.clone();
        async move {
            let each = self.stopping.iter().map(|(stream, name)| {
                let readable = handle.readable(stream);
                async move {
                    match readable.await {
                        Ok(()) => *name,
                        // Not to be told of signals is better than to stop without one.
                        Err(_) => futures::future::pending().await,
                    }
                }
                .boxed_local()
            });
            select_all(each).await.0
        }
        .boxed_local()
    }
}

/// A stream that becomes readable when `signal` arrives, and stays so.
fn register(signal: i32) -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    pipe::register(signal, sender)?;
    Ok(receiver)
}
