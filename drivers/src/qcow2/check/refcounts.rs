//! The refcounts on disk, and how they differ from what was counted. QEMU's `compare_refcounts`.

use super::counts::Counts;
use super::reference_counts::ReferenceCounts;
use super::report::{CheckReport, Finding};
use super::uncounted::Kept;
use crate::qcow2::format::entry::ReftableEntry;
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::Geometry;
use crate::qcow2::format::read_at::ReadAt;
use crate::qcow2::metadata::Source;
use std::collections::BTreeMap;
use std::ops::Range;

/// The most slices of refcount blocks that are kept for [`DiskRefcounts::get`]: 1 MiB.
const KEPT_SLICES: usize = 64;

/// What is to happen to a refcount that differs from the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action<'k> {
    /// It is reported.
    Report,
    /// It is raised where it is too low. Safe at any time: what is not used cannot be overwritten by it.
    Raise,
    /// It is lowered where it is too high, but for clusters that are kept; the space of those that nothing uses goes back to the host (QEMU's
    /// `QCOW2_DISCARD_ALWAYS`). Safe once nothing on disk uses the cluster any more.
    Lower(&'k Kept),
}

/// What [`DiskRefcounts::compare`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Refcounts that were changed on disk.
    pub(crate) changed: u64,
    /// Clusters in use have the refcount 0.
    pub(crate) zero: bool,
    /// Clusters in use have no refcount block, or one that cannot be read.
    pub(crate) no_block: bool,
    /// The first cluster after the last that is used or counted.
    pub(crate) end: u64,
}

/// Where the refcounts of a range of clusters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// Nowhere: they are 0.
    Missing,
    /// Where none can be.
    Impossible(u64),
    /// Here.
    At(u64),
}

/// The refcounts of the image as they are on disk.
pub(crate) struct DiskRefcounts<'a, 's> {
    source: &'s Source<'a>,
    geometry: Geometry,
    reftable: Vec<u64>,
    /// Slices by their place in the file.
    kept: BTreeMap<u64, Vec<u8>>,
}

impl<'a, 's> DiskRefcounts<'a, 's> {
    /// The refcounts that the table with these entries leads to.
    pub(crate) fn new(source: &'s Source<'a>, geometry: Geometry, reftable: Vec<u64>) -> Self {
        Self {
            source,
            geometry,
            reftable,
            kept: BTreeMap::new(),
        }
    }

    /// The block number `index` (`qcow2_get_refcount`'s view: reserved bits do not matter).
    fn block(&self, index: u64) -> Block {
        let entry = usize::try_from(index)
            .ok()
            .and_then(|index| self.reftable.get(index));
        let offset = ReftableEntry(entry.copied().unwrap_or(0)).offset().0;
        let end = offset.checked_add(self.geometry.cluster_size());
        if offset == 0 {
            Block::Missing
        } else if !self.geometry.is_aligned(offset) || end.is_none_or(|end| end > i64::MAX as u64) {
            Block::Impossible(offset)
        } else {
            Block::At(offset)
        }
    }

    /// The refcount of `cluster`; `None` where there is no telling.
    pub(crate) async fn get(&mut self, cluster: u64) -> Result<Option<u64>, Qcow2Error> {
        let block = match self.block(self.geometry.reftable_index(cluster)) {
            Block::Missing => return Ok(Some(0)),
            Block::Impossible(_) => return Ok(None),
            Block::At(offset) => offset,
        };
        let (slice, index) = self
            .geometry
            .refcount_slice(self.geometry.refcount_index(cluster));
        let at = block + slice; // inside the block, which ends below i64::MAX
        if !self.kept.contains_key(&at) {
            if self.kept.len() >= KEPT_SLICES {
                self.kept.clear();
            }
            let bytes = self.slice(at).await?;
            self.kept.insert(at, bytes);
        }
        let slice = self.kept.get(&at);
        Ok(slice.and_then(|slice| self.geometry.refcount(slice, index)))
    }

    async fn slice(&self, at: u64) -> Result<Vec<u8>, Qcow2Error> {
        let what = Table::RefcountBlock;
        let mut slice = crate::qcow2::metadata::buffer(what, self.geometry.slice_size())?;
        self.source.read(what, at, &mut slice).await?;
        Ok(slice)
    }

