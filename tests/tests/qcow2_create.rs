//! New qcow2 images against those of `qemu-img create` with the same options.
//!
//! Each image of ours must be clean for `qemu-img check`, look the same to `qemu-img info`, have the same header byte for byte but for the
//! places of the tables, read the same, and stay clean when qemu-io writes to it. Each list of options that we refuse must be refused by
//! qemu-img too, and the other way round.

use aio_task::{AioContext, WorkerPool};
use block_core::{BlockChild, NodeBuilder, Permissions};
use block_drivers::qcow2::{CreateOptions, OptionError, Qcow2Error, create};
use block_drivers::{Create, FileDriver, FileOptions};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use tempfile::TempDir;
use tests::files::disk_folder;
use tests::tools::{self, Need};

const IMG: Need = Need::Tool("qemu-img");
const IO: Need = Need::Tool("qemu-io");

/// The image in its folder.
const IMAGE: &str = "disk.qcow2";
/// The external data file beside it.
const DATA: &str = "data.raw";
/// The backing file, which the images name as `../base.raw`: 1 MiB, with data in it.
const BASE: &str = "base.raw";

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (list, size) in good() {
        let name = format!("an image of {size} bytes with '{list}' is one of qemu-img's");
        trials.push(tools::trial(name, &[IMG, IO], move || same(&list, &size)));
    }
    for list in REFUSED {
        let name = format!("'{list}' is refused by us and by qemu-img");
        trials.push(tools::trial(name, &[IMG], move || {
            refused_by_both(list, "1M");
        }));
    }
    for (list, size) in TOO_LARGE {
        let name = format!("{size} bytes with '{list}' are refused by us and by qemu-img");
        trials.push(tools::trial(name, &[IMG], move || {
            refused_by_both(list, size);
        }));
    }
    trials.push(tools::trial(
        "an image without a size is refused by us and by qemu-img",
        &[IMG],
        no_size_is_refused,
    ));
    trials.push(tools::trial(
        "names as long as the header takes are taken, and longer ones refused, by both",
        &[IMG],
        names_of_any_length,
    ));
    trials.push(tools::trial(
        "preallocated space is there, and metadata alone takes none",
        &[IMG],
        preallocated_space_is_there,
    ));
    tools::main(trials)
}

/// Options and sizes over all that the format has.
fn good() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut add = |list: &str, size: &str| all.push((list.to_owned(), size.to_owned()));
    for compat in ["v2", "v3", "0.10", "1.1"] {
        for cluster_size in ["512", "4k", "8k", "64k", "2M"] {
            add(
                &format!("compat={compat},cluster_size={cluster_size}"),
                "5M",
            );
        }
    }
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        add(&format!("refcount_bits={bits}"), "3G");
        add(
            &format!("refcount_bits={bits},cluster_size=512,preallocation=metadata"),
            "20M",
        );
    }
    for size in ["0", "1", "511", "512", "513", "1000000", "0x100000", "64T"] {
        add("cluster_size=64k", size);
    }
    for (cluster_size, size) in [("512", "128G"), ("4k", "8T"), ("2M", "2E")] {
        add(&format!("cluster_size={cluster_size}"), size);
    }
    for mode in ["off", "metadata", "falloc", "full"] {
        for extra in [
            "",
            ",compat=v2",
            ",cluster_size=2M",
            ",extended_l2=on",
            ",extended_l2=on,cluster_size=16k,refcount_bits=64",
            ",extended_l2=on,backing_file=../base.raw,backing_fmt=raw",
            ",data_file=data.raw",
            ",data_file=data.raw,data_file_raw=on",
            ",data_file=data.raw,data_file_raw=on,extended_l2=on",
            ",lazy_refcounts=on,compression_type=zstd",
        ] {
            add(&format!("preallocation={mode}{extra}"), "3145728");
        }
        add(&format!("preallocation={mode}"), "1049088"); // a sector more than 1 MiB
        add(
            &format!("preallocation={mode},data_file=data.raw"),
            "1049088",
        );
        add(&format!("preallocation={mode},cluster_size=4k"), "0");
    }
    for extra in [
        "",
        ",compat=v2",
        ",cluster_size=512",
        ",compression_type=zstd",
        ",data_file=data.raw",
        ",lazy_refcounts=on",
    ] {
        add(
            &format!("backing_file=../base.raw,backing_fmt=raw{extra}"),
            "2M",
        );
    }
    add("lazy_refcounts", "1M");
    add(
        "compression_type=zstd,extended_l2=on,lazy_refcounts=y",
        "1M",
    );
    add(
        "compat=v2,lazy_refcounts=off,extended_l2=off,refcount_bits=16",
        "1M",
    );
    add("compat=v2,compression_type=zlib,data_file_raw=off", "1M");
    add("cluster_size=0.5k,cluster_size=1k", "1M");
    add("encryption=off", "1M");
    all
}

