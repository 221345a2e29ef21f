//! Opening, step by step, in a worker thread.
//!
//! 1. Look at what the path leads to, and refuse by name what is no file: opening a FIFO would wait for its other end.
//! 2. Open (O_NONBLOCK, should the path have become a FIFO meanwhile), and look again.
//! 3. Lock, before anything is read or cut that another user may be changing.
//! 4. Cut to length 0 if asked.
//! 5. Turn O_DIRECT on, and find out what it demands. Not at 2: a file system that refuses would have created the file first.

use super::direct_io::DirectIo;
use super::error::{FileKind, OpenError, OpenStep};
use super::opened::Opened;
use super::options::{Create, FileOptions, Locking};
use super::probe_direct;
use super::sys::Sys;
use crate::lock::{self, LockError};
use aio_task::edge::Arc;
use block_core::{Errno, Perms};
use rustix::fs::{Mode, OFlags, SeekFrom};
use std::fs::File;
use std::path::Path;

/// Opens what `path` leads to.
pub(super) fn open(
    path: &Path,
    options: &FileOptions,
    sys: Arc<dyn Sys>,
) -> Result<Opened, OpenError> {
    check(path, options)?;
    if options.create != Create::New {
        refuse_by_name(path, options)?;
    }
    let file = open_fd(path, options)?;
    let opened = set_up(file, path, options, sys);
    if opened.is_err() && options.create == Create::New {
        // Made by us a moment ago (O_EXCL). If it cannot be removed, the first error is still the one to tell.
        let _ = std::fs::remove_file(path);
    }
    opened
}

/// Takes over a file that the caller has opened; `path` is for messages.
pub(super) fn adopt(
    file: File,
    path: &Path,
    options: &FileOptions,
    sys: Arc<dyn Sys>,
) -> Result<Opened, OpenError> {
    check(path, options)?;
    set_up(file, path, options, sys)
}

fn check(path: &Path, options: &FileOptions) -> Result<(), OpenError> {
    match options.contradiction() {
        Some(reason) => Err(OpenError::Options {
            path: path.into(),
            reason,
        }),
        None => Ok(()),
    }
}

/// Step 1. A path that leads nowhere is the next step's business.
fn refuse_by_name(path: &Path, options: &FileOptions) -> Result<(), OpenError> {
    match rustix::fs::stat(path) {
        Ok(stat) => refuse(FileKind::of(stat.st_mode), path, options).map(drop),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(path, OpenStep::Stat, errno)),
    }
}

fn refuse(kind: FileKind, path: &Path, options: &FileOptions) -> Result<FileKind, OpenError> {
    match kind {
        FileKind::Regular => Ok(kind),
        FileKind::BlockDevice if options.block_device && options.create != Create::Truncate => {
            Ok(kind)
        }
        _ => Err(OpenError::Refused {
            path: path.into(),
            kind,
        }),
    }
}

/// Step 2.
fn open_fd(path: &Path, options: &FileOptions) -> Result<File, OpenError> {
    let access = if options.read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    let create = match options.create {
        Create::Existing => OFlags::empty(),
        // Cutting waits for the locks.
        Create::IfMissing | Create::Truncate => OFlags::CREATE,
        Create::New => OFlags::CREATE | OFlags::EXCL,
    };
    let flags = access | create | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    loop {
        match rustix::fs::open(path, flags, Mode::from_raw_mode(options.mode)) {
            Ok(fd) => return blocking(File::from(fd), path),
            Err(rustix::io::Errno::INTR) => (),
            Err(errno) => return Err(failed(path, OpenStep::Open, errno)),
        }
    }
}

/// Takes O_NONBLOCK off again: it means nothing to a file's reads and writes today, and need not stay for the day when it does.
fn blocking(file: File, path: &Path) -> Result<File, OpenError> {
    let flags = rustix::fs::fcntl_getfl(&file).map_err(|e| failed(path, OpenStep::Open, e))?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)
        .map_err(|e| failed(path, OpenStep::Open, e))?;
    Ok(file)
}

/// The rest of step 2, and steps 3 to 5.
fn set_up(
    file: File,
    path: &Path,
    options: &FileOptions,
    sys: Arc<dyn Sys>,
) -> Result<Opened, OpenError> {
    let stat = rustix::fs::fstat(&file).map_err(|e| failed(path, OpenStep::Stat, e))?;
    let kind = refuse(FileKind::of(stat.st_mode), path, options)?;
    let locked = take_locks(&file, path, options)?;
    let mut opened = Opened {
        file,
        sys,
        kind,
        identity: (stat.st_dev, stat.st_ino),
        length: 0,
        read_only: options.read_only,
        permissions: options.permissions,
        locked,
        direct: DirectIo::Off,
        alignment: 1,
        range_alignment: 1,
    };
    if options.create == Create::Truncate {
        opened.set_size(0).map_err(|cause| match cause {
            block_core::Cause::Os(errno) => OpenError::Os {
                path: path.into(),
                step: OpenStep::Truncate,
                errno,
            },
            cause => OpenError::Workers {
                path: path.into(),
                cause,
            },
        })?;
    }
    if kind == FileKind::BlockDevice {
        // Devices refuse to punch or zero a part of a block, where files zero it.
        let block = rustix::fs::ioctl_blksszget(&opened.file);
        opened.range_alignment = block.map_err(|e| failed(path, OpenStep::Probe, e))?;
    }
    // After the locks: another user may have been changing it before.
    let length = match kind {
        FileKind::BlockDevice => rustix::fs::seek(&opened.file, SeekFrom::End(0)),
        _ => rustix::fs::fstat(&opened.file).map(|stat| u64::try_from(stat.st_size).unwrap_or(0)),
    };
    opened.length = length.map_err(|e| failed(path, OpenStep::Stat, e))?;
    if options.cache.direct() {
        go_direct(&mut opened, path)?;
    }
    Ok(opened)
}

/// Step 3. True if the locks are held.
fn take_locks(file: &File, path: &Path, options: &FileOptions) -> Result<bool, OpenError> {
    if options.locking == Locking::Off {
        return Ok(false);
    }
    let path = path.to_path_buf();
    match lock::acquire(file, options.permissions) {
        Ok(()) => Ok(true),
        Err(LockError::NotSupported(_)) if options.locking == Locking::Auto => Ok(false),
        Err(LockError::NotSupported(errno)) => Err(OpenError::NoLocks { path, errno }),
        Err(LockError::Conflict(conflict)) => Err(OpenError::Locked { path, conflict }),
        Err(LockError::Os(errno)) => Err(OpenError::Os {
            path,
            step: OpenStep::Lock,
            errno,
        }),
    }
}

/// Step 5.
fn go_direct(opened: &mut Opened, path: &Path) -> Result<(), OpenError> {
    opened
        .sys
        .set_direct(&opened.file)
        .map_err(|errno| OpenError::DirectRefused {
            path: path.into(),
            errno: Errno(errno.raw_os_error()),
        })?;
    let resizable = !opened.read_only
        && opened.kind == FileKind::Regular
        && opened.permissions.perm.contains(Perms::RESIZE);
    opened.direct = probe_direct::probe(opened, resizable)
        .map_err(|errno| failed(path, OpenStep::Probe, errno))?;
    opened.alignment = opened.direct.request_alignment();
    opened.range_alignment = opened.range_alignment.max(opened.alignment);
    Ok(())
}

fn failed(path: &Path, step: OpenStep, errno: rustix::io::Errno) -> OpenError {
    OpenError::Os {
        path: path.into(),
        step,
        errno: Errno(errno.raw_os_error()),
    }
}
