//! Our check and repair of qcow2 images against QEMU's.
//!
//! QEMU's tools make images with everything that the format has; a test damages them byte by byte. Our check must say what `qemu-img check`
//! says, number by number, and what we repair must be in order for it, with the guest's data that its own repair keeps.

mod crash;
mod damage;
mod images;
mod ours;
mod theirs;

use block_drivers::qcow2::RepairLevel;
use damage::{DAMAGES, Image};
use ours::Ours;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tests::files::disk_folder;
use tests::tools::{self, Need};
use theirs::Numbers;

const NEEDS: &[Need] = &[Need::Tool("qemu-img"), Need::Tool("qemu-io")];

/// How many single bits are flipped in each image. `QCOW2_CHECK_SEEDS=n` or `from..to` asks for others; among these may be images whose
/// tables lie upon each other, so that lowering a refcount changes another table, and in which order that is done matters.
const SEEDS: u64 = 6;

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (name, recipe) in images::RECIPES {
        trials.push(tools::trial(
            format!("check and repair do what QEMU's do: {name}"),
            NEEDS,
            move || Bench::new(*recipe).run(),
        ));
    }
    for (name, recipe) in images::RECIPES {
        if *name == "clusters of 2 MiB" {
            continue; // each of a thousand crashes copies all of it
        }
        trials.push(tools::trial(
            format!("a crash in a repair makes nothing worse: {name}"),
            NEEDS,
            move || Bench::new(*recipe).crash(),
        ));
    }
    tools::main(trials)
}

/// An image that is damaged in every way.
struct Bench {
    folder: tempfile::TempDir,
    image: PathBuf,
    ours: Ours,
}

impl Bench {
    fn new(recipe: images::Recipe) -> Self {
        let folder = disk_folder();
        let image = recipe(folder.path());
        Self {
            image,
            folder,
            ours: Ours::new(),
        }
    }

    fn run(&self) {
        let whole = fs::read(&self.image).expect("the image");
        let mut wrong = Vec::new();
        let mut compared = 0;
        let mut one = |what: &str, bytes: &[u8]| match self.compare(bytes) {
            Ok(told) => compared += u32::from(told),
            Err(words) => wrong.push(format!("{what}: {words}")),
        };
        for (what, damage) in DAMAGES {
            let mut image = Image::new(whole.clone());
            if damage(&mut image) {
                one(what, &image.bytes);
            }
        }
        for seed in seeds() {
            let mut image = Image::new(whole.clone());
            image.flip_somewhere(seed);
            one(&format!("seed {seed}"), &image.bytes);
        }
        assert!(
            wrong.is_empty(),
            "{} differ:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        assert!(
            compared > 20,
            "QEMU told numbers for {compared} images only"
        );
    }

    fn crash(&self) {
        let whole = fs::read(&self.image).expect("the image");
        let (mut wrong, mut crashes) = (Vec::new(), 0);
        for (what, damage) in DAMAGES {
            let mut image = Image::new(whole.clone());
            if !damage(&mut image) {
                continue;
            }
            for level in [RepairLevel::Leaks, RepairLevel::All] {
                match crash::cut_everywhere(&image.bytes, level) {
                    Ok(tried) => crashes += tried,
                    Err(words) => wrong.push(format!("{what}, {level:?}: {words}")),
                }
            }
        }
        assert!(
            wrong.is_empty(),
            "{} are worse:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        assert!(crashes > 100, "only {crashes} crashes were tried");
    }

    /// Checks and repairs an image of these bytes. Whether QEMU had numbers for it; else, in words, what is wrong.
    fn compare(&self, bytes: &[u8]) -> Result<bool, String> {
        let [a, b] = ["ours", "theirs"].map(|name| self.folder.path().join(name));
        let fresh = |at: &Path| fs::write(at, bytes).expect("a copy");
        fresh(&a);
        if let Some(keep) = std::env::var_os("QCOW2_CHECK_KEEP") {
            fresh(Path::new(&keep));
        }
        let before = theirs::check(&a);
        let found = self.ours.check(&a);
        if fs::read(&a).expect("the image") != bytes {
            return Err("the check has changed the image".into());
        }
        match (&before, &found) {
            (Some(expected), Ok(report)) if *expected == Numbers::from(report) => {}
            (Some(expected), found) => {
                return Err(format!("check: theirs {expected:?}\n  ours {found:?}"));
            }
            // What QEMU's check gives up may be no clean image for us either. It opens fewer images than we check.
            (None, Ok(report)) if report.is_clean() && theirs::opens(&a) => {
                return Err("check: QEMU gives up, and we find nothing".into());
            }
            (None, _) => {}
        }
        for level in [RepairLevel::Leaks, RepairLevel::All] {
            fresh(&a);
            fresh(&b);
            let expected = theirs::repair(&b, level);
            let report = self.ours.repair(&a, level);
            let left = theirs::check(&a);
            let again = self.ours.check(&a);
            let words = format!(
                "repair of {level:?}: theirs leaves {expected:?}\n  ours {report:?}\n  which leaves {left:?}"
            );
            if let (Ok(report), Some(left)) = (&report, &left)
                && (report.corruptions, report.leaks) != (left.corruptions, left.leaks)
            {
                return Err(format!("what our repair says is not so: {words}"));
            }
            if let (Ok(again), Some(left)) = (&again, &left)
                && Numbers::from(again) != *left
            {
                return Err(format!("our check of our repair: {again:?}: {words}"));
            }
            let Some(expected) = expected else {
                continue;
            };
            // With refcounts of 1 bit we see more often than QEMU that they are not fit to be changed.
            let refused = report.is_ok_and(|report| report.needs_rebuild);
            if level == RepairLevel::Leaks && refused {
                continue;
            }
            // What a damaged entry leads to is freed by QEMU and kept in use by us: more leaks, and fewer clusters without a reference.
            let kept = left.is_some_and(|left| {
                let leaks = left.leaks.min(expected.leaks);
                let corruptions = left.corruptions.max(expected.corruptions);
                let same = Numbers {
                    leaks,
                    corruptions,
                    ..left
                };
                left.corruptions > 0 && same == expected
            });
            if level == RepairLevel::Leaks && left != Some(expected) && !kept {
                return Err(words);
            }
            if !expected.is_clean() {
                continue; // what QEMU cannot repair
            }
            if !left.is_some_and(|left| left.is_clean()) {
                return Err(words);
            }
            if theirs::same_content(&a, &b) == Some(false) {
                return Err(format!("other content: {words}"));
            }
        }
        Ok(before.is_some())
    }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(asked) = std::env::var("QCOW2_CHECK_SEEDS") else {
        return 0..SEEDS;
    };
    match asked.split_once("..") {
        Some((from, to)) => from.parse().expect("a number")..to.parse().expect("a number"),
        None => 0..asked.parse().expect("a number"),
    }
}
