//! Every future of the public API, dropped after each of its polls: nothing leaks, the node can still be drained and closed, and what was
//! accepted is still there.

mod support;

use block_core::{IoVector, Op};
use futures::future::LocalBoxFuture;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use std::rc::Rc;
use support::*;
use vmstate::{
    LoadOptions, VmstateLoad, VmstateReader, VmstateSave, VmstateWriter, finalize_vmstate,
    load_vmstate, save_vmstate, save_vmstate_bytes,
};

/// The futures of a save that is in the middle: two cells are in flight, one is partly filled.
type SaveCase = fn(Rc<VmstateSave>) -> LocalBoxFuture<'static, ()>;

const SAVE_CASES: &[(&str, SaveCase)] = &[
    ("write", |save| {
        Box::pin(async move {
            let _ = save.write(3 * CELL, &pattern(2, 3 * CELL, 9 * CELL)).await;
        })
    }),
    ("write over what is in flight", |save| {
        Box::pin(async move {
            let _ = save.write(0, &pattern(2, 0, 9 * CELL)).await;
        })
    }),
    ("writev", |save| {
        Box::pin(async move {
            let source = IoVector::copy_of(&pattern(2, 0, 7 * CELL), 1).expect("small");
            let _ = save.writev(5, &source).await;
        })
    }),
    ("make_room", |save| {
        Box::pin(async move {
            let _ = save.make_room(50 * CELL).await;
        })
    }),
    ("flush", |save| {
        Box::pin(async move {
            let _ = save.flush().await;
        })
    }),
    ("finalize", |save| {
        Box::pin(async move {
            let _ = save.finalize().await;
        })
    }),
    ("read", |save| {
        Box::pin(async move {
            let _ = save.read(1, &mut vec![0; 9 * CELL as usize]).await;
        })
    }),
    ("save_vmstate", |save| {
        Box::pin(async move {
            let source = IoVector::copy_of(&pattern(2, 0, 7 * CELL), 1).expect("small");
            let _ = save_vmstate(save.node(), 10 * CELL, &source).await;
        })
    }),
    ("save_vmstate_bytes", |save| {
        Box::pin(async move {
            let _ = save_vmstate_bytes(save.node(), 0, &[3; 7 * CELL as usize]).await;
        })
    }),
    ("load_vmstate", |save| {
        Box::pin(async move {
            let _ = load_vmstate(save.node(), 0, &mut vec![0; 4 * CELL as usize]).await;
        })
    }),
    ("finalize_vmstate", |save| {
        Box::pin(async move {
            let _ = finalize_vmstate(save.node()).await;
        })
    }),
    ("open during a save, and read", |save| {
        Box::pin(async move {
            let load = VmstateLoad::open(save.node(), LoadOptions::default()).await;
            let mut reader = VmstateReader::new(load.expect("opens"));
            let _ = reader.read_to_end(&mut Vec::new()).await;
        })
    }),
];

/// Lets one held call end.
fn release_one(bench: &Bench) {
    if let Some(held) = bench.disk.held().last() {
        bench.disk.release(held.id);
    }
}

#[test]
fn every_future_of_a_save_may_be_dropped_after_every_poll() {
    for (name, case) in SAVE_CASES {
        let mut last = 0;
        for polls in 0..200 {
            let bench = Bench::new();
            bench.disk.hold_all();
            let save = Rc::new(VmstateSave::begin(&bench.node, small(2)).expect("begins"));
            let start = pattern(1, 0, 2 * CELL + 700);
            bench.run(save.write(0, &start)).expect("there is room");
            let done = poll_at_most(&bench, polls, case(save.clone()), || release_one(&bench));
            // The save is none the worse: it goes on, and what it had accepted arrives.
            let ended = bench.node.extension_is_idle(&save);
            if !ended {
                let accepted = save.length();
                let end = bench.start({
                    let save = save.clone();
                    async move { save.finalize().await }
                });
                bench.release_everything();
                assert_eq!(
                    end.done(),
                    Ok(accepted),
                    "{name} dropped after {polls} polls"
                );
            }
            drop(save);
            bench.release_everything();
            bench.drain_and_close();
            let Bench {
                node,
                disk,
                context,
            } = bench;
            drop(node);
            context.by_hand().run_until_stalled();
            assert!(
                disk.is_dropped(),
                "{name} dropped after {polls} polls leaks"
            );
            last = polls;
            if done.is_some() {
                break;
            }
        }
        assert!(last < 199, "{name} came to its end");
        assert!(last > 1, "{name} had to wait, or this tests nothing");
    }
}

