//! A real machine with a qcow2 disk is saved by QEMU and loaded by us, and the other way round; and what either of us does to an image
//! leaves the other's states in it as they were.
//!
//! The machine is that of the plain states' tests: its memory holds 48 MiB of random bytes, which only a saved state can bring back.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use block_core::{BlockNode, CacheMode, DiskOffset, NewSnapshot, Preallocation, Truncate};
use block_core::{SnapshotInfo, WriteFlags};
use block_drivers::qcow2::CreateOptions;
use futures::io::Cursor;
use serde_json::json;
use tempfile::TempDir;
use tests::files::disk_folder;
use tests::images::{Images, contents, same_bytes, state_and_disk};
use tests::machine::{self, Disk, Machine, RANDOM_LEN};
use tests::program;
use tests::qemu::Qemu;
use tests::qemu_img::{check_is_clean, dumped_bytes, qemu_img, qemu_io, snapshots};
use tests::tools::{self, Need};
use tests::wrapper::Wrapper;
use vmstate::{SaveOptions, save_snapshot};

const NEEDS: [Need; 3] = [
    Need::Tool("qemu-system-x86_64"),
    Need::Tool("qemu-img"),
    Need::Tool("qemu-io"),
];
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const THEIRS_BECOME_OURS: &str =
    "three states of QEMU's are ours, and QEMU starts from our image of them";
const THEIRS_SURVIVE_US: &str =
    "we apply one state of QEMU's and delete another, and QEMU loads the rest";
const NAMES: [&str; 3] = ["one", "two", "three"];

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for direct in [false, true] {
        let how = if direct { "with O_DIRECT" } else { "cached" };
        trials.push(tools::trial(
            format!("{THEIRS_BECOME_OURS}, {how}"),
            &NEEDS,
            move || theirs_become_ours(direct),
        ));
        trials.push(tools::trial(
            format!("{THEIRS_SURVIVE_US}, {how}"),
            &NEEDS,
            move || theirs_survive_us(direct),
        ));
    }
    for saver in [Who::Qemu, Who::Us] {
        for resizer in [Who::Qemu, Who::Us] {
            for longer in [true, false] {
                let becomes = if longer { "longer" } else { "shorter" };
                trials.push(tools::trial(
                    format!("a state saved by {saver:?} is loaded and applied by both when {resizer:?} made the disk {becomes}"),
                    &NEEDS,
                    move || survives_a_resize(saver, resizer, longer),
                ));
            }
        }
    }
    tools::main(trials)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Qemu,
    Us,
}

fn theirs_become_ours(direct: bool) {
    let saved = Saved::by_qemu(direct);
    let images = Images::new();

    // Ours is made of what we read in theirs, disk and state.
    let ours = saved.folder.path().join("ours");
    images.create(
        &ours,
        &CreateOptions {
            size: Some(Saved::SIZE),
            ..CreateOptions::default()
        },
    );
    for moment in &saved.moments {
        let state = load_by_program(&saved.image, moment.name, direct);
        let (infos, same_state, disk) = images.run(async {
            let node = images.open_to_read(&saved.image).await;
            let infos = saved.infos(&node).await;
            let (state, disk) = state_and_disk(&node, moment.name).await;
            node.close().await.expect("closed");
            (infos, state, disk)
        });
        assert!(state.starts_with(b"QEVM"), "{}", moment.name);
        same_bytes(&state, &same_state, moment.name);
        same_bytes(&disk, &moment.disk, moment.name);
        let info = infos.iter().find(|info| info.name == moment.name);
        assert_eq!(info.map(|info| info.vmstate_size), Some(state.len() as u64));
        images.run(async {
            let node = images.open(&ours, cache(direct)).await;
            write_all(&node, &disk).await;
            node.close().await.expect("closed");
        });
        save_by_program(&ours, moment.name, direct, &state);
    }
    saved.qemu_reads_the_same_states(&images);
    check_is_clean(&ours, "our image of three states");
    assert_eq!(snapshots(&ours), snapshots(&saved.image));

    let disk = Disk {
        image: &ours,
        direct,
    };
    let mut qemu = start_from(disk, "one");
    saved.moments[0].is_now(&mut qemu, saved.folder.path());
    load(&mut qemu, "three");
    saved.moments[2].is_now(&mut qemu, saved.folder.path());
    qemu.quit();
    check_is_clean(&ours, "our image, used by QEMU");

    // And through the pipe, as a migration that comes in.
    let loader = Wrapper::loader(program::vmstate(), &arguments("load", &ours, "two", direct));
    let incoming = machine::with_disk_that_loads(disk, &loader.uri());
    let mut qemu = incoming.unwrap_or_else(|gone| panic!("{gone}"));
    let ending = qemu.migration_ends();
    assert_eq!(ending.unwrap_or_else(|gone| panic!("{gone}")), "completed");
    let now = Machine::look_at(&mut qemu, saved.folder.path());
    saved.moments[1].machine.check_equal(&now);
    qemu.quit();
    let outcome = loader.outcome();
    assert_eq!(outcome.status, 0, "{outcome:?}");
}

