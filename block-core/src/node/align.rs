//! Unaligned changes: where they wait, and the read-modify-write of the first and the last block.

use super::Inner;
use super::shape::Shape;
use super::tracked::Place;
use crate::{Cause, IoBuf, IoVector, Perms, ReadVector, SharedBuf, Truncate};

/// A request that changes bytes: where, by whom, how.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) at: u64,
    /// First byte past the range; `check_range` has seen to it that it is an offset.
    pub(super) end: u64,
    /// Whether this user may make the node longer.
    may_grow: bool,
    /// To be stable at the end.
    pub(super) fua: bool,
}

impl Change {
    /// The part `at..end` of it.
    pub(super) fn part(&self, at: u64, end: u64) -> Self {
        Self { at, end, ..*self }
    }

    pub(super) fn is_whole_blocks(&self, shape: &Shape) -> bool {
        (self.at | self.end).is_multiple_of(shape.align)
    }
}

impl Inner {
    /// A change by a user that holds `user`. Writethrough makes every change FUA, unsafe makes none.
    pub(super) fn change(&self, at: u64, len: u64, user: Perms, fua: bool) -> Change {
        Change {
            at,
            end: at + len,
            may_grow: user.contains(Perms::RESIZE),
            fua: (fua || self.cache.writethrough()) && !self.cache.no_flush(),
        }
    }

    /// Waits for the turn of a change of whole blocks and checks its bounds.
    pub(super) async fn place(&self, change: &Change) -> Result<Place<'_>, Cause> {
        let place = self.tracked.track(change.at..change.end, false);
        place.turn().await;
        self.check_bounds(change).await?;
        Ok(place)
    }

    /// Refuses a change that ends where it may not; asks for the length only if that depends on it.
    pub(super) async fn check_bounds(&self, change: &Change) -> Result<(), Cause> {
        if self.driver.grows() && change.may_grow {
            return Ok(());
        }
        self.check_end(change, self.size_for(change.end).await?)
    }

    /// Waits for the turn of a change that pads, and checks its bounds. The node's length comes with it.
    ///
    /// A change that pads past the end sets the length back afterwards, so nothing else may write past it meanwhile: it serialises
    /// with everything up to the last offset.
    pub(super) async fn place_padded(&self, change: &Change) -> Result<(Place<'_>, u64), Cause> {
        let padded = self.shape.padded(change.at, change.end);
        let (start, stop) = padded.ok_or(Cause::Overflow)?;
        let grows = self.driver.grows();
        // The range is for good: entered again, the request would be after those that wait for it. So what may make the node shorter
        // before its turn counts, too.
        let mut to_the_end = grows
            && (self.length.known().is_none_or(|size| stop > size) || self.tracked.to_the_end());
        loop {
            let until = if to_the_end { u64::MAX } else { stop };
            let place = self.tracked.track(start..until, true);
            place.turn().await;
            let size = self.size_for(stop).await?;
            self.check_end(change, size)?;
            if grows && stop > size && !to_the_end {
                // Another user has made it shorter without this node: there is no order to keep.
                to_the_end = true;
                continue;
            }
            return Ok((place, size));
        }
    }

    fn check_end(&self, change: &Change, size: u64) -> Result<(), Cause> {
        let end = change.end;
        if end <= size {
            Ok(())
        } else if !self.driver.grows() {
            Err(Cause::OutOfBounds { end, size })
        } else if !change.may_grow {
            Err(Cause::NoPermission {
                permission: "resize",
            })
        } else {
            Ok(())
        }
    }

    /// Writes `src` at `change.at`, in its turn, on a node of `size` bytes: reads what the first and the last block keep, writes whole
    /// blocks, and sets the length back if padding made it longer (then the answer is true).
    pub(super) async fn modify(
        &self,
        change: &Change,
        size: u64,
        src: IoVector,
    ) -> Result<bool, Cause> {
        let (at, end) = (change.at, change.end);
        let (start, stop) = self.shape.padded(at, end).ok_or(Cause::Overflow)?;
        let last = stop - self.shape.align;
        // A block is read only if it keeps a byte that exists.
        let keeps_head = at > start && size > start;
        let keeps_tail = end < stop && size > end;
        let (head, tail) = if last == start {
            let block = self.block(start, keeps_head || keeps_tail).await?.freeze();
            (Some(block.clone()), Some(block))
        } else {
            let head = self.edge_block(start, at > start, keeps_head);
            let tail = self.edge_block(last, end < stop, keeps_tail);
            futures::future::try_join(head, tail).await?
        };
        let mut whole = IoVector::new();
        if let Some(head) = head {
            whole.push(head.slice(0..(at - start) as usize));
        }
        src.parts().iter().for_each(|part| whole.push(part.clone()));
        if let Some(tail) = tail {
            whole.push(tail.slice((end - last) as usize..self.shape.align as usize));
        }

        let written = self
            .write_blocks(start, whole, self.native(change.fua))
            .await;
        let written = written.map_err(|cause| match cause {
            Cause::Short { moved } => Cause::Short {
                moved: moved.saturating_sub(at - start).min(end - at),
            },
            other => other,
        });
        let true_len = size.max(end);
        if !self.driver.grows() || stop <= true_len {
            return written.map(|()| false);
        }
        match written {
            Ok(()) => match self.cut_to(true_len).await {
                Ok(()) => Ok(true),
                Err(cause) => {
                    // The error is reported in any case. A second try keeps one failed truncate from making the padding content.
                    let _ = self.cut_to(true_len).await;
                    Err(cause)
                }
            },
            Err(cause) => {
                // What failed half way must not leave padding as if it had been written.
                let length = self.driver.length().await;
                let others = self.others_end(start, size);
                if length.is_ok_and(|len| len > others) {
                    let _ = self.cut_to(others).await;
                }
                Err(cause)
            }
        }
    }

    /// Where the node ends without the blocks from `start` on, which had `size` bytes when their change began: nothing else writes at or
    /// past `start` meanwhile, but others may have made the node longer up to there.
    fn others_end(&self, start: u64, size: u64) -> u64 {
        let most = size.max(start);
        match self.length.known() {
            Some(known) if !self.tracked.is_any_before(start) => known.clamp(size, most),
            _ => most, // they are under way: it is not known which of their bytes are there
        }
    }

    /// The first or last block of a change, if part of it is not the caller's.
    async fn edge_block(
        &self,
        at: u64,
        partial: bool,
        keeps: bool,
    ) -> Result<Option<SharedBuf>, Cause> {
        if !partial {
            return Ok(None);
        }
        Ok(Some(self.block(at, keeps).await?.freeze()))
    }

    /// One block's bytes: read where `keeps`, else zeroes.
    async fn block(&self, at: u64, keeps: bool) -> Result<IoBuf, Cause> {
        let block = self.buffer(self.shape.align)?;
        if !keeps {
            return Ok(block);
        }
        let (vector, result) = self.driver_read(at, ReadVector::from(block)).await;
        result?;
        // It is the one piece that was lent.
        Ok(vector.into_parts().pop().unwrap_or_default())
    }

    async fn cut_to(&self, len: u64) -> Result<(), Cause> {
        let to = Truncate {
            len,
            exact: true,
            preallocation: Default::default(),
        };
        self.driver.truncate(to).await.map_err(|e| e.cause)
    }
}
