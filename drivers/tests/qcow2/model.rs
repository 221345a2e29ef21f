//! Random requests from many tasks at once equal the same requests on an array of bytes, whatever order the disk ends its calls in.
//!
//! Requests that are in flight together touch different bytes, but often the same clusters and tables. Seeded: a failure names its seed.

use crate::rig::*;
use block_core::{Preallocation, Result, Truncate};
use block_drivers::qcow2::codec::CompressionType;
use block_drivers::qcow2::{CreateOptions, Version};
use std::ops::Range;

const SEEDS: u64 = 120;
const STEPS: u64 = 260;

#[test]
fn any_sequence_of_requests_equals_an_array_of_bytes() {
    let mut seen = Seen::default();
    for seed in 1..=SEEDS {
        Run::new(seed).whole(&mut seen);
    }
    println!("{seen:?}");
    let compressed = !CompressionType::Zlib.is_built() || seen.compressed > SEEDS;
    assert!(
        seen.together > SEEDS * STEPS / 4
            && seen.reopened > SEEDS
            && seen.resized > 2 * SEEDS
            && compressed,
        "the test was idle: {seen:?}"
    );
}

#[derive(Debug, Default)]
struct Seen {
    requests: u64,
    /// Requests that were started while another one was in flight.
    together: u64,
    reopened: u64,
    resized: u64,
    compressed: u64,
}

struct Run {
    rig: Rig,
    random: Random,
    seed: u64,
    model: Vec<u8>,
    calls: Vec<Call>,
    /// The length that the disk is getting. Only flushes are started meanwhile.
    resizing: Option<(u64, Started<Result<()>>)>,
}

struct Call {
    range: Range<u64>,
    /// What it changes `range` to; `None` for a read.
    change: Option<Vec<u8>>,
    pending: Pending,
}

enum Pending {
    Change(Started<Result<()>>),
    Read(Started<Result<Vec<u8>>>, Vec<u8>),
}

/// A setup that is unlike its neighbours in as much as possible.
pub fn setup(seed: u64) -> Setup {
    let mut random = Random(seed * 7_919);
    let cluster_size = random.pick(&[512, 512, 1024, 4096, 16_384, 65_536]);
    let extended_l2 = cluster_size >= 16_384 && random.below(2) == 0;
    let data_file = random.below(5) == 0;
    let version = match !data_file && !extended_l2 && random.below(4) == 0 {
        true => Version::V2,
        false => Version::V3,
    };
    let refcount_bits = match version {
        Version::V2 => 16,
        Version::V3 => random.pick(&[1, 2, 4, 8, 16, 32, 64, 64]),
    };
    let size = (cluster_size * (20 + random.below(60))).max(150_000) / 512 * 512;
    let raw_data_file = data_file && random.below(2) == 0;
    let backing = (!raw_data_file && random.below(2) == 0)
        .then(|| pattern(size / 2 + random.below(size), seed));
    Setup {
        options: CreateOptions {
            size: Some(size),
            version,
            cluster_size,
            refcount_bits,
            extended_l2,
            compression_type: match version {
                Version::V3 => random.pick(&CompressionType::ALL),
                Version::V2 => CompressionType::Zlib,
            },
            ..CreateOptions::default()
        },
        backing,
        data_file,
        raw_data_file,
        alignment: random.pick(&[1, 512]),
        l2_cache: random.pick(&[1, 0]),
        refcount_cache: random.pick(&[1, 0]),
    }
}

fn compresses(setup: &Setup) -> bool {
    setup.options.compression_type.is_built() && !setup.data_file
}

/// What the disk of a new image reads as.
pub fn fresh(setup: &Setup) -> Vec<u8> {
    let size = setup.options.size.unwrap_or(0) as usize;
    let mut model = setup.backing.clone().unwrap_or_default();
    model.resize(size, 0);
    model
}

