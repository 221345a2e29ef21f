//! Any sequence of writes, reads, flushes and drained sections, at any positions, with driver calls that end in any order, futures dropped
//! at random awaits and faults at any driver call, equals a plain byte array where no fault was injected; otherwise it succeeds, or returns
//! exactly that fault. What is stored is read back through another node.
//!
//! Seeded: a failure names its seed, and the same seed does the same again.

mod support;

use block_core::test_disk::TestDiskControl;
use block_core::{BlockError, Cause, Drained, Errno, Op, Result};
use std::cell::RefCell;
use std::rc::Rc;
use support::*;
use vmstate::{
    LoadOptions, SaveOptions, VmstateLoad, VmstateSave, finalize_vmstate, load_vmstate,
    save_vmstate_bytes,
};

const RUNS: u64 = 400;
/// Positions stay below, but for the streams that run on.
const SPACE: u64 = 40 << 10;

#[test]
fn any_sequence_equals_a_plain_byte_array() {
    let mut dropped = 0;
    for seed in 0..RUNS {
        let mut run = Run::new(seed);
        let stored = run
            .whole(|_| {})
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert!(stored == run.model, "seed {seed}: what was stored differs");
        dropped += run.dropped;
    }
    assert!(dropped > RUNS, "futures were dropped: {dropped}");
}

#[test]
fn with_a_fault_it_succeeds_or_returns_exactly_that_fault() {
    let (mut good, mut failed, mut never_fired) = (0, 0, 0);
    for seed in 0..RUNS {
        let mut run = Run::new(seed ^ 0xfa17);
        let result = run.whole(|run| {
            let op = [
                Op::SaveVmstate,
                Op::SaveVmstate,
                Op::LoadVmstate,
                Op::FinalizeVmstate,
            ][run.random.below(4) as usize];
            let nth = run.random.below(25);
            match run.random.below(3) {
                0 => run
                    .bench
                    .disk
                    .short_nth(op, nth, run.random.below(600), Errno::NOSPC),
                _ => run.bench.disk.fail_nth(op, nth, Errno::NOSPC),
            }
        });
        let fired = run.bench.disk.faults_fired();
        match result {
            Ok(stored) => {
                assert!(stored == run.model, "seed {seed}: what was stored differs");
                good += 1;
                never_fired += u64::from(fired == 0);
            }
            Err(error) => {
                assert_eq!(
                    (error.cause.clone(), fired),
                    (Cause::Os(Errno::NOSPC), 1),
                    "seed {seed}: {error}"
                );
                failed += 1;
            }
        }
    }
    println!("{good} good ({never_fired} without the fault coming up), {failed} failed");
    assert!(
        (RUNS / 5..RUNS * 4 / 5).contains(&good),
        "{good} of {RUNS} were good"
    );
    assert!(
        good - never_fired > 0,
        "a read's fault leaves the save good"
    );
}

