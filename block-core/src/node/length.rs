//! The node's length: asked from the driver, kept while nothing changes it. QEMU's `bdrv_co_getlength` and `total_sectors`.

use super::{BlockNode, Inner};
use crate::{Cause, Op, Result};
use std::cell::Cell;

/// What is known of the length.
#[derive(Default)]
pub(super) struct Length {
    /// The length when it was last asked or changed through this node. May be too small where others grow the node's bytes after
    /// its back, so that any task that finds it too small asks again. `None`: not known.
    cached: Cell<Option<u64>>,
    /// How often this node has changed the length. An answer of the driver is not kept if this moved while it was asked.
    changes: Cell<u64>,
}

impl Length {
    /// The length as far as it is known.
    pub(super) fn known(&self) -> Option<u64> {
        self.cached.get()
    }

    /// A write has put bytes up to `end`.
    pub(super) fn grew_to(&self, end: u64) {
        if let Some(known) = self.cached.get()
            && known < end
        {
            self.set(Some(end));
        }
    }

    fn forget(&self) {
        self.set(None);
    }

    fn set(&self, to: Option<u64>) {
        self.cached.set(to);
        self.changes.set(self.changes.get() + 1);
    }
}

impl Inner {
    /// The length, asked from the driver only if what is known ends before `end`.
    pub(super) async fn size_for(&self, end: u64) -> Result<u64, Cause> {
        match self.length.known() {
            Some(size) if size >= end => Ok(size),
            _ => self.fresh_size().await,
        }
    }

    /// The length may have changed in a way that is not known. Asked before the request that did it ends, so that it is known in a drained
    /// section, where no request passes the gate to ask.
    pub(super) async fn relearn_length(&self) {
        self.length.forget();
        // An error is reported to the call that needs the length next. The request itself went as it went.
        let _ = self.fresh_size().await;
    }

    /// The length as the driver tells it.
    pub(super) async fn fresh_size(&self) -> Result<u64, Cause> {
        loop {
            let before = self.length.changes.get();
            let size = self.driver.length().await.map_err(|e| e.cause)?;
            if size > i64::MAX as u64 {
                return Err(Cause::Overflow);
            }
            if self.length.changes.get() == before {
                self.length.cached.set(Some(size));
                return Ok(size);
            }
            // The answer may be older than a change that this node has made since.
            if let Some(newer) = self.length.known() {
                return Ok(newer);
            }
        }
    }
}

impl BlockNode {
    /// The length in bytes, as the driver tells it now (`bdrv_co_getlength`); need not be a multiple of the alignment.
    ///
    /// A request like any other, except in a drained section, where nothing changes the length: there the last answer is given.
    pub async fn length(&self) -> Result<u64> {
        let error = |cause| self.error(Op::Length, 0, 0, cause);
        self.inner.check_range(0, 0).map_err(error)?;
        if self.is_drained()
            && let Some(known) = self.inner.length.known()
        {
            return Ok(known);
        }
        let inner = self.inner.clone();
        let task = async move {
            let _in_flight = inner.enter().await?;
            inner.fresh_size().await
        };
        self.request(task).await.and_then(|r| r).map_err(error)
    }
}
