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
use super::counts::Counts;
use super::report::{CheckReport, Finding};
use super::snapshots::Snapshots;
use super::source::{Entries, Source};
use crate::qcow2::entry::{COPIED, L1Entry, OFFSET_MASK};
use crate::qcow2::error::{Qcow2Error, Table};
use crate::qcow2::geometry::{Geometry, TABLE_ENTRY_SIZE};
use crate::qcow2::header::{Header, is_inside};
use crate::qcow2::offset::HostOffset;
use crate::qcow2::snapshot::table::Snapshot;
use std::collections::BTreeMap;
use std::ops::Range;

/// How many L1 entries lead to an L2 table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// Those of the active table.
    pub(super) active: u64,
    /// Those of the snapshots.
    pub(super) inactive: u64,
}

impl Uses {
    pub(super) fn all(self) -> u64 {
        self.active.saturating_add(self.inactive)
    }
}

/// What to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything that the image uses.
    Everything,
    /// All but the refcount table and its blocks, which are to be built anew.
    WithoutRefcounts,
}

/// Clusters that are not counted, and not freed either. Sorted; no two ranges touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept(Vec<Range<u64>>);

impl Kept {
    pub(super) fn contains(&self, cluster: u64) -> bool {
        let behind = self.0.partition_point(|range| range.start <= cluster);
        let before = behind.checked_sub(1).and_then(|index| self.0.get(index));
        before.is_some_and(|range| cluster < range.end)
    }

    /// The end of the first run that has one of these clusters.
    pub(super) fn end_in(&self, clusters: Range<u64>) -> Option<u64> {
        let before = self.0.partition_point(|range| range.end <= clusters.start);
        let range = self.0.get(before)?;
        (range.start < clusters.end).then_some(range.end)
    }

    /// Those below `end`.
    pub(super) fn clusters_to(&self, end: u64) -> impl Iterator<Item = u64> + '_ {
        let below = self.0.iter().take_while(move |range| range.start < end);
        below.flat_map(move |range| range.start..range.end.min(end))
    }
}

/// A walk through the tables of an image, and what it has found.
pub(super) struct Walk<'a, 's> {
    pub(super) source: &'s Source<'a>,
    pub(super) geometry: Geometry,
    pub(super) counts: Counts,
    pub(super) report: CheckReport,
    /// The L2 tables inside the file, by offset.
    pub(super) tables: BTreeMap<u64, Uses>,
    /// Every other table but the refcount blocks, as bytes of the file: start and end. Sorted when the walk is over.
    areas: Vec<(u64, u64)>,
    /// The refcount table's entries.
    pub(super) reftable: Vec<u64>,
    /// Where the refcount blocks are that count. Sorted when the walk is over.
    blocks: Vec<u64>,
    /// Clusters that can be read through a table but are not counted, since the table or entry is wrong (QEMU does not count them either).
    /// Nobody knows whether they are needed: a repair does not free them.
    kept: Vec<(Table, Range<u64>)>,
    /// The same of the refcounts' own structures. They are not needed, once there are new ones.
    lost_refcounts: Vec<Range<u64>>,
    /// Where the snapshot table is, as bytes of the file: start and end.
    snapshot_area: (u64, u64),
    /// The clusters that were counted for the snapshot table.
    snapshot_table: Range<u64>,
    /// How many entries [`Walk::fix_entries`] would find.
    pub(super) misplaced: u64,
    /// The refcount table or one of its blocks is not fit to be changed.
    pub(super) rebuild: bool,
}

