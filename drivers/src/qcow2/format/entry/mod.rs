//! The entries of the L1, L2 and refcount tables: eight bytes (sixteen with extended L2), their flags, and what may not be in them.
//!
//! ```text
//!   bit         63      62          61 .. 56   55 ............ 9    8 .. 1     0
//!   L1          COPIED  0           0          L2 table             0          0
//!   L2          COPIED  0           0          host cluster         0          ZERO (version 3, not extended)
//!   compressed  0       1           sectors - 1 (cluster_bits - 8 bits) | host byte
//!   reftable    refcount block (63 .. 9)                            0          0
//!
//!   second half of an extended L2 entry: bits 0..=31 "subcluster is allocated", bits 32..=63 "subcluster reads as zeroes"
//! ```
//!
//! Decoding refuses what no writer of the format leaves, with the entry and its place. Encoding takes only what decodes again.

mod subclusters;
#[cfg(test)]
mod tests;

pub(crate) use self::subclusters::{Subcluster, Subclusters};

use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::{Geometry, MAX_HOST_OFFSET, SECTOR_SIZE};
use crate::qcow2::format::offset::{GuestOffset, HostOffset};

/// The refcount of what the entry points to is exactly 1 (QEMU's `QCOW_OFLAG_COPIED`). True only in the active tables.
pub(crate) const COPIED: u64 = 1 << 63;
/// The entry is a compressed cluster's (`QCOW_OFLAG_COMPRESSED`).
pub(crate) const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (`QCOW_OFLAG_ZERO`).
pub(crate) const ZERO: u64 = 1;
/// The offset in L1 and L2 entries: bits 9..=55.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The offset in reftable entries: bits 9..=63.
const REFTABLE_OFFSET_MASK: u64 = !0x1ff;

/// An L1 entry as it is in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct L1Entry(pub(crate) u64);

impl L1Entry {
    /// No L2 table: nothing is allocated in its range.
    pub(crate) const EMPTY: Self = Self(0);

    /// An entry that leads to the L2 table at `table`, which must be an offset that [`L1Entry::table`] gave or the allocator.
    pub(crate) fn new(table: HostOffset, copied: bool) -> Self {
        debug_assert_eq!(table.0 & !OFFSET_MASK, 0, "not an offset of a table");
        Self((table.0 & OFFSET_MASK) | if copied { COPIED } else { 0 })
    }

    /// Where the L2 table is; `None` where there is none.
    ///
    /// Reserved bits are passed over, as in QEMU; the check reports them. Errors, `index` being the entry's own in its L1 table:
    /// [`Qcow2Error::EntryNotAligned`].
    pub(crate) fn table(
        self,
        geometry: &Geometry,
        index: u64,
    ) -> Result<Option<HostOffset>, Qcow2Error> {
        pointer(geometry, Table::L2, index, self.offset().0)
    }

    /// The offset's bits, unchecked; 0 where there is no L2 table.
    pub(crate) const fn offset(self) -> HostOffset {
        HostOffset(self.0 & OFFSET_MASK)
    }

    /// Whether the L2 table may be written in place.
    pub(crate) const fn copied(self) -> bool {
        self.0 & COPIED != 0
    }

    /// The same with the flag as given.
    pub(crate) const fn with_copied(self, copied: bool) -> Self {
        Self((self.0 & !COPIED) | if copied { COPIED } else { 0 })
    }
}

/// An entry of the refcount table as it is in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReftableEntry(pub(crate) u64);

impl ReftableEntry {
    /// An entry that leads to the refcount block at `block`, which the allocator gave.
    pub(crate) fn new(block: HostOffset) -> Self {
        debug_assert_eq!(
            block.0 & !REFTABLE_OFFSET_MASK,
            0,
            "not an offset of a block"
        );
        Self(block.0 & REFTABLE_OFFSET_MASK)
    }

