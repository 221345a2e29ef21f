//! Moves all bytes of a request, in as many calls as it takes: QEMU's `handle_aiocb_rw`.
//!
//! A call may be interrupted (EINTR), may move less than asked, and takes at most IOV_MAX pieces. Under O_DIRECT it may stop inside a
//! block; the next call then begins at that block again, since no call may begin inside one.

use super::opened::Opened;
use super::os;
use block_core::{Cause, IoVector, ReadVector};
use rustix::io::Errno;
use std::io::{IoSlice, IoSliceMut};

/// Most pieces of one call; Linux's UIO_MAXIOV.
const IOV_MAX: usize = 1024;

/// Fills `dst` from `at`. Returns where the file ends if it ends inside the request; the bytes past its end are set to zero then.
pub(super) fn read(file: &Opened, at: u64, dst: &mut ReadVector) -> Result<Option<u64>, Cause> {
    let mut progress = Progress::new(at, dst.len(), file.alignment)?;
    let mut size_seen = None;
    while let Some(position) = progress.position() {
        let mut slices = slices_mut(dst, progress.resume);
        match file.sys.preadv(&file.file, &mut slices, position) {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(os(errno)),
            Ok(moved) if progress.advance(moved) => continue,
            Ok(_) => (),
        }
        // Nothing more came: the end of the file, unless the file has grown since or the disk lies.
        let size = file.size()?;
        if progress.moved_to() >= size {
            zero_from(dst, progress.moved);
            return Ok(Some(progress.moved_to().min(size)));
        }
        if size_seen == Some(size) {
            return Err(Cause::Short {
                moved: progress.moved,
            });
        }
        size_seen = Some(size);
    }
    Ok(None)
}

/// Writes `src` at `at`. With `dsync` the data is stable when this returns, unless it says that a sync is still to be done.
pub(super) fn write(file: &Opened, at: u64, src: &IoVector, dsync: bool) -> Result<bool, Cause> {
    let mut progress = Progress::new(at, src.len(), file.alignment)?;
    let mut sync_after = false;
    while let Some(position) = progress.position() {
        let slices = slices(src, progress.resume);
        let result = if dsync && !sync_after {
            file.sys.pwritev_dsync(&file.file, &slices, position)
        } else {
            file.sys.pwritev(&file.file, &slices, position)
        };
        match result {
            Err(Errno::INTR) => (),
            // No such flag here: all of it must be synced at the end.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if dsync && !sync_after => sync_after = true,
            Err(errno) => return Err(os(errno)),
            Ok(moved) if progress.advance(moved) => (),
            Ok(_) => {
                return Err(Cause::Short {
                    moved: progress.moved,
                });
            }
        }
    }
    Ok(sync_after)
}

/// How far a request has come.
struct Progress {
    at: u64,
    total: u64,
    /// A power of two; 1 unless O_DIRECT.
    alignment: u64,
    /// Bytes from `at` on that are known to be moved. Only grows.
    moved: u64,
    /// Where the next call begins, in bytes from `at`: `moved`, rounded down to a whole block.
    resume: u64,
}

impl Progress {
    fn new(at: u64, total: u64, alignment: u32) -> Result<Self, Cause> {
        match at.checked_add(total) {
            Some(end) if end <= i64::MAX as u64 => Ok(Self {
                at,
                total,
                alignment: u64::from(alignment),
                moved: 0,
                resume: 0,
            }),
            _ => Err(Cause::Overflow),
        }
    }

    /// Where the next call begins in the file; `None` when all is moved.
    fn position(&self) -> Option<u64> {
        (self.moved < self.total).then(|| self.at + self.resume)
    }

    /// Where the moved bytes end in the file.
    fn moved_to(&self) -> u64 {
        self.at + self.moved
    }

    /// A call has moved `bytes` from `resume` on. False if that brings nothing new.
    fn advance(&mut self, bytes: usize) -> bool {
        let moved = self.resume.saturating_add(bytes as u64).min(self.total);
        if moved <= self.moved {
            return false;
        }
        self.moved = moved;
        self.resume = moved & !(self.alignment - 1);
        true
    }
}

/// The pieces from byte `from` on, as many as one call takes.
fn slices(src: &IoVector, from: u64) -> Vec<IoSlice<'_>> {
    let mut slices = Vec::with_capacity(src.parts().len().min(IOV_MAX));
    let mut skip = from;
    for part in src.parts() {
        let part: &[u8] = part;
        if skip >= part.len() as u64 {
            skip -= part.len() as u64;
            continue;
        }
        slices.push(IoSlice::new(&part[skip as usize..]));
        skip = 0;
        if slices.len() == IOV_MAX {
            break;
        }
    }
    slices
}

/// As [`slices`], to be filled.
fn slices_mut(dst: &mut ReadVector, from: u64) -> Vec<IoSliceMut<'_>> {
    let mut slices = Vec::with_capacity(dst.parts().len().min(IOV_MAX));
    let mut skip = from;
    for part in dst.parts_mut() {
        let part: &mut [u8] = part;
        if skip >= part.len() as u64 {
            skip -= part.len() as u64;
            continue;
        }
        slices.push(IoSliceMut::new(&mut part[skip as usize..]));
        skip = 0;
        if slices.len() == IOV_MAX {
            break;
        }
    }
    slices
}

/// Zeroes everything from byte `from` on.
pub(crate) fn zero_from(dst: &mut ReadVector, from: u64) {
    let mut skip = from;
    for part in dst.parts_mut() {
        let len = part.len() as u64;
        if skip < len {
            part[skip as usize..].fill(0);
        }
        skip = skip.saturating_sub(len);
    }
}
