//! Everything at once: guest requests, states, snapshots made, gone to, deleted and read, from many tasks, on a disk that ends its calls
//! in any order; against byte arrays, one for the disk, one for the state, and two for each snapshot.
//!
//! What overlaps a request under way is not started where its result would be open, and one change of the snapshots goes after another.

use crate::support::{Bench, Image, Random, pattern, state};
use crate::world::{Kept, World};
use aio_task::JoinHandle;
use block_core::{BlockNode, Cause, DiskOffset, NewSnapshot, Preallocation, Result, Truncate};
use block_core::{WriteFlags, ZeroFlags};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

const IMAGES: [&str; 5] = [
    "size=128k,cluster_size=512,refcount_bits=64",
    "size=512k,cluster_size=4096",
    "size=512k,cluster_size=16384,extended_l2=on",
    "size=200k,cluster_size=1024,compat=0.10",
    "size=1M,cluster_size=65536,refcount_bits=8",
];
/// Requests at once.
const MOST: usize = 12;

/// What a request touches that others may not touch meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Touches {
    Nothing,
    /// Bytes of the disk, which are read or written.
    Disk(Range<u64>),
    /// Bytes of the state.
    State(Range<u64>),
    /// The whole state: its length, or that there is one.
    WholeState,
    /// The list of snapshots, and the state if it is taken.
    Snapshots,
    /// A snapshot that is read.
    View(String),
}

/// A request under way; it panics by itself if its result is not the one meant.
struct Call {
    touches: Touches,
    done: Rc<RefCell<bool>>,
    task: JoinHandle<()>,
}

struct Model {
    disk: Vec<u8>,
    snapshots: Vec<Kept>,
    /// The state being saved, and its length once it is finished.
    state: Vec<u8>,
    finished: Option<usize>,
    names: u32,
}

/// What a run has seen, so that the test can tell that it did not pass idle.
#[derive(Debug, Default)]
struct Seen {
    calls: u32,
    at_once: usize,
    created: u32,
    with_state: u32,
    gone_to: u32,
    deleted: u32,
    viewed: u32,
    resized: u32,
}

struct Run<'a> {
    bench: &'a Bench,
    image: Rc<Image>,
    model: Model,
    calls: Vec<Call>,
    random: Random,
    what: String,
}