fn load_by_program(image: &Path, name: &str, direct: bool) -> Vec<u8> {
    let mut loader = Command::new(program::vmstate());
    let loaded = loader.args(arguments("load", image, name, direct)).output();
    let loaded = loaded.expect("the program runs");
    assert!(loaded.status.success(), "{name}: {loaded:?}");
    loaded.stdout
}

fn save_by_program(image: &Path, name: &str, direct: bool, state: &[u8]) {
    let stream = image.with_extension("stream");
    fs::write(&stream, state).expect("a file");
    let mut saver = Command::new(program::vmstate());
    saver.args(arguments("save", image, name, direct));
    let saved = saver.stdin(File::open(&stream).expect("a file")).output();
    let saved = saved.expect("the program runs");
    assert!(saved.status.success(), "{name}: {saved:?}");
    fs::remove_file(stream).expect("removed");
}

fn arguments(command: &str, image: &Path, name: &str, direct: bool) -> Vec<String> {
    let mut arguments = vec![command, text(image), "--name", name];
    arguments.extend(direct.then_some("--direct"));
    arguments.into_iter().map(str::to_owned).collect()
}

fn theirs_survive_us(direct: bool) {
    let saved = Saved::by_qemu(direct);
    let images = Images::new();
    images.run(async {
        let node = images.open(&saved.image, cache(direct)).await;
        let infos = saved.infos(&node).await;
        let names: Vec<&str> = infos.iter().map(|info| info.name.as_str()).collect();
        assert_eq!(names, NAMES);
        let sizes = infos.iter().map(|i| (i.name.clone(), i.vmstate_size));
        assert_eq!(sizes.collect::<Vec<_>>(), snapshots(&saved.image));
        node.snapshot_goto("one").await.expect("applied");
        same_bytes(&contents(&node).await, &saved.moments[0].disk, "applied");
        node.snapshot_delete("two").await.expect("deleted");
        for moment in [&saved.moments[0], &saved.moments[2]] {
            let (state, disk) = state_and_disk(&node, moment.name).await;
            assert!(state.starts_with(b"QEVM"), "{}", moment.name);
            same_bytes(&disk, &moment.disk, moment.name);
        }
        node.close().await.expect("closed");
    });
    check_is_clean(&saved.image, "QEMU's image, changed by us");
    let left: Vec<String> = snapshots(&saved.image)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(left, ["one", "three"]);

    let disk = Disk {
        image: &saved.image,
        direct,
    };
    let gone = machine::that_starts_from(disk, "two").map(|_| ());
    let gone = gone.expect_err("the deleted one is not there for QEMU either");
    assert!(gone.stderr.contains("two"), "{gone}");
    let mut qemu = start_from(disk, "three");
    saved.moments[2].is_now(&mut qemu, saved.folder.path());
    load(&mut qemu, "one");
    saved.moments[0].is_now(&mut qemu, saved.folder.path());
    qemu.quit();
    check_is_clean(&saved.image, "QEMU's image, used by QEMU again");
}

