//! What is wrong with an image, by name and with the numbers.

mod message;
#[cfg(test)]
mod tests;

use block_core::{BlockError, Cause, DriverError, Errno, Op};
use std::fmt;

/// Inside the driver an error is a bare cause; the operation and its numbers are added where a node calls the driver.
pub(crate) type Result<T, E = block_core::Cause> = std::result::Result<T, E>;

/// A structure of the image, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Table {
    /// The first cluster.
    Header,
    /// The active L1 table.
    L1,
    /// An L2 table.
    L2,
    /// The refcount table.
    RefcountTable,
    /// A refcount block.
    RefcountBlock,
    /// The table of the snapshots.
    SnapshotTable,
    /// The L1 table of a snapshot.
    SnapshotL1,
    /// The list of the persistent bitmaps.
    BitmapDirectory,
    /// The table of one persistent bitmap.
    BitmapTable,
    /// A cluster of the guest's.
    Data,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::L1 => "active L1 table",
            Self::L2 => "L2 table",
            Self::RefcountTable => "refcount table",
            Self::RefcountBlock => "refcount block",
            Self::SnapshotTable => "snapshot table",
            Self::SnapshotL1 => "snapshot's L1 table",
            Self::BitmapDirectory => "bitmap directory",
            Self::BitmapTable => "bitmap table",
            Self::Data => "data cluster",
        })
    }
}

/// An incompatible feature that an image needs and this driver has not got.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Feature {
    /// Its bit in the header's field, 0..=63.
    pub bit: u32,
    /// What the image itself calls it; `None` where its feature name table does not say. At most 46 bytes.
    pub name: Option<String>,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (bit {})", self.bit),
            None => write!(f, "unknown feature (bit {})", self.bit),
        }
    }
}

