//! What the integration tests share: finding outside tools, driving QEMU, building our own program.

pub mod program;
pub mod tools;
