//! States in the snapshots of qcow2 images.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::files::disk_folder;
use tests::lines::Lines;
use tests::program::vmstate;

use crate::images::{image, told};
use crate::{bytes, command, failure, json_line, names, run, success};

/// Every way to move a stream.
const WAYS: [&[&str]; 4] = [
    &[],
    &["--direct"],
    &["--unbuffered", "--direct"],
    &["--workers", "1", "--buffer", "70000"],
];

fn save(folder: &Path, name: &str, options: &[&str], stream: &[u8]) -> Output {
    run(
        folder,
        &[&["save", "i", "--name", name], options].concat(),
        stream,
    )
}

fn load(folder: &Path, name: &str, options: &[&str]) -> Output {
    run(
        folder,
        &[&["load", "i", "--name", name], options].concat(),
        b"",
    )
}

/// The names of the snapshots, in the image's order.
fn snapshots(folder: &Path) -> Vec<String> {
    let list = told(folder, "list", &["i"]);
    let list = list["snapshots"].as_array().expect("a list").clone();
    list.iter()
        .map(|snapshot| snapshot["name"].as_str().expect("text").to_owned())
        .collect()
}

/// The image is in order, with no cluster leaked.
fn assert_clean(folder: &Path) {
    let output = run(folder, &["check", "i"], b"");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
}

fn assert_loads(folder: &Path, name: &str, stream: &[u8]) {
    let loaded = load(folder, name, &[]);
    success(&loaded);
    assert!(loaded.stdout == stream, "the state of {name}");
}

#[test]
fn a_stream_saved_under_a_name_loads_back_whichever_way() {
    let folder = disk_folder();
    image(folder.path(), &["-o", "cluster_size=4k"]);
    let lengths = [1, 511, 4097, 1 << 20, 5_345_678];
    for (index, way) in WAYS.iter().enumerate() {
        for len in lengths {
            let (name, stream) = (format!("{index}-{len}"), bytes(len));
            let saved = save(folder.path(), &name, way, &stream);
            success(&saved);
            assert!(saved.stdout.is_empty(), "nothing on stdout");
            // Loaded the way after it: how a state was saved does not show.
            let other = WAYS[(index + 1) % WAYS.len()];
            let loaded = load(folder.path(), &name, other);
            success(&loaded);
            assert!(loaded.stdout == stream, "{way:?}, then {other:?}: {len}");
        }
    }
    assert_eq!(snapshots(folder.path()).len(), WAYS.len() * lengths.len());
    assert_clean(folder.path());
    assert_eq!(names(folder.path()), ["i"]);
}

#[test]
fn a_state_is_loaded_by_its_id_or_its_name_and_in_part() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    let (one, two) = (bytes(3_000_000), bytes(2_000_001));
    success(&save(folder.path(), "2", &[], &one));
    success(&save(folder.path(), "other", &[], &two));
    assert_loads(folder.path(), "1", &one);
    assert_loads(folder.path(), "other", &two);
    assert_loads(folder.path(), "2", &two); // the id comes first
    let part = load(folder.path(), "1", &["--length", "2000000"]);
    assert!(part.stdout == one[..2_000_000]);
    let longer = load(folder.path(), "1", &["--length", "3000001"]);
    assert!(failure(&longer).contains("only 3000000 bytes"));
    assert!(longer.stdout.is_empty());
    let none = load(folder.path(), "3", &[]);
    assert!(failure(&none).contains("there is no snapshot \"3\""));
}

#[test]
fn a_taken_name_is_refused_and_replaced_only_by_force() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    let (old, new) = (bytes(3_000_000), bytes(1_000_000));
    success(&save(folder.path(), "n", &[], &old));
    success(&save(folder.path(), "m", &[], &old));
    for way in WAYS {
        let line = failure(&save(folder.path(), "n", way, &new));
        assert!(line.contains("\"n\"") && line.contains("--force"), "{line}");
        assert_loads(folder.path(), "n", &old);
    }
    success(&save(folder.path(), "n", &["--force"], &new));
    assert_eq!(snapshots(folder.path()), ["m", "n"]);
    assert_loads(folder.path(), "n", &new);
    assert_loads(folder.path(), "m", &old);
    // Where there is none, it forces nothing.
    success(&save(folder.path(), "p", &["--force"], &new));
    assert_clean(folder.path());
}

