//! The machine stops, at any moment of an operation, with any part of what was not flushed on the disk: our check finds leaked clusters
//! and COPIED flags that are not exact, and nothing else; each older snapshot, each flushed byte of the guest and each recorded state is
//! there, byte for byte; and the snapshots are those from before or those from after.

use crate::support::{Bench, Image, Random, pattern};
use crate::world::{ACTIONS, Action, IMAGES, World, cluster_of};
use block_core::Op;
use block_core::test_disk::Keep;
use block_drivers::qcow2::{CheckReport, Finding, Qcow2Options, RepairLevel, repair};
use std::cell::RefCell;
use std::rc::Rc;

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
fn is_harmless(report: &CheckReport) -> bool {
    let harmless =
        |finding: &Finding| matches!(finding, Finding::Leaked { .. } | Finding::Copied { .. });
    report.check_errors == 0 && report.findings.iter().all(harmless)
}

/// The disk as a crash may leave it: of each write that was not flushed all, nothing, or some sectors.
fn crashed(image: &Image, random: &mut Random) -> Vec<u8> {
    let style = random.below(4);
    image.control.contents_after_crash(|record| match style {
        0 => Keep::Nothing,
        1 => Keep::All,
        _ => match random.below(3) {
            0 => Keep::Nothing,
            1 => Keep::All,
            _ if record.op == Op::Write && record.len > 512 => {
                let sectors = record.len.div_ceil(512);
                let from = random.below(sectors);
                let to = from + 1 + random.below(sectors - from);
                Keep::Part(from * 512..to * 512)
            }
            _ => Keep::Nothing,
        },
    })
}

async fn difference(bench: &Bench, bytes: &[u8], world: &World) -> Option<String> {
    let options = Qcow2Options {
        read_only: true,
        ..Qcow2Options::default()
    };
    let image = bench.open_with(bytes, options).await;
    world.difference(&image).await
}

async fn judge(
    bench: &Bench,
    bytes: &[u8],
    (before, after): (&World, &World),
    what: &str,
    seen: &mut Seen,
) {
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

/// One action with all of its requests held and released in any order, and a crash now and then.
fn crashes_during(
    bench: &Bench,
    (bytes, world): &(Vec<u8>, World),
    pairs: &str,
    action: Action,
    seed: u64,
    seen: &mut Seen,
) {
    let mut random = Random::new(seed);
    let mut before = world.clone();
    let state = pattern(seed, 2 * cluster_of(pairs) + 99);
    let image = bench.run(async {
        let options = Qcow2Options {
            l2_cache: 1,
            refcount_cache: 1,
            ..Qcow2Options::default()
        };
        let image = bench.open_with(bytes, options).await;
        image.control.track_crashes();
        before.write(&image, &mut random, cluster_of(pairs)).await;
        image.node.flush().await.expect("flushed");
        if action.needs_state() {
            image.save_state(&state).await.expect("saved");
        }
        image
    });
    let after = before.after(action, &state);
    let image = Rc::new(image);
    image.control.hold_all();
    let result = Rc::new(RefCell::new(None));
    let task = bench.handle().spawn({
        let (image, before, result) = (image.clone(), before.clone(), result.clone());
        async move {
            let done = action.run(&image, &before).await;
            *result.borrow_mut() = Some(done);
        }
    });
    let mut step = 0;
    loop {
        bench.go_on();
        if random.below(4) == 0 {
            let disk = crashed(&image, &mut random);
            let what = format!("{pairs}: {action:?}, seed {seed}, step {step}");
            bench.run(judge(bench, &disk, (&before, &after), &what, seen));
        }
        if let Some(done) = result.borrow_mut().take() {
            done.expect("done");
            break;
        }
        let held = image.control.held();
        let pick = random.below(held.len() as u64) as usize;
        let picked = held.get(pick).expect("it waits for the disk");
        image.control.release(picked.id);
        step += 1;
    }
    drop(task);
    // What it said is stable.
    let disk = image.control.contents_after_crash(|_| false);
    let what = format!("{pairs}: {action:?}, seed {seed}, done");
    let mut last = Seen::default();
    bench.run(judge(bench, &disk, (&after, &after), &what, &mut last));
    image.control.stop_holding();
}

#[test]
fn a_crash_at_any_moment_leaves_the_old_snapshots_or_the_new_ones_and_leaks_at_worst() {
    let bench = Bench::new();
    let mut seen = Seen::default();
    for pairs in IMAGES {
        let base = bench.run(World::build(&bench, pairs));
        for action in ACTIONS {
            for seed in 1..=6 {
                crashes_during(&bench, &base, pairs, action, seed, &mut seen);
            }
        }
    }
    assert!(seen.crashes > 300 && seen.old > 100 && seen.new > 50);
    assert!(seen.leaked > 50 && seen.copied > 5);
}
