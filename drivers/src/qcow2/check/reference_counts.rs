//! What a check has counted: the uses of every cluster, where the tables are, and what is wrong.

use super::counts::Counts;
use super::report::{CheckReport, Finding};
use super::uncounted::Kept;
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::Geometry;
use crate::qcow2::format::header::Header;
use crate::qcow2::format::offset::HostOffset;
use crate::qcow2::format::position::is_inside;
use crate::qcow2::metadata::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// How many L1 entries lead to an L2 table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// Those of the active table.
    pub(crate) active: u64,
    /// Those of the snapshots.
    pub(crate) inactive: u64,
}

impl Uses {
    pub(crate) fn all(self) -> u64 {
        self.active.saturating_add(self.inactive)
    }
}

/// How often each cluster of an image is used, as far as a walk through its tables has counted.
pub(crate) struct ReferenceCounts<'a, 's> {
    pub(crate) source: &'s Source<'a>,
    pub(crate) geometry: Geometry,
    pub(crate) counts: Counts,
    pub(crate) report: CheckReport,
    /// The L2 tables inside the file, by offset.
    pub(crate) tables: BTreeMap<u64, Uses>,
    /// Every other table but the refcount blocks, as bytes of the file: start and end. Sorted by [`ReferenceCounts::finish`].
    areas: Vec<(u64, u64)>,
    /// The refcount table's entries.
    pub(crate) reftable: Vec<u64>,
    /// Where the refcount blocks are that count. Sorted by [`ReferenceCounts::finish`].
    blocks: Vec<u64>,
    /// Clusters that can be read through a table but are not counted, since the table or entry is wrong (QEMU does not count them either).
    /// It is not known whether they are needed: a repair does not free them.
    kept: Vec<(Table, Range<u64>)>,
    /// The same of the refcounts' own structures. They are not needed, once there are new ones.
    lost_refcounts: Vec<Range<u64>>,
    /// Where the snapshot table is, as bytes of the file: start and end.
    snapshot_area: (u64, u64),
    /// The clusters of the snapshot table.
    snapshot_table: Range<u64>,
    /// Those of them that are used more often than a refcount can say: how often is not known.
    snapshot_table_overflowed: BTreeSet<u64>,
    /// How many entries [`ReferenceCounts::fix_entries`] would find.
    pub(crate) misplaced: u64,
    /// The refcount table or one of its blocks is not fit to be changed.
    pub(crate) rebuild: bool,
}

impl<'a, 's> ReferenceCounts<'a, 's> {
    /// Nothing is counted yet.
    ///
    /// # Errors
    ///
    /// [`Qcow2Error::TableTooLarge`] for a file of more than 2^31 - 1 clusters.
    pub(crate) fn new(source: &'s Source<'a>, header: &Header) -> Result<Self, Qcow2Error> {
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
        Ok(Self {
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
            snapshot_table_overflowed: BTreeSet::new(),
            misplaced: 0,
            rebuild: false,
        })
    }

    /// Everything is counted: what was noted can be searched from now on.
    pub(crate) fn finish(&mut self) {
        self.areas.sort_unstable();
        self.blocks.sort_unstable();
    }

    /// Notes where the snapshot table is, before anything is counted.
    pub(crate) fn note_snapshot_table(&mut self, at: u64, bytes: u64) {
        self.snapshot_area = (at, at.saturating_add(bytes));
        if bytes != 0 && self.is_inside(at, bytes) {
            let first = self.geometry.cluster_of(HostOffset(at));
            self.snapshot_table = first..self.geometry.clusters_for(at + bytes);
        }
    }

    /// Notes a refcount block that counts clusters.
    pub(crate) fn add_block(&mut self, offset: u64) {
        self.blocks.push(offset);
    }

