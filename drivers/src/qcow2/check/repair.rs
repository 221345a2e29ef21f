//! Putting right what a check finds. QEMU's `qcow2_co_check_locked` with a fix, in an order of our own:
//!
//! 1. Too many snapshots are dropped from the header: their clusters are leaked then, and found as such.
//! 2. Preallocated clusters at impossible places become plain zeroes.
//! 3. Everything is counted. A snapshot table that has to be written anew gets a place past the file's end.
//! 4. Refcounts that are too low are raised; where their structures are not fit to be changed, new ones are built.
//! 5. The new snapshot table is written, and the header leads to it.
//! 6. Refcounts that are too high are lowered.
//! 7. The COPIED flags follow the refcounts.
//! 8. Everything is checked again. If nothing is wrong any more, the dirty and the corrupt bit are cleared.
//!
//! A flush lies between any two of them. After a crash between any two writes no cluster is counted less often than before or than it is
//! used, and no table is lost that was there: the next repair goes on.

use super::count_references::Scope;
use super::counts::Counts;
use super::rebuild::{rebuild, write_tables};
use super::refcounts::{Action, Compared, DiskRefcounts};
use super::reference_counts::ReferenceCounts;
use super::report::CheckReport;
use super::snapshots::Snapshots;
use super::uncounted::Kept;
use super::{RepairLevel, check_file};
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::Geometry;
use crate::qcow2::format::header::features::{autoclear, incompatible};
use crate::qcow2::format::header::{FEATURE_FIELDS_AT, Header};
use crate::qcow2::format::offset::HostOffset;
use crate::qcow2::format::snapshot_table::serialise;
use crate::qcow2::metadata::Source;

/// Checks the image in `source`, repairs it, and checks it again. `header` is as it is on disk before, and after.
pub(crate) async fn repair_file(
    source: &Source<'_>,
    header: &mut Header,
    level: RepairLevel,
) -> Result<CheckReport, Qcow2Error> {
    let found = match level {
        RepairLevel::Leaks => repair_leaks(source, header).await?,
        RepairLevel::All => repair_all(source, header).await?,
    };
    source.flush(Table::Header).await?;
    let mut left = check_file(source, header).await?;
    left.check_errors += found.check_errors;
    left.corruptions_fixed = found.corruptions_fixed;
    left.leaks_fixed = found.leaks_fixed;
    left.needs_rebuild = found.needs_rebuild;
    left.findings = found.findings;
    let wrong = incompatible::DIRTY | incompatible::CORRUPT;
    if left.corruptions == 0 && left.check_errors == 0 && header.incompatible & wrong != 0 {
        let mut new = header.clone();
        new.incompatible &= !wrong;
        new.autoclear &= autoclear::KNOWN;
        let fields = new.feature_fields();
        source
            .write(Table::Header, FEATURE_FIELDS_AT, &fields)
            .await?;
        source.flush(Table::Header).await?;
        *header = new;
    }
    Ok(left)
}

/// Frees what is leaked, and sets the COPIED flags right if nothing else is wrong.
async fn repair_leaks(source: &Source<'_>, header: &Header) -> Result<CheckReport, Qcow2Error> {
    let mut report = CheckReport::default();
    let snapshots = Snapshots::read(source, header, false, &mut report).await?;
    let mut found = ReferenceCounts::of(source, header, &snapshots, Scope::Everything).await?;
    let mut refcounts = found.disk_refcounts();
    let compared = refcounts
        .compare(&found.counts, Action::Report, &mut found.report)
        .await?;
    if found.rebuild || compared.zero || compared.no_block {
        found.report.check_errors += 1;
        found.report.needs_rebuild = true;
    } else {
        hold_kept(&found, &mut refcounts).await?;
        lower(&mut found, &mut refcounts).await?;
        let safe = found.report.is_clean();
        found.check_copied(header, &mut refcounts, safe).await?;
    }
    Ok(with(report, found.report))
}