/// The bytes of a discard that read as zeroes afterwards.
pub fn discarded(setup: &Setup, range: &Range<u64>) -> Range<u64> {
    let cluster = setup.options.cluster_size;
    let start = range.start.next_multiple_of(cluster);
    let end = range.end / cluster * cluster;
    match setup.options.version == Version::V2 && setup.backing.is_some() {
        true => start..start,
        false => start..end.max(start),
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        let setup = setup(seed);
        let model = fresh(&setup);
        let rig = Rig::new(setup);
        rig.hold_all();
        Self {
            rig,
            random: Random(seed * 104_729),
            seed,
            model,
            calls: Vec::new(),
            resizing: None,
        }
    }

    fn whole(mut self, seen: &mut Seen) {
        for step in 0..STEPS {
            self.step(step, seen);
        }
        self.reopen(seen);
        let size = self.model.len() as u64;
        self.rig.let_all_go();
        assert!(self.rig.read(0, size) == self.model, "seed {}", self.seed);
    }

    fn step(&mut self, step: u64, seen: &mut Seen) {
        match self.random.below(40) {
            0 => self.reopen(seen),
            1 | 2 => self.calls.push(Call {
                range: 0..0,
                change: Some(Vec::new()),
                pending: Pending::Change(self.rig.start_flush()),
            }),
            3 if self.calls.is_empty() && self.resizing.is_none() => self.resize(seen),
            _ if self.resizing.is_none() => self.start(step, seen),
            _ => {}
        }
        for _ in 0..self.random.below(6) {
            let pick = self.random.below(1 << 20);
            self.rig.release_any(pick);
        }
        self.collect();
    }

    fn start(&mut self, step: u64, seen: &mut Seen) {
        let cluster = self.rig.setup.options.cluster_size;
        let (range, random) = (self.range(), &mut self.random);
        let overlaps = |call: &&Call| call.range.start < range.end && range.start < call.range.end;
        let (at, len) = (range.start, range.end - range.start);
        let kind = random.below(10);
        let others: Vec<&Call> = self.calls.iter().filter(overlaps).collect();
        let reads = others.iter().all(|call| call.change.is_none());
        if !(others.is_empty() || kind < 3 && reads) {
            return;
        }
        let size = self.model.len() as u64;
        let whole =
            at.is_multiple_of(cluster) && (range.end.is_multiple_of(cluster) || range.end == size);
        seen.requests += 1;
        seen.together += u64::from(!self.calls.is_empty());
        let rig = &self.rig;
        let (change, pending) = match kind {
            0..3 => {
                let expected = self.model[at as usize..range.end as usize].to_vec();
                (None, Pending::Read(rig.start_read(at, len), expected))
            }
            // The bytes of some are random, and do not get smaller.
            6 if whole && compresses(&rig.setup) => {
                seen.compressed += 1;
                let seed = self.seed << 20 | step;
                let bytes = match random.below(4) {
                    0 => pattern(len, seed),
                    _ => soft(len, seed),
                };
                let started = rig.start_compressed(at, &bytes);
                (Some(bytes), Pending::Change(started))
            }
            3..7 => {
                let bytes = pattern(len, self.seed << 20 | step);
                let started = rig.start_write(at, &bytes);
                (Some(bytes), Pending::Change(started))
            }
            7 => {
                let started = rig.start_zeroes(at, len, random.below(2) == 0);
                (Some(vec![0; len as usize]), Pending::Change(started))
            }
            _ => {
                let mut bytes = self.model[at as usize..range.end as usize].to_vec();
                let gone = discarded(&rig.setup, &range);
                bytes[(gone.start.min(range.end) - at) as usize..]
                    [..(gone.end - gone.start) as usize]
                    .fill(0);
                (Some(bytes), Pending::Change(rig.start_discard(at, len)))
            }
        };
        self.calls.push(Call {
            range,
            change,
            pending,
        });
    }

    fn resize(&mut self, seen: &mut Seen) {
        seen.resized += 1;
        let old = self.model.len() as u64;
        let cluster = self.rig.setup.options.cluster_size;
        let random = &mut self.random;
        let len = match random.below(3) {
            0 => 512 + random.below(3 * old),
            1 => old + random.below(cluster),
            _ => old.saturating_sub(random.below(2 * cluster)).max(512),
        };
        let len = len.min(4 * self.rig.setup.options.size.unwrap_or(0)) / 512 * 512;
        let preallocation = match random.below(3) {
            0 if len > old => random.pick(&[
                Preallocation::Metadata,
                Preallocation::Falloc,
                Preallocation::Full,
            ]),
            _ => Preallocation::Off,
        };
        let to = Truncate {
            preallocation,
            ..to(len)
        };
        self.resizing = Some((len, self.rig.start_truncate(to)));
    }

    /// Often whole clusters, often one of a few; now and then long.
    fn range(&mut self) -> Range<u64> {
        let random = &mut self.random;
        let size = self.model.len() as u64;
        let cluster = self.rig.setup.options.cluster_size;
        let long = match random.below(8) {
            0 => 20 * cluster,
            _ => 3 * cluster,
        };
        let (at, len) = (random.below(size - 1), 1 + random.below(long));
        let (at, end) = match random.below(3) {
            0 => (at, at + len),
            _ => (at / cluster * cluster, (at + len).next_multiple_of(cluster)),
        };
        at..end.min(size)
    }

    /// Takes what has ended into the model.
    fn collect(&mut self) {
        let (seed, model) = (self.seed, &mut self.model);
        if let Some((len, started)) = &self.resizing
            && let Some(result) = started.result()
        {
            result.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            model.resize(*len as usize, 0);
            self.resizing = None;
        }
        self.calls.retain(|call| {
            let range = call.range.start as usize..call.range.end as usize;
            match &call.pending {
                Pending::Change(started) => {
                    let Some(result) = started.result() else {
                        return true;
                    };
                    result.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                    let bytes = call.change.as_deref().unwrap_or_default();
                    model[range].copy_from_slice(bytes);
                }
                Pending::Read(started, expected) => {
                    let Some(result) = started.result() else {
                        return true;
                    };
                    let bytes = result.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                    assert!(bytes == *expected, "seed {seed}: {range:?}");
                }
            }
            false
        });
    }

    /// Ends everything, closes the image, and looks at what is in the files.
    fn reopen(&mut self, seen: &mut Seen) {
        seen.reopened += 1;
        self.rig.let_all_go();
        self.collect();
        let seed = self.seed;
        let quiet = self.calls.is_empty() && self.resizing.is_none();
        assert!(quiet, "seed {seed}: something hangs");
        self.rig
            .close()
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        self.rig.check().assert_clean(&format!("seed {seed}"));
        assert!(self.rig.stored() == self.model, "seed {seed}");
        self.rig.open();
        self.rig.hold_all();
    }
}
