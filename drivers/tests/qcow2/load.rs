//! Random requests, many at once: what the tests of this folder put an image under.
//!
//! Requests that are in flight together touch different bytes, but often the same clusters and tables. A change of length comes when
//! nothing else but flushes is under way.

use crate::rig::*;
use block_core::{Preallocation, Result, Truncate};
use block_drivers::qcow2::codec::CompressionType;
use block_drivers::qcow2::{CreateOptions, Version};
use std::ops::Range;

/// An image, and what is asked of it.
pub struct Load {
    pub rig: Rig,
    pub random: Random,
    pub seed: u64,
    /// The disk's length as of the last change of it that ended well.
    pub size: u64,
    calls: Vec<Call>,
    next: u64,
    pub counts: Counts,
}

/// What was started, so that a test can tell that it was not idle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub requests: u64,
    /// Requests that were started while another one was in flight.
    pub together: u64,
    pub resized: u64,
    pub compressed: u64,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.together += other.together;
        self.resized += other.resized;
        self.compressed += other.compressed;
    }
}

/// One request.
#[derive(Clone, Debug)]
pub enum Request {
    Read(Range<u64>),
    /// Gives `range`, a part of what it touches, these bytes.
    Change {
        touched: Range<u64>,
        range: Range<u64>,
        bytes: Vec<u8>,
    },
    Flush,
    Truncate {
        old: u64,
        new: u64,
    },
}

/// How a request ended.
pub struct Ended {
    pub id: u64,
    pub request: Request,
    /// The bytes of a read.
    pub result: Result<Vec<u8>>,
}

struct Call {
    id: u64,
    request: Request,
    pending: Pending,
}

enum Pending {
    Change(Started<Result<()>>),
    Read(Started<Result<Vec<u8>>>),
}

impl Request {
    /// The bytes that it touches.
    pub fn touched(&self) -> Range<u64> {
        match self {
            Self::Read(range) | Self::Change { touched: range, .. } => range.clone(),
            Self::Flush => 0..0,
            Self::Truncate { .. } => 0..u64::MAX,
        }
    }
}

impl Load {
    pub fn new(seed: u64, setup: Setup) -> Self {
        let size = setup.options.size.unwrap_or(0);
        Self {
            rig: Rig::new(setup),
            random: Random(seed * 104_729),
            seed,
            size,
            calls: Vec::new(),
            next: 0,
            counts: Counts::default(),
        }
    }

    /// Starts a request, mostly; what and which.
    pub fn start(&mut self) -> Option<(u64, Request)> {
        let resizing = |call: &Call| matches!(call.request, Request::Truncate { .. });
        let flushes = self
            .calls
            .iter()
            .all(|c| matches!(c.request, Request::Flush));
        let (request, pending) = match self.random.below(40) {
            0 | 1 => (Request::Flush, Pending::Change(self.rig.start_flush())),
            2 if flushes => self.resize(),
            _ if self.calls.iter().any(resizing) => return None,
            _ => self.request()?,
        };
        self.counts.requests += 1;
        self.counts.together += u64::from(!self.calls.is_empty());
        let id = self.next;
        self.next += 1;
        self.calls.push(Call {
            id,
            request: request.clone(),
            pending,
        });
        Some((id, request))
    }

    fn resize(&mut self) -> (Request, Pending) {
        self.counts.resized += 1;
        let old = self.size;
        let cluster = self.rig.setup.options.cluster_size;
        let random = &mut self.random;
        let new = match random.below(3) {
            0 => 512 + random.below(3 * old),
            1 => old + random.below(cluster),
            _ => old.saturating_sub(random.below(2 * cluster)).max(512),
        };
        let new = new.min(4 * self.rig.setup.options.size.unwrap_or(0)) / 512 * 512;
        let preallocation = match random.below(3) {
            0 if new > old => random.pick(&[
                Preallocation::Metadata,
                Preallocation::Falloc,
                Preallocation::Full,
            ]),
            _ => Preallocation::Off,
        };
        let to = Truncate {
            preallocation,
            ..to(new)
        };
        let started = self.rig.start_truncate(to);
        (Request::Truncate { old, new }, Pending::Change(started))
    }