    /// Where the refcount block is; `None` where there is none.
    ///
    /// Errors, `index` being the entry's own: [`Qcow2Error::ReservedBits`], [`Qcow2Error::EntryNotAligned`],
    /// [`Qcow2Error::Outside`] past `i64::MAX`.
    pub(crate) fn block(
        self,
        geometry: &Geometry,
        index: u64,
    ) -> Result<Option<HostOffset>, Qcow2Error> {
        let what = Table::RefcountBlock;
        if self.0 & !REFTABLE_OFFSET_MASK != 0 {
            return Err(Qcow2Error::ReservedBits {
                what,
                at: index,
                raw: self.0,
            });
        }
        if self.offset().checked_add(geometry.cluster_size()).is_none() {
            return Err(Qcow2Error::Outside {
                what,
                offset: self.offset().0,
                bytes: geometry.cluster_size(),
                end: i64::MAX as u64,
            });
        }
        pointer(geometry, what, index, self.offset().0)
    }

    /// The offset's bits, unchecked; 0 where there is no block.
    pub(crate) const fn offset(self) -> HostOffset {
        HostOffset(self.0 & REFTABLE_OFFSET_MASK)
    }
}

/// The offset in an entry, checked: `None` for 0.
fn pointer(
    geometry: &Geometry,
    what: Table,
    at: u64,
    offset: u64,
) -> Result<Option<HostOffset>, Qcow2Error> {
    if !geometry.is_aligned(offset) {
        return Err(Qcow2Error::EntryNotAligned { what, at, offset });
    }
    Ok((offset != 0).then_some(HostOffset(offset)))
}

/// An L2 entry as it is in the table: one or two big-endian numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct L2Entry {
    /// The cluster descriptor.
    pub(crate) raw: u64,
    /// The subcluster bitmap; 0 without extended L2.
    pub(crate) bitmap: u64,
}

/// What an L2 entry says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// Nothing here: the backing file shows through.
    Unallocated,
    /// All of it reads as zeroes.
    Zero {
        /// The host cluster that is there nevertheless, for later writes; its content does not matter.
        preallocated: Option<HostOffset>,
        /// Whether the host cluster may be written in place.
        copied: bool,
    },
    /// All of it is in the host cluster.
    Normal {
        /// Its host cluster. 0 only in an external data file.
        offset: HostOffset,
        /// Whether it may be written in place.
        copied: bool,
    },
    /// Extended L2 only: its subclusters differ, or a host cluster is there while none of them is in use.
    Mixed {
        /// Its host cluster; `None` only where no subcluster is [`Subcluster::Data`].
        offset: Option<HostOffset>,
        /// Whether the host cluster may be written in place.
        copied: bool,
        /// What each of them is.
        subclusters: Subclusters,
    },
    /// Its data is compressed.
    Compressed {
        /// First byte of the compressed data, in the image file. Any alignment.
        at: HostOffset,
        /// Bytes from there to the end of its last sector: at least as long as the data, at most two clusters.
        bytes: u64,
    },
}

impl L2Entry {
    /// Nothing here.
    pub(crate) const EMPTY: Self = Self { raw: 0, bitmap: 0 };

    /// Entry number `index` of `table`, the bytes of an L2 table or of a slice of one; `None` where they end before it.
    pub(crate) fn read(geometry: &Geometry, table: &[u8], index: usize) -> Option<Self> {
        let size = geometry.l2_entry_size() as usize; // 8 or 16
        let at = index.checked_mul(size)?;
        let mut numbers = table.get(at..at.checked_add(size)?)?.chunks_exact(8);
        let mut next = || {
            numbers
                .next()
                .and_then(|bytes| bytes.try_into().ok())
                .map(u64::from_be_bytes)
        };
        Some(Self {
            raw: next()?,
            bitmap: next().unwrap_or(0),
        })
    }

