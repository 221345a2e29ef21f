//! The L2 tables: every cluster that their entries lead to. QEMU's `check_refcounts_l2`.

use super::reference_counts::{ReferenceCounts, Uses};
use super::report::Finding;
use crate::qcow2::format::entry::{COMPRESSED, COPIED, L2Entry, OFFSET_MASK, ZERO};
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::{Geometry, SECTOR_SIZE};
use crate::qcow2::format::read_at::ReadAt;
use crate::qcow2::metadata::buffer;

/// The bits of an extended entry's bitmap that say "allocated".
const ALLOCATED: u64 = u32::MAX as u64;
/// Bits that are 0 in the entry of a cluster that is not compressed; ZERO is not among them, in no version.
const RESERVED: u64 = !(OFFSET_MASK | COPIED | COMPRESSED | ZERO);

/// What an entry is, by as little as QEMU looks at for that (`qcow2_get_cluster_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No host cluster.
    Nothing,
    /// A host cluster, in use or only preallocated.
    Standard,
    /// Somewhere between two bytes of the file.
    Compressed,
}

/// What the entry `raw` is.
pub(crate) fn kind(geometry: &Geometry, raw: u64) -> Kind {
    if raw & COMPRESSED != 0 {
        Kind::Compressed
    } else if raw & OFFSET_MASK != 0 {
        Kind::Standard
    } else if raw & ZERO != 0 && !geometry.extended_l2() {
        Kind::Nothing
    } else if geometry.data_file() && raw & COPIED != 0 {
        Kind::Standard // offset 0 is an offset there
    } else {
        Kind::Nothing
    }
}

/// First byte and length of what the entry of a compressed cluster leads to (`qcow2_parse_compressed_l2_entry`).
fn compressed(geometry: &Geometry, raw: u64) -> (u64, u64) {
    let shift = 62 - (geometry.cluster_bits() - 8);
    let offset = raw & ((1 << shift) - 1);
    let sectors = ((raw & !(COPIED | COMPRESSED)) >> shift) + 1;
    (offset, sectors * SECTOR_SIZE - offset % SECTOR_SIZE)
}

impl ReferenceCounts<'_, '_> {
    /// Counts what the entries of all L2 tables lead to. Each table is read once.
    pub(crate) async fn l2_tables(&mut self) -> Result<(), Qcow2Error> {
        if self.tables.is_empty() {
            return Ok(());
        }
        let mut table = buffer(Table::L2, self.geometry.cluster_size())?;
        let mut after = 0;
        while let Some((at, uses)) = self.table_from(after) {
            self.source.read(Table::L2, at, &mut table).await?;
            // Where the next cluster would be if the table's clusters followed each other.
            let mut follows = 0;
            for (index, entry) in entries(self.geometry, &table) {
                self.l2_entry(at, uses, index, entry, &mut follows)?;
            }
            after = at + 1;
        }
        Ok(())
    }

    /// The first L2 table at or past byte `at`.
    pub(crate) fn table_from(&self, at: u64) -> Option<(u64, Uses)> {
        let next = self.tables.range(at..).next();
        next.map(|(at, uses)| (*at, *uses))
    }

    fn l2_entry(
        &mut self,
        table: u64,
        uses: Uses,
        index: u64,
        entry: L2Entry,
        follows: &mut u64,
    ) -> Result<(), Qcow2Error> {
        let L2Entry { raw, bitmap } = entry;
        let times = uses.all();
        let kind = kind(&self.geometry, raw);
        if kind == Kind::Compressed {
            return self.compressed_entry(table, uses, index, entry);
        }
        if raw & RESERVED != 0 {
            let reserved = Finding::ReservedBits {
                what: Table::Data,
                table,
                index,
                raw,
            };
            self.report.corrupt(times, reserved);
        }
        let subclusters = Finding::Subclusters {
            table,
            index,
            bitmap,
        };
        if kind == Kind::Nothing {
            if bitmap & ALLOCATED != 0 {
                self.report.corrupt(times, subclusters);
            }
            return Ok(());
        }
        if bitmap & (bitmap >> 32) != 0 {
            self.report.corrupt(times, subclusters);
        }
        let offset = raw & OFFSET_MASK;
        let cluster_size = self.geometry.cluster_size();
        if !self.geometry.is_aligned(offset) {
            let inside = Finding::NotAligned {
                what: Table::Data,
                table,
                index,
                offset,
            };
            self.report.corrupt(times, inside);
            self.misplaced += u64::from(is_misplaced_preallocation(&self.geometry, entry));
        }
        self.report.allocated_clusters += uses.active;
        if *follows != 0 && offset != *follows {
            self.report.fragmented_clusters += uses.active;
        }
        *follows = offset.saturating_add(cluster_size);
        if self.geometry.data_file() {
            return Ok(());
        }
        self.count(Table::Data, offset, cluster_size, times)
            .map(drop)
    }

