//! The reactor of an ordinary context: epoll, with an eventfd for other threads.
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, retry_on_intr};

use super::{Interest, Reactor, Unpark, Watch};
use crate::sync::Arc;

/// The eventfd's key; descriptors get the context's keys, which start at zero and never come this far.
const BELL: u64 = u64::MAX;

/// The key of a bell's second descriptor, see [`Bell`].
const SPARE_BELL: u64 = u64::MAX - 1;

/// How often a bell tries both of its ways before it gives up.
const RING_TRIES: usize = 16;

/// How many ready descriptors one look takes from the kernel. More are found by the next look.
const EVENTS_PER_LOOK: usize = 64;

/// Sleeps in epoll: timers, remote wake-ups, and readiness of file descriptors.
pub struct EpollReactor {
    epoll: Arc<OwnedFd>,
    /// Counts unparks. Registered with the epoll for as long as it lives.
    bell: Arc<OwnedFd>,
    /// Always readable, and registered only from a ring that found no other way until it is seen here.
    spare: Arc<OwnedFd>,
    /// The descriptors the epoll watches, each once, under the key that is reported. Closed when reported or forgotten.
    watched: BTreeMap<u64, OwnedFd>,
    /// Room for what the kernel reports, kept between calls. Empty outside `collect`.
    events: Vec<Event>,
}

impl EpollReactor {
    /// Opens the three descriptors it needs.
    ///
    /// # Errors
    ///
    /// What `epoll_create1`, `eventfd` or `epoll_ctl` says: mostly that the process or the system has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC)?);
        let bell = new_eventfd(0)?;
        let spare = new_eventfd(1)?;
        epoll::add(&epoll, &*bell, EventData::new_u64(BELL), EventFlags::IN)?;
        Ok(Self {
            epoll,
            bell,
            spare,
            watched: BTreeMap::new(),
            events: Vec::with_capacity(EVENTS_PER_LOOK),
        })
    }

    /// A handle that rings `bell`, or else makes this epoll ready.
    fn ring_with(&self, bell: Arc<OwnedFd>) -> Bell {
        Bell {
            bell,
            epoll: self.epoll.clone(),
            spare: self.spare.clone(),
        }
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
            } else if key == SPARE_BELL {
                let _ = epoll::delete(&self.epoll, &*self.spare); // if that fails, the next sleep ends early too
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
        Box::new(self.ring_with(self.bell.clone()))
    }

    fn park(&mut self, limit: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        let now = Timespec::default();
        match limit {
            None => self.collect(None, ready),
            Some(limit) => {
                if !limit.is_zero() {
                    // epoll_wait counts milliseconds, ppoll nanoseconds; an epoll is itself something to poll.
                    wait_readable(&mut [PollFd::new(&*self.epoll, PollFlags::IN)], Some(limit))?;
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
        let bell = new_eventfd(0)?;
        let watch = EpollWatch {
            epoll: self.epoll.clone(),
            bell: bell.clone(),
        };
        Ok((Box::new(watch), Box::new(self.ring_with(bell))))
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
    epoll: Arc<OwnedFd>,
    bell: Arc<OwnedFd>,
}

impl Watch for EpollWatch {
    fn watch(&mut self, until: Option<Instant>) {
        let limit = until.map(|at| at.saturating_duration_since(Instant::now()));
        let mut fds = [
            PollFd::new(&*self.epoll, PollFlags::IN),
            PollFd::new(&*self.bell, PollFlags::IN),
        ];
        // An error here is an early return, and the caller comes back.
        if wait_readable(&mut fds, limit).is_ok() && !fds[1].revents().is_empty() {
            silence(&self.bell);
        }
    }
}

/// Ends a sleep by a write to an eventfd.
///
/// A wake-up that is lost is never made up for: the notifier's word says that the owner is being woken, so no later notification tries
/// again. Linux has no reason to refuse this write, but a seccomp filter or a tracer may. Then the bell makes the epoll ready by other
/// means: it registers a second eventfd, whose count is 1 and stays so. It gives up, and the wake-up is lost, only after
/// [`RING_TRIES`] refusals of both calls in a row.
struct Bell {
    bell: Arc<OwnedFd>,
    epoll: Arc<OwnedFd>,
    spare: Arc<OwnedFd>,
}

impl Unpark for Bell {
    fn unpark(&self) {
        for _ in 0..RING_TRIES {
            let rung = retry_on_intr(|| rustix::io::write(&*self.bell, &1u64.to_ne_bytes()));
            // AGAIN: the count is at its top, the sleeper has been woken 2^64 - 2 times over.
            if matches!(rung, Ok(_) | Err(Errno::AGAIN)) {
                return;
            }
            let spare = EventData::new_u64(SPARE_BELL);
            let added = epoll::add(&self.epoll, &*self.spare, spare, EventFlags::IN);
            if matches!(added, Ok(()) | Err(Errno::EXIST)) {
                return;
            }
        }
    }
}

fn new_eventfd(count: u32) -> io::Result<Arc<OwnedFd>> {
    Ok(Arc::new(eventfd(
        count,
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

#[cfg(all(test, not(miri)))]
mod tests {
    use std::fs::File;

    use super::*;

    /// A reactor, and a bell of it whose every write fails: its descriptor is open for reading only.
    fn reactor_with_a_broken_bell() -> (EpollReactor, Bell) {
        let reactor = EpollReactor::new().expect("a reactor");
        let read_only = File::open("/dev/null").expect("/dev/null");
        let bell = reactor.ring_with(Arc::new(read_only.into()));
        (reactor, bell)
    }

    #[test]
    fn an_unpark_whose_write_fails_ends_the_sleep_all_the_same() {
        let (mut reactor, bell) = reactor_with_a_broken_bell();
        let mut ready = Vec::new();
        for _ in 0..3 {
            bell.unpark();
            bell.unpark();
            reactor.park(None, &mut ready).expect("a sleep that ends");
        }
        assert!(ready.is_empty(), "a bell is no descriptor of the context");
        // Once it was heard, the second bell is silent: a sleep lasts as long as it should.
        let before = Instant::now();
        let limit = Duration::from_millis(5);
        reactor.park(Some(limit), &mut ready).expect("a sleep");
        assert!(before.elapsed() >= limit);
    }

    #[test]
    fn a_watcher_whose_bell_fails_comes_back_too() {
        let (reactor, broken) = reactor_with_a_broken_bell();
        let (mut watch, _bell) = reactor.watch().expect("a watch");
        broken.unpark();
        watch.watch(None);
    }
}
