//! The moments of an operation at which the machine may stop, and what the disk has then.

use crate::support::{Bench, Image, Random, pattern};
use crate::world::{Action, World, cluster_of};
use block_core::Op;
use block_core::test_disk::Keep;
use std::cell::RefCell;
use std::rc::Rc;

/// The disk after the machine has stopped.
pub(crate) struct Crash<'a> {
    pub(crate) disk: &'a [u8],
    /// What the image must say: the one or the other.
    pub(crate) before: &'a World,
    pub(crate) after: &'a World,
    /// When it was, in words.
    pub(crate) when: String,
}

/// One action on an image, the save of its state before it included, with all requests of the file held and released in any order. About
/// one moment in `every` is shown; and, with the world after it alone, the end, when what it said is stable.
///
/// The guest has written and flushed before.
pub(crate) fn moments(
    bench: &Bench,
    (bytes, world): &(Vec<u8>, World),
    pairs: &str,
    action: Action,
    (seed, every): (u64, u64),
    mut show: impl FnMut(Crash<'_>),
) {
    let mut random = Random::new(seed);
    let mut before = world.clone();
    let state = pattern(seed, 2 * cluster_of(pairs) + 99);
    let image = bench.run(async {
        let image = bench.open_small(bytes).await;
        image.control.track_crashes();
        before.write(&image, &mut random, cluster_of(pairs)).await;
        image.node.flush().await.expect("flushed");
        image
    });
    let after = before.after(action, &state);
    let image = Rc::new(image);
    image.control.hold_all();
    let result = Rc::new(RefCell::new(None));
    let task = bench.handle().spawn({
        let (image, before, result) = (image.clone(), before.clone(), result.clone());
        async move {
            if action.needs_state() {
                image.save_state(&state).await.expect("saved");
            }
            let done = action.run(&image, &before).await;
            *result.borrow_mut() = Some(done);
        }
    });
    let what = format!("{pairs}: {action:?}, seed {seed}");
    let mut step = 0;
    loop {
        bench.go_on();
        if random.below(every) == 0 {
            show(Crash {
                disk: &crashed(&image, &mut random),
                before: &before,
                after: &after,
                when: format!("{what}, step {step}"),
            });
        }
        if let Some(done) = result.borrow_mut().take() {
            done.expect("done");
            break;
        }
        let held = image.control.held();
        let pick = random.below(held.len() as u64) as usize;
        let picked = held.get(pick).expect("it waits for the disk");
        image.control.release(picked.id);
        step += 1;
    }
    drop(task);
    show(Crash {
        disk: &image.control.contents_after_crash(|_| false),
        before: &after,
        after: &after,
        when: format!("{what}, done"),
    });
    image.control.stop_holding();
}

/// The disk as a crash may leave it: of each write that was not flushed all, nothing, or some sectors.
pub(crate) fn crashed(image: &Image, random: &mut Random) -> Vec<u8> {
    let style = random.below(4);
    image.control.contents_after_crash(|record| match style {
        0 => Keep::Nothing,
        1 => Keep::All,
        _ => match random.below(3) {
            0 => Keep::Nothing,
            1 => Keep::All,
            _ if record.op == Op::Write && record.len > 512 => {
                let sectors = record.len.div_ceil(512);
                let from = random.below(sectors);
                let to = from + 1 + random.below(sectors - from);
                Keep::Part(from * 512..to * 512)
            }
            _ => Keep::Nothing,
        },
    })
}
