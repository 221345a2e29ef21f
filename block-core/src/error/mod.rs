//! One error type: the operation, where it was, how long, and why.

mod driver_error;

pub use self::driver_error::DriverError;

use crate::{AllocError, DiskOffset};
use std::error::Error;
use std::fmt;
use std::io;

/// An errno as Linux numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// Operation not permitted.
    pub const PERM: Self = Self(1);
    /// No such file or directory (no such snapshot).
    pub const NOENT: Self = Self(2);
    /// Input/output error.
    pub const IO: Self = Self(5);
    /// Resource temporarily unavailable (a lock is held).
    pub const AGAIN: Self = Self(11);
    /// Cannot allocate memory.
    pub const NOMEM: Self = Self(12);
    /// Device or resource busy.
    pub const BUSY: Self = Self(16);
    /// Permission denied (read-only).
    pub const ACCES: Self = Self(13);
    /// File exists (the snapshot's name is taken).
    pub const EXIST: Self = Self(17);
    /// Invalid argument.
    pub const INVAL: Self = Self(22);
    /// File too large.
    pub const FBIG: Self = Self(27);
    /// No space left on device.
    pub const NOSPC: Self = Self(28);
    /// No such device (the node is closed).
    pub const NODEV: Self = Self(19);
    /// Operation not supported.
    pub const NOTSUP: Self = Self(95);
    /// Operation cancelled.
    pub const CANCELED: Self = Self(125);
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it; Display has the words")]
pub enum Op {
    Open,
    Close,
    Lock,
    Read,
    Write,
    WriteZeroes,
    Discard,
    Flush,
    BlockStatus,
    Truncate,
    Length,
    SaveVmstate,
    LoadVmstate,
    FinalizeVmstate,
    DiscardVmstate,
    SnapshotCreate,
    SnapshotGoto,
    SnapshotDelete,
    SnapshotList,
    SnapshotLoad,
    Drain,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Lock => "lock",
            Self::Read => "read",
            Self::Write => "write",
            Self::WriteZeroes => "write zeroes",
            Self::Discard => "discard",
            Self::Flush => "flush",
            Self::BlockStatus => "block status",
            Self::Truncate => "truncate",
            Self::Length => "length",
            Self::SaveVmstate => "save vmstate",
            Self::LoadVmstate => "load vmstate",
            Self::FinalizeVmstate => "finalize vmstate",
            Self::DiscardVmstate => "discard vmstate",
            Self::SnapshotCreate => "snapshot create",
            Self::SnapshotGoto => "snapshot goto",
            Self::SnapshotDelete => "snapshot delete",
            Self::SnapshotList => "snapshot list",
            Self::SnapshotLoad => "snapshot load",
            Self::Drain => "drain",
        })
    }
}

/// Why it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The system said so.
    Os(Errno),
    /// Neither this driver nor, where the call is passed down, a child of it can do this.
    NotSupported,
    /// The range ends at `end`, past the node's `size`.
    OutOfBounds {
        /// First byte past the range.
        end: u64,
        /// The node's length in bytes.
        size: u64,
    },
    /// Offset + length exceeds `i64::MAX`.
    Overflow,
    /// The node was opened read-only.
    ReadOnly,
    /// This user of the node did not take the permission.
    NoPermission {
        /// The permission's name.
        permission: &'static str,
    },
    /// Another user, here or in another process, holds or does not share the permission.
    Conflict {
        /// The permission's name.
        permission: &'static str,
    },
    /// The driver moved fewer bytes than asked, and no more were to be had.
    Short {
        /// How many bytes were moved.
        moved: u64,
    },
    /// Another process has made the file shorter than it was when it was opened, or than this process has made it since.
    Shrunk {
        /// Where the request begins, in bytes of the file.
        at: u64,
        /// How many bytes were asked for there.
        wanted: u64,
        /// How many bytes the file still has there.
        got: u64,
        /// The length in bytes that the file had.
        length: u64,
    },
    /// The node was closed, or is being closed.
    Closed,
    /// The node was closed, or the save dropped, with a save that no task had finalized: its buffered bytes are lost.
    Unfinalized,
    /// The operation was cancelled by its owner.
    Cancelled,
    /// Memory could not be had.
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The context of the node is gone, or no task drives it while this call would have to wait.
    NotDriven,
    /// A job of the driver panicked.
    Panicked,
    /// The image has no snapshot of this id or name.
    NoSuchSnapshot {
        /// What was asked for.
        name: String,
    },
    /// The image has a snapshot of this name, and it was not to be replaced.
    SnapshotExists {
        /// The name.
        name: String,
    },
    /// It failed, and what it had written could not be freed: the image is good, but its file holds space that nothing uses.
    Leaked {
        /// Why it failed; the errno is this one's.
        cause: Box<Cause>,
        /// Why the space could not be freed.
        freeing: Box<Cause>,
    },
    /// The change was written, and making it stable failed: the disk may have the old state or the new one. Both are in order. A later flush
    /// that succeeds proves nothing; what the image says when it is opened anew does.
    Unsure {
        /// Why it is not known; the errno is this one's.
        cause: Box<Cause>,
    },
    /// The change is made and stable. What it no longer needs could not be freed: the file holds space that nothing uses.
    Done {
        /// Why the space could not be freed; the errno is this one's.
        but: Box<Cause>,
    },
    /// What was to be changed is in use.
    Busy(DriverError),
    /// What is stored contradicts itself: an image whose tables are wrong.
    Corrupt(DriverError),
    /// Anything else that a driver reports.
    Driver(DriverError),
}

