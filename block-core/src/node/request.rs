//! The request task: who owns a request, how it gets in, and how it is counted.
//!
//! A request is a task of the node's context. It owns its memory, its place among the tracked requests and its share of the in-flight
//! count; the public future only waits for its result. So a caller that goes away cannot cut a read-modify-write in two, and the node
//! knows of everything that may still land.
//!
//! Inside the task an error is a bare [`Cause`]: the operation, offset and length of the request that the caller made are added where
//! the caller's side ends, so that no sub-request's numbers can come out.

use super::waiters::Waiters;
use super::{BlockNode, Inner};
use crate::Cause;
use aio_task::{JoinError, JoinHandle, NotDriven};
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

impl BlockNode {
    /// Starts `task` and waits for its result. Dropped: the task runs on.
    pub(super) async fn request<T: 'static>(
        &self,
        task: impl Future<Output = T> + 'static,
    ) -> Result<T, Cause> {
        let running = Running(Some(self.inner.handle.spawn_now(task)));
        match self.inner.handle.while_driven(running).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(JoinError::Panicked(_))) => Err(Cause::Panicked),
            Ok(Err(JoinError::Cancelled)) | Err(NotDriven) => Err(Cause::NotDriven),
        }
    }
}

/// A task that is detached, not cancelled, when its waiter is dropped.
struct Running<T>(Option<JoinHandle<T>>);

impl<T> Future for Running<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Some(task) => Pin::new(task).poll(cx),
            None => Poll::Ready(Err(JoinError::Cancelled)),
        }
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}

/// The way into the node: closed for good by close, closed for a while by drained sections.
#[derive(Default)]
pub(super) struct Gate {
    /// Requests that have passed and whose I/O is not over.
    pub(super) in_flight: Cell<usize>,
    /// Drained sections, the ones that still wait for quiet included. The gate is shut while this is not 0.
    pub(super) sections: Cell<usize>,
    /// Set once, when close begins.
    pub(super) closed: Cell<bool>,
    /// Requests that wait for the gate to open. They are not in flight.
    pub(super) outside: Waiters,
    /// Numbers given to requests that had to wait. Those from `turn` on have not passed yet.
    issued: Cell<u64>,
    /// The number whose turn it is. Never above `issued`.
    turn: Cell<u64>,
    /// Those who wait for `in_flight` to become 0.
    pub(super) idle: Waiters,
}

impl Gate {
    /// How many requests wait for the gate to open.
    pub(super) fn waiting(&self) -> u64 {
        self.issued.get().saturating_sub(self.turn.get())
    }

    /// Returns when nothing is in flight.
    pub(super) async fn quiet(&self) {
        self.idle.until(|| self.in_flight.get() == 0).await;
    }

    /// Returns when the gate is open, in the order of the calls: a newcomer does not pass those who were woken and have not run yet.
    async fn pass(&self) -> Result<(), Cause> {
        let open = |turn| self.sections.get() == 0 && self.turn.get() == turn;
        let number = self.issued.get();
        if !open(number) && !self.closed.get() {
            self.issued.set(number + 1);
            let mine = || self.closed.get() || open(number);
            self.outside.until(mine).await;
            self.turn.set(self.turn.get().max(number + 1));
            self.outside.wake_first();
        }
        if self.closed.get() {
            return Err(Cause::Closed);
        }
        Ok(())
    }
}

impl Inner {
    /// Passes the gate and counts the request as in flight until the result is dropped.
    pub(super) async fn enter(self: &Rc<Self>) -> Result<InFlight, Cause> {
        self.gate.pass().await?;
        self.gate.in_flight.set(self.gate.in_flight.get() + 1);
        Ok(InFlight(self.clone()))
    }

    /// What can be said before a request becomes a task: the node is open, and `at + len` is an offset.
    pub(super) fn check_range(&self, at: u64, len: u64) -> Result<(), Cause> {
        if self.gate.closed.get() {
            return Err(Cause::Closed);
        }
        match at.checked_add(len) {
            Some(end) if end <= i64::MAX as u64 => Ok(()),
            _ => Err(Cause::Overflow),
        }
    }

    /// [`Inner::check_range`] for a request that changes something.
    pub(super) fn check_change(&self, at: u64, len: u64) -> Result<(), Cause> {
        if self.read_only && !self.gate.closed.get() {
            return Err(Cause::ReadOnly);
        }
        self.check_range(at, len)
    }
}

/// One in-flight request; dropping it ends the request.
pub(super) struct InFlight(Rc<Inner>);

impl Drop for InFlight {
    fn drop(&mut self) {
        let gate = &self.0.gate;
        let left = gate.in_flight.get() - 1;
        gate.in_flight.set(left);
        if left == 0 {
            gate.idle.wake_all();
        }
    }
}
