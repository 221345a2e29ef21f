//! The gate's test of itself: two models over the production sources that must fail, one by a causality violation and one by a
//! deadlock. A gate that passes them sees nothing, whatever the reason: a binary of other sources, one without loom, a panic that ends
//! no process.
use std::path::Path;

use crate::build::clean;
use crate::suite::{Report, report};
use crate::table::GATE_BOUND;

/// What must fail, and how.
pub const TESTS: [(&str, Report); 2] = [
    (
        "memory_published_by_a_counter_alone_has_no_order",
        Report::Causality,
    ),
    (
        "a_wait_for_a_sender_that_is_forgotten_does_not_end",
        Report::Deadlock,
    ),
];

/// Runs both, and returns what was not as it must be.
pub fn blind(runner: &Path) -> Result<Vec<String>, String> {
    let mut complaints = Vec::new();
    for (name, expected) in TESTS {
        let output = clean(runner)
            .args(["--self-test", name, &GATE_BOUND.to_string()])
            .output()
            .map_err(|e| format!("{}: {e}", runner.display()))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let found = match output.status.success() {
            true => Err("it passes".into()),
            false => report(output.status, &said),
        };
        if found != Ok(expected) {
            complaints.push(format!(
                "the self-test {name} does not fail by a {expected}: {found:?}\n{said}"
            ));
        }
    }
    Ok(complaints)
}

/// The body of a test of that name.
#[cfg(loom)]
pub fn body(name: &str) -> Option<fn()> {
    let bodies: [fn(); 2] = [
        memory_published_by_a_counter_alone_has_no_order,
        a_wait_for_a_sender_that_is_forgotten_does_not_end,
    ];
    let at = TESTS.iter().position(|(test, _)| *test == name)?;
    Some(bodies[at])
}

/// A counter orders nothing: loom must see that through the production source.
#[cfg(loom)]
fn memory_published_by_a_counter_alone_has_no_order() {
    use crate::models::support::Tracked;
    use aio_task::edge::Counter;
    use loom::sync::Arc;

    let (counter, memory) = (Counter::new(), Arc::new(Tracked::new(0)));
    let writing = loom::thread::spawn({
        let (counter, memory) = (counter.clone(), memory.clone());
        move || {
            memory.set(7);
            counter.add(1);
        }
    });
    if counter.get() == 1 {
        assert_eq!(memory.get(), 7);
    }
    writing.join().unwrap();
}

/// The context sleeps, and nothing is left that could wake it.
#[cfg(loom)]
fn a_wait_for_a_sender_that_is_forgotten_does_not_end() {
    use aio_task::AioContext;
    use aio_task::edge::slot;

    let context = AioContext::new().unwrap();
    let (completer, completion) = slot::<u8>();
    let forgetting = loom::thread::spawn(move || std::mem::forget(completer));
    let _ = context.block_on(completion);
    forgetting.join().unwrap();
}
