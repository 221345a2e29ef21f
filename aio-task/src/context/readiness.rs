//! Waiting for a file descriptor.
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::AioHandle;
use crate::reactor::Interest;

/// The future of [`AioHandle::readable`] and [`AioHandle::writable`]. Dropping it ends the wait.
///
/// It resolves to an error if the descriptor cannot be waited for, or the context has gone.
#[must_use = "a future does nothing unless polled"]
pub struct Readiness {
    handle: AioHandle,
    interest: Interest,
    state: State,
}

enum State {
    /// Not polled yet: our duplicate of the descriptor, or why there is none.
    New(io::Result<OwnedFd>),
    /// The reactor has it, under this key. Ready once the key has left the context's waiters.
    Waiting(u64),
    /// It has resolved.
    Done,
}

impl Readiness {
    pub(super) fn new(handle: AioHandle, fd: BorrowedFd<'_>, interest: Interest) -> Self {
        Self {
            handle,
            interest,
            state: State::New(fd.try_clone_to_owned()),
        }
    }

    fn first_poll(&mut self, fd: OwnedFd, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(core) = self.handle.open_core() else {
            return Poll::Ready(Err(gone()));
        };
        let key = core.readiness.new_key();
        let registered = core.reactor.borrow_mut().register(key, fd, self.interest);
        match registered {
            Ok(true) => {
                core.readiness.set(key, cx.waker().clone());
                self.state = State::Waiting(key);
                core.queue.nudge(); // a host must have it watched
                Poll::Pending
            }
            Ok(false) => Poll::Ready(Ok(())),
            Err(e) => Poll::Ready(Err(e)),
        }
    }
}

impl Future for Readiness {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::New(Ok(fd)) => self.first_poll(fd, cx),
            State::New(Err(e)) => Poll::Ready(Err(e)),
            State::Waiting(key) => {
                let Some(core) = self.handle.open_core() else {
                    return Poll::Ready(Err(gone()));
                };
                if !core.readiness.contains(key) {
                    return Poll::Ready(Ok(()));
                }
                self.state = State::Waiting(key);
                core.readiness.set(key, cx.waker().clone());
                Poll::Pending
            }
            State::Done => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        if let (State::Waiting(key), Some(core)) = (&self.state, self.handle.core.upgrade()) {
            core.reactor.borrow_mut().forget(*key);
            core.readiness.remove(*key);
        }
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("interest", &self.interest)
            .finish_non_exhaustive()
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the context has gone")
}
