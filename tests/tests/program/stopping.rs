//! Signals in the middle.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tests::files::disk_folder;
use tests::lines::{Lines, PATIENCE};

use crate::{assert_holds, bytes, command, names};

/// The name of the temporary file of `file` in `folder`, once it is there.
pub(crate) fn wait_for_temporary(folder: &Path, file: &str) -> String {
    let start = Instant::now();
    let prefix = format!(".{file}.vmstate-save.");
    loop {
        if let Some(name) = names(folder).into_iter().find(|n| n.starts_with(&prefix)) {
            return name;
        }
        assert!(start.elapsed() < PATIENCE, "no temporary file appears");
        std::thread::yield_now();
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process"), signal).expect("sent");
}

#[test]
fn a_signal_ends_a_save_whose_stdin_is_silent_within_100_ms() {
    // The best of a few: the machine may be busy with something else.
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let folder = disk_folder();
        let mut save = command(folder.path(), &["save", "f"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdin = save.stdin.take(); // kept open, never written
        wait_for_temporary(folder.path(), "f");
        let start = Instant::now();
        signal(&save, Signal::INT);
        let output = save.wait_with_output().expect("the program ends");
        best = best.min(start.elapsed());
        drop(stdin);
        let line = crate::failure(&output);
        assert!(
            line.contains("SIGINT") && line.contains("no such file"),
            "{line}"
        );
        assert!(names(folder.path()).is_empty(), "nothing is left");
    }
    assert!(best < Duration::from_millis(100), "{best:?}");
}

#[test]
fn a_signal_in_the_middle_of_a_save_leaves_what_was_there_before() {
    for (sent, name) in [
        (Signal::TERM, "SIGTERM"),
        (Signal::INT, "SIGINT"),
        (Signal::HUP, "SIGHUP"),
    ] {
        for way in [&[][..], &["--direct"], &["--unbuffered"]] {
            let folder = disk_folder();
            fs::write(folder.path().join("f"), "old").expect("written");
            let mut save = command(
                folder.path(),
                &[&["save", "f", "--force", "--json"], way].concat(),
            )
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
            let mut stdin = save.stdin.take().expect("piped");
            stdin.write_all(&bytes(5 << 20)).expect("it reads");
            // It has taken all but what is in the pipe and the last read: now it is in the middle.
            let mut lines = Lines::new(save.stderr.take().expect("piped"));
            loop {
                let line = lines.next_line().expect("no error").expect("it goes on");
                let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
                if line["progress"]["bytes"]
                    .as_u64()
                    .is_some_and(|n| n >= 2 << 20)
                {
                    break;
                }
            }
            signal(&save, sent);
            let mut last = None;
            while let Some(line) = lines.next_line().expect("no error") {
                last = Some(line);
            }
            let status = save.wait().expect("the program ends");
            drop(stdin);
            assert_eq!(status.code(), Some(1));
            let error: serde_json::Value =
                serde_json::from_str(&last.expect("an error")).expect("JSON");
            let cause = error["error"]["cause"].as_str().expect("a cause");
            assert!(cause.contains(name), "{cause}");
            assert_eq!(names(folder.path()), ["f"]);
            assert_holds(&folder.path().join("f"), b"old");
        }
    }
}

#[test]
fn a_signal_ends_a_load_that_no_task_reads() {
    for way in [&[][..], &["--unbuffered"]] {
        let folder = disk_folder();
        let state = bytes(8 << 20);
        fs::write(folder.path().join("f"), &state).expect("written");
        let mut load = command(folder.path(), &[&["load", "f"], way].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdout = load.stdout.take().expect("piped");
        stdout.read_exact(&mut [0]).expect("it has begun");
        signal(&load, Signal::INT);
        let output = load.wait_with_output().expect("the program ends");
        assert!(crate::failure(&output).contains("SIGINT"));
        assert_holds(&folder.path().join("f"), &state);
    }
}

#[test]
fn a_signal_during_a_replay_takes_its_file_and_its_child_away() {
    for sent in [Signal::INT, Signal::TERM] {
        let folder = disk_folder();
        let trace = "builtin:qemu72-savevm-guest-2g";
        let args = [
            "replay", "f", "--runs", "1000", "--take", "64M", "--trace", trace,
        ];
        let replay = command(folder.path(), &args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        wait_for_temporary(folder.path(), "f");
        signal(&replay, sent);
        let output = replay
            .wait_with_output()
            .expect("the program ends, and so do its children, which hold its pipes");
        crate::failure(&output);
        assert!(
            names(folder.path()).is_empty(),
            "{:?}",
            names(folder.path())
        );
    }
}

#[test]
fn a_signal_during_a_demo_takes_its_files_away() {
    let folder = disk_folder();
    let demo = command(
        folder.path(),
        &["demo", "--take", "64M", "--runs", "1000", "--json"],
    )
    .stdin(Stdio::null())
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn();
    let mut demo = demo.expect("the program starts");
    let mut lines = Lines::new(demo.stderr.take().expect("piped"));
    let mut next = || lines.next_line().expect("no error");
    // Its first steps measure the disk; then it saves, and a state of 64 MiB takes a while.
    while !next().expect("it goes on").contains("save cached") {}
    signal(&demo, Signal::INT);
    let mut last = String::new();
    while let Some(line) = next() {
        last = line;
    }
    assert!(last.contains("SIGINT"), "{last}");
    let output = demo.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(names(folder.path()).is_empty());
}
