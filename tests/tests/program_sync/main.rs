//! What the program says when a flush of the disk fails, against what is on the disk then.
//!
//! Each `fdatasync` of a command fails in turn, once. The command's words must be true of the image that is found afterwards, and the image
//! must be in order.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

use tests::files::disk_folder;
use tests::program::vmstate;
use tests::qemu_img::{check_is_clean, qemu_io, snapshots, try_qemu_img};
use tests::tools::{self, Need};

const NEEDS: [Need; 3] = [
    Need::Tool("qemu-img"),
    Need::Tool("qemu-io"),
    Need::Tool("gcc"),
];

fn main() -> ExitCode {
    tools::main(vec![
        tools::trial(
            "after_each_flush_that_fails_a_delete_says_what_is_on_the_disk",
            &NEEDS,
            || each_flush(&DELETE),
        ),
        tools::trial(
            "after_each_flush_that_fails_an_apply_says_what_is_on_the_disk",
            &NEEDS,
            || each_flush(&APPLY),
        ),
        tools::trial(
            "after_each_flush_that_fails_a_save_says_what_is_on_the_disk",
            &NEEDS,
            || each_flush(&SAVE),
        ),
        tools::trial(
            "after_each_flush_that_fails_a_save_over_a_snapshot_says_what_is_on_the_disk",
            &NEEDS,
            || each_flush(&REPLACE),
        ),
    ])
}

/// A command on an image with the snapshot `old`, whose disk began with `a` then and begins with `b` now.
struct Change {
    args: &'static [&'static str],
    /// What the message calls it when it is done.
    done: &'static str,
    /// Whether the change is there.
    is_there: fn(&Found) -> bool,
    /// Whether nothing is changed.
    is_absent: fn(&Found) -> bool,
}

const DELETE: Change = Change {
    args: &["delete", "i", "old"],
    done: "the snapshot is deleted",
    is_there: |found| found.snapshots.is_empty(),
    is_absent: |found| found.snapshots == ["old"] && found.state == Some(3),
};

const APPLY: Change = Change {
    args: &["apply", "i", "old"],
    done: "the snapshot is applied",
    is_there: |found| found.first_byte == b'a' && found.snapshots == ["old"],
    is_absent: |found| found.first_byte == b'b' && found.snapshots == ["old"],
};

const SAVE: Change = Change {
    args: &["save", "i", "--name", "new"],
    done: "the snapshot is complete",
    is_there: |found| found.snapshots == ["old", "new"] && found.state == Some(3),
    is_absent: |found| found.snapshots == ["old"] && found.state == Some(3),
};

const REPLACE: Change = Change {
    args: &["save", "i", "--name", "old", "--force"],
    done: "the snapshot is complete",
    is_there: |found| found.snapshots == ["old"] && found.state == Some(STATE.len() as u64),
    is_absent: |found| found.snapshots == ["old"] && found.state == Some(3),
};

/// Piped into every command.
const STATE: &[u8] = b"a state of another length";

fn each_flush(change: &Change) {
    let folder = disk_folder();
    let injector = injector(folder.path());
    let image = folder.path().join("i");
    make(folder.path());
    let whole = fs::read(&image).expect("an image");
    let mut failed = 0;
    for number in 1.. {
        fs::write(&image, &whole).expect("as it was");
        let log = folder.path().join("log");
        let _ = fs::remove_file(&log);
        let output = with_failure(&injector, number, &log, change.args);
        if !log.exists() {
            break; // it makes no more flushes
        }
        failed += 1;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let what = format!("{:?}, flush {number}: {words}", change.args);
        let found = Found::of(&image);
        let (there, absent) = ((change.is_there)(&found), (change.is_absent)(&found));
        assert!(there || absent, "{what}: neither state: {found:?}");
        if output.status.success() || words.contains(change.done) && !words.contains("either") {
            assert!(there, "{what}: it is not done: {found:?}");
        } else if words.contains("either") {
            assert!(words.contains("in order"), "{what}");
        } else {
            assert!(words.contains("that it had"), "{what}");
            assert!(absent, "{what}: it is done: {found:?}");
        }
        let args = ["check", "-q", "-f", "qcow2"].map(OsStr::new);
        let check = try_qemu_img(&[&args[..], &[image.as_os_str()]].concat());
        if !check.status.success() {
            assert!(words.contains("may be left"), "{what}: not mentioned");
            // Leaks, and COPIED flags that are not exact, which qemu-img counts as errors: it mends both as leaks, and nothing else.
            let args = ["check", "-q", "-f", "qcow2", "-r", "leaks"].map(OsStr::new);
            try_qemu_img(&[&args[..], &[image.as_os_str()]].concat());
            check_is_clean(&image, &what);
        }
    }
    assert!(failed >= 3, "only {failed} flushes");
}

/// The command with its flush of that number failing.
fn with_failure(injector: &Path, number: u32, log: &Path, args: &[&str]) -> Output {
    let folder = log.parent().expect("a folder");
    let stream = folder.join("stream");
    fs::write(&stream, STATE).expect("a stream");
    let mut command = Command::new(injector);
    command
        .arg(number.to_string())
        .arg(log)
        .arg(vmstate())
        .args(args)
        .current_dir(folder)
        .stdin(fs::File::open(&stream).expect("the stream"))
        .stdout(Stdio::null());
    command.output().expect("it runs")
}

/// What is found in an image.
#[derive(Debug)]
struct Found {
    snapshots: Vec<String>,
    /// Bytes of the first snapshot's state.
    state: Option<u64>,
    first_byte: u8,
}

impl Found {
    fn of(image: &Path) -> Self {
        let list = snapshots(image);
        let raw = image.with_extension("raw");
        let converted = Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .args([image, &raw])
            .status();
        assert!(converted.expect("qemu-img").success());
        Self {
            snapshots: list.iter().map(|(name, _)| name.clone()).collect(),
            state: list.first().map(|(_, bytes)| *bytes),
            first_byte: fs::read(&raw).expect("converted")[0],
        }
    }
}

fn make(folder: &Path) {
    let raw = |byte: u8| fs::write(folder.join("raw"), vec![byte; 1 << 20]).expect("written");
    raw(b'a');
    run(
        "qemu-img",
        folder,
        &["convert", "-f", "raw", "-O", "qcow2", "raw", "i"],
    );
    let save = Command::new(vmstate())
        .args(["save", "i", "--name", "old"])
        .current_dir(folder)
        .stdin({
            fs::write(folder.join("stream"), b"old").expect("a stream");
            fs::File::open(folder.join("stream")).expect("the stream")
        })
        .output();
    let save = save.expect("it runs");
    assert!(
        save.status.success(),
        "{}",
        String::from_utf8_lossy(&save.stderr)
    );
    qemu_io(&folder.join("i"), &["write -q -P 0x62 0 64k".to_owned()]);
}

fn run(program: &str, folder: &Path, args: &[&str]) {
    let status = Command::new(program)
        .args(args)
        .current_dir(folder)
        .status();
    assert!(status.expect(program).success(), "{program} {args:?}");
}

/// Compiles the program that fails a flush.
fn injector(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program_sync/fail_nth.c");
    let program = folder.join("fail_nth");
    let gcc = Command::new("gcc")
        .args(["-O1", "-Wall", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    assert!(gcc.expect("gcc").success(), "it does not compile");
    program
}
