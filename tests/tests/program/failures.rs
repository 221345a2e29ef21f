//! What the system refuses in the middle.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Output, Stdio};

use tests::files::disk_folder;
use tests::program::vmstate;

use crate::{assert_holds, bytes, command, failure, names, run};

#[test]
fn a_reader_that_goes_away_is_a_broken_pipe_at_its_offset() {
    for way in [&[][..], &["--unbuffered"], &["--direct"]] {
        let folder = disk_folder();
        fs::write(folder.path().join("f"), bytes(8 << 20)).expect("written");
        let mut load = command(folder.path(), &[&["load", "f"], way].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdout = load.stdout.take().expect("piped");
        stdout.read_exact(&mut [0; 1000]).expect("it has begun");
        drop(stdout);
        let output = load.wait_with_output().expect("the program ends");
        let line = failure(&output);
        assert!(line.contains("stdout: write at offset "), "{line}");
        assert!(line.contains("Broken pipe"), "{line}");
    }
}

/// Saves 8 MiB where files may have 4096 blocks of 512 bytes.
fn save_limited(folder: &std::path::Path, way: &str) -> Output {
    let mut shell = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -f 4096; exec \"$0\" save f --force {way}"),
        ])
        .arg(vmstate())
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh starts");
    let mut stdin = shell.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut stdin, &bytes(8 << 20)));
        shell.wait_with_output().expect("it ends")
    })
}

#[test]
fn a_file_size_limit_is_an_error_and_no_death_by_signal() {
    for way in [
        "",
        "--direct",
        "--unbuffered",
        "--direct --unbuffered",
        "--workers 1",
    ] {
        let folder = disk_folder();
        let line = failure(&save_limited(folder.path(), way));
        assert!(line.contains("File too large"), "{way}: {line}");
        assert!(
            line.contains(" at offset ") && line.contains("length "),
            "{line}"
        );
        assert!(line.ends_with("there is no such file, the temporary file was removed"));
        assert!(names(folder.path()).is_empty(), "nothing is left");
        // Nor is an older state lost.
        fs::write(folder.path().join("f"), "old").expect("written");
        let line = failure(&save_limited(folder.path(), way));
        assert!(line.ends_with("the file is as it was, the temporary file was removed"));
        assert_eq!(names(folder.path()), ["f"]);
        assert_holds(&folder.path().join("f"), b"old");
    }
}

#[test]
fn an_error_in_json_has_its_numbers() {
    let folder = disk_folder();
    let output = save_limited(folder.path(), "--json --direct");
    let error = crate::json_line(&output.stderr, "error").expect("an error");
    assert_eq!(error["file"], "f");
    assert_eq!(error["operation"], "save vmstate");
    assert_eq!(error["errno"], 27, "EFBIG");
    assert_eq!(error["length"], 1 << 20);
    // Several buffers are in flight; the first that failed is told.
    let offset = error["offset"].as_u64().expect("a number");
    assert!(
        offset >= 2 << 20 && offset.is_multiple_of(1 << 20),
        "{offset}"
    );
}

/// Runs the program by `sh`, for redirections.
pub(crate) fn shell(folder: &std::path::Path, script: &str) -> Output {
    Command::new("sh")
        .args(["-c", script])
        .arg(vmstate())
        .current_dir(folder)
        .output()
        .expect("sh starts")
}

#[test]
fn a_stream_that_cannot_be_read_or_written_is_named() {
    let folder = disk_folder();
    fs::write(folder.path().join("f"), "state").expect("written");
    let line = failure(&shell(folder.path(), "exec \"$0\" load f > /dev/full"));
    assert!(
        line.contains("stdout: write at offset 0, length 5: No space left"),
        "{line}"
    );
    let line = failure(&shell(folder.path(), "exec \"$0\" save g < ."));
    assert!(
        line.contains("stdin: read at offset 0") && line.contains("Is a directory"),
        "{line}"
    );
    assert_eq!(names(folder.path()), ["f"]);
}

#[test]
fn the_end_of_a_terminals_stream_is_asked_for_once() {
    // A terminal tells its end once; who reads on waits for the user to tell it again. Here the second end never comes.
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let folder = disk_folder();
    for way in [&[][..], &["--unbuffered"]] {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).expect("granted");
        unlockpt(&ours).expect("unlocked");
        let name = ptsname(&ours, Vec::new()).expect("a name");
        let theirs = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(0o400) // O_NOCTTY
            .open(name.to_str().expect("text"))
            .expect("opens");
        let mut ours = fs::File::from(ours);
        ours.write_all(b"hello\n\x04").expect("typed");
        let output = command(folder.path(), &[&["save", "f", "--force"], way].concat())
            .stdin(theirs)
            .output()
            .expect("the program ends");
        crate::success(&output);
        crate::assert_holds(&folder.path().join("f"), b"hello\n");
    }
}

#[test]
fn a_name_with_a_line_end_is_told_in_one_line() {
    let folder = disk_folder();
    let output = run(folder.path(), &["save", "a\nb"], b"state");
    crate::success(&output);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn a_report_that_cannot_be_printed_does_not_harm_the_state() {
    let folder = disk_folder();
    let script = "printf state | \"$0\" save f 2> /dev/full";
    assert_eq!(shell(folder.path(), script).status.code(), Some(0));
    assert_holds(&folder.path().join("f"), b"state");
    // The figures are what a replay is for: there it is an error, and no panic.
    let trace = "builtin:qemu72-savevm-seabios-64m";
    let script = format!("exec \"$0\" replay g --trace {trace} > /dev/full");
    let line = failure(&shell(folder.path(), &script));
    assert!(line.contains("stdout: write: No space left"), "{line}");
    assert_eq!(names(folder.path()), ["f", "g"]);
}
