//! What a refused command leaves of an image: every byte. And persistent bitmaps, which tell the truth or say that they do not.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use block_core::{BlockError, BlockNode, CacheMode, DiskOffset, IoVector, NewSnapshot};
use block_core::{Preallocation, Truncate, VmstateOffset, WriteFlags, ZeroFlags};
use futures::future::LocalBoxFuture;
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
            "a_stream_that_is_refused_late_says_that_the_image_was_repaired",
            &[IMG],
            refused_late,
        ),
        tools::trial(
            "a_refused_call_leaves_every_byte_of_any_kind_of_image",
            &[IMG],
            calls,
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

const KINDS: [Kind; 11] = [
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
    (DIRTY, |at| {
        make(at, "lazy_refcounts=on");
        make_dirty(at);
    }),
    ("dirty, with bitmaps", |at| {
        make(at, "lazy_refcounts=on");
        img(at, &["bitmap", "--add", "i", "b0"]);
        make_dirty(at);
    }),
    (DATA_FILE, |at| {
        let data = format!("data_file={}", text(&at.join("d")));
        let args = ["create", "-q", "-f", "qcow2", "-o", &data, "i", "8M"];
        img(at, &args);
    }),
];

/// Its last user did not close it, so that opening it for writing repairs it first.
const DIRTY: &str = "dirty";
const DATA_FILE: &str = "an external data file";

fn make_dirty(folder: &Path) {
    let path = folder.join("i");
    let mut bytes = fs::read(&path).expect("readable");
    assert_eq!(bytes[87] & 1, 1, "lazy refcounts");
    bytes[79] |= 1;
    // A cluster that nothing uses is counted as used: a repair would change it.
    let block = at_offset(&bytes, at_offset(&bytes, 48));
    let clusters = bytes.len().div_ceil(1 << 16);
    bytes.resize((clusters + 1) << 16, 0);
    bytes[block as usize + 2 * clusters + 1] = 1;
    fs::write(&path, bytes).expect("written");
}

/// The offset at a place of an image.
fn at_offset(image: &[u8], place: u64) -> u64 {
    let place = place as usize;
    u64::from_be_bytes(image[place..place + 8].try_into().expect("8 bytes"))
}

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

/// What only some kinds refuse.
const ALSO_REFUSED: [(&str, &[&str], &str); 2] = [
    ("bitmaps", &["apply", "i", "a"], "bitmap"),
    (DATA_FILE, &["save", "i", "--name", "b"], "external"),
];

fn refused() {
    for (kind, make) in KINDS {
        let folder = disk_folder();
        make(folder.path());
        let before = files(folder.path());
        let also = ALSO_REFUSED.iter().filter(|also| kind.contains(also.0));
        let also = also.map(|(_, args, reason)| (*args, *reason));
        for (args, reason) in REFUSED.into_iter().chain(also) {
            // It can have no snapshots, whatever is asked of them.
            let reason = match args {
                ["delete" | "apply" | "load", ..] | ["save", _, "--name", _]
                    if kind == DATA_FILE =>
                {
                    "external"
                }
                _ => reason,
            };
            let output = run(folder.path(), args, b"state");
            let line = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{kind}: {args:?}: {line}");
            assert!(line.contains(reason), "{kind}: {args:?}: {line}");
            let after = files(folder.path());
            assert!(after == before, "{kind}: {args:?} changed the image");
        }
        // What the first bytes show is known before a dirty image is opened, and so repaired.
        let name = ["save", "i", "--name", "new"];
        let short = [&name[..], &["--length", "9"]].concat();
        let long = [&name[..], &["--length", "3"]].concat();
        let streams: [(&[&str], &[u8], &str); 4] = [
            (&name, b"", "an empty stream"),
            (&short, b"state", "a stream shorter than --length"),
            (&long, b"state", "a stream longer than --length"),
            (
                &name,
                b"QEVM\0\0\0\x03cut",
                "a QEMU stream that was cut off",
            ),
        ];
        for (args, stream, what) in streams {
            let output = run(folder.path(), args, stream);
            assert!(!output.status.success(), "{kind}: {what}");
            let after = files(folder.path());
            assert!(after == before, "{kind}: {what} changed the image");
        }
    }
}

/// A stream that is refused at its end, after more than was read ahead: the dirty image has been repaired by then, and the command says so.
fn refused_late() {
    let folder = disk_folder();
    make(folder.path(), "lazy_refcounts=on");
    make_dirty(folder.path());
    let stream = vec![7; 3 << 20];
    let args = ["save", "i", "--name", "new", "--length", "4194304"];
    let output = run(folder.path(), &args, &stream);
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{line}");
    assert!(line.contains("it was repaired"), "{line}");
    assert!(line.contains("that it had"), "{line}");
    check_is_clean(&folder.path().join("i"), "after the repair");
}

/// Names and bytes of the files in a folder, but for what is piped into the program.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let names = paths.map(|path| (text(&path), path));
    let images = names.filter(|(name, _)| !name.ends_with("/stream"));
    images
        .map(|(name, path)| (name, fs::read(path).expect("readable")))
        .collect()
}

