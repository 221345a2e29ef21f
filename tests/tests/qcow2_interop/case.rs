//! One image's way through both implementations.

use std::fs;
use std::path::{Path, PathBuf};

use block_core::{BlockNode, BlockStatus, CacheMode, DiskOffset, IoBuf, IoVector};
use block_core::{Preallocation, Truncate, WriteFlags, ZeroFlags};
use block_drivers::qcow2::CreateOptions;
use futures::future::join_all;
use serde_json::Value;
use tempfile::TempDir;
use tests::files::disk_folder;
use tests::images::{Images, contents, same_bytes};
use tests::qemu_img::{check_is_clean, json, qemu_img, qemu_io, same_as_raw};
use tests::random::Random;

use crate::disk::{Disk, Work, payload};
use crate::spec::{Below, Maker, Spec};

/// Rounds of our work, each of a few operations at once.
const ROUNDS: usize = 12;
/// Commands for one run of `qemu-io`.
const COMMANDS: usize = 16;
const SECTOR: u64 = 512;

pub(super) struct Case<'a> {
    pub(super) spec: Spec,
    /// For messages.
    pub(super) name: String,
    pub(super) images: &'a Images,
    folder: TempDir,
    pub(super) image: PathBuf,
    /// What the guest must see.
    pub(super) disk: Disk,
    pub(super) random: Random,
}

impl<'a> Case<'a> {
    /// Makes the image.
    pub(super) fn new(spec: Spec, seed: u64, images: &'a Images) -> Self {
        let folder = disk_folder();
        let image = folder.path().join("image");
        let mut case = Case {
            name: spec.to_string(),
            disk: Disk {
                bytes: vec![0; spec.size() as usize],
                cluster: spec.cluster,
                discards: spec.version > 2 || spec.below == Below::Nothing,
            },
            random: Random::new(seed),
            spec,
            images,
            folder,
            image,
        };
        case.make_below();
        case.make();
        case
    }

    /// What is read is what was written; and `qemu-img` finds nothing wrong at any time.
    pub(super) fn is_the_same_for_both(&mut self) {
        self.we_work();
        if self.spec.may_compress() && self.spec.below == Below::Nothing {
            self.we_compress();
        }
        self.qemu_judges("after our work");
        self.qemu_works();
        self.we_judge();
        self.we_work();
        self.we_resize();
        self.qemu_judges("after our work on theirs, and a resize");
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The lower disk, and its bytes as they show through.
    fn make_below(&mut self) {
        if self.spec.below == Below::Nothing {
            return;
        }
        let mut bytes = vec![0; self.spec.size_below() as usize];
        let half = bytes.len() / 2;
        self.random.fill(&mut bytes[..half / 2]);
        self.random.fill(&mut bytes[half..]);
        let shown = bytes.len().min(self.disk.bytes.len());
        self.disk.bytes[..shown].copy_from_slice(&bytes[..shown]);
        let raw = self.path("below.raw");
        fs::write(&raw, &bytes).expect("a file");
        let below = self.path("below");
        if self.spec.below == Below::Raw {
            fs::rename(raw, below).expect("renamed");
            return;
        }
        let options = [
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-o",
            "cluster_size=4k",
        ];
        qemu_img(&with_paths(&options, &[&raw, &below]));
        fs::remove_file(raw).expect("removed");
    }

    fn make(&mut self) {
        let data_file = self.path("data");
        let options = self.spec.options(text(&data_file));
        let size = self.spec.size().to_string();
        match self.spec.maker {
            Maker::QemuImg => {
                let args = [
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    "-o",
                    &options,
                    text(&self.image),
                    &size,
                ];
                qemu_img(&args);
            }
            Maker::Ours => {
                let options = CreateOptions::from_pairs(&options).expect("good options");
                let options = CreateOptions {
                    size: Some(self.spec.size()),
                    ..options
                };
                self.images.create(&self.image, &options);
            }
            Maker::Compressed => {
                let len = self.disk.len();
                for _ in 0..6 {
                    let (at, len) = self.disk.some_range(0, len, &mut self.random);
                    let seed = self.random.word();
                    self.disk.apply(Work::Write { at, len, seed });
                }
                let raw = self.write_raw();
                let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options];
                qemu_img(&with_paths(&args, &[&raw, &self.image]));
            }
        }
    }

    /// The judge's bytes as a file.
    fn write_raw(&self) -> PathBuf {
        let raw = self.path("judge.raw");
        fs::write(&raw, &self.disk.bytes).expect("a file");
        raw
    }