/// What went wrong, where. `Clone`, since a failed save gives the same error to every later call.
///
/// A driver's own error is the [`source`](Error::source). `{}` prints the error without its source; `{:#}` prints the source after it, for
/// programs that print one line.
///
/// Two errors are equal if all but the node's name is.
#[derive(Clone, Debug)]
pub struct BlockError {
    /// The operation.
    pub op: Op,
    /// Its offset in the space of the call that failed (the node's, or the vmstate area's for vmstate operations).
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The cause.
    pub cause: Cause,
    node: Option<Box<str>>,
}

impl PartialEq for BlockError {
    fn eq(&self, other: &Self) -> bool {
        let parts = |error: &Self| (error.op, error.offset, error.len);
        parts(self) == parts(other) && self.cause == other.cause
    }
}

impl Eq for BlockError {}

impl BlockError {
    /// An error of `op` on `len` bytes at `offset`.
    pub fn new(op: Op, offset: u64, len: u64, cause: Cause) -> Self {
        Self {
            op,
            offset,
            len,
            cause,
            node: None,
        }
    }

    /// The same error, as one of the node called `name`, unless a node is named already.
    #[must_use]
    pub fn of_node(mut self, name: &str) -> Self {
        self.node.get_or_insert_with(|| name.into());
        self
    }

    /// The same error with another cause.
    #[must_use]
    pub fn with_cause(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// The name of the node that reported the error.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// An error of the system, as an error of `op` on `len` bytes at `offset`. One that was made from a `BlockError` is that error again. An
    /// error without an errno counts as EIO.
    pub fn from_io(op: Op, offset: u64, len: u64, error: &io::Error) -> Self {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Self>());
        if let Some(inner) = inner {
            return inner.clone();
        }
        let errno = Errno(error.raw_os_error().unwrap_or(Errno::IO.0));
        Self::new(op, offset, len, Cause::Os(errno))
    }

    /// The positive errno that QEMU's caller would see, negated, for this error.
    pub fn errno(&self) -> Errno {
        self.cause.errno()
    }

    /// The kind that an [`io::Error`] of this error has.
    pub fn kind(&self) -> io::ErrorKind {
        io::Error::from_raw_os_error(self.errno().0).kind()
    }

    /// The bare errno as an error of the system, for callers that pass it on by number. Everything else is lost: [`io::Error::from`] keeps it.
    pub fn into_os_error(self) -> io::Error {
        io::Error::from_raw_os_error(self.errno().0)
    }
}