/// With clusters of 16 KiB an L1 entry covers 32 MiB.
fn survives_a_resize(saver: Who, resizer: Who, longer: bool) {
    let direct = (saver == Who::Us) != longer;
    let (before, after) = match longer {
        true => (31 * MIB, 65 * MIB),
        false => (65 * MIB, 31 * MIB),
    };
    let images = Images::new();
    let folder = disk_folder();
    let image = folder.path().join("image");
    let size = before.to_string();
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=16k",
        text(&image),
        &size,
    ]);
    let disk = Disk {
        image: &image,
        direct,
    };
    let mut qemu = machine::stopped_with_disk(disk);
    let mut bytes = vec![0; before as usize];
    write(&mut qemu, &mut bytes, 3, before - 300 * KIB, 300 * KIB);
    write(&mut qemu, &mut bytes, 4, 2 * MIB, 5 * MIB);
    let moment = Moment {
        name: "state",
        machine: Machine::look_at(&mut qemu, folder.path()),
        disk: bytes,
    };
    moment.machine.check_that_it_holds_the_random_bytes();
    silent(&mut qemu, "savevm state");
    qemu.quit();
    if saver == Who::Us {
        save_again(&images, &image, direct);
    }

    resize(&images, &image, resizer, after, direct);
    check_is_clean(&image, "after the resize");
    // Loaded by us, without applying it.
    images.run(async {
        let node = images.open(&image, cache(direct)).await;
        assert_eq!(node.length().await, Ok(after));
        let (state, disk) = state_and_disk(&node, "state").await;
        assert!(state.starts_with(b"QEVM"));
        same_bytes(&disk, &moment.disk, "the snapshot's disk");
        // What is written now belongs to the present disk alone.
        write_all(&node, &[9; 100]).await;
        node.close().await.expect("closed");
    });
    check_is_clean(&image, "after our load");

    // Loaded by QEMU: it applies what it loads, and the disk has its size again.
    let mut qemu = start_from(disk, "state");
    moment.is_now(&mut qemu, folder.path());
    qemu.quit();
    check_is_clean(&image, "after QEMU's load");

    // Applied by us.
    resize(&images, &image, resizer, after, direct);
    if resizer == Who::Qemu && !longer {
        // Its load left the state in the active table too, and its shrinking forgets that (so does 10.0.2).
        qemu_img(&["check", "-q", "-f", "qcow2", "-r", "leaks", text(&image)]);
    }
    check_is_clean(&image, "after the second resize");
    images.run(async {
        let node = images.open(&image, cache(direct)).await;
        node.snapshot_goto("state").await.expect("applied");
        assert_eq!(node.length().await, Ok(before));
        same_bytes(&contents(&node).await, &moment.disk, "applied by us");
        node.close().await.expect("closed");
    });
    check_is_clean(&image, "applied by us");
    let mut qemu = start_from(disk, "state");
    moment.is_now(&mut qemu, folder.path());
    qemu.quit();
}

/// The state becomes one of our making: read, deleted and saved.
fn save_again(images: &Images, image: &Path, direct: bool) {
    images.run(async {
        let node = images.open(image, cache(direct)).await;
        let (state, _) = state_and_disk(&node, "state").await;
        node.snapshot_delete("state").await.expect("deleted");
        save(&node, NewSnapshot::new("state"), &state).await;
        node.close().await.expect("closed");
    });
}

fn resize(images: &Images, image: &Path, resizer: Who, len: u64, direct: bool) {
    match resizer {
        Who::Qemu => {
            let len = len.to_string();
            qemu_img(&["resize", "-q", "--shrink", "-f", "qcow2", text(image), &len]);
        }
        Who::Us => images.run(async {
            let node = images.open(image, cache(direct)).await;
            let to = Truncate {
                len,
                exact: true,
                preallocation: Preallocation::Off,
            };
            node.truncate(to).await.expect("resized");
            node.close().await.expect("closed");
        }),
    }
}

/// A machine when it was saved.
struct Moment {
    name: &'static str,
    machine: Machine,
    disk: Vec<u8>,
}

impl Moment {
    /// QEMU's machine is this one: registers, memory, and all of its disk.
    fn is_now(&self, qemu: &mut Qemu, folder: &Path) {
        self.machine
            .check_same_guest(&Machine::look_at(qemu, folder));
        let length = qemu.qmp("query-block", json!({}));
        let length = length.unwrap_or_else(|gone| panic!("{gone}"));
        let length = &length[0]["inserted"]["image"]["virtual-size"];
        assert_eq!(length.as_u64(), Some(self.disk.len() as u64), "{length}");
        let mut at = 0;
        for run in self.disk.chunk_by(|a, b| a == b) {
            on_disk(qemu, &format!("read -q -P {} {at} {}", run[0], run.len()));
            at += run.len();
        }
    }
}

/// An image with three states, and what the machine was at each.
struct Saved {
    folder: TempDir,
    image: PathBuf,
    moments: Vec<Moment>,
}

impl Saved {
    const SIZE: u64 = 24 * MIB;

