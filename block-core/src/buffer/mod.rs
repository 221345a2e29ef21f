//! Owned memory for requests: aligned, sliceable, shareable, recyclable. The only file of this crate with `unsafe`.
//!
//! One allocation, any number of pieces. An [`IoBuf`] reaches its range of the allocation alone, as a `Vec<u8>` would; a [`SharedBuf`]
//! only reads, and others may read the same bytes. Two pieces that can write never overlap: that is the invariant of this file, and every
//! `unsafe` block below rests on it.
//!
//! ```text
//! allocation   |................................................|
//! IoBuf        |<---- len ---->|<- truncated ->|                 start, len, room: room >= len, the rest of it comes back by restore()
//! IoBuf (split off)                            |<---- len ----->|
//! ```
#![allow(
    unsafe_code,
    reason = "aligned memory without a copy; nothing else in this crate needs it"
)]

use aio_task::edge::Arc;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::{fmt, mem, slice};

/// Memory could not be had, or the layout is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError {
    /// Bytes asked for.
    pub bytes: usize,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no memory for {} bytes at this alignment", self.bytes)
    }
}

impl std::error::Error for AllocError {}

/// A piece of aligned memory that only this value can reach. `Send` and `Sync`, as a `Vec<u8>` is.
///
/// [`IoBuf::split_to`] parts it in two that may be filled at the same time, [`IoBuf::unsplit`] joins them again without a copy;
/// [`IoBuf::freeze`] makes it shareable. The allocation is freed when the last piece of it is dropped. Every byte is initialised at every
/// moment: new memory is zeroed, and recycled memory shows what was in it before.
#[derive(Default)]
pub struct IoBuf {
    /// What `start` counts from. `None` exactly when `room` is 0.
    memory: Option<Arc<Allocation>>,
    /// First byte of this piece in the allocation.
    start: usize,
    /// Bytes that can be seen. `len <= room`.
    len: usize,
    /// Bytes from `start` on that no other piece reaches. `start + room <= allocation.bytes()`.
    room: usize,
}

impl IoBuf {
    /// An empty buffer, which allocates nothing. It joins with any other: see [`IoBuf::unsplit`].
    pub const fn empty() -> Self {
        Self {
            memory: None,
            start: 0,
            len: 0,
            room: 0,
        }
    }

    /// `len` zero bytes whose address is a multiple of `alignment` (a power of two, in bytes). `len` 0 allocates nothing.
    ///
    /// An alignment that is no power of two, a length near `isize::MAX` and memory that cannot be had are all an [`AllocError`].
    pub fn zeroed(len: usize, alignment: usize) -> Result<Self, AllocError> {
        let layout = layout(len, alignment)?;
        if len == 0 {
            return Ok(Self::empty());
        }
        Ok(Self::whole(Allocation::zeroed(layout)?))
    }

    /// A copy of `bytes` at an address that is a multiple of `alignment`. Errors as for [`IoBuf::zeroed`].
    pub fn copy_of(bytes: &[u8], alignment: usize) -> Result<Self, AllocError> {
        let layout = layout(bytes.len(), alignment)?;
        if bytes.is_empty() {
            return Ok(Self::empty());
        }
        Ok(Self::whole(Allocation::copy_of(bytes, layout)?))
    }

    fn whole(memory: Allocation) -> Self {
        let len = memory.bytes();
        Self {
            memory: Some(Arc::new(memory)),
            start: 0,
            len,
            room: len,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The length that [`IoBuf::restore`] brings back, in bytes: never less than [`IoBuf::len`].
    pub fn capacity(&self) -> usize {
        self.room
    }

    /// True if the address is a multiple of `alignment`. An empty buffer has no address to be wrong: true.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        self.len == 0 || (self.base() as usize).is_multiple_of(alignment)
    }

    /// Shortens to `len` bytes; a longer `len` changes nothing. The memory after stays with this buffer, see [`IoBuf::restore`].
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes the length [`IoBuf::capacity`] again, to use the memory for another request. Bytes that come back are what they were before.
    pub fn restore(&mut self) {
        self.len = self.room;
    }

    /// Takes the first `at` bytes off (all of them if fewer); `self` keeps the rest, and what was truncated.
    pub fn split_to(&mut self, at: usize) -> IoBuf {
        let at = at.min(self.len);
        let Some(memory) = self.memory.as_ref().filter(|_| at > 0) else {
            return Self::empty();
        };
        if at == self.room {
            return mem::take(self);
        }
        let front = Self {
            memory: Some(Arc::clone(memory)),
            start: self.start,
            len: at,
            room: at,
        };
        self.start += at;
        self.len -= at;
        self.room -= at;
        front
    }

    /// Puts back the piece that begins where `self` ends, in the same allocation; gives it back if it is not that piece, or if `self` was
    /// truncated. A buffer without capacity joins with any other.
    pub fn unsplit(&mut self, next: IoBuf) -> Result<(), IoBuf> {
        let (Some(left), Some(right)) = (&self.memory, &next.memory) else {
            if self.memory.is_none() {
                *self = next;
            }
            return Ok(());
        };
        if !Arc::ptr_eq(left, right) || self.len < self.room || self.start + self.room != next.start
        {
            return Err(next);
        }
        self.len += next.len;
        self.room += next.room;
        Ok(())
    }

    /// From here on the memory can be shared and no longer changed. Costs nothing; undone by [`SharedBuf::try_into_mut`].
    pub fn freeze(self) -> SharedBuf {
        SharedBuf {
            memory: self.memory.filter(|_| self.len > 0),
            start: self.start,
            len: self.len,
        }
    }

    /// The first byte's address, for an engine that hands it to the kernel. Valid for [`IoBuf::len`] bytes while this buffer or a piece
    /// of it lives, and until the buffer is used through a reference again; dangling if the length is 0.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.base()
    }

