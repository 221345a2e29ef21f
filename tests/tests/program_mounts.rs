//! The program `vmstate` where mounting is needed: full disks, read-only mounts, device nodes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, mount_remount};
use tests::files::{SmallDisk, disk_folder, entries};
use tests::program::vmstate;
use tests::tools::{Need, main as run_trials, trial};

fn main() -> ExitCode {
    let needs = &[Need::Mount];
    run_trials(vec![
        trial(
            "a_full_disk_ends_a_save_and_leaves_it_empty_again",
            needs,
            full_disk,
        ),
        trial(
            "a_full_disk_does_not_cost_the_older_state",
            needs,
            full_disk_with_older_state,
        ),
        trial(
            "a_full_disk_ends_a_save_into_an_image_and_leaves_that_as_it_was",
            needs,
            full_disk_with_image,
        ),
        trial(
            "a_read_only_mount_is_refused_and_can_be_loaded_from",
            needs,
            read_only_mount,
        ),
        trial("a_block_device_is_refused_by_name", needs, block_device),
    ])
}

fn run(folder: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(vmstate())
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut pipe = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(stdin));
        child.wait_with_output().expect("the program ends")
    })
}

fn failure(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

/// More than the small disk takes.
fn stream() -> Vec<u8> {
    (0..6u32 << 20).map(|n| (n >> 3) as u8 ^ n as u8).collect()
}

fn full_disk() {
    for way in [
        &[][..],
        &["--direct"],
        &["--unbuffered"],
        &["--workers", "1", "--buffer", "64K"],
    ] {
        let folder = disk_folder();
        let disk = SmallDisk::mount(folder.path(), 4 << 20).expect("mounted");
        let output = run(disk.path(), &[&["save", "f"], way].concat(), &stream());
        let line = failure(&output);
        assert!(line.contains("f: save vmstate at offset "), "{line}");
        assert!(line.contains("No space left on device"), "{line}");
        assert!(line.contains("there is no such file"), "{line}");
        assert!(entries(disk.path()).is_empty());
        // The space is free again.
        let output = run(disk.path(), &["save", "f"], &stream()[..3 << 20]);
        assert!(output.status.success());
    }
}

fn full_disk_with_older_state() {
    let folder = disk_folder();
    let disk = SmallDisk::mount(folder.path(), 4 << 20).expect("mounted");
    fs::write(disk.path().join("f"), "old").expect("written");
    let output = run(disk.path(), &["save", "f", "--force"], &stream());
    let line = failure(&output);
    assert!(line.contains("the file is as it was"), "{line}");
    assert_eq!(entries(disk.path()), [("f".to_owned(), 3)]);
}

fn full_disk_with_image() {
    let status = |folder: &Path, args: &[&str]| run(folder, args, b"").status.code();
    for way in [&[][..], &["--direct"], &["--unbuffered"]] {
        let folder = disk_folder();
        let disk = SmallDisk::mount(folder.path(), 4 << 20).expect("mounted");
        let create = ["create", "i", "--size", "1G", "-o", "cluster_size=4k"];
        assert_eq!(status(disk.path(), &create), Some(0));
        let old = &stream()[..100_000];
        let save = |name, stream: &[u8]| {
            let args = [&["save", "i", "--name", name], way].concat();
            run(disk.path(), &args, stream)
        };
        assert!(save("old", old).status.success());
        let line = failure(&save("new", &stream()));
        assert!(line.contains("No space left on device"), "{line}");
        assert!(
            line.trim_end().ends_with("it had"),
            "nothing is leaked: {line}"
        );
        assert_eq!(status(disk.path(), &["check", "i"]), Some(0));
        let loaded = run(disk.path(), &["load", "i", "--name", "old"], b"");
        assert!(loaded.stdout == old);
        // The space is free again.
        assert!(save("new", &stream()[..2 << 20]).status.success());
        assert_eq!(status(disk.path(), &["check", "i"]), Some(0));
    }
}

fn read_only_mount() {
    let folder = disk_folder();
    let disk = SmallDisk::mount(folder.path(), 4 << 20).expect("mounted");
    fs::write(disk.path().join("f"), "state").expect("written");
    mount_remount(disk.path(), MountFlags::RDONLY, "").expect("remounted");
    for name in ["f", "new"] {
        let line = failure(&run(disk.path(), &["save", name, "--force"], b"other"));
        assert!(line.contains("Read-only file system"), "{line}");
        assert!(line.contains(name), "{line}");
    }
    assert_eq!(entries(disk.path()), [("f".to_owned(), 5)]);
    for way in [&["load", "f"][..], &["load", "f", "--unbuffered"]] {
        let output = run(disk.path(), way, b"");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, b"state");
    }
}

fn block_device() {
    let folder = disk_folder();
    let node = folder.path().join("disk");
    // Number 7,255: a loop device that need not exist, since it is never opened.
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, &node, FileType::BlockDevice, mode, makedev(7, 255)).expect("made");
    for args in [
        &["save", "disk"][..],
        &["save", "disk", "--force"],
        &["load", "disk"],
    ] {
        let line = failure(&run(folder.path(), args, b"state"));
        assert!(line.contains("a block device"), "{line}");
    }
}
