//! Locks that QEMU understands: who may use an image file at the same time, across processes.
//!
//! The lock of a permission is a byte of the file (it need not exist). A holder puts a *read* lock on it, so that any number of holders
//! get along; a newcomer asks, with a *write* lock that it never takes, whether anybody is there.
//!
//! ```text
//!   bit    permission         held: 100 + bit    not shared: 200 + bit
//!    0     consistent read    100                200
//!    1     write              101                201
//!    2     write unchanged    102                202
//!    3     resize             103                203
//!
//!   1. lock 100 + bit for what I do, 200 + bit for what I do not want others to do
//!   2. is a lock on 200 + bit, for what I do?             then its holder does not share it
//!   3. is a lock on 100 + bit, for what I do not share?   then its holder does it
//!   4. if so: unlock, fail, and name the permission
//! ```
//!
//! Both sides lock first and look afterwards, so of two that come at the same moment at least one sees the other. The locks are OFD locks: they
//! belong to the open file description, are seen by other opens of the same process, and go when its last descriptor is closed.

use block_core::{Errno, Permissions, Perms};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fmt;
use std::fs::File;

/// First byte of those that say what is done.
const HELD: i64 = 100;
/// First byte of those that say what others must not do.
const NOT_SHARED: i64 = 200;

/// Why the locks could not be had. Nothing stays locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockError {
    /// Another user of the file is in the way.
    Conflict(LockConflict),
    /// The file system has no such locks.
    NotSupported(Errno),
    /// The system refused for another reason.
    Os(Errno),
}

/// The permission that keeps two users of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockConflict {
    /// Its name, as in [`Perms::EACH`].
    pub permission: &'static str,
    /// Which of the two does not want it.
    pub reason: LockReason,
}

/// Which side of a conflict forbids what the other does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockReason {
    /// We need it, and another user does not share it.
    NotShared,
    /// We do not share it, and another user holds it.
    Held,
}

impl fmt::Display for LockConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permission = self.permission;
        match self.reason {
            LockReason::NotShared => {
                write!(f, "another user of the file does not share '{permission}'")
            }
            LockReason::Held => write!(
                f,
                "another user of the file holds '{permission}', which must not be shared"
            ),
        }
    }
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(conflict) => conflict.fmt(f),
            Self::NotSupported(errno) => {
                write!(f, "the file system has no locks of this kind ({errno})")
            }
            Self::Os(errno) => errno.fmt(f),
        }
    }
}

impl std::error::Error for LockError {}

/// Takes the locks that say `permissions`, or none: QEMU's `raw_apply_lock_bytes` and `raw_check_lock_bytes`.
///
/// They stay until [`release`], or until the last descriptor of this open file description is closed.
pub(crate) fn acquire(file: &File, permissions: Permissions) -> Result<(), LockError> {
    let not_shared = !permissions.shared;
    let taken = lock_bytes(file, HELD, permissions.perm)
        .and_then(|()| lock_bytes(file, NOT_SHARED, not_shared))
        .and_then(|()| no_lock_on(file, NOT_SHARED, permissions.perm, LockReason::NotShared))
        .and_then(|()| no_lock_on(file, HELD, not_shared, LockReason::Held));
    if taken.is_err() {
        release(file, permissions);
    }
    taken
}

/// Lets go of the locks that say `permissions`. Errors are of no use to anybody: closing the file has the same effect.
pub(crate) fn release(file: &File, permissions: Permissions) {
    for (first, set) in [(HELD, permissions.perm), (NOT_SHARED, !permissions.shared)] {
        for (byte, _) in bytes(first, set) {
            let _ = set_lock(file, byte, libc::F_UNLCK);
        }
    }
}

/// Read-locks the byte of each permission in `set`.
fn lock_bytes(file: &File, first: i64, set: Perms) -> Result<(), LockError> {
    for (byte, permission) in bytes(first, set) {
        set_lock(file, byte, libc::F_RDLCK).map_err(|errno| match errno {
            // Another process has a write lock there: not QEMU, but surely not sharing either.
            nix::Error::EAGAIN | nix::Error::EACCES => LockError::Conflict(LockConflict {
                permission,
                reason: LockReason::NotShared,
            }),
            errno => refused(errno),
        })?;
    }
    Ok(())
}

/// Fails if another open file description has a lock on the byte of a permission in `set`.
fn no_lock_on(file: &File, first: i64, set: Perms, reason: LockReason) -> Result<(), LockError> {
    for (byte, permission) in bytes(first, set) {
        let mut probe = one_byte(byte, libc::F_WRLCK);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)).map_err(refused)?;
        if i32::from(probe.l_type) != libc::F_UNLCK {
            return Err(LockError::Conflict(LockConflict { permission, reason }));
        }
    }
    Ok(())
}

/// The byte and the name of each permission in `set`.
fn bytes(first: i64, set: Perms) -> impl Iterator<Item = (i64, &'static str)> {
    Perms::EACH
        .into_iter()
        .filter(move |(_, perm, _)| set.contains(*perm))
        .map(move |(bit, _, name)| (first + i64::from(bit), name))
}

fn set_lock(file: &File, byte: i64, kind: i32) -> nix::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&one_byte(byte, kind))).map(drop)
}

fn one_byte(byte: i64, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        // Must be 0 for OFD locks.
        l_pid: 0,
    }
}

/// Tells "no such locks here" (an old kernel, some network file systems) from everything else.
fn refused(errno: nix::Error) -> LockError {
    let number = Errno(errno as i32);
    match errno {
        nix::Error::EINVAL | nix::Error::ENOSYS | nix::Error::EOPNOTSUPP | nix::Error::ENOLCK => {
            LockError::NotSupported(number)
        }
        _ => LockError::Os(number),
    }
}
