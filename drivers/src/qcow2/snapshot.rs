//! Internal snapshots.

pub(crate) mod table;
