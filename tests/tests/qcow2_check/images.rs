//! Images with everything that the format has, made by QEMU's tools.

use crate::theirs::must;
use std::fs;
use std::path::{Path, PathBuf};

/// How to make an image in a folder.
pub(super) type Recipe = fn(&Path) -> PathBuf;

pub(super) const RECIPES: &[(&str, Recipe)] = &[
    ("empty", |at| created(at, "", 8 << 20, &[])),
    ("plain", |at| created(at, "", 8 << 20, WRITES)),
    ("clusters of 512 bytes", |at| {
        created(at, "cluster_size=512", 300 << 10, SMALL)
    }),
    ("clusters of 4 KiB with refcounts of 1 bit", |at| {
        created(at, "cluster_size=4k,refcount_bits=1", 2 << 20, WRITES)
    }),
    ("clusters of 4 KiB with refcounts of 2 bits", |at| {
        snapshots(
            created(at, "cluster_size=4k,refcount_bits=2", 2 << 20, WRITES),
            2,
        )
    }),
    ("clusters of 4 KiB with refcounts of 64 bits", |at| {
        snapshots(
            created(at, "cluster_size=4k,refcount_bits=64", 8 << 20, WRITES),
            3,
        )
    }),
    ("clusters of 1 KiB with refcounts of 8 bits", |at| {
        snapshots(
            created(at, "cluster_size=1k,refcount_bits=8", 1 << 20, SMALL),
            3,
        )
    }),
    ("clusters of 2 MiB", |at| {
        created(at, "cluster_size=2M", 64 << 20, WRITES)
    }),
    ("version 2 with snapshots", |at| {
        snapshots(created(at, "compat=0.10", 8 << 20, WRITES), 3)
    }),
    ("snapshots", |at| {
        let image = snapshots(created(at, "", 8 << 20, WRITES), 4);
        must("qemu-img", &["snapshot", "-d", "s1", name(&image)]);
        image
    }),
    ("compressed by zlib", |at| {
        compressed(at, "compression_type=zlib")
    }),
    ("compressed by zstd", |at| {
        snapshots(compressed(at, "compression_type=zstd,cluster_size=4k"), 1)
    }),
    ("bitmaps", |at| {
        let image = created(at, "cluster_size=4k", 8 << 20, &[]);
        for (bitmap, granularity) in [("a", "4096"), ("b", "65536")] {
            let args = ["bitmap", "--add", "-g", granularity, name(&image), bitmap];
            must("qemu-img", &args);
        }
        io(&image, WRITES);
        must("qemu-img", &["bitmap", "--disable", name(&image), "b"]);
        image
    }),
    ("backing file", |at| {
        let base = at.join("base");
        must(
            "qemu-img",
            &["create", "-q", "-f", "raw", name(&base), "8M"],
        );
        let image = at.join("image");
        let args = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            name(&base),
        ];
        must("qemu-img", &[&args[..], &[name(&image)]].concat());
        io(&image, WRITES);
        image
    }),
    ("extended L2 entries", |at| {
        let image = created(at, "extended_l2=on,cluster_size=16k", 8 << 20, WRITES);
        let more = ["write -z 3M 1k", "discard 1M 16k", "write -P 9 5000k 512"];
        io(&image, &more);
        snapshots(image, 1)
    }),
    ("external data file", |at| {
        let data = format!("data_file={}", name(&at.join("data")));
        created(at, &data, 8 << 20, WRITES)
    }),
    ("preallocated metadata", |at| {
        created(
            at,
            "preallocation=metadata,cluster_size=4k",
            2 << 20,
            WRITES,
        )
    }),
    ("lazy refcounts, and dirty", |at| {
        let image = created(at, "lazy_refcounts=on", 8 << 20, &[]);
        let args = [
            "-c",
            "write -P 7 0 1M",
            "-c",
            "flush",
            "-c",
            "abort",
            name(&image),
        ];
        let _killed = crate::theirs::run("qemu-io", &args);
        image
    }),
];

/// Data, zeroes with and without a cluster, and holes.
const WRITES: &[&str] = &[
    "write -P 1 0 300k",
    "write -P 2 1M 64k",
    "write -P 3 600k 4k",
    "write -z 100k 100k",
    "write -z -u 1M 32k",
    "discard 600k 4k",
    "write -P 4 1900k 50k",
];

const SMALL: &[&str] = &[
    "write -P 1 0 30k",
    "write -P 2 100k 7k",
    "write -z 10k 10k",
    "write -P 3 250k 3k",
];

fn created(folder: &Path, options: &str, size: u64, writes: &[&str]) -> PathBuf {
    let image = folder.join("image");
    let size = size.to_string();
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    args.extend([name(&image), &size]);
    must("qemu-img", &args);
    if !writes.is_empty() {
        io(&image, writes);
    }
    image
}

/// Takes `count` snapshots, with writes between them.
fn snapshots(image: PathBuf, count: u32) -> PathBuf {
    for i in 0..count {
        must(
            "qemu-img",
            &["snapshot", "-c", &format!("s{i}"), name(&image)],
        );
        let write = format!("write -P {} {}k 20k", 10 + i, 20 * i);
        io(&image, &[&write]);
    }
    image
}

fn compressed(folder: &Path, options: &str) -> PathBuf {
    let raw = folder.join("raw");
    let text: Vec<u8> = (0..2_000_000_u32)
        .map(|i| (i.wrapping_mul(i) >> 9) as u8 & 0x3f)
        .collect();
    fs::write(&raw, text).expect("a file");
    let image = folder.join("image");
    let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options];
    must(
        "qemu-img",
        &[&args[..], &[name(&raw), name(&image)]].concat(),
    );
    io(&image, &["write -P 5 70k 10k"]);
    image
}

fn io(image: &Path, commands: &[&str]) {
    let mut args = vec!["-f", "qcow2"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(name(image));
    must("qemu-io", &args);
}

fn name(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}
