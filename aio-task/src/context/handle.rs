//! How code on a context's thread uses it.
use std::fmt;
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use futures::task::{LocalFutureObj, LocalSpawn, SpawnError};

use super::run_queue::Item;
use super::shared::Core;
use super::{
    InlineTask, JoinHandle, Readiness, Remote, RemoteHandle, Sleep, Timeout, WhileDriven, task,
};
use crate::clock::Clock;
use crate::reactor::Interest;
use crate::sync::Arc;

/// A handle to a context, for code on its thread. It does not keep the context alive; clones are the same context.
#[derive(Clone)]
pub struct AioHandle {
    pub(super) core: Weak<Core>,
    pub(super) remote: Arc<Remote>,
    pub(super) clock: Clock,
}

impl AioHandle {
    /// Spawns a task. It is queued after what is queued already and never polled inside this call.
    ///
    /// Dropping the handle cancels the task. Once the context has gone, `future` is dropped by this call and the handle resolves to
    /// [`JoinError::Cancelled`](crate::JoinError::Cancelled).
    pub fn spawn<F: Future + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        let Some(core) = self.open_core() else {
            return JoinHandle::cancelled();
        };
        let (runnable, task) = task::make(&core.tasks, &core.remote, future);
        core.queue.push(Item::Task(runnable));
        JoinHandle::of(task)
    }

    /// Spawns a task and polls it once inside this call, on the caller's stack, as QEMU enters a new coroutine: what it submits before
    /// its first wait is submitted when this returns, and a task that never waits has ended. A panic of it is in the handle.
    ///
    /// Where 64 polls of tasks are on the stack already (this context's, another's, a pool's), the task is queued at the end instead.
    /// Otherwise as [`spawn`](Self::spawn).
    pub fn spawn_now<F: Future + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        let Some(core) = self.open_core() else {
            return JoinHandle::cancelled();
        };
        let (runnable, task) = task::make(&core.tasks, &core.remote, future);
        InlineTask::new(core, runnable).begin();
        JoinHandle::of(task)
    }

    /// Whether the context is driven: a caller is in `block_on`, or holds a `Drive` or `ByHand`.
    pub fn is_driven(&self) -> bool {
        self.open_core().is_some_and(|core| core.drivers.get() > 0)
    }

    /// `future`, as long as the context is driven. When it is pending and the context is not driven (also when the last
    /// driver leaves later), the result is [`NotDriven`](crate::NotDriven) instead of a wait that no task would end.
    pub fn while_driven<F: Future>(&self, future: F) -> WhileDriven<F> {
        WhileDriven::new(self.clone(), future)
    }

    /// The handle for other threads.
    pub fn remote(&self) -> RemoteHandle {
        RemoteHandle {
            remote: self.remote.clone(),
        }
    }

    /// What the context's clock shows.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Resolves when the context's clock shows `at` or later. Once the context has gone, it resolves at once.
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep::new(self.clone(), Some(at))
    }

    /// Resolves `duration` from now. A duration beyond the end of time never passes.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(self.clone(), self.now().checked_add(duration))
    }

    /// `future`, or [`TimedOut`](crate::TimedOut) if it is still pending `duration` from now. `future` is polled first, so that one
    /// that is ready wins.
    pub fn timeout<F: Future>(&self, duration: Duration, future: F) -> Timeout<F> {
        Timeout::new(self.sleep(duration), future)
    }

    /// Resolves when a read of `fd` would not block: bytes, end of file or an error are there. A descriptor that never blocks, such
    /// as a regular file's, is always ready.
    ///
    /// The descriptor is duplicated in this call (an error of that is what the future resolves to): it may be closed meanwhile, and
    /// may be waited for several times over. Dropping the future ends the wait.
    pub fn readable<Fd: AsFd>(&self, fd: Fd) -> Readiness {
        Readiness::new(self.clone(), fd.as_fd(), Interest::Readable)
    }

    /// Resolves when a write to `fd` would not block. Otherwise as [`readable`](Self::readable).
    pub fn writable<Fd: AsFd>(&self, fd: Fd) -> Readiness {
        Readiness::new(self.clone(), fd.as_fd(), Interest::Writable)
    }

    /// Resolves every [`Drive`](crate::Drive) that lives now, at its next poll, and wakes its host. Tasks stay for the next driver.
    pub fn stop_drive(&self) {
        if let Some(core) = self.open_core() {
            core.drive_stops.set(core.drive_stops.get() + 1);
            core.queue.nudge();
        }
    }

    /// Whether the context has been dropped, or is being dropped: nothing can be started on it.
    pub(crate) fn is_closed(&self) -> bool {
        self.open_core().is_none()
    }

    /// Makes a detached task without queueing it. `Err` gives the future back: the context has gone. A panic of the future is
    /// caught and forgotten here; who wants it catches it first.
    pub(crate) fn spawn_inline<F: Future<Output = ()> + 'static>(
        &self,
        future: F,
    ) -> Result<InlineTask, F> {
        let Some(core) = self.open_core() else {
            return Err(future);
        };
        let (runnable, task) = task::make(&core.tasks, &core.remote, future);
        task.detach();
        Ok(InlineTask::new(core, runnable))
    }

    /// The context, unless it has gone or is going.
    pub(super) fn open_core(&self) -> Option<Rc<Core>> {
        self.core.upgrade().filter(|core| !core.closed.get())
    }
}

impl LocalSpawn for AioHandle {
    fn spawn_local_obj(&self, future: LocalFutureObj<'static, ()>) -> Result<(), SpawnError> {
        self.status_local()?;
        self.spawn(future).detach();
        Ok(())
    }

    fn status_local(&self) -> Result<(), SpawnError> {
        if self.is_closed() {
            Err(SpawnError::shutdown())
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for AioHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioHandle")
            .field("closed", &self.is_closed())
            .field("driven", &self.is_driven())
            .finish()
    }
}
