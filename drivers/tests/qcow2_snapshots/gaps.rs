//! Gaps of a state in an image with a backing file: QEMU reads the backing file where nothing is allocated, in the vmstate area too.

use crate::crash::is_harmless;
use crate::moments::crashed;
use crate::support::{Bench, Image, Random, cause, is_unfinished, pattern, snapshot_bytes, state};
use block_core::{Errno, Op};
use block_drivers::qcow2::{BackingFile, Qcow2Options};
use std::rc::Rc;

const MIB: u64 = 1 << 20;
/// Bytes of the states, which end inside a cluster.
const LEN: usize = 300_001;

/// An image with a disk of 1 MiB that names a backing file or is to, and where its vmstate area begins.
struct Kind {
    pairs: &'static str,
    area: u64,
    /// Bytes that a table maps.
    table: u64,
    /// Bytes of a cluster, or of a subcluster.
    unit: usize,
}

const KINDS: [Kind; 4] = [
    Kind {
        pairs: "size=1M,cluster_size=4096",
        area: 2 * MIB,
        table: 2 * MIB,
        unit: 4096,
    },
    Kind {
        pairs: "size=1M,cluster_size=1024,compat=0.10",
        area: MIB,
        table: 128 << 10,
        unit: 1024,
    },
    Kind {
        pairs: "size=1M,cluster_size=2048",
        area: MIB,
        table: 512 << 10,
        unit: 2048,
    },
    Kind {
        pairs: "size=1M,cluster_size=16384,extended_l2=on",
        area: 16 * MIB,
        table: 16 * MIB,
        unit: 512,
    },
];

impl Kind {
    fn overlay(&self) -> String {
        format!("{},backing_file=b,backing_fmt=raw", self.pairs)
    }

    /// Backing files that are longer than the state, that end inside it, and that end before it.
    fn bases(&self) -> [Vec<u8>; 4] {
        let whole = base((self.area + 2 * MIB) as usize);
        [
            whole.clone(),
            whole[..self.area as usize + 150_003].to_vec(),
            whole[..self.area as usize].to_vec(),
            whole[..1000].to_vec(),
        ]
    }

    /// What the area reads as where nothing is allocated.
    fn shown(&self, base: &[u8], at: usize, len: usize) -> Vec<u8> {
        let from = base.len().min(self.area as usize + at);
        let mut shown = base[from..base.len().min(from + len)].to_vec();
        shown.resize(len, 0);
        shown
    }
}

/// No byte of it is 0.
fn base(len: usize) -> Vec<u8> {
    pattern(11, len).into_iter().map(|byte| byte | 1).collect()
}

async fn open_over(bench: &Bench, image: &[u8], base: &[u8]) -> Image {
    let (child, _) = bench.file(base).await;
    let options = Qcow2Options {
        backing: BackingFile::Open(child),
        ..Qcow2Options::default()
    };
    bench.open_with(image, options).await
}

/// Pieces of a state: unaligned, neighbours in one cluster, and more than one cluster with none before the next.
const PIECES: [(u64, usize); 6] = [
    (3, 100),
    (700, 20),
    (40_000, 50_000),
    (131_072, 16_384),
    (290_000, 1),
    (298_000, 1_001),
];

/// Writes the pieces; what the state is then.
async fn save_with_gaps(image: &Image) -> Vec<u8> {
    let mut model = vec![0; LEN];
    for (at, len) in PIECES {
        let bytes = base(len);
        image.save(at, &bytes).await.expect("written");
        model[at as usize..][..len].copy_from_slice(&bytes);
    }
    model
}

/// What `qemu-img rebase -u` does: the image names a backing file, and nothing else of it changes.
fn rebased(mut image: Vec<u8>) -> Vec<u8> {
    let at = 1023;
    assert_eq!(image[at], 0, "the rest of the header is not used");
    image[8..16].copy_from_slice(&(at as u64).to_be_bytes());
    image[16..20].copy_from_slice(&1_u32.to_be_bytes());
    image[at] = b'b';
    image
}

#[test]
fn gaps_of_a_state_are_zeroes_whatever_is_in_the_backing_file() {
    let bench = Bench::new();
    bench.run(async {
        for kind in KINDS {
            for below in kind.bases() {
                let what = format!("{}, over {} bytes", kind.pairs, below.len());
                let bytes = bench.create(&kind.overlay()).await;
                let image = open_over(&bench, &bytes, &below).await;
                let model = save_with_gaps(&image).await;
                let read = state(&image.node, 0, LEN).await.expect("read");
                assert!(read == model, "{what}: while it is saved");
                image.node.finish_vmstate(LEN as u64).await.expect("length");
                let read = state(&image.node, 0, LEN).await.expect("read");
                assert!(read == model, "{what}: finished");
                image.snapshot("a").await.expect("made");
                let bytes = image.close().await;
                bench.is_clean(&bytes).await;
                // Another process, and a backing file that is longer than the one that it was saved over.
                for below in [&below, &kind.bases()[0]] {
                    let image = open_over(&bench, &bytes, below).await;
                    let (_, kept) = snapshot_bytes(&image.node, "a").await.expect("read");
                    assert!(kept == model, "{what}: the snapshot");
                    image.node.snapshot_goto("a").await.expect("gone to");
                    let end = LEN.next_multiple_of(512);
                    let read = state(&image.node, 0, end).await.expect("read");
                    assert!(read[..LEN] == model, "{what}: gone to");
                    assert!(read[LEN..].iter().all(|b| *b == 0), "{what}: the tail");
                    bench.is_clean(&image.close().await).await;
                }
            }
        }
    });
}

