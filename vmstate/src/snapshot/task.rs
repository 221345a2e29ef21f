//! Tasks that go on when no task waits for them.

use aio_task::{AioHandle, JoinError, JoinHandle};
use block_core::{BlockError, Cause, Op, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Starts `task` at once, and waits for its output. It runs on if that wait is dropped, polled or not.
///
/// Where the context is not driven, the task waits until it is driven, and the wait is an error.
pub(crate) fn on_its_own<T: 'static>(
    handle: &AioHandle,
    task: impl Future<Output = T> + 'static,
) -> impl Future<Output = Result<T>> + 'static {
    // A request that has to wait while the context is not driven fails, so the task is not begun then.
    let running = match handle.is_driven() {
        true => handle.spawn_now(task),
        false => handle.spawn(task),
    };
    let waiting = handle.while_driven(Running(Some(running)));
    async move {
        let error = |cause| BlockError::new(Op::SaveVmstate, 0, 0, cause);
        match waiting.await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(JoinError::Panicked(_))) => Err(error(Cause::Panicked)),
            Ok(Err(JoinError::Cancelled)) | Err(_) => Err(error(Cause::NotDriven)),
        }
    }
}

/// A task that is detached, not cancelled, when no task waits for it any more.
struct Running<T>(Option<JoinHandle<T>>);

impl<T> Future for Running<T> {
    type Output = std::result::Result<T, JoinError>;

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
