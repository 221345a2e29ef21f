//! I/O vectors, QEMU's `QEMUIOVector`: one for sources (shared), one for destinations (owned).

use crate::{AllocError, IoBuf, SharedBuf};
use std::ops::Range;

/// What a write takes its bytes from: shared pieces in order. Cloning and slicing copy no data.
#[derive(Clone, Default)]
pub struct IoVector {
    _parts: Vec<SharedBuf>,
}

impl IoVector {
    /// No piece.
    pub fn new() -> Self {
        todo!()
    }
    /// A copy of `bytes` in aligned memory, for callers whose bytes are borrowed.
    pub fn copy_of(bytes: &[u8], alignment: usize) -> Result<Self, AllocError> {
        let _ = (bytes, alignment);
        todo!()
    }
    /// Adds a piece at the end. Empty pieces are left out.
    pub fn push(&mut self, part: SharedBuf) {
        let _ = part;
        todo!()
    }
    /// Bytes in all pieces.
    pub fn len(&self) -> u64 {
        todo!()
    }
    /// True if there is no byte.
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// The pieces.
    pub fn parts(&self) -> &[SharedBuf] {
        todo!()
    }
    /// The bytes `range`, sharing the memory.
    pub fn slice(&self, range: Range<u64>) -> IoVector {
        let _ = range;
        todo!()
    }
    /// Copies bytes from `from` on into `dst` until one of them ends; how many.
    pub fn copy_to(&self, from: u64, dst: &mut [u8]) -> usize {
        let _ = (from, dst);
        todo!()
    }
    /// All bytes in one `Vec`.
    pub fn to_vec(&self) -> Vec<u8> {
        todo!()
    }
    /// True if every address is a multiple of `memory` and every length one of `transfer`.
    pub fn is_aligned(&self, memory: usize, transfer: usize) -> bool {
        let _ = (memory, transfer);
        todo!()
    }
}

impl From<SharedBuf> for IoVector {
    fn from(_: SharedBuf) -> Self {
        todo!()
    }
}
impl From<IoBuf> for IoVector {
    fn from(_: IoBuf) -> Self {
        todo!()
    }
}

/// What a read puts its bytes into: owned pieces in order.
#[derive(Default)]
pub struct ReadVector {
    _parts: Vec<IoBuf>,
}

impl ReadVector {
    /// No piece.
    pub fn new() -> Self {
        todo!()
    }
    /// Adds a piece at the end. Empty pieces are kept, so that they come back.
    pub fn push(&mut self, part: IoBuf) {
        let _ = part;
        todo!()
    }
    /// Bytes in all pieces.
    pub fn len(&self) -> u64 {
        todo!()
    }
    /// True if there is no byte.
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// The pieces.
    pub fn parts(&self) -> &[IoBuf] {
        todo!()
    }
    /// The pieces, to be filled.
    pub fn parts_mut(&mut self) -> &mut [IoBuf] {
        todo!()
    }
    /// The pieces themselves.
    pub fn into_parts(self) -> Vec<IoBuf> {
        todo!()
    }
    /// Takes the first `at` bytes off; `self` keeps the rest. Undone by [`ReadVector::unsplit`].
    pub fn split_to(&mut self, at: u64) -> ReadVector {
        let _ = at;
        todo!()
    }
    /// Puts back what was split off behind `self`, joining a piece that was cut in two.
    pub fn unsplit(&mut self, rest: ReadVector) {
        let _ = rest;
        todo!()
    }
    /// Copies `src` into the pieces from `from` on, until one of them ends; how many bytes.
    pub fn copy_from(&mut self, from: u64, src: &[u8]) -> usize {
        let _ = (from, src);
        todo!()
    }
    /// True if every address is a multiple of `memory` and every length one of `transfer`.
    pub fn is_aligned(&self, memory: usize, transfer: usize) -> bool {
        let _ = (memory, transfer);
        todo!()
    }
}

impl From<IoBuf> for ReadVector {
    fn from(_: IoBuf) -> Self {
        todo!()
    }
}
