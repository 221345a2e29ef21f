//! What the system refuses in the middle.

use std::fs;
use std::io::Read;
use std::process::{Command, Output, Stdio};

use tests::files::disk_folder;
use tests::program::vmstate;

use crate::{assert_holds, bytes, command, failure, names};

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
