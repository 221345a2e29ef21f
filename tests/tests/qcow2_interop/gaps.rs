//! Gaps of a state in an overlay, over backing files that are longer than the overlay: `qemu-io read -b` is the judge.

use std::path::{Path, PathBuf};

use block_core::{BlockNode, CacheMode, IoBuf, NewSnapshot, ReadVector, VmstateOffset};
use tempfile::TempDir;
use tests::files::disk_folder;
use tests::images::{Images, same_bytes};
use tests::qemu_img::{check_is_clean, dumped_bytes, qemu_img, qemu_io};
use vmstate::{SaveOptions, SnapshotSave};

use crate::case::{text, with_paths};

/// Bytes of the states, which end inside a sector.
const LEN: u64 = 300_001;
const MIB: u64 = 1 << 20;
/// Offsets and lengths of what is written of a state, with gaps inside clusters, of one cluster, and of many.
const PIECES: [(u64, usize); 6] = [
    (3, 100),
    (700, 20),
    (40_000, 50_000),
    (131_072, 16_384),
    (290_000, 1),
    (298_000, 1_001),
];

/// Options of an overlay with a disk of 1 MiB, and the offset of its vmstate area.
const OVERLAYS: [(&str, u64); 5] = [
    ("compat=0.10,cluster_size=1024", MIB),
    ("compat=1.1,cluster_size=4096", 2 * MIB),
    ("compat=1.1", 512 * MIB),
    ("extended_l2=on,cluster_size=16k", 16 * MIB),
    ("extended_l2=on", 256 * MIB),
];

/// Format and options of a backing file, and how many bytes of the vmstate area it has.
const BASES: [(&str, &str, u64); 5] = [
    ("raw", "", MIB),
    ("raw", "", 150_016),
    ("qcow2", "cluster_size=512,compat=0.10", 150_016),
    ("qcow2", "cluster_size=2M", MIB),
    ("raw", "", 0),
];

struct Pair {
    folder: TempDir,
    what: String,
}

/// An overlay over a backing file that has the byte 5 in the vmstate area, for each kind of both.
fn each_pair(mut judge: impl FnMut(&Pair)) {
    for (options, area) in OVERLAYS {
        for (format, base_options, shown) in BASES {
            let folder = disk_folder();
            let pair = Pair {
                folder,
                what: format!("{options} over {format} {base_options}, {shown} bytes shown"),
            };
            let size = (area + shown).to_string();
            let mut args = vec!["create", "-q", "-f", format];
            if !base_options.is_empty() {
                args.extend(["-o", base_options]);
            }
            let base = pair.path("base");
            qemu_img(&[&args[..], &[text(&base), &size]].concat());
            if shown > 0 {
                let fill = format!("write -q -P 5 {area} {shown}");
                qemu_img_io(format, &base, &fill);
            }
            let options = format!(
                "{options},backing_file={},backing_fmt={format}",
                text(&base)
            );
            let args = ["create", "-q", "-f", "qcow2", "-o", &options];
            qemu_img(&[&args[..], &[text(&pair.image()), "1M"]].concat());
            judge(&pair);
        }
    }
}

fn qemu_img_io(format: &str, path: &Path, command: &str) {
    let args = ["-f", format, "-c", command, text(path)];
    let done = std::process::Command::new("qemu-io").args(args).status();
    assert!(done.expect("qemu-io runs").success(), "{args:?}");
}

impl Pair {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.path("overlay")
    }

    /// The area as QEMU reads it: whole sectors.
    fn read_by_qemu(&self) -> Vec<u8> {
        let len = LEN.next_multiple_of(512);
        dumped_bytes(&qemu_io(&self.image(), &[format!("read -b -v 0 {len}")]))
    }
}

/// The area of a node from its first byte on, as long as QEMU reads it.
async fn area(node: &BlockNode) -> Vec<u8> {
    let len = LEN.next_multiple_of(512) as usize;
    let memory = IoBuf::copy_of(&vec![0xee; len], 4096).expect("memory");
    let read = node.load_vmstate_unbuffered(VmstateOffset(0), ReadVector::from(memory));
    let (read, result) = read.await;
    result.expect("read");
    read.to_vec()
}

/// Of a state that we save, QEMU reads zeroes in the gaps, and to the end of the last cluster.
pub(super) fn saved_by_us() {
    let images = Images::new();
    each_pair(|pair| {
        let mut model = vec![0; LEN.next_multiple_of(512) as usize];
        images.run(async {
            let node = images.open(&pair.image(), CacheMode::Writeback).await;
            let begun = SnapshotSave::begin(&node, NewSnapshot::new("s"), SaveOptions::default());
            let save = begun.await.expect("begun");
            for (at, len) in PIECES {
                let written = save.save().write(at, &vec![7; len]).await;
                written.expect("written");
                model[at as usize..][..len].fill(7);
            }
            save.save().write(LEN - 1, &[7]).await.expect("written");
            model[LEN as usize - 1] = 7;
            // All of it is in buffers: the driver has no state yet.
            let mut read = vec![0xee; LEN as usize];
            let len = save.save().read(0, &mut read).await.expect("read");
            assert_eq!(len as u64, LEN, "{}", pair.what);
            same_bytes(&read, &model[..len], &pair.what);
            save.commit().await.expect("made");
            node.close().await.expect("closed");
        });
        check_is_clean(&pair.image(), &pair.what);
        qemu_img(&with_paths(&["snapshot", "-a", "s"], &[&pair.image()]));
        same_bytes(&pair.read_by_qemu(), &model, &pair.what);
        images.run(async {
            let node = images.open_to_read(&pair.image()).await;
            same_bytes(&area(&node).await, &model, &pair.what);
            node.close().await.expect("closed");
        });
    });
}

/// What QEMU writes with gaps, we read as it does: in the active area, and in a snapshot of it.
pub(super) fn saved_by_qemu() {
    let images = Images::new();
    each_pair(|pair| {
        let writes = PIECES.map(|(at, len)| {
            let (start, end) = (at / 512 * 512, (at + len as u64).next_multiple_of(512));
            format!("write -b -P 7 {start} {}", end - start)
        });
        qemu_io(&pair.image(), &writes);
        let wanted = pair.read_by_qemu();
        let shown = wanted.iter().filter(|byte| **byte == 5).count();
        let none_shown = pair.what.ends_with(" 0 bytes shown");
        assert_eq!(shown == 0, none_shown, "{}", pair.what);
        images.run(async {
            let node = images.open_to_read(&pair.image()).await;
            same_bytes(&area(&node).await, &wanted, &pair.what);
            node.close().await.expect("closed");
        });
        qemu_img(&with_paths(&["snapshot", "-c", "s"], &[&pair.image()]));
        images.run(async {
            let node = images.open_to_read(&pair.image()).await;
            let view = node.snapshot_load_tmp("s").await.expect("a view");
            same_bytes(&area(&view).await, &wanted, &pair.what);
            view.close().await.expect("closed");
            node.close().await.expect("closed");
            let node = images.open(&pair.image(), CacheMode::Writeback).await;
            node.snapshot_goto("s").await.expect("gone to");
            same_bytes(&area(&node).await, &wanted, &pair.what);
            node.close().await.expect("closed");
        });
        same_bytes(&pair.read_by_qemu(), &wanted, &pair.what);
        check_is_clean(&pair.image(), &pair.what);
    });
}