/// Puts right what can be put right.
async fn repair_all(source: &Source<'_>, header: &mut Header) -> Result<CheckReport, Qcow2Error> {
    let mut report = CheckReport::default();
    let snapshots = Snapshots::read(source, header, true, &mut report).await?;
    if snapshots.overhang != 0 {
        let mut new = header.clone();
        new.snapshots = snapshots.list.len() as u32; // at most 65536
        write_tables(source, &new).await?;
        *header = new;
        report.corruptions_fixed += u64::from(snapshots.overhang);
    }

    let mut found = ReferenceCounts::of(source, header, &snapshots, Scope::Everything).await?;
    if found.misplaced != 0 {
        let fixed = found.fix_entries().await?;
        source.flush(Table::L2).await?;
        report = with(report, found.report);
        report.corruptions = 0; // they are counted again
        report.corruptions_fixed += fixed;
        found = ReferenceCounts::of(source, header, &snapshots, Scope::Everything).await?;
    }

    let mut refcounts = found.disk_refcounts();
    let before = found.report.corruptions;
    let compared = refcounts
        .compare(&found.counts, Action::Report, &mut found.report)
        .await?;
    let undercounted = found.report.corruptions - before;
    let new_table = match snapshots.wrong {
        0 => None,
        _ => Some(NewTable::place(&snapshots, &mut found)?),
    };
    let mut rebuild = found.rebuild || compared.no_block;
    count_kept(&found.kept_for_good(), &mut found.counts)?;
    if !rebuild {
        rebuild = !is_covered(&mut refcounts, &found.counts).await?;
    }
    if rebuild {
        found = build_anew(source, header, &snapshots, new_table.as_ref(), found).await?;
        refcounts = DiskRefcounts::new(source, header.geometry, found.reftable.clone());
    } else {
        let raised = raise(&mut found, &mut refcounts).await?;
        // Those of the new snapshot table were not wrong.
        let fixed = raised.changed.min(undercounted);
        found.report.corruptions_fixed += fixed;
        found.report.corruptions -= fixed;
    }

    if let Some(table) = new_table {
        table.write(source, header, &mut found).await?;
        found.report.corruptions_fixed += snapshots.wrong;
    }
    lower(&mut found, &mut refcounts).await?;
    found.check_copied(header, &mut refcounts, true).await?;
    Ok(with(report, found.report))
}

/// How many bytes past the file's end are looked after, besides as many as it has.
const NEAR: u64 = 64 << 20;

/// Clusters that are kept are counted, if nothing else counts them: they must not be free. Far past the file's end they are left alone, since
/// the file does not get there soon.
fn count_kept(kept: &Kept, counts: &mut Counts) -> Result<(), Qcow2Error> {
    let near = counts.clusters().saturating_mul(2);
    let near = near.saturating_add(counts.clusters_for(NEAR));
    for cluster in kept.clusters_to(near.min(counts.max_clusters())) {
        if counts.get(cluster) == 0 {
            counts.add(cluster, 1)?;
        }
    }
    Ok(())
}

/// Of the refcounts only those of kept clusters are raised: nothing else may be put there.
async fn hold_kept(
    found: &ReferenceCounts<'_, '_>,
    refcounts: &mut DiskRefcounts<'_, '_>,
) -> Result<(), Qcow2Error> {
    let mut counts = Counts::new(found.geometry, found.counts.clusters());
    count_kept(&found.kept_for_good(), &mut counts)?;
    let mut nothing = CheckReport::default();
    refcounts
        .compare(&counts, Action::Raise, &mut nothing)
        .await?;
    found.source.flush(Table::RefcountBlock).await
}

/// Refcounts that are too low are raised, and stable.
async fn raise(
    found: &mut ReferenceCounts<'_, '_>,
    refcounts: &mut DiskRefcounts<'_, '_>,
) -> Result<Compared, Qcow2Error> {
    let raised = refcounts
        .compare(&found.counts, Action::Raise, &mut found.report)
        .await?;
    found.source.flush(Table::RefcountBlock).await?;
    Ok(raised)
}

/// Refcounts that are too high are lowered, and stable. What leads to the clusters no more was stable before.
async fn lower(
    found: &mut ReferenceCounts<'_, '_>,
    refcounts: &mut DiskRefcounts<'_, '_>,
) -> Result<(), Qcow2Error> {
    let kept = found.kept();
    let lowered = refcounts
        .compare(&found.counts, Action::Lower(&kept), &mut found.report)
        .await?;
    found.source.flush(Table::RefcountBlock).await?;
    let fixed = lowered.changed.min(found.report.leaks);
    found.report.leaks -= fixed;
    found.report.leaks_fixed += fixed;
    Ok(())
}