#[test]
fn what_cannot_be_recorded_is_refused_and_the_image_stays() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    success(&save(folder.path(), "n", &[], &bytes(100_000)));
    let before = fs::read(folder.path().join("i")).expect("the image");
    let long = "x".repeat(256);
    for (name, stream, why) in [
        ("m", &b""[..], "there is no state"),
        (&long, b"state", "256 bytes"),
        ("n", b"state", "--force"),
    ] {
        let line = failure(&save(folder.path(), name, &[], stream));
        assert!(line.contains(why), "{line}");
        assert!(line.ends_with("it had"), "it says what is on disk: {line}");
        let after = fs::read(folder.path().join("i")).expect("the image");
        assert!(after == before, "{name}: not a byte has changed");
    }
    let missing = failure(&run(
        folder.path(),
        &["save", "none", "--name", "n"],
        b"state",
    ));
    assert!(missing.contains("none: open: No such file"), "{missing}");
}

#[test]
fn a_list_has_what_was_saved() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    let name = "a name\twith a tab";
    success(&save(folder.path(), name, &[], &bytes(596_244)));
    success(&save(folder.path(), "b", &[], &bytes(5)));
    let list = told(folder.path(), "list", &["i"]);
    let first = &list["snapshots"][0];
    assert_eq!((&first["id"], &first["name"]), (&"1".into(), &name.into()));
    assert_eq!(first["vm-state-size"], 596_244);
    assert_eq!(first["disk-size"], 1 << 30);
    assert_eq!(first["vm-clock-nsec"], 0);
    assert_eq!(first["icount"], Value::Null);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let date = first["date-sec"].as_u64().expect("a number");
    assert!(date <= now && now - date < 3600, "{date}, and it is {now}");
    let text = run(folder.path(), &["list", "i"], b"").stdout;
    let text = String::from_utf8(text).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(lines[0], "Snapshot list:");
    assert!(lines[2].starts_with("1       a name?with a tab  582 KiB "));
    assert!(lines[3].ends_with("  0000:00:00.000         --"), "{text}");
    let info = run(folder.path(), &["info", "i"], b"").stdout;
    assert!(String::from_utf8(info).expect("text").contains(&text));
}

#[test]
fn snapshots_are_applied_and_deleted_by_name_and_by_id() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    let state = bytes(2_000_000);
    for name in ["a", "b", "c"] {
        success(&save(folder.path(), name, &[], &state));
    }
    let change = |verb: &str, name: &str| run(folder.path(), &[verb, "i", name], b"");
    for (verb, name) in [("apply", "b"), ("apply", "3"), ("delete", "b")] {
        success(&change(verb, name));
        assert_clean(folder.path());
    }
    assert_eq!(snapshots(folder.path()), ["a", "c"]);
    for verb in ["apply", "delete"] {
        let line = failure(&change(verb, "b"));
        assert!(line.contains("there is no snapshot \"b\""), "{line}");
        assert!(line.ends_with("it had"), "{line}");
    }
    let done = run(folder.path(), &["delete", "i", "3", "--json"], b"");
    success(&done);
    let deleted = json_line(&done.stdout, "deleted").expect("a report");
    assert_eq!(deleted["name"], "3");
    let applied = run(folder.path(), &["apply", "i", "a", "--json"], b"");
    assert!(json_line(&applied.stdout, "applied").is_some());
    assert_loads(folder.path(), "a", &state);
    assert_eq!(snapshots(folder.path()), ["a"]);
    success(&change("delete", "a"));
    assert_clean(folder.path());
    assert!(snapshots(folder.path()).is_empty());
}

#[test]
fn a_report_tells_metadata_apart() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    let stream = bytes(20 << 20);
    let saved = save(folder.path(), "n", &["--json"], &stream);
    success(&saved);
    let report = json_line(&saved.stderr, "saved").expect("a report");
    assert_eq!(report["bytes"], stream.len());
    assert_eq!(
        (&report["file"], &report["name"]),
        (&"i".into(), &"n".into())
    );
    let count = |part: &str, name: &str| report[part][name].as_u64().expect("a number");
    let data = count("requests", "writes") - count("metadata", "writes");
    assert_eq!(data, 20, "a write for each buffer");
    let bytes = count("requests", "written_bytes") - count("metadata", "written_bytes");
    assert_eq!(bytes, stream.len() as u64);
    assert!(count("metadata", "writes") > 2, "tables, record and header");
    let loaded = load(folder.path(), "n", &["--json"]);
    assert!(loaded.stdout == stream, "JSON goes to stderr");
    let report = json_line(&loaded.stderr, "loaded").expect("a report");
    let count = |part: &str| report[part]["reads"].as_u64().expect("a number");
    assert_eq!(count("requests") - count("metadata"), 20);
    // A plain file has none.
    let plain = run(folder.path(), &["save", "f", "--json"], &stream);
    let report = json_line(&plain.stderr, "saved").expect("a report");
    assert_eq!(report["metadata"], Value::Null);
}

