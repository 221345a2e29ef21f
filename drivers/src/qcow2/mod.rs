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
//! # Layers
//!
//! A folder uses only folders above it in this list: see "Layers" in docs/ARCHITECTURE.md.
//!
//! | folder | what |
//! |---|---|
//! | `format/` | bytes on disk and their checks: header, entries, snapshot table, bitmap directory, codecs; errors. No I/O |
//! | `metadata/` | tables in memory: caches, refcounts, the allocator, freed clusters, **the order on disk** |
//! | `guest/` | the path of a guest byte: locks, mapping, read, write, zeroes, status, compressed clusters, length |
//! | `snapshot/` | an open image with its internal snapshots and the VM state that is being saved |
//! | `check/` | the check and the repair of an image that is not open |
//! | `create/` | a new image |
//! | `driver/` | the driver as a node sees it: open, info, options |
//! | `chain/` | an image with its data file and backing files |
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
//! of the disk marks them as in use (`guest/bitmaps.rs`). Lazy refcounts are honoured and never used.

mod chain;
mod check;
mod create;
mod driver;
mod format;
mod guest;
mod metadata;
mod snapshot;

pub use chain::{
    ChainError, ChainOptions, ImageFormat, MAX_CHAIN, MissingFormat, NamedFile, Permit,
    open_backing, open_image,
};
pub use check::{CheckReport, Finding, MAX_FINDINGS, RepairLevel, check, repair};
pub use create::{Backing, CreateOptions, DataFile, OptionError, Version, create};
pub use driver::{BackingFile, ImageInfo, Qcow2Compressor, Qcow2Driver, Qcow2Options, info};
pub use format::codec;
pub use format::error::{Feature, Qcow2Error, Table};
