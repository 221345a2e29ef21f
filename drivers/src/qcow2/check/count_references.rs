//! Counting the uses of every cluster, from the header down. QEMU's `calculate_refcounts`.
//!
//! ```text
//!   header --- active L1 ------+
//!     |                        +--- L2 tables --- clusters of the guest, compressed or not
//!     +--- snapshot table      |
//!     |      +--- their L1 ----+
//!     +--- bitmap directory --- bitmap tables --- bitmaps
//!     +--- refcount table --- refcount blocks
//! ```
//!
//! Snapshots share most of their L2 tables. Each is read once and its entries count as often as L1 entries lead to it, so that the work is
//! bounded by the file's length and not by the number of snapshots. The numbers are those that QEMU gets by reading it each time.

use super::bitmaps;
use super::reference_counts::ReferenceCounts;
use super::report::Finding;
use super::snapshots::Snapshots;
use crate::qcow2::format::entry::{COPIED, L1Entry, OFFSET_MASK, ReftableEntry};
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::TABLE_ENTRY_SIZE;
use crate::qcow2::format::header::Header;
use crate::qcow2::format::snapshot_table::Snapshot;
use crate::qcow2::metadata::{Entries, Source};
use std::collections::BTreeMap;

/// What to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything that the image uses.
    Everything,
    /// All but the refcount table and its blocks, which are to be built anew.
    WithoutRefcounts,
}

impl<'a, 's> ReferenceCounts<'a, 's> {
    /// Counts everything that `scope` says.
    ///
    /// # Errors
    ///
    /// What could not be read, or is so broken that what it leads to is not known: [`Qcow2Error::Io`], [`Qcow2Error::OutOfMemory`],
    /// [`Qcow2Error::BitmapEntry`], [`Qcow2Error::TableTooLarge`] for a file of more than 2^31 - 1 clusters.
    pub(crate) async fn of(
        source: &'s Source<'a>,
        header: &Header,
        snapshots: &Snapshots,
        scope: Scope,
    ) -> Result<Self, Qcow2Error> {
        let mut counts = Self::new(source, header)?;
        let (at, bytes) = (header.snapshots_offset.0, snapshots.bytes);
        counts.note_snapshot_table(at, bytes);
        counts.area(Table::Header, 0, header.geometry.cluster_size(), 1)?;
        counts.l1_tables(header, snapshots).await?;
        counts.l2_tables().await?;
        counts.area(Table::SnapshotTable, at, bytes, 1)?;
        bitmaps::count(&mut counts, header).await?;
        counts.refcounts(header, scope == Scope::Everything).await?;
        counts.finish();
        Ok(counts)
    }

    /// The active L1 table and the snapshots' (`check_refcounts_l1`).
    async fn l1_tables(
        &mut self,
        header: &Header,
        snapshots: &Snapshots,
    ) -> Result<(), Qcow2Error> {
        let active = (header.l1_offset.0, u64::from(header.l1_entries));
        self.l1_table(Table::L1, active, 1).await?;
        if self.geometry.data_file() && header.snapshots != 0 {
            let snapshots = header.snapshots;
            self.report
                .corrupt(1, Finding::SnapshotsWithDataFile { snapshots });
        }
        // Each snapshot has a table of its own. Where they lie, one table is still read only once.
        let mut tables: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for (index, snapshot) in (0..).zip(&snapshots.list) {
            let (reason, value) = if !self.geometry.is_aligned(snapshot.l1_offset.0) {
                ("its L1 table is inside a cluster", snapshot.l1_offset.0)
            } else if u64::from(snapshot.l1_entries) > self.geometry.max_l1_entries() {
                (
                    "its L1 table is longer than 32 MiB",
                    snapshot.l1_entries.into(),
                )
            } else {
                let table = (snapshot.l1_offset.0, snapshot.l1_entries.into());
                *tables.entry(table).or_default() += 1;
                self.disk_size(index, snapshot);
                continue;
            };
            let finding = Finding::Snapshot {
                index,
                reason,
                value,
            };
            self.report.corrupt(1, finding);
        }
        for (table, times) in tables {
            self.l1_table(Table::SnapshotL1, table, times).await?;
        }
        Ok(())
    }

    /// A snapshot of an impossible disk cannot be used. It is told but not counted: its tables may be sound, and QEMU does not look.
    fn disk_size(&mut self, index: u32, snapshot: &Snapshot) {
        if snapshot.vmstate_start(&self.geometry).is_err() {
            self.report.find(Finding::Snapshot {
                index,
                reason: "its disk is larger than any can be",
                value: snapshot.disk_size,
            });
        }
    }

