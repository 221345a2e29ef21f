//! The machine stops at any moment, in the middle of any requests, and of what was not flushed any part reaches the disk: what is there
//! then has leaks and COPIED flags that are not exact, and nothing worse, and every byte that was flushed.

use crate::load::*;
use crate::rig::*;
use crate::walker::Walker;
use block_core::test_disk::{Keep, Record};
use std::collections::HashMap;
use std::ops::Range;

const SEEDS: u64 = 40;
const STEPS: u64 = 160;

#[test]
fn a_crash_at_any_moment_leaves_leaks_at_worst_and_every_flushed_byte() {
    let mut counts = Counts::default();
    let mut totals = Totals::default();
    for seed in 1..=SEEDS {
        let mut run = Run::new(seed);
        run.whole();
        counts.add(run.load.counts);
        totals.add(&run.totals);
    }
    println!("{counts:?}, {totals:?}");
    let Totals {
        crashes,
        leaky,
        copied,
        lost,
        certain,
        went_on,
    } = totals;
    assert!(
        crashes > 20 * SEEDS && went_on > SEEDS,
        "{crashes} crashes, {went_on} went on"
    );
    assert!(
        leaky > SEEDS && lost > 10 * SEEDS,
        "{leaky} leaky, {lost} lost something"
    );
    assert!(certain > 100_000 * SEEDS, "{certain} bytes were certain");
    assert!(
        copied < crashes,
        "COPIED flags are wrong in {copied} images"
    );
}

const UNDER_WAY: u64 = u64::MAX;

/// What the crashes were like.
#[derive(Debug, Default)]
struct Totals {
    crashes: u64,
    /// Images with leaks, with COPIED flags that are not exact, and those that lost a write.
    leaky: u64,
    copied: u64,
    lost: u64,
    /// Bytes that had to be exact, over all crashes.
    certain: u64,
    /// Images that were opened again and written to.
    went_on: u64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.leaky += other.leaky;
        self.copied += other.copied;
        self.lost += other.lost;
        self.certain += other.certain;
        self.went_on += other.went_on;
    }
}

struct Run {
    load: Load,
    /// What the disk reads as when everything that is under way has ended.
    current: Vec<u8>,
    /// The bytes that a crash must leave as they are.
    certain: Vec<Option<u8>>,
    /// The last request that changes each byte; it counts up from 1.
    last: Vec<u64>,
    /// When each of them ended: how many had ended by then. Changes that are under way have not ended.
    ends: Vec<u64>,
    ended: u64,
    /// For each flush in flight, how many changes had ended when it was called.
    flushes: HashMap<u64, u64>,
    /// Lengths that the disk may have.
    sizes: Vec<u64>,
    totals: Totals,
}

impl Run {
    fn new(seed: u64) -> Self {
        let setup = small(setup(seed));
        let current = fresh(&setup);
        let load = Load::new(seed, setup);
        for disk in load.rig.disks() {
            disk.track_crashes();
            disk.hold_all();
        }
        Self {
            certain: current.iter().copied().map(Some).collect(),
            last: vec![0; current.len()],
            sizes: vec![load.size],
            current,
            load,
            ends: vec![0],
            ended: 0,
            flushes: HashMap::new(),
            totals: Totals::default(),
        }
    }

    fn whole(&mut self) {
        for _ in 0..STEPS {
            if let Some((id, request)) = self.load.start() {
                self.started(id, request);
            }
            self.load.release_some();
            let ended = self.load.ended();
            self.take(ended);
            if self.load.random.below(4) == 0 {
                self.crash();
            }
        }
        let ended = self.load.finish();
        self.take(ended);
        self.crash();
    }

    fn started(&mut self, id: u64, request: Request) {
        match request {
            Request::Read(_) => {}
            Request::Flush => drop(self.flushes.insert(id, self.ended)),
            Request::Change { touched, .. } => {
                let range = touched.start as usize..touched.end as usize;
                self.certain[range.clone()].fill(None);
                self.last[range].fill(id + 1);
                self.ends.resize(id as usize + 2, UNDER_WAY);
            }
            Request::Truncate { old, new } => {
                self.sizes = vec![old, new];
                if new < old {
                    self.certain[new as usize..].fill(None);
                }
            }
        }
    }

    fn take(&mut self, ended: Vec<Ended>) {
        let seed = self.load.seed;
        for Ended {
            id,
            request,
            result,
        } in ended
        {
            result.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            match request {
                Request::Read(_) => {}
                Request::Change { range, bytes, .. } => {
                    self.ended += 1;
                    self.ends[id as usize + 1] = self.ended;
                    self.current[range.start as usize..range.end as usize].copy_from_slice(&bytes);
                }
                Request::Flush => self.flushed(id),
                Request::Truncate { new, .. } => {
                    let new_len = new as usize;
                    self.sizes = vec![new];
                    self.current.resize(new_len, 0);
                    self.certain.resize(new_len, Some(0));
                    self.last.resize(new_len, 0);
                }
            }
        }
    }

