//! qcow2 images: made, looked at, checked and repaired.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use serde_json::Value;
use tests::files::disk_folder;

use crate::{assert_holds, failure, json_line, names, run, success};

/// An image of 1 GiB called `i`, as the program makes it: header, refcount table, refcount block, L1 table, 64 KiB each.
pub(crate) fn image(folder: &Path, options: &[&str]) {
    let args = ["create", "i", "--size", "1G"];
    success(&run(folder, &[&args, options].concat(), b""));
}

/// What `info` or `list` or `check` says in JSON.
pub(crate) fn told(folder: &Path, command: &str, args: &[&str]) -> Value {
    let output = run(folder, &[&[command, "--json"], args].concat(), b"");
    json_line(&output.stdout, command).unwrap_or_else(|| panic!("{output:?}"))
}

/// Sets the refcount of a cluster of such an image.
fn set_refcount(folder: &Path, cluster: u64, refcount: u16) {
    let file = File::options().write(true).open(folder.join("i"));
    let place = 2 * 65536 + 2 * cluster;
    file.expect("the image")
        .write_all_at(&refcount.to_be_bytes(), place)
        .expect("written");
}

#[test]
fn an_image_is_what_its_options_say() {
    let folder = disk_folder();
    image(folder.path(), &["-o", "cluster_size=4k,compat=1.1"]);
    let info = told(folder.path(), "info", &["i"]);
    assert_eq!(info["virtual-size"], 1 << 30);
    assert_eq!(info["cluster-size"], 4096);
    assert_eq!(info["format-specific"]["data"]["compat"], "1.1");
    assert_eq!(info["format-specific"]["data"]["corrupt"], false);
    assert_eq!(info["snapshots"], Value::Array(Vec::new()));
    let mode = fs::metadata(folder.path().join("i")).expect("made");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600, "its owner's only");
    let text = run(folder.path(), &["info", "i"], b"").stdout;
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("virtual size: 1 GiB (1073741824 bytes)\n"));
    assert!(text.contains("\ncluster_size: 4096\n") && text.contains("\n    refcount bits: 16\n"));
    assert_eq!(names(folder.path()), ["i"]);
}

#[test]
fn a_new_image_has_no_snapshots_and_is_in_order() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    let list = run(folder.path(), &["list", "i"], b"");
    success(&list);
    assert!(list.stdout.is_empty(), "as qemu-img");
    let list = told(folder.path(), "list", &["i"]);
    assert_eq!(list["snapshots"], Value::Array(Vec::new()));
    let check = run(folder.path(), &["check", "i"], b"");
    success(&check);
    let text = String::from_utf8(check.stdout).expect("text");
    assert_eq!(
        text,
        "No errors were found on the image.\nImage end offset: 262144\n"
    );
}

#[test]
fn an_existing_file_becomes_an_image_only_by_force() {
    let folder = disk_folder();
    let path = folder.path().join("i");
    for old in [&b"something else"[..], b"QFI\xfb\0\0\0\x03"] {
        fs::write(&path, old).expect("written");
        let output = run(folder.path(), &["create", "i", "--size", "1M"], b"");
        let line = failure(&output);
        assert!(
            line.contains("--force") && line.ends_with("it is as it was"),
            "{line}"
        );
        assert_holds(&path, old);
        image(folder.path(), &["--force"]);
        assert_eq!(told(folder.path(), "info", &["i"])["format"], "qcow2");
    }
    let other = [b"KDMV\x01\0\0\0", [0; 100].as_slice()].concat();
    fs::write(&path, &other).expect("written");
    let args = ["create", "i", "--size", "1M", "--force"];
    assert!(failure(&run(folder.path(), &args, b"")).contains("a disk image (VMDK)"));
    assert_holds(&path, &other);
    assert_eq!(names(folder.path()), ["i"]);
}

