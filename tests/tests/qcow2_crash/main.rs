//! What a crash leaves of an image in the middle of a snapshot operation, judged by qemu-img.
//!
//! On a copy of the file, `qemu-img check -r leaks` ends well, and a second check finds nothing; the older snapshots, the disk and the state
//! are there byte for byte, before (read by us) and after (read by qemu-img, the states by us). The images are ours and qemu-img's, with
//! compressed clusters, too; the crashes are those of the driver's own tests.

#[path = "../../../drivers/tests/qcow2_snapshots/moments.rs"]
mod moments; // when the machine may stop
#[path = "../../../drivers/tests/qcow2_snapshots/support.rs"]
#[allow(dead_code, reason = "the driver's tests use all of it")]
mod support;
#[path = "../../../drivers/tests/qcow2_snapshots/world.rs"]
#[allow(dead_code, reason = "the driver's tests use all of it")]
mod world; // what an image must say

use self::moments::{Crash, moments};
use self::support::{Bench, Random, pattern};
use self::world::{ACTIONS, Action, Kept, World, cluster_of};
use block_drivers::qcow2::Qcow2Options;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use tempfile::TempDir;
use tests::files::disk_folder;
use tests::tools::{self, Need};

const NEEDS: &[Need] = &[Need::Tool("qemu-img"), Need::Tool("qemu-io")];

/// Images that we make.
const OURS: [&str; 4] = [
    "size=96k,cluster_size=512,refcount_bits=64",
    "size=1M,cluster_size=4096",
    "size=1M,cluster_size=16384,extended_l2=on",
    "size=256k,cluster_size=1024,compat=0.10",
];

/// Images that qemu-img makes, of compressed data.
const THEIRS: [&str; 4] = [
    "cluster_size=4096,refcount_bits=8",
    "cluster_size=65536,compression_type=zstd",
    "cluster_size=2048,compat=0.10",
    "cluster_size=32768,extended_l2=on",
];

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for pairs in OURS {
        let run = move || judge_all(pairs, |bench, _| bench.run(World::build(bench, pairs)));
        trials.push(tools::trial(
            format!("crashes of our image {pairs}"),
            NEEDS,
            run,
        ));
    }
    for pairs in THEIRS {
        let run = move || judge_all(pairs, |_, judge| judge.made_by_qemu(pairs));
        trials.push(tools::trial(
            format!("crashes of qemu-img's image {pairs}"),
            NEEDS,
            run,
        ));
    }
    tools::main(trials)
}

/// Each action on an image, stopped now and then.
fn judge_all(pairs: &str, build: impl FnOnce(&Bench, &Judge) -> (Vec<u8>, World)) {
    let bench = Bench::new();
    let judge = Judge::new();
    let base = build(&bench, &judge);
    for (number, action) in ACTIONS.into_iter().enumerate() {
        moments(
            &bench,
            &base,
            pairs,
            action,
            (number as u64 + 1, rarely(action)),
            |crash| judge.one(&bench, &crash),
        );
    }
    let (crashes, damaged) = (judge.crashes.get(), judge.damaged.get());
    assert!(crashes > 20, "only {crashes} crashes");
    assert!(
        damaged > 5,
        "only {damaged} of them had something to repair"
    );
}

/// One moment in how many is judged: an action with a state has more of them.
fn rarely(action: Action) -> u64 {
    match action.needs_state() {
        true => 8,
        false => 4,
    }
}

/// qemu-img, and the files that it judges.
struct Judge {
    folder: TempDir,
    crashes: Cell<u32>,
    damaged: Cell<u32>,
}

