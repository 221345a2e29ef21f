//! Flush, QEMU's `bdrv_co_flush`.

use super::{BlockNode, Inner};
use crate::{Cause, Op, Result};

impl BlockNode {
    /// Makes every write that returned before the call stable (`bdrv_co_flush`). Writes that are still in flight are not waited for.
    ///
    /// Nothing is done where nothing can have been written (read-only), and in cache mode unsafe. Dropped: the flush runs on.
    pub async fn flush(&self) -> Result<()> {
        let error = |cause| self.error(Op::Flush, 0, 0, cause);
        self.inner.check_range(0, 0).map_err(error)?;
        if self.inner.read_only || self.inner.cache.no_flush() {
            return Ok(());
        }
        let inner = self.inner.clone();
        let task = async move {
            let _in_flight = inner.enter().await?;
            inner.flush_driver().await
        };
        self.request(task).await.and_then(|r| r).map_err(error)
    }
}

impl Inner {
    /// The driver's flush, inside a request.
    pub(super) async fn flush_driver(&self) -> Result<(), Cause> {
        if self.cache.no_flush() {
            return Ok(());
        }
        self.driver.flush().await.map_err(|e| e.cause)
    }
}