    fn compressed_entry(
        &mut self,
        table: u64,
        uses: Uses,
        index: u64,
        L2Entry { raw, bitmap }: L2Entry,
    ) -> Result<(), Qcow2Error> {
        let times = uses.all();
        let finding = Finding::Compressed { table, index, raw };
        if raw & COPIED != 0 {
            self.report.corrupt(times, finding.clone());
        }
        let (offset, bytes) = compressed(&self.geometry, raw);
        if self.geometry.data_file() || bitmap != 0 {
            self.report.corrupt(times, finding);
            self.keep(Table::Data, offset, bytes); // it can be read all the same
            return Ok(());
        }
        self.count(Table::Data, offset, bytes, times)?;
        // Reading one never goes on where the one before it ended: sectors are shared.
        self.report.allocated_clusters += uses.active;
        self.report.compressed_clusters += uses.active;
        self.report.fragmented_clusters += uses.active;
        Ok(())
    }

    /// Makes zero clusters of preallocated clusters that are at an impossible place: they read the same (`fix_l2_entry_by_zero`). Returns
    /// how many. One write for each entry, which is old or new after a crash.
    pub(crate) async fn fix_entries(&mut self) -> Result<u64, Qcow2Error> {
        let geometry = self.geometry;
        let size = geometry.l2_entry_size();
        let mut table = buffer(Table::L2, geometry.cluster_size())?;
        let (mut fixed, mut after) = (0, 0);
        while let Some((at, _)) = self.table_from(after) {
            after = at + 1;
            self.source.read(Table::L2, at, &mut table).await?;
            for (index, entry) in entries(geometry, &table) {
                if !is_misplaced_preallocation(&geometry, entry) {
                    continue;
                }
                if !geometry.is_aligned(at) || self.is_overlapped(at, geometry.cluster_size()) {
                    self.give_up(Table::L2, at);
                    break;
                }
                let mut bytes = [0; 16];
                if let Some(bytes) = bytes.get_mut(..size as usize)
                    && without_host(&geometry, entry)
                        .write(&geometry, bytes, 0)
                        .is_some()
                {
                    let place = at.saturating_add(index * size);
                    self.source.write(Table::L2, place, bytes).await?;
                    fixed += 1;
                }
            }
        }
        Ok(fixed)
    }

    /// A table is left as it is because writing to it would damage others.
    pub(crate) fn give_up(&mut self, what: Table, offset: u64) {
        self.report.check_errors += 1;
        self.report.find(Finding::Overlap { what, offset });
    }
}

/// The entries of `table` that are not empty, with their indices.
pub(crate) fn entries(
    geometry: Geometry,
    table: &[u8],
) -> impl Iterator<Item = (u64, L2Entry)> + '_ {
    let count = geometry.l2_entries() as usize; // at most 256 Ki
    (0..count).filter_map(move |index| {
        let entry = L2Entry::read(&geometry, table, index)?;
        (entry != L2Entry::EMPTY).then_some((index as u64, entry))
    })
}

/// A standard cluster's entry with zeroes where it had something, and no host cluster.
fn without_host(geometry: &Geometry, entry: L2Entry) -> L2Entry {
    if geometry.extended_l2() {
        let bitmap = (entry.bitmap | entry.bitmap << 32) & !ALLOCATED;
        return L2Entry { raw: 0, bitmap };
    }
    L2Entry {
        raw: ZERO,
        bitmap: 0,
    }
}

/// Whether the entry's host cluster is at an impossible place but holds no data, so that it can be given up.
fn is_misplaced_preallocation(geometry: &Geometry, entry: L2Entry) -> bool {
    let holds_data = if geometry.extended_l2() {
        entry.bitmap & ALLOCATED != 0
    } else {
        entry.raw & ZERO == 0
    };
    kind(geometry, entry.raw) == Kind::Standard
        && !geometry.is_aligned(entry.raw & OFFSET_MASK)
        && !holds_data
}
