//! Bytes on disk: what each structure of the format means, and its checks. Nothing here reads or writes a file.

pub(super) mod big_endian;
pub(super) mod bitmap_directory;
pub mod codec;
pub(super) mod entry;
pub(super) mod error;
pub(super) mod geometry;
pub(super) mod header;
pub(super) mod name;
pub(super) mod offset;
pub(super) mod option_error;
pub(super) mod position;
pub(super) mod read_at;
pub(super) mod snapshot_table;
