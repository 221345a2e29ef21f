//! Any call of the files fails, once, under a load of requests: the request that needed it fails with that error and nothing else,
//! the bytes of all others are there, a later flush succeeds, and nothing is wrong with the image, not even a leak.

use crate::load::*;
use block_core::{Cause, Errno, Op};

const SEEDS: u64 = 100;
const STEPS: u64 = 120;

#[test]
fn a_failed_call_fails_the_request_that_needed_it_and_harms_no_other() {
    let mut totals = Totals::default();
    for seed in 1..=SEEDS {
        Run::new(seed).whole(&mut totals);
    }
    println!("{totals:?}");
    let Totals { fired, failed } = totals;
    assert!(fired > 4 * SEEDS, "{fired} faults fired");
    assert!(failed > 3 * SEEDS, "{failed} requests failed");
}

#[derive(Debug, Default)]
struct Totals {
    fired: u64,
    failed: u64,
}

struct Run {
    load: Load,
    /// `None` where a failed request left a byte unspecified.
    model: Vec<Option<u8>>,
    failed: u64,
    failed_growths: u64,
    injected: u64,
    /// Of these, reads.
    reads: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let setup = setup(seed ^ 0x5a5a);
        let model = fresh(&setup).into_iter().map(Some).collect();
        let load = Load::new(seed, setup);
        load.rig.hold_all();
        Self {
            load,
            model,
            failed: 0,
            failed_growths: 0,
            injected: 0,
            reads: 0,
        }
    }

    fn whole(mut self, totals: &mut Totals) {
        for _ in 0..STEPS {
            self.load.start();
            if self.load.random.below(6) == 0 {
                self.inject();
            }
            self.load.release_some();
            let ended = self.load.ended();
            self.take(ended);
        }
        for disk in self.load.rig.disks() {
            disk.clear_faults();
        }
        let ended = self.load.finish();
        self.take(ended);
        let seed = self.load.seed;
        let rig = &mut self.load.rig;
        rig.flush();
        self.check(seed, totals);
    }

    /// The nth call from now on fails; a write may be torn. One fault at a time: a request whose two calls both fail has one error to tell.
    fn inject(&mut self) {
        if self.injected > self.fired() {
            return;
        }
        self.injected += 1;
        let random = &mut self.load.random;
        let op = random.pick(&[Op::Write, Op::Write, Op::Read, Op::Flush]);
        let (nth, moved) = (random.below(3), random.below(3) * 512);
        let disks = self.load.rig.disks();
        let (disk, op, nth) = match (random.below(8), disks.get(1)) {
            (0, Some(other)) => (other, Op::Read, 0),
            _ => (&disks[0], op, nth),
        };
        self.reads += u64::from(op == Op::Read);
        disk.short_nth(op, nth, moved, Errno::NOSPC);
    }

    fn fired(&self) -> u64 {
        let disks = self.load.rig.disks();
        disks.iter().map(|disk| disk.faults_fired()).sum()
    }

    fn take(&mut self, ended: Vec<Ended>) {
        let seed = self.load.seed;
        for Ended {
            request, result, ..
        } in ended
        {
            let failed = match &result {
                Ok(_) => false,
                Err(error) => {
                    self.failed += 1;
                    assert_eq!(error.cause, Cause::Os(Errno::NOSPC), "seed {seed}: {error}");
                    true
                }
            };
            match (request, result) {
                (Request::Read(range), Ok(read)) => {
                    let expected = &self.model[range.start as usize..range.end as usize];
                    assert!(agrees(expected, &read), "seed {seed}: {range:?}");
                }
                (
                    Request::Change {
                        touched,
                        range,
                        bytes,
                    },
                    _,
                ) => {
                    let places = if failed { touched } else { range };
                    let places = &mut self.model[places.start as usize..places.end as usize];
                    match failed {
                        true => places.fill(None),
                        false => places.iter_mut().zip(bytes).for_each(|(p, b)| *p = Some(b)),
                    }
                }
                (Request::Truncate { old, new }, result) => self.resized(old, new, result.is_ok()),
                _ => {}
            }
        }
    }

    /// A growth that failed has changed nothing; a disk that was to become shorter may be.
    fn resized(&mut self, old: u64, new: u64, done: bool) {
        let node = self.load.rig.node();
        let seed = self.load.seed;
        let asked = self.load.rig.start(async move |_| node.length().await);
        let is = match asked.result() {
            Some(len) => len.expect("the length is known"),
            None => panic!("seed {seed}: the length is held"),
        };
        assert!(
            is == new && (done || new < old) || is == old && !done,
            "seed {seed}: {is}, from {old} to {new}, done: {done}"
        );
        self.failed_growths += u64::from(!done && old < new);
        self.load.size = is;
        self.model.resize(is as usize, Some(0));
    }

    fn check(mut self, seed: u64, totals: &mut Totals) {
        let rig = &mut self.load.rig;
        let size = self.load.size;
        let read = rig.read(0, size);
        assert!(agrees(&self.model, &read), "seed {seed}: read back");
        rig.close().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let findings = rig.check();
        findings.assert_clean(&format!("seed {seed}"));
        assert!(rig.stored() == read, "seed {seed}: stored");
        let fired = self.fired();
        // A growth that failed tidies up after itself, and may fail there too: it has one error to tell. Refcounts that could not be read
        // when something was to be freed are read again by the next commit, and no caller is told.
        let quiet = self.failed_growths + self.reads;
        let told = self.failed <= fired && fired <= self.failed + quiet;
        assert!(
            told,
            "seed {seed}: {} failed, {fired} faults fired",
            self.failed
        );
        totals.fired += fired;
        totals.failed += self.failed;
    }
}

fn agrees(model: &[Option<u8>], bytes: &[u8]) -> bool {
    let same = |(m, b): (&Option<u8>, &u8)| m.is_none_or(|m| m == *b);
    model.len() == bytes.len() && model.iter().zip(bytes).all(same)
}
