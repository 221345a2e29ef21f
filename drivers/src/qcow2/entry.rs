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

use super::error::{Qcow2Error, Table};
use super::geometry::{Geometry, MAX_HOST_OFFSET, SECTOR_SIZE};
use super::offset::{GuestOffset, HostOffset};
use std::ops::Range;

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

/// What is known of one subcluster, or of the cluster where there are no subclusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subcluster {
    /// Nothing here: the backing file shows through.
    Unallocated,
    /// Reads as zeroes, whatever is in the host cluster.
    Zero,
    /// The host cluster has the data.
    Data,
}

/// The state of each subcluster of a standard cluster, in the form of an extended L2 entry's second half. An image without extended
/// L2 has one subcluster, number 0. No subcluster is both allocated and zero, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subclusters(u64);

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
    /// [`Qcow2Error::EntryNotAligned`], [`Qcow2Error::ReservedBits`] for compressed data behind 2^56 bytes,
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

    /// Where compressed data of `bytes` bytes at `at` is, or `None` where an entry cannot say so: behind
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

impl Subclusters {
    /// All of them unallocated.
    pub(crate) const UNALLOCATED: Self = Self(0);
    const HALF: u64 = u32::MAX as u64;

    /// One bit for each subcluster there is.
    const fn all(geometry: &Geometry) -> u64 {
        if geometry.extended_l2() {
            Self::HALF
        } else {
            1
        }
    }

    /// A bit for each that is [`Subcluster::Data`].
    pub(crate) const fn data(self) -> u64 {
        self.0 & Self::HALF
    }

    /// A bit for each that is [`Subcluster::Zero`].
    pub(crate) const fn zero(self) -> u64 {
        self.0 >> 32
    }

    /// Subcluster `index`, 0..=31.
    pub(crate) const fn get(self, index: u32) -> Subcluster {
        let bit = 1_u64 << (index & 31);
        if self.data() & bit != 0 {
            Subcluster::Data
        } else if self.zero() & bit != 0 {
            Subcluster::Zero
        } else {
            Subcluster::Unallocated
        }
    }

    /// The same with those of `range`, inside 0..32, set to `to`.
    pub(crate) fn with(self, range: Range<u32>, to: Subcluster) -> Self {
        let below = |index: u32| (1_u64 << index.min(32)) - 1;
        let bits = below(range.end) & !below(range.start);
        let kept = self.0 & !(bits | bits << 32);
        Self(match to {
            Subcluster::Unallocated => kept,
            Subcluster::Zero => kept | bits << 32,
            Subcluster::Data => kept | bits,
        })
    }

