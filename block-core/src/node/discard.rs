//! Discard, QEMU's `bdrv_co_pdiscard`.

use super::shape::{round_down, round_up};
use super::{BlockNode, Inner};
use crate::{Cause, DiskOffset, Op, Result};
use std::rc::Rc;

impl BlockNode {
    /// The content of the range no longer matters (`bdrv_co_pdiscard`); afterwards it reads as anything.
    ///
    /// A hint: ends that are not aligned to the driver's limits are left alone, and a driver that cannot is no error. The range must
    /// lie inside the node. Dropped: the request runs on.
    pub async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        let error = |cause| self.error(Op::Discard, at.0, len, cause);
        self.inner.check_change(at.0, len).map_err(error)?;
        let task = self.inner.clone().discard(at.0, at.0 + len);
        self.request(task).await.and_then(|r| r).map_err(error)
    }
}

impl Inner {
    async fn discard(self: Rc<Self>, at: u64, end: u64) -> Result<(), Cause> {
        let _in_flight = self.enter().await?;
        let place = self.tracked.track(at..end, false);
        place.turn().await;
        let size = self.size_for(end).await?;
        if end > size {
            return Err(Cause::OutOfBounds { end, size });
        }
        let limits = self.shape.discard;
        let mut pos = round_up(at, limits.align).unwrap_or(end);
        let stop = round_down(end, limits.align);
        while pos < stop {
            let len = (stop - pos).min(limits.max);
            match self.driver.pdiscard(DiskOffset(pos), len).await {
                Ok(()) => pos += len,
                Err(e) if e.cause == Cause::NotSupported => return Ok(()),
                Err(e) => return Err(e.cause),
            }
        }
        Ok(())
    }
}
