//! Requests that are whole blocks, taken to the driver in pieces that fit its limits, through a bounce buffer where they do not.

use super::shape::{Shape, round_down};
use super::{Inner, contract};
use crate::{Cause, DiskOffset, IoBuf, IoVector, ReadVector, SharedBuf, WriteFlags};

/// A prefix shorter than this is not worth a driver call of its own where what follows has to be bounced anyway.
const DIRECT_MIN: u64 = 256 << 10;

/// The next driver call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    len: u64,
    bounce: bool,
}

/// Plans the next driver call for `left` bytes (a multiple of the alignment, not 0) in `parts`.
fn next_chunk<'a>(shape: &Shape, parts: impl Iterator<Item = &'a [u8]>, left: u64) -> Chunk {
    let limit = left.min(shape.max_transfer);
    // The longest prefix whose pieces the driver can take as they are.
    let mut total = 0;
    for part in parts.take(shape.max_iov) {
        if total == limit || !(part.is_empty() || part.as_ptr().addr().is_multiple_of(shape.memory))
        {
            break;
        }
        let take = (part.len() as u64).min(limit - total);
        total += take;
        if !take.is_multiple_of(shape.transfer as u64) {
            break;
        }
    }
    // Cut at a whole block, the last piece is whole transfers too: those before it are, and so is a block.
    let direct = round_down(total, shape.align);
    if direct == limit || direct >= DIRECT_MIN.min(shape.max_bounce) {
        return Chunk {
            len: direct,
            bounce: false,
        };
    }
    Chunk {
        len: left.min(shape.max_bounce),
        bounce: true,
    }
}

impl Inner {
    /// Reads whole blocks: one driver call and no copy where the request fits, pieces one after another where it does not.
    pub(super) async fn read_blocks(
        &self,
        at: u64,
        dst: ReadVector,
    ) -> (ReadVector, Result<(), Cause>) {
        let shape = &self.shape;
        let fits = dst.len() <= shape.max_transfer
            && dst.parts().len() <= shape.max_iov
            && dst.is_aligned(shape.memory, shape.transfer);
        if !fits {
            return Box::pin(self.read_pieces(at, dst)).await;
        }
        self.driver_read(at, dst).await
    }

    /// One read of the driver. Every read of a node comes through here.
    pub(super) async fn driver_read(
        &self,
        at: u64,
        dst: ReadVector,
    ) -> (ReadVector, Result<(), Cause>) {
        let lent = Lent::note(&dst);
        let (dst, result) = self.driver.preadv(DiskOffset(at), dst).await;
        let asked = lent.len;
        let result = result.map_err(|e| contract::check_failed(e.cause, asked));
        let result = lent.came_back(&dst, result);
        (dst, result)
    }

    async fn read_pieces(&self, at: u64, mut rest: ReadVector) -> (ReadVector, Result<(), Cause>) {
        let mut done = ReadVector::new();
        let mut result = Ok(());
        let mut pos = at;
        while result.is_ok() && !rest.is_empty() {
            let chunk = next_chunk(&self.shape, rest.parts().iter().map(|p| &**p), rest.len());
            let mut part = rest.split_to(chunk.len);
            result = if chunk.bounce {
                self.read_bounced(pos, &mut part).await
            } else {
                let result;
                (part, result) = self.driver_read(pos, part).await;
                result
            };
            result = result.map_err(|cause| moved_before(cause, pos - at));
            done.unsplit(part);
            pos += chunk.len;
        }
        done.unsplit(rest);
        (done, result)
    }

    async fn read_bounced(&self, at: u64, part: &mut ReadVector) -> Result<(), Cause> {
        let bounce = self.buffer(part.len())?;
        let (bounce, result) = self.driver_read(at, ReadVector::from(bounce)).await;
        let mut from = 0;
        for piece in bounce.parts() {
            from += part.copy_from(from, piece) as u64;
        }
        result
    }

    /// Writes whole blocks: one driver call and no copy where the request fits, pieces one after another where it does not. `flags` go
    /// to every piece.
    pub(super) async fn write_blocks(
        &self,
        at: u64,
        src: IoVector,
        flags: WriteFlags,
    ) -> Result<(), Cause> {
        let shape = &self.shape;
        let fits = src.len() <= shape.max_transfer
            && src.parts().len() <= shape.max_iov
            && src.is_aligned(shape.memory, shape.transfer);
        if !fits {
            return Box::pin(self.write_pieces(at, src, flags)).await;
        }
        self.driver_write(at, src, flags).await
    }

    /// One write of the driver. Every write of a node comes through here.
    async fn driver_write(&self, at: u64, src: IoVector, flags: WriteFlags) -> Result<(), Cause> {
        let asked = src.len();
        let result = self.driver.pwritev(DiskOffset(at), src, flags).await;
        result.map_err(|e| contract::check_failed(e.cause, asked))
    }

