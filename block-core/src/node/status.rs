//! Block status, QEMU's `bdrv_co_block_status`.

use super::{BlockNode, Inner, contract};
use crate::{BlockStatus, Cause, DiskOffset, Op, Result};
use std::rc::Rc;

impl BlockNode {
    /// What is known of the first bytes of the range (`bdrv_co_block_status`): from 1 to `len` bytes, none where `len` is 0.
    ///
    /// The range must lie inside the node. The driver is asked about whole blocks, the answer is cut to what was asked.
    pub async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        let error = |cause| self.error(Op::BlockStatus, at.0, len, cause);
        self.inner.check_range(at.0, len).map_err(error)?;
        let task = self.inner.clone().status(at.0, at.0 + len);
        self.request(task).await.and_then(|r| r).map_err(error)
    }
}

impl Inner {
    async fn status(self: Rc<Self>, at: u64, end: u64) -> Result<BlockStatus, Cause> {
        let _in_flight = self.enter().await?;
        let size = self.size_for(end).await?;
        if end > size {
            return Err(Cause::OutOfBounds { end, size });
        }
        if at == end {
            return Ok(BlockStatus {
                len: 0,
                data: false,
                zero: false,
                allocated: false,
                map: None,
            });
        }
        let (start, stop) = self.shape.padded(at, end).ok_or(Cause::Overflow)?;
        let head = at - start;
        let status = self
            .driver
            .block_status(DiskOffset(start), stop - start)
            .await;
        let status = status.map_err(|e| e.cause)?;
        contract::check_status(&status, stop - start)?;
        if status.len <= head {
            // The driver told about less than a block, and not what was asked: the rest of the block may be anything.
            return Ok(BlockStatus {
                len: (start + self.shape.align).min(end) - at,
                data: true,
                zero: false,
                allocated: true,
                map: None,
            });
        }
        Ok(BlockStatus {
            len: (status.len - head).min(end - at),
            map: status.map.and_then(|map| map.checked_add(head)),
            ..status
        })
    }
}