/// Every cluster that is used has a refcount block.
async fn is_covered(
    refcounts: &mut DiskRefcounts<'_, '_>,
    counts: &Counts,
) -> Result<bool, Qcow2Error> {
    let mut nothing = CheckReport::default();
    let compared = refcounts
        .compare(counts, Action::Report, &mut nothing)
        .await?;
    Ok(!compared.no_block)
}

/// Counts everything but the refcounts, builds these anew, and returns a walk that has counted them too. `before`: what was found so far.
async fn build_anew<'a, 's>(
    source: &'s Source<'a>,
    header: &mut Header,
    snapshots: &Snapshots,
    new_table: Option<&NewTable>,
    before: ReferenceCounts<'a, 's>,
) -> Result<ReferenceCounts<'a, 's>, Qcow2Error> {
    let mut found = ReferenceCounts::of(source, header, snapshots, Scope::WithoutRefcounts).await?;
    if let Some(table) = new_table {
        table.count(&mut found.counts)?;
    }
    let end = found.counts.clusters();
    count_kept(&found.kept_for_good(), &mut found.counts)?;
    // Not where the old structures should be either: a crash must not make others of them.
    found.keep_also(&before);
    let before = before.report;
    let kept = found.kept();
    rebuild(source, header, &mut found.counts, end, &kept).await?;
    let mut found = ReferenceCounts::of(source, header, snapshots, Scope::Everything).await?;
    if let Some(table) = new_table {
        table.count(&mut found.counts)?;
    }
    // What the old structures had wrong is put right; what the new walk finds was found before.
    let fixed = before.corruptions.saturating_sub(found.report.corruptions);
    found.report.corruptions_fixed = before.corruptions_fixed + fixed;
    found.report.leaks_fixed = before.leaks_fixed + before.leaks;
    found.report.findings = before.findings;
    Ok(found)
}

/// A snapshot table that is to be written past the file's end.
struct NewTable {
    geometry: Geometry,
    bytes: Vec<u8>,
    first: u64,
    snapshots: u32,
}

impl NewTable {
    /// Takes the clusters past everything that was counted, and counts them.
    fn place(
        snapshots: &Snapshots,
        found: &mut ReferenceCounts<'_, '_>,
    ) -> Result<Self, Qcow2Error> {
        let bytes = serialise(&snapshots.list)?;
        let clusters = found.geometry.clusters_for(bytes.len() as u64);
        let table = Self {
            geometry: found.geometry,
            bytes,
            first: found.free_from(clusters),
            snapshots: snapshots.list.len() as u32, // at most 65536
        };
        table.count(&mut found.counts)?;
        Ok(table)
    }

    fn count(&self, counts: &mut Counts) -> Result<(), Qcow2Error> {
        let clusters = self.geometry.clusters_for(self.bytes.len() as u64);
        for cluster in self.first..self.first + clusters {
            counts.add(cluster, 1)?;
        }
        Ok(())
    }

    /// Writes the table, makes the header lead to it, and counts the old one no more. Its clusters have their refcounts on disk.
    async fn write(
        self,
        source: &Source<'_>,
        header: &mut Header,
        found: &mut ReferenceCounts<'_, '_>,
    ) -> Result<(), Qcow2Error> {
        let at = self.first * self.geometry.cluster_size();
        source.write(Table::SnapshotTable, at, &self.bytes).await?;
        let mut new = header.clone();
        new.snapshots = self.snapshots;
        new.snapshots_offset = HostOffset(at);
        write_tables(source, &new).await?;
        *header = new;
        found.release_snapshot_table()
    }
}

/// The findings of `first`, then those of `second`, and the sums of their numbers.
fn with(first: CheckReport, second: CheckReport) -> CheckReport {
    let mut findings = first.findings;
    findings.extend(second.findings);
    findings.truncate(super::report::MAX_FINDINGS);
    CheckReport {
        corruptions: first.corruptions + second.corruptions,
        leaks: first.leaks + second.leaks,
        check_errors: first.check_errors + second.check_errors,
        corruptions_fixed: first.corruptions_fixed + second.corruptions_fixed,
        leaks_fixed: first.leaks_fixed + second.leaks_fixed,
        findings,
        ..second
    }
}