    pub(super) fn we_work(&mut self) {
        let rounds: Vec<Vec<Work>> = (0..ROUNDS)
            .map(|_| {
                let round = self.disk.some_work(&mut self.random);
                round.iter().for_each(|work| self.disk.apply(*work));
                round
            })
            .collect();
        // Without locks between them that could be felt: the page cache serves both.
        let cache = match self.random.once_in(2) {
            true => CacheMode::None,
            false => CacheMode::Writeback,
        };
        let (image, name) = (&self.image, &self.name);
        self.images.run(async {
            let node = self.images.open(image, cache).await;
            for round in &rounds {
                let done = join_all(round.iter().map(|work| perform(&node, *work))).await;
                for (work, result) in round.iter().zip(done) {
                    result.unwrap_or_else(|error| panic!("{name}: {work:?}: {error}"));
                }
            }
            same_bytes(&contents(&node).await, &self.disk.bytes, name);
            node.close().await.expect("closed");
        });
    }

    /// Whole clusters, and the rest of the disk; over what is there already, as QEMU does not.
    fn we_compress(&mut self) {
        let (disk, cluster) = (self.disk.len(), self.spec.cluster);
        let half = disk / cluster / 2 * cluster;
        let mut works = Vec::new();
        for (start, end) in [(0, half), (half, disk)] {
            let clusters = (end - start) / cluster;
            let at = start + self.random.below(clusters) * cluster;
            let len = (end - at).min((1 + self.random.below(8)) * cluster);
            let seed = self.random.word();
            works.push((DiskOffset(at), len, seed));
            self.disk.apply(Work::Write { at, len, seed });
        }
        self.images.run(async {
            let (node, compressor) = self.images.open_to_compress(&self.image).await;
            let writes = works.iter().map(|(at, len, seed)| {
                let bytes = IoBuf::copy_of(&payload(*len, *seed), 1)
                    .expect("memory")
                    .freeze();
                compressor.write(*at, IoVector::from(bytes))
            });
            for (work, done) in works.iter().zip(join_all(writes).await) {
                done.unwrap_or_else(|error| panic!("{}: {work:?}: {error}", self.name));
            }
            same_bytes(&contents(&node).await, &self.disk.bytes, &self.name);
            node.close().await.expect("closed");
        });
    }

    /// Longer or shorter, by a little or by many clusters. What is new reads as zeroes, whatever is below.
    fn we_resize(&mut self) {
        let (old, cluster) = (self.disk.len(), self.spec.cluster);
        let by = 512 * (1 + self.random.below((old / 4).max(2 * cluster) / 512));
        let len = match self.random.below(3) {
            0 => old - by.min(old / 2 / 512 * 512),
            1 => old + by % (4 * cluster).max(512),
            _ => old + by,
        };
        self.disk.bytes.resize(len as usize, 0);
        let to = Truncate {
            len,
            exact: true,
            preallocation: Preallocation::Off,
        };
        self.images.run(async {
            let node = self.images.open(&self.image, CacheMode::Writeback).await;
            let done = node.truncate(to).await;
            done.unwrap_or_else(|error| panic!("{}: {old} to {len}: {error}", self.name));
            let what = format!("{}: {old} to {len}", self.name);
            same_bytes(&contents(&node).await, &self.disk.bytes, &what);
            node.close().await.expect("closed");
        });
    }

    pub(super) fn qemu_judges(&self, when: &str) {
        let what = format!("{} {when}", self.name);
        check_is_clean(&self.image, &what);
        let raw = self.write_raw();
        same_as_raw(&self.image, &raw, &what);
        if self.spec.data_file == Some(true) {
            let mut data = fs::read(self.path("data")).expect("the data file");
            // As QEMU's, it may be longer, by the rest of the last cluster.
            let rest = data.split_off(self.disk.bytes.len());
            assert!(rest.iter().all(|byte| *byte == 0), "{what}");
            same_bytes(
                &data,
                &self.disk.bytes,
                &format!("{what}: the raw data file"),
            );
        }
    }

    /// `qemu-io` writes.
    fn qemu_works(&mut self) {
        let mut commands = self.compressed_writes();
        for _ in 0..COMMANDS {
            let len = self.disk.len();
            let (at, len) = self.disk.some_range(0, len, &mut self.random);
            let byte = 1 + self.random.below(255) as u8;
            commands.push(match self.random.below(8) {
                0..=3 => {
                    self.disk.range(at, len).fill(byte);
                    format!("write -P {byte} {at} {len}")
                }
                4 | 5 => {
                    self.disk.range(at, len).fill(0);
                    let unmap = if self.random.once_in(2) { "-u " } else { "" };
                    format!("write -z {unmap}{at} {len}")
                }
                _ => {
                    self.disk.discard(at, len, true);
                    format!("discard {at} {len}")
                }
            });
        }
        qemu_io(&self.image, &commands);
    }