#[test]
fn what_cannot_be_an_image_is_refused_by_name_and_nothing_is_written() {
    let folder = disk_folder();
    for (options, why) in [
        (&["--size", "1M", "-o", "cluster_size=3k"][..], "3072"),
        (&["--size", "1M", "-o", "bogus=1"], "bogus"),
        (&["--size", "1M", "-o", "size=2M"], "given twice"),
        (&[], "the size is missing"),
        (&["--size", "1M", "-o", "encryption=on"], "encryption"),
        (&["--size", "1M", "-o", "backing_file=b"], "format"),
        (&["--size", "1M", "-o", "refcount_bits=3"], "3 bits"),
        (&["--size", "1M", "-o", "data_file=nbd:x"], "protocol"),
        (
            &["--size", "1M", "-o", "data_file=./i"],
            "is the image itself",
        ),
        (
            &["--size", "1M", "-o", "data_file=i"],
            "is the image itself",
        ),
        (
            &["--size", "1M", "-o", "data_file=../i/../i"],
            "No such file",
        ),
        (
            &["--size", "4T", "-o", "cluster_size=512"],
            "i: create: a disk of 4398046511104 bytes is too large",
        ),
    ] {
        let output = run(folder.path(), &[&["create", "i"], options].concat(), b"");
        let line = failure(&output);
        assert!(line.contains(why), "{options:?}: {line}");
        assert!(names(folder.path()).is_empty(), "{options:?}: {line}");
    }
}

#[test]
fn an_external_data_file_is_made_with_the_image_and_not_needed_to_look_at_it() {
    let folder = disk_folder();
    let path = |name: &str| folder.path().join(name);
    image(folder.path(), &["-o", "data_file=d,data_file_raw=on"]);
    assert_eq!(names(folder.path()), ["d", "i"]);
    assert_eq!(fs::metadata(path("d")).expect("made").len(), 1 << 30);
    fs::remove_file(path("d")).expect("removed");
    let info = told(folder.path(), "info", &["i"]);
    assert_eq!(info["format-specific"]["data"]["data-file"], "d");
    assert_eq!(info["format-specific"]["data"]["data-file-raw"], true);
    success(&run(folder.path(), &["list", "i"], b""));
    success(&run(folder.path(), &["check", "i"], b""));
    let before = fs::read(path("i")).expect("the image");
    for args in [
        &["save", "i", "--name", "n"][..],
        &["load", "i", "--name", "n"],
        &["apply", "i", "n"],
        &["delete", "i", "n"],
    ] {
        let line = failure(&run(folder.path(), args, b"state"));
        assert!(line.contains("external file"), "{args:?}: {line}");
    }
    assert_holds(&path("i"), &before);
    // One that is there belongs to another.
    fs::remove_file(path("i")).expect("removed");
    fs::write(path("d"), "old").expect("written");
    let args = ["create", "i", "--size", "1M", "-o", "data_file=d"];
    assert!(failure(&run(folder.path(), &args, b"")).contains("--force"));
    assert_holds(&path("d"), b"old");
    assert_eq!(names(folder.path()), ["d"]);
    success(&run(
        folder.path(),
        &[&args[..], &["--force"]].concat(),
        b"",
    ));
    assert_eq!(fs::metadata(path("d")).expect("made").len(), 1 << 20);
}

