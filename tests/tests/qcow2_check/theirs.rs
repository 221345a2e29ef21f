//! QEMU's check and repair, by `qemu-img`.

use block_drivers::qcow2::{CheckReport, RepairLevel};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// The numbers of a report that both sides print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) corruptions: u64,
    pub(super) leaks: u64,
    pub(super) check_errors: u64,
    pub(super) image_end_offset: u64,
    pub(super) total_clusters: u64,
    pub(super) allocated_clusters: u64,
    pub(super) fragmented_clusters: u64,
    pub(super) compressed_clusters: u64,
}

impl Numbers {
    pub(super) fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0 && self.check_errors == 0
    }
}

impl From<&CheckReport> for Numbers {
    fn from(report: &CheckReport) -> Self {
        Self {
            corruptions: report.corruptions,
            leaks: report.leaks,
            check_errors: report.check_errors,
            image_end_offset: report.image_end_offset,
            total_clusters: report.total_clusters,
            allocated_clusters: report.allocated_clusters,
            fragmented_clusters: report.fragmented_clusters,
            compressed_clusters: report.compressed_clusters,
        }
    }
}

/// What a tool of QEMU's says, whatever its exit status.
pub(super) fn run(tool: &str, args: &[&str]) -> Output {
    Command::new(tool).args(args).output().expect("it starts")
}

/// Runs a tool of QEMU's, which must succeed.
pub(super) fn must(tool: &str, args: &[&str]) {
    let out = run(tool, args);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{tool} {args:?}: {said}");
}

/// `qemu-img check`. `None` where it gives up, or crashes, and prints no numbers.
pub(super) fn check(image: &Path) -> Option<Numbers> {
    report(image, &[])
}

/// `qemu-img check -r`; the numbers are of the check that follows.
pub(super) fn repair(image: &Path, level: RepairLevel) -> Option<Numbers> {
    let level = match level {
        RepairLevel::Leaks => "leaks",
        RepairLevel::All => "all",
    };
    report(image, &["-r", level])
}

fn report(image: &Path, more: &[&str]) -> Option<Numbers> {
    let image = image.to_str().expect("a plain name");
    let args = [&["check", "--output=json", "-f", "qcow2"], more, &[image]].concat();
    let out = run("qemu-img", &args);
    let json: Value = serde_json::from_slice(&out.stdout).ok()?;
    let number = |key: &str| json[key].as_u64().unwrap_or(0);
    Some(Numbers {
        corruptions: number("corruptions"),
        leaks: number("leaks"),
        check_errors: number("check-errors"),
        image_end_offset: number("image-end-offset"),
        total_clusters: number("total-clusters"),
        allocated_clusters: number("allocated-clusters"),
        fragmented_clusters: number("fragmented-clusters"),
        compressed_clusters: number("compressed-clusters"),
    })
}

/// Whether QEMU opens the image for writing.
pub(super) fn opens(image: &Path) -> bool {
    let image = image.to_str().expect("a plain name");
    let args = ["-f", "qcow2", "-c", "quit", image];
    run("qemu-io", &args).status.success()
}

/// Whether both images read the same; `None` where one of them cannot be read.
pub(super) fn same_content(a: &Path, b: &Path) -> Option<bool> {
    let (a, b) = (a.to_str().expect("plain"), b.to_str().expect("plain"));
    let out = run("qemu-img", &["compare", "-f", "qcow2", "-F", "qcow2", a, b]);
    match out.status.code() {
        Some(0) => Some(true),
        Some(1) => Some(false),
        _ => None,
    }
}