impl Run<'_> {
    fn start(
        &mut self,
        touches: Touches,
        request: impl AsyncFnOnce(BlockNode) -> Result<()> + 'static,
    ) {
        let node = self.image.node.clone();
        let what = format!("{}: {touches:?}", self.what);
        let done = Rc::new(RefCell::new(false));
        let flag = done.clone();
        let task = self.bench.handle().spawn(async move {
            if let Err(error) = request(node).await {
                panic!("{what}: {error}");
            }
            *flag.borrow_mut() = true;
        });
        self.calls.push(Call {
            touches,
            done,
            task,
        });
        self.bench.go_on();
    }

    /// Nothing under way touches what this would.
    fn is_free(&self, wanted: &Touches) -> bool {
        use Touches::*;
        let overlap = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        !self.calls.iter().any(|call| match (&call.touches, wanted) {
            (Disk(a), Disk(b)) | (State(a), State(b)) => overlap(a, b),
            (WholeState | State(_), WholeState) | (WholeState, State(_)) => true,
            // A snapshot takes the state.
            (Snapshots, State(_) | WholeState) | (State(_) | WholeState, Snapshots) => true,
            (Snapshots, Snapshots) => true,
            (Snapshots, View(_)) | (View(_), Snapshots) => true,
            _ => false,
        })
    }

    /// Ends calls that are done, and panics where one has.
    fn reap(&mut self) {
        let (done, calls): (Vec<_>, Vec<_>) = std::mem::take(&mut self.calls)
            .into_iter()
            .partition(|call| *call.done.borrow() || call.task.is_finished());
        self.calls = calls;
        for call in done {
            self.bench.run(call.task).expect("no panic");
        }
    }

    /// The disk ends some of its calls.
    fn release(&mut self, most: u64) {
        for _ in 0..self.random.below(most + 1) {
            let held = self.image.control.held();
            let pick = self.random.below(held.len() as u64) as usize;
            if let Some(record) = held.get(pick) {
                self.image.control.release(record.id);
            }
            self.bench.go_on();
        }
        self.reap();
    }

    fn some_bytes(&mut self, len: usize) -> Range<u64> {
        let at = self.random.below(len as u64);
        let most = (len as u64 - at).min(20_000);
        at..at + 1 + self.random.below(most)
    }

    fn step(&mut self, seen: &mut Seen) {
        match self.random.below(36) {
            0..8 => self.write(),
            8..11 => self.zero(),
            11..16 => self.read(),
            16 => self.start(Touches::Nothing, async |node| node.flush().await),
            17..21 => self.save(),
            21 => self.finish_or_discard(),
            22..25 => self.create(seen),
            25..27 => self.go_to(seen),
            27..32 => self.delete(seen),
            32..35 => self.view(seen),
            _ => self.resize(seen),
        }
    }

    fn write(&mut self) {
        let range = self.some_bytes(self.model.disk.len());
        if !self.is_free(&Touches::Disk(range.clone())) {
            return;
        }
        let bytes = pattern(self.random.next(), (range.end - range.start) as usize);
        self.model.disk[range.start as usize..range.end as usize].copy_from_slice(&bytes);
        let at = DiskOffset(range.start);
        self.start(Touches::Disk(range), async move |node| {
            node.pwrite(at, &bytes, WriteFlags::default()).await
        });
    }

    /// Zeroes, written or by a discard of whole clusters.
    fn zero(&mut self) {
        let mut range = self.some_bytes(self.model.disk.len());
        let discard = self.random.below(2) == 0;
        if discard {
            range = range.start & !0xffff..range.end.next_multiple_of(65536);
            range.end = range.end.min(self.model.disk.len() as u64);
        }
        if !self.is_free(&Touches::Disk(range.clone())) {
            return;
        }
        let (at, len) = (DiskOffset(range.start), range.end - range.start);
        let cluster = crate::world::cluster_of(&self.what) as u64;
        // What a discard leaves of parts of clusters is not said: they are zeroed.
        let whole = range.end.is_multiple_of(cluster);
        self.model.disk[range.start as usize..range.end as usize].fill(0);
        self.start(Touches::Disk(range), async move |node| {
            if discard && whole {
                return node.pdiscard(at, len).await;
            }
            node.pwrite_zeroes(at, len, ZeroFlags::default()).await
        });
    }

    fn read(&mut self) {
        let range = self.some_bytes(self.model.disk.len());
        if !self.is_free(&Touches::Disk(range.clone())) {
            return;
        }
        let expected = self.model.disk[range.start as usize..range.end as usize].to_vec();
        let at = DiskOffset(range.start);
        self.start(Touches::Disk(range), async move |node| {
            let mut bytes = vec![0xEE; expected.len()];
            node.pread(at, &mut bytes).await?;
            assert!(bytes == expected, "the disk at {at}");
            Ok(())
        });
    }

    fn save(&mut self) {
        let range = self.some_bytes(200_000);
        if !self.is_free(&Touches::State(range.clone())) {
            return;
        }
        let reads = self.random.below(4) == 0 && !self.model.state.is_empty();
        let end = range.end as usize;
        let (at, len) = (range.start, end - range.start as usize);
        if reads {
            let mut expected = self.model.state.clone();
            expected.resize(expected.len().max(end), 0);
            let expected = expected[at as usize..end].to_vec();
            self.start(Touches::State(range), async move |node| {
                let read = state(&node, at, len).await?;
                assert!(read == expected, "the state at {at}");
                Ok(())
            });
            return;
        }
        let bytes = pattern(self.random.next(), len);
        let model = &mut self.model.state;
        model.resize(model.len().max(end), 0);
        model[at as usize..end].copy_from_slice(&bytes);
        self.model.finished = None;
        self.start(Touches::State(range), async move |node| {
            let at = block_core::VmstateOffset(at);
            node.save_vmstate_unbuffered(at, crate::support::vector(&bytes))
                .await
        });
    }

    fn finish_or_discard(&mut self) {
        if !self.is_free(&Touches::WholeState) {
            return;
        }
        let len = self.model.state.len();
        if len > 0 && self.random.below(3) > 0 {
            self.model.finished = Some(len);
            self.start(Touches::WholeState, async move |node| {
                node.finish_vmstate(len as u64).await
            });
            return;
        }
        self.model.state.clear();
        self.model.finished = None;
        self.start(Touches::WholeState, async |node| {
            node.discard_vmstate().await
        });
    }

    fn create(&mut self, seen: &mut Seen) {
        if !self.is_free(&Touches::Snapshots) {
            return;
        }
        let unfinished = !self.model.state.is_empty() && self.model.finished.is_none();
        if unfinished {
            // It is refused, and nothing changes.
            self.start(Touches::Snapshots, async |node| {
                let refused = node.snapshot_create(NewSnapshot::new("never")).await;
                let cause = refused.expect_err("the state is not finished").cause;
                assert!(matches!(cause, Cause::Driver(_)), "{cause:?}");
                Ok(())
            });
            return;
        }
        let replaced = self.random.below(self.model.snapshots.len() as u64 * 4 + 1) as usize;
        let name = match self.model.snapshots.get(replaced) {
            Some(old) => old.name.clone(),
            None => {
                self.model.names += 1;
                format!("snapshot {}", self.model.names)
            }
        };
        self.model.snapshots.retain(|kept| kept.name != name);
        let state = std::mem::take(&mut self.model.state);
        let with_state = self.model.finished.take().is_some();
        seen.created += 1;
        seen.with_state += u32::from(with_state);
        let len = state.len() as u64;
        self.model.snapshots.push(Kept {
            name: name.clone(),
            disk: self.model.disk.clone(),
            state,
        });
        self.start(Touches::Snapshots, async move |node| {
            let new = NewSnapshot {
                replace: true,
                ..NewSnapshot::new(name)
            };
            let info = node.snapshot_create(new).await?;
            assert_eq!(info.vmstate_size, len);
            Ok(())
        });
    }

    fn some_snapshot(&mut self) -> Option<usize> {
        let count = self.model.snapshots.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    fn go_to(&mut self, seen: &mut Seen) {
        let Some(index) = self.some_snapshot() else {
            return;
        };
        if !self.is_free(&Touches::Snapshots) {
            return;
        }
        let kept = &self.model.snapshots[index];
        let name = kept.name.clone();
        self.model.disk = kept.disk.clone();
        self.model.state.clear();
        self.model.finished = None;
        seen.gone_to += 1;
        self.start(Touches::Snapshots, async |node| {
            node.snapshot_goto(name).await
        });
    }

    fn delete(&mut self, seen: &mut Seen) {
        let Some(index) = self.some_snapshot() else {
            return;
        };
        if self.model.snapshots.len() < 3 || !self.is_free(&Touches::Snapshots) {
            return;
        }
        let name = self.model.snapshots.remove(index).name;
        seen.deleted += 1;
        self.start(Touches::Snapshots, async |node| {
            node.snapshot_delete(name).await
        });
    }

    fn view(&mut self, seen: &mut Seen) {
        let Some(index) = self.some_snapshot() else {
            return;
        };
        let kept = self.model.snapshots[index].clone();
        let touches = Touches::View(kept.name.clone());
        if !self.is_free(&touches) {
            return;
        }
        let range = self.some_bytes(kept.disk.len());
        seen.viewed += 1;
        self.start(touches, async move |node| {
            let view = node.snapshot_load_tmp(kept.name.as_str()).await?;
            let expected = &kept.disk[range.start as usize..range.end as usize];
            let mut bytes = vec![0xEE; expected.len()];
            view.pread(DiskOffset(range.start), &mut bytes).await?;
            assert!(bytes == expected, "{} at {range:?}", kept.name);
            let area = state(&view, 0, kept.state.len()).await?;
            assert!(area == kept.state, "the state of {}", kept.name);
            view.close().await
        });
    }

    /// The length changes after all requests before and before all after; version 2 keeps it while there are snapshots.
    fn resize(&mut self, seen: &mut Seen) {
        if self.what.contains("compat=0.10") || !self.is_free(&Touches::Snapshots) {
            return;
        }
        let len = 512 * (20 + self.random.below(300));
        self.model.disk.resize(len as usize, 0);
        seen.resized += 1;
        self.start(Touches::Snapshots, async move |node| {
            let to = Truncate {
                len,
                exact: true,
                preallocation: Preallocation::Off,
            };
            node.truncate(to).await
        });
    }
}

