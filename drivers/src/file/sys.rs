//! The system calls of the file driver, behind a trait, so that tests can make each of them fail, fall short or wait.
//!
//! The trait's own bodies are the real calls: [`Os`] changes none of them.

use rustix::fs::{AtFlags, FallocateFlags, OFlags, SeekFrom, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};

/// The memory and offset alignment that a file system asks of direct I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DioAlign {
    pub(crate) memory: u32,
    pub(crate) offset: u32,
}

/// One method, one system call. All of them may block: they are called by worker threads only.
pub(crate) trait Sys: Send + Sync + 'static {
    fn preadv(&self, file: &File, to: &mut [IoSliceMut<'_>], at: u64) -> Result<usize, Errno> {
        rustix::io::preadv(file, to, at)
    }

    fn pwritev(&self, file: &File, from: &[IoSlice<'_>], at: u64) -> Result<usize, Errno> {
        rustix::io::pwritev(file, from, at)
    }

    /// As `pwritev`; what was written is stable when it returns.
    fn pwritev_dsync(&self, file: &File, from: &[IoSlice<'_>], at: u64) -> Result<usize, Errno> {
        rustix::io::pwritev2(file, from, at, ReadWriteFlags::DSYNC)
    }

    fn fdatasync(&self, file: &File) -> Result<(), Errno> {
        rustix::fs::fdatasync(file)
    }

    fn fallocate(&self, file: &File, mode: FallocateFlags, at: u64, len: u64) -> Result<(), Errno> {
        rustix::fs::fallocate(file, mode, at, len)
    }

    fn ftruncate(&self, file: &File, len: u64) -> Result<(), Errno> {
        rustix::fs::ftruncate(file, len)
    }

    /// The length of a regular file.
    fn stat_size(&self, file: &File) -> Result<u64, Errno> {
        // Negative only if the file system is broken.
        rustix::fs::fstat(file).map(|stat| u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// SEEK_DATA, SEEK_HOLE, SEEK_END. The file position is of no use to anybody: all I/O is positioned.
    fn seek(&self, file: &File, to: SeekFrom) -> Result<u64, Errno> {
        rustix::fs::seek(file, to)
    }

    /// `STATX_DIOALIGN`; `None` where the kernel or the file system does not tell, or says "no direct I/O".
    fn dio_align(&self, file: &File) -> Option<DioAlign> {
        let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
        let told = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
        let align = DioAlign {
            memory: stat.stx_dio_mem_align,
            offset: stat.stx_dio_offset_align,
        };
        (told && align.memory != 0 && align.offset != 0).then_some(align)
    }

    /// Turns O_DIRECT on for an open file.
    fn set_direct(&self, file: &File) -> Result<(), Errno> {
        rustix::fs::fcntl_setfl(file, rustix::fs::fcntl_getfl(file)? | OFlags::DIRECT)
    }
}

/// The real calls.
pub(crate) struct Os;

impl Sys for Os {}
