//! The two tables that are in memory whole: the active L1 table and the reftable. Their entries change in place; where they must become
//! longer, they move.

use super::image_file::ImageFile;
use crate::qcow2::format::error::Result;
use crate::qcow2::format::geometry::TABLE_ENTRY_SIZE;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;

/// A table of 8-byte big-endian entries, and what of it is not on disk yet.
#[derive(Default)]
pub(crate) struct RootTable {
    entries: RefCell<Vec<u64>>,
    /// Where the table is, or is to be.
    at: Cell<u64>,
    /// Entries changed since they were captured.
    changed: RefCell<BTreeSet<usize>>,
    /// The table is to be at a place that the header on disk does not name yet. Set by [`RootTable::replace`], cleared by a commit.
    moved: Cell<bool>,
}

/// What of a table has to be written, at the moment of a capture.
pub(crate) struct CapturedTable {
    pub(crate) at: u64,
    /// All of it is written, to a new place that the header has to name afterwards.
    pub(crate) moved: bool,
    /// Runs of entries: index of the first, and their values.
    runs: Vec<(usize, Vec<u64>)>,
    changed: BTreeSet<usize>,
}

impl RootTable {
    pub(crate) fn new(entries: Vec<u64>, at: u64) -> Self {
        Self {
            entries: RefCell::new(entries),
            at: Cell::new(at),
            ..Self::default()
        }
    }

    /// The entry, 0 after the table's end.
    pub(crate) fn get(&self, index: u64) -> u64 {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.entries.borrow().get(index).copied().unwrap_or(0)
    }

    /// Changes an entry; one past the end is not there to be changed: false.
    pub(crate) fn set(&self, index: u64, value: u64) -> bool {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        match self.entries.borrow_mut().get_mut(index) {
            Some(entry) => *entry = value,
            None => return false,
        }
        self.changed.borrow_mut().insert(index);
        true
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.borrow().len() as u64
    }

    pub(crate) fn at(&self) -> u64 {
        self.at.get()
    }

    /// A copy of the entries `range`, as far as there are any.
    pub(crate) fn copy(&self, range: Range<u64>) -> Vec<u64> {
        range
            .take_while(|i| *i < self.len())
            .map(|i| self.get(i))
            .collect()
    }

    /// Other entries at another place, which is free.
    pub(crate) fn replace(&self, entries: Vec<u64>, at: u64) {
        *self.entries.borrow_mut() = entries;
        self.at.set(at);
        self.moved.set(true);
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.moved.get() || !self.changed.borrow().is_empty()
    }

    /// What is to be written; it does not count as changed from now on.
    pub(crate) fn capture(&self) -> CapturedTable {
        let changed = self.changed.take();
        let entries = self.entries.borrow();
        let mut runs: Vec<(usize, Vec<u64>)> = Vec::new();
        if self.moved.get() {
            runs.push((0, entries.clone()));
        } else {
            for index in &changed {
                let Some(value) = entries.get(*index).copied() else {
                    continue;
                };
                match runs.last_mut() {
                    Some((first, run)) if *first + run.len() == *index => run.push(value),
                    _ => runs.push((*index, vec![value])),
                }
            }
        }
        CapturedTable {
            at: self.at.get(),
            moved: self.moved.get(),
            runs,
            changed,
        }
    }

    /// What was captured is on disk (`ok`), header included, or must be written again.
    pub(crate) fn settle(&self, captured: CapturedTable, ok: bool) {
        if !ok {
            self.changed.borrow_mut().extend(captured.changed);
        } else if captured.moved && captured.at == self.at.get() {
            self.moved.set(false);
        }
    }
}

impl CapturedTable {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) async fn write(&self, file: &ImageFile) -> Result<()> {
        for (first, run) in &self.runs {
            let bytes: Vec<u8> = run.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            file.write(self.at + *first as u64 * TABLE_ENTRY_SIZE, &bytes)
                .await?;
        }
        Ok(())
    }
}
