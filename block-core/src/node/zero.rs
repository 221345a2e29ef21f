//! Zeroes without data where the driver can, explicit ones where it cannot: QEMU's `bdrv_co_pwrite_zeroes`.

use super::align::Change;
use super::shape::{round_down, round_up};
use super::{BlockNode, Inner};
use crate::{Cause, DiskOffset, IoVector, Op, Perms, Result, ZeroFlags};
use std::rc::Rc;

impl BlockNode {
    /// Makes the range read as zeroes (`bdrv_co_pwrite_zeroes`).
    ///
    /// The driver is asked for what is aligned to its limits. The ends, and all of it where the driver answers "not supported", are
    /// written as zero bytes from a buffer of at most 1 MiB; with `flags.no_fallback` the error is [`Cause::NotSupported`] instead,
    /// and nothing has been changed. Order, failure and drop: as for [`BlockNode::pwritev`].
    pub async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        self.zero_as(Perms::ALL, at, len, flags).await
    }

    pub(super) async fn zero_as(
        &self,
        user: Perms,
        at: DiskOffset,
        len: u64,
        flags: ZeroFlags,
    ) -> Result<()> {
        let error = |cause| self.error(Op::WriteZeroes, at.0, len, cause);
        self.inner.check_change(at.0, len).map_err(error)?;
        let change = self.inner.change(at.0, len, user, flags.fua);
        let task = self.inner.clone().zero(change, flags);
        self.request(task).await.and_then(|r| r).map_err(error)
    }
}

impl Inner {
    async fn zero(self: Rc<Self>, change: Change, flags: ZeroFlags) -> Result<(), Cause> {
        let _in_flight = self.enter().await?;
        if change.at == change.end {
            return self.check_bounds(&change).await;
        }
        let (_place, size) = if change.is_whole_blocks(&self.shape) {
            // No padding, so nothing depends on the length.
            (self.place(&change).await?, u64::MAX)
        } else {
            self.place_padded(&change).await?
        };
        let result = self.zero_parts(&change, size, flags).await;
        self.changed(&change, &result).await;
        let cut = result?;
        if cut && change.fua {
            return self.flush_driver().await;
        }
        self.stable(change.fua).await
    }

    /// The driver's part and the explicit ends. True if the length was set back.
    async fn zero_parts(
        &self,
        change: &Change,
        size: u64,
        flags: ZeroFlags,
    ) -> Result<bool, Cause> {
        let limits = self.shape.zeroes;
        let middle = round_up(change.at, limits.align)
            .unwrap_or(change.end)
            .min(change.end);
        let tail = round_down(change.end, limits.align).max(middle);
        let all_aligned = middle == change.at && tail == change.end;
        if flags.no_fallback && !all_aligned {
            return Err(Cause::NotSupported);
        }
        // The middle first: with `no_fallback` it is all there is, and its first answer comes before anything has changed.
        let mut pos = middle;
        let driver_flags = ZeroFlags {
            fua: self.native(change.fua).fua,
            ..flags
        };
        while pos < tail {
            let len = (tail - pos).min(limits.max);
            let done = self
                .driver
                .pwrite_zeroes(DiskOffset(pos), len, driver_flags);
            match done.await.map_err(|e| e.cause) {
                Ok(()) => {
                    pos += len;
                    self.grew(pos);
                }
                Err(Cause::NotSupported) if !flags.no_fallback => break,
                Err(cause) => return Err(cause),
            }
        }
        let head = change.at..middle;
        let cut = self.zero_explicitly(change, head, size).await?;
        let rest = pos..change.end;
        Ok(self.zero_explicitly(change, rest, size).await? || cut)
    }

    /// Writes zero bytes to `range`, a part of `change`. True if the length was set back.
    async fn zero_explicitly(
        &self,
        change: &Change,
        range: std::ops::Range<u64>,
        size: u64,
    ) -> Result<bool, Cause> {
        let mut cut = false;
        let mut pos = range.start;
        if range.is_empty() {
            return Ok(false);
        }
        let most = (range.end - range.start).min(self.shape.max_bounce);
        let zeroes = self.buffer(most)?.freeze();
        while pos < range.end {
            // Pieces end at whole blocks, so that only the first and the last are read-modify-write.
            let most = round_down(pos, self.shape.align).saturating_add(self.shape.max_bounce);
            let stop = most.min(range.end);
            let src = IoVector::from(zeroes.slice(0..(stop - pos) as usize));
            let piece = change.part(pos, stop);
            if piece.is_whole_blocks(&self.shape) {
                self.write_blocks(pos, src, self.native(change.fua)).await?;
            } else {
                let size = size.max(self.known_end());
                cut |= self.modify(&piece, size, src).await?;
            }
            self.grew(stop);
            pos = stop;
        }
        Ok(cut)
    }

    /// The end of the node as far as it is known, 0 otherwise.
    fn known_end(&self) -> u64 {
        self.length.known().unwrap_or(0)
    }
}
