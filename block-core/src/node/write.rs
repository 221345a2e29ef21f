//! Writes, QEMU's `bdrv_co_pwritev`.

use super::align::Change;
use super::{BlockNode, Inner};
use crate::{Cause, DiskOffset, IoVector, Op, Perms, Result, WriteFlags};
use std::rc::Rc;

impl BlockNode {
    /// Writes `src` at `at` (`bdrv_co_pwritev`). The range must lie inside the node unless its driver grows.
    ///
    /// Order: two writes may land in either order, except that overlapping ones are done one after another, in the order of their
    /// calls, where one of them is unaligned. Stable only after [`BlockNode::flush`], or at once with `flags.fua`. Failure: the
    /// range's bytes are unspecified. Dropped: the write runs on.
    pub async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        self.write_as(Perms::ALL, at, src, flags).await
    }

    /// Writes a copy of borrowed bytes; else as [`BlockNode::pwritev`].
    pub async fn pwrite(&self, at: DiskOffset, src: &[u8], flags: WriteFlags) -> Result<()> {
        self.write_copy_as(Perms::ALL, at, src, flags).await
    }

    pub(super) async fn write_as(
        &self,
        user: Perms,
        at: DiskOffset,
        src: IoVector,
        flags: WriteFlags,
    ) -> Result<()> {
        let len = src.len();
        let error = |cause| self.error(Op::Write, at.0, len, cause);
        self.inner.check_change(at.0, len).map_err(error)?;
        let change = self.inner.change(at.0, len, user, flags.fua);
        let task = self.inner.clone().write(change, src);
        self.request(task).await.and_then(|r| r).map_err(error)
    }

    pub(super) async fn write_copy_as(
        &self,
        user: Perms,
        at: DiskOffset,
        src: &[u8],
        flags: WriteFlags,
    ) -> Result<()> {
        let error = |cause| self.error(Op::Write, at.0, src.len() as u64, cause);
        let check = self.inner.check_change(at.0, src.len() as u64);
        check.map_err(error)?;
        let copy = IoVector::copy_of(src, self.inner.shape.memory);
        let copy = copy.map_err(|e| {
            error(Cause::OutOfMemory {
                bytes: e.bytes as u64,
            })
        })?;
        self.write_as(user, at, copy, flags).await
    }
}

impl Inner {
    async fn write(self: Rc<Self>, change: Change, src: IoVector) -> Result<(), Cause> {
        let _in_flight = self.enter().await?;
        if src.is_empty() {
            return self.check_bounds(&change).await;
        }
        if !change.is_whole_blocks(&self.shape) {
            return Box::pin(self.write_padded(change, src)).await;
        }
        let _place = self.place(&change).await?;
        let result = self
            .write_blocks(change.at, src, self.native(change.fua))
            .await;
        self.changed(&change, &result).await;
        result?;
        self.stable(change.fua).await
    }

    async fn write_padded(&self, change: Change, src: IoVector) -> Result<(), Cause> {
        let (_place, size) = self.place_padded(&change).await?;
        let result = self.modify(&change, size, src).await;
        self.changed(&change, &result).await;
        let cut = result?;
        // A length that was set back has to be stable too, which the driver's FUA does not promise.
        if cut && change.fua {
            return self.flush_driver().await;
        }
        self.stable(change.fua).await
    }

    /// The flags of a driver's write: FUA only where the driver does it.
    pub(super) fn native(&self, fua: bool) -> WriteFlags {
        WriteFlags {
            fua: fua && self.driver.supports_fua(),
        }
    }

    /// The second half of a FUA write: a flush, where the driver does not do FUA itself.
    pub(super) async fn stable(&self, fua: bool) -> Result<(), Cause> {
        if fua && !self.driver.supports_fua() {
            return self.flush_driver().await;
        }
        Ok(())
    }

    /// Keeps what is known of the length right after a change.
    pub(super) async fn changed<T>(&self, change: &Change, result: &Result<T, Cause>) {
        match result {
            Ok(_) => self.grew(change.end),
            Err(_) if self.driver.grows() => self.relearn_length().await,
            Err(_) => {}
        }
    }

    /// Bytes up to `end` have been put.
    pub(super) fn grew(&self, end: u64) {
        if self.driver.grows() {
            self.length.grew_to(end);
        }
    }
}