/// What is wrong with an image, or why this driver does not take it. An open that returns it guarantees that nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Qcow2Error {
    // ---- The header ---------------------------------------------------------------------------------------------------------------
    /// It does not begin with `QFI\xfb`.
    BadMagic {
        /// The first four bytes, big-endian.
        found: u32,
    },
    /// The file ends inside something that must be there.
    Truncated {
        /// What.
        what: Table,
        /// Bytes that it has.
        bytes: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// Neither 2 nor 3.
    Version {
        /// The header's field.
        found: u32,
    },
    /// The cluster size is outside what QEMU opens.
    ClusterBits {
        /// The header's field: log2 of the cluster size.
        found: u32,
        /// The least that is allowed: 9, or 14 with extended L2 entries. The most is 21.
        least: u32,
    },
    /// The header says that it is shorter than version 3 needs, or longer than a cluster.
    HeaderLength {
        /// The header's field, in bytes.
        found: u32,
        /// The cluster size in bytes.
        cluster_size: u64,
    },
    /// The refcounts are wider than 64 bits.
    RefcountOrder {
        /// The header's field: log2 of the width in bits.
        found: u32,
    },
    /// The guest's data is encrypted.
    Encrypted {
        /// The header's field: 1 for AES, 2 for LUKS.
        method: u32,
    },
    /// The image needs what this driver has not got.
    IncompatibleFeatures {
        /// Each of them; never empty.
        features: Vec<Feature>,
    },
    /// The corrupt bit is set: the image may be read and repaired, but not written to.
    CorruptBit,
    /// The compression type is none that is known.
    CompressionType {
        /// The header's field.
        found: u8,
    },
    /// The compression type and the incompatible feature bit contradict each other.
    CompressionBit {
        /// The header's field.
        kind: u8,
        /// Whether the bit is set.
        bit: bool,
    },
    /// A header extension does not end before the backing file name or the first cluster does, or is shorter or longer than its kind.
    ExtensionLength {
        /// Its type.
        magic: u32,
        /// Its length in bytes.
        len: u32,
        /// The most that it may have here.
        max: u64,
    },
    /// A header extension contradicts the rest of the header.
    Extension {
        /// Its type.
        magic: u32,
        /// In words.
        reason: &'static str,
    },
    /// The name of the backing file is outside the first cluster.
    BackingNameOffset {
        /// The header's field.
        offset: u64,
        /// The cluster size in bytes.
        cluster_size: u64,
    },
    /// The name of the backing file, its format or the data file is too long.
    NameLength {
        /// Which name.
        what: &'static str,
        /// Its length in bytes.
        bytes: u64,
        /// The most that it may have here.
        max: u64,
    },
    /// The header with its extensions and names is longer than a cluster.
    HeaderTooLong {
        /// Its length in bytes.
        bytes: u64,
        /// The cluster size in bytes.
        cluster_size: u64,
    },
    /// The virtual disk is larger than an L1 table of the largest size maps.
    SizeTooLarge {
        /// Its size in bytes.
        size: u64,
        /// The most for this cluster size.
        max: u64,
    },
    /// Backing or data file by the image's will, not by the caller's: he did not permit it.
    Denied {
        /// Which: `backing file` or `data file`.
        what: &'static str,
        /// What the image says.
        path: String,
    },
    /// The image needs an external data file, and none was given.
    DataFileMissing,
    /// An external data file was given, or named by a feature bit, to an image that has none.
    DataFileUnwanted,

    // ---- Tables -------------------------------------------------------------------------------------------------------------------
    /// A table or cluster does not start at the start of a cluster.
    NotAligned {
        /// What.
        what: Table,
        /// Where it should start.
        offset: u64,
    },
    /// A table is longer than what QEMU opens.
    TableTooLarge {
        /// Which.
        what: Table,
        /// Its entries (clusters for the refcount table, bytes for the snapshot table's whole).
        entries: u64,
        /// The most.
        max: u64,
    },
    /// A table must be there, and has no entries or not enough.
    TableTooSmall {
        /// Which.
        what: Table,
        /// Its entries.
        entries: u64,
        /// What is needed.
        needed: u64,
    },
    /// A table or cluster lies past the file's end, or where no file can reach.
    Outside {
        /// What.
        what: Table,
        /// Where it should start.
        offset: u64,
        /// Its length in bytes.
        bytes: u64,
        /// The first byte that it may not touch.
        end: u64,
    },

    /// A table lies on another one.
    Overlap {
        /// Which.
        what: Table,
        /// On what it lies.
        other: Table,
        /// Where it starts.
        offset: u64,
    },

    // ---- Entries ------------------------------------------------------------------------------------------------------------------
    /// Bits that must be 0 are not.
    ReservedBits {
        /// What the entry points to.
        what: Table,
        /// The entry's index (L1, refcount table) or the guest offset that it maps (L2).
        at: u64,
        /// The entry.
        raw: u64,
    },
    /// An entry points to something that does not start at the start of a cluster.
    EntryNotAligned {
        /// What the entry points to.
        what: Table,
        /// The entry's index (L1, refcount table) or the guest offset that it maps (L2).
        at: u64,
        /// Where it points to.
        offset: u64,
    },
    /// A zero cluster in a version 2 image, which has none.
    ZeroInVersion2 {
        /// The guest offset that the entry maps.
        at: u64,
    },
    /// The bitmap of an extended L2 entry says of a subcluster that it is both allocated and zero, or allocated in no cluster.
    SubclusterBitmap {
        /// The guest offset that the entry maps.
        at: u64,
        /// The bitmap.
        bitmap: u64,
    },
    /// A compressed cluster in an image with an external data file, which can have none.
    CompressedInDataFile {
        /// The guest offset that the entry maps.
        at: u64,
    },
    /// A guest cluster is not at its own offset in the external data file.
    DataFileOffset {
        /// The guest offset that the entry maps.
        at: u64,
        /// Where the entry points to.
        offset: u64,
    },
    /// A refcount would exceed its width.
    RefcountOverflow {
        /// The host cluster's number.
        cluster: u64,
        /// The width in bits.
        bits: u32,
    },
    /// A refcount would fall below 0: the cluster is in use but counted as free.
    RefcountUnderflow {
        /// The host cluster's number.
        cluster: u64,
    },

    // ---- Snapshots ----------------------------------------------------------------------------------------------------------------
    /// An entry of the snapshot table is wrong.
    SnapshotEntry {
        /// Its index.
        index: u32,
        /// In words.
        reason: &'static str,
        /// The field in question.
        value: u64,
    },

    /// An entry of the bitmap directory is wrong.
    BitmapEntry {
        /// Its index.
        index: u32,
        /// In words.
        reason: &'static str,
        /// The field in question.
        value: u64,
    },
    /// The image has persistent bitmaps, which tell what has changed on the disk: a snapshot cannot take the disk's place under them.
    ActiveBitmaps {
        /// How many.
        bitmaps: u32,
    },
    /// Internal snapshots of an image with an external data file, whose clusters cannot be kept by them.
    SnapshotsWithDataFile,
    /// A view of the snapshot is open.
    SnapshotInUse {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// The machine's state is being saved and is not complete yet.
    StateUnfinished,
    /// A snapshot has the highest id that there can be.
    NoSnapshotId,
    /// A version 2 image with snapshots keeps the size of its disk.
    ResizeVersion2 {
        /// Its size in bytes.
        from: u64,
        /// The one that it was to have.
        to: u64,
    },

    /// The image was not closed by its last user, and the repair that is due before it is written to left something wrong.
    NotRepaired {
        /// What contradicts itself still.
        corruptions: u64,
        /// What could not be looked at.
        check_errors: u64,
    },
    /// The disk cannot have this length.
    Resize {
        /// The length in bytes.
        size: u64,
        /// In words.
        reason: &'static str,
    },

    /// Compressed data is written in whole clusters, the last of which may end with the disk.
    Compressed {
        /// The guest offset.
        at: u64,
        /// Bytes.
        len: u64,
    },

    // ---- Neither the image's fault --------------------------------------------------------------------------------------------------
    /// The options given to [`create`](crate::qcow2::create()) contradict each other, or the format.
    Options(crate::qcow2::format::option_error::OptionError),
    /// No memory for a structure of the image. Its size was checked before.
    OutOfMemory {
        /// For what.
        what: Table,
        /// Bytes asked for.
        bytes: u64,
    },
    /// The file could not be read or written.
    Io {
        /// Of what.
        what: Table,
        /// What the node of the file said.
        error: BlockError,
    },
}

/// What `map_err` turns the error of a child's call into.
pub(crate) fn io(what: Table) -> impl Fn(BlockError) -> Qcow2Error {
    move |error| Qcow2Error::Io { what, error }
}

impl Qcow2Error {
    /// The errno that QEMU's caller would see, negated: EIO for corruption, ENOTSUP for features, EFBIG for sizes, else EINVAL.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Io { error, .. } => error.errno(),
            Self::OutOfMemory { .. } => Errno::NOMEM,
            Self::CorruptBit => Errno::ACCES,
            Self::Denied { .. } => Errno::PERM,
            Self::SnapshotInUse { .. } | Self::ActiveBitmaps { .. } => Errno::BUSY,
            Self::Version { .. }
            | Self::Encrypted { .. }
            | Self::IncompatibleFeatures { .. }
            | Self::SnapshotsWithDataFile
            | Self::ResizeVersion2 { .. }
            | Self::CompressionType { .. } => Errno::NOTSUP,
            Self::TableTooLarge { .. } | Self::SizeTooLarge { .. } => Errno::FBIG,
            Self::Options(error) => error.errno(),
            _ if self.is_corruption() => Errno::IO,
            _ => Errno::INVAL,
        }
    }

    /// Whether the image contradicts itself in its tables, so that its check has something to find.
    pub fn is_corruption(&self) -> bool {
        matches!(
            self,
            Self::Outside { .. }
                | Self::Overlap { .. }
                | Self::ReservedBits { .. }
                | Self::EntryNotAligned { .. }
                | Self::ZeroInVersion2 { .. }
                | Self::SubclusterBitmap { .. }
                | Self::CompressedInDataFile { .. }
                | Self::DataFileOffset { .. }
                | Self::RefcountUnderflow { .. }
                | Self::NotRepaired { .. }
        )
    }

    /// This, as what `op` on `len` bytes at `at` failed with.
    pub(crate) fn during(self, op: Op, at: u64, len: u64) -> BlockError {
        BlockError::new(op, at, len, self.into())
    }
}

impl std::error::Error for Qcow2Error {}

impl From<Qcow2Error> for Cause {
    /// What the system or the node below said stays what it is; the rest is kept whole.
    fn from(error: Qcow2Error) -> Self {
        match error {
            Qcow2Error::Io { error, .. } => error.cause,
            Qcow2Error::OutOfMemory { bytes, .. } => Self::OutOfMemory { bytes },
            error @ (Qcow2Error::SnapshotInUse { .. } | Qcow2Error::ActiveBitmaps { .. }) => {
                Self::Busy(DriverError::new(error))
            }
            error if error.is_corruption() => Self::Corrupt(DriverError::new(error)),
            error => Self::Driver(DriverError::new(error)),
        }
    }
}

impl From<Qcow2Error> for BlockError {
    /// As an error of [`Op::Open`].
    fn from(error: Qcow2Error) -> Self {
        error.during(Op::Open, 0, 0)
    }
}

impl From<Qcow2Error> for std::io::Error {
    fn from(error: Qcow2Error) -> Self {
        BlockError::from(error).into()
    }
}
