//! I/O vectors, QEMU's `QEMUIOVector`: one for sources (shared), one for destinations (owned).

use crate::{AllocError, IoBuf, SharedBuf};
use std::fmt;
use std::ops::Range;

/// What a write takes its bytes from: shared pieces in order. Cloning and slicing copy no data.
#[derive(Clone, Default)]
pub struct IoVector {
    /// None of them is empty.
    parts: Vec<SharedBuf>,
}

impl IoVector {
    /// No piece.
    pub const fn new() -> Self {
        Self { parts: Vec::new() }
    }

    /// A copy of `bytes` in aligned memory, for callers whose bytes are borrowed.
    pub fn copy_of(bytes: &[u8], alignment: usize) -> Result<Self, AllocError> {
        Ok(IoBuf::copy_of(bytes, alignment)?.into())
    }

    /// Adds a piece at the end. Empty pieces are left out.
    pub fn push(&mut self, part: SharedBuf) {
        if !part.is_empty() {
            self.parts.push(part);
        }
    }

    /// Adds the pieces of `other` at the end.
    pub fn append(&mut self, mut other: IoVector) {
        self.parts.append(&mut other.parts);
    }

    /// Bytes in all pieces; `u64::MAX` if one buffer is repeated so often that they are more.
    pub fn len(&self) -> u64 {
        total(self.parts.iter().map(|p| p.len()))
    }

    /// True if there is no byte.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The pieces, none of them empty.
    pub fn parts(&self) -> &[SharedBuf] {
        &self.parts
    }

    /// The pieces themselves, so that their memory can be recycled ([`SharedBuf::try_into_mut`]).
    pub fn into_parts(self) -> Vec<SharedBuf> {
        self.parts
    }

    /// The bytes `range`, sharing the memory; out-of-range ends are cut.
    pub fn slice(&self, range: Range<u64>) -> IoVector {
        let mut slice = IoVector::new();
        for (part, at) in placed(&self.parts) {
            if at >= range.end {
                break;
            }
            // Both differences saturate; what exceeds the piece is cut to it.
            slice.push(
                part.slice(to_usize(range.start.saturating_sub(at))..to_usize(range.end - at)),
            );
        }
        slice
    }

    /// Copies bytes from `from` on into `dst` until one of them ends; how many.
    pub fn copy_to(&self, from: u64, dst: &mut [u8]) -> usize {
        gather(&self.parts, from, dst)
    }

    /// All bytes in one `Vec`.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts.iter().flat_map(|p| p.iter().copied()).collect()
    }

    /// True if every address is a multiple of `memory` and every length one of `transfer`.
    pub fn is_aligned(&self, memory: usize, transfer: usize) -> bool {
        self.parts
            .iter()
            .all(|p| p.is_aligned(memory) && p.len().is_multiple_of(transfer))
    }
}

impl From<SharedBuf> for IoVector {
    fn from(part: SharedBuf) -> Self {
        let mut vector = Self::new();
        vector.push(part);
        vector
    }
}

impl From<IoBuf> for IoVector {
    fn from(part: IoBuf) -> Self {
        part.freeze().into()
    }
}

impl FromIterator<SharedBuf> for IoVector {
    fn from_iter<I: IntoIterator<Item = SharedBuf>>(parts: I) -> Self {
        let mut vector = Self::new();
        parts.into_iter().for_each(|part| vector.push(part));
        vector
    }
}

impl fmt::Debug for IoVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoVector")
            .field("parts", &self.parts.len())
            .field("len", &self.len())
            .finish()
    }
}

/// What a read puts its bytes into: owned pieces in order.
#[derive(Default)]
pub struct ReadVector {
    parts: Vec<IoBuf>,
    /// The first piece is the second half of one that [`ReadVector::split_to`] cut. Set there, spent by the [`ReadVector::unsplit`] that
    /// joins the halves: neighbours that the caller had pushed as two pieces stay two.
    first_is_half: bool,
}

