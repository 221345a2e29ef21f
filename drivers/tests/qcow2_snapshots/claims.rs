//! What an operation says of the disk, compared with what a driver that opens the disk anew finds there. A request of the file fails once, or
//! from then on; the close comes with the fault still there.

use crate::support::{Bench, Image, pattern};
use crate::world::{ACTIONS, Action, IMAGES, World, cluster_of};
use block_core::{BlockError, Cause, Errno, Op};

/// What the results of an operation and of the close after it say.
#[derive(Debug, Default)]
struct Claim {
    /// The image has what it had, or what it was to have, or one of the two.
    old: bool,
    new: bool,
    /// Space may be lost.
    leaks: bool,
}

fn claim(cause: Option<&Cause>) -> Claim {
    match cause {
        None => Claim {
            new: true,
            ..Claim::default()
        },
        Some(Cause::Done { .. }) => Claim {
            new: true,
            leaks: true,
            ..Claim::default()
        },
        Some(Cause::Leaked { cause, .. }) => Claim {
            leaks: true,
            ..claim(Some(cause))
        },
        Some(Cause::Unsure { .. }) => Claim {
            old: true,
            new: true,
            leaks: true,
        },
        Some(_) => Claim {
            old: true,
            ..Claim::default()
        },
    }
}

/// Saves what the action needs, acts, drops what is left of a state, and closes: as the program does.
async fn act(
    image: &Image,
    action: Action,
    world: &World,
    state: &[u8],
) -> (Option<Cause>, Result<(), BlockError>) {
    let mut result = Ok(());
    if action.needs_state() {
        result = image.save_state(state).await;
    }
    if result.is_ok() {
        result = action.run(image, world).await;
    }
    let mut cause = result.err().map(|error| error.cause);
    if action.needs_state()
        && let Some(first) = cause.take()
    {
        cause = Some(match image.node.discard_vmstate().await {
            Ok(()) => first,
            Err(freeing) => Cause::Leaked {
                cause: Box::new(first),
                freeing: Box::new(freeing.cause),
            },
        });
    }
    (cause, image.node.close().await)
}

/// False if the fault was not met: there are fewer requests of this kind.
async fn compare(
    bench: &Bench,
    (bytes, world): &(Vec<u8>, World),
    pairs: &str,
    action: Action,
    (op, nth, times): (Op, u64, u64),
    seen: &mut Seen,
) -> bool {
    let state = pattern(77, 3 * cluster_of(pairs) + 100);
    let after = world.after(action, &state);
    let image = bench.open_small(bytes).await;
    (nth..nth + times).for_each(|nth| image.control.fail_nth(op, nth, Errno::NOSPC));
    let (cause, closed) = act(&image, action, world, &state).await;
    let fired = image.control.faults_fired() > 0;
    let what = format!("{pairs}: {action:?}, {op} {nth}, {times} times: {cause:?}, {closed:?}");
    let claim = claim(cause.as_ref());
    let disk = image.control.contents();
    let again = bench.open(&disk).await;
    let is_old = world.difference(&again).await;
    let is_new = after.difference(&again).await;
    assert!(
        (claim.old && is_old.is_none()) || (claim.new && is_new.is_none()),
        "{what}: {claim:?}, but old: {is_old:?}, new: {is_new:?}"
    );
    let report = bench.check(&disk).await;
    if !claim.leaks && closed.is_ok() {
        assert!(report.is_clean(), "{what}: {report:?}");
    }
    seen.faults += u32::from(fired);
    seen.unsure += u32::from(claim.old && claim.new);
    seen.leaks += u32::from(report.leaks > 0);
    fired
}

#[derive(Debug, Default)]
struct Seen {
    faults: u32,
    unsure: u32,
    leaks: u32,
}

#[test]
fn what_an_error_says_of_the_disk_is_what_is_found_there() {
    let bench = Bench::new();
    bench.run(async {
        let mut seen = Seen::default();
        for pairs in [IMAGES[0], IMAGES[1]] {
            let base = World::build(&bench, pairs).await;
            for action in ACTIONS {
                for op in [Op::Read, Op::Write, Op::Flush, Op::Discard, Op::Truncate] {
                    for times in [1, 2000] {
                        let mut nth = 0;
                        let fault = |nth| (op, nth, times);
                        while compare(&bench, &base, pairs, action, fault(nth), &mut seen).await {
                            nth += 1;
                        }
                    }
                }
            }
        }
        println!("{seen:?}");
        assert!(seen.faults > 500 && seen.unsure > 10, "{seen:?}");
    });
}