impl<'a, 's> Walk<'a, 's> {
    /// Counts everything that `scope` says.
    ///
    /// Errors: what could not be read, or is so broken that what it leads to is not known: [`Qcow2Error::Io`], [`Qcow2Error::OutOfMemory`],
    /// [`Qcow2Error::BitmapEntry`], [`Qcow2Error::TableTooLarge`] for a file of more than 2^31 - 1 clusters.
    pub(super) async fn new(
        source: &'s Source<'a>,
        header: &Header,
        snapshots: &Snapshots,
        scope: Scope,
    ) -> Result<Self, Qcow2Error> {
        let geometry = header.geometry;
        let clusters = geometry.clusters_for(source.end());
        let max = i32::MAX as u64;
        if clusters > max {
            return Err(Qcow2Error::TableTooLarge {
                what: Table::Data,
                entries: clusters,
                max,
            });
        }
        let mut walk = Self {
            source,
            geometry,
            counts: Counts::new(geometry, clusters),
            report: CheckReport {
                total_clusters: geometry.clusters_for(header.disk_size()),
                ..CheckReport::default()
            },
            tables: BTreeMap::new(),
            areas: Vec::new(),
            reftable: Vec::new(),
            blocks: Vec::new(),
            kept: Vec::new(),
            lost_refcounts: Vec::new(),
            snapshot_area: (0, 0),
            snapshot_table: 0..0,
            misplaced: 0,
            rebuild: false,
        };
        walk.area(Table::Header, 0, geometry.cluster_size(), 1)?;
        walk.l1_tables(header, snapshots).await?;
        walk.l2_tables().await?;
        let (at, bytes) = (header.snapshots_offset.0, snapshots.bytes);
        walk.area(Table::SnapshotTable, at, bytes, 1)?;
        walk.snapshot_area = (at, at.saturating_add(bytes));
        if bytes != 0 && walk.is_inside(at, bytes) {
            walk.snapshot_table =
                geometry.cluster_of(HostOffset(at))..geometry.clusters_for(at + bytes);
        }
        bitmaps::count(&mut walk, header).await?;
        walk.refcounts(header, scope == Scope::Everything).await?;
        walk.areas.sort_unstable();
        walk.blocks.sort_unstable();
        Ok(walk)
    }

    /// Counts `times` uses of every cluster that the `bytes` bytes at `offset` touch (`qcow2_inc_refcounts_imrt`), and returns whether the
    /// refcounts are wide enough for them.
    pub(super) fn count(
        &mut self,
        what: Table,
        offset: u64,
        bytes: u64,
        times: u64,
    ) -> Result<bool, Qcow2Error> {
        if bytes == 0 || times == 0 {
            return Ok(true);
        }
        let last = offset.saturating_add(bytes);
        if !self.is_inside(offset, bytes) {
            let end = self.source.end();
            let outside = Finding::Outside {
                what,
                offset,
                bytes,
                end,
            };
            self.report.corrupt(times, outside);
            self.keep(what, offset, bytes);
            return Ok(true);
        }
        let mut wide_enough = true;
        let bits = self.geometry.cluster_bits();
        for cluster in offset >> bits..=(last - 1) >> bits {
            let refused = self.counts.add(cluster, times)?;
            if refused != 0 {
                wide_enough = false;
                let bits = self.geometry.refcount_bits();
                self.report
                    .corrupt(refused, Finding::Overflow { cluster, bits });
            }
        }
        Ok(wide_enough)
    }

    fn is_inside(&self, offset: u64, bytes: u64) -> bool {
        is_inside(
            offset,
            bytes,
            self.source.end(),
            self.geometry.cluster_size(),
        )
    }

    /// The clusters that `bytes` bytes at `offset` touch stay in use, although nothing counts them. Those past the file's end, too: they read as
    /// zeroes, and must not turn into others' data.
    pub(super) fn keep(&mut self, what: Table, offset: u64, bytes: u64) {
        // Of a snapshot table that has one wrong length most is nothing.
        let most = match what {
            Table::SnapshotTable => self.source.end(),
            _ => i64::MAX as u64,
        };
        let end = offset.saturating_add(bytes).min(most);
        let bytes = end.saturating_sub(offset);
        if bytes == 0 {
            return;
        }
        let bits = self.geometry.cluster_bits();
        let clusters = offset >> bits..((offset + bytes - 1) >> bits) + 1;
        if matches!(what, Table::RefcountTable | Table::RefcountBlock) {
            self.lost_refcounts.push(clusters); // to be built anew
            return;
        }
        match self.kept.last_mut() {
            Some((kind, last)) if *kind == what && last.end == clusters.start => {
                last.end = clusters.end;
            }
            _ => self.kept.push((what, clusters)),
        }
    }

