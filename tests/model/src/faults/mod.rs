//! Deliberate faults of the production sources. `cargo mutate` applies them one at a time to a copy, and the models named with each
//! must fail.
mod context;
mod edge;
mod gate;
mod pool;
mod reactor;
mod save;
mod workers;

/// One fault: a text that is found exactly once in a file, and what it is replaced by.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What is wrong then, in one sentence.
    pub name: &'static str,
    /// From the repository's root.
    pub file: &'static str,
    /// What to replace.
    pub search: &'static str,
    /// By what.
    pub replacement: &'static str,
    /// Who must notice.
    pub killer: Killer,
}

/// Who must notice a fault.
#[derive(Clone, Copy, Debug)]
pub enum Killer {
    /// Each of these models fails at the gate's bound.
    Models(&'static [&'static str]),
    /// The gate is red and says this, although nothing but this one model is asked for.
    Gate {
        /// The model to ask for.
        model: &'static str,
        /// Part of what the gate prints.
        says: &'static str,
    },
    /// Nobody can: the program does the same. The models that were written to notice pass, which shows that it was tried.
    Nobody {
        /// Why nothing changes.
        why: &'static str,
        /// The models that pass all the same.
        watched: &'static [&'static str],
    },
}

/// A fault that models must notice.
const fn fault(
    name: &'static str,
    file: &'static str,
    search: &'static str,
    replacement: &'static str,
    models: &'static [&'static str],
) -> Fault {
    Fault {
        name,
        file,
        search,
        replacement,
        killer: Killer::Models(models),
    }
}

/// All faults.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    [
        gate::FAULTS,
        edge::FAULTS,
        reactor::FAULTS,
        context::FAULTS,
        pool::FAULTS,
        workers::FAULTS,
        save::FAULTS,
    ]
    .into_iter()
    .flatten()
}