    /// Puts this as entry number `index` into `table`. `None`, and nothing has changed, where the bytes end before it.
    #[must_use = "nothing has changed where this is None"]
    pub(crate) fn write(self, geometry: &Geometry, table: &mut [u8], index: usize) -> Option<()> {
        let size = geometry.l2_entry_size() as usize; // 8 or 16
        let at = index.checked_mul(size)?;
        let place = table.get_mut(at..at.checked_add(size)?)?;
        for (place, number) in place.chunks_exact_mut(8).zip([self.raw, self.bitmap]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        Some(())
    }

    /// What the entry says of the cluster at `guest` (QEMU's `qcow2_get_cluster_type` and `qcow2_get_subcluster_type`). `guest` is the
    /// cluster's first byte.
    ///
    /// Reserved bits, COPIED and the bitmap of a compressed cluster are passed over, as in QEMU; the check reports them. Errors:
    /// [`Qcow2Error::EntryNotAligned`], [`Qcow2Error::ReservedBits`] for compressed data past 2^56 bytes,
    /// [`Qcow2Error::ZeroInVersion2`], [`Qcow2Error::SubclusterBitmap`], [`Qcow2Error::CompressedInDataFile`], [`Qcow2Error::DataFileOffset`].
    pub(crate) fn decode(
        self,
        geometry: &Geometry,
        guest: GuestOffset,
    ) -> Result<Cluster, Qcow2Error> {
        if self.raw & COMPRESSED != 0 {
            return self.decode_compressed(geometry, guest);
        }
        let offset = self.decode_offset(geometry, guest)?;
        let copied = self.raw & COPIED != 0 && offset.is_some();
        if geometry.extended_l2() {
            let subclusters = Subclusters(self.bitmap);
            let invalid = self.bitmap & (self.bitmap >> 32) & Subclusters::HALF != 0
                || offset.is_none() && subclusters.data() != 0;
            if invalid {
                return Err(Qcow2Error::SubclusterBitmap {
                    at: guest.0,
                    bitmap: self.bitmap,
                });
            }
            return Ok(Cluster::of(geometry, offset, copied, subclusters));
        }
        if self.raw & ZERO != 0 {
            if geometry.version() < 3 {
                return Err(Qcow2Error::ZeroInVersion2 { at: guest.0 });
            }
            return Ok(Cluster::Zero {
                preallocated: offset,
                copied,
            });
        }
        Ok(match offset {
            Some(offset) => Cluster::Normal { offset, copied },
            None => Cluster::Unallocated,
        })
    }

    /// The host cluster of a standard cluster.
    fn decode_offset(
        self,
        geometry: &Geometry,
        guest: GuestOffset,
    ) -> Result<Option<HostOffset>, Qcow2Error> {
        let offset = pointer(geometry, Table::Data, guest.0, self.raw & OFFSET_MASK)?;
        if !geometry.data_file() {
            return Ok(offset);
        }
        // In an external data file a cluster is at its own offset, which is 0 for the first: COPIED says that it is there at all.
        let there = offset.is_some() || self.raw & COPIED != 0;
        let offset = offset.unwrap_or_default();
        if there && offset.0 != guest.0 {
            return Err(Qcow2Error::DataFileOffset {
                at: guest.0,
                offset: offset.0,
            });
        }
        Ok(there.then_some(offset))
    }

    fn decode_compressed(
        self,
        geometry: &Geometry,
        guest: GuestOffset,
    ) -> Result<Cluster, Qcow2Error> {
        if geometry.data_file() {
            return Err(Qcow2Error::CompressedInDataFile { at: guest.0 });
        }
        let shift = compressed_shift(geometry);
        let at = self.raw & ((1 << shift) - 1);
        if at > MAX_HOST_OFFSET {
            return Err(Qcow2Error::ReservedBits {
                what: Table::Data,
                at: guest.0,
                raw: self.raw,
            });
        }
        let sectors = ((self.raw & !(COPIED | COMPRESSED)) >> shift) + 1;
        Ok(Cluster::Compressed {
            at: HostOffset(at),
            bytes: sectors * SECTOR_SIZE - at % SECTOR_SIZE,
        })
    }
}

/// How far left the number of sectors is in a compressed cluster's entry (QEMU's `csize_shift`), 49..=61.
const fn compressed_shift(geometry: &Geometry) -> u32 {
    62 - (geometry.cluster_bits() - 8)
}

impl Cluster {
    /// A standard cluster from its parts; `copied` is false where there is no host cluster. A host cluster without any subcluster in use,
    /// and equal subclusters, get their own names.
    pub(crate) fn of(
        geometry: &Geometry,
        offset: Option<HostOffset>,
        copied: bool,
        subclusters: Subclusters,
    ) -> Self {
        let all = Subclusters::all(geometry);
        match offset {
            None if subclusters == Subclusters::UNALLOCATED => Self::Unallocated,
            _ if subclusters.zero() == all && subclusters.data() == 0 => Self::Zero {
                preallocated: offset,
                copied,
            },
            Some(offset) if subclusters.data() == all => Self::Normal { offset, copied },
            _ => Self::Mixed {
                offset,
                copied,
                subclusters,
            },
        }
    }

