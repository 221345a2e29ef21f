//! Operations that name a range and carry no data: zeroes, discard, status, length.

use super::error::FileKind;
use super::opened::Opened;
use super::transfer;
use block_core::{
    BlockStatus, Cause, DiskOffset, IoBuf, IoVector, Preallocation, SharedBuf, Truncate,
};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
/// Memory for writing zeroes, in bytes.
const ZEROES: u64 = 1 << 20;

/// Zeroes without data; QEMU's `handle_aiocb_write_zeroes` and `_unmap`.
///
/// [`Cause::NotSupported`] if the file system can do none of it; then nothing has changed that the caller will not write anyway.
pub(super) fn write_zeroes(file: &Opened, at: u64, len: u64, may_unmap: bool) -> Result<(), Cause> {
    check_range(at, len)?;
    if len == 0 {
        return Ok(());
    }
    let zeroed = if may_unmap {
        punch_zeroes(file, at, len)
    } else {
        Err(Cause::NotSupported)
    };
    match zeroed {
        Err(Cause::NotSupported) => allocated_zeroes(file, at, len),
        result => result,
    }
}

/// Zeroes by making holes. A hole past the end does not move the end, so that part is done the other way.
fn punch_zeroes(file: &Opened, at: u64, len: u64) -> Result<(), Cause> {
    let end = at + len;
    let size = file.size()?;
    if end > size && file.kind == FileKind::Regular {
        let inside = size.max(at);
        allocated_zeroes(file, inside, end - inside)?;
        return if inside > at {
            file.allocate(PUNCH, at, inside - at)
        } else {
            Ok(())
        };
    }
    file.allocate(PUNCH, at, len)
}

/// Zeroes that keep their space: ZERO_RANGE, or, where that is not known (tmpfs), a hole that is filled again.
fn allocated_zeroes(file: &Opened, at: u64, len: u64) -> Result<(), Cause> {
    match file.allocate(FallocateFlags::ZERO_RANGE, at, len) {
        Err(Cause::NotSupported) if file.kind == FileKind::Regular => {
            file.allocate(PUNCH, at, len)?;
            file.allocate(FallocateFlags::empty(), at, len)
        }
        result => result,
    }
}

/// Makes a hole; QEMU's `handle_aiocb_discard`.
pub(super) fn discard(file: &Opened, at: u64, len: u64) -> Result<(), Cause> {
    check_range(at, len)?;
    if len == 0 {
        Ok(())
    } else {
        file.allocate(PUNCH, at, len)
    }
}

/// Data or hole; QEMU's `find_allocation` and `raw_co_block_status`. Returns the file's length too if no data was found.
pub(super) fn block_status(
    file: &Opened,
    at: u64,
    len: u64,
) -> Result<(BlockStatus, Option<u64>), Cause> {
    check_range(at, len)?;
    let answer = |end: u64, data: bool| BlockStatus {
        len: (end - at).min(len),
        data,
        zero: !data,
        allocated: true,
        map: Some(DiskOffset(at)),
    };
    let end = at + len;
    let data = match file.sys.seek(&file.file, SeekFrom::Data(at)) {
        Ok(data) if data > at => return Ok((answer(data, false), None)),
        // In a hole that reaches to the end, or past the end.
        Err(Errno::NXIO) => return Ok((answer(end, false), Some(file.size()?))),
        Ok(data) => data,
        // The file system does not tell.
        Err(_) => return Ok((answer(end, true), None)),
    };
    let hole = match file.sys.seek(&file.file, SeekFrom::Hole(data)) {
        Ok(hole) if hole > at => hole,
        // It has changed meanwhile, or does not tell. "Data" is never wrong.
        _ => return Ok((answer(end, true), None)),
    };
    // The end of the file counts as a hole; the rest of its last block reads as zeroes, and belongs to the data.
    let block = u64::from(file.alignment);
    let data_end = hole.checked_next_multiple_of(block).unwrap_or(end);
    Ok((answer(data_end, true), None))
}

/// Changes the length; QEMU's `raw_co_truncate`. On failure the old length is set again.
pub(super) fn truncate(file: &Opened, to: Truncate) -> Result<(), Cause> {
    check_range(to.len, 0)?;
    let size = file.size()?;
    if file.kind != FileKind::Regular {
        // A device has the length that it has.
        return match to {
            Truncate {
                len, exact: true, ..
            } if len != size => Err(Cause::NotSupported),
            Truncate { len, .. } if len > size => Err(Cause::OutOfBounds { end: len, size }),
            _ => Ok(()),
        };
    }
    if to.preallocation == Preallocation::Metadata
        || (to.len < size && to.preallocation != Preallocation::Off)
    {
        return Err(Cause::NotSupported); // as QEMU says it
    }
    let grown = match to.preallocation {
        Preallocation::Off | Preallocation::Metadata => file.set_size(to.len),
        // fallocate refuses a length of 0.
        Preallocation::Falloc | Preallocation::Full if to.len == size => Ok(()),
        Preallocation::Falloc => file.allocate(FallocateFlags::empty(), size, to.len - size),
        Preallocation::Full => write_out(file, size, to.len),
    };
    if grown.is_err() && to.len > size {
        // Best effort: the error that counts is the first.
        let _ = file.set_size(size);
    }
    grown
}

/// Writes zeroes from `size` to `len`, and syncs them. Ends that share a block with other bytes are only allocated.
fn write_out(file: &Opened, size: u64, len: u64) -> Result<(), Cause> {
    file.set_size(len)?;
    let block = u64::from(file.alignment);
    let first = size.checked_next_multiple_of(block).unwrap_or(len).min(len);
    let last = (len - len % block).max(first);
    for (from, to) in [(size, first), (last, len)] {
        if to > from {
            file.allocate(FallocateFlags::empty(), from, to - from)?;
        }
    }
    let memory = zeroes((last - first).min(ZEROES), file.direct.memory_alignment())?;
    let mut at = first;
    while at < last {
        let piece = (last - at).min(ZEROES);
        transfer::write(
            file,
            at,
            &IoVector::from(memory.slice(0..piece as usize)),
            false,
        )?;
        at += piece;
    }
    file.sync()
}

fn zeroes(len: u64, alignment: u32) -> Result<SharedBuf, Cause> {
    match IoBuf::zeroed(len as usize, alignment as usize) {
        Ok(memory) => Ok(memory.freeze()),
        Err(error) => Err(Cause::OutOfMemory {
            bytes: error.bytes as u64,
        }),
    }
}

fn check_range(at: u64, len: u64) -> Result<(), Cause> {
    match DiskOffset(at).checked_add(len) {
        Some(_) => Ok(()),
        None => Err(Cause::Overflow),
    }
}
