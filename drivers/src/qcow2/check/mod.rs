//! Checking and repairing an image: what `qemu-img check` does, with its numbers.
//!
//! 1. [`check`] reads the header, and from there every table (`count_references`): the active L1 table, the snapshots', the L2 tables, the bitmaps, the
//!    refcount table. It counts how often each cluster of the file is used (`counts`).
//! 2. It compares the counts with the refcounts on disk (`refcounts`), and the COPIED flags with these (`copied`).
//! 3. [`repair()`] puts right what is wrong, in an order in which a crash makes nothing worse (`repair`, `rebuild`).
//!
//! The image must not be in use by anybody else meanwhile. An external data file and backing files are not looked at.
//!
//! Memory: one L2 table, the refcount table, what is counted (as much as the refcount blocks of the clusters in use), and a few numbers for
//! each L2 table and snapshot. Work: the tables, each read once or twice. Both are bounded by the file's length, whatever is in it.

mod bitmaps;
mod copied;
mod count_references;
mod counts;
mod l2;
mod rebuild;
mod refcounts;
mod reference_counts;
mod repair;
mod report;
mod snapshots;
mod uncounted;

pub use report::{CheckReport, Finding, MAX_FINDINGS};

use self::count_references::Scope;
use self::refcounts::Action;
use self::reference_counts::ReferenceCounts;
use self::snapshots::Snapshots;
use crate::qcow2::format::error::Qcow2Error;
use crate::qcow2::format::header::features::autoclear;
use crate::qcow2::format::header::{AUTOCLEAR_AT, Header, Purpose};
use crate::qcow2::metadata::Source;
use block_core::BlockChild;

/// What a repair may touch; `qemu-img check -r`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairLevel {
    /// Leaked clusters are freed, and COPIED flags set right where nothing else is wrong. Clusters that only a broken entry leads to count as
    /// leaked, as in QEMU: of an image with corruptions a copy should be kept.
    Leaks,
    /// Everything that can be put right is. Where an image contradicts itself this may choose wrong.
    All,
}

/// Checks the image in `file`. Nothing is written. `qemu-img check`.
///
/// Errors: the image is no qcow2 image, or so broken that it cannot be said what it uses, or it could not be read. What is wrong otherwise
/// is in the report. Dropped: nothing is left.
pub async fn check(file: &BlockChild) -> Result<CheckReport, Qcow2Error> {
    let source = Source::new(file).await?;
    let header = Header::read(&source, Purpose::Check).await?;
    check_file(&source, &header).await
}

/// Checks the image in `file`, puts right what `level` says, and checks again. `qemu-img check -r`.
///
/// The report has what is wrong afterwards, how much was put right, and the findings from before. Needs "write" and "resize" on `file`.
///
/// Errors: as [`check`]; what could not be written. Dropped, failed or cut by a crash: the image is not worse than before, and may be
/// repaired again.
pub async fn repair(file: &BlockChild, level: RepairLevel) -> Result<CheckReport, Qcow2Error> {
    let source = Source::new(file).await?;
    let mut header = Header::read(&source, Purpose::Check).await?;
    repair_opened(&source, &mut header, level).await
}

/// [`repair()`] of an image whose header has been read, as it is on disk. It is up to date afterwards: tables may have moved, and the dirty
/// and corrupt bits are cleared if the image is in order.
///
/// For an open that finds the dirty bit: with [`RepairLevel::All`], and no open if the report has check errors.
pub(crate) async fn repair_opened(
    source: &Source<'_>,
    header: &mut Header,
    level: RepairLevel,
) -> Result<CheckReport, Qcow2Error> {
    // Who writes to an image clears the autoclear features that he does not keep up to date.
    let known = header.autoclear & autoclear::KNOWN;
    if known != header.autoclear {
        source.write_first(AUTOCLEAR_AT, known.to_be_bytes());
    }
    let repaired = repair::repair_file(source, header, level).await;
    if source.first_is_written() {
        header.autoclear = known;
    }
    repaired
}

/// Looks at everything once.
async fn check_file(source: &Source<'_>, header: &Header) -> Result<CheckReport, Qcow2Error> {
    let mut report = report::CheckReport::default();
    let snapshots = Snapshots::read(source, header, false, &mut report).await?;
    let mut found = ReferenceCounts::of(source, header, &snapshots, Scope::Everything).await?;
    let mut refcounts = found.disk_refcounts();
    let compared = refcounts
        .compare(&found.counts, Action::Report, &mut found.report)
        .await?;
    found.check_copied(header, &mut refcounts, false).await?;
    report.findings.append(&mut found.report.findings);
    report.findings.truncate(MAX_FINDINGS);
    Ok(CheckReport {
        corruptions: found.report.corruptions + snapshots.wrong,
        image_end_offset: compared
            .end
            .max(1)
            .saturating_mul(header.geometry.cluster_size()),
        findings: report.findings,
        ..found.report
    })
}