    /// Counts `times` uses of every cluster that the `bytes` bytes at `offset` touch (`qcow2_inc_refcounts_imrt`), and returns whether the
    /// refcounts are wide enough for them.
    pub(crate) fn count(
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
                if self.snapshot_table.contains(&cluster) {
                    self.snapshot_table_overflowed.insert(cluster);
                }
                let bits = self.geometry.refcount_bits();
                self.report
                    .corrupt(refused, Finding::Overflow { cluster, bits });
            }
        }
        Ok(wide_enough)
    }

    pub(crate) fn is_inside(&self, offset: u64, bytes: u64) -> bool {
        is_inside(
            offset,
            bytes,
            self.source.end(),
            self.geometry.cluster_size(),
        )
    }

    /// The clusters that `bytes` bytes at `offset` touch stay in use, although nothing counts them. Those past the file's end, too: they read as
    /// zeroes, and must not turn into others' data.
    pub(crate) fn keep(&mut self, what: Table, offset: u64, bytes: u64) {
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

    /// The snapshot table is somewhere else now: what was counted for it before is not any more, and nothing else. A cluster whose uses do not
    /// fit its refcount stays counted, since it is not known what else uses it.
    pub(crate) fn release_snapshot_table(&mut self) -> Result<(), Qcow2Error> {
        self.kept.retain(|(kind, _)| *kind != Table::SnapshotTable);
        let (at, end) = self.snapshot_area;
        if let Ok(index) = self.areas.binary_search(&(at, end)) {
            self.areas.remove(index);
        }
        for cluster in std::mem::take(&mut self.snapshot_table) {
            if !self.snapshot_table_overflowed.contains(&cluster) {
                self.counts.remove(cluster)?;
            }
        }
        Ok(())
    }

    /// What another walk has kept is kept here, and where it has found structures of refcounts that are outside the file.
    pub(crate) fn keep_also(&mut self, other: &Self) {
        self.kept.extend(other.kept.iter().cloned());
        self.kept.extend(
            other
                .lost_refcounts
                .iter()
                .map(|range| (Table::RefcountTable, range.clone())),
        );
    }

    /// The clusters that were kept.
    pub(crate) fn kept(&self) -> Kept {
        self.kept_of(|_| true)
    }

    /// The clusters that were kept and stay so. The snapshot table may be written anew to another place.
    pub(crate) fn kept_for_good(&self) -> Kept {
        self.kept_of(|what| what != Table::SnapshotTable)
    }

    fn kept_of(&self, wanted: impl Fn(Table) -> bool) -> Kept {
        let kept = self.kept.iter().filter(|(what, _)| wanted(*what));
        kept.map(|(_, range)| range.clone()).collect()
    }

    /// Counts a table that is neither an L2 table nor a refcount block, and remembers where it is.
    pub(crate) fn area(
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

    /// The first of `count` clusters past the file's end where nothing is, and where nothing leads to: an entry that leads past the end of a
    /// file that was cut must not lead to new tables.
    pub(crate) fn free_from(&self, count: u64) -> u64 {
        let kept = self.kept();
        let mut first = self.counts.clusters();
        while let Some(end) = kept.end_in(first..first.saturating_add(count)) {
            first = end;
        }
        first
    }

    /// Whether other metadata lies on the table of `bytes` bytes at `offset`, so that writing to it would damage that
    /// (`qcow2_check_metadata_overlap`). It is itself among what was counted, and may be there once.
    pub(crate) fn is_overlapped(&self, offset: u64, bytes: u64) -> bool {
        let end = offset.saturating_add(bytes);
        let near = offset.saturating_sub(self.geometry.cluster_size() - 1)..end;
        // Sorted by their start: those that start after the table's end do not matter.
        let before = self.areas.partition_point(|(start, _)| *start < end);
        let areas = self.areas.get(..before).unwrap_or(&[]).iter();
        let areas = areas.filter(|(_, area_end)| *area_end > offset);
        let tables = self.tables.range(near.clone());
        let first_block = self.blocks.partition_point(|block| *block < near.start);
        let block = self.blocks.get(first_block);
        areas.count() + tables.count() > 1 || block.is_some_and(|block| *block < end)
    }
}
