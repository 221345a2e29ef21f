//! The reactor of an ordinary context: epoll, with an eventfd for other threads.
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::{Interest, Reactor, Unpark, Watch};
use crate::sync::Arc;

/// The eventfd's key; descriptors get the context's keys, which start at zero and never come this far.
const BELL: u64 = u64::MAX;

/// How many ready descriptors one look takes from the kernel. More are found by the next look.
const EVENTS_PER_LOOK: usize = 64;

/// Sleeps in epoll: timers, remote wake-ups, and readiness of file descriptors.
pub struct EpollReactor {
    epoll: OwnedFd,
    /// Counts unparks. Registered with the epoll for as long as it lives.
    bell: Arc<OwnedFd>,
    /// The descriptors the epoll watches, each once, under the key that is reported. Closed when reported or forgotten.
    watched: BTreeMap<u64, OwnedFd>,
    /// Room for what the kernel reports, kept between calls. Empty outside `collect`.
    events: Vec<Event>,
}

impl EpollReactor {
    /// Opens the two descriptors it needs.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = new_bell()?;
        epoll::add(&epoll, &*bell, EventData::new_u64(BELL), EventFlags::IN)?;
        Ok(Self {
            epoll,
            bell,
            watched: BTreeMap::new(),
            events: Vec::with_capacity(EVENTS_PER_LOOK),
        })
    }

    /// Takes ready descriptors from the kernel. `limit`: `None` sleeps until there is one, otherwise only looks.
    fn collect(&mut self, limit: Option<&Timespec>, ready: &mut Vec<u64>) -> io::Result<()> {
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            limit,
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        for event in self.events.drain(..) {
            let key = event.data.u64();
            if key == BELL {
                silence(&self.bell);
            } else if let Some(fd) = self.watched.remove(&key) {
                // A failure means that the kernel has dropped it already; closing our descriptor does the rest.
                let _ = epoll::delete(&self.epoll, &fd);
                ready.push(key);
            }
        }
        Ok(())
    }
}

impl Reactor for EpollReactor {
    fn unparker(&self) -> Box<dyn Unpark> {
        Box::new(Bell(self.bell.clone()))
    }

    fn park(&mut self, limit: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        let now = Timespec::default();
        match limit {
            None => self.collect(None, ready),
            Some(limit) => {
                if !limit.is_zero() {
                    // epoll_wait counts milliseconds, ppoll nanoseconds; an epoll is itself something to poll.
                    wait_readable(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(limit))?;
                }
                self.collect(Some(&now), ready)
            }
        }
    }

    fn look(&mut self, ready: &mut Vec<u64>) -> io::Result<()> {
        if self.watched.is_empty() {
            return Ok(()); // only an unpark could be there, and the caller knows of that without a system call
        }
        self.collect(Some(&Timespec::default()), ready)
    }

    fn register(&mut self, key: u64, fd: OwnedFd, interest: Interest) -> io::Result<bool> {
        let flags = match interest {
            Interest::Readable => EventFlags::IN | EventFlags::RDHUP,
            Interest::Writable => EventFlags::OUT,
        };
        match epoll::add(
            &self.epoll,
            &fd,
            EventData::new_u64(key),
            flags | EventFlags::ONESHOT,
        ) {
            Ok(()) => {
                self.watched.insert(key, fd);
                Ok(true)
            }
            Err(Errno::PERM) => Ok(false), // epoll's way to say: a regular file or a directory, which never waits
            Err(e) => Err(e.into()),
        }
    }

    fn forget(&mut self, key: u64) {
        if let Some(fd) = self.watched.remove(&key) {
            let _ = epoll::delete(&self.epoll, &fd); // as in `collect`
        }
    }

    fn watch(&self) -> io::Result<(Box<dyn Watch>, Box<dyn Unpark>)> {
        let bell = new_bell()?;
        let watch = EpollWatch {
            epoll: self.epoll.try_clone()?,
            bell: bell.clone(),
        };
        Ok((Box::new(watch), Box::new(Bell(bell))))
    }
}

impl fmt::Debug for EpollReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpollReactor")
            .field("watched", &self.watched.len())
            .finish_non_exhaustive()
    }
}

/// Looks at the same epoll from a helper thread. It has a bell of its own: the context's is for the context to silence.
struct EpollWatch {
    epoll: OwnedFd,
    bell: Arc<OwnedFd>,
}

impl Watch for EpollWatch {
    fn watch(&mut self, until: Option<Instant>) {
        let limit = until.map(|at| at.saturating_duration_since(Instant::now()));
        let mut fds = [
            PollFd::new(&self.epoll, PollFlags::IN),
            PollFd::new(&*self.bell, PollFlags::IN),
        ];
        // An error here is an early return, and the caller comes back.
        if wait_readable(&mut fds, limit).is_ok() && !fds[1].revents().is_empty() {
            silence(&self.bell);
        }
    }
}

struct Bell(Arc<OwnedFd>);

impl Unpark for Bell {
    fn unpark(&self) {
        // EAGAIN means that the count is at its top: the sleeper has been woken 2^64 - 2 times over.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

fn new_bell() -> io::Result<Arc<OwnedFd>> {
    Ok(Arc::new(eventfd(
        0,
        EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
    )?))
}

/// Sets the count back to zero.
fn silence(bell: &OwnedFd) {
    let mut count = [0u8; 8];
    let _ = rustix::io::read(bell.as_fd(), &mut count); // EAGAIN: it is zero already
}

fn wait_readable(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    // A limit beyond the kernel's range is as good as none.
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(fds, limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
