//! A block layer after QEMU's: what a disk is, for drivers below and users above.
//!
//! 1. A [`BlockDriver`] knows how bytes are laid out (a file, qcow2, memory). It sees only requests that fit its [`BlockLimits`].
//! 2. A [`BlockNode`] owns a driver and does the caller's side: bounds, splitting, alignment, read-modify-write, serialising, in-flight
//!    tracking, drain. It is QEMU's `BlockDriverState`.
//! 3. Memory is owned ([`IoBuf`], [`SharedBuf`], [`IoVector`]): a request owns its memory until its I/O is over, so every future may be
//!    dropped at any await.
//! 4. A request that has reached the driver runs to its end as a task of the node's context. Dropping its
//!    future only stops waiting; [`BlockNode::settle`] waits for what may still land.
//! 5. Errors are [`BlockError`]: operation, offset, length, cause, and an errno for callers who need one.

mod buffer;
mod cache;
mod driver;
mod error;
mod flags;
mod limits;
mod node;
mod offset;
mod permissions;
mod snapshot;
mod status;
#[cfg(feature = "test-disk")]
pub mod test_disk;
mod vector;

pub use buffer::{AllocError, IoBuf, SharedBuf};
pub use cache::CacheMode;
pub use driver::{BlockDriver, Children, DynBlockDriver, Preallocation, Truncate};
pub use error::{BlockError, Cause, DriverError, Errno, Op};
pub use flags::{WriteFlags, ZeroFlags};
pub use limits::{BlockLimits, RangeLimits, VmstateLimits};
pub use node::{BlockChild, BlockNode, Drained, NodeBuilder, NodeExtension, WeakBlockNode};
pub use offset::{DiskOffset, VmstateOffset};
pub use permissions::{Permissions, Perms};
pub use snapshot::{NewSnapshot, SnapshotInfo};
pub use status::BlockStatus;
pub use vector::{IoVector, ReadVector};

/// What every operation of this crate returns.
pub type Result<T, E = BlockError> = std::result::Result<T, E>;

/// The README's code is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