/// A save into a snapshot that goes on for as long as its stdin is open.
struct Begun {
    child: Child,
    lines: Lines<std::process::ChildStderr>,
}

impl Begun {
    /// Starts it, and waits until it holds the image.
    fn new(folder: &Path, options: &[&str]) -> Self {
        let args = [&["save", "i", "--name", "new", "--json"], options].concat();
        let mut child = command(folder, &args)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = child.stderr.take().expect("piped");
        let mut begun = Self {
            child,
            lines: Lines::new(stderr),
        };
        assert!(begun.next()["started"]["name"] == "new");
        begun
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next_line().expect("no error");
        serde_json::from_str(&line.expect("it goes on")).expect("JSON")
    }

    /// Gives it some of the stream, and waits until it has taken most of that.
    fn give(&mut self, stream: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(stream).expect("it reads");
        let enough = stream.len() as u64 / 2;
        while self.next()["progress"]["bytes"].as_u64() < Some(enough) {}
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), signal).expect("sent");
    }

    /// Waits for its end; its last line.
    fn end(mut self) -> (Option<i32>, Value) {
        let mut last = Value::Null;
        while let Some(line) = self.lines.next_line().expect("no error") {
            last = serde_json::from_str(&line).expect("JSON");
        }
        let status = self.child.wait().expect("the program ends");
        (status.code(), last)
    }
}

#[test]
fn an_image_that_is_written_is_kept_from_others_unless_they_insist() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    let state = bytes(3_000_000);
    success(&save(folder.path(), "old", &[], &state));
    let begun = Begun::new(folder.path(), &[]);
    let held = tests::locks::of_process(begun.child.id(), &folder.path().join("i"));
    assert_eq!(
        held.into_iter().collect::<Vec<_>>(),
        [100, 101, 103, 201, 203]
    );
    for args in [
        &["list", "i"][..],
        &["info", "i"],
        &["check", "i"],
        &["check", "i", "--repair", "all"],
        &["load", "i", "--name", "old"],
        &["save", "i", "--name", "x"],
        &["apply", "i", "old"],
        &["delete", "i", "old"],
        &["create", "i", "--size", "1M", "--force"],
    ] {
        let line = failure(&run(folder.path(), args, b"state"));
        assert!(line.contains("in use"), "{args:?}: {line}");
    }
    for args in [
        &["list", "i", "-U"][..],
        &["info", "i", "-U"],
        &["load", "i", "--name", "old", "-U"],
    ] {
        success(&run(folder.path(), args, b""));
    }
    // What it finds may be wrong meanwhile, but it looks.
    let checked = run(folder.path(), &["check", "i", "-U", "--json"], b"");
    assert!(json_line(&checked.stdout, "check").is_some());
    begun.signal(Signal::INT);
    assert_eq!(begun.end().0, Some(1));
    assert_eq!(snapshots(folder.path()), ["old"]);
}

