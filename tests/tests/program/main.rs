//! The program `vmstate`, from outside: streams, refusals, failures, replays.
//!
//! What needs the right to mount is in `program_mounts`; a real QEMU at the other end of the stream is in `real_machine`.

mod complete;
mod failures;
mod images;
mod refusals;
mod replays;
mod snapshots;
mod stopping;
mod streams;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tests::program::vmstate;

/// The program, in `folder`.
fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(vmstate());
    command.args(args).current_dir(folder);
    command
}

/// Runs the program on `stdin`, which it may leave unread.
fn run(folder: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let mut child = command(folder, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut pipe = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        // Beside the wait: the program may fill its own pipes first.
        scope.spawn(move || pipe.write_all(stdin));
        child.wait_with_output().expect("the program ends")
    })
}

/// The object under `name` in one of the lines of JSON.
fn json_line(lines: &[u8], name: &str) -> Option<Value> {
    String::from_utf8_lossy(lines)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|value| value.get(name).cloned())
}

/// The one line on stderr of a run that must have failed.
fn failure(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    assert!(text.starts_with("vmstate: "), "{text}");
    text.trim_end().to_owned()
}

/// Fails unless a run succeeded.
fn success(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
}

/// The names in `folder`, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = tests::files::entries(folder)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    names.sort();
    names
}

/// Bytes in which every place differs from its neighbours and no block equals another.
fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A file that must hold exactly these bytes.
fn assert_holds(path: &Path, expected: &[u8]) {
    let found = fs::read(path).expect("the file is there");
    assert_eq!(found.len(), expected.len(), "length of {}", path.display());
    assert!(found == expected, "content of {}", path.display());
}