    /// What had ended when the flush was called, and was not touched again, is stable.
    fn flushed(&mut self, id: u64) {
        let Some(before) = self.flushes.remove(&id) else {
            return;
        };
        for (at, last) in self.last.iter().enumerate() {
            if self.ends[*last as usize] <= before {
                self.certain[at] = Some(self.current[at]);
            }
        }
    }

    /// Looks at what a crash now would leave. The disk goes on as if there had been none.
    fn crash(&mut self) {
        let seed = self.load.seed;
        let random = &mut self.load.random;
        let mut lost = false;
        let how = random.below(4);
        let files: Vec<Vec<u8>> = self.load.rig.disks()[..]
            .iter()
            .map(|disk| {
                disk.contents_after_crash(|record| {
                    let keep = keep(how, random, record);
                    lost |= keep != Keep::All;
                    keep
                })
            })
            .collect();
        let data = self.load.rig.setup.data_file.then(|| files[1].as_slice());
        let walker = Walker::new(&files[0], data);
        let findings = walker.check();
        findings.assert_leaks_at_most(&format!("seed {seed}"));
        assert!(
            self.sizes.contains(&walker.size),
            "seed {seed}: {}",
            walker.size
        );
        let backing = self.load.rig.setup.backing.clone().unwrap_or_default();
        let stored = walker.read(&backing);
        self.totals.crashes += 1;
        self.totals.leaky += u64::from(!findings.leaks.is_empty());
        self.totals.copied += u64::from(!findings.copied.is_empty());
        self.totals.lost += u64::from(lost);
        self.compare(&stored);
        if self.load.random.below(8) == 0 {
            self.go_on(&files[0], data.map(<[u8]>::to_vec).as_deref(), &stored);
        }
    }

    fn compare(&mut self, stored: &[u8]) {
        let seed = self.load.seed;
        // Past the old end there is nothing but zeroes.
        let expected = self
            .certain
            .iter()
            .copied()
            .chain(std::iter::repeat(Some(0)));
        let wrong = |(_, (is, expected)): &(usize, (&u8, Option<u8>))| {
            expected.is_some_and(|expected| expected != **is)
        };
        let wrong = stored.iter().zip(expected).enumerate().find(wrong);
        assert!(
            wrong.is_none(),
            "seed {seed}: (place, (is, should be)): {wrong:?}"
        );
        self.totals.certain += self.certain.iter().flatten().count() as u64;
    }

    /// The image is of use after the crash: it is opened, reads as it should, and takes writes that are not lost.
    fn go_on(&mut self, image: &[u8], data: Option<&[u8]>, stored: &[u8]) {
        self.totals.went_on += 1;
        let seed = self.load.seed;
        let mut rig = Rig::on(self.load.rig.setup.clone(), image, data);
        let size = stored.len() as u64;
        assert!(
            rig.read(0, size) == stored,
            "seed {seed}: read after the crash"
        );
        let mut expected = stored.to_vec();
        for round in 0..4 {
            let range = some(&mut self.load.random, size);
            let bytes = pattern(range.end - range.start, seed << 8 | round);
            rig.write(range.start, &bytes);
            expected[range.start as usize..range.end as usize].copy_from_slice(&bytes);
        }
        rig.close().expect("close");
        rig.check()
            .assert_leaks_at_most(&format!("seed {seed}, after the crash"));
        assert!(
            rig.stored() == expected,
            "seed {seed}: stored after the crash"
        );
    }
}

/// Fewer clusters where they are large: what happens at a crash depends on their number, and the time on their bytes.
fn small(mut setup: Setup) -> Setup {
    let size = setup.options.size.unwrap_or(0);
    let size = size.min(150_000.max(24 * setup.options.cluster_size) / 512 * 512);
    if let Some(backing) = &mut setup.backing {
        backing.truncate(size as usize + 5000);
    }
    setup.options.size = Some(size);
    setup
}

fn some(random: &mut Random, size: u64) -> Range<u64> {
    let at = random.below(size - 1);
    at..(at + 1 + random.below(20_000)).min(size)
}

/// What of a write is on the disk: by the crash's temper, all, nothing, or a part that begins or ends at a sector.
fn keep(how: u64, random: &mut Random, record: &Record) -> Keep {
    let (at, end) = (record.offset, record.offset + record.len);
    let cut = (at + random.below(record.len + 1))
        .next_multiple_of(512)
        .clamp(at, end);
    match (how, random.below(8)) {
        (0, _) => Keep::Nothing,
        (1, 0) | (2, 1..8) | (3, 0..3) => Keep::Nothing,
        (3, 3) => Keep::Part(0..cut - at),
        (3, 4) => Keep::Part(cut - at..record.len),
        _ => Keep::All,
    }
}
