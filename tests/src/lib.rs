//! What the integration tests share: finding outside tools, driving QEMU, building our own program.

pub mod files;
pub mod images;
pub mod imports;
pub mod lines;
pub mod locks;
pub mod machine;
pub mod program;
pub mod qemu;
pub mod qemu_img;
pub mod random;
pub mod source;
pub mod tools;
pub mod wrapper;

/// The example of the workspace's README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
