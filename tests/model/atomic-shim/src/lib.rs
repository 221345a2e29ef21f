//! The atomics that async-task takes from `portable-atomic`: loom's under `--cfg loom`, shuttle's under `--cfg shuttle`, else core's.
#[cfg(not(any(loom, shuttle)))]
pub use core::sync::atomic::*;
#[cfg(loom)]
pub use loom::sync::atomic::*;
#[cfg(shuttle)]
pub use shuttle::sync::atomic::*;
