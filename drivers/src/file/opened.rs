//! An open file, as worker threads see it.

use super::direct_io::DirectIo;
use super::error::FileKind;
use super::sys::Sys;
use super::{not_supported_or, os};
use crate::lock;
use aio_task::edge::Arc;
use block_core::{Cause, Permissions};
use rustix::fs::SeekFrom;
use std::fs::File;

/// The file with everything that a job needs to know of it. Shared by the driver and its jobs in flight; the last one closes it.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) sys: Arc<dyn Sys>,
    /// A regular file or a block device.
    pub(super) kind: FileKind,
    /// The numbers of its device and inode.
    pub(super) identity: (u64, u64),
    /// The length at open, in bytes.
    pub(super) length: u64,
    pub(super) read_only: bool,
    pub(super) permissions: Permissions,
    /// False where locks were not asked for, or the file system has none and that was allowed.
    pub(super) locked: bool,
    pub(super) direct: DirectIo,
    /// What offsets and lengths are multiples of; 1 unless `direct` demands more.
    pub(super) alignment: u32,
    /// What ranges to zero or discard should be multiples of.
    pub(super) range_alignment: u32,
}

impl Opened {
    /// The length in bytes.
    pub(super) fn size(&self) -> Result<u64, Cause> {
        match self.kind {
            FileKind::BlockDevice => self.sys.seek(&self.file, SeekFrom::End(0)),
            _ => self.sys.stat_size(&self.file),
        }
        .map_err(os)
    }

    /// Makes all finished writes stable.
    pub(super) fn sync(&self) -> Result<(), Cause> {
        uninterrupted(|| self.sys.fdatasync(&self.file)).map_err(os)
    }

    /// Changes the length.
    pub(super) fn set_size(&self, len: u64) -> Result<(), Cause> {
        uninterrupted(|| self.sys.ftruncate(&self.file, len)).map_err(os)
    }

    /// `fallocate`; what the file system cannot do is [`Cause::NotSupported`].
    pub(super) fn allocate(
        &self,
        mode: rustix::fs::FallocateFlags,
        at: u64,
        len: u64,
    ) -> Result<(), Cause> {
        uninterrupted(|| self.sys.fallocate(&self.file, mode, at, len)).map_err(not_supported_or)
    }

    /// Lets go of the locks while the file stays open. Only when no job uses it.
    pub(super) fn unlock(&mut self) {
        if std::mem::take(&mut self.locked) {
            lock::release(&self.file, self.permissions);
        }
    }
}

impl Drop for Opened {
    /// Unlocks by itself, not by closing: a duplicate of the descriptor (the caller's own, or one in a process that is just being
    /// started) would keep the locks alive.
    fn drop(&mut self) {
        self.unlock();
    }
}

/// Repeats a call that a signal interrupted.
fn uninterrupted<T>(
    mut call: impl FnMut() -> Result<T, rustix::io::Errno>,
) -> Result<T, rustix::io::Errno> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => (),
            result => return result,
        }
    }
}