/// One seed's run: a bench whose calls are all held, and the array that it is compared with.
struct Run {
    bench: Bench,
    random: Seeded,
    /// What the area is to hold.
    model: Vec<u8>,
    /// Highest end of this save's bytes.
    length: u64,
    cell: u64,
    section: Rc<RefCell<Option<Drained>>>,
    dropped: u64,
    version: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Seeded::new(seed + 1);
        let block = [1, 64, 512, 512][random.below(4) as usize];
        let bench = Bench::with_limits(limits(block, 0));
        bench.disk.hold_all();
        Self {
            bench,
            random,
            model: Vec::new(),
            length: 0,
            cell: 0,
            section: Rc::default(),
            dropped: 0,
            version: seed << 20,
        }
    }

    /// One or two saves, the last one finalized and read back: the stored bytes, or the first error of a save.
    fn whole(&mut self, inject: impl Fn(&mut Self)) -> Result<Vec<u8>> {
        inject(self);
        for _ in 0..1 + self.random.below(2) {
            self.save()?;
        }
        self.bench.release_everything();
        let stored = self.bench.disk.vmstate_contents();
        assert_eq!(self.bench.disk.vmstate_length(), Some(self.length));
        self.bench.drain_and_close();
        Ok(self.read_back(stored))
    }

    fn save(&mut self) -> Result<()> {
        let options = SaveOptions {
            workers: workers(1 + self.random.below(4) as usize),
            buffer_size: 512 + self.random.below(4000),
            cursors: workers(1 + self.random.below(4) as usize),
            fresh: self.model.is_empty() && self.random.below(2) == 0,
            gap_threshold: self.random.below(3000),
        };
        let save = Rc::new(VmstateSave::begin(&self.bench.node, options).expect("begins"));
        self.cell = save.buffer_size();
        self.length = 0;
        let mut streams = [0, self.random.below(SPACE), self.random.below(SPACE)];
        for _ in 0..20 + self.random.below(40) {
            let done = match self.random.below(20) {
                0 => self.flush(&save),
                1..4 => self.read(&save),
                4 if self.section.borrow().is_none() => self.begin_section(),
                5 => {
                    *self.section.borrow_mut() = None;
                    Ok(())
                }
                _ => self.write(&save, &mut streams),
            };
            if let Err(error) = done {
                assert_eq!(save.status(), Err(error.clone()), "one fault, one error");
                return Err(self.failed(&save, error));
            }
        }
        self.finalize(&save)
    }

    fn write(&mut self, save: &Rc<VmstateSave>, streams: &mut [u64; 3]) -> Result<()> {
        let stream = self.random.below(5) as usize;
        let at = match streams.get(stream) {
            Some(at) => *at,
            None => self.place(),
        };
        let len = self.size();
        self.version += 1;
        let bytes = pattern(self.version, at, len);
        let before = save.progress().accepted();
        let written = match self.random.below(3) {
            0 => Some(
                self.bench
                    .run(async { save.try_write(at, &bytes) })
                    .map(drop),
            ),
            1 => self.drive(save_vmstate_bytes(&self.bench.node.clone(), at, &bytes)),
            _ => self.drive(save.write(at, &bytes)),
        };
        // What was accepted is a prefix, whatever became of the call.
        let accepted = save.progress().accepted() - before;
        assert!(accepted <= len);
        let end = at + accepted;
        if accepted > 0 {
            assert_eq!(save.position().0, end, "the position tells the prefix");
            self.length = self.length.max(end);
            if self.model.len() < end as usize {
                self.model.resize(end as usize, 0);
            }
            self.model[at as usize..end as usize].copy_from_slice(&bytes[..accepted as usize]);
        }
        if let Some(at) = streams.get_mut(stream) {
            *at = end;
        }
        written.unwrap_or(Ok(()))
    }

    fn read(&mut self, save: &Rc<VmstateSave>) -> Result<()> {
        let (at, len) = (self.place(), self.size());
        let mut bytes = vec![0; len as usize];
        let read = match self.random.below(2) {
            0 => self.drive(save.read(at, &mut bytes)),
            _ => self.drive(load_vmstate(&self.bench.node.clone(), at, &mut bytes)),
        };
        match read {
            None => Ok(()),
            Some(Ok(read)) => {
                assert_eq!(
                    read as u64,
                    self.length.saturating_sub(at).min(len),
                    "read at {at}"
                );
                let expected = self.model.get(at as usize..at as usize + read);
                assert!(
                    read == 0 || expected == Some(&bytes[..read]),
                    "seed {}: bytes read at {at}",
                    self.version >> 20
                );
                Ok(())
            }
            // Of this read, not of the save; or the save's.
            Some(Err(error)) if save.status().is_ok() => {
                assert_eq!(
                    (error.op, error.cause),
                    (Op::LoadVmstate, Cause::Os(Errno::NOSPC))
                );
                Ok(())
            }
            Some(Err(error)) => Err(error),
        }
    }

    fn flush(&mut self, save: &Rc<VmstateSave>) -> Result<()> {
        self.drive(save.flush()).unwrap_or(Ok(()))
    }

    fn begin_section(&mut self) -> Result<()> {
        let section = self.drive(self.bench.node.drain_begin()).transpose();
        *self.section.borrow_mut() = section.expect("driven");
        Ok(())
    }

    fn finalize(&mut self, save: &Rc<VmstateSave>) -> Result<()> {
        loop {
            let ended = match self.random.below(2) {
                0 => self.drive(save.finalize()),
                _ => self.drive(finalize_vmstate(&self.bench.node.clone())),
            };
            match ended {
                None => {} // dropped in the middle: again
                Some(Ok(length)) => {
                    // A free call after one that ended the save finds none.
                    assert!(length == self.length || length == 0, "{length}");
                    assert_eq!(self.bench.run(save.finalize()), Ok(self.length));
                    self.model.truncate(self.length as usize);
                    return Ok(());
                }
                Some(Err(error)) => return Err(self.failed(save, error)),
            }
        }
    }

    /// The save has failed: the same error once more, and then the node is as good as new.
    fn failed(&mut self, save: &Rc<VmstateSave>, error: BlockError) -> BlockError {
        *self.section.borrow_mut() = None;
        let again = self.bench.start({
            let save = save.clone();
            async move { save.finalize().await }
        });
        self.bench.release_everything();
        assert_eq!(again.done(), Err(error.clone()));
        self.bench.disk.clear_faults();
        let next = VmstateSave::begin(&self.bench.node, small(2)).expect("begins");
        self.bench.run(async {
            next.write(3, b"the next one is good")
                .await
                .expect("accepted");
            assert_eq!(next.finalize().await, Ok(23));
        });
        assert_eq!(
            &self.bench.disk.vmstate_contents()[3..23],
            b"the next one is good"
        );
        self.bench.drain_and_close();
        error
    }

    /// Polls `f`, with held calls ending in random order in between, to its end or to a random poll.
    fn drive<F: Future>(&mut self, f: F) -> Option<F::Output> {
        let polls = match self.random.below(4) {
            0 => self.random.below(6) as usize,
            _ => 2000,
        };
        let disk: TestDiskControl = self.bench.disk.clone();
        let section = self.section.clone();
        let random = RefCell::new(&mut self.random);
        let output = poll_at_most(&self.bench, polls, f, || {
            let held = disk.held();
            if held.is_empty() {
                // Perhaps it waits for the section to end.
                *section.borrow_mut() = None;
            } else {
                let chosen = random.borrow_mut().below(held.len() as u64) as usize;
                disk.release(held[chosen].id);
            }
        });
        assert!(output.is_some() || polls < 2000, "it hangs");
        self.dropped += u64::from(output.is_none());
        output
    }

    /// Reads `stored` in random pieces through a second node.
    fn read_back(&mut self, stored: Vec<u8>) -> Vec<u8> {
        let second = Bench::with_limits(limits(512, 0));
        second.disk.set_vmstate_contents(&stored);
        let options = LoadOptions {
            workers: workers(1 + self.random.below(4) as usize),
            buffer_size: 512 + self.random.below(4000),
            length: None,
        };
        let load = second
            .run(VmstateLoad::open(&second.node, options))
            .expect("opens");
        let mut back = vec![0; stored.len()];
        let mut at = 0;
        while at < back.len() {
            if self.random.below(5) == 0 {
                let _ = second.run(load.read(self.random.below(SPACE), &mut [0; 77]));
            }
            let end = back.len().min(at + 1 + self.size() as usize);
            let read = second
                .run(load.read(at as u64, &mut back[at..end]))
                .expect("read");
            assert_eq!(read, end - at);
            at = end;
        }
        second.drain_and_close();
        back
    }

    /// Anywhere, or close to where a buffer begins.
    fn place(&mut self) -> u64 {
        match self.random.below(3) {
            0 => self.random.below(SPACE),
            1 => self.random.below(SPACE / self.cell + 1) * self.cell,
            _ => (self.random.below(SPACE / self.cell) + 1) * self.cell - 1 - self.random.below(9),
        }
    }

    /// Small, around a block, around a buffer, or more than all buffers.
    fn size(&mut self) -> u64 {
        match self.random.below(6) {
            0 => self.random.below(20),
            1 => 500 + self.random.below(24),
            2 => self.cell - 4 + self.random.below(9),
            3 => self.random.below(8 * self.cell),
            _ => self.random.below(2000),
        }
    }
}
