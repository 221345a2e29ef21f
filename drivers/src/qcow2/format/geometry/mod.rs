//! Sizes and index arithmetic: how large the tables are, and which entry of which table a byte belongs to.
//!
//! ```text
//!   guest offset   | L1 index | L2 index (l2_bits) | in cluster (cluster_bits) |
//!   host cluster   | reftable index | index in the refcount block              |   (a number, not an offset)
//!
//!   guest disk     0 ........ size |  ... up to what a whole L1 entry maps | vmstate area ....
//!                                                                          ^ vmstate_start
//! ```
//!
//! Nothing here reads a file. Every function is total: what does not fit comes back as `None`.

use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::offset::{GuestOffset, HostOffset};

/// Smallest cluster, 512 bytes (QEMU's `MIN_CLUSTER_BITS`).
pub(crate) const MIN_CLUSTER_BITS: u32 = 9;
/// Largest cluster, 2 MiB (QEMU's `MAX_CLUSTER_BITS`; the format itself has no upper limit).
pub(crate) const MAX_CLUSTER_BITS: u32 = 21;
/// Smallest cluster with extended L2 entries, 16 KiB: a subcluster has 512 bytes then.
pub(crate) const MIN_EXTENDED_CLUSTER_BITS: u32 = 14;
/// Widest refcount, 64 bits.
pub(crate) const MAX_REFCOUNT_ORDER: u32 = 6;
/// Bytes of an L1, reftable or bitmap table entry.
pub(crate) const TABLE_ENTRY_SIZE: u64 = 8;
/// Bytes of an entry of the snapshot table without extra data, id and name.
pub(crate) const SNAPSHOT_ENTRY_SIZE: u64 = 40;
/// Most snapshots (QEMU's `QCOW_MAX_SNAPSHOTS`).
pub(crate) const MAX_SNAPSHOTS: u32 = 65536;
/// Longest L1 table in bytes (QEMU's `QCOW_MAX_L1_SIZE`).
pub(crate) const MAX_L1_BYTES: u64 = 32 << 20;
/// Longest refcount table in bytes (QEMU's `QCOW_MAX_REFTABLE_SIZE`).
pub(crate) const MAX_REFTABLE_BYTES: u64 = 8 << 20;
/// Offsets of clusters have 56 bits (QEMU's `QCOW_MAX_CLUSTER_OFFSET`).
pub(crate) const MAX_HOST_OFFSET: u64 = (1 << 56) - 1;
/// Compressed data is counted in these.
pub(crate) const SECTOR_SIZE: u64 = 512;
/// The unit in which tables are cached: a slice, or the whole table where a cluster is smaller.
const SLICE_SIZE: u64 = 16 << 10;

/// The sizes that the header of an image fixes. `cluster_bits`, `refcount_order` and their combination with extended L2 are in range, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    version: u32,
    cluster_bits: u32,
    refcount_order: u32,
    extended_l2: bool,
    data_file: bool,
}

impl Geometry {
    /// Checks the numbers of a header. `data_file`: guest clusters are in an external data file.
    ///
    /// Errors: [`Qcow2Error::Version`] unless 2 or 3, [`Qcow2Error::ClusterBits`] outside 9..=21 (14..=21 with extended L2),
    /// [`Qcow2Error::RefcountOrder`] above 6.
    pub(crate) fn new(
        version: u32,
        cluster_bits: u32,
        refcount_order: u32,
        extended_l2: bool,
        data_file: bool,
    ) -> Result<Self, Qcow2Error> {
        if !(2..=3).contains(&version) {
            return Err(Qcow2Error::Version { found: version });
        }
        let least = if extended_l2 {
            MIN_EXTENDED_CLUSTER_BITS
        } else {
            MIN_CLUSTER_BITS
        };
        if !(least..=MAX_CLUSTER_BITS).contains(&cluster_bits) {
            return Err(Qcow2Error::ClusterBits {
                found: cluster_bits,
                least,
            });
        }
        if refcount_order > MAX_REFCOUNT_ORDER {
            return Err(Qcow2Error::RefcountOrder {
                found: refcount_order,
            });
        }
        Ok(Self {
            version,
            cluster_bits,
            refcount_order,
            extended_l2,
            data_file,
        })
    }

