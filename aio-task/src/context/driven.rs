//! Waits that end when nothing is left to end them.
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};

use super::AioHandle;

/// The context is not driven, so that a wait on it would never end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotDriven;

impl fmt::Display for NotDriven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the context is not driven: it is neither in block_on nor hosted, or has gone")
    }
}

impl Error for NotDriven {}

impl From<NotDriven> for std::io::Error {
    fn from(error: NotDriven) -> Self {
        Self::other(error)
    }
}

/// The future of [`AioHandle::while_driven`]. Dropping it drops the inner future.
#[pin_project(PinnedDrop)]
#[must_use = "a future does nothing unless polled"]
pub struct WhileDriven<F> {
    #[pin]
    future: F,
    handle: AioHandle,
    /// Our place among those who want to know of the last driver's end. Set by a pending poll from outside the context.
    key: Option<u64>,
}

impl<F> WhileDriven<F> {
    pub(super) fn new(handle: AioHandle, future: F) -> Self {
        Self {
            future,
            handle,
            key: None,
        }
    }
}

impl<F: Future> Future for WhileDriven<F> {
    type Output = Result<F::Output, NotDriven>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let Some(core) = this
            .handle
            .open_core()
            .filter(|core| core.drivers.get() > 0)
        else {
            return Poll::Ready(Err(NotDriven));
        };
        // Inside the loop the driver is at work, and a task of the context is polled by the next one only.
        if !core.queue.is_turning() {
            let key = *this
                .key
                .get_or_insert_with(|| core.driven_waiters.new_key());
            core.driven_waiters.set(key, cx.waker().clone());
        }
        Poll::Pending
    }
}

#[pinned_drop]
impl<F> PinnedDrop for WhileDriven<F> {
    fn drop(self: Pin<&mut Self>) {
        if let (Some(key), Some(core)) = (self.key, self.handle.core.upgrade()) {
            core.driven_waiters.remove(key);
        }
    }
}

impl<F> fmt::Debug for WhileDriven<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhileDriven").finish_non_exhaustive()
    }
}
