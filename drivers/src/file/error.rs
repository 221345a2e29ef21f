//! Why a file could not be opened.

use crate::lock::LockConflict;
use block_core::{BlockError, Cause, DriverError, Errno, Op};
use std::fmt;
use std::path::{Path, PathBuf};

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// None of these.
    Other,
}

impl FileKind {
    pub(super) fn of(mode: rustix::fs::RawMode) -> Self {
        match rustix::fs::FileType::from_raw_mode(mode) {
            rustix::fs::FileType::RegularFile => Self::Regular,
            rustix::fs::FileType::Directory => Self::Directory,
            rustix::fs::FileType::Fifo => Self::Fifo,
            rustix::fs::FileType::Socket => Self::Socket,
            rustix::fs::FileType::CharacterDevice => Self::CharDevice,
            rustix::fs::FileType::BlockDevice => Self::BlockDevice,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regular => "a regular file",
            Self::Directory => "a directory",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
            Self::CharDevice => "a character device",
            Self::BlockDevice => "a block device",
            Self::Other => "not a regular file",
        })
    }
}

/// The step at which the system refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenStep {
    /// Looking at what the path leads to.
    Stat,
    /// Opening or creating it.
    Open,
    /// Taking the locks.
    Lock,
    /// Cutting it to length 0.
    Truncate,
    /// Finding out what direct I/O demands.
    Probe,
}

impl fmt::Display for OpenStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stat => "stat",
            Self::Open => "open",
            Self::Lock => "lock",
            Self::Truncate => "truncate",
            Self::Probe => "probe direct I/O of",
        })
    }
}

/// Why a file could not be opened. The file is closed again and unlocked; its content is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// It is nothing that this driver reads and writes, or a block device without [`FileOptions::block_device`](crate::FileOptions::block_device).
    Refused {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: FileKind,
    },
    /// Another user of the file, in this or another process, is in the way.
    Locked {
        /// The file.
        path: PathBuf,
        /// The permission, and which side does not want it.
        conflict: LockConflict,
    },
    /// [`Locking::On`](crate::Locking::On), and the file system has no locks.
    NoLocks {
        /// The file.
        path: PathBuf,
        /// What it said.
        errno: Errno,
    },
    /// The file system does not do direct I/O.
    DirectRefused {
        /// The file.
        path: PathBuf,
        /// What it said, EINVAL as a rule.
        errno: Errno,
    },
    /// The options contradict each other.
    Options {
        /// The file.
        path: PathBuf,
        /// In words.
        reason: &'static str,
    },
    /// The system refused.
    Os {
        /// The file.
        path: PathBuf,
        /// What was being done.
        step: OpenStep,
        /// What it said.
        errno: Errno,
    },
    /// The worker threads refused or lost the job.
    Workers {
        /// The file.
        path: PathBuf,
        /// In the terms of a block error.
        cause: Cause,
    },
}

impl OpenError {
    /// The file that was to be opened.
    pub fn path(&self) -> &Path {
        match self {
            Self::Refused { path, .. }
            | Self::Locked { path, .. }
            | Self::NoLocks { path, .. }
            | Self::DirectRefused { path, .. }
            | Self::Options { path, .. }
            | Self::Os { path, .. }
            | Self::Workers { path, .. } => path,
        }
    }

    /// The errno that stands for this error.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Refused {
                kind: FileKind::Directory,
                ..
            } => Errno(21), // EISDIR
            Self::Refused { .. } | Self::Options { .. } => Errno::INVAL,
            Self::Locked { .. } => Errno::AGAIN,
            Self::NoLocks { errno, .. }
            | Self::DirectRefused { errno, .. }
            | Self::Os { errno, .. } => *errno,
            Self::Workers { cause, .. } => BlockError::new(Op::Open, 0, 0, cause.clone()).errno(),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path().display();
        match self {
            Self::Refused { kind, .. } => write!(f, "{path} is {kind}"),
            Self::Locked { conflict, .. } => write!(f, "{path} is locked: {conflict}"),
            Self::NoLocks { errno, .. } => {
                write!(f, "{path} cannot be locked on its file system: {errno}")
            }
            Self::DirectRefused { errno, .. } => {
                write!(f, "the file system of {path} refuses O_DIRECT: {errno}")
            }
            Self::Options { reason, .. } => write!(f, "{path}: {reason}"),
            Self::Os { step, errno, .. } => write!(f, "cannot {step} {path}: {errno}"),
            Self::Workers { cause, .. } => write!(f, "{path}: {cause}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<OpenError> for BlockError {
    /// As an error of [`Op::Open`]. A lock conflict and a plain errno stay what they are; the rest is kept whole.
    fn from(error: OpenError) -> Self {
        let cause = match &error {
            OpenError::Locked { conflict, .. } => Cause::Conflict {
                permission: conflict.permission,
            },
            OpenError::Os { errno, .. } => Cause::Os(*errno),
            OpenError::Workers { cause, .. } => cause.clone(),
            _ => Cause::Driver(DriverError::new(error)),
        };
        Self::new(Op::Open, 0, 0, cause)
    }
}

impl From<OpenError> for std::io::Error {
    fn from(error: OpenError) -> Self {
        BlockError::from(error).into()
    }
}