type Call = (
    &'static str,
    fn(&BlockNode) -> LocalBoxFuture<'_, Result<(), BlockError>>,
);

/// Calls that no image of 8 MiB with a snapshot `a` allows.
const REFUSED_CALLS: [Call; 14] = [
    ("a length of part of a sector", |node| {
        Box::pin(node.truncate(to(513)))
    }),
    ("a length beyond any", |node| {
        Box::pin(node.truncate(to(1 << 62)))
    }),
    ("a shorter disk with space allocated", |node| {
        let to = Truncate {
            preallocation: Preallocation::Full,
            ..to(1 << 20)
        };
        Box::pin(node.truncate(to))
    }),
    ("a write across the end", |node| {
        let written = node.pwrite(DiskOffset(END - 100), &[1; 512], WriteFlags::default());
        Box::pin(written)
    }),
    ("zeroes across the end", |node| {
        Box::pin(node.pwrite_zeroes(DiskOffset(END - 512), 1024, ZeroFlags::default()))
    }),
    ("zeroes past the end", |node| {
        Box::pin(node.pwrite_zeroes(DiskOffset(END + 65536), 65536, ZeroFlags::default()))
    }),
    ("a discard past the end", |node| {
        Box::pin(node.pdiscard(DiskOffset(END), 65536))
    }),
    ("a snapshot whose name is taken", |node| {
        let made = node.snapshot_create(NewSnapshot::new("a"));
        Box::pin(async { made.await.map(drop) })
    }),
    ("a snapshot with too long a name", |node| {
        let made = node.snapshot_create(NewSnapshot::new("n".repeat(70_000)));
        Box::pin(async { made.await.map(drop) })
    }),
    ("to a snapshot that is not there", |node| {
        Box::pin(node.snapshot_goto("nosuch"))
    }),
    ("the end of a snapshot that is not there", |node| {
        Box::pin(node.snapshot_delete("nosuch"))
    }),
    ("a look at a snapshot that is not there", |node| {
        let view = node.snapshot_load_tmp("nosuch");
        Box::pin(async { view.await.map(drop) })
    }),
    ("a state beyond any offset", |node| {
        let bytes = IoVector::copy_of(&[1; 100], 512).expect("memory");
        Box::pin(node.save_vmstate_unbuffered(VmstateOffset(1 << 62), bytes))
    }),
    ("a state longer than any", |node| {
        Box::pin(node.finish_vmstate(1 << 62))
    }),
];
const END: u64 = 8 << 20;

fn calls() {
    let images = Images::new();
    for (kind, make) in KINDS {
        if kind.contains(DIRTY) {
            continue; // opened for writing, it is repaired
        }
        let folder = disk_folder();
        make(folder.path());
        let path = folder.path().join("i");
        let before = files(folder.path());
        let refused = |what: &str, result: Result<(), BlockError>| {
            assert!(result.is_err(), "{kind}: {what}");
            let after = files(folder.path());
            assert!(after == before, "{kind}: {what} changed the image");
        };
        for (what, call) in REFUSED_CALLS {
            let result = images.run(async {
                let node = images.open(&path, CacheMode::Writeback).await;
                let result = call(&node).await;
                node.close().await.expect("closed");
                result
            });
            refused(what, result);
        }
        // In one image that is open all the time, and what only some kinds refuse.
        let result = images.run(async {
            let node = images.open(&path, CacheMode::Writeback).await;
            for (what, call) in REFUSED_CALLS {
                assert!(call(&node).await.is_err(), "{kind}: {what} once more");
            }
            if kind.contains("bitmaps") {
                let applied = node.snapshot_goto("a").await;
                assert!(applied.is_err(), "{kind}: bitmaps");
            }
            if kind == "version 2" {
                let longer = node.truncate(to(2 * END)).await;
                assert!(longer.is_err(), "{kind}: a longer disk");
            }
            let deleted = match kind {
                DATA_FILE => node.snapshot_delete("a").await,
                _ => {
                    let view = node.snapshot_load_tmp("a").await.expect("a view");
                    let deleted = node.snapshot_delete("a").await;
                    view.close().await.expect("closed");
                    deleted
                }
            };
            node.close().await.expect("closed");
            deleted
        });
        refused("the end of a snapshot that is being read", result);
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
