//! What is not written to, not replaced, and not read.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tests::files::disk_folder;

use crate::{assert_holds, bytes, command, failure, names, run, success};

/// Saving to `name` fails with a line that says `why`, and nothing in the folder changes.
fn assert_refused(folder: &Path, name: &str, options: &[&str], why: &str) {
    let before = names(folder);
    let content = fs::metadata(folder.join(name))
        .ok()
        .filter(|found| found.is_file())
        .map(|_| fs::read(folder.join(name)).expect("readable"));
    let output = run(folder, &[&["save", name], options].concat(), b"state");
    let line = failure(&output);
    assert!(line.contains(why) && line.contains(name), "{line}");
    assert_eq!(names(folder), before);
    if let Some(content) = content {
        assert_holds(&folder.join(name), &content);
    }
}

#[test]
fn an_existing_file_is_replaced_only_by_force() {
    let folder = disk_folder();
    fs::write(folder.path().join("f"), "something else").expect("written");
    assert_refused(folder.path(), "f", &[], "--force");
    success(&run(folder.path(), &["save", "f", "--force"], b"state"));
    assert_holds(&folder.path().join("f"), b"state");
    assert_eq!(names(folder.path()), ["f"]);
}

#[test]
fn a_file_in_use_is_not_replaced_even_by_force() {
    let folder = disk_folder();
    fs::write(folder.path().join("f"), bytes(8 << 20)).expect("written");
    // A load that no task takes the bytes of holds the file.
    let mut load = command(folder.path(), &["load", "f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut first = [0];
    let stdout = load.stdout.as_mut().expect("piped");
    stdout
        .read_exact(&mut first)
        .expect("it has begun, so it holds the lock");
    assert_refused(folder.path(), "f", &["--force"], "in use");
    // Two may read.
    success(&run(folder.path(), &["load", "f"], b""));
    load.kill().expect("killed");
    load.wait().expect("gone");
    success(&run(folder.path(), &["save", "f", "--force"], b"state"));
}

#[test]
fn a_disk_image_is_not_replaced_even_by_force() {
    let folder = disk_folder();
    let images: [(&str, usize, &[u8]); 9] = [
        ("qcow2", 0, b"QFI\xfb\0\0\0\x03"),
        ("QED", 0, b"QED\0"),
        ("VMDK", 0, b"KDMV\x01\0\0\0"),
        ("VDI", 64, &[0x7f, 0x10, 0xda, 0xbe]),
        ("VHDX", 0, b"vhdxfile"),
        ("VHD", 0, b"conectix"),
        ("Parallels", 0, b"WithoutFreeSpace"),
        ("LUKS", 0, b"LUKS\xba\xbe\0\x01"),
        ("GPT", 512, b"EFI PART"),
    ];
    for (name, at, magic) in images {
        let mut image = vec![0; 4096];
        image[at..at + magic.len()].copy_from_slice(magic);
        fs::write(folder.path().join(name), image).expect("written");
        assert_refused(folder.path(), name, &["--force"], "disk image");
        let replay = ["replay", name, "--force", "--trace"];
        let trace = "builtin:qemu72-savevm-seabios-64m";
        let output = run(folder.path(), &[&replay[..], &[trace]].concat(), b"");
        assert!(failure(&output).contains("disk image"));
    }
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let folder = disk_folder();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("directory")).expect("made");
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, path("fifo"), FileType::Fifo, mode, 0).expect("made");
    let _socket = UnixListener::bind(path("socket")).expect("bound");
    symlink("nowhere", path("dangling")).expect("linked");
    for (name, kind) in [
        ("directory", "a directory"),
        ("fifo", "a FIFO"),
        ("socket", "a socket"),
        ("/dev/full", "a character device"),
        ("dangling", "leads nowhere"),
        ("missing/f", "No such file"),
        ("new/", ""),
    ] {
        assert_refused(folder.path(), name, &[], kind);
        assert_refused(folder.path(), name, &["--force"], kind);
        if name != "dangling" && name != "new/" {
            let load = run(folder.path(), &["load", name], b"");
            assert!(failure(&load).contains(kind), "load of {name}");
            assert!(load.stdout.is_empty());
        }
    }
}

