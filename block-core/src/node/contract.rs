//! What the node checks of its driver: each violation is an error that names the clause of [`crate::BlockDriver`]'s contract.
//!
//! Most checks run in debug builds only. A release build is as tolerant as it was: it cuts impossible numbers and uses the rest.

use crate::{BlockStatus, Cause, Truncate};

/// An error for a broken clause.
fn violation(clause: &str, what: String) -> Cause {
    Cause::Driver(format!("driver contract, clause {clause}: {what}").into())
}

/// The error for a read that returned something else than it was lent. Checked in every build, because other memory would pass stale
/// bytes on.
pub(super) fn other_memory() -> Cause {
    let what = "a read returned other memory than it was lent";
    violation("8 (memory)", what.into())
}

/// The length that the driver reports after a truncate that succeeded.
pub(super) fn check_truncated(to: Truncate, len: u64) -> Result<(), Cause> {
    let as_asked = if to.exact {
        len == to.len
    } else {
        len >= to.len
    };
    if !cfg!(debug_assertions) || as_asked {
        return Ok(());
    }
    let what = format!(
        "a truncate to {} bytes succeeded, but the length is {len} bytes",
        to.len
    );
    Err(violation("3 (length)", what))
}

/// The answer to a status request of `asked` bytes.
pub(super) fn check_status(status: &BlockStatus, asked: u64) -> Result<(), Cause> {
    if !cfg!(debug_assertions) || (1..=asked).contains(&status.len) {
        return Ok(());
    }
    let what = format!(
        "a status of {asked} bytes was answered for {} bytes",
        status.len
    );
    Err(violation("14 (status)", what))
}

/// The error of a request of `asked` bytes. A short transfer moved less than that.
pub(super) fn check_failed(cause: Cause, asked: u64) -> Cause {
    match cause {
        Cause::Short { moved } if cfg!(debug_assertions) && moved >= asked => {
            let what = format!("a short transfer of {asked} bytes reports {moved} bytes");
            violation("9 (errors)", what)
        }
        cause => cause,
    }
}