#[test]
fn an_unallocated_cluster_of_a_state_shows_the_backing_file_as_far_as_that_is_long() {
    let bench = Bench::new();
    bench.run(async {
        for kind in KINDS {
            // The gaps are not written down: there is no backing file yet.
            let image = bench.image(kind.pairs).await;
            let model = save_with_gaps(&image).await;
            image.node.finish_vmstate(LEN as u64).await.expect("length");
            image.snapshot("a").await.expect("made");
            let bytes = rebased(image.close().await);
            for below in kind.bases() {
                let what = format!("{}, over {} bytes", kind.pairs, below.len());
                let image = open_over(&bench, &bytes, &below).await;
                // Of the clusters that have data, and of their subclusters, nothing shows through.
                let mut expected = kind.shown(&below, 0, LEN);
                for (at, len) in PIECES {
                    let start = at as usize / kind.unit * kind.unit;
                    let end = (at as usize + len).next_multiple_of(kind.unit).min(LEN);
                    expected[start..end].copy_from_slice(&model[start..end]);
                }
                let (_, kept) = snapshot_bytes(&image.node, "a").await.expect("read");
                assert!(kept == expected, "{what}: the snapshot");
                image.node.snapshot_goto("a").await.expect("gone to");
                let read = state(&image.node, 0, LEN).await.expect("read");
                assert!(read == expected, "{what}: gone to");
                // A state of our own does not begin with it.
                image.save(5000, &[1; 10]).await.expect("written");
                let read = state(&image.node, 0, LEN).await.expect("read");
                let ones = read.iter().filter(|byte| **byte == 1).count();
                assert!(ones == 10 && read.iter().all(|b| *b < 2), "{what}: begun");
                bench.is_clean(&image.close().await).await;
            }
        }
    });
}

#[test]
fn an_area_without_a_state_shows_the_backing_file() {
    let bench = Bench::new();
    bench.run(async {
        for kind in KINDS {
            for below in kind.bases() {
                let bytes = bench.create(&kind.overlay()).await;
                let image = open_over(&bench, &bytes, &below).await;
                let read = state(&image.node, 99_999, LEN).await.expect("read");
                assert!(read == kind.shown(&below, 99_999, LEN), "{}", kind.pairs);
                assert_eq!(image.node.vmstate_length().await, Ok(None));
            }
        }
    });
}

#[test]
fn a_gap_that_would_show_a_backing_file_that_was_not_opened_is_an_error_and_not_zeroes() {
    let bench = Bench::new();
    bench.run(async {
        for kind in KINDS {
            let image = bench.image(kind.pairs).await;
            save_with_gaps(&image).await;
            image.node.finish_vmstate(LEN as u64).await.expect("length");
            image.snapshot("gaps").await.expect("made");
            let bytes = rebased(image.close().await);
            let options = || Qcow2Options {
                backing: BackingFile::Ignore,
                ..Qcow2Options::default()
            };
            let image = bench.open_with(&bytes, options()).await;
            let error = cause(snapshot_bytes(&image.node, "gaps").await);
            assert!(error.to_string().contains("\"b\" was not opened"));
            // What is saved then does not need it.
            let model = save_with_gaps(&image).await;
            image.node.finish_vmstate(LEN as u64).await.expect("length");
            image.snapshot("whole").await.expect("made");
            let view = image.node.snapshot_load_tmp("whole").await.expect("a view");
            let read = state(&view, 0, LEN).await.expect("read");
            assert!(read == model, "{}", kind.pairs);
            view.close().await.expect("closed");
            assert_eq!(image.names().await, ["gaps", "whole"]);
            bench.is_clean(&image.close().await).await;
        }
    });
}

#[test]
fn a_state_that_goes_on_after_it_was_finished_has_its_new_gaps_filled_too() {
    let bench = Bench::new();
    bench.run(async {
        for kind in KINDS {
            let below = &kind.bases()[0];
            let bytes = bench.create(&kind.overlay()).await;
            let image = open_over(&bench, &bytes, below).await;
            let mut model = save_with_gaps(&image).await;
            image.node.finish_vmstate(LEN as u64).await.expect("length");
            // Inside a gap that was filled, and past the end, with a gap between.
            image.save(20_001, &[7; 30]).await.expect("written");
            image.save(700_000, &[8; 3000]).await.expect("written");
            model[20_001..20_031].fill(7);
            model.resize(703_000, 0);
            model[700_000..].fill(8);
            let refused = cause(image.snapshot("a").await);
            assert!(is_unfinished(&refused), "{refused}");
            image.node.finish_vmstate(703_000).await.expect("length");
            image.snapshot("a").await.expect("made");
            let (_, kept) = snapshot_bytes(&image.node, "a").await.expect("read");
            assert!(kept == model, "{}", kind.pairs);
            image.node.finish_vmstate(4_000_000).await.expect("length");
            image.snapshot("empty").await.expect("made");
            let (_, kept) = snapshot_bytes(&image.node, "empty").await.expect("read");
            assert!(kept == vec![0; 4_000_000], "{}", kind.pairs);
            bench.is_clean(&image.close().await).await;
        }
    });
}

