//! Headers with one thing wrong: what QEMU refuses to open we refuse too, and what it opens we open.
//!
//! The image is qemu-img's; bytes of its first cluster are changed. What we only read on purpose is in a list of its own.

use aio_task::{AioContext, WorkerPool};
use block_core::{NodeBuilder, Permissions};
use block_drivers::qcow2::{BackingFile, Qcow2Driver, Qcow2Error, Qcow2Options};
use block_drivers::{FileDriver, FileOptions};
use serde_json::json;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use tempfile::TempDir;
use tests::files::disk_folder;
use tests::tools::{self, Need};

const IMG: Need = Need::Tool("qemu-img");
const IO: Need = Need::Tool("qemu-io");

fn main() -> ExitCode {
    let mut trials = vec![tools::trial(
        "what is refused is not changed, and named",
        &[IMG],
        what_is_refused_is_not_changed,
    )];
    for (name, changes) in SAME {
        let name = format!("QEMU and we agree on: {name}");
        trials.push(tools::trial(name, &[IMG, IO], || {
            let bench = Bench::new();
            bench.change(changes);
            let theirs = bench.theirs();
            let ours = bench.ours();
            assert_eq!(
                ours.is_ok(),
                theirs,
                "QEMU opens it: {theirs}; we: {ours:?}"
            );
        }));
    }
    for (name, changes) in READ_ONLY {
        let name = format!("we read what QEMU opens, and do not write to it: {name}");
        trials.push(tools::trial(name, &[IMG, IO], || {
            let bench = Bench::new();
            bench.change(changes);
            assert!(bench.theirs(), "else it belongs to the other list");
            assert_eq!(bench.ours(), Ok(()));
            assert!(open(&bench.path(), false).is_err());
        }));
    }
    tools::main(trials)
}

