//! `qcow2`: QEMU's image format, versions 2 and 3, with internal snapshots and the machine states in them. QEMU's `block/qcow2*.c`.
//!
//! ```text
//!  image file
//!  +--------+----------+----------------+-------+----------+-----+------+------+ - -
//!  | header | reftable | refcount block | L1    | L2 table | ... | data | data |
//!  +--------+----------+----------------+-------+----------+-----+------+------+ - -       all in clusters of 512 B to 2 MiB
//!     |  |        ^ |          ^          ^   |    ^    |           ^
//!     |  +--------+ +----------+          |   +----+    +-----------+
//!     +-----------------------------------+   L1 entry: where an L2 table is      L2 entry: where a cluster of the guest is
//!     |
//!     +--> snapshot table: for each snapshot its name, its sizes, and an L1 table of its own, which shares L2 tables and clusters
//!
//!  what an L1 table maps:   0 ............. disk size | up to the end of that L1 entry | vmstate area ............
//!                           the guest's disk                                           the machine's state, byte for byte
//! ```
//!
//! ```text
//!   header      0 magic | 4 version | 8 backing file name | 20 cluster bits | 24 size | 32 encryption | 36 L1 entries | 40 L1 | 48 reftable
//!               56 reftable clusters | 60 snapshots | 64 snapshot table | 72 features: incompatible, compatible, autoclear
//!               96 refcount width | 100 header length | 104 compression | extensions: type, length, data ... | the backing file's name
//!
//!   entries     63       62           61 .. 56   55 ........... 9    0           all big-endian
//!   L1          COPIED                           L2 table
//!   L2          COPIED   compressed              host cluster        ZERO        and 32 + 32 bits for subclusters, where there are any
//!   compressed           1            sectors, then the host byte
//!   reftable    refcount block
//!
//!   snapshot    L1 | L1 entries | id, name lengths | date | clock | state size (32 bits) | extra: state size, disk size, icount | id | name
//! ```
//!
//! Whatever is in use has a refcount above 0 in the refcount blocks. An entry that leads to something with a refcount of exactly 1 has the
//! flag COPIED, and what it leads to may be written in place; all else is copied first.
//!
//! | on disk | bytes | file |
//! |---|---|---|
//! | header, its extensions | the first cluster | [`header.rs`](Qcow2Error), `header/` |
//! | L1, L2 and reftable entries, compressed clusters' entries, subclusters | 8 or 16 each | `entry.rs` |
//! | refcounts | 1 to 64 bits each | `geometry.rs` (codec), `refcounts.rs`, `allocate.rs` |
//! | snapshot table | 40 and more a snapshot | `snapshot/table.rs` |
//! | compressed data | any | `codec.rs`, `compressed.rs`, `compressor.rs` |
//!
//! | what happens | file |
//! |---|---|
//! | which table a guest's byte goes through; where it is | `tree.rs`, `mapping.rs` |
//! | reading, writing, copy on write | `read.rs`, `write.rs` |
//! | zeroes, discards, what is dropped | `zero.rs` |
//! | block status | `status.rs` |
//! | the disk's length | `resize.rs` |
//! | who may touch which clusters meanwhile | `locks.rs` |
//! | that nothing is written over a table | `tables.rs` |
//! | tables in memory, bounded | `cache.rs`, `root_table.rs` |
//! | **the order on disk** | `commit.rs` |
//! | what becomes of freed clusters and of the file's end | `free.rs`, `tail.rs` |
//! | the check and the repair | `check/` |
//! | a new image; what an image says of itself | `create.rs`, `create/`, `info.rs` |
//! | an image with its data file and backing files | `chain.rs`, `chain/` |
//! | internal snapshots, the machine's state | `snapshot.rs`, `snapshot/`, `vmstate.rs`, `walk.rs` |
//! | opening and closing | `open.rs` |
//! | what must be marked before a change | `bitmaps.rs`, `bitmaps/` |
//!
//! # Order
//!
//! A refcount is on disk before what uses the cluster, data before the entry that shows it, an L2 table before the L1 entry, every table
//! before the header that names it; and a refcount is lowered after whatever named the cluster has gone. A crash at any moment leaves
//! clusters that are counted and unused, and COPIED flags that are not exact, and nothing else: `qemu-img check -r leaks` mends both. A sector
//! of 512 bytes is taken for what a disk writes whole or not at all.
//!
//! # Not done
//!
//! Encrypted images are refused by name, and so are unknown incompatible features. Bitmaps are not kept up to date: the first change
//! of the disk marks them as in use (`bitmaps.rs`). Lazy refcounts are honoured and never used.

mod allocate; // free clusters, found and taken
mod backing; // what shows through
mod bitmaps; // and what else must not lie after a write
mod cache; // slices of tables in memory
mod chain; // an image with all that it stands on
mod check; // qemu-img check
pub mod codec; // zlib and zstd
mod commit; // the order on disk
mod compressed; // compressed clusters
mod compressor; // who writes them
mod create; // qemu-img create
mod driver; // the trait
mod entry; // what the tables hold
mod error;
mod file; // the children, with their ends taken care of
mod free; // what becomes of freed clusters
mod gaps; // of a state, over a backing file
mod geometry; // sizes and index arithmetic
mod header; // the first cluster
mod image; // all that is kept of an open image
mod info; // qemu-img info
mod locks; // who may touch which clusters
mod mapping; // where a guest's byte is
mod name;
mod offset; // guest and host bytes are different types
mod open; // and close
mod options;
mod read;
mod refcounts;
mod resize; // the disk's length
mod root_table; // the L1 table and the reftable
mod snapshot; // internal snapshots
mod status; // what is known without reading
mod tables; // where they are, so that nothing is written over one
mod tail; // the file's end
mod tree; // which L1 table
mod vmstate; // the machine's state, behind the disk
mod walk; // over all that an L1 table leads to
mod write;
mod zero;

pub use chain::{
    ChainError, ChainOptions, ImageFormat, MAX_CHAIN, MissingFormat, NamedFile, Permit,
    open_backing, open_image,
};
pub use check::{CheckReport, Finding, MAX_FINDINGS, RepairLevel, check, repair};
pub use compressor::Qcow2Compressor;
pub use create::{Backing, CreateOptions, DataFile, OptionError, Version, create};
pub use driver::Qcow2Driver;
pub use error::{Feature, Qcow2Error, Table};
pub use info::{ImageInfo, info};
pub use options::{BackingFile, Qcow2Options};

/// Inside the driver an error is a bare cause; the operation and its numbers are added where the driver is called.
type Result<T, E = block_core::Cause> = std::result::Result<T, E>;
