//! `qcow2`: QEMU's image format.

#![allow(dead_code, reason = "the driver that uses the codecs is being built")]

pub mod codec;
mod entry;
mod error;
mod geometry;
mod offset;

pub use error::{Feature, Qcow2Error, Table};