    /// What subcluster `from` is, and how many from it on, up to and without `to`, are the same. At least 1 where `from < to`.
    pub(crate) fn run(self, from: u32, to: u32) -> (Subcluster, u32) {
        let kind = self.get(from);
        let same = (from..to.min(32)).take_while(|i| self.get(*i) == kind);
        (kind, same.count() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostOffset = HostOffset(5 << 21); // a multiple of every cluster size
    const GUEST: GuestOffset = GuestOffset(5 << 21);

    fn geometry(version: u32, bits: u32, extended: bool, data_file: bool) -> Geometry {
        Geometry::new(version, bits, 4, extended, data_file).expect("in range")
    }

    fn plain() -> Geometry {
        geometry(3, 16, false, false)
    }

    fn extended() -> Geometry {
        geometry(3, 16, true, false)
    }

    fn decode(g: &Geometry, raw: u64, bitmap: u64) -> Result<Cluster, Qcow2Error> {
        L2Entry { raw, bitmap }.decode(g, GUEST)
    }

    #[test]
    fn an_l1_entry_leads_to_a_table_or_nowhere() {
        let g = plain();
        assert_eq!(L1Entry::EMPTY.table(&g, 0), Ok(None));
        for copied in [false, true] {
            let entry = L1Entry::new(HOST, copied);
            assert_eq!(entry.table(&g, 7), Ok(Some(HOST)));
            assert_eq!(entry.copied(), copied);
            assert_eq!(entry.with_copied(!copied).copied(), !copied);
        }
    }

    #[test]
    fn a_reserved_bit_of_an_l1_entry_is_passed_over_and_of_a_reftable_entry_refused() {
        let g = plain();
        for bit in (0..9).chain(56..63) {
            assert_eq!(L1Entry(HOST.0 | 1 << bit).table(&g, 7), Ok(Some(HOST)));
            assert_eq!(L1Entry(1 << bit).table(&g, 7), Ok(None));
        }
        for bit in 0..9 {
            let raw = HOST.0 | 1 << bit;
            let error = Qcow2Error::ReservedBits {
                what: Table::RefcountBlock,
                at: 7,
                raw,
            };
            assert_eq!(ReftableEntry(raw).block(&g, 7), Err(error));
        }
    }

    #[test]
    fn a_table_inside_a_cluster_is_refused_with_its_offset() {
        let g = plain();
        let offset = HOST.0 + 512;
        let error = |what| Qcow2Error::EntryNotAligned {
            what,
            at: 9,
            offset,
        };
        assert_eq!(L1Entry(offset).table(&g, 9), Err(error(Table::L2)));
        let block = ReftableEntry(offset).block(&g, 9);
        assert_eq!(block, Err(error(Table::RefcountBlock)));
        assert_eq!(ReftableEntry::default().block(&g, 9), Ok(None));
        assert_eq!(ReftableEntry::new(HOST).block(&g, 9), Ok(Some(HOST)));
        let far = ReftableEntry(1 << 63).block(&g, 9);
        assert!(matches!(far, Err(Qcow2Error::Outside { .. })));
    }

    #[test]
    fn a_standard_cluster_is_unallocated_zero_or_data() {
        let g = plain();
        assert_eq!(decode(&g, 0, 0), Ok(Cluster::Unallocated));
        for copied in [false, true] {
            let flag = if copied { COPIED } else { 0 };
            let data = Cluster::Normal {
                offset: HOST,
                copied,
            };
            assert_eq!(decode(&g, HOST.0 | flag, 0), Ok(data));
            let zero = Cluster::Zero {
                preallocated: Some(HOST),
                copied,
            };
            assert_eq!(decode(&g, HOST.0 | flag | ZERO, 0), Ok(zero));
        }
        let zero = Cluster::Zero {
            preallocated: None,
            copied: false,
        };
        assert_eq!(decode(&g, ZERO, 0), Ok(zero));
    }

    #[test]
    fn version_2_has_no_zero_clusters() {
        let g = geometry(2, 16, false, false);
        let error = Qcow2Error::ZeroInVersion2 { at: GUEST.0 };
        assert_eq!(decode(&g, ZERO, 0), Err(error.clone()));
        assert_eq!(decode(&g, HOST.0 | ZERO, 0), Err(error));
    }

    #[test]
    fn every_reserved_bit_of_an_l2_entry_is_passed_over_and_an_offset_inside_a_cluster_refused() {
        for (g, least, bitmap) in [(plain(), 1, 0), (extended(), 0, u32::MAX.into())] {
            for bit in (least..9).chain(56..62) {
                let data = Cluster::Normal {
                    offset: HOST,
                    copied: false,
                };
                assert_eq!(decode(&g, HOST.0 | 1 << bit, bitmap), Ok(data));
            }
        }
        let inside = HOST.0 + 512;
        let error = Qcow2Error::EntryNotAligned {
            what: Table::Data,
            at: GUEST.0,
            offset: inside,
        };
        assert_eq!(decode(&plain(), inside, 0), Err(error));
    }

    #[test]
    fn subclusters_that_are_all_alike_make_a_plain_cluster_and_others_a_mixed_one() {
        let g = extended();
        let all = u64::from(u32::MAX);
        assert_eq!(decode(&g, 0, 0), Ok(Cluster::Unallocated));
        let data = Cluster::Normal {
            offset: HOST,
            copied: true,
        };
        assert_eq!(decode(&g, HOST.0 | COPIED, all), Ok(data));
        let zero = Cluster::Zero {
            preallocated: None,
            copied: false,
        };
        assert_eq!(decode(&g, 0, all << 32), Ok(zero));
        let mixed = |raw, bitmap, offset| {
            let cluster = Cluster::Mixed {
                offset,
                copied: false,
                subclusters: Subclusters(bitmap),
            };
            assert_eq!(decode(&g, raw, bitmap), Ok(cluster));
        };
        mixed(HOST.0, 0, Some(HOST));
        mixed(HOST.0, 1 | 2 << 32, Some(HOST));
        mixed(0, 2 << 32, None);
    }

    #[test]
    fn a_subcluster_is_not_both_allocated_and_zero_and_not_allocated_nowhere() {
        let g = extended();
        for (raw, bitmap) in [(HOST.0, 1 | 1 << 32), (0, 1), (0, 1 << 31 | 1 << 32)] {
            let error = Qcow2Error::SubclusterBitmap {
                at: GUEST.0,
                bitmap,
            };
            assert_eq!(decode(&g, raw, bitmap), Err(error));
        }
    }

    #[test]
    fn a_subcluster_range_changes_alone_and_runs_end_where_the_kind_does() {
        let all = Subclusters::UNALLOCATED
            .with(0..32, Subcluster::Data)
            .with(4..8, Subcluster::Zero)
            .with(6..7, Subcluster::Unallocated);
        assert_eq!(all.run(0, 32), (Subcluster::Data, 4));
        assert_eq!(all.run(4, 32), (Subcluster::Zero, 2));
        assert_eq!(all.run(6, 32), (Subcluster::Unallocated, 1));
        assert_eq!(all.run(7, 32), (Subcluster::Zero, 1));
        assert_eq!(all.run(8, 32), (Subcluster::Data, 24));
        assert_eq!(all.run(8, 10), (Subcluster::Data, 2));
        assert_eq!(all.data() & all.zero(), 0);
        assert_eq!(all.with(5..5, Subcluster::Data), all, "an empty range");
    }

    #[test]
    fn in_a_data_file_a_cluster_is_at_its_own_offset() {
        let g = geometry(3, 16, false, true);
        let first = GuestOffset(0);
        let at = |raw, guest| L2Entry { raw, bitmap: 0 }.decode(&g, guest);
        let data = |offset| Cluster::Normal {
            offset,
            copied: true,
        };
        assert_eq!(at(HOST.0 | COPIED, GUEST), Ok(data(HOST)));
        assert_eq!(at(COPIED, first), Ok(data(HostOffset(0))));
        assert_eq!(at(0, first), Ok(Cluster::Unallocated));
        let error = Qcow2Error::DataFileOffset {
            at: 65536,
            offset: HOST.0,
        };
        assert_eq!(at(HOST.0 | COPIED, GuestOffset(65536)), Err(error));
        let error = Qcow2Error::DataFileOffset {
            at: GUEST.0,
            offset: 0,
        };
        assert_eq!(at(COPIED, GUEST), Err(error));
        let error = Qcow2Error::CompressedInDataFile { at: GUEST.0 };
        assert_eq!(at(COMPRESSED | 77, GUEST), Err(error));
    }

    #[test]
    fn a_compressed_cluster_knows_its_first_byte_and_its_last_sector() {
        for bits in 9..=21 {
            let g = geometry(3, bits, false, false);
            let cluster = g.cluster_size();
            for at in [
                0,
                1,
                511,
                512,
                70_000,
                Cluster::max_compressed_end(&g) - 600,
            ] {
                for len in [1, 2, 511, cluster - 1] {
                    let Some(packed) = Cluster::compressed(&g, HostOffset(at), len) else {
                        let sectors = (at + len).div_ceil(512) - at / 512;
                        let far = at + len > Cluster::max_compressed_end(&g);
                        assert!(far || sectors > 1 << (bits - 8), "{bits} {at} {len}");
                        continue;
                    };
                    let Cluster::Compressed { bytes, .. } = packed else {
                        panic!("not compressed")
                    };
                    assert!(bytes >= len && bytes < len + 512);
                    assert!((at + bytes).is_multiple_of(512));
                    assert_eq!(packed.encode(&g).decode(&g, GUEST), Ok(packed));
                }
            }
        }
    }

    #[test]
    fn compressed_data_that_an_entry_cannot_name_is_none() {
        let g = geometry(3, 21, false, false);
        assert_eq!(Cluster::max_compressed_end(&g), 1 << 49);
        let at = |offset, len| Cluster::compressed(&g, HostOffset(offset), len);
        assert!(at((1 << 49) - 5, 5).is_some());
        assert_eq!(at((1 << 49) - 5, 6), None);
        assert_eq!(at(0, 0), None);
        assert_eq!(at(0, 4 << 20 | 1), None, "more sectors than the field has");
        assert_eq!(at(u64::MAX, 1), None);
        let small = geometry(3, 9, false, false);
        assert_eq!(Cluster::max_compressed_end(&small), 1 << 56);
    }

    #[test]
    fn a_compressed_entry_with_other_flags_leads_to_its_data_all_the_same() {
        let data = decode(&plain(), COMPRESSED | 4096, 0);
        assert!(matches!(data, Ok(Cluster::Compressed { .. })));
        assert_eq!(decode(&plain(), COMPRESSED | COPIED | 4096, 0), data);
        assert_eq!(decode(&extended(), COMPRESSED | 4096, 3), data);
        let small = geometry(3, 9, false, false);
        let raw = COMPRESSED | 1 << 56;
        let error = Qcow2Error::ReservedBits {
            what: Table::Data,
            at: GUEST.0,
            raw,
        };
        assert_eq!(decode(&small, raw, 0), Err(error));
    }

    #[test]
    fn what_decodes_encodes_to_an_entry_that_says_the_same() {
        let mut random = 1_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut good = 0;
        for _ in 0..20_000 {
            for g in [
                plain(),
                extended(),
                geometry(2, 9, false, false),
                geometry(3, 21, true, true),
            ] {
                let sparse = next() & next() & next();
                for raw in [next(), sparse, HOST.0 | sparse, GUEST.0 | COPIED] {
                    let bitmap = if g.extended_l2() {
                        next() & next() & next() & next()
                    } else {
                        0
                    };
                    let entry = L2Entry { raw, bitmap };
                    let Ok(cluster) = entry.decode(&g, GUEST) else {
                        continue;
                    };
                    good += 1;
                    // Bits that mean nothing are dropped.
                    let again = cluster.encode(&g);
                    assert_eq!(again.decode(&g, GUEST), Ok(cluster), "{g:?} {raw:#x}");
                    assert_eq!(again.raw & !raw & !ZERO, 0, "no bit is added");
                    let copied = cluster.with_copied(true);
                    assert_eq!(copied.host(), cluster.host());
                    assert_eq!(copied.subclusters(&g), cluster.subclusters(&g));
                }
                let _ = L1Entry(next()).table(&g, 0);
                let _ = ReftableEntry(next()).block(&g, 0);
            }
        }
        assert!(good > 1000, "only {good} entries were good enough to count");
    }

    #[test]
    fn an_entry_is_found_again_where_it_was_put() {
        for g in [plain(), extended()] {
            let mut table = vec![0; 64];
            let last = 64 / g.l2_entry_size() as usize - 1;
            let entry = L2Entry {
                raw: 0x1122_3344,
                bitmap: if g.extended_l2() { 0x55 } else { 0 },
            };
            assert_eq!(entry.write(&g, &mut table, last), Some(()));
            assert_eq!(L2Entry::read(&g, &table, last), Some(entry));
            assert_eq!(L2Entry::read(&g, &table, last - 1), Some(L2Entry::EMPTY));
            assert_eq!(L2Entry::read(&g, &table, last + 1), None);
            assert_eq!(entry.write(&g, &mut table, last + 1), None);
            assert_eq!(L2Entry::read(&g, &table, usize::MAX), None);
        }
    }
}