/// The same, and then no task finalizes.
#[test]
fn after_every_drop_the_save_may_be_abandoned() {
    for (name, case) in SAVE_CASES {
        for polls in 0..12 {
            let bench = Bench::new();
            bench.disk.hold_all();
            let save = Rc::new(VmstateSave::begin(&bench.node, small(2)).expect("begins"));
            let start = pattern(1, 0, 2 * CELL + 700);
            bench.run(save.write(0, &start)).expect("there is room");
            let _ = poll_at_most(&bench, polls, case(save.clone()), || release_one(&bench));
            drop(save);
            // A call that was dropped may have begun a save of its own: what the node tells is no surprise then.
            let next = VmstateSave::begin(&bench.node, small(1));
            drop(next);
            bench.drain_and_close();
            let Bench {
                node,
                disk,
                context,
            } = bench;
            drop(node);
            context.by_hand().run_until_stalled();
            assert!(
                disk.is_dropped(),
                "{name} dropped after {polls} polls leaks"
            );
        }
    }
}

type LoadCase = fn(Rc<VmstateLoad>) -> LocalBoxFuture<'static, ()>;

const LOAD_CASES: &[(&str, LoadCase)] = &[
    ("read", |load| {
        Box::pin(async move {
            let _ = load.read(100, &mut vec![0; 9 * CELL as usize]).await;
        })
    }),
    ("read elsewhere", |load| {
        Box::pin(async move {
            let _ = load.read(15 * CELL, &mut [0; 10]).await;
        })
    }),
    ("ready", |load| {
        Box::pin(async move {
            let _ = load.ready(7 * CELL).await;
        })
    }),
    ("load_vmstate", |load| {
        Box::pin(async move {
            let _ = load_vmstate(load.node(), 0, &mut vec![0; 4 * CELL as usize]).await;
        })
    }),
    ("open", |load| {
        Box::pin(async move {
            let _ = VmstateLoad::open(load.node(), LoadOptions::default()).await;
        })
    }),
];

#[test]
fn every_future_of_a_load_may_be_dropped_after_every_poll() {
    for (name, case) in LOAD_CASES {
        for polls in 0..40 {
            let bench = Bench::new();
            bench.disk.set_vmstate_contents(&pattern(1, 0, 20 * CELL));
            let load = bench.run(VmstateLoad::open(&bench.node, small_load(3)));
            let load = Rc::new(load.expect("opens"));
            bench.disk.hold_all();
            let done = poll_at_most(&bench, polls, case(load.clone()), || release_one(&bench));
            // The load is none the worse.
            let reading = bench.start({
                let load = load.clone();
                async move {
                    let mut bytes = vec![0; 20 * CELL as usize];
                    load.read(0, &mut bytes)
                        .await
                        .map(|len| bytes[..len].to_vec())
                }
            });
            bench.release_everything();
            let bytes = reading.done().expect("read");
            assert!(
                bytes == pattern(1, 0, 20 * CELL),
                "{name} dropped after {polls} polls"
            );
            drop(load);
            bench.drain_and_close();
            let Bench {
                node,
                disk,
                context,
            } = bench;
            drop(node);
            context.by_hand().run_until_stalled();
            assert!(
                disk.is_dropped(),
                "{name} dropped after {polls} polls leaks"
            );
            if done.is_some() {
                break;
            }
        }
    }
}

/// Writers and readers hold futures of their own.
#[test]
fn a_writer_or_reader_may_be_dropped_after_every_poll() {
    for polls in 0..60 {
        let bench = Bench::new();
        bench.disk.hold_all();
        let save = VmstateSave::begin(&bench.node, small(2)).expect("begins");
        let writing = async move {
            let mut writer = VmstateWriter::new(save);
            writer
                .write_all(&pattern(1, 0, 6 * CELL + 9))
                .await
                .expect("written");
            writer.flush().await.expect("flushed");
            writer.write_all(b"more").await.expect("written");
            writer.close().await.expect("finalized");
        };
        let done = poll_at_most(&bench, polls, writing, || release_one(&bench));
        bench.drain_and_close();
        let Bench {
            node,
            disk,
            context,
        } = bench;
        drop(node);
        context.by_hand().run_until_stalled();
        assert!(disk.is_dropped(), "dropped after {polls} polls, it leaks");
        if done.is_some() {
            assert!(polls > 5, "it had to wait");
            assert_eq!(disk.records_of(Op::FinalizeVmstate).len(), 1);
            return;
        }
    }
    panic!("it came to its end");
}

trait Idle {
    /// True if this save is over.
    fn extension_is_idle(&self, save: &VmstateSave) -> bool;
}

impl Idle for block_core::BlockNode {
    fn extension_is_idle(&self, save: &VmstateSave) -> bool {
        save.try_write(save.length(), &[]).is_err()
    }
}
