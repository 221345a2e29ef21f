//! What a refused command leaves of an image: every byte. And persistent bitmaps, which tell the truth or say that they do not.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use block_core::{CacheMode, DiskOffset, Preallocation, Truncate, WriteFlags, ZeroFlags};
use serde_json::Value;
use tests::files::disk_folder;
use tests::images::Images;
use tests::program::vmstate;
use tests::qemu_img::{check_is_clean, json, qemu_img};
use tests::tools::{self, Need};

const IMG: Need = Need::Tool("qemu-img");

fn main() -> ExitCode {
    tools::main(vec![
        tools::trial(
            "a_refused_command_leaves_every_byte_of_any_kind_of_image",
            &[IMG],
            refused,
        ),
        tools::trial(
            "snapshots_and_states_leave_the_bitmaps_valid",
            &[IMG],
            snapshots,
        ),
        tools::trial(
            "each_change_of_the_disk_marks_the_bitmaps_first",
            &[IMG],
            changes,
        ),
        tools::trial(
            "a_snapshot_is_not_applied_under_bitmaps",
            &[IMG],
            not_applied,
        ),
    ])
}

/// A kind of image, and what makes one called `i` in a folder.
type Kind = (&'static str, fn(&Path));

const KINDS: [Kind; 8] = [
    ("version 2", |at| make(at, "compat=0.10")),
    ("version 3", |at| make(at, "compat=1.1")),
    ("extended L2 entries", |at| make(at, "extended_l2=on")),
    ("lazy refcounts", |at| make(at, "lazy_refcounts=on")),
    ("a backing file", |at| {
        img(at, &["create", "-q", "-f", "raw", "base", "8M"]);
        make(at, "backing_file=base,backing_fmt=raw");
    }),
    ("bitmaps", |at| {
        make(at, "compat=1.1");
        img(at, &["bitmap", "--add", "i", "b0"]);
        img(at, &["bitmap", "--add", "-g", "4096", "i", "b1"]);
    }),
    ("an autoclear feature that is not known", |at| {
        make(at, "compat=1.1");
        let mut bytes = fs::read(at.join("i")).expect("readable");
        bytes[88] = 0x80;
        fs::write(at.join("i"), bytes).expect("written");
    }),
    ("bitmaps and an autoclear feature that is not known", |at| {
        make(at, "compat=1.1");
        img(at, &["bitmap", "--add", "i", "b0"]);
        let mut bytes = fs::read(at.join("i")).expect("readable");
        bytes[88] |= 0x80;
        fs::write(at.join("i"), bytes).expect("written");
    }),
];

/// Each command, and a word of the reason why it is refused.
const REFUSED: [(&[&str], &str); 8] = [
    (&["delete", "i", "nosuch"], "nosuch"),
    (&["apply", "i", "nosuch"], "nosuch"),
    (&["save", "i", "--name", "a"], "--force"),
    (&["save", "i"], "--name"),
    (&["create", "i", "--size", "1M"], "--force"),
    (
        &[
            "create",
            "i",
            "--size",
            "1M",
            "--force",
            "-o",
            "cluster_size=3",
        ],
        "clusters of 3",
    ),
    (&["load", "i", "--name", "nosuch"], "nosuch"),
    (&["check", "i", "--repair", "some"], "some"),
];

fn refused() {
    for (kind, make) in KINDS {
        let folder = disk_folder();
        make(folder.path());
        let before = fs::read(folder.path().join("i")).expect("readable");
        for (args, reason) in REFUSED {
            let output = run(folder.path(), args, b"state");
            let line = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{kind}: {args:?}: {line}");
            assert!(line.contains(reason), "{kind}: {args:?}: {line}");
            let after = fs::read(folder.path().join("i")).expect("readable");
            assert!(after == before, "{kind}: {args:?} changed the image");
        }
    }
}

fn snapshots() {
    let folder = with_bitmaps();
    let path = folder.path().join("i");
    succeeds(folder.path(), &["save", "i", "--name", "s"], b"a state");
    succeeds(folder.path(), &["delete", "i", "a"], b"");
    let flags = bitmap_flags(&path);
    assert_eq!(
        flags,
        [("b0", vec!["auto"]), ("b1", vec!["auto"])].map(owned)
    );
    check_is_clean(&path, "after a save and a delete");
    // QEMU uses both: it takes bits from one that is valid only.
    let merge = ["bitmap", "--merge", "b1", "i", "b0"];
    img(folder.path(), &merge);
}

fn changes() {
    type Change = (&'static str, fn(&Images, &Path));
    let list: [Change; 6] = [
        ("a write", |images, path| {
            images.run(async {
                let node = images.open(path, CacheMode::Writeback).await;
                let written = node.pwrite(DiskOffset(0), &[1; 512], WriteFlags::default());
                written.await.expect("written");
                node.close().await.expect("closed");
            });
        }),
        ("zeroes", |images, path| {
            images.run(async {
                let node = images.open(path, CacheMode::Writeback).await;
                let zeroed = node.pwrite_zeroes(DiskOffset(0), 1 << 16, ZeroFlags::default());
                zeroed.await.expect("zeroed");
                node.close().await.expect("closed");
            });
        }),
        ("a discard", |images, path| {
            images.run(async {
                let node = images.open(path, CacheMode::Writeback).await;
                node.pdiscard(DiskOffset(0), 1 << 16)
                    .await
                    .expect("discarded");
                node.close().await.expect("closed");
            });
        }),
        ("a longer disk", |images, path| {
            images.run(async {
                let node = images.open(path, CacheMode::Writeback).await;
                node.truncate(to(9 << 20)).await.expect("longer");
                node.close().await.expect("closed");
            });
        }),
        ("a shorter disk", |images, path| {
            images.run(async {
                let node = images.open(path, CacheMode::Writeback).await;
                node.truncate(to(7 << 20)).await.expect("shorter");
                node.close().await.expect("closed");
            });
        }),
        ("a compressed write", |images, path| {
            images.run(async {
                let (node, compressor) = images.open_to_compress(path).await;
                let bytes = vec![1; 1 << 16];
                let buffer = block_core::IoBuf::copy_of(&bytes, 512).expect("memory");
                let src = block_core::IoVector::from(buffer.freeze());
                compressor.write(DiskOffset(0), src).await.expect("written");
                node.close().await.expect("closed");
            });
        }),
    ];
    let images = Images::new();
    for (what, change) in list {
        let folder = with_bitmaps();
        let path = folder.path().join("i");
        change(&images, &path);
        let flags = bitmap_flags(&path);
        let used = || vec!["in-use", "auto"];
        assert_eq!(flags, [("b0", used()), ("b1", used())].map(owned), "{what}");
        check_is_clean(&path, what);
        // Its user can go on without it.
        img(folder.path(), &["bitmap", "--remove", "i", "b0"]);
        img(folder.path(), &["bitmap", "--remove", "i", "b1"]);
        check_is_clean(&path, what);
    }
}

fn to(len: u64) -> Truncate {
    Truncate {
        len,
        exact: true,
        preallocation: Preallocation::Off,
    }
}

fn not_applied() {
    let folder = with_bitmaps();
    let before = fs::read(folder.path().join("i")).expect("readable");
    let output = run(folder.path(), &["apply", "i", "a"], b"");
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && line.contains("bitmap"),
        "{line}"
    );
    let after = fs::read(folder.path().join("i")).expect("readable");
    assert!(after == before, "a refused apply changed the image");
    let theirs =
        tests::qemu_img::try_qemu_img(&["snapshot", "-a", "a", &text(&folder.path().join("i"))]);
    assert!(!theirs.status.success(), "QEMU refuses it too");
    img(folder.path(), &["bitmap", "--remove", "i", "b0"]);
    img(folder.path(), &["bitmap", "--remove", "i", "b1"]);
    succeeds(folder.path(), &["apply", "i", "a"], b"");
}

/// An image `i` of 8 MiB with a snapshot `a` and data.
fn make(folder: &Path, options: &str) {
    img(
        folder,
        &["create", "-q", "-f", "qcow2", "-o", options, "i", "8M"],
    );
    img(folder, &["snapshot", "-c", "a", "i"]);
}

fn with_bitmaps() -> tempfile::TempDir {
    let folder = disk_folder();
    let (_, bitmaps) = KINDS
        .iter()
        .find(|kind| kind.0 == "bitmaps")
        .expect("one of them");
    bitmaps(folder.path());
    folder
}

fn bitmap_flags(path: &Path) -> Vec<(String, Vec<String>)> {
    let info = json(&["info", "--output=json", &text(path)]);
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array();
    let bitmaps = bitmaps.expect("there are bitmaps").iter();
    let word = |value: &Value| value.as_str().expect("text").to_owned();
    bitmaps
        .map(|bitmap| {
            let flags = bitmap["flags"].as_array().expect("a list").iter();
            (word(&bitmap["name"]), flags.map(word).collect())
        })
        .collect()
}

fn owned((name, flags): (&str, Vec<&str>)) -> (String, Vec<String>) {
    (name.into(), flags.into_iter().map(Into::into).collect())
}

fn text(path: &Path) -> String {
    path.to_str().expect("a folder of ours").to_owned()
}

/// qemu-img in a folder.
fn img(folder: &Path, args: &[&str]) {
    let place = |arg: &&str| match *arg {
        "i" | "base" => folder.join(arg).into_os_string(),
        arg => OsStr::new(&arg.replace(
            "backing_file=base",
            &format!("backing_file={}", text(&folder.join("base"))),
        ))
        .to_owned(),
    };
    let args: Vec<_> = args.iter().map(place).collect();
    qemu_img(&args);
}

fn run(folder: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let stream = folder.join("stream");
    fs::write(&stream, stdin).expect("written");
    let mut command = Command::new(vmstate());
    command
        .args(args)
        .current_dir(folder)
        .stdout(Stdio::piped());
    command.stdin(fs::File::open(&stream).expect("written"));
    command.output().expect("the program runs")
}

fn succeeds(folder: &Path, args: &[&str], stdin: &[u8]) {
    let output = run(folder, args, stdin);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {error}");
}