    async fn write_pieces(&self, at: u64, src: IoVector, flags: WriteFlags) -> Result<(), Cause> {
        let len = src.len();
        let mut done = 0;
        let mut bounce: Option<IoBuf> = None;
        while done < len {
            let rest = src.slice(done..len);
            let chunk = next_chunk(&self.shape, rest.parts().iter().map(|p| &**p), len - done);
            let mut copy: Option<SharedBuf> = None;
            let part = if chunk.bounce {
                let filled = self.fill_bounce(bounce.take(), &rest, chunk.len)?.freeze();
                copy = Some(filled.clone());
                IoVector::from(filled)
            } else {
                rest.slice(0..chunk.len)
            };
            let result = self.driver_write(at + done, part, flags).await;
            result.map_err(|cause| moved_before(cause, done))?;
            // The driver has let go of the memory: the next piece can use it again.
            bounce = copy.and_then(|copy| copy.try_into_mut().ok());
            done += chunk.len;
        }
        Ok(())
    }

    /// The first `len` bytes of `src` in aligned memory, in `old` if it has that length.
    fn fill_bounce(&self, old: Option<IoBuf>, src: &IoVector, len: u64) -> Result<IoBuf, Cause> {
        let mut bounce = match old {
            Some(old) if old.len() as u64 == len => old,
            _ => self.buffer(len)?,
        };
        src.copy_to(0, &mut bounce);
        Ok(bounce)
    }

    /// Zeroed memory that the driver takes as it is.
    pub(super) fn buffer(&self, len: u64) -> Result<IoBuf, Cause> {
        let bytes = usize::try_from(len).map_err(|_| Cause::OutOfMemory { bytes: len })?;
        IoBuf::zeroed(bytes, self.shape.memory).map_err(|_| Cause::OutOfMemory { bytes: len })
    }
}

/// What a driver was lent, to see that the same comes back. Other memory that is called a success would pass stale bytes on, and a
/// length that is not the request's has no place to go to.
pub(super) struct Lent {
    pieces: usize,
    len: u64,
}

impl Lent {
    pub(super) fn note(dst: &ReadVector) -> Self {
        Self {
            pieces: dst.parts().len(),
            len: dst.len(),
        }
    }

    /// The driver's own error, or one for memory that is not what it was lent.
    pub(super) fn came_back(
        self,
        dst: &ReadVector,
        result: Result<(), Cause>,
    ) -> Result<(), Cause> {
        result?;
        if dst.parts().len() == self.pieces && dst.len() == self.len {
            return Ok(());
        }
        Err(contract::other_memory())
    }
}

/// Counts a short transfer from the start of the whole request.
fn moved_before(cause: Cause, before: u64) -> Cause {
    match cause {
        Cause::Short { moved } => Cause::Short {
            moved: before.saturating_add(moved),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockLimits;
    use std::num::{NonZeroU32, NonZeroU64};

    /// 512-byte blocks, at most 4 pieces, at most 1 MiB.
    fn shape() -> Shape {
        let limits = BlockLimits {
            request_alignment: 512,
            memory_alignment: 512,
            transfer_alignment: 512,
            max_iov: NonZeroU32::new(4).expect("not zero"),
            max_transfer: NonZeroU64::new(1 << 20),
            ..BlockLimits::default()
        };
        Shape::new(&limits).expect("good limits")
    }

    /// Plans for pieces given as (offset after an aligned address, length).
    fn plan(pieces: &[(usize, usize)]) -> (u64, bool) {
        let longest = pieces.iter().map(|(from, len)| from + len).max();
        let memory = IoBuf::zeroed(longest.unwrap_or(0), 512).expect("memory");
        let parts = pieces.iter().map(|(from, len)| &memory[*from..from + len]);
        let left = pieces.iter().map(|(_, len)| *len as u64).sum();
        let chunk = next_chunk(&shape(), parts, left);
        (chunk.len, chunk.bounce)
    }

    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;

    #[test]
    fn aligned_pieces_go_as_they_are_up_to_the_longest_transfer() {
        assert_eq!(plan(&[(0, 512), (1024, 4096)]), (4608, false));
        assert_eq!(plan(&[(0, MIB)]), (MIB as u64, false));
        assert_eq!(plan(&[(0, 3 * MIB)]), (MIB as u64, false));
        assert_eq!(plan(&[(0, MIB - 512), (0, 4096)]), (MIB as u64, false));
    }

    #[test]
    fn too_many_pieces_go_in_parts_if_the_parts_are_long() {
        let long = (0, 128 * KIB);
        assert_eq!(plan(&[long; 5]), (4 * 128 * KIB as u64, false));
        assert_eq!(plan(&[(0, 512); 5]), (5 * 512, true));
    }

    #[test]
    fn a_misaligned_piece_is_bounced_with_what_follows_and_not_what_precedes_it_at_length() {
        assert_eq!(plan(&[(1, 4096)]), (4096, true));
        assert_eq!(plan(&[(0, 512), (1, 512)]), (1024, true));
        let first = 300 * KIB;
        assert_eq!(plan(&[(0, first), (1, 512)]), (first as u64, false));
        // A piece that ends inside a transfer can only be the last of a call, cut at a block.
        assert_eq!(plan(&[(0, first + 100), (512, 412)]), (first as u64, false));
        assert_eq!(plan(&[(7, 3 * MIB)]), (MIB as u64, true));
    }
}