    /// The snapshot table is somewhere else now: what was counted for it before is not any more, and nothing else.
    pub(super) fn release_snapshot_table(&mut self) -> Result<(), Qcow2Error> {
        self.kept.retain(|(kind, _)| *kind != Table::SnapshotTable);
        let (at, end) = self.snapshot_area;
        if let Ok(index) = self.areas.binary_search(&(at, end)) {
            self.areas.remove(index);
        }
        for cluster in std::mem::take(&mut self.snapshot_table) {
            self.counts.remove(cluster)?;
        }
        Ok(())
    }

    /// What another walk has kept is kept here, and where it has found structures of refcounts that are outside the file.
    pub(super) fn keep_also(&mut self, other: &Self) {
        self.kept.extend(other.kept.iter().cloned());
        self.kept.extend(
            other
                .lost_refcounts
                .iter()
                .map(|range| (Table::RefcountTable, range.clone())),
        );
    }

    /// The clusters that were kept.
    pub(super) fn kept(&self) -> Kept {
        self.kept_of(|_| true)
    }

    /// The clusters that were kept and stay so. The snapshot table may be written anew to another place.
    pub(super) fn kept_for_good(&self) -> Kept {
        self.kept_of(|what| what != Table::SnapshotTable)
    }

    fn kept_of(&self, wanted: impl Fn(Table) -> bool) -> Kept {
        let kept = self.kept.iter().filter(|(what, _)| wanted(*what));
        let mut kept: Vec<_> = kept.map(|(_, range)| range.clone()).collect();
        kept.sort_unstable_by_key(|range| range.start);
        kept.dedup_by(|next, before| {
            let joined = next.start <= before.end;
            if joined {
                before.end = before.end.max(next.end);
            }
            joined
        });
        Kept(kept)
    }

    /// Counts a table that is neither an L2 table nor a refcount block, and remembers where it is.
    pub(super) fn area(
        &mut self,
        what: Table,
        offset: u64,
        bytes: u64,
        times: u64,
    ) -> Result<(), Qcow2Error> {
        if bytes != 0 {
            self.areas.push((offset, offset.saturating_add(bytes)));
        }
        self.count(what, offset, bytes, times).map(drop)
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
        let offset = crate::qcow2::entry::ReftableEntry(raw).offset().0;
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
            self.blocks.push(offset);
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

    /// The first of `count` clusters past the file's end where nothing is, and where nothing leads to: an entry that leads past the end of a
    /// file that was cut must not lead to new tables.
    pub(super) fn free_from(&self, count: u64) -> u64 {
        let kept = self.kept();
        let mut first = self.counts.clusters();
        while let Some(end) = kept.end_in(first..first.saturating_add(count)) {
            first = end;
        }
        first
    }

    /// Whether other metadata lies on the table of `bytes` bytes at `offset`, so that writing to it would damage that
    /// (`qcow2_check_metadata_overlap`). It is itself among what was counted, and may be there once.
    pub(super) fn is_overlapped(&self, offset: u64, bytes: u64) -> bool {
        let end = offset.saturating_add(bytes);
        let near = offset.saturating_sub(self.geometry.cluster_size() - 1)..end;
        // Sorted by their start: those that start behind the table's end do not matter.
        let before = self.areas.partition_point(|(start, _)| *start < end);
        let areas = self.areas.get(..before).unwrap_or(&[]).iter();
        let areas = areas.filter(|(_, area_end)| *area_end > offset);
        let tables = self.tables.range(near.clone());
        let first_block = self.blocks.partition_point(|block| *block < near.start);
        let block = self.blocks.get(first_block);
        areas.count() + tables.count() > 1 || block.is_some_and(|block| *block < end)
    }
}
