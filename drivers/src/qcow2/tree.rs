//! Which L1 table a request goes through: the active one, a snapshot's, or that of a state being saved.

use super::Result;
use super::error::{Qcow2Error, Table};
use super::image::Image;
use super::locks::STATE;
use super::offset::GuestOffset;
use block_core::Cause;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

/// An L1 table. All of them lead to L2 tables in the same cache.
#[derive(Clone)]
pub(super) enum Tree {
    /// The guest's disk, and the vmstate area that QEMU may have left behind it.
    Active,
    /// A state that is being saved and that no snapshot has recorded yet.
    State(Rc<StateTree>),
    /// A snapshot's disk and state, to be read.
    Snapshot(Rc<SnapshotTree>),
}

/// The L1 table of a state that is being saved. It is in memory only: until a snapshot records it, nothing on disk points to its L2
/// tables, and a crash leaves them as leaks.
#[derive(Default)]
pub(super) struct StateTree {
    /// Entry 0 maps the state's first byte, wherever the disk ends by the time it is recorded.
    pub(super) entries: RefCell<Vec<u64>>,
    /// The state's length, once it is complete. Cleared by a later write.
    pub(super) finished: Cell<Option<u64>>,
    /// A snapshot has recorded it, or it was dropped: nobody writes to it any more. Set once.
    pub(super) gone: Cell<bool>,
}

/// A snapshot's L1 table, read whole.
pub(super) struct SnapshotTree {
    pub(super) entries: Vec<u64>,
    /// Bytes of its disk.
    pub(super) disk_size: u64,
    /// Bytes of its state.
    pub(super) vmstate_size: u64,
}

impl StateTree {
    /// Entries of its L1 table.
    pub(super) fn len(&self) -> u64 {
        self.entries.borrow().len() as u64
    }
}

impl Image {
    /// Refuses a state that was recorded or dropped while the caller waited for its clusters.
    pub(super) fn check_tree(&self, tree: &Tree) -> Result<()> {
        match tree {
            Tree::State(state) if state.gone.get() => Err(Cause::Cancelled),
            _ => Ok(()),
        }
    }

    /// The numbers by which the clusters of a range that is not empty are locked.
    pub(super) fn lock_numbers(&self, tree: &Tree, at: GuestOffset, len: u64) -> Range<u64> {
        let clusters = self.guest_clusters(at, len);
        match tree {
            Tree::Active | Tree::Snapshot(_) => clusters,
            Tree::State(_) => STATE.start + clusters.start..STATE.start + clusters.end,
        }
    }

    /// The entry, 0 where the table ends before it.
    pub(super) fn l1_entry(&self, tree: &Tree, index: u64) -> u64 {
        let in_vec = |entries: &[u64], index: u64| {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            entries.get(index).copied().unwrap_or(0)
        };
        match tree {
            Tree::Active => self.active.get(index),
            Tree::State(state) => in_vec(&state.entries.borrow(), index),
            Tree::Snapshot(snapshot) => in_vec(&snapshot.entries, index),
        }
    }

    /// Entries that the table has now.
    pub(super) fn l1_len(&self, tree: &Tree) -> u64 {
        match tree {
            Tree::Active => self.active.len(),
            Tree::State(state) => state.entries.borrow().len() as u64,
            Tree::Snapshot(snapshot) => snapshot.entries.len() as u64,
        }
    }

    /// Refuses an index that the table can never have.
    pub(super) fn check_l1_index(&self, tree: &Tree, index: u64) -> Result<()> {
        let max = match tree {
            Tree::Active => self.active.len(),
            // It comes behind the disk's in a snapshot's table.
            Tree::State(_) => {
                let disk = self.geometry.vmstate_l1_index(self.size.get());
                self.geometry.max_l1_entries().saturating_sub(disk)
            }
            Tree::Snapshot(_) => 0,
        };
        if index < max {
            return Ok(());
        }
        Err(Qcow2Error::TableTooLarge {
            what: Table::L1,
            entries: index.saturating_add(1),
            max,
        }
        .into())
    }

    /// Sets an entry that [`Image::check_l1_index`] allows.
    pub(super) fn set_l1_entry(&self, tree: &Tree, index: u64, value: u64) {
        match tree {
            Tree::Active => {
                self.active.set(index, value);
            }
            Tree::State(state) => {
                let index = index as usize; // below 4 Mi
                let mut entries = state.entries.borrow_mut();
                if entries.len() <= index {
                    entries.resize(index + 1, 0);
                }
                entries[index] = value;
            }
            Tree::Snapshot(_) => debug_assert!(false, "snapshots are read only"),
        }
    }
}