    /// 2 or 3.
    pub(crate) const fn version(&self) -> u32 {
        self.version
    }

    /// The cluster size as a power of two, 9..=21.
    pub(crate) const fn cluster_bits(&self) -> u32 {
        self.cluster_bits
    }

    /// Whether L2 entries have 16 bytes and clusters 32 subclusters.
    pub(crate) const fn extended_l2(&self) -> bool {
        self.extended_l2
    }

    /// Whether guest clusters are in an external data file, at the offset that the guest sees.
    pub(crate) const fn data_file(&self) -> bool {
        self.data_file
    }

    /// Bytes of a cluster: of the guest's disk, and of every metadata table's piece.
    pub(crate) const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// How many clusters `bytes` need.
    pub(crate) const fn clusters_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    /// The number of the host cluster that holds `at`.
    pub(crate) const fn cluster_of(&self, at: HostOffset) -> u64 {
        at.0 >> self.cluster_bits
    }

    /// Where host cluster `cluster` starts, or `None` past `i64::MAX`.
    pub(crate) const fn cluster_start(&self, cluster: u64) -> Option<HostOffset> {
        if cluster > (i64::MAX as u64) >> self.cluster_bits {
            return None;
        }
        Some(HostOffset(cluster << self.cluster_bits))
    }

    /// How far `at` is from the start of its cluster.
    pub(crate) const fn in_cluster(&self, at: u64) -> u64 {
        at & (self.cluster_size() - 1)
    }

    /// Whether `at` is the first byte of a cluster.
    pub(crate) const fn is_aligned(&self, at: u64) -> bool {
        self.in_cluster(at) == 0
    }

    // ---- Subclusters --------------------------------------------------------------------------------------------------------------

    /// How many parts of a cluster can be allocated by themselves: 32, or 1 without extended L2.
    pub(crate) const fn subclusters(&self) -> u32 {
        if self.extended_l2 { 32 } else { 1 }
    }

    /// Bytes of a subcluster; the cluster's without extended L2.
    pub(crate) const fn subcluster_size(&self) -> u64 {
        self.cluster_size() / self.subclusters() as u64
    }

    /// Which subcluster of its cluster `at` is in.
    pub(crate) const fn subcluster_index(&self, at: GuestOffset) -> u32 {
        (self.in_cluster(at.0) / self.subcluster_size()) as u32 // below 32
    }

    /// Where the guest's cluster that starts at `guest` is in an external data file: at its own offset.
    ///
    /// Errors: [`Qcow2Error::Outside`] from 2^56 on, which is more than an L2 entry can name. The disk may be larger.
    pub(crate) const fn data_file_place(
        &self,
        guest: GuestOffset,
    ) -> Result<HostOffset, Qcow2Error> {
        if guest.0 > MAX_HOST_OFFSET {
            return Err(Qcow2Error::Outside {
                what: Table::Data,
                offset: guest.0,
                bytes: self.cluster_size(),
                end: MAX_HOST_OFFSET + 1,
            });
        }
        Ok(HostOffset(guest.0))
    }

    // ---- L1 and L2 ----------------------------------------------------------------------------------------------------------------

    /// Bytes of an L2 entry: 8, or 16 with extended L2.
    pub(crate) const fn l2_entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// The number of entries of an L2 table as a power of two.
    pub(crate) const fn l2_bits(&self) -> u32 {
        self.cluster_bits - if self.extended_l2 { 4 } else { 3 }
    }

    /// How many entries an L2 table has, which fills one cluster.
    pub(crate) const fn l2_entries(&self) -> u64 {
        1 << self.l2_bits()
    }