#[test]
fn a_check_ends_as_qemu_img_does_and_a_repair_mends() {
    let folder = disk_folder();
    let check = |args: &[&str]| run(folder.path(), &[&["check", "i"], args].concat(), b"");
    let status = |args: &[&str]| check(args).status.code();
    image(folder.path(), &[]);
    assert_eq!(status(&[]), Some(0));

    set_refcount(folder.path(), 2, 2);
    set_refcount(folder.path(), 3, 9);
    let before = fs::read(folder.path().join("i")).expect("the image");
    assert_eq!(status(&[]), Some(3), "leaked clusters only");
    let report = told(folder.path(), "check", &["i"]);
    assert_eq!(
        (&report["leaks"], &report["corruptions"]),
        (&2.into(), &0.into())
    );
    assert_eq!(report["findings"].as_array().expect("a list").len(), 2);
    assert_holds(&folder.path().join("i"), &before);
    let repaired = check(&["--repair", "leaks"]);
    success(&repaired);
    let text = String::from_utf8(repaired.stdout).expect("text");
    assert!(text.contains("cluster 3 is leaked") && text.contains("Repaired: 2 leaked"));
    assert_eq!(status(&[]), Some(0));

    set_refcount(folder.path(), 3, 0);
    assert_eq!(status(&[]), Some(2), "the L1 table is not counted");
    assert_eq!(status(&["--repair", "leaks"]), Some(1), "not by that alone");
    let report = told(folder.path(), "check", &["i", "--repair", "all"]);
    assert_eq!(report["corruptions"], 0);
    assert!(report["corruptions-fixed"].as_u64() > Some(0), "{report}");
    assert_eq!(status(&[]), Some(0));
}

#[test]
fn a_check_that_could_not_be_made_ends_with_1_and_so_does_its_wrong_usage() {
    let folder = disk_folder();
    fs::write(folder.path().join("state"), [7; 1000]).expect("written");
    fs::write(folder.path().join("short"), "QFI").expect("written");
    for name in ["state", "short", "missing", "."] {
        failure(&run(folder.path(), &["check", name], b""));
    }
    for args in [
        &["check"][..],
        &["check", "state", "--repair", "bogus"],
        &["check", "state", "-U", "--repair", "all"],
    ] {
        let output = run(folder.path(), args, b"");
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(
        run(folder.path(), &["check", "--help"], b"").status.code(),
        Some(0)
    );
}

#[test]
fn a_command_for_images_refuses_what_is_none() {
    let folder = disk_folder();
    fs::write(folder.path().join("state"), [7; 1000]).expect("written");
    let vmdk = [b"KDMV\x01\0\0\0", [0; 100].as_slice()].concat();
    fs::write(folder.path().join("vmdk"), &vmdk).expect("written");
    for args in [
        &["list"][..],
        &["info"],
        &["check"],
        &["apply", "n"],
        &["delete", "n"],
        &["save", "--name", "n"],
        &["load", "--name", "n"],
    ] {
        for (file, why) in [
            ("state", "not a qcow2 image"),
            ("vmdk", "not a qcow2 image, but a disk image (VMDK)"),
            ("missing", "No such file"),
            (".", "it is a directory"),
        ] {
            let args = [&args[..1], &[file], &args[1..]].concat();
            let output = run(folder.path(), &args, b"state");
            let line = failure(&output);
            assert!(line.contains(why), "{args:?}: {line}");
            assert!(output.stdout.is_empty());
        }
    }
    assert_holds(&folder.path().join("state"), &[7; 1000]);
    assert_holds(&folder.path().join("vmdk"), &vmdk);
    assert_eq!(names(folder.path()), ["state", "vmdk"]);
}

#[test]
fn an_image_is_neither_a_state_nor_replaced_by_one() {
    let folder = disk_folder();
    image(folder.path(), &[]);
    let before = fs::read(folder.path().join("i")).expect("the image");
    for args in [
        &["save", "i"][..],
        &["save", "i", "--force"],
        &["save", "i", "--force", "--format", "raw-state"],
    ] {
        let line = failure(&run(folder.path(), args, b"state"));
        assert!(line.contains("disk image (qcow2)"), "{line}");
        assert!(line.contains("--name"), "a hint: {line}");
    }
    let loaded = run(folder.path(), &["load", "i"], b"");
    assert!(failure(&loaded).contains("--name says which"));
    assert!(loaded.stdout.is_empty());
    let loaded = run(folder.path(), &["load", "i", "--format", "raw-state"], b"");
    success(&loaded);
    assert!(loaded.stdout == before, "as it was asked for");
    assert_holds(&folder.path().join("i"), &before);
}