    /// QEMU compresses only what is not there yet.
    fn compressed_writes(&mut self) -> Vec<String> {
        if !self.spec.may_compress() {
            return Vec::new();
        }
        let status = self.images.run(async {
            let node = self.images.open_to_read(&self.image).await;
            let status = sectors(&node).await;
            node.close().await.expect("closed");
            status
        });
        let mut commands = Vec::new();
        let cluster = self.disk.cluster;
        let per_cluster = (cluster / SECTOR) as usize;
        for (i, cluster_status) in status.chunks_exact(per_cluster).enumerate() {
            let is_there = |sector: &BlockStatus| sector.allocated || sector.map.is_some();
            if cluster_status.iter().any(is_there) || self.random.once_in(3) {
                continue;
            }
            let at = i as u64 * cluster;
            let byte = 1 + self.random.below(255) as u8;
            self.disk.range(at, cluster).fill(byte);
            commands.push(format!("write -c -P {byte} {at} {cluster}"));
            if commands.len() == COMMANDS {
                break;
            }
        }
        commands
    }

    fn we_judge(&self) {
        let (image, name) = (&self.image, &self.name);
        let ours = self.images.run(async {
            let node = self.images.open_to_read(image).await;
            let what = format!("{name} after qemu-io");
            same_bytes(&contents(&node).await, &self.disk.bytes, &what);
            let status = sectors(&node).await;
            node.close().await.expect("closed");
            status
        });
        let map = json(&with_paths(
            &["map", "--output=json", "-f", "qcow2"],
            &[image],
        ));
        let theirs = map_by_sectors(&map, ours.len());
        for (sector, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let at = sector as u64 * SECTOR;
            assert!(
                theirs.agrees_with(ours, self.spec.cluster),
                "{name}: at {at:#x} we say {ours:?}, qemu-img says {theirs:?}"
            );
        }
    }
}

async fn perform(node: &BlockNode, work: Work) -> block_core::Result<()> {
    match work {
        Work::Write { at, len, seed } => {
            let bytes = payload(len, seed);
            node.pwrite(DiskOffset(at), &bytes, WriteFlags::default())
                .await
        }
        Work::Zeroes { at, len, unmap } => {
            let flags = ZeroFlags {
                may_unmap: unmap,
                ..ZeroFlags::default()
            };
            node.pwrite_zeroes(DiskOffset(at), len, flags).await
        }
        Work::Discard { at, len } => node.pdiscard(DiskOffset(at), len).await,
        Work::Flush => node.flush().await,
    }
}

/// The status of each sector of the top image; `map` is the sector's own.
async fn sectors(node: &BlockNode) -> Vec<BlockStatus> {
    let len = node.length().await.expect("a length");
    let mut sectors = Vec::new();
    let mut at = 0;
    while at < len {
        let status = node.block_status(DiskOffset(at), len - at).await;
        let status = status.unwrap_or_else(|error| panic!("block status: {error}"));
        assert!(
            status.len > 0 && status.len % SECTOR == 0,
            "at {at:#x}: {status:?}"
        );
        for sector in 0..status.len / SECTOR {
            let map = status.map.map(|map| DiskOffset(map.0 + sector * SECTOR));
            sectors.push(BlockStatus { map, ..status });
        }
        at += status.len;
    }
    sectors
}

/// What `qemu-img map` says of one sector.
#[derive(Clone, Copy, Debug, Default)]
struct Mapped {
    depth: u64,
    data: bool,
    zero: bool,
    offset: Option<u64>,
}

impl Mapped {
    fn agrees_with(&self, ours: &BlockStatus, cluster: u64) -> bool {
        if !ours.allocated {
            // It looks on below. Where nothing is below it is zero here, though a place may be kept for it.
            let offset = ours.map.map(|map| map.0);
            return self.depth > 0 || (self.zero && !self.data && self.offset == offset);
        }
        // A zero cluster that is kept at the start of a data file looks to it as one that is not kept.
        let kept_at_0 = ours.zero && ours.map.is_some_and(|map| map.0 < cluster);
        let offset = ours.map.map(|map| map.0);
        self.depth == 0
            && self.data == ours.data
            && (self.offset == offset || (self.offset.is_none() && kept_at_0))
            // It also knows the holes of the file where an image was preallocated.
            && (self.zero == ours.zero || (self.zero && ours.data))
    }
}

fn map_by_sectors(map: &Value, sectors: usize) -> Vec<Mapped> {
    let mut mapped = Vec::new();
    for entry in map.as_array().expect("a list") {
        let number = |name: &str| entry[name].as_u64();
        let start = number("start").expect("a start");
        assert_eq!(start, mapped.len() as u64 * SECTOR, "no gaps: {map}");
        for sector in 0..number("length").expect("a length").div_ceil(SECTOR) {
            mapped.push(Mapped {
                depth: number("depth").expect("a depth"),
                data: entry["data"] == true,
                zero: entry["zero"] == true,
                offset: number("offset").map(|offset| offset + sector * SECTOR),
            });
        }
    }
    assert_eq!(mapped.len(), sectors, "{map}");
    mapped
}

pub(super) fn with_paths<'a>(words: &[&'a str], paths: &[&'a Path]) -> Vec<&'a str> {
    let paths = paths.iter().map(|path| text(path));
    words.iter().copied().chain(paths).collect()
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().expect("the test's paths are text")
}