#[test]
fn without_a_backing_file_gaps_take_no_space() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=1M,cluster_size=4096").await;
        image.save(8 << 20, &[1; 4096]).await.expect("written");
        let len = (8 << 20) + 4096;
        image.node.finish_vmstate(len).await.expect("length");
        image.snapshot("a").await.expect("made");
        // An L1 table of the snapshot, an L2 table, the data, the table of snapshots, and what the empty image had.
        let bytes = image.close().await;
        assert!(bytes.len() < 64 << 10, "{}", bytes.len());
    });
}

/// Each request of the file fails once while gaps are filled: the state is not complete then, and the next attempt completes it.
#[test]
fn a_state_whose_gaps_cannot_be_filled_is_not_complete() {
    let bench = Bench::new();
    bench.run(async {
        for kind in KINDS {
            let below = &kind.bases()[0];
            let bytes = bench.create(&kind.overlay()).await;
            // It reaches into a table that no write has made.
            let len = kind.table.max(LEN as u64) + 5000;
            let mut faults = 0;
            for op in [Op::Read, Op::Write, Op::WriteZeroes] {
                for nth in 0.. {
                    let image = open_over(&bench, &bytes, below).await;
                    let mut model = save_with_gaps(&image).await;
                    model.resize(len as usize, 0);
                    image.control.fail_nth(op, nth, Errno::IO);
                    let finished = image.node.finish_vmstate(len).await;
                    let fired = image.control.faults_fired() > 0;
                    image.control.clear_faults();
                    if finished.is_err() {
                        let refused = cause(image.snapshot("a").await);
                        assert!(is_unfinished(&refused), "{refused}");
                        faults += 1;
                    }
                    if nth % 2 == 0 {
                        image.node.discard_vmstate().await.expect("dropped");
                    } else {
                        image.node.finish_vmstate(len).await.expect("length");
                        image.snapshot("a").await.expect("made");
                        let (_, kept) = snapshot_bytes(&image.node, "a").await.expect("read");
                        assert!(kept == model, "{}: {op} {nth}", kind.pairs);
                    }
                    bench.is_clean(&image.close().await).await;
                    if !fired {
                        break;
                    }
                }
            }
            assert!(faults > 0, "{}", kind.pairs);
        }
    });
}

/// The free clusters of the file are full of an older state, and some of them are given to the gaps of version 2.
#[test]
fn a_crash_while_gaps_are_filled_leaves_no_snapshot_or_one_whose_gaps_are_zeroes() {
    let bench = Bench::new();
    let (mut crashes, mut recorded) = (0, 0);
    for kind in KINDS {
        let below = kind.bases()[0].clone();
        for seed in 1..=6 {
            let mut random = Random::new(seed);
            let image = bench.run(async {
                let bytes = bench.create(&kind.overlay()).await;
                let image = open_over(&bench, &bytes, &below).await;
                image.save_state(&base(LEN)).await.expect("saved");
                image.node.discard_vmstate().await.expect("dropped");
                image.control.track_crashes();
                Rc::new(image)
            });
            image.control.hold_all();
            let task = bench.handle().spawn({
                let image = image.clone();
                async move {
                    let model = save_with_gaps(&image).await;
                    image.node.finish_vmstate(LEN as u64).await.expect("length");
                    image.snapshot("a").await.expect("made");
                    model
                }
            });
            let mut disks = Vec::new();
            loop {
                bench.go_on();
                if random.below(2) == 0 {
                    disks.push(crashed(&image, &mut random));
                }
                let held = image.control.held();
                let pick = random.below(held.len() as u64) as usize;
                match held.get(pick) {
                    Some(picked) => image.control.release(picked.id),
                    None => break,
                };
            }
            image.control.stop_holding();
            disks.push(image.control.contents_after_crash(|_| false));
            let model = bench.run(task).expect("done");
            for disk in disks {
                let there = bench.run(async {
                    let report = bench.check(&disk).await;
                    assert!(is_harmless(&report), "{}: {report:?}", kind.pairs);
                    let image = open_over(&bench, &disk, &below).await;
                    let names = image.names().await;
                    if !names.is_empty() {
                        let (_, kept) = snapshot_bytes(&image.node, "a").await.expect("read");
                        assert!(
                            names == ["a"] && kept == model,
                            "{}, seed {seed}",
                            kind.pairs
                        );
                    }
                    !names.is_empty()
                });
                crashes += 1;
                recorded += u32::from(there);
            }
        }
    }
    assert!(
        crashes - recorded > 100 && recorded > 40,
        "{crashes}, {recorded}"
    );
}