impl Judge {
    fn new() -> Self {
        Self {
            folder: disk_folder(),
            crashes: Cell::new(0),
            damaged: Cell::new(0),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn one(&self, bench: &Bench, crash: &Crash<'_>) {
        let Crash {
            disk,
            before,
            after,
            when,
        } = crash;
        let is_old = difference(bench, disk, before).is_none();
        let expected = if is_old { before } else { after };
        assert_eq!(difference(bench, disk, expected), None, "{when}");
        let image = self.path("image.qcow2");
        fs::write(&image, disk).expect("written");

        let found = qemu_img(&["check"], &image);
        self.crashes.set(self.crashes.get() + 1);
        self.damaged
            .set(self.damaged.get() + u32::from(!found.is_good()));
        let repaired = qemu_img(&["check", "-r", "leaks"], &image);
        assert!(repaired.is_good(), "{when}: {}", repaired.text);
        let again = qemu_img(&["check"], &image);
        assert!(again.is_good(), "{when}: {}", again.text);

        assert!(self.raw(&image, None) == expected.disk, "{when}: the disk");
        for kept in &expected.snapshots {
            let disk = self.raw(&image, Some(&kept.name));
            assert!(disk == kept.disk, "{when}: the disk of {}", kept.name);
        }
        let repaired = fs::read(&image).expect("the file");
        assert_eq!(difference(bench, &repaired, expected), None, "{when}");
    }

    /// The bytes of the disk, or of a snapshot's, as qemu-img reads them.
    fn raw(&self, image: &Path, snapshot: Option<&str>) -> Vec<u8> {
        let raw = self.path("raw");
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-O", "raw"]);
        if let Some(name) = snapshot {
            command.args(["-l", &format!("snapshot.name={name}")]);
        }
        let done = command.arg(image).arg(&raw).output().expect("qemu-img");
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{text}");
        fs::read(raw).expect("the raw file")
    }

    /// An image of compressed clusters with three snapshots, between which some of them were written.
    fn made_by_qemu(&self, pairs: &str) -> (Vec<u8>, World) {
        const LEN: usize = 1 << 20;
        let (raw, image) = (self.path("raw"), self.path("base.qcow2"));
        let mut disk = vec![0; LEN];
        for at in (0..LEN).step_by(512) {
            disk[at..at + 128].copy_from_slice(&pattern(at as u64, 128));
        }
        fs::write(&raw, &disk).expect("written");
        let made = Command::new("qemu-img")
            .args(["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", pairs])
            .args([&raw, &image])
            .output()
            .expect("qemu-img");
        let text = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{text}");
        let mut snapshots = Vec::new();
        let mut random = Random::new(3);
        for number in 0..3 {
            for _ in 0..4 {
                let len = 512 * (1 + random.below(3 * cluster_of(pairs) as u64 / 512) as usize);
                let at = 512 * random.below((LEN - len) as u64 / 512) as usize;
                let byte = random.next() as u8;
                disk[at..at + len].fill(byte);
                let write = format!("write -P {byte} {at} {len}");
                let io = Command::new("qemu-io")
                    .args(["-f", "qcow2", "-c", &write])
                    .arg(&image)
                    .output()
                    .expect("qemu-io");
                assert!(io.status.success());
            }
            let name = format!("s{number}");
            let made = qemu_img(&["snapshot", "-c", &name], &image);
            assert!(made.is_good(), "{}", made.text);
            snapshots.push(Kept {
                name,
                disk: disk.clone(),
                state: Vec::new(),
            });
        }
        let bytes = fs::read(image).expect("the image");
        (bytes, World { disk, snapshots })
    }
}

/// Where an image of these bytes does not say what it must, read by us.
fn difference(bench: &Bench, bytes: &[u8], world: &World) -> Option<String> {
    let options = Qcow2Options {
        read_only: true,
        ..Qcow2Options::default()
    };
    bench.run(async {
        let image = bench.open_with(bytes, options).await;
        world.difference(&image).await
    })
}

/// What qemu-img said.
struct Said {
    status: Option<i32>,
    text: String,
}

impl Said {
    fn is_good(&self) -> bool {
        self.status == Some(0)
    }
}

fn qemu_img(arguments: &[&str], image: &Path) -> Said {
    let done = Command::new("qemu-img")
        .args(arguments)
        .arg(image)
        .output()
        .expect("qemu-img");
    let text = [done.stdout, done.stderr].concat();
    Said {
        status: done.status.code(),
        text: String::from_utf8_lossy(&text).into_owned(),
    }
}
