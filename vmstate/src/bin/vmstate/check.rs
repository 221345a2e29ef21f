//! `vmstate check`: is an image in order, and can it be put in order.
use crate::args::{CheckArgs, Repair};
use crate::context::Cx;
use crate::failure::Failure;
use crate::graph::{HostFile, Purpose, image_failure};
use crate::human;
use crate::say;
use crate::stdio;
use block_drivers::qcow2::{self, CheckReport, RepairLevel};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::num::NonZeroUsize;

/// The program's exit status, which is qemu-img's.
const CORRUPTIONS: i32 = 2;
const LEAKS: i32 = 3;

pub(crate) fn run(args: &CheckArgs) -> Result<i32, Failure> {
    stdio::stdout_is_open()?;
    let shown = args.file.display().to_string();
    let report = Cx::run(NonZeroUsize::MIN, async |cx| {
        let left = match args.repair {
            Some(_) => "the image is not worse than it was, and can be repaired again",
            None => "no file was changed",
        };
        cx.unless_stopped(&shown, "check", check(cx, args))
            .await
            .map_err(|e| e.leaving(left))
    })?;
    let done = match args.repair {
        None => "no file was changed".to_owned(),
        Some(_) => format!(
            "the repair is over: {} errors and {} leaked clusters were repaired, {} and {} are left",
            report.corruptions_fixed, report.leaks_fixed, report.corruptions, report.leaks
        ),
    };
    match args.output.json {
        true => say::done_on_stdout(json!({ "check": to_json(&shown, &report) }), done)?,
        false => say::done_on_stdout(text(&report).trim_end(), done)?,
    }
    if report.check_errors > 0 {
        let errors = report.check_errors;
        let why = format!("{errors} things could not be checked or repaired");
        return Err(Failure::new(&shown, "check", why));
    }
    Ok(match (report.corruptions, report.leaks) {
        (0, 0) => 0,
        (0, _) => LEAKS,
        _ => CORRUPTIONS,
    })
}

async fn check(cx: &Cx, args: &CheckArgs) -> Result<CheckReport, Failure> {
    let path = &args.file;
    let purpose = match args.repair {
        Some(_) => Purpose::Change,
        None => Purpose::reading(args.force_share),
    };
    let file = HostFile::open(cx, path, path, false, purpose).await?;
    let child = file.attach("check")?;
    let done = match args.repair {
        None => qcow2::check(&child).await,
        Some(Repair::Leaks) => qcow2::repair(&child, RepairLevel::Leaks).await,
        Some(Repair::All) => qcow2::repair(&child, RepairLevel::All).await,
    };
    let report = match done {
        Ok(report) => report,
        Err(error) => return Err(image_failure(cx, path, path, &error).await),
    };
    drop(child);
    if args.repair.is_some() {
        let place = file.check_place(cx, "check").await;
        place.map_err(|e| e.leaving("the repair is complete in the file that was opened"))?;
    }
    file.close().await?;
    Ok(report)
}

/// With qemu-img's names; it leaves out numbers that are 0.
fn to_json(file: &str, report: &CheckReport) -> Value {
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    json!({
        "filename": file,
        "format": "qcow2",
        "check-errors": report.check_errors,
        "corruptions": report.corruptions,
        "leaks": report.leaks,
        "corruptions-fixed": report.corruptions_fixed,
        "leaks-fixed": report.leaks_fixed,
        "image-end-offset": report.image_end_offset,
        "total-clusters": report.total_clusters,
        "allocated-clusters": report.allocated_clusters,
        "fragmented-clusters": report.fragmented_clusters,
        "compressed-clusters": report.compressed_clusters,
        "findings": findings,
    })
}

fn text(report: &CheckReport) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut say = |line: std::fmt::Arguments<'_>| _ = writeln!(text, "{line}");
    for finding in &report.findings {
        say(format_args!("{}", human::line(&finding.to_string())));
    }
    if report.corruptions_fixed > 0 || report.leaks_fixed > 0 {
        let (leaks, errors) = (report.leaks_fixed, report.corruptions_fixed);
        say(format_args!(
            "Repaired: {leaks} leaked clusters, {errors} errors."
        ));
    }
    if report.is_clean() {
        say(format_args!("No errors were found on the image."));
    }
    if report.corruptions > 0 {
        let errors = report.corruptions;
        say(format_args!(
            "{errors} errors were found on the image: its data may be wrong, and writing to it may make it worse."
        ));
    }
    if report.leaks > 0 {
        let leaks = report.leaks;
        say(format_args!(
            "{leaks} leaked clusters were found on the image: they cost space and no data."
        ));
    }
    if report.total_clusters > 0 && report.allocated_clusters > 0 {
        let (allocated, total) = (report.allocated_clusters, report.total_clusters);
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole as f64;
        say(format_args!(
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            percent(allocated, total),
            percent(report.fragmented_clusters, allocated),
            percent(report.compressed_clusters, allocated)
        ));
    }
    let end = report.image_end_offset;
    say(format_args!("Image end offset: {end}"));
    text
}
