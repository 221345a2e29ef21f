//! Reads, QEMU's `bdrv_co_preadv`.

use super::shape::round_down;
use super::{BlockNode, Inner, contract};
use crate::{Cause, DiskOffset, IoBuf, Op, ReadVector, Result};
use std::rc::Rc;

/// Longest piece of [`BlockNode::pread`].
const PREAD_MAX: u64 = 1 << 20;

impl BlockNode {
    /// Reads `dst.len()` bytes at `at` (`bdrv_co_preadv`). The range must lie inside the node, whose end may be unaligned.
    ///
    /// The memory comes back with the result; after an error its bytes are unspecified. It comes back empty where the request task has
    /// been lost ([`Cause::NotDriven`], [`Cause::Panicked`]). Order: after every earlier overlapping request that is serialising.
    /// Dropped: the read runs on, and its memory is freed when it is over.
    pub async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        let len = dst.len();
        let error = |cause| self.error(Op::Read, at.0, len, cause);
        if let Err(cause) = self.inner.check_range(at.0, len) {
            return (dst, Err(error(cause)));
        }
        match self.request(self.inner.clone().read(at.0, dst)).await {
            Ok((dst, result)) => (dst, result.map_err(error)),
            Err(cause) => (ReadVector::new(), Err(error(cause))),
        }
    }

    /// Reads into borrowed memory, through a buffer of at most 1 MiB: a longer read is several requests.
    ///
    /// Errors carry the numbers of the whole read. Dropped, or failed: a prefix of `dst` may have been filled.
    pub async fn pread(&self, at: DiskOffset, dst: &mut [u8]) -> Result<()> {
        let len = dst.len() as u64;
        let error = |cause| self.error(Op::Read, at.0, len, cause);
        self.inner.check_range(at.0, len).map_err(error)?;
        let mut done = 0;
        loop {
            let pos = at.0 + done;
            // Pieces end where the next can begin aligned.
            let stop = round_down(pos + PREAD_MAX, PREAD_MAX).min(at.0 + len);
            let buffer = self.inner.buffer(stop - pos).map_err(error)?;
            let vector = if buffer.is_empty() {
                ReadVector::new()
            } else {
                ReadVector::from(buffer)
            };
            let (filled, result) = self.preadv(DiskOffset(pos), vector).await;
            result.map_err(|e| error(e.cause))?;
            for piece in filled.parts() {
                let to = done as usize;
                dst[to..to + piece.len()].copy_from_slice(piece);
                done += piece.len() as u64;
            }
            if pos + (stop - pos) == at.0 + len {
                return Ok(());
            }
        }
    }
}

impl Inner {
    async fn read(self: Rc<Self>, at: u64, dst: ReadVector) -> (ReadVector, Result<(), Cause>) {
        let _in_flight = match self.enter().await {
            Ok(in_flight) => in_flight,
            Err(cause) => return (dst, Err(cause)),
        };
        let end = at + dst.len();
        let place = self.tracked.track(at..end, false);
        place.turn().await;
        match self.size_for(end).await {
            Ok(size) if end > size => return (dst, Err(Cause::OutOfBounds { end, size })),
            Err(cause) => return (dst, Err(cause)),
            Ok(_) => {}
        }
        if dst.is_empty() {
            (dst, Ok(()))
        } else if (at | end).is_multiple_of(self.shape.align)
            && !dst.parts().iter().any(|piece| piece.is_empty())
        {
            self.read_blocks(at, dst).await
        } else {
            Box::pin(self.read_padded(at, end, dst)).await
        }
    }

    /// Reads the whole blocks around `at..end`, with throw-away pieces before and after the caller's. The caller's pieces are lent
    /// to the request and come back to their places; empty ones stay where they are.
    async fn read_padded(
        &self,
        at: u64,
        end: u64,
        mut dst: ReadVector,
    ) -> (ReadVector, Result<(), Cause>) {
        let Some((start, stop)) = self.shape.padded(at, end) else {
            return (dst, Err(Cause::Overflow));
        };
        let (head, tail) = match (self.padding(at - start), self.padding(stop - end)) {
            (Ok(head), Ok(tail)) => (head, tail),
            (Err(cause), _) | (_, Err(cause)) => return (dst, Err(cause)),
        };
        let skip = usize::from(head.is_some());
        let mut whole: ReadVector = head.into_iter().collect();
        let mut slots = Vec::new();
        for (slot, piece) in dst.parts_mut().iter_mut().enumerate() {
            if !piece.is_empty() {
                slots.push((slot, piece.len()));
                whole.push(std::mem::take(piece));
            }
        }
        tail.into_iter().for_each(|tail| whole.push(tail));

        let (whole, mut result) = self.read_blocks(start, whole).await;
        let mut pieces = whole.into_parts().into_iter().skip(skip);
        for (slot, len) in slots {
            match pieces.next() {
                Some(piece) if piece.len() == len => dst.parts_mut()[slot] = piece,
                _ => result = Err(contract::other_memory()),
            }
        }
        if let Err(Cause::Short { moved }) = &mut result {
            *moved = moved.saturating_sub(at - start).min(end - at);
        }
        (dst, result)
    }

    fn padding(&self, len: u64) -> Result<Option<IoBuf>, Cause> {
        if len == 0 {
            return Ok(None);
        }
        self.buffer(len).map(Some)
    }
}