    fn base(&self) -> *mut u8 {
        address(self.memory.as_ref(), self.start)
    }
}

impl Deref for IoBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start..start + len` lies in the allocation (or len is 0 and the pointer is dangling but aligned), all of it is
        // initialised, and no other piece writes to it; `&self` keeps this piece from being written meanwhile, and the allocation alive.
        unsafe { slice::from_raw_parts(self.base(), self.len) }
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; besides, no other piece reads this range, and `&mut self` keeps this one from being read meanwhile.
        unsafe { slice::from_raw_parts_mut(self.base(), self.len) }
    }
}

impl AsRef<[u8]> for IoBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for IoBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoBuf")
            .field("len", &self.len)
            .field("capacity", &self.room)
            .finish_non_exhaustive()
    }
}

/// A view of memory that no longer changes. Cloning and slicing cost a reference count. `Send + Sync`.
#[derive(Clone, Default)]
pub struct SharedBuf {
    /// What `start` counts from. `None` exactly when `len` is 0.
    memory: Option<Arc<Allocation>>,
    /// First byte of this view in the allocation.
    start: usize,
    /// Bytes of this view.
    len: usize,
}

impl SharedBuf {
    /// The bytes `range` of this view; out-of-range ends are cut to the view. A view without bytes holds no memory.
    pub fn slice(&self, range: Range<usize>) -> SharedBuf {
        let end = range.end.min(self.len);
        let from = range.start.min(end);
        let memory = self.memory.as_ref().filter(|_| from < end).map(Arc::clone);
        SharedBuf {
            memory,
            start: self.start + from,
            len: end - from,
        }
    }

    /// The memory back for writing, if no other view or piece of the allocation is alive; else this view again.
    ///
    /// It begins where this view begins, and its capacity reaches to the end of the allocation: a whole buffer that was truncated, frozen
    /// and written comes back whole with [`IoBuf::restore`].
    pub fn try_into_mut(mut self) -> Result<IoBuf, SharedBuf> {
        let Some(memory) = &mut self.memory else {
            return Ok(IoBuf::empty());
        };
        // `get_mut` is the uniqueness check (with the ordering that it needs): nothing else reads these bytes any more.
        let Some(room) = Arc::get_mut(memory).map(|memory| memory.bytes() - self.start) else {
            return Err(self);
        };
        Ok(IoBuf {
            memory: self.memory,
            start: self.start,
            len: self.len,
            room,
        })
    }

    /// True if the address is a multiple of `alignment`. An empty view has no address to be wrong: true.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        self.len == 0
            || (address(self.memory.as_ref(), self.start) as usize).is_multiple_of(alignment)
    }
}

impl Deref for SharedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start..start + len` lies in the allocation (or len is 0 and the pointer is dangling but aligned), all of it is
        // initialised, and no task writes to it: `freeze` consumed the one piece that could, and only `try_into_mut` makes another, when
        // this view is gone. `&self` keeps the allocation alive.
        unsafe { slice::from_raw_parts(address(self.memory.as_ref(), self.start), self.len) }
    }
}

impl AsRef<[u8]> for SharedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<IoBuf> for SharedBuf {
    fn from(buf: IoBuf) -> Self {
        buf.freeze()
    }
}

impl fmt::Debug for SharedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBuf")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Memory from the global allocator, at least one byte, every byte initialised. Gives out its address only: what may be read or written
/// through it is the business of the pieces.
struct Allocation {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: an `Allocation` owns its memory, which any thread may free; it reads and writes none of it.
unsafe impl Send for Allocation {}
// SAFETY: `&Allocation` gives out numbers and an address, and accesses nothing.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// `layout.size()` must not be 0; the callers have answered that case.
    fn zeroed(layout: Layout) -> Result<Self, AllocError> {
        assert!(layout.size() > 0, "an empty buffer allocates nothing");
        // SAFETY: the size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        Self::got(base, layout)
    }

    /// `layout.size()` is `bytes.len()`, and not 0.
    fn copy_of(bytes: &[u8], layout: Layout) -> Result<Self, AllocError> {
        assert!(
            !bytes.is_empty() && layout.size() == bytes.len(),
            "the layout is made from these bytes"
        );
        // SAFETY: the size is not zero.
        let base = unsafe { alloc(layout) };
        let memory = Self::got(base, layout)?;
        // SAFETY: the new memory has exactly `bytes.len()` bytes, nothing else knows it, so it cannot overlap `bytes`. This initialises
        // all of it, before anybody can see it.
        unsafe {
            memory
                .base
                .copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len())
        };
        Ok(memory)
    }

    fn got(base: *mut u8, layout: Layout) -> Result<Self, AllocError> {
        match NonNull::new(base) {
            Some(base) => Ok(Self { base, layout }),
            None => Err(AllocError {
                bytes: layout.size(),
            }),
        }
    }

    fn bytes(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `base` came from the allocator with this layout, and the last piece that could use it has gone.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

fn layout(len: usize, alignment: usize) -> Result<Layout, AllocError> {
    Layout::from_size_align(len, alignment).map_err(|_| AllocError { bytes: len })
}

/// Where byte `start` of `memory` is; dangling, but not null, without memory.
fn address(memory: Option<&Arc<Allocation>>, start: usize) -> *mut u8 {
    match memory {
        Some(memory) => memory.base.as_ptr().wrapping_add(start),
        None => NonNull::dangling().as_ptr(),
    }
}

#[cfg(test)]
mod tests;