impl ReadVector {
    /// No piece.
    pub const fn new() -> Self {
        Self {
            parts: Vec::new(),
            first_is_half: false,
        }
    }

    /// Adds a piece at the end. Empty pieces are kept, so that they come back.
    pub fn push(&mut self, part: IoBuf) {
        self.parts.push(part);
    }

    /// Bytes in all pieces.
    pub fn len(&self) -> u64 {
        total(self.parts.iter().map(IoBuf::len))
    }

    /// True if there is no byte.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(IoBuf::is_empty)
    }

    /// The pieces.
    pub fn parts(&self) -> &[IoBuf] {
        &self.parts
    }

    /// The pieces, to be filled.
    pub fn parts_mut(&mut self) -> &mut [IoBuf] {
        &mut self.parts
    }

    /// The pieces themselves.
    pub fn into_parts(self) -> Vec<IoBuf> {
        self.parts
    }

    /// From here on the memory can be shared and no longer changed.
    pub fn freeze(self) -> IoVector {
        self.parts.into_iter().map(IoBuf::freeze).collect()
    }

    /// Takes the first `at` bytes off (all of them if fewer); `self` keeps the rest. Undone by [`ReadVector::unsplit`].
    pub fn split_to(&mut self, at: u64) -> ReadVector {
        // The first piece that stays, whole or as a half.
        let mut left = at;
        let stays = self.parts.iter().position(|part| {
            let len = part.len() as u64;
            let ends_before = len <= left && left > 0;
            left -= if ends_before { len } else { 0 };
            !ends_before
        });
        let stays = stays.unwrap_or(self.parts.len());
        let cut = left > 0 && stays < self.parts.len();
        if stays == 0 && !cut {
            return Self::new();
        }
        let rest = self.parts.split_off(stays);
        let mut front = Self {
            parts: std::mem::replace(&mut self.parts, rest),
            first_is_half: self.first_is_half,
        };
        if cut {
            // `left` is less than the piece's length, a usize.
            front.parts.push(self.parts[0].split_to(to_usize(left)));
        }
        self.first_is_half = cut;
        front
    }

    /// Puts back what was split off after `self`, joining a piece that was cut in two. Whatever else comes is added as it is.
    pub fn unsplit(&mut self, rest: ReadVector) {
        if self.parts.is_empty() {
            *self = rest;
            return;
        }
        let mut parts = rest.parts.into_iter();
        if rest.first_is_half
            && let (Some(first_half), Some(half)) = (self.parts.last_mut(), parts.next())
            && let Err(stranger) = first_half.unsplit(half)
        {
            self.parts.push(stranger);
        }
        self.parts.extend(parts);
    }

    /// Copies `src` into the pieces from `from` on, until one of them ends; how many bytes.
    pub fn copy_from(&mut self, from: u64, src: &[u8]) -> usize {
        self.each_run(from, src.len() as u64, |done, run| {
            run.copy_from_slice(&src[done..done + run.len()])
        })
    }

    /// Makes `len` bytes from `from` on zero, or as many as there are; how many.
    pub fn fill_zero(&mut self, from: u64, len: u64) -> usize {
        self.each_run(from, len, |_, run| run.fill(0))
    }

    /// Copies bytes from `from` on into `dst` until one of them ends; how many.
    pub fn copy_to(&self, from: u64, dst: &mut [u8]) -> usize {
        gather(&self.parts, from, dst)
    }

    /// All bytes in one `Vec`.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts.iter().flat_map(|p| p.iter().copied()).collect()
    }

    /// True if every address is a multiple of `memory` and every length one of `transfer`.
    pub fn is_aligned(&self, memory: usize, transfer: usize) -> bool {
        self.parts
            .iter()
            .all(|p| p.is_aligned(memory) && p.len().is_multiple_of(transfer))
    }

    /// Shows `write` every stretch of `from..from + len` in turn, with how many bytes came before it; returns their sum.
    fn each_run(&mut self, from: u64, len: u64, mut write: impl FnMut(usize, &mut [u8])) -> usize {
        let (mut skip, mut done) = (from, 0);
        for part in &mut self.parts {
            let here = to_usize(skip).min(part.len());
            skip -= here as u64;
            let run = to_usize(len - done as u64).min(part.len() - here);
            if run > 0 {
                write(done, &mut part[here..here + run]);
                done += run;
            }
        }
        done
    }
}