    /// A request on bytes that no other one in flight changes; `None` if the dice say others.
    fn request(&mut self) -> Option<(Request, Pending)> {
        let range = self.range();
        let kind = self.random.below(10);
        let free = self.calls.iter().all(|call| {
            let other = call.request.touched();
            let apart = other.end <= range.start || range.end <= other.start;
            apart || kind < 3 && matches!(call.request, Request::Read(_))
        });
        if !free {
            return None;
        }
        let (rig, random) = (&self.rig, &mut self.random);
        let cluster = rig.setup.options.cluster_size;
        let (at, len) = (range.start, range.end - range.start);
        let whole = at.is_multiple_of(cluster)
            && (range.end.is_multiple_of(cluster) || range.end == self.size);
        let seed = self.seed << 20 | self.next;
        if kind < 3 {
            return Some((Request::Read(range), Pending::Read(rig.start_read(at, len))));
        }
        let mut changed = range.clone();
        let (bytes, started) = match kind {
            // The bytes of some are random, and do not get smaller.
            6 if whole && compresses(&rig.setup) => {
                self.counts.compressed += 1;
                let bytes = match random.below(4) {
                    0 => pattern(len, seed),
                    _ => soft(len, seed),
                };
                let started = rig.start_compressed(at, &bytes);
                (bytes, started)
            }
            3..7 => {
                let bytes = pattern(len, seed);
                let started = rig.start_write(at, &bytes);
                (bytes, started)
            }
            7 => {
                let started = rig.start_zeroes(at, len, random.below(2) == 0);
                (vec![0; len as usize], started)
            }
            _ => {
                changed = discarded(&rig.setup, &range);
                let bytes = vec![0; (changed.end - changed.start) as usize];
                (bytes, rig.start_discard(at, len))
            }
        };
        let request = Request::Change {
            touched: range,
            range: changed,
            bytes,
        };
        Some((request, Pending::Change(started)))
    }

    /// Often whole clusters, often one of a few; now and then long.
    fn range(&mut self) -> Range<u64> {
        let random = &mut self.random;
        let cluster = self.rig.setup.options.cluster_size;
        let long = match random.below(8) {
            0 => 20 * cluster,
            _ => 3 * cluster,
        };
        let (at, len) = (random.below(self.size - 1), 1 + random.below(long));
        let (at, end) = match random.below(3) {
            0 => (at, at + len),
            _ => (at / cluster * cluster, (at + len).next_multiple_of(cluster)),
        };
        at..end.min(self.size)
    }

    /// Lets a few calls of the disks go on, whichever.
    pub fn release_some(&mut self) {
        for _ in 0..self.random.below(6) {
            let pick = self.random.below(1 << 20);
            self.rig.release_any(pick);
        }
    }

    /// The requests that have ended since the last call.
    pub fn ended(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        let mut left = Vec::new();
        for call in self.calls.drain(..) {
            let result = match &call.pending {
                Pending::Change(started) => started.result().map(|r| r.map(|()| Vec::new())),
                Pending::Read(started) => started.result(),
            };
            let Some(result) = result else {
                left.push(call);
                continue;
            };
            if let (Request::Truncate { new, .. }, Ok(_)) = (&call.request, &result) {
                self.size = *new;
            }
            ended.push(Ended {
                id: call.id,
                request: call.request,
                result,
            });
        }
        self.calls = left;
        ended
    }

    /// Lets everything go on; what ended. Nothing is in flight afterwards.
    #[track_caller]
    pub fn finish(&mut self) -> Vec<Ended> {
        self.rig.let_all_go();
        let ended = self.ended();
        assert!(self.calls.is_empty(), "seed {}: something hangs", self.seed);
        ended
    }
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
        alignment: random.pick(&[1, 512, 512, 4096]),
        l2_cache: random.pick(&[1, 0]),
        refcount_cache: random.pick(&[1, 0]),
        workers: None, // a test that is stepped by hand would have to wait for them
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
    let ignored = setup.options.version == Version::V2 && setup.backing.is_some();
    match ignored || end <= start {
        true => range.start..range.start,
        false => start..end,
    }
}
