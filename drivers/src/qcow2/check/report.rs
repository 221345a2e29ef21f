//! What a check found: the numbers that `qemu-img check --output=json` prints, and the first findings in words.

use crate::qcow2::format::error::Table;
use std::fmt;

/// The most findings that a report keeps; the numbers count all of them.
pub const MAX_FINDINGS: usize = 100;

/// What a check found, or a repair found and left. The numbers are QEMU's (`BdrvCheckResult`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// What is wrong and may cost data: references that are not counted, entries that make no sense, wrong COPIED flags.
    pub corruptions: u64,
    /// Clusters that are counted more often than they are used. They cost space only.
    pub leaks: u64,
    /// Refcounts that could not be read, and repairs that could not be done.
    pub check_errors: u64,
    /// How many corruptions a repair has put right. They are not among `corruptions` any more.
    pub corruptions_fixed: u64,
    /// How many leaked clusters a repair has freed. They are not among `leaks` any more.
    pub leaks_fixed: u64,
    /// The first byte after the last cluster that is used or counted.
    pub image_end_offset: u64,
    /// Clusters of the guest's disk.
    pub total_clusters: u64,
    /// Those that the active L1 table maps to the file, compressed ones and the vmstate area's among them.
    pub allocated_clusters: u64,
    /// Those that do not follow the one before them in the file; compressed ones always count.
    pub fragmented_clusters: u64,
    /// Those that are compressed.
    pub compressed_clusters: u64,
    /// A repair of leaks has left everything as it was, since the refcounts have to be built anew first ([`RepairLevel::All`]).
    ///
    /// [`RepairLevel::All`]: super::RepairLevel::All
    pub needs_rebuild: bool,
    /// The first findings, at most [`MAX_FINDINGS`], in the order in which they were made. After a repair: what was found before it.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Nothing is wrong, nothing is leaked, and everything could be checked.
    pub fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0 && self.check_errors == 0
    }

    pub(crate) fn find(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// Counts a corruption `times` times and keeps it once.
    pub(crate) fn corrupt(&mut self, times: u64, finding: Finding) {
        self.corruptions = self.corruptions.saturating_add(times);
        self.find(finding);
    }
}