impl From<IoBuf> for ReadVector {
    fn from(part: IoBuf) -> Self {
        Self {
            parts: vec![part],
            first_is_half: false,
        }
    }
}

impl FromIterator<IoBuf> for ReadVector {
    fn from_iter<I: IntoIterator<Item = IoBuf>>(parts: I) -> Self {
        Self {
            parts: parts.into_iter().collect(),
            first_is_half: false,
        }
    }
}

impl fmt::Debug for ReadVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadVector")
            .field("parts", &self.parts.len())
            .field("len", &self.len())
            .finish()
    }
}

fn total(lens: impl Iterator<Item = usize>) -> u64 {
    lens.fold(0, |sum, len| sum.saturating_add(len as u64))
}

/// Each piece with the offset of its first byte.
fn placed<P: AsRef<[u8]>>(parts: &[P]) -> impl Iterator<Item = (&P, u64)> {
    parts.iter().scan(0, |at: &mut u64, part| {
        let here = *at;
        *at = at.saturating_add(part.as_ref().len() as u64);
        Some((part, here))
    })
}

fn gather<P: AsRef<[u8]>>(parts: &[P], from: u64, dst: &mut [u8]) -> usize {
    let (mut skip, mut done) = (from, 0);
    for part in parts {
        let part = part.as_ref();
        let here = to_usize(skip).min(part.len());
        skip -= here as u64;
        let run = (dst.len() - done).min(part.len() - here);
        dst[done..done + run].copy_from_slice(&part[here..here + run]);
        done += run;
        if done == dst.len() {
            break;
        }
    }
    done
}

