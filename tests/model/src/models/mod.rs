//! The models, by subject. Each is one function, named by the sentence it checks; its doc says what it rests on and which fault of
//! the production code it must catch. `src/faults` has these faults, and `cargo mutate` applies them.
use crate::check::Model;

pub(crate) mod support; // what models share

mod executor;
mod hosted;
mod inbox;
mod litmus;
mod mutex_queue;
mod notifier;
mod pool;
#[cfg(feature = "disk")]
mod save;
mod slot;
mod task;
mod workers;

/// Every model.
pub fn all() -> impl Iterator<Item = &'static Model> {
    [
        notifier::MODELS,
        slot::MODELS,
        inbox::MODELS,
        task::MODELS,
        executor::MODELS,
        pool::MODELS,
        workers::MODELS,
        hosted::MODELS,
        mutex_queue::MODELS,
        #[cfg(feature = "disk")]
        save::MODELS,
        litmus::MODELS,
    ]
    .into_iter()
    .flatten()
}
