//! Which L1 table a request goes through: the active one, a snapshot's, or that of a state being saved.

use super::Guest;
use super::cluster_locks::STATE;
use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use crate::qcow2::format::offset::GuestOffset;
use block_core::Cause;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

/// An L1 table. All of them lead to L2 tables in the same cache.
#[derive(Clone)]
pub(crate) enum L1Table {
    /// The guest's disk, and the vmstate area that QEMU may have left after it.
    Active,
    /// A state that is being saved and that no snapshot has recorded yet.
    State(Rc<StateL1>),
    /// A snapshot's disk and state, to be read.
    Snapshot(Rc<SnapshotL1>),
}

/// The L1 table of a state that is being saved. It is in memory only: until a snapshot records it, nothing on disk points to its L2
/// tables, and a crash leaves them as leaks.
#[derive(Default)]
pub(crate) struct StateL1 {
    /// Entry 0 maps the state's first byte, wherever the disk ends by the time it is recorded.
    pub(crate) entries: RefCell<Vec<u64>>,
    /// The state's length, once it is complete. Cleared by a later write.
    pub(crate) finished: Cell<Option<u64>>,
    /// A snapshot has recorded it, or it was dropped: no task writes to it any more. Set once.
    pub(crate) gone: Cell<bool>,
}

/// A snapshot's L1 table, read whole.
pub(crate) struct SnapshotL1 {
    pub(crate) entries: Vec<u64>,
    /// Bytes of its disk.
    pub(crate) disk_size: u64,
    /// Bytes of its state.
    pub(crate) vmstate_size: u64,
}

impl StateL1 {
    /// Entries of its L1 table.
    pub(crate) fn len(&self) -> u64 {
        self.entries.borrow().len() as u64
    }
}

impl Guest {
    /// Refuses a state that was recorded or dropped while the caller waited for its clusters.
    pub(crate) fn check_tree(&self, l1: &L1Table) -> Result<()> {
        match l1 {
            L1Table::State(state) if state.gone.get() => Err(Cause::Cancelled),
            _ => Ok(()),
        }
    }

    /// The numbers by which the clusters of a range that is not empty are locked.
    pub(crate) fn lock_numbers(&self, l1: &L1Table, at: GuestOffset, len: u64) -> Range<u64> {
        let clusters = self.guest_clusters(at, len);
        match l1 {
            L1Table::Active | L1Table::Snapshot(_) => clusters,
            L1Table::State(_) => STATE.start + clusters.start..STATE.start + clusters.end,
        }
    }

    /// The entry, 0 where the table ends before it.
    pub(crate) fn l1_entry(&self, l1: &L1Table, index: u64) -> u64 {
        let in_vec = |entries: &[u64], index: u64| {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            entries.get(index).copied().unwrap_or(0)
        };
        match l1 {
            L1Table::Active => self.meta.active().get(index),
            L1Table::State(state) => in_vec(&state.entries.borrow(), index),
            L1Table::Snapshot(snapshot) => in_vec(&snapshot.entries, index),
        }
    }

    /// Entries that the table has now.
    pub(crate) fn l1_len(&self, l1: &L1Table) -> u64 {
        match l1 {
            L1Table::Active => self.meta.active().len(),
            L1Table::State(state) => state.entries.borrow().len() as u64,
            L1Table::Snapshot(snapshot) => snapshot.entries.len() as u64,
        }
    }

    /// Refuses an index that the table can never have.
    pub(crate) fn check_l1_index(&self, l1: &L1Table, index: u64) -> Result<()> {
        let max = match l1 {
            L1Table::Active => self.meta.active().len(),
            // It comes after the disk's in a snapshot's table.
            L1Table::State(_) => {
                let disk = self.meta.geometry().vmstate_l1_index(self.meta.size());
                self.meta.geometry().max_l1_entries().saturating_sub(disk)
            }
            L1Table::Snapshot(_) => 0,
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

    /// Sets an entry that [`Guest::check_l1_index`] allows.
    pub(crate) fn set_l1_entry(&self, l1: &L1Table, index: u64, value: u64) {
        match l1 {
            L1Table::Active => {
                self.meta.active().set(index, value);
            }
            L1Table::State(state) => {
                let index = index as usize; // below 4 Mi
                let mut entries = state.entries.borrow_mut();
                if entries.len() <= index {
                    entries.resize(index + 1, 0);
                }
                entries[index] = value;
            }
            L1Table::Snapshot(_) => debug_assert!(false, "snapshots are read only"),
        }
    }
}
