//! Lines from a pipe, with a deadline: what another process never says must fail a test and not hang it.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long any outside process may take for one step. Generous: only a broken run ever waits this long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Splits what arrives on a pipe, a FIFO or a socket into lines.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
    /// Bytes that have arrived and were not handed out. Holds no full line while `next_line` waits.
    pending: Vec<u8>,
}

impl<R: Read + AsFd> Lines<R> {
    /// Reads from `from`, which must be a descriptor that `poll` knows.
    pub fn new(from: R) -> Lines<R> {
        Lines {
            from,
            pending: Vec::new(),
        }
    }

    /// The next line without its end; `None` at the end of the stream (an unfinished last line is dropped).
    ///
    /// # Errors
    /// `TimedOut` after [`PATIENCE`], and whatever reading says.
    pub fn next_line(&mut self) -> io::Result<Option<String>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            self.wait_readable(deadline)?;
            let mut bytes = [0; 4096];
            match self.from.read(&mut bytes)? {
                0 => return Ok(None),
                n => self.pending.extend_from_slice(&bytes[..n]),
            }
        }
    }

    fn wait_readable(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.from, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