#[test]
fn an_image_that_is_read_may_be_read_by_others_and_not_written() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    success(&save(folder.path(), "old", &[], &bytes(8 << 20)));
    let mut reader = command(folder.path(), &["load", "i", "--name", "old"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let stdout = reader.stdout.as_mut().expect("piped");
    stdout.read_exact(&mut [0]).expect("it has begun");
    let held = tests::locks::of_process(reader.id(), &folder.path().join("i"));
    assert_eq!(held.into_iter().collect::<Vec<_>>(), [100, 201, 203]);
    success(&run(folder.path(), &["list", "i"], b""));
    success(&load(folder.path(), "old", &[]));
    let line = failure(&save(folder.path(), "new", &[], b"state"));
    assert!(line.contains("in use") && line.ends_with("nothing was written"));
    reader.kill().expect("killed");
    reader.wait().expect("gone");
}

#[test]
fn a_signal_in_the_middle_leaves_the_image_as_it_was() {
    for (sent, name) in [
        (Signal::TERM, "SIGTERM"),
        (Signal::INT, "SIGINT"),
        (Signal::HUP, "SIGHUP"),
    ] {
        for way in WAYS {
            let folder = disk_folder();
            image(folder.path(), &["-o", "cluster_size=4k"]);
            let old = bytes(1_000_000);
            success(&save(folder.path(), "new", &[], &old));
            let len = || fs::metadata(folder.path().join("i")).expect("it").len();
            let before = len();
            let mut begun = Begun::new(folder.path(), &[way, &["--force"]].concat());
            begun.give(&bytes(6 << 20));
            begun.signal(sent);
            let (status, last) = begun.end();
            assert_eq!(status, Some(1), "{last}");
            let cause = last["error"]["cause"].as_str().expect("a cause");
            assert!(cause.contains(name), "{last}");
            let left = last["error"]["on_disk"].as_str().expect("words");
            assert!(left.ends_with("it had"), "nothing is leaked: {left}");
            assert_clean(folder.path());
            assert_eq!(snapshots(folder.path()), ["new"]);
            assert_loads(folder.path(), "new", &old);
            // The space is the host's again, and what was saved does not lengthen the file.
            assert_eq!(len(), before);
            success(&save(folder.path(), "next", &[], &bytes(3 << 20)));
            assert_clean(folder.path());
        }
    }
}

#[test]
fn a_signal_at_the_end_finds_a_whole_snapshot_or_none() {
    for way in WAYS {
        let folder = disk_folder();
        image(folder.path(), &[]);
        let (old, new) = (bytes(1_000_000), bytes(3 << 20));
        success(&save(folder.path(), "new", &[], &old));
        let mut begun = Begun::new(folder.path(), &[way, &["--force"]].concat());
        begun.give(&new);
        drop(begun.child.stdin.take());
        begun.signal(Signal::INT);
        let (status, last) = begun.end();
        assert_clean(folder.path());
        assert_eq!(snapshots(folder.path()), ["new"]);
        match status {
            Some(0) => assert_loads(folder.path(), "new", &new),
            _ => {
                assert_eq!((status, &last["error"]["file"]), (Some(1), &"i".into()));
                assert_loads(folder.path(), "new", &old);
            }
        }
    }
}

#[test]
fn a_stream_that_cannot_be_read_leaves_the_image_as_it_was() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    for way in ["", "--unbuffered"] {
        let output = Command::new("sh")
            .args(["-c", &format!("exec \"$0\" save i --name n {way} < .")])
            .arg(vmstate())
            .current_dir(folder.path())
            .output()
            .expect("sh starts");
        let line = failure(&output);
        assert!(line.contains("stdin: read at offset 0"), "{line}");
        assert!(line.ends_with("it had"), "{line}");
        assert_clean(folder.path());
        assert!(snapshots(folder.path()).is_empty());
    }
}

#[test]
fn a_killed_save_costs_space_and_nothing_else() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    let old = bytes(1_000_000);
    success(&save(folder.path(), "old", &[], &old));
    let mut begun = Begun::new(folder.path(), &["--direct"]);
    begun.give(&bytes(20 << 20));
    begun.signal(Signal::KILL);
    assert_eq!(begun.end().0, None);
    let status = run(folder.path(), &["check", "i"], b"").status.code();
    assert!(status == Some(0) || status == Some(3), "{status:?}");
    success(&run(
        folder.path(),
        &["check", "i", "--repair", "leaks"],
        b"",
    ));
    assert_clean(folder.path());
    assert_eq!(snapshots(folder.path()), ["old"]);
    assert_loads(folder.path(), "old", &old);
}

#[test]
fn a_disk_that_is_full_leaves_the_image_as_it_was() {
    for way in ["", "--direct", "--unbuffered", "--workers 1"] {
        let folder = disk_folder();
        image(folder.path(), &[]);
        let old = bytes(100_000);
        success(&save(folder.path(), "old", &[], &old));
        // Files may have 8192 blocks of 512 bytes.
        let script = format!("ulimit -f 8192; exec \"$0\" save i --name new {way}");
        let mut shell = Command::new("sh")
            .args(["-c", &script])
            .arg(vmstate())
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh starts");
        let mut stdin = shell.stdin.take().expect("piped");
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(&bytes(12 << 20)));
            shell.wait_with_output().expect("it ends")
        });
        let line = failure(&output);
        assert!(line.contains("File too large"), "{way}: {line}");
        assert!(line.ends_with("it had"), "{way}: {line}");
        assert_clean(folder.path());
        assert_eq!(snapshots(folder.path()), ["old"]);
        assert_loads(folder.path(), "old", &old);
    }
}
