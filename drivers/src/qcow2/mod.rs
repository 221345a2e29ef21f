//! `qcow2`: QEMU's image format.

#![allow(dead_code, reason = "the driver that uses the codecs is being built")]

mod allocate; // free clusters, found and taken
mod backing; // what shows through
mod cache; // slices of tables in memory
pub mod codec;
mod commit; // the order on disk
mod compressed;
mod entry;
mod error;
mod file;
mod geometry;
mod header; // the first cluster
mod image; // all that is kept of an open image
mod locks; // who may touch which clusters
mod mapping; // where a guest's byte is
mod name;
mod offset;
mod read;
mod refcounts;
mod root_table; // the L1 table and the reftable
mod snapshot;
mod tree; // which L1 table
mod write;

pub use error::{Feature, Qcow2Error, Table};

/// Inside the driver an error is a bare cause; the operation and its numbers are added where the driver is called.
type Result<T, E = block_core::Cause> = std::result::Result<T, E>;