/// Lists that are wrong whatever the size is.
const REFUSED: [&str; 47] = [
    "cluster_size=256",
    "cluster_size=4M",
    "cluster_size=3k",
    "cluster_size=0",
    "cluster_size=",
    "cluster_size",
    "cluster_size=-1",
    "cluster_size=1.5",
    "cluster_size=64KiB",
    "cluster_size=1e5",
    "cluster_size=16E",
    "refcount_bits=0",
    "refcount_bits=3",
    "refcount_bits=128",
    "refcount_bits=4294967312",
    "refcount_bits=8k",
    "compat=1.0",
    "compat=",
    "compat=v4",
    "preallocation=none",
    "preallocation=",
    "compression_type=lz4",
    "compression_type=ZSTD",
    "lazy_refcounts=1",
    "lazy_refcounts=ON",
    "extended_l2=maybe",
    "extended_l2=on,cluster_size=8k",
    "compat=v2,extended_l2=on",
    "compat=v2,lazy_refcounts=on",
    "compat=v2,refcount_bits=8",
    "compat=v2,compression_type=zstd",
    "compat=v2,data_file=data.raw",
    "backing_file=../base.raw",
    "backing_fmt=raw",
    "backing_file=,backing_fmt=raw",
    "backing_file=../base.raw,backing_fmt=",
    "backing_file=../base.raw,backing_fmt=rawx",
    "backing_file=../base.raw,backing_fmt=raw,preallocation=metadata",
    "backing_file=../base.raw,backing_fmt=raw,preallocation=full",
    "backing_file=../base.raw,backing_fmt=raw,data_file=data.raw,data_file_raw=on",
    "data_file_raw=on",
    "data_file=",
    "foo=bar",
    "encryption=on",
    "encrypt.format=luks",
    "cluster_size=4k,",
    ",cluster_size=4k",
];

/// Disks that are larger than their tables can be, each one byte above the largest where there is one.
const TOO_LARGE: [(&str, &str); 7] = [
    ("cluster_size=512", "137438953473"),
    ("cluster_size=64k", "2251799813685249"),
    ("cluster_size=2M", "2305843009213693953"),
    ("cluster_size=2M", "7E"),
    ("cluster_size=2M", "9223372036854775807"),
    ("cluster_size=2M", "9223372036854775808"),
    ("cluster_size=2M", "18446744073709551615"),
];

/// Two folders beside each other, below one with the backing file.
struct Bench {
    folder: TempDir,
    context: AioContext,
    workers: WorkerPool,
}

impl Bench {
    fn new() -> Self {
        let folder = disk_folder();
        for name in ["ours", "theirs"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let base: Vec<u8> = (0..1 << 20).map(|i| (i / 4096) as u8 | 1).collect();
        fs::write(folder.path().join(BASE), base).expect("a backing file");
        Self {
            folder,
            context: AioContext::new().expect("a context"),
            workers: WorkerPool::new(NonZeroUsize::MIN),
        }
    }

    fn path(&self, folder: &str) -> PathBuf {
        self.folder.path().join(folder)
    }

    /// Runs a tool of QEMU in one of the folders.
    fn tool(&self, folder: &str, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.path(folder));
        command.output().expect("it is there")
    }

