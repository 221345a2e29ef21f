//! Quiet nodes: `settle`, and drained sections as in QEMU's `bdrv_drained_begin` and `bdrv_drained_end`.

use super::{BlockNode, Inner};
use crate::{Cause, Op, Result};
use std::fmt;
use std::rc::Rc;

impl BlockNode {
    /// Requests that have passed the gate and whose I/O is not over, those whose futures were dropped included.
    pub fn in_flight(&self) -> usize {
        self.inner.gate.in_flight.get()
    }

    /// Returns when no request is in flight; new ones may start meanwhile and are waited for too.
    ///
    /// Called by a request of this node's driver it waits for itself for ever. Dropped: it only stops waiting.
    pub async fn settle(&self) -> Result<()> {
        let quiet = self.inner.gate.quiet();
        let waited = self.inner.handle.while_driven(quiet).await;
        waited.map_err(|_| self.error(Op::Drain, 0, 0, Cause::NotDriven))
    }

    /// Begins a drained section (`bdrv_drained_begin`): no new request passes the gate, and the future is ready when none is in flight.
    ///
    /// The gate closes at the call, not at the first poll; dropping the future opens it again. Sections nest: the gate opens when the
    /// last of them ends. Requests meanwhile wait, in order, and are not in flight.
    ///
    /// Only this node becomes quiet, not its children, and what a parent has in flight waits at this gate: drain from the top down.
    pub fn drain_begin(&self) -> impl Future<Output = Result<Drained>> + 'static {
        let section = Drained::shut(self.inner.clone());
        async move {
            let inner = section.inner.clone();
            let waited = inner.handle.while_driven(inner.gate.quiet()).await;
            match waited {
                Ok(()) => Ok(section),
                Err(_) => Err(inner.error(Op::Drain, 0, 0, Cause::NotDriven)),
            }
        }
    }

    /// True in a drained section, from the call of [`BlockNode::drain_begin`] on.
    pub fn is_drained(&self) -> bool {
        self.inner.gate.sections.get() > 0
    }
}

/// A drained section; dropping it ends the section (`bdrv_drained_end`).
#[must_use = "the section ends when this is dropped"]
pub struct Drained {
    inner: Rc<Inner>,
}

impl Drained {
    fn shut(inner: Rc<Inner>) -> Self {
        let sections = &inner.gate.sections;
        sections.set(sections.get() + 1);
        Self { inner }
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let gate = &self.inner.gate;
        let left = gate.sections.get() - 1;
        gate.sections.set(left);
        if left == 0 {
            gate.outside.wake_first(); // who wakes the next when it has passed
        }
    }
}

impl fmt::Debug for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drained")
            .field("node", &self.inner.name)
            .finish()
    }
}