    /// Bytes that one L2 table maps, at most 2^39.
    pub(crate) const fn l2_span(&self) -> u64 {
        1 << (self.cluster_bits + self.l2_bits())
    }

    /// Which L1 entry maps `at` (QEMU's `offset_to_l1_index`).
    pub(crate) const fn l1_index(&self, at: GuestOffset) -> u64 {
        at.0 >> (self.cluster_bits + self.l2_bits())
    }

    /// Which entry of its L2 table maps `at` (QEMU's `offset_to_l2_index`).
    pub(crate) const fn l2_index(&self, at: GuestOffset) -> u64 {
        (at.0 >> self.cluster_bits) & (self.l2_entries() - 1)
    }

    /// The first byte that the L1 entry `index` maps, or `None` past `i64::MAX`.
    pub(crate) const fn l1_start(&self, index: u64) -> Option<GuestOffset> {
        let bits = self.cluster_bits + self.l2_bits();
        if index > (i64::MAX as u64) >> bits {
            return None;
        }
        Some(GuestOffset(index << bits))
    }

    /// How many L1 entries a disk of `disk_size` bytes needs (QEMU's `size_to_l1`). May be more than [`Geometry::max_l1_entries`].
    pub(crate) const fn l1_entries_for(&self, disk_size: u64) -> u64 {
        disk_size.div_ceil(self.l2_span())
    }

    /// The most entries that an L1 table may have.
    pub(crate) const fn max_l1_entries(&self) -> u64 {
        MAX_L1_BYTES / TABLE_ENTRY_SIZE
    }

    /// The first L1 entry past a disk of `disk_size` bytes: there the vmstate area starts (QEMU's `l1_vm_state_index`).
    pub(crate) const fn vmstate_l1_index(&self, disk_size: u64) -> u64 {
        self.l1_entries_for(disk_size)
    }

    /// The first byte of the vmstate area after a disk of `disk_size` bytes (QEMU's `qcow2_vm_state_offset`), or `None` past `i64::MAX`.
    pub(crate) const fn vmstate_start(&self, disk_size: u64) -> Option<GuestOffset> {
        self.l1_start(self.vmstate_l1_index(disk_size))
    }

    // ---- Refcounts ----------------------------------------------------------------------------------------------------------------

    /// log2 of the width of a refcount, 0..=6.
    pub(crate) const fn refcount_order(&self) -> u32 {
        self.refcount_order
    }

    /// The width of a refcount in bits, 1..=64.
    pub(crate) const fn refcount_bits(&self) -> u32 {
        1 << self.refcount_order
    }

    /// The highest refcount that fits the width.
    pub(crate) const fn max_refcount(&self) -> u64 {
        u64::MAX >> (64 - self.refcount_bits())
    }

    /// How many clusters one refcount block counts, which fills one cluster.
    pub(crate) const fn refcounts_per_block(&self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }

    /// Which reftable entry leads to the refcount of host cluster `cluster`.
    pub(crate) const fn reftable_index(&self, cluster: u64) -> u64 {
        cluster / self.refcounts_per_block()
    }

    /// Where in its refcount block the refcount of host cluster `cluster` is.
    pub(crate) const fn refcount_index(&self, cluster: u64) -> u64 {
        cluster % self.refcounts_per_block()
    }

    /// The most clusters that a refcount table may have.
    pub(crate) const fn max_reftable_clusters(&self) -> u64 {
        MAX_REFTABLE_BYTES >> self.cluster_bits
    }

    /// Entries of a reftable of `clusters` clusters. `clusters` is at most [`Geometry::max_reftable_clusters`] in a header that was checked.
    pub(crate) const fn reftable_entries(&self, clusters: u64) -> u64 {
        clusters.saturating_mul(self.cluster_size() / TABLE_ENTRY_SIZE)
    }