impl Cause {
    /// The positive errno that QEMU's caller would see, negated, for this cause.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Os(errno) => *errno,
            Self::NotSupported => Errno::NOTSUP,
            Self::OutOfBounds { .. }
            | Self::Short { .. }
            | Self::Shrunk { .. }
            | Self::Unfinalized
            | Self::Corrupt(_)
            | Self::Panicked => Errno::IO,
            Self::Overflow | Self::Driver(_) => Errno::INVAL,
            Self::ReadOnly => Errno::ACCES,
            Self::NoPermission { .. } => Errno::PERM,
            Self::Conflict { .. } => Errno::AGAIN,
            Self::Busy(_) => Errno::BUSY,
            Self::Closed | Self::NotDriven => Errno::NODEV,
            Self::Cancelled => Errno::CANCELED,
            Self::OutOfMemory { .. } => Errno::NOMEM,
            Self::NoSuchSnapshot { .. } => Errno::NOENT,
            Self::SnapshotExists { .. } => Errno::EXIST,
            Self::Leaked { cause, .. } | Self::Unsure { cause } | Self::Done { but: cause } => {
                cause.errno()
            }
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os(errno) => errno.fmt(f),
            Self::NotSupported => f.write_str("not supported"),
            Self::OutOfBounds { end, size } => {
                write!(f, "ends at {end}, past the node's length of {size}")
            }
            Self::Overflow => f.write_str("offset + length exceeds 2^63 - 1"),
            Self::ReadOnly => f.write_str("the node is read-only"),
            Self::NoPermission { permission } => {
                write!(f, "permission '{permission}' was not taken")
            }
            Self::Conflict { permission } => write!(
                f,
                "permission '{permission}' is held or refused by another user"
            ),
            Self::Short { moved } => write!(f, "only {moved} bytes were moved"),
            Self::Shrunk {
                at,
                wanted,
                got,
                length,
            } => write!(
                f,
                "the file has become shorter: it had {length} bytes, and has only {got} of the {wanted} bytes at offset {at}"
            ),
            Self::Closed => f.write_str("the node is closed"),
            Self::Unfinalized => f.write_str("the save was not finalized"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::OutOfMemory { bytes } => write!(f, "no memory for {bytes} bytes"),
            Self::NotDriven => f.write_str("the context is not driven"),
            Self::Panicked => f.write_str("a job of the driver panicked"),
            Self::NoSuchSnapshot { name } => write!(f, "there is no snapshot {name:?}"),
            Self::SnapshotExists { name } => write!(f, "there is a snapshot {name:?} already"),
            Self::Leaked { cause, freeing } => write!(
                f,
                "{cause}; what was written until then could not be freed: {freeing}"
            ),
            Self::Unsure { cause } => write!(f, "{cause}; the change may be on disk or not"),
            Self::Done { but } => write!(
                f,
                "the change is made, but what is no longer needed could not be freed: {but}"
            ),
            Self::Busy(error) | Self::Corrupt(error) | Self::Driver(error) => error.fmt(f),
        }
    }
}

impl Cause {
    /// The driver's own error, of whatever depth.
    fn driver_error(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        match self {
            Self::Busy(error) | Self::Corrupt(error) | Self::Driver(error) => error.get(),
            Self::Leaked { cause, .. } | Self::Unsure { cause } | Self::Done { but: cause } => {
                cause.driver_error()
            }
            _ => None,
        }
    }

    /// The cause in words, a driver's own error left out: that is the source.
    fn without_source(&self) -> &'static str {
        match self {
            Self::Busy(_) => "it is in use",
            Self::Corrupt(_) => "the stored tables contradict each other",
            Self::Leaked { .. } => "it failed, and space that nothing uses is left",
            Self::Unsure { .. } => "the change may be on disk or not",
            Self::Done { .. } => "the change is made, but space that nothing uses is left",
            _ => "the driver refused it",
        }
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "node {node:?}: ")?;
        }
        write!(
            f,
            "{} at offset {}, length {}: ",
            self.op, self.offset, self.len
        )?;
        match self.cause.driver_error() {
            Some(_) if !f.alternate() => f.write_str(self.cause.without_source()),
            _ => self.cause.fmt(f),
        }
    }
}

impl Error for BlockError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source = self.cause.driver_error()?;
        Some(source)
    }
}

impl From<BlockError> for io::Error {
    /// Keeps the whole error as the payload: [`io::Error::get_ref`] has it, and [`BlockError::from_io`] gives it back.
    fn from(error: BlockError) -> Self {
        Self::new(error.kind(), error)
    }
}

impl BlockError {
    /// No memory for a request at `offset`.
    pub fn out_of_memory(op: Op, offset: DiskOffset, error: AllocError) -> Self {
        Self::new(
            op,
            offset.0,
            error.bytes as u64,
            Cause::OutOfMemory {
                bytes: error.bytes as u64,
            },
        )
    }
}
