//! Nothing that is incomplete is reported as complete: streams, states, outputs.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use tests::files::disk_folder;

use crate::failures::shell;
use crate::stopping::wait_for_temporary;
use crate::{assert_holds, bytes, command, failure, json_line, names, run, success};

/// A stream that begins as one of QEMU's, with `memory` in it.
fn qemu_stream(memory: &[u8], description: Option<&str>) -> Vec<u8> {
    let mut stream = b"QEVM\0\0\0\x03\x07\0\0\0\x02pc".to_vec();
    stream.extend_from_slice(memory);
    stream.extend_from_slice(&[0x7e, 0, 0, 0, 2, 0]);
    if let Some(json) = description {
        stream.push(6);
        stream.extend_from_slice(&(json.len() as u32).to_be_bytes());
        stream.extend_from_slice(json.as_bytes());
    }
    stream
}

/// A description of 2 MB.
fn description() -> String {
    let device = r#"{"name": "serial", "vmsd_name": "isa {[\"}", "fields": [1, true]}"#;
    let devices = vec![device; 30_000].join(", ");
    format!(r#"{{"page_size": 4096, "devices": [{devices}]}}"#)
}

/// An image with a snapshot `old`.
fn image(folder: &Path) {
    success(&run(folder, &["create", "i", "--size", "1M"], b""));
    success(&run(folder, &["save", "i", "--name", "old"], b"old state"));
}

fn snapshots(folder: &Path) -> Vec<String> {
    let output = run(folder, &["list", "i", "--json"], b"");
    let list = json_line(&output.stdout, "list").expect("a list");
    let snapshots = list["snapshots"].as_array().expect("snapshots").clone();
    let name = |snapshot: &serde_json::Value| snapshot["name"].as_str().expect("a name").to_owned();
    snapshots.iter().map(name).collect()
}

#[test]
fn an_empty_stream_is_refused_and_what_was_there_stays() {
    for way in [&[][..], &["--direct"], &["--unbuffered"]] {
        let folder = disk_folder();
        let line = failure(&run(folder.path(), &[&["save", "f"], way].concat(), b""));
        assert!(line.contains("stdin: read: it is empty"), "{line}");
        assert!(names(folder.path()).is_empty(), "nothing is left");
        fs::write(folder.path().join("f"), "old").expect("written");
        let forced = [&["save", "f", "--force"], way].concat();
        let line = failure(&run(folder.path(), &forced, b""));
        assert!(line.contains("the file is as it was"), "{line}");
        assert_holds(&folder.path().join("f"), b"old");
        assert_eq!(names(folder.path()), ["f"]);
    }
}

#[test]
fn a_closed_stdin_is_an_error_and_no_empty_stream() {
    let folder = disk_folder();
    for script in ["exec \"$0\" save f <&-", "exec \"$0\" save f <&- >&-"] {
        let line = failure(&shell(folder.path(), script));
        assert!(line.contains("stdin: read: it is closed"), "{line}");
    }
    let line = failure(&shell(folder.path(), "exec \"$0\" save f </dev/null"));
    assert!(line.contains("it is empty"), "{line}");
    assert!(names(folder.path()).is_empty(), "nothing was written");
}

#[test]
fn a_closed_stdout_is_an_error_where_the_output_is_what_counts() {
    let folder = disk_folder();
    fs::write(folder.path().join("f"), "state").expect("written");
    image(folder.path());
    for args in [
        "load f",
        "load i --name old",
        "list i",
        "info i",
        "check i",
        "check --repair all i",
    ] {
        let closed = format!("exec \"$0\" {args} >&-");
        let line = failure(&shell(folder.path(), &closed));
        assert!(line.contains("stdout: write: it is closed"), "{line}");
        let discarded = format!("exec \"$0\" {args} >/dev/null");
        success(&shell(folder.path(), &discarded));
    }
}

#[test]
fn a_save_of_another_length_than_the_given_one_fails_and_changes_nothing() {
    let stream = bytes(3_000_000);
    for way in [&[][..], &["--direct"], &["--unbuffered"]] {
        let folder = disk_folder();
        let save = |length: &str| {
            let args = ["save", "f", "--force", "--length", length];
            run(folder.path(), &[&args, way].concat(), &stream)
        };
        success(&save("3000000"));
        assert_holds(&folder.path().join("f"), &stream);
        fs::write(folder.path().join("f"), "old").expect("written");
        let line = failure(&save("3000001"));
        assert!(
            line.contains("ended after 3000000 of the 3000001"),
            "{line}"
        );
        let line = failure(&save("2999999"));
        assert!(line.contains("longer than the 2999999"), "{line}");
        assert_eq!(save("0").status.code(), Some(2), "wrong usage");
        assert_holds(&folder.path().join("f"), b"old");
        assert_eq!(names(folder.path()), ["f"]);
    }
    let folder = disk_folder();
    image(folder.path());
    for length in ["3000001", "2999999"] {
        let args = ["save", "i", "--name", "new", "--length", length];
        failure(&run(folder.path(), &args, &stream));
        assert_eq!(snapshots(folder.path()), ["old"]);
    }
    let args = ["save", "i", "--name", "new", "--length", "3000000"];
    success(&run(folder.path(), &args, &stream));
    assert_eq!(snapshots(folder.path()), ["old", "new"]);
}

#[test]
fn a_qemu_stream_is_saved_only_with_its_end() {
    let whole = qemu_stream(&bytes(3_000_000), Some(&description()));
    for way in [&[][..], &["--direct"], &["--unbuffered"]] {
        let folder = disk_folder();
        let save = [&["save", "f", "--force"], way].concat();
        let saved = run(folder.path(), &save, &whole);
        success(&saved);
        let text = String::from_utf8_lossy(&saved.stderr).into_owned();
        assert_eq!(text.lines().count(), 1, "no warning: {text}");
        assert_holds(&folder.path().join("f"), &whole);
        for cut in [4, 8, 100, 1_000_000, 3_100_000, whole.len() - 1] {
            let line = failure(&run(folder.path(), &save, &whole[..cut]));
            assert!(line.contains("cut off"), "{line}");
            assert!(line.contains("--accept-truncated"), "{line}");
            assert_holds(&folder.path().join("f"), &whole);
        }
        let longer = [&whole[..], b"x"].concat();
        failure(&run(folder.path(), &save, &longer));
        let accept = [&save[..], &["--accept-truncated"]].concat();
        let cut = &whole[..1_000_000];
        let saved = run(folder.path(), &accept, cut);
        success(&saved);
        let text = String::from_utf8_lossy(&saved.stderr).into_owned();
        assert!(text.starts_with("vmstate: warning: stdin: "), "{text}");
        assert_holds(&folder.path().join("f"), cut);
    }
    let folder = disk_folder();
    image(folder.path());
    let save = ["save", "i", "--name", "new"];
    failure(&run(folder.path(), &save, &whole[..1_000_000]));
    assert_eq!(snapshots(folder.path()), ["old"]);
    success(&run(folder.path(), &save, &whole));
    assert_eq!(snapshots(folder.path()), ["old", "new"]);
}

#[test]
fn a_qemu_stream_without_a_description_is_saved_with_a_warning() {
    let folder = disk_folder();
    let stream = qemu_stream(&bytes(100_000), None);
    let saved = run(folder.path(), &["save", "f", "--json"], &stream);
    success(&saved);
    let warning = json_line(&saved.stderr, "warning").expect("a warning");
    let cause = warning["cause"].as_str().expect("a cause");
    assert!(cause.contains("without a description"), "{cause}");
    assert_holds(&folder.path().join("f"), &stream);
}

/// A load that has begun and waits for its reader.
fn begun_load(folder: &Path, args: &[&str]) -> (Child, Vec<u8>) {
    let mut load = command(folder, args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut first = vec![0; 1000];
    let stdout = load.stdout.as_mut().expect("piped");
    stdout.read_exact(&mut first).expect("it has begun");
    (load, first)
}

#[test]
fn a_file_that_becomes_shorter_while_it_is_loaded_is_an_error() {
    let stream = bytes(40 << 20);
    for way in [&[][..], &["--direct"], &["--unbuffered"], &["-U"]] {
        let folder = disk_folder();
        let cut = |file: &str, len: u64| {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(folder.path().join(file));
            file.expect("opens").set_len(len).expect("cut");
        };
        let check = |args: &[&str], file: &str, len: u64| {
            let (load, mut loaded) = begun_load(folder.path(), &[args, way].concat());
            cut(file, len);
            let output = load.wait_with_output().expect("the program ends");
            let line = failure(&output);
            assert!(line.contains("the file has become shorter"), "{line}");
            loaded.extend_from_slice(&output.stdout);
            assert!(loaded.len() < stream.len());
            assert!(stream.starts_with(&loaded), "no byte is invented");
        };
        fs::write(folder.path().join("f"), &stream).expect("written");
        check(&["load", "f"], "f", 35 << 20);
        image(folder.path());
        success(&run(
            folder.path(),
            &["save", "i", "--name", "new"],
            &stream,
        ));
        check(&["load", "i", "--name", "new"], "i", 35 << 20);
    }
}

#[test]
fn a_file_that_becomes_longer_while_it_is_loaded_is_no_complete_state() {
    let folder = disk_folder();
    let stream = bytes(20 << 20);
    let append = || {
        let file = fs::OpenOptions::new()
            .append(true)
            .open(folder.path().join("f"));
        file.expect("opens").write_all(b"more").expect("appended");
    };
    fs::write(folder.path().join("f"), &stream).expect("written");
    let (load, _) = begun_load(folder.path(), &["load", "f"]);
    append();
    let line = failure(&load.wait_with_output().expect("the program ends"));
    assert!(line.contains("the file has become longer"), "{line}");
    let (load, _) = begun_load(folder.path(), &["load", "f", "-U"]);
    append();
    success(&load.wait_with_output().expect("the program ends"));
}

/// A save that has begun and waits for its stream.
fn begun_save(folder: &Path, args: &[&str]) -> Child {
    let mut save = command(folder, &[args, &["--json"]].concat())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut started = [0; 10];
    let stderr = save.stderr.as_mut().expect("piped");
    stderr.read_exact(&mut started).expect("it has begun");
    save
}

#[test]
fn an_image_that_is_replaced_during_a_save_is_noticed() {
    for way in [&[][..], &["--direct"], &["--unbuffered"]] {
        let folder = disk_folder();
        image(folder.path());
        fs::rename(folder.path().join("i"), folder.path().join("other")).expect("renamed");
        image(folder.path());
        let first = fs::read(folder.path().join("other")).expect("read");
        let save = begun_save(
            folder.path(),
            &[&["save", "i", "--name", "new"], way].concat(),
        );
        fs::rename(folder.path().join("other"), folder.path().join("i")).expect("renamed");
        let mut save = save;
        let mut stdin = save.stdin.take().expect("piped");
        stdin.write_all(b"a new state").expect("it reads");
        drop(stdin);
        let output = save.wait_with_output().expect("the program ends");
        assert_eq!(output.status.code(), Some(1));
        let error = json_line(&output.stderr, "error").expect("an error");
        let cause = error["cause"].as_str().expect("a cause");
        assert!(
            cause.contains("another file has taken its place"),
            "{cause}"
        );
        assert_holds(&folder.path().join("i"), &first);
        assert_eq!(names(folder.path()), ["i"]);
    }
}

#[test]
fn a_file_that_is_replaced_during_a_forced_save_is_not_overwritten() {
    let folder = disk_folder();
    fs::write(folder.path().join("f"), "old").expect("written");
    let mut save = begun_save(folder.path(), &["save", "f", "--force"]);
    fs::write(folder.path().join("g"), "other").expect("written");
    fs::rename(folder.path().join("g"), folder.path().join("f")).expect("renamed");
    let mut stdin = save.stdin.take().expect("piped");
    stdin.write_all(b"a new state").expect("it reads");
    drop(stdin);
    let output = save.wait_with_output().expect("the program ends");
    let error = json_line(&output.stderr, "error").expect("an error");
    let left = error["on_disk"].as_str().expect("what is left");
    let expected =
        "another file has taken the place of the old one, the temporary file was removed";
    assert_eq!(left, expected);
    assert_holds(&folder.path().join("f"), b"other");
    assert_eq!(names(folder.path()), ["f"]);
}

#[test]
fn a_temporary_file_that_cannot_be_removed_is_named() {
    let folder = disk_folder();
    let mut save = command(folder.path(), &["save", "f"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let temporary = wait_for_temporary(folder.path(), "f");
    // A folder of that name cannot be unlinked.
    fs::remove_file(folder.path().join(&temporary)).expect("removed");
    fs::create_dir(folder.path().join(&temporary)).expect("made");
    drop(save.stdin.take());
    let line = failure(&save.wait_with_output().expect("the program ends"));
    assert!(
        line.contains("there is no such file, the temporary file"),
        "{line}"
    );
    assert!(
        line.contains(&temporary) && line.contains("could not be removed"),
        "{line}"
    );
    assert_eq!(names(folder.path()), [temporary]);
}

#[test]
fn a_result_that_cannot_be_printed_says_what_is_done() {
    let folder = disk_folder();
    image(folder.path());
    for (args, done) in [
        ("create c --size 1M", "the image is complete"),
        ("create d --size 1M --json", "the image is complete"),
        ("list i", "no file was changed"),
        ("info i", "no file was changed"),
        ("check i", "no file was changed"),
        ("check i --repair all", "the repair is over"),
        ("load i --name old", "no file was changed"),
    ] {
        let full = shell(folder.path(), &format!("exec \"$0\" {args} >/dev/full"));
        let line = failure_of(&full, args);
        assert!(
            line.contains("stdout") && line.contains("No space left"),
            "{line}"
        );
        assert!(line.contains(done), "{line}");
    }
    assert_eq!(names(folder.path()), ["c", "d", "i"]);
    let help = shell(folder.path(), "exec \"$0\" --help >/dev/full");
    assert_eq!(help.status.code(), Some(1));
}

#[test]
fn a_command_with_too_few_descriptors_succeeds_or_ends_with_a_message() {
    let (mut failed, mut done) = (0, 0);
    for limit in 12..32 {
        let folder = disk_folder();
        fs::write(folder.path().join("s"), "a state").expect("written");
        let script = format!("ulimit -n {limit}; exec \"$0\" save f < s");
        let output = shell(folder.path(), &script);
        match output.status.code() {
            Some(0) => {
                done += 1;
                assert_holds(&folder.path().join("f"), b"a state");
            }
            _ => {
                failed += 1;
                let line = failure(&output);
                assert!(line.contains("Too many open files"), "{line}");
                assert_eq!(names(folder.path()), ["s"]);
            }
        }
    }
    assert!(failed > 0 && done > 0, "{failed} failed, {done} done");
}

#[test]
fn signals_need_no_watch_of_epoll() {
    // A watch may be refused at any time (fs.epoll.max_user_watches), and then no signal would stop the command.
    let folder = disk_folder();
    let mut save = begun_save(folder.path(), &["save", "f"]);
    let of_process = format!("/proc/{}", save.id());
    let mut watched = 0;
    for entry in fs::read_dir(format!("{of_process}/fd")).expect("its descriptors") {
        let number = entry.expect("a descriptor").file_name();
        let number = number.to_str().expect("a number");
        let link = fs::read_link(format!("{of_process}/fd/{number}")).expect("a link");
        if link.to_string_lossy().contains("eventpoll") {
            let info = fs::read_to_string(format!("{of_process}/fdinfo/{number}"));
            let info = info.expect("what epoll watches");
            watched += info.lines().filter(|line| line.starts_with("tfd:")).count();
        }
    }
    drop(save.stdin.take());
    save.wait().expect("the program ends");
    assert_eq!(watched, 1, "the context's own wake-ups, and nothing else");
}

/// The line on stderr of a run that must have failed, in words or in JSON.
fn failure_of(output: &std::process::Output, args: &str) -> String {
    match args.ends_with("--json") {
        false => failure(output),
        true => {
            assert_eq!(output.status.code(), Some(1), "{args}");
            json_line(&output.stderr, "error")
                .expect("an error")
                .to_string()
        }
    }
}
