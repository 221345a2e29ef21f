//! `qcow2`: QEMU's image format.

#![allow(dead_code, reason = "the driver that uses the codecs is being built")]

mod entry;
mod error;
mod geometry;
mod offset;

pub use error::{Feature, Qcow2Error, Table};