/// One thing that is wrong. Offsets are bytes of the image file, clusters are numbered from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A table or cluster reaches a cluster or more past the file's end. It is not counted.
    Outside {
        /// What.
        what: Table,
        /// Where it starts.
        offset: u64,
        /// Its length in bytes.
        bytes: u64,
        /// The file's end.
        end: u64,
    },
    /// A cluster has more references than a refcount of this width counts.
    Overflow {
        /// The cluster.
        cluster: u64,
        /// The width in bits.
        bits: u32,
    },
    /// An entry has bits set that must be 0.
    ReservedBits {
        /// What the entry points to.
        what: Table,
        /// Where the table with the entry is.
        table: u64,
        /// The entry's index in it.
        index: u64,
        /// The entry.
        raw: u64,
    },
    /// An entry points into the middle of a cluster.
    NotAligned {
        /// What it points to.
        what: Table,
        /// Where the table with the entry is.
        table: u64,
        /// The entry's index in it.
        index: u64,
        /// Where it points to.
        offset: u64,
    },
    /// The entry of a compressed cluster has the COPIED flag, a subcluster bitmap, or is in an image with an external data file.
    Compressed {
        /// Where the L2 table is.
        table: u64,
        /// The entry's index in it.
        index: u64,
        /// The entry.
        raw: u64,
    },
    /// Subclusters are both allocated and zero, or allocated in no cluster.
    Subclusters {
        /// Where the L2 table is.
        table: u64,
        /// The entry's index in it.
        index: u64,
        /// The bitmap.
        bitmap: u64,
    },
    /// An image with an external data file has snapshots.
    SnapshotsWithDataFile {
        /// How many.
        snapshots: u32,
    },
    /// An entry of the snapshot table is wrong.
    Snapshot {
        /// Its index.
        index: u32,
        /// In words.
        reason: &'static str,
        /// The field in question.
        value: u64,
    },
    /// More snapshots than are possible; a repair drops the last ones.
    SnapshotsOverhang {
        /// How many are dropped.
        dropped: u32,
    },
    /// A refcount block is used by something else too.
    BlockShared {
        /// Its index in the refcount table.
        index: u64,
        /// Where it is.
        offset: u64,
        /// How often it is used.
        references: u64,
    },
    /// The refcounts of some clusters cannot be read.
    BlockUnreadable {
        /// The block's index in the refcount table.
        index: u64,
        /// Where it should be.
        offset: u64,
    },
    /// A cluster is counted less often than it is used: it may be overwritten.
    Undercounted {
        /// The cluster.
        cluster: u64,
        /// Its refcount.
        refcount: u64,
        /// How often it is used.
        references: u64,
    },
    /// A cluster is counted more often than it is used.
    Leaked {
        /// The cluster.
        cluster: u64,
        /// Its refcount.
        refcount: u64,
        /// How often it is used.
        references: u64,
    },
    /// The COPIED flag says that the refcount is 1 and it is not, or the other way round.
    Copied {
        /// What the entry points to.
        what: Table,
        /// Where the table with the entry is.
        table: u64,
        /// The entry's index in it.
        index: u64,
        /// The entry.
        raw: u64,
        /// The refcount.
        refcount: u64,
    },
    /// A table cannot be repaired in place because other metadata lies on it.
    Overlap {
        /// Which.
        what: Table,
        /// Where it is.
        offset: u64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside {
                what,
                offset,
                bytes,
                end,
            } => write!(
                f,
                "the {what} of {bytes} bytes at {offset} lies past the file's end at {end}"
            ),
            Self::Overflow { cluster, bits } => write!(
                f,
                "cluster {cluster} has more references than {bits} bits can count"
            ),
            Self::ReservedBits {
                what,
                table,
                index,
                raw,
            } => write!(
                f,
                "entry {index} of the table at {table}, which leads to a {what}, has reserved bits set: {raw:#018x}"
            ),
            Self::NotAligned {
                what,
                table,
                index,
                offset,
            } => write!(
                f,
                "entry {index} of the table at {table} leads to a {what} at {offset}, inside a cluster"
            ),
            Self::Compressed { table, index, raw } => write!(
                f,
                "entry {index} of the L2 table at {table} cannot be a compressed cluster's: {raw:#018x}"
            ),
            Self::Subclusters {
                table,
                index,
                bitmap,
            } => write!(
                f,
                "the subclusters of entry {index} of the L2 table at {table} contradict each other: {bitmap:#018x}"
            ),
            Self::SnapshotsWithDataFile { snapshots } => {
                write!(f, "{snapshots} snapshots with an external data file")
            }
            Self::Snapshot {
                index,
                reason,
                value,
            } => write!(f, "snapshot {index}: {reason} ({value})"),
            Self::SnapshotsOverhang { dropped } => {
                write!(f, "{dropped} snapshots more than are possible")
            }
            Self::BlockShared {
                index,
                offset,
                references,
            } => write!(
                f,
                "refcount block {index} at {offset} is used {references} times"
            ),
            Self::BlockUnreadable { index, offset } => {
                write!(f, "refcount block {index} cannot be at {offset}")
            }
            Self::Undercounted {
                cluster,
                refcount,
                references,
            } => write!(
                f,
                "cluster {cluster} has refcount {refcount} and is used {references} times"
            ),
            Self::Leaked {
                cluster,
                refcount,
                references,
            } => write!(
                f,
                "cluster {cluster} is leaked: it has refcount {refcount} and is used {references} times"
            ),
            Self::Copied {
                what,
                table,
                index,
                raw,
                refcount,
            } => write!(
                f,
                "entry {index} of the table at {table}, which leads to a {what}, has a wrong COPIED flag: {raw:#018x} with refcount {refcount}"
            ),
            Self::Overlap { what, offset } => write!(
                f,
                "other metadata lies on the {what} at {offset}, which is left as it is"
            ),
        }
    }
}
