//! How bytes are laid out: the drivers that a [`BlockNode`](block_core::BlockNode) is built around.
//!
//! ```text
//!   node (bounds, alignment, serialising, drain)      node                 node                     node
//!     |                                                 |                    |                        |
//!   raw           a window on a child                 vmstate-file         qcow2 - - backing node   null
//!     |           offset .. offset + size               |   one stream       |                        zeroes, no child
//!   node                                              node  = the file     node
//!     |                                                 |                    |
//!   file          a file of the host                  file                 file
//!     |
//!   worker threads: preadv, pwritev, fallocate, fdatasync
//! ```
//!
//! 1. [`FileDriver`] opens a file of the host, takes QEMU's locks on it, and moves bytes in worker threads, through the page cache or
//!    past it (O_DIRECT).
//! 2. [`RawDriver`] shows a window of a child. It adds nothing, so that savevm over it is "not supported", as in QEMU.
//! 3. [`NullDriver`] has a length and nothing else: it reads as zeroes and forgets what is written.
//! 4. [`qcow2`] has the driver of QEMU's image format: disks with internal snapshots and the machine states in them, backing files, a check
//!    and a repair.
//! 5. [`VmstateFileDriver`] holds one saved machine state in a plain file: the file is the stream, byte for byte.
//!
//! The program of this crate's README, as a test:
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod file;
mod lock;
mod null;
pub mod qcow2;
mod raw;
mod vmstate_file;

pub use file::{Create, DirectIo, FileDriver, FileKind, FileOptions, Locking, OpenError, OpenStep};
pub use lock::{LockConflict, LockError, LockReason};
pub use null::NullDriver;
pub use raw::{RawDriver, RawOptions};
pub use vmstate_file::VmstateFileDriver;
