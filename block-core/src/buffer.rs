//! Owned memory for requests: aligned, sliceable, shareable, recyclable. The only file of this crate with `unsafe`.

use std::ops::{Deref, DerefMut, Range};

/// Memory could not be had, or the layout is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError {
    /// Bytes asked for.
    pub bytes: usize,
}

/// A piece of aligned memory that only this value can reach. `Send`.
///
/// [`IoBuf::split_to`] parts it in two that may be filled at the same time, [`IoBuf::unsplit`] joins them again without a copy;
/// [`IoBuf::freeze`] makes it shareable. The allocation is freed when the last piece of it is dropped.
pub struct IoBuf {
    _todo: (),
}

impl IoBuf {
    /// `len` zero bytes whose address is a multiple of `alignment` (a power of two). `len` 0 allocates nothing.
    pub fn zeroed(len: usize, alignment: usize) -> Result<Self, AllocError> {
        let _ = (len, alignment);
        todo!()
    }
    /// A copy of `bytes`, aligned.
    pub fn copy_of(bytes: &[u8], alignment: usize) -> Result<Self, AllocError> {
        let _ = (bytes, alignment);
        todo!()
    }
    /// Length in bytes.
    pub fn len(&self) -> usize {
        todo!()
    }
    /// True if the length is 0.
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// True if the address is a multiple of `alignment`.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        let _ = alignment;
        todo!()
    }
    /// Takes the first `at` bytes off (all of them if fewer); `self` keeps the rest.
    pub fn split_to(&mut self, at: usize) -> IoBuf {
        let _ = at;
        todo!()
    }
    /// Puts back the piece that begins where `self` ends, in the same allocation; gives it back if it is not that piece.
    pub fn unsplit(&mut self, next: IoBuf) -> Result<(), IoBuf> {
        let _ = next;
        todo!()
    }
    /// From here on the memory can be shared and no longer changed.
    pub fn freeze(self) -> SharedBuf {
        todo!()
    }
}

impl Deref for IoBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        todo!()
    }
}
impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        todo!()
    }
}

/// A view of memory that no longer changes. Cloning and slicing cost a reference count. `Send + Sync`.
#[derive(Clone)]
pub struct SharedBuf {
    _todo: (),
}

impl SharedBuf {
    /// The bytes `range` of this view; out-of-range ends are cut to the view.
    pub fn slice(&self, range: Range<usize>) -> SharedBuf {
        let _ = range;
        todo!()
    }
    /// The memory back for writing, if no other view or piece of the allocation is alive; else this view again.
    pub fn try_into_mut(self) -> Result<IoBuf, SharedBuf> {
        todo!()
    }
    /// True if the address is a multiple of `alignment`.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        let _ = alignment;
        todo!()
    }
}

impl Deref for SharedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        todo!()
    }
}
