//! stdin and stdout through a worker thread: they may block for ever, the context must not.
use crate::failure::Failure;
use aio_task::{Job, JobError, WorkerPool};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;

/// What the pipes are enlarged to, as far as the system lets us: each change of hands costs a wake-up on both sides.
const PIPE_BYTES: usize = 1 << 20;

/// A buffer that a worker has done its part with, and how many bytes that were.
pub(crate) type Done = (Vec<u8>, io::Result<usize>);

/// The same of a read.
pub(crate) type DoneReading = (Vec<u8>, io::Result<Filled>);

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    pub(crate) len: usize,
    /// The stream has ended. Not to be asked again: a terminal tells its end once only.
    pub(crate) ended: bool,
}

/// When a read from stdin is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The buffer is full, or the stream ends: the number of pieces does not depend on how the sender writes.
    Full,
    /// Nothing more is there at the moment.
    Idle,
}

/// The two streams, with a thread for each.
pub(crate) struct Stdio {
    workers: WorkerPool,
}

impl Stdio {
    pub(crate) fn new() -> Self {
        // Fails for all but pipes, which is as good.
        let _ = fcntl_setpipe_size(rustix::stdio::stdin(), PIPE_BYTES);
        let _ = fcntl_setpipe_size(rustix::stdio::stdout(), PIPE_BYTES);
        Self {
            workers: WorkerPool::new(NonZeroUsize::MIN.saturating_add(1)),
        }
    }

    /// Reads into `buffer` from its start; at least a byte, unless the stream has ended.
    pub(crate) fn read(&self, mut buffer: Vec<u8>, until: Until) -> Job<DoneReading> {
        self.workers.run(move || {
            let result = read(&mut buffer, until);
            (buffer, result)
        })
    }

    /// Writes the first `len` bytes of `buffer`. An error comes alone: how many bytes went before it is not told.
    pub(crate) fn write(&self, buffer: Vec<u8>, len: usize) -> Job<Done> {
        self.workers.run(move || {
            let result = write(&buffer[..len]).map(|()| len);
            (buffer, result)
        })
    }
}

/// Fails if stdin was closed when the program was started.
pub(crate) fn stdin_is_open() -> Result<(), Failure> {
    match was_closed(rustix::stdio::stdin()) {
        true => Err(Failure::new("stdin", "read", "it is closed")),
        false => Ok(()),
    }
}

/// Fails if stdout was closed when the program was started. For commands whose output is what they are for.
pub(crate) fn stdout_is_open() -> Result<(), Failure> {
    if !was_closed(rustix::stdio::stdout()) {
        return Ok(());
    }
    let why = "it is closed, or it is /dev/null opened for reading and writing, which looks the same (>/dev/null does not)";
    Err(Failure::new("stdout", "write", why).leaving("no file was changed"))
}

/// Whether a standard stream was closed when the program was started.
///
/// Rust's runtime opens /dev/null for it before `main`, for reading and writing. A redirection (`</dev/null`, `>/dev/null`) opens it one
/// way only. Some programs (Python's `DEVNULL`, daemons) open it both ways, which cannot be told from the runtime's.
fn was_closed(stream: BorrowedFd<'_>) -> bool {
    let (flags, found) = match (rustix::fs::fcntl_getfl(stream), rustix::fs::fstat(stream)) {
        (Ok(flags), Ok(found)) => (flags, found),
        (Err(Errno::BADF), _) | (_, Err(Errno::BADF)) => return true,
        // Not known: the first read or write finds out.
        _ => return false,
    };
    let kind = rustix::fs::FileType::from_raw_mode(found.st_mode);
    flags & OFlags::RWMODE == OFlags::RDWR
        && kind == rustix::fs::FileType::CharacterDevice
        && found.st_rdev == rustix::fs::makedev(1, 3)
}

/// What a lost worker means to the user.
pub(crate) fn lost(stream: &'static str, error: &JobError) -> Failure {
    let why = match error {
        JobError::Panicked(_) => "the worker panicked".to_owned(),
        JobError::Spawn(error) => format!("no thread: {error}"),
        _ => "the worker is gone".to_owned(),
    };
    Failure::new(stream, "run a worker", why)
}

fn read(buffer: &mut [u8], until: Until) -> io::Result<Filled> {
    let stdin = rustix::stdio::stdin();
    let mut filled = 0;
    let mut ended = false;
    while filled < buffer.len() {
        if filled > 0 && until == Until::Idle {
            let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
            let at_once = rustix::event::Timespec::default();
            match poll(&mut fds, Some(&at_once)) {
                Ok(ready) if ready > 0 => {}
                _ => break,
            }
        }
        match rustix::io::read(stdin, &mut buffer[filled..]) {
            Ok(0) => {
                ended = true;
                break;
            }
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            // Another process made it non-blocking, which it may share with other processes: leave it so, and wait here.
            Err(Errno::AGAIN) => wait(PollFd::new(&stdin, PollFlags::IN))?,
            // What came before the error is handed on; the next read finds the error again.
            Err(_) if filled > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Filled { len: filled, ended })
}

fn write(mut bytes: &[u8]) -> io::Result<()> {
    let stdout = rustix::stdio::stdout();
    while !bytes.is_empty() {
        match rustix::io::write(stdout, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(PollFd::new(&stdout, PollFlags::OUT))?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait(fd: PollFd<'_>) -> io::Result<()> {
    match poll(&mut [fd], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
