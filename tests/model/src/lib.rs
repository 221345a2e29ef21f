//! Models of aio-task's production sources, explored by loom.
//!
//! Each model is one function of [`models`], named by the sentence it checks. `cargo loom`, from the root of the repository, builds
//! them with the right flags, runs each in a process of its own and compares what it explored with `models.txt`.
//!
//! | module | built | what it knows |
//! |---|---|---|
//! | [`table`] | always | `models.txt`: how many interleavings each model explored when it was written |
//! | [`build`] | always | how to build the models so that loom sees everything, whatever the caller's environment says |
//! | [`properties`] | always | what the models must cover, numbered |
//! | [`faults`] | always | deliberate faults of the production code, and who must notice each |
//! | [`suite`] | always | runs models, one process each |
//! | [`self_test`] | always | two models that must fail, so that a gate that sees nothing is red |
//! | [`bugs`] | always | runs the litmus set over implementations with a known bug, which must be caught |
//! | `check` | under loom | how one model is explored |
//! | `models` | under loom | the models |
//! | `large` | under shuttle | more threads and tasks than loom can take, sampled |
//! | `litmus` | under loom | published bugs as models of anybody's executor |
pub mod bugs;
pub mod build;
#[cfg(loom)]
pub mod check;
pub mod faults;
#[cfg(shuttle)]
pub mod large;
#[cfg(loom)]
pub mod litmus;
#[cfg(loom)]
pub mod models;
pub mod properties;
pub mod self_test;
pub mod suite;
pub mod table;