    /// Saved by QEMU, with the disk written in between and the machine running a moment.
    fn by_qemu(direct: bool) -> Saved {
        let folder = disk_folder();
        let image = folder.path().join("theirs");
        let size = Self::SIZE.to_string();
        qemu_img(&["create", "-q", "-f", "qcow2", text(&image), &size]);
        let mut qemu = machine::stopped_with_disk(Disk {
            image: &image,
            direct,
        });
        let mut bytes = vec![0; Self::SIZE as usize];
        let mut moments = Vec::new();
        for (name, byte) in NAMES.into_iter().zip(1..) {
            // Some of it again and again, some once, some of two clusters only in part.
            write(&mut qemu, &mut bytes, 0x10 + byte, MIB, 2 * MIB);
            write(
                &mut qemu,
                &mut bytes,
                0x20 + byte,
                u64::from(byte) * 5 * MIB,
                MIB,
            );
            write(
                &mut qemu,
                &mut bytes,
                0x30 + byte,
                Self::SIZE - 100 * KIB,
                40 * KIB,
            );
            moments.push(Moment {
                name,
                machine: Machine::look_at(&mut qemu, folder.path()),
                disk: bytes.clone(),
            });
            silent(&mut qemu, &format!("savevm {name}"));
            // So that its clock, and with it the next state, is another one.
            let went_on = qemu.qmp("cont", json!({}));
            went_on.unwrap_or_else(|gone| panic!("{gone}"));
            machine::stop(&mut qemu);
        }
        qemu.quit();
        moments[0].machine.check_that_it_holds_the_random_bytes();
        Saved {
            folder,
            image,
            moments,
        }
    }

    /// The list as we read it.
    async fn infos(&self, node: &BlockNode) -> Vec<SnapshotInfo> {
        let infos = node.snapshot_list().await.expect("a list");
        assert_eq!(infos.len(), self.moments.len());
        for info in &infos {
            assert!(info.vmstate_size > RANDOM_LEN, "{info:?}");
            assert_eq!(info.disk_size, Self::SIZE);
        }
        infos
    }

    /// What we read of the states is what `qemu-io` reads of them. It reads the active state only, so each is applied.
    fn qemu_reads_the_same_states(&self, images: &Images) {
        for moment in &self.moments {
            let (state, _) = images.run(async {
                let node = images.open_to_read(&self.image).await;
                let read = state_and_disk(&node, moment.name).await;
                node.close().await.expect("closed");
                read
            });
            qemu_img(&["snapshot", "-q", "-a", moment.name, text(&self.image)]);
            let last = state.len() / 512 * 512 - 4096;
            for at in [0, last / 1024 * 512, last] {
                let dumped = qemu_io(&self.image, &[format!("read -b -v {at} 4096")]);
                same_bytes(&dumped_bytes(&dumped), &state[at..at + 4096], moment.name);
            }
        }
    }
}

fn start_from(disk: Disk<'_>, snapshot: &str) -> Qemu {
    machine::that_starts_from(disk, snapshot).unwrap_or_else(|gone| panic!("{gone}"))
}

fn load(qemu: &mut Qemu, snapshot: &str) {
    silent(qemu, &format!("loadvm {snapshot}"));
}

/// A command of the human monitor that says nothing when it worked.
fn silent(qemu: &mut Qemu, command: &str) {
    let said = qemu.hmp(command).unwrap_or_else(|gone| panic!("{gone}"));
    assert_eq!(said, "", "{command}");
}

/// Fills a part of the machine's disk, and of the judge's bytes.
fn write(qemu: &mut Qemu, bytes: &mut [u8], byte: u8, at: u64, len: u64) {
    on_disk(qemu, &format!("write -q -P {byte} {at} {len}"));
    bytes[at as usize..(at + len) as usize].fill(byte);
}

fn on_disk(qemu: &mut Qemu, command: &str) {
    let done = qemu.qemu_io("disk", command);
    done.unwrap_or_else(|gone| panic!("{gone}"));
}

/// Writes `disk` to the start of the node.
async fn write_all(node: &BlockNode, disk: &[u8]) {
    for (at, piece) in (0..).step_by(MIB as usize).zip(disk.chunks(MIB as usize)) {
        let written = node.pwrite(DiskOffset(at), piece, WriteFlags::default());
        written.await.unwrap_or_else(|error| panic!("{error}"));
    }
}

async fn save(node: &BlockNode, new: NewSnapshot, state: &[u8]) {
    let saved = save_snapshot(node, new, SaveOptions::default(), &mut Cursor::new(state)).await;
    let info = saved.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(info.vmstate_size, state.len() as u64);
}

fn cache(direct: bool) -> CacheMode {
    match direct {
        true => CacheMode::None,
        false => CacheMode::Writeback,
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the test's paths are text")
}
