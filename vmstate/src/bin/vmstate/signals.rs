//! Signals as a future. None of them ends the process by itself: a stopped command takes its temporary file away first.
//!
//! A thread sleeps in `poll` for them. The context's own readiness calls would need an `epoll_ctl` that may fail (fs.epoll.max_user_watches),
//! and a command that cannot be stopped is worse than one that cannot start.
use crate::failure::Failure;
use crate::stdio;
use aio_task::WorkerPool;
use futures::future::{FutureExt, LocalBoxFuture, Shared};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::low_level::pipe;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;

/// The signals that stop a command, and what they are called.
const STOPPING: [(i32, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")];

/// What the wait for a signal comes to: its name, or why no signal can be waited for.
type Stopped = Result<&'static str, Failure>;

/// The signals of the process, and the thread that waits for them.
pub(crate) struct Signals {
    stopped: Shared<LocalBoxFuture<'static, Stopped>>,
    /// The thread ends when the other end of its pair is closed.
    _in_use: UnixStream,
    /// Never read: a handler that does nothing makes a write past the file-size limit fail with EFBIG. (SIGPIPE is ignored since before `main`.)
    _too_large: UnixStream,
}

impl Signals {
    /// Takes the signals over, for the whole process.
    pub(crate) fn install() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io("vmstate", "install signal handlers", &error);
        let mut streams = Vec::new();
        for (signal, name) in STOPPING {
            streams.push((register(signal).map_err(failed)?, name));
        }
        let (in_use, end) = UnixStream::pair().map_err(failed)?;
        let waiting = WorkerPool::new(NonZeroUsize::MIN).run(move || first(&streams, &end));
        let stopped = async move {
            let first = waiting.await.map_err(|e| stdio::lost("vmstate", &e))?;
            first.map_err(|e| Failure::io("vmstate", "wait for signals", &e))
        };
        Ok(Self {
            stopped: stopped.boxed_local().shared(),
            _in_use: in_use,
            _too_large: register(SIGXFSZ).map_err(failed)?,
        })
    }

    /// The name of the first signal that arrives, or that arrived since [`Signals::install`].
    ///
    /// # Errors
    /// Signals cannot be waited for: the command must end, since nothing could stop it.
    pub(crate) fn stopped(&self) -> impl Future<Output = Stopped> + Unpin {
        self.stopped.clone()
    }
}

/// Blocks until a signal arrives, or the other end of `end` is closed. Then the result reaches no one.
fn first(streams: &[(UnixStream, &'static str)], end: &UnixStream) -> io::Result<&'static str> {
    let each = streams.iter().map(|(stream, _)| stream);
    let mut fds: Vec<_> = each
        .chain([end])
        .map(|stream| PollFd::new(stream, PollFlags::IN))
        .collect();
    loop {
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let ready = fds.iter().position(|fd| !fd.revents().is_empty());
        if let Some(ready) = ready {
            let name = streams.get(ready).map(|(_, name)| *name);
            return name.ok_or_else(|| io::ErrorKind::Interrupted.into());
        }
    }
}

/// A stream that becomes readable when `signal` arrives, and stays so.
fn register(signal: i32) -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    pipe::register(signal, sender)?;
    Ok(receiver)
}
