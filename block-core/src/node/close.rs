//! The end of a node, QEMU's `bdrv_close`, with an error for what could not be kept.

use super::waiters::Waiters;
use super::{BlockNode, Inner};
use crate::{Cause, Op, Result};
use std::cell::RefCell;
use std::rc::Rc;

/// How the close went.
#[derive(Default)]
pub(super) struct Closing {
    /// Set once, when every step has been taken.
    result: RefCell<Option<Result<()>>>,
    /// Those who wait for it.
    closers: Waiters,
}

impl BlockNode {
    /// Closes the node (`bdrv_close`), in this order: new requests are refused with [`Cause::Closed`], and so are those that wait at
    /// the gate; extensions are asked; what is in flight is waited for; the driver is flushed (unless nothing can have been written, or
    /// flushes are ignored) and closed. All steps are taken; the first error is returned.
    ///
    /// Every call waits for that one close and returns its result, so a second call is harmless. A drained section does not hold a
    /// close up. Dropped: the close goes on. A node that is dropped without it is neither flushed nor asked for errors.
    pub async fn close(&self) -> Result<()> {
        if !self.inner.gate.closed.replace(true) {
            self.inner.gate.outside.wake_all();
            let closing = Steps(self.inner.clone());
            self.inner.handle.spawn_now(closing.take()).detach();
        }
        let closing = &self.inner.closing;
        let finished = closing.closers.until(|| closing.result.borrow().is_some());
        let not_driven = || self.error(Op::Close, 0, 0, Cause::NotDriven);
        self.inner
            .handle
            .while_driven(finished)
            .await
            .map_err(|_| not_driven())?;
        let result = closing.result.borrow().clone();
        result.unwrap_or_else(|| Err(not_driven()))
    }

    /// True from the first call of [`BlockNode::close`] on.
    pub fn is_closed(&self) -> bool {
        self.inner.gate.closed.get()
    }
}

/// The close under way. Dropped before its end (the context goes, the driver panics), it still leaves a result for those who wait.
struct Steps(Rc<Inner>);

impl Steps {
    async fn take(self) {
        let result = self.0.close_all().await;
        self.0.closing.finish(result);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        let lost = self.0.error(Op::Close, 0, 0, Cause::Cancelled);
        self.0.closing.finish(Err(lost));
    }
}

impl Closing {
    /// The first result counts.
    fn finish(&self, result: Result<()>) {
        self.result.borrow_mut().get_or_insert(result);
        self.closers.wake_all();
    }
}

impl Inner {
    async fn close_all(&self) -> Result<()> {
        let mut first = Ok(());
        for extension in self.extensions.take() {
            first = first.and(extension.on_close());
        }
        self.gate.quiet().await;
        if !self.read_only {
            let flushed = self.flush_driver().await;
            first = first.and(flushed.map_err(|cause| self.error(Op::Flush, 0, 0, cause)));
        }
        first.and(self.driver.close().await)
    }
}
