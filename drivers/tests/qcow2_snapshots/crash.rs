//! The machine stops, at any moment of an operation, with any part of what was not flushed on the disk: our check finds leaked clusters
//! and COPIED flags that are not exact, and nothing else; each older snapshot, each flushed byte of the guest and each recorded state is
//! there, byte for byte; and the snapshots are those from before or those from after.

use crate::moments::{Crash, moments};
use crate::support::Bench;
use crate::world::{ACTIONS, Action, IMAGES, World};
use block_drivers::qcow2::{CheckReport, Finding, Qcow2Options, RepairLevel, repair};

/// How many crashes showed what; so that the test can tell that it did not pass idle.
#[derive(Debug, Default)]
struct Seen {
    crashes: u32,
    old: u32,
    new: u32,
    leaked: u32,
    copied: u32,
}

/// What a crash may leave of what a check reports. Of many findings the report has the first ones.
pub(crate) fn is_harmless(report: &CheckReport) -> bool {
    let harmless =
        |finding: &Finding| matches!(finding, Finding::Leaked { .. } | Finding::Copied { .. });
    report.check_errors == 0 && report.findings.iter().all(harmless)
}

async fn difference(bench: &Bench, bytes: &[u8], world: &World) -> Option<String> {
    let options = Qcow2Options {
        read_only: true,
        ..Qcow2Options::default()
    };
    let image = bench.open_with(bytes, options).await;
    world.difference(&image).await
}

async fn judge(bench: &Bench, crash: Crash<'_>, seen: &mut Seen) {
    let Crash {
        disk: bytes,
        before,
        after,
        when: what,
    } = crash;
    let report = bench.check(bytes).await;
    assert!(is_harmless(&report), "{what}: {report:?}");
    let old = difference(bench, bytes, before).await;
    let new = difference(bench, bytes, after).await;
    assert!(
        old.is_none() || new.is_none(),
        "{what}: neither the old world ({old:?}) nor the new ({new:?})"
    );
    // Whatever is wrong is gone when the leaks are, and with them nothing else.
    let (child, control) = bench.file(bytes).await;
    let repaired = repair(&child, RepairLevel::Leaks).await.expect("repaired");
    assert!(repaired.is_clean(), "{what}: {report:?}, then {repaired:?}");
    let expected = if old.is_none() { before } else { after };
    let repaired = difference(bench, &control.contents(), expected).await;
    assert_eq!(repaired, None, "{what}, repaired");
    seen.crashes += 1;
    seen.old += u32::from(old.is_none());
    seen.new += u32::from(old.is_some());
    seen.leaked += u32::from(report.leaks > 0);
    seen.copied += u32::from(report.corruptions > 0);
}

#[test]
fn a_crash_at_any_moment_leaves_the_old_snapshots_or_the_new_ones_and_leaks_at_worst() {
    let bench = Bench::new();
    let mut seen = Seen::default();
    for pairs in IMAGES {
        let base = bench.run(World::build(&bench, pairs));
        // A version 2 image with snapshots keeps its length.
        let resizes = match pairs.contains("compat=0.10") {
            true => &[][..],
            false => &[Action::Grow, Action::Shrink],
        };
        for action in ACTIONS.iter().chain(resizes).copied() {
            for seed in 1..=6 {
                moments(&bench, &base, pairs, action, (seed, 4), |crash| {
                    bench.run(judge(&bench, crash, &mut seen));
                });
            }
        }
    }
    assert!(seen.crashes > 300 && seen.old > 100 && seen.new > 50);
    assert!(seen.leaked > 50 && seen.copied > 5);
}