    /// Compares the refcounts of all clusters with the counts, and does what `action` says about differences. Changes are written one slice
    /// after the other; a crash leaves each refcount as it was or as it should be. They are not flushed.
    pub(crate) async fn compare(
        &mut self,
        counts: &Counts,
        action: Action<'_>,
        report: &mut CheckReport,
    ) -> Result<Compared, Qcow2Error> {
        self.kept.clear(); // they may change
        let mut compared = Compared::default();
        let clusters = counts.clusters();
        let per_block = self.geometry.refcounts_per_block();
        let blocks = (self.reftable.len() as u64).min(clusters.div_ceil(per_block));
        for index in 0..blocks {
            let range = index * per_block..((index + 1) * per_block).min(clusters);
            match self.block(index) {
                Block::Missing => missing(counts, range, action, report, &mut compared),
                Block::Impossible(offset) => {
                    compared.no_block = true;
                    if action == Action::Report {
                        report.check_errors += range.end - range.start;
                        report.find(Finding::BlockUnreadable { index, offset });
                    }
                }
                Block::At(offset) => {
                    self.compare_block(offset, range, counts, action, report, &mut compared)
                        .await?;
                }
            }
        }
        let after = blocks.saturating_mul(per_block).min(clusters)..clusters;
        missing(counts, after, action, report, &mut compared);
        Ok(compared)
    }

    async fn compare_block(
        &self,
        offset: u64,
        range: Range<u64>,
        counts: &Counts,
        action: Action<'_>,
        report: &mut CheckReport,
        compared: &mut Compared,
    ) -> Result<(), Qcow2Error> {
        let per_slice = self.geometry.refcounts_per_slice();
        let slices = (range.start..range.end).step_by(per_slice as usize); // at most 128 Ki
        let places = (offset..).step_by(self.geometry.slice_size() as usize);
        for (first, at) in slices.zip(places) {
            let mut slice = self.slice(at).await?;
            let mut changed = 0;
            let mut unused: Vec<Range<u64>> = Vec::new();
            for (index, cluster) in (first..range.end.min(first + per_slice)).enumerate() {
                let refcount = self.geometry.refcount(&slice, index).unwrap_or(0);
                let references = counts.get(cluster);
                if refcount != 0 || references != 0 {
                    compared.end = compared.end.max(cluster + 1);
                }
                let wanted = match action {
                    Action::Report => refcount != references,
                    Action::Raise => refcount < references,
                    Action::Lower(kept) => refcount > references && !kept.contains(cluster),
                };
                if !wanted {
                    continue;
                }
                if action == Action::Report {
                    differs(report, compared, cluster, refcount, references);
                } else if self
                    .geometry
                    .set_refcount(&mut slice, index, references)
                    .is_some()
                {
                    changed += 1;
                    match unused.last_mut() {
                        _ if references != 0 => {}
                        Some(run) if run.end == cluster => run.end += 1,
                        _ => unused.push(cluster..cluster + 1),
                    }
                }
            }
            if changed != 0 {
                self.source.write(Table::RefcountBlock, at, &slice).await?;
                compared.changed += changed;
                // Nothing led to these clusters before either, so the order of the two writes does not matter.
                let bits = self.geometry.cluster_bits();
                for run in unused {
                    let len = (run.end - run.start) << bits;
                    self.source.punch(run.start << bits, len).await;
                }
            }
        }
        Ok(())
    }
}

/// Clusters whose refcounts are 0 because there is no block.
fn missing(
    counts: &Counts,
    range: Range<u64>,
    action: Action<'_>,
    report: &mut CheckReport,
    compared: &mut Compared,
) {
    for (cluster, references) in counts.used(range) {
        compared.end = compared.end.max(cluster + 1);
        compared.no_block = true;
        if action == Action::Report {
            differs(report, compared, cluster, 0, references);
        }
    }
}

fn differs(
    report: &mut CheckReport,
    compared: &mut Compared,
    cluster: u64,
    refcount: u64,
    references: u64,
) {
    if refcount == 0 {
        compared.zero = true;
    }
    if refcount < references {
        report.corruptions += 1;
        report.find(Finding::Undercounted {
            cluster,
            refcount,
            references,
        });
    } else {
        report.leaks += 1;
        report.find(Finding::Leaked {
            cluster,
            refcount,
            references,
        });
    }
}

impl<'a, 's> ReferenceCounts<'a, 's> {
    /// The refcounts that the walk has come by.
    pub(crate) fn disk_refcounts(&self) -> DiskRefcounts<'a, 's> {
        DiskRefcounts::new(self.source, self.geometry, self.reftable.clone())
    }
}
