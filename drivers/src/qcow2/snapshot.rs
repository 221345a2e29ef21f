//! Internal snapshots: QEMU's `block/qcow2-snapshot.c`.
//!
//! A snapshot is an entry of the snapshot table with an L1 table of its own, which leads to L2 tables and clusters that the active L1 table
//! (or another snapshot's) may lead to as well; each that is shared has a refcount above 1 and no COPIED flag.
//!
//! ```text
//!   active L1       | disk ......... |
//!                     |  \      \
//!                     v   v      v           shared until one of them is written to
//!                     L2   L2    L2
//!                     ^   ^      ^
//!                     |  /      /
//!   snapshot's L1   | disk ......... | state ........ |         state: its L2 tables and clusters are the snapshot's alone
//! ```
//!
//! A saved state is never in the active L1 table, as it is while QEMU saves one: `vmstate.rs` builds it under entries of its own, and the
//! snapshot's L1 table is put together from both.

mod create;
mod delete;
mod goto;
pub(super) mod leftovers; // references to be dropped, flags to be set
mod list;
mod references; // of whole tables: checked, raised, given back
mod switch; // from one table of snapshots to another
pub(crate) mod table; // the table's bytes
mod view; // one snapshot, read-only

pub(super) use self::list::Snapshots;
pub(super) use self::view::SnapshotView;