/// Bytes at an offset of the first cluster.
type Change = (u64, &'static [u8]);

/// The big-endian forms of numbers, as constants.
const fn w(n: u32) -> [u8; 4] {
    n.to_be_bytes()
}

const fn q(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

/// Where the first extension is, the feature name table of 384 bytes, and what follows it.
const NAMES: u64 = 112;
const BEHIND_NAMES: u64 = NAMES + 8 + 384;

const SAME: &[(&str, &[Change])] = &[
    ("nothing", &[]),
    ("another magic", &[(0, b"QFI\xfc")]),
    ("version 0", &[(4, &w(0))]),
    ("version 1", &[(4, &w(1))]),
    ("version 4", &[(4, &w(4))]),
    ("version 2 with fields of version 3", &[(4, &w(2))]),
    (
        "backing name at the end of the cluster, empty",
        &[(8, &q(65536))],
    ),
    ("backing name past the cluster", &[(8, &q(65537))]),
    ("backing name far away", &[(8, &q(1 << 40)), (16, &w(5))]),
    (
        "backing name of 1023 bytes",
        &[(8, &q(4096)), (16, &w(1023))],
    ),
    (
        "backing name of 1024 bytes",
        &[(8, &q(4096)), (16, &w(1024))],
    ),
    ("backing name up to the end", &[(8, &q(65531)), (16, &w(5))]),
    ("backing name over the end", &[(8, &q(65531)), (16, &w(6))]),
    (
        "backing name inside the feature names",
        &[(8, &q(200)), (16, &w(5))],
    ),
    (
        "backing name inside the header",
        &[(8, &q(80)), (16, &w(5))],
    ),
    ("a length without a backing name", &[(16, &w(u32::MAX))]),
    ("clusters of 256 bytes", &[(20, &w(8))]),
    ("clusters of 4 MiB", &[(20, &w(22))]),
    ("clusters of 2^32 bytes and more", &[(20, &w(u32::MAX))]),
    ("size 0", &[(24, &q(0))]),
    ("size 1000", &[(24, &q(1000))]),
    ("as large as the L1 table maps", &[(24, &q(1 << 29))]),
    (
        "a byte larger than the L1 table maps",
        &[(24, &q((1 << 29) + 1))],
    ),
    ("size 2^51", &[(24, &q(1 << 51))]),
    ("size 2^62", &[(24, &q(1 << 62))]),
    ("size 2^63 - 1", &[(24, &q(i64::MAX as u64))]),
    ("size 2^63", &[(24, &q(1 << 63))]),
    ("size 2^64 - 1", &[(24, &q(u64::MAX))]),
    ("AES", &[(32, &w(1))]),
    ("LUKS", &[(32, &w(2))]),
    ("an unknown encryption", &[(32, &w(3))]),
    ("an L1 table without entries", &[(36, &w(0))]),
    ("an L1 table of more than 32 MiB", &[(36, &w(4_194_305))]),
    ("an L1 table of 2^32 entries", &[(36, &w(u32::MAX))]),
    ("an L1 table inside a cluster", &[(40, &q(0x30200))]),
    (
        "an L1 table near 2^63",
        &[(40, &q(i64::MAX as u64 & !65535)), (36, &w(9000))],
    ),
    ("an L1 table near 2^64", &[(40, &q(!65535))]),
    ("a refcount table inside a cluster", &[(48, &q(0x10200))]),
    ("a refcount table near 2^64", &[(48, &q(!65535))]),
    ("no refcount table", &[(56, &w(0))]),
    ("a refcount table of more than 8 MiB", &[(56, &w(129))]),
    ("a refcount table of 2^32 clusters", &[(56, &w(u32::MAX))]),
    (
        "more than 65536 snapshots",
        &[(60, &w(65537)), (64, &q(0x40000))],
    ),
    ("2^32 snapshots", &[(60, &w(u32::MAX)), (64, &q(0x40000))]),
    ("a snapshot table inside a cluster", &[(64, &q(8))]),
    ("no snapshots somewhere", &[(64, &q(1 << 40))]),
    ("the dirty bit", &[(72, &q(1))]),
    ("the corrupt bit", &[(72, &q(2))]),
    ("a data file without a name", &[(72, &q(4))]),
    ("the compression bit without a type", &[(72, &q(8))]),
    ("extended L2 entries", &[(72, &q(16))]),
    ("incompatible bit 5", &[(72, &q(32))]),
    ("incompatible bit 63", &[(72, &q(1 << 63))]),
    ("all compatible bits", &[(80, &q(u64::MAX))]),
    ("bitmaps that are not there", &[(88, &q(1))]),
    ("a raw data file that is not there", &[(88, &q(2))]),
    ("unknown autoclear bits", &[(88, &q(!3))]),
    ("refcounts of 1 bit", &[(96, &w(0))]),
    ("refcounts of 64 bits", &[(96, &w(6))]),
    ("refcounts of 128 bits", &[(96, &w(7))]),
    ("refcounts of 2^2^32 bits", &[(96, &w(u32::MAX))]),
    ("a header of 72 bytes", &[(100, &w(72))]),
    ("a header of 103 bytes", &[(100, &w(103))]),
    ("a header of 104 bytes", &[(100, &w(104))]),
    (
        "a header of 105 bytes, the names misread",
        &[(100, &w(105))],
    ),
    (
        "a header of 120 bytes, the names misread",
        &[(100, &w(120))],
    ),
    ("a header up to the end of the names", &[(100, &w(504))]),
    ("a header of a whole cluster", &[(100, &w(65536))]),
    ("a header just short of a cluster", &[(100, &w(65532))]),
    ("a header of more than a cluster", &[(100, &w(65537))]),
    ("zstd without its bit", &[(104, &[1])]),
    ("zstd with its bit", &[(104, &[1]), (72, &q(8))]),
    ("an unknown compression", &[(104, &[2]), (72, &q(8))]),
    ("something after the compression type", &[(105, &[7; 7])]),
    (
        "zstd in a header of 104 bytes",
        &[(100, &w(104)), (104, &[1]), (72, &q(8))],
    ),
    (
        "an extension up to the end of the cluster",
        &[(NAMES + 4, &w(65536 - 120))],
    ),
    (
        "an extension over the end of the cluster",
        &[(NAMES + 4, &w(65536 - 119))],
    ),
    (
        "an extension of 2^32 - 1 bytes",
        &[(NAMES + 4, &w(u32::MAX))],
    ),
    (
        "an end mark with a length",
        &[(NAMES, &w(0)), (NAMES + 4, &w(8))],
    ),
    (
        "an end mark with a length over the end",
        &[(NAMES, &w(0)), (NAMES + 4, &w(65536))],
    ),
    ("an unknown extension", &[(NAMES, &w(0x1234_5678))]),
    (
        "a backing format of 15 bytes",
        &[
            (NAMES, &w(0xe279_2aca)),
            (NAMES + 4, &w(15)),
            (NAMES + 24, &[0; 8]),
        ],
    ),
    (
        "a backing format of 16 bytes",
        &[
            (NAMES, &w(0xe279_2aca)),
            (NAMES + 4, &w(16)),
            (NAMES + 24, &[0; 8]),
        ],
    ),
    (
        "an encryption header without encryption",
        &[(BEHIND_NAMES, &w(0x0537_be77)), (BEHIND_NAMES + 4, &w(16))],
    ),
    (
        "bitmaps that count, none",
        &[
            (88, &q(1)),
            (BEHIND_NAMES, &w(0x2385_2875)),
            (BEHIND_NAMES + 4, &w(24)),
        ],
    ),
    (
        "bitmaps that do not count, of a wrong length",
        &[
            (BEHIND_NAMES, &w(0x2385_2875)),
            (BEHIND_NAMES + 4, &w(8)),
            (BEHIND_NAMES + 16, &[0; 8]),
        ],
    ),
    (
        "the feature names twice",
        &[(BEHIND_NAMES, &w(0x6803_f857)), (BEHIND_NAMES + 4, &w(48))],
    ),
    (
        "a data file's name without a data file",
        &[
            (BEHIND_NAMES, &w(0x4441_5441)),
            (BEHIND_NAMES + 4, &w(4)),
            (BEHIND_NAMES + 8, b"data"),
        ],
    ),
];

/// What can only be damage, and would get worse by a write.
const READ_ONLY: &[(&str, &[Change])] = &[
    ("an L1 table on the header", &[(40, &q(0))]),
    ("an L1 table on the refcount table", &[(40, &q(0x10000))]),
    ("a refcount table on the header", &[(48, &q(0))]),
    ("an L1 table past the end of the file", &[(40, &q(1 << 40))]),
    (
        "a refcount table past the end of the file",
        &[(48, &q(1 << 40))],
    ),
];

/// A new image.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = disk_folder();
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2", "disk", "64M"]);
        let made = command.current_dir(folder.path()).status();
        assert!(made.expect("it is there").success());
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn change(&self, changes: &[Change]) {
        let file = fs::OpenOptions::new().write(true).open(self.path());
        let file = file.expect("the image");
        for (at, bytes) in changes {
            file.write_all_at(bytes, *at).expect("written");
        }
    }

    /// Whether QEMU opens it, for reading, without what it stands on.
    fn theirs(&self) -> bool {
        let file = json!({"driver": "file", "filename": self.path()});
        let image = json!({"driver": "qcow2", "backing": null, "file": file});
        let mut command = Command::new("qemu-io");
        command.args(["-r", "-c", "length", &format!("json:{image}")]);
        command.output().expect("it is there").status.success()
    }

    /// Whether we do, for reading, without what it stands on.
    fn ours(&self) -> Result<(), Qcow2Error> {
        open(&self.path(), true)
    }
}

fn open(path: &Path, read_only: bool) -> Result<(), Qcow2Error> {
    let context = AioContext::new().expect("a context");
    let workers = WorkerPool::new(NonZeroUsize::MIN);
    let (options, permissions) = match read_only {
        true => (FileOptions::reader(workers), Permissions::reader()),
        false => (FileOptions::writer(workers), Permissions::writer()),
    };
    let builder = NodeBuilder::new("file").read_only(read_only);
    context.block_on(async {
        let driver = FileDriver::open(path, options).await.expect("opened");
        let node = builder.open(&context.handle(), driver).await;
        let child = node.expect("a node").attach("qcow2", permissions);
        let options = Qcow2Options {
            read_only,
            backing: BackingFile::Ignore,
            ..Qcow2Options::default()
        };
        let driver = Qcow2Driver::open(child.expect("free"), options).await;
        driver.map(drop)
    })
}

fn what_is_refused_is_not_changed() {
    let mut refused = 0;
    for (name, changes) in SAME.iter().chain(READ_ONLY) {
        let bench = Bench::new();
        bench.change(changes);
        let before = fs::read(bench.path()).expect("read");
        if let Err(error) = open(&bench.path(), false) {
            refused += 1;
            assert!(!error.to_string().is_empty());
            assert!(before == fs::read(bench.path()).expect("read"), "{name}");
        }
    }
    assert!(refused > 40, "only {refused}");
}
