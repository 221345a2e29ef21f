//! qcow2 images of every kind that qemu-img can make, written by us and by QEMU in turn: `qemu-img check` finds nothing, both read the
//! same bytes, which are an array's, and both say the same of what is where.

mod case;
mod disk;
mod gaps;
mod snapshots;
mod spec;

use std::panic::catch_unwind;
use std::process::ExitCode;

use libtest_mimic::Trial;
use tests::images::Images;
use tests::tools::{self, Need};

use case::Case;
use spec::Spec;

const NEEDS: [Need; 2] = [Need::Tool("qemu-img"), Need::Tool("qemu-io")];
/// So many images are judged at least.
const ENOUGH: usize = 150;
/// Of one trial, so that several run at once.
const AT_ONCE: usize = 16;

fn main() -> ExitCode {
    let groups = spec::groups();
    let all: usize = groups.iter().map(|(_, specs)| specs.len()).sum();
    assert!(all >= ENOUGH, "{all} images");
    let mut trials: Vec<Trial> = Vec::new();
    for (what, specs) in groups {
        let parts = specs.len().div_ceil(AT_ONCE);
        for (part, specs) in specs.chunks(AT_ONCE).enumerate() {
            let count = specs.len();
            let which = if parts > 1 {
                format!(", part {}", part + 1)
            } else {
                String::new()
            };
            let name = format!("{count} images {what} are the same for qemu-img and for us{which}");
            let specs = specs.to_vec();
            let seed = trials.len() as u64;
            trials.push(tools::trial(name, &NEEDS, move || judge(&specs, seed)));
        }
    }
    trials.push(tools::trial(
        "gaps of a state that we save over a backing file are zeroes for QEMU",
        &NEEDS,
        gaps::saved_by_us,
    ));
    trials.push(tools::trial(
        "gaps of a state that QEMU writes over a backing file read as QEMU reads them",
        &NEEDS,
        gaps::saved_by_qemu,
    ));
    tools::main(trials)
}

/// All are judged, whatever becomes of the first.
fn judge(specs: &[Spec], seed: u64) {
    let mut failed = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let seed = seed << 16 | i as u64;
        let judged = catch_unwind(|| {
            let images = Images::new();
            let mut case = Case::new(*spec, seed, &images);
            case.is_the_same_for_both();
            if spec.snapshots {
                case.snapshots_are_the_same_for_both();
            }
        });
        if judged.is_err() {
            failed.push(spec.to_string());
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} images: {failed:#?}",
        failed.len(),
        specs.len()
    );
}
