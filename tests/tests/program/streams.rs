//! What goes in comes out.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use tests::files::disk_folder;

use crate::{assert_holds, bytes, command, failure, json_line, names, run, success};

/// Every way to move a stream.
const WAYS: [&[&str]; 7] = [
    &[],
    &["--direct"],
    &["--unbuffered"],
    &["--unbuffered", "--direct"],
    &["--workers", "1"],
    &["--direct", "--workers", "1", "--buffer", "64K"],
    &["--direct", "--workers", "3", "--buffer", "5000"],
];

#[test]
fn a_saved_stream_is_the_file_and_loads_back_whichever_way() {
    let folder = disk_folder();
    let lengths = [1, 511, 512, 4097, 32_768, 32_769, 1 << 20, 12_345_678];
    for (index, way) in WAYS.iter().enumerate() {
        for len in lengths {
            let stream = bytes(len);
            let name = format!("{index}-{len}");
            let saved = run(folder.path(), &[&["save", &name], *way].concat(), &stream);
            success(&saved);
            assert!(saved.stdout.is_empty(), "nothing on stdout");
            assert_holds(&folder.path().join(&name), &stream);
            // Loaded the way after it: how a state was saved does not show.
            let other = WAYS[(index + 1) % WAYS.len()];
            let loaded = run(folder.path(), &[&["load", &name], other].concat(), b"");
            success(&loaded);
            assert!(
                loaded.stdout == stream,
                "{way:?} then {other:?}, {len} bytes"
            );
            fs::remove_file(folder.path().join(&name)).expect("removed");
        }
    }
    assert!(names(folder.path()).is_empty(), "no temporary file is left");
}

#[test]
fn a_sender_in_small_pieces_makes_the_same_file() {
    for way in [&["--direct"][..], &["--direct", "--unbuffered"]] {
        let folder = disk_folder();
        let stream = bytes(1_000_003);
        let mut child = command(folder.path(), &[&["save", "f", "--json"], way].concat())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut pipe = child.stdin.take().expect("piped");
        for piece in stream.chunks(777) {
            pipe.write_all(piece).expect("the program reads");
        }
        drop(pipe);
        let output = child.wait_with_output().expect("the program ends");
        success(&output);
        assert_holds(&folder.path().join("f"), &stream);
        if way.contains(&"--unbuffered") {
            let saved = json_line(&output.stderr, "saved").expect("a report");
            let pieces = stream.len().div_ceil(32_768);
            assert_eq!(
                saved["pieces"], pieces,
                "pieces do not depend on the sender"
            );
        }
    }
}

#[test]
fn unbuffered_costs_a_request_for_each_32768_bytes() {
    let folder = disk_folder();
    let stream = bytes(10 * 32_768 + 1_000);
    let output = run(
        folder.path(),
        &["save", "f", "--unbuffered", "--json"],
        &stream,
    );
    success(&output);
    let saved = json_line(&output.stderr, "saved").expect("a report");
    assert_eq!(saved["pieces"], 11);
    assert_eq!(saved["requests"]["writes"], 11);
    assert_eq!(
        saved["requests"]["reads"], 0,
        "cached files take any length"
    );
    assert_eq!(saved["requests"]["written_bytes"], stream.len());
    let output = run(folder.path(), &["load", "f", "--unbuffered", "--json"], b"");
    let loaded = json_line(&output.stderr, "loaded").expect("a report");
    assert_eq!(loaded["requests"]["reads"], 11);
}

#[test]
fn buffers_are_what_reaches_the_disk() {
    let folder = disk_folder();
    let stream = bytes((5 << 20) + 1);
    let output = run(folder.path(), &["save", "f", "--json"], &stream);
    let saved = json_line(&output.stderr, "saved").expect("a report");
    assert_eq!(saved["bytes"], stream.len());
    assert_eq!(
        saved["requests"]["writes"], 6,
        "five full buffers and a byte"
    );
    let output = run(folder.path(), &["load", "f", "--json"], b"");
    assert!(
        output.stdout == stream,
        "JSON goes to stderr, the stream to stdout"
    );
    let loaded = json_line(&output.stderr, "loaded").expect("a report");
    assert_eq!(loaded["requests"]["reads"], 6);
}

#[test]
fn a_length_loads_so_many_bytes_and_a_shorter_state_is_an_error() {
    let folder = disk_folder();
    let stream = bytes(3_000_000);
    fs::write(folder.path().join("f"), &stream).expect("written");
    for way in [&["--direct"][..], &["--unbuffered"]] {
        let load = |length: &str| {
            run(
                folder.path(),
                &[&["load", "f", "-", "--length", length], way].concat(),
                b"",
            )
        };
        let exact = load("3000000");
        success(&exact);
        assert!(exact.stdout == stream);
        let part = load("2000001");
        success(&part);
        assert!(part.stdout == stream[..2_000_001]);
        let longer = load("3000001");
        assert!(failure(&longer).contains("only 3000000 bytes"));
        assert!(longer.stdout.is_empty(), "found out before the first byte");
    }
}

#[test]
fn the_state_of_a_machine_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = disk_folder();
    success(&run(folder.path(), &["save", "f"], b"state"));
    let mode = folder
        .path()
        .join("f")
        .metadata()
        .expect("saved")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}