    /// The first host cluster that no reftable allowed here can count, or no entry can name.
    pub(crate) const fn max_host_clusters(&self) -> u64 {
        let counted =
            (MAX_REFTABLE_BYTES / TABLE_ENTRY_SIZE).saturating_mul(self.refcounts_per_block());
        let named = (MAX_HOST_OFFSET + 1) >> self.cluster_bits;
        if counted < named { counted } else { named }
    }

    /// Refcount number `index` of `block`, the bytes of a refcount block or of a slice of one; `None` where they end before it
    /// (QEMU's `get_refcount` functions).
    ///
    /// Widths of 8 bits and more are big-endian. Of narrower ones the first is in the least significant bits of its byte.
    pub(crate) fn refcount(&self, block: &[u8], index: usize) -> Option<u64> {
        let bits = 1_usize << self.refcount_order;
        if bits < 8 {
            let (byte, shift, mask) = Self::part_of_byte(bits, index);
            return Some(u64::from((block.get(byte)? >> shift) & mask));
        }
        let bytes = bits / 8;
        let at = index.checked_mul(bytes)?;
        let field = block.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte)))
    }

    /// Puts refcount number `index` into `block`. `None`, and nothing has changed, where `value` exceeds [`Geometry::max_refcount`] or
    /// the bytes end before it.
    #[must_use = "nothing has changed where this is None"]
    pub(crate) fn set_refcount(&self, block: &mut [u8], index: usize, value: u64) -> Option<()> {
        if value > self.max_refcount() {
            return None;
        }
        let bits = 1_usize << self.refcount_order;
        if bits < 8 {
            let (byte, shift, mask) = Self::part_of_byte(bits, index);
            let byte = block.get_mut(byte)?;
            *byte = (*byte & !(mask << shift)) | ((value as u8) << shift);
            return Some(());
        }
        let bytes = bits / 8;
        let at = index.checked_mul(bytes)?;
        let field = block.get_mut(at..at.checked_add(bytes)?)?;
        field.copy_from_slice(value.to_be_bytes().get(8 - bytes..)?);
        Some(())
    }

    /// Byte, shift and mask of a refcount of `bits` = 1, 2 or 4 bits.
    const fn part_of_byte(bits: usize, index: usize) -> (usize, u32, u8) {
        let per_byte = 8 / bits;
        (
            index / per_byte,
            (index % per_byte * bits) as u32,
            (1 << bits) - 1,
        )
    }

    // ---- Slices -------------------------------------------------------------------------------------------------------------------

    /// Bytes of a slice of an L2 table or refcount block, the unit of the caches: 16 KiB, or the table where it is smaller.
    pub(crate) const fn slice_size(&self) -> u64 {
        if self.cluster_size() < SLICE_SIZE {
            self.cluster_size()
        } else {
            SLICE_SIZE
        }
    }

    /// Slices of one table.
    pub(crate) const fn slices(&self) -> u64 {
        self.cluster_size() / self.slice_size()
    }

    /// L2 entries of one slice.
    pub(crate) const fn l2_entries_per_slice(&self) -> u64 {
        self.slice_size() / self.l2_entry_size()
    }

    /// Refcounts of one slice.
    pub(crate) const fn refcounts_per_slice(&self) -> u64 {
        (self.slice_size() * 8) >> self.refcount_order
    }

    /// The slice with the L2 entry `index`, as bytes from the start of its table, and the entry's index in the slice.
    pub(crate) const fn l2_slice(&self, index: u64) -> (u64, usize) {
        let per_slice = self.l2_entries_per_slice();
        (
            index / per_slice * self.slice_size(),
            (index % per_slice) as usize, // at most 16 KiB / 8
        )
    }

    /// The slice with the refcount `index`, as bytes from the start of its block, and the refcount's index in the slice.
    pub(crate) const fn refcount_slice(&self, index: u64) -> (u64, usize) {
        let per_slice = self.refcounts_per_slice();
        (
            index / per_slice * self.slice_size(),
            (index % per_slice) as usize, // at most 16 Ki * 8
        )
    }
}

#[cfg(test)]
mod tests;