fn run(pairs: &str, seed: u64, seen: &mut Seen) {
    let bench = Bench::new();
    let image = bench.run(async {
        let bytes = bench.create(pairs).await;
        bench.open_small(&bytes).await
    });
    let len = bench.run(image.node.length()).expect("a length") as usize;
    image.control.hold_all();
    let mut run = Run {
        bench: &bench,
        image: Rc::new(image),
        model: Model {
            disk: vec![0; len],
            snapshots: Vec::new(),
            state: Vec::new(),
            finished: None,
            names: 0,
        },
        calls: Vec::new(),
        random: Random::new(seed),
        what: pairs.to_owned(),
    };
    for _ in 0..400 {
        run.step(seen);
        seen.calls += 1;
        seen.at_once = seen.at_once.max(run.calls.len());
        run.reap();
        run.release(7);
        while run.calls.len() > MOST {
            run.release(4);
        }
    }
    while !run.calls.is_empty() {
        run.release(4);
    }
    let Run { image, model, .. } = run;
    image.control.stop_holding();
    image.control.release_all();
    let what = format!("{pairs}, seed {seed}");
    let world = World {
        disk: model.disk,
        snapshots: model.snapshots,
    };
    bench.run(async {
        world.assert(&image, &what).await;
        image.node.close().await.expect("closed");
        let bytes = image.control.contents();
        let report = bench.check(&bytes).await;
        assert!(report.is_clean(), "{what}: {report:?}");
        let image = bench.open(&bytes).await;
        world.assert(&image, &format!("{what}, opened again")).await;
    });
}

#[test]
fn requests_states_and_snapshots_of_many_tasks_leave_the_bytes_of_their_order() {
    let mut seen = Seen::default();
    for pairs in IMAGES {
        for seed in 1..=12 {
            run(pairs, seed, &mut seen);
        }
    }
    let Seen {
        at_once,
        created,
        with_state,
        gone_to,
        deleted,
        viewed,
        resized,
        ..
    } = seen;
    assert!(at_once > 8 && created > 200 && with_state > 10);
    assert!(gone_to > 60 && deleted > 40 && viewed > 100 && resized > 40);
}