    async fn l1_table(
        &mut self,
        what: Table,
        (at, entries): (u64, u64),
        times: u64,
    ) -> Result<(), Qcow2Error> {
        if entries == 0 {
            return Ok(());
        }
        self.area(what, at, entries * TABLE_ENTRY_SIZE, times)?;
        let mut pieces = Entries::new(self.source, what, at, entries);
        while let Some((first, piece)) = pieces.next().await? {
            for (index, raw) in (first..).zip(piece) {
                self.l1_entry(what, at, index, L1Entry(raw), times)?;
            }
        }
        Ok(())
    }

    fn l1_entry(
        &mut self,
        what: Table,
        table: u64,
        index: u64,
        entry: L1Entry,
        times: u64,
    ) -> Result<(), Qcow2Error> {
        if entry == L1Entry::EMPTY {
            return Ok(());
        }
        if entry.0 & !(OFFSET_MASK | COPIED) != 0 {
            let reserved = Finding::ReservedBits {
                what: Table::L2,
                table,
                index,
                raw: entry.0,
            };
            self.report.corrupt(times, reserved);
        }
        let offset = entry.offset().0;
        self.count(Table::L2, offset, self.geometry.cluster_size(), times)?;
        if !self.geometry.is_aligned(offset) {
            let inside = Finding::NotAligned {
                what: Table::L2,
                table,
                index,
                offset,
            };
            self.report.corrupt(times, inside);
        }
        if offset >= self.source.end() {
            return Ok(()); // it reads as zeroes
        }
        let uses = self.tables.entry(offset).or_default();
        let uses = match what {
            Table::L1 => &mut uses.active,
            _ => &mut uses.inactive,
        };
        *uses = uses.saturating_add(times);
        Ok(())
    }

    /// The refcount table and its blocks (`check_refblocks`). They come last: a block that is used by anything else shows.
    async fn refcounts(&mut self, header: &Header, count: bool) -> Result<(), Qcow2Error> {
        let entries = self
            .geometry
            .reftable_entries(header.reftable_clusters.into());
        let (what, at) = (Table::RefcountTable, header.reftable_offset.0);
        let bytes = entries * TABLE_ENTRY_SIZE;
        if count {
            self.area(what, at, bytes, 1)?;
            // Its entries past the file's end cannot be trusted: clusters that are in use would seem to be free.
            self.rebuild |= !self.is_inside(at, bytes);
        }
        let no_memory = |_| Qcow2Error::OutOfMemory { what, bytes };
        self.reftable
            .try_reserve_exact(entries as usize) // at most 1 Mi
            .map_err(no_memory)?;
        let mut pieces = Entries::new(self.source, what, at, entries);
        while let Some((first, piece)) = pieces.next().await? {
            for (index, raw) in (first..).zip(piece) {
                self.reftable.push(raw);
                if count && raw != 0 {
                    self.reftable_entry(at, index, raw)?;
                }
            }
        }
        Ok(())
    }

    fn reftable_entry(&mut self, table: u64, index: u64, raw: u64) -> Result<(), Qcow2Error> {
        let what = Table::RefcountBlock;
        let offset = ReftableEntry(raw).offset().0;
        let cluster_size = self.geometry.cluster_size();
        let cluster = offset >> self.geometry.cluster_bits();
        let wrong = if raw != offset {
            Finding::ReservedBits {
                what,
                table,
                index,
                raw,
            }
        } else if !self.geometry.is_aligned(offset) {
            Finding::NotAligned {
                what,
                table,
                index,
                offset,
            }
        } else if cluster >= self.counts.clusters() {
            self.keep(what, offset, cluster_size);
            Finding::Outside {
                what,
                offset,
                bytes: cluster_size,
                end: self.source.end(),
            }
        } else {
            // With narrow refcounts a block that is used by others too need not show in the count.
            if !self.count(what, offset, cluster_size, 1)? {
                self.rebuild = true;
            }
            self.add_block(offset);
            match self.counts.get(cluster) {
                1 => return Ok(()),
                references => Finding::BlockShared {
                    index,
                    offset,
                    references,
                },
            }
        };
        self.rebuild = true;
        self.report.corrupt(1, wrong);
        Ok(())
    }
}
