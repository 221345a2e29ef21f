//! Random requests from many tasks at once equal the same requests on an array of bytes, whatever order the disk ends its calls in.
//! Seeded: a failure names its seed.

use crate::load::*;
use block_drivers::qcow2::codec::CompressionType;

const SEEDS: u64 = 120;
const STEPS: u64 = 260;

#[test]
fn any_sequence_of_requests_equals_an_array_of_bytes() {
    let mut counts = Counts::default();
    let mut reopened = 0;
    for seed in 1..=SEEDS {
        let mut run = Run::new(seed);
        run.whole();
        counts.add(run.load.counts);
        reopened += run.reopened;
    }
    let compressed = !CompressionType::Zlib.is_built() || counts.compressed > SEEDS;
    let busy = counts.together > SEEDS * STEPS / 4 && counts.resized > SEEDS;
    let seen = format!("{counts:?}, reopened {reopened} times");
    assert!(busy && compressed && reopened > SEEDS, "idle: {seen}");
    println!("{seen}");
}

struct Run {
    load: Load,
    model: Vec<u8>,
    reopened: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let setup = setup(seed);
        let model = fresh(&setup);
        let load = Load::new(seed, setup);
        load.rig.hold_all();
        Self {
            load,
            model,
            reopened: 0,
        }
    }

    fn whole(&mut self) {
        for _ in 0..STEPS {
            match self.load.random.below(40) {
                0 => self.reopen(),
                _ => drop(self.load.start()),
            }
            self.load.release_some();
            let ended = self.load.ended();
            self.take(ended);
        }
        self.reopen();
        self.load.rig.let_all_go();
        let read = self.load.rig.read(0, self.load.size);
        assert!(read == self.model, "seed {}", self.load.seed);
    }

    /// Does on the array what was done on the disk.
    fn take(&mut self, ended: Vec<Ended>) {
        let seed = self.load.seed;
        for Ended {
            request, result, ..
        } in ended
        {
            let read = result.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            match request {
                // Nothing that changes these bytes was in flight together with it.
                Request::Read(range) => {
                    let expected = &self.model[range.start as usize..range.end as usize];
                    assert!(read == expected, "seed {seed}: {range:?}");
                }
                Request::Change { range, bytes, .. } => {
                    self.model[range.start as usize..range.end as usize].copy_from_slice(&bytes);
                }
                Request::Flush => {}
                Request::Truncate { new, .. } => self.model.resize(new as usize, 0),
            }
        }
    }

    /// Ends everything, closes the image, and looks at what is in the files.
    fn reopen(&mut self) {
        self.reopened += 1;
        let ended = self.load.finish();
        self.take(ended);
        let (seed, rig) = (self.load.seed, &mut self.load.rig);
        rig.close().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        rig.check().assert_clean(&format!("seed {seed}"));
        assert!(rig.stored() == self.model, "seed {seed}");
        rig.open();
        rig.hold_all();
    }
}