    /// Where compressed data of `bytes` bytes at `at` is, or `None` where an entry cannot say so: after
    /// [`Cluster::max_compressed_end`], or longer than its number of sectors can.
    pub(crate) fn compressed(geometry: &Geometry, at: HostOffset, bytes: u64) -> Option<Self> {
        let end = at.0.checked_add(bytes)?;
        let sectors = end.div_ceil(SECTOR_SIZE).checked_sub(at.0 / SECTOR_SIZE)?;
        let most = 1 << (geometry.cluster_bits() - 8);
        if bytes == 0 || sectors > most || end > Self::max_compressed_end(geometry) {
            return None;
        }
        Some(Self::Compressed {
            at,
            bytes: sectors * SECTOR_SIZE - at.0 % SECTOR_SIZE,
        })
    }

    /// The first byte of the image file where no compressed data may be: 2^49 for clusters of 2 MiB, 2^56 for those up to 16 KiB.
    pub(crate) fn max_compressed_end(geometry: &Geometry) -> u64 {
        (1 << compressed_shift(geometry)).min(MAX_HOST_OFFSET + 1)
    }

    /// The host cluster, used or only preallocated; `None` too for a compressed one.
    pub(crate) const fn host(&self) -> Option<HostOffset> {
        match *self {
            Self::Unallocated | Self::Compressed { .. } => None,
            Self::Zero { preallocated, .. } => preallocated,
            Self::Normal { offset, .. } => Some(offset),
            Self::Mixed { offset, .. } => offset,
        }
    }

    /// Whether the host cluster may be written in place: its refcount is exactly 1.
    pub(crate) const fn copied(&self) -> bool {
        match *self {
            Self::Unallocated | Self::Compressed { .. } => false,
            Self::Zero { copied, .. }
            | Self::Normal { copied, .. }
            | Self::Mixed { copied, .. } => copied,
        }
    }

    /// What each subcluster is. Those of a compressed cluster count as unallocated.
    pub(crate) fn subclusters(&self, geometry: &Geometry) -> Subclusters {
        let all = Subclusters::all(geometry);
        match *self {
            Self::Unallocated | Self::Compressed { .. } => Subclusters::UNALLOCATED,
            Self::Zero { .. } => Subclusters(all << 32),
            Self::Normal { .. } => Subclusters(all),
            Self::Mixed { subclusters, .. } => subclusters,
        }
    }

    /// The same cluster with COPIED as given. No change to what has no host cluster.
    pub(crate) fn with_copied(self, to: bool) -> Self {
        match self {
            Self::Zero {
                preallocated: preallocated @ Some(_),
                ..
            } => Self::Zero {
                preallocated,
                copied: to,
            },
            Self::Normal { offset, .. } => Self::Normal { offset, copied: to },
            Self::Mixed {
                offset: offset @ Some(_),
                subclusters,
                ..
            } => Self::Mixed {
                offset,
                copied: to,
                subclusters,
            },
            other => other,
        }
    }

    /// The entry that says so.
    ///
    /// In an external data file a host cluster must be at its guest offset and `copied`, or the entry does not decode again.
    pub(crate) fn encode(&self, geometry: &Geometry) -> L2Entry {
        if let Self::Compressed { at, bytes } = *self {
            let sectors = (at.0 % SECTOR_SIZE + bytes).div_ceil(SECTOR_SIZE);
            return L2Entry {
                raw: COMPRESSED | (sectors.saturating_sub(1) << compressed_shift(geometry)) | at.0,
                bitmap: 0,
            };
        }
        let offset = self.host().unwrap_or_default().0;
        debug_assert_eq!(offset & !OFFSET_MASK, 0, "not an offset of a cluster");
        let copied = if self.copied() { COPIED } else { 0 };
        let raw = (offset & OFFSET_MASK) | copied;
        let subclusters = self.subclusters(geometry);
        if geometry.extended_l2() {
            return L2Entry {
                raw,
                bitmap: subclusters.0,
            };
        }
        let zero = if subclusters.zero() != 0 { ZERO } else { 0 };
        L2Entry {
            raw: raw | zero,
            bitmap: 0,
        }
    }
}
