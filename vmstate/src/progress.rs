//! What other threads may see of a save, and how they stop it.

use aio_task::edge::{CancelFlag, Counter};
use std::fmt;

/// How far a save is. Readable from any thread; clones show the same save.
///
/// The three numbers only grow. They count bytes of different things: `accepted` what callers wrote, `submitted` and `completed` what
/// was handed to the driver, where overwritten bytes count once and padding counts too.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub(crate) accepted: Counter,
    pub(crate) submitted: Counter,
    pub(crate) completed: Counter,
}

impl Progress {
    /// Bytes that calls have copied into buffers.
    pub fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    /// Bytes of all driver writes that were started.
    pub fn submitted(&self) -> u64 {
        self.submitted.get()
    }

    /// Bytes of all driver writes that have succeeded.
    pub fn completed(&self) -> u64 {
        self.completed.get()
    }
}

/// Stops a whole save from any thread, a signal handler's included.
///
/// From then on nothing is accepted or submitted; a call that waits for room returns [`Cause::Cancelled`](block_core::Cause::Cancelled),
/// and so does every later one. What is in flight still lands. A save that has ended does not notice.
#[derive(Clone)]
pub struct CancelHandle(pub(crate) CancelFlag);

impl CancelHandle {
    /// Cancels the save. Doing it twice is harmless.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// True once [`CancelHandle::cancel`] was called on any clone.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelHandle")
            .field(&self.is_cancelled())
            .finish()
    }
}