    fn succeeds(&self, folder: &str, program: &str, args: &[&str]) -> String {
        let out = self.tool(folder, program, args);
        let words = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{program} {args:?}: {words}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// qemu-img's image.
    fn theirs(&self, list: &str, size: Option<&str>) -> Output {
        // As an option: an argument may be nothing near 2^63.
        let list = match size {
            Some(size) if list.is_empty() => format!("size={size}"),
            Some(size) => format!("{list},size={size}"),
            None => list.to_owned(),
        };
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        args.extend(["-o", &list]);
        args.push(IMAGE);
        self.tool("theirs", "qemu-img", &args)
    }

    /// Our image.
    fn ours(&self, list: &str, size: Option<&str>) -> Result<(), Qcow2Error> {
        let mut options = CreateOptions::from_pairs(list)?;
        if let Some(size) = size {
            options.size = CreateOptions::from_pairs(&format!("size={size}"))?.size;
        }
        options.check()?; // before there are files
        self.context.block_on(async {
            let image = self.child(IMAGE).await;
            let data = match &options.data_file {
                Some(data) => Some(self.child(Path::new(&data.file)).await),
                None => None,
            };
            let created = create(&image, data.as_ref(), &options).await;
            for child in std::iter::once(image).chain(data) {
                child.release().await.expect("closed");
            }
            created
        })
    }

    async fn child(&self, name: impl AsRef<Path>) -> BlockChild {
        let options = FileOptions {
            create: Create::IfMissing,
            ..FileOptions::writer(self.workers.clone())
        };
        let path = self.path("ours").join(name);
        let driver = FileDriver::open(path, options).await.expect("opened");
        let builder = NodeBuilder::new("file");
        let node = builder.open(&self.context.handle(), driver).await;
        let node = node.expect("a node");
        node.attach("create", Permissions::writer())
            .expect("nothing else")
    }

    fn info(&self, folder: &str) -> Value {
        let text = self.succeeds(folder, "qemu-img", &["info", "--output=json", IMAGE]);
        let all: Value = serde_json::from_str(&text).expect("JSON");
        let keys = [
            "virtual-size",
            "cluster-size",
            "format",
            "format-specific",
            "backing-filename",
            "backing-filename-format",
            "dirty-flag",
        ];
        let picked = keys.map(|key| (key.to_owned(), all[key].clone()));
        picked.into_iter().collect()
    }

    /// That the image is clean, and what the check counted.
    fn check(&self, folder: &str) -> [Value; 3] {
        let text = self.succeeds(folder, "qemu-img", &["check", "--output=json", IMAGE]);
        let all: Value = serde_json::from_str(&text).expect("JSON");
        for fault in ["corruptions", "leaks"] {
            assert!(all[fault].is_null(), "{folder}: {text}");
        }
        assert_eq!(all["check-errors"], 0);
        [
            "total-clusters",
            "allocated-clusters",
            "compressed-clusters",
        ]
        .map(|key| all[key].clone())
    }

    /// The header up to the end of its cluster, without the places and sizes of the tables.
    fn header(&self, folder: &str) -> Vec<u8> {
        let image = File::open(self.path(folder).join(IMAGE)).expect("an image");
        let mut bytes = Vec::new();
        let read = image.take(2 << 20).read_to_end(&mut bytes);
        read.expect("read");
        let cluster_bits = u32::from_be_bytes([bytes[20], bytes[21], bytes[22], bytes[23]]);
        bytes.resize(1 << cluster_bits, 0);
        bytes[40..60].fill(0);
        bytes
    }
}

/// Our image and qemu-img's of the same options are the same one.
fn same(list: &str, size: &str) {
    let bench = Bench::new();
    let out = bench.theirs(list, Some(size));
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    bench.ours(list, Some(size)).expect("created");

    assert_eq!(bench.info("ours"), bench.info("theirs"));
    assert_eq!(bench.check("ours"), bench.check("theirs"));
    assert_eq!(bench.header("ours"), bench.header("theirs"));
    let virtual_size = bench.info("ours")["virtual-size"]
        .as_u64()
        .expect("a number");
    if virtual_size > 1 << 40 {
        return; // too much to be read, and to be written to a file system below
    }
    let theirs = format!("../theirs/{IMAGE}");
    bench.succeeds("ours", "qemu-img", &["compare", IMAGE, &theirs]);

    // The image can be used: written at its start and its end.
    let len = virtual_size.min(66_048);
    for at in [0, virtual_size - len] {
        let command = format!("write -P 7 {at} {len}");
        bench.succeeds("ours", "qemu-io", &["-f", "qcow2", "-c", &command, IMAGE]);
    }
    bench.check("ours");
    for at in [0, virtual_size - len] {
        let command = format!("read -P 7 {at} {len}");
        let said = bench.succeeds("ours", "qemu-io", &["-f", "qcow2", "-c", &command, IMAGE]);
        assert!(!said.contains("failed"), "{said}");
    }
}

fn refused_by_both(list: &str, size: &str) {
    let bench = Bench::new();
    let out = bench.theirs(list, Some(size));
    assert!(!out.status.success(), "qemu-img takes it");
    let error = bench.ours(list, Some(size)).expect_err("we take it");
    assert!(!error.to_string().is_empty());
    let left = fs::read_dir(bench.path("ours")).expect("a folder").count();
    assert_eq!(left, 0, "the refusal came before there was a file");
}

fn no_size_is_refused() {
    let bench = Bench::new();
    assert!(!bench.theirs("cluster_size=4k", None).status.success());
    let error = bench.ours("cluster_size=4k", None);
    assert_eq!(error, Err(Qcow2Error::Options(OptionError::NoSize)));
}

fn names_of_any_length() {
    for (cluster_size, most) in [("64k", 1023), ("512", 376)] {
        for len in [most, most + 1] {
            let bench = Bench::new();
            let name = "x".repeat(len);
            let list = format!("cluster_size={cluster_size},backing_file={name},backing_fmt=raw");
            let args = [
                "create", "-q", "-f", "qcow2", "-u", "-o", &list, IMAGE, "1M",
            ];
            let theirs = bench.tool("theirs", "qemu-img", &args).status.success();
            let ours = bench.ours(&list, Some("1M"));
            assert_eq!(theirs, len == most, "{len} bytes");
            assert_eq!(ours.is_ok(), theirs, "{len} bytes: {ours:?}");
            if theirs {
                assert_eq!(bench.header("ours"), bench.header("theirs"));
            }
        }
    }
}

fn preallocated_space_is_there() {
    for (list, file, some) in [
        ("preallocation=off", IMAGE, false),
        ("preallocation=metadata", IMAGE, false),
        ("preallocation=falloc", IMAGE, true),
        ("preallocation=full", IMAGE, true),
        ("preallocation=metadata,data_file=data.raw", DATA, false),
        ("preallocation=falloc,data_file=data.raw", DATA, true),
        ("preallocation=full,data_file=data.raw", DATA, true),
    ] {
        let bench = Bench::new();
        bench.ours(list, Some("8M")).expect("created");
        let meta = fs::metadata(bench.path("ours").join(file)).expect("it is there");
        let space = meta.blocks() * 512;
        if some {
            assert!(space >= 8 << 20, "{list}: {space}");
        } else {
            assert!(space < 2 << 20, "{list}: {space}");
        }
    }
}
