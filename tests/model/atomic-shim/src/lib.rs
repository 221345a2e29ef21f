//! The atomics that async-task takes from `portable-atomic`: loom's under `--cfg loom`, else core's.
#[cfg(not(loom))]
pub use core::sync::atomic::*;
#[cfg(loom)]
pub use loom::sync::atomic::*;