/// Saturating: what is cut to a length in memory afterwards.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buf(bytes: &[u8]) -> IoBuf {
        IoBuf::copy_of(bytes, 1).expect("small")
    }

    fn source(parts: &[&[u8]]) -> IoVector {
        parts.iter().map(|p| buf(p).freeze()).collect()
    }

    fn destination(parts: &[&[u8]]) -> ReadVector {
        parts.iter().map(|p| buf(p)).collect()
    }

    fn shape(vector: &ReadVector) -> Vec<Vec<u8>> {
        vector.parts().iter().map(|p| p.to_vec()).collect()
    }

    #[test]
    fn a_source_leaves_empty_pieces_out_and_slices_across_the_others() {
        let v = source(&[b"", b"abc", b"", b"defg", b"h"]);
        assert_eq!(
            (v.len(), v.parts().len(), v.to_vec()),
            (8, 3, b"abcdefgh".to_vec())
        );
        for from in 0..10_u64 {
            for to in 0..10_u64 {
                let expected = b"abcdefgh"
                    .get(from as usize..to.min(8) as usize)
                    .unwrap_or(b"");
                let slice = v.slice(from..to);
                assert_eq!(
                    (slice.to_vec(), slice.len()),
                    (expected.to_vec(), expected.len() as u64),
                    "{from}..{to}"
                );
                assert!(slice.parts().iter().all(|p| !p.is_empty()));
            }
        }
        assert_eq!(v.slice(0..u64::MAX).len(), 8);
        assert!(v.slice(u64::MAX..u64::MAX).is_empty());
    }

    #[test]
    fn a_slice_shares_the_memory_and_keeps_it_from_being_written() {
        let v = IoVector::copy_of(b"abcd", 512).expect("small");
        let slice = v.slice(1..2);
        let whole = v
            .into_parts()
            .remove(0)
            .try_into_mut()
            .expect_err("the slice reads it");
        drop(slice);
        assert_eq!(*whole.try_into_mut().expect("alone"), *b"abcd");
    }

    #[test]
    fn bytes_are_copied_out_from_any_place_until_one_side_ends() {
        let (v, r) = (
            source(&[b"abc", b"defg"]),
            destination(&[b"abc", b"", b"defg"]),
        );
        for from in 0..9 {
            for len in 0..9 {
                let expected = &b"abcdefg"[from.min(7)..(from + len).min(7)];
                let mut dst = vec![b'-'; len];
                assert_eq!(v.copy_to(from as u64, &mut dst), expected.len());
                assert_eq!(&dst[..expected.len()], expected);
                let mut dst = vec![b'-'; len];
                assert_eq!(r.copy_to(from as u64, &mut dst), expected.len());
                assert_eq!(&dst[..expected.len()], expected);
            }
        }
        assert_eq!(v.copy_to(u64::MAX, &mut [0; 4]), 0);
    }

    #[test]
    fn bytes_are_copied_in_from_any_place_until_one_side_ends() {
        for from in 0..9_usize {
            for len in 0..9 {
                let mut r = destination(&[b"...", b"", b"...."]);
                let mut model = *b".......";
                let fits = len.min(7_usize.saturating_sub(from));
                assert_eq!(r.copy_from(from as u64, &b"abcdefghi"[..len]), fits);
                model[from.min(7)..][..fits].copy_from_slice(&b"abcdefghi"[..fits]);
                assert_eq!(r.to_vec(), model);
                assert_eq!(r.fill_zero(from as u64, len as u64), fits);
                model[from.min(7)..][..fits].fill(0);
                assert_eq!(r.to_vec(), model);
            }
        }
        assert_eq!(destination(&[b"abc"]).fill_zero(1, u64::MAX), 2);
    }

    #[test]
    fn a_split_at_any_byte_is_undone_exactly() {
        // The first two pieces are neighbours in one allocation: they must come back as two.
        let make = || {
            let mut second = buf(b"abcdef");
            let first = second.split_to(3);
            ReadVector::from_iter([
                IoBuf::empty(),
                first,
                second,
                IoBuf::empty(),
                buf(b"gh"),
                IoBuf::empty(),
            ])
        };
        let whole = shape(&make());
        for at in 0..=9 {
            for further in 0..=9 {
                let mut rest = make();
                let mut front = rest.split_to(at);
                assert_eq!(front.len(), at.min(8));
                let mut middle = rest.split_to(further);
                assert_eq!(
                    [front.to_vec(), middle.to_vec(), rest.to_vec()].concat(),
                    b"abcdefgh"
                );
                // Joined from either end.
                if further % 2 == 0 {
                    middle.unsplit(rest);
                    front.unsplit(middle);
                } else {
                    front.unsplit(middle);
                    front.unsplit(rest);
                }
                assert_eq!(shape(&front), whole, "split at {at} and {further} further");
            }
        }
    }

    #[test]
    fn a_stranger_in_place_of_the_second_half_is_kept_as_it_is() {
        let mut rest = destination(&[b"abcd"]);
        let mut front = rest.split_to(2);
        rest.parts_mut()[0] = buf(b"xy");
        front.unsplit(rest);
        assert_eq!(shape(&front), [b"ab", b"xy"]);
    }

    #[test]
    fn alignment_asks_every_piece_for_address_and_length() {
        let aligned = IoBuf::zeroed(1024, 512).expect("small");
        let mut shifted = IoBuf::zeroed(1024, 512).expect("small");
        let _front = shifted.split_to(256);
        let short = IoBuf::zeroed(100, 512).expect("small");
        assert!(ReadVector::from_iter([aligned, IoBuf::empty()]).is_aligned(512, 512));
        assert!(!ReadVector::from(shifted).is_aligned(512, 256));
        assert!(!IoVector::from(short).is_aligned(512, 512));
        assert!(IoVector::new().is_aligned(4096, 4096));
    }

    #[test]
    fn a_frozen_destination_is_a_source_of_the_same_bytes() {
        assert_eq!(destination(&[b"ab", b"", b"c"]).freeze().to_vec(), b"abc");
    }
}