#[test]
fn an_empty_file_is_no_state_to_load() {
    let folder = disk_folder();
    fs::write(folder.path().join("empty"), []).expect("written");
    let load = run(folder.path(), &["load", "empty"], b"");
    let line = failure(&load);
    assert!(line.contains("there is no state"), "{line}");
    assert!(load.stdout.is_empty());
}

#[test]
fn a_link_stays_a_link_and_its_file_is_replaced() {
    let folder = disk_folder();
    let there = disk_folder();
    let file = there.path().join("f");
    fs::write(&file, "old").expect("written");
    symlink(&file, folder.path().join("link")).expect("linked");
    success(&run(folder.path(), &["save", "link", "--force"], b"state"));
    assert_holds(&file, b"state");
    assert!(folder.path().join("link").is_symlink());
    assert_eq!(
        names(there.path()),
        ["f"],
        "the temporary file was there, and is gone"
    );
}

#[test]
fn a_file_that_appears_during_a_save_is_not_replaced() {
    for force in [&[][..], &["--force"]] {
        let folder = disk_folder();
        let mut save = command(folder.path(), &[&["save", "f"], force].concat())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        crate::stopping::wait_for_temporary(folder.path(), "f");
        fs::write(folder.path().join("f"), "another's").expect("written");
        let mut stdin = save.stdin.take().expect("piped");
        stdin.write_all(b"state").expect("it reads");
        drop(stdin);
        let output = save.wait_with_output().expect("the program ends");
        let line = failure(&output);
        assert!(line.contains("exists"), "{line}");
        assert!(!line.contains("no such file"), "there is one: {line}");
        assert_holds(&folder.path().join("f"), b"another's");
        assert_eq!(names(folder.path()), ["f"]);
    }
}

#[test]
fn what_a_crash_left_is_known_by_its_name_and_harms_no_task() {
    let folder = disk_folder();
    let mut save = command(folder.path(), &["save", "f"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let left = crate::stopping::wait_for_temporary(folder.path(), "f");
    assert_eq!(left, format!(".f.vmstate-save.{}.tmp", save.id()));
    save.kill().expect("killed");
    save.wait().expect("gone");
    assert_eq!(
        names(folder.path()),
        std::slice::from_ref(&left),
        "nothing under the final name"
    );
    success(&run(folder.path(), &["save", "f"], b"state"));
    assert_holds(&folder.path().join("f"), b"state");
    assert_eq!(names(folder.path()), [left, "f".to_owned()]);
}

#[test]
fn wrong_usage_ends_with_2_and_touches_nothing() {
    let folder = disk_folder();
    for args in [
        &[][..],
        &["save"],
        &["save", "-"],
        &["save", "f", "g"],
        &["save", "f", "--buffer", "1"],
        &["save", "f", "--workers", "0"],
        &["save", "f", "--unbuffered", "--workers", "2"],
        &["load", "f", "--length", "-1"],
        &["replay", "f"],
        &["replay", "f", "--trace", "t", "--runs", "0"],
        &["demo", "--quick", "--runs", "2"],
        &["create", "-"],
        &["create", "f", "--size", "-1"],
        &["save", "f", "--name", ""],
        &["save", "f", "--format", "qcow2"],
        &["save", "f", "--format", "vmdk"],
        &["load", "f", "--name", "n", "--format", "raw-state"],
        &["replay", "f", "--trace", "t", "-o", "cluster_size=4k"],
        &["list"],
        &["info", "f", "g"],
        &["apply", "f"],
        &["delete", "f", "n", "m"],
        &["frobnicate"],
    ] {
        let output = run(folder.path(), args, b"");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_temporary_file_of_another_process_is_neither_used_nor_removed() {
    // A process with this number crashed here before.
    let folder = disk_folder();
    let shell = "n=.f.vmstate-save.$$.tmp; echo old > $n; exec \"$0\" save f <<E\nnew\nE\n";
    let output = Command::new("sh")
        .args(["-c", shell])
        .arg(tests::program::vmstate())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("sh starts");
    success(&output);
    let names = names(folder.path());
    assert_eq!(names.len(), 2, "{names:?}");
    assert_holds(&folder.path().join(&names[0]), b"old\n");
    assert_holds(&folder.path().join("f"), b"new\n");
}
