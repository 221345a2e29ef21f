//! A walk over all that an L1 table leads to: the clusters in its L2 tables, then each L2 table itself. QEMU's
//! `qcow2_update_snapshot_refcount` walks so.
//!
//! ```text
//!   L1 entry 0                          L1 entry 1
//!   slice 0, slice 1, ..., the table    slice 0, ...            one step each; a step that fails can be tried again
//! ```
//!
//! Memory: the L1 entries and one step. The tables must not change during the walk.

use super::Metadata;
use super::slice_cache::Slice;
use crate::qcow2::format::entry::{Cluster, L1Entry, L2Entry};
use crate::qcow2::format::error::{Result, Table};
use crate::qcow2::format::offset::{GuestOffset, HostOffset};
use std::ops::Range;
use std::rc::Rc;

/// How far a walk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// The L1 entry.
    index: usize,
    /// The slice of its L2 table; past the last one comes the table itself.
    slice: u64,
}

/// A walk under way.
pub(crate) struct Walk {
    entries: Vec<u64>,
    /// The next step.
    at: Position,
    /// Where it ends, if before the end of the table.
    end: Option<Position>,
}

/// One step: what it leads to is [`Metadata::references`].
pub(crate) enum Step {
    /// A slice of an L2 table, and the guest byte that its first entry maps.
    Slice(Rc<Slice>, GuestOffset),
    /// The L2 table of this L1 entry, whose clusters have all been walked over.
    Table {
        /// The L1 entry.
        index: usize,
        /// Where the table is.
        at: HostOffset,
    },
}

/// Host clusters with one reference each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) clusters: Range<u64>,
    /// [`Table::L2`] or [`Table::Data`].
    pub(crate) what: Table,
    /// They may have more references from the same table: compressed clusters share host clusters.
    pub(crate) compressed: bool,
}

impl Walk {
    /// Over all that these L1 entries lead to.
    pub(crate) fn new(entries: Vec<u64>) -> Self {
        Self {
            entries,
            at: Position::default(),
            end: None,
        }
    }

    /// The same steps again, from the first to the last one that was done.
    pub(crate) fn done_so_far(self) -> Self {
        let mut entries = self.entries;
        entries.truncate(self.at.index + 1);
        Self {
            entries,
            at: Position::default(),
            end: Some(self.at),
        }
    }

    /// Back to the first step.
    pub(crate) fn restart(&mut self) {
        self.at = Position::default();
    }

    /// Back to the first step of the L2 table that the next step belongs to.
    pub(crate) fn restart_table(&mut self) {
        self.at.slice = 0;
    }

    pub(crate) fn entries(&self) -> &[u64] {
        &self.entries
    }

    /// The step that is to be done; `None` at the end. The same one again until [`Walk::advance`].
    ///
    /// Errors: those of [`L1Entry::table`], and what loading the slice gave.
    pub(crate) async fn step(&mut self, image: &Metadata) -> Result<Option<Step>> {
        let geometry = &image.geometry;
        while self.end.is_none_or(|end| self.at < end) {
            let Position { index, slice } = self.at;
            let Some(entry) = self.entries.get(index).copied() else {
                return Ok(None);
            };
            let Some(table) = L1Entry(entry).table(geometry, index as u64)? else {
                self.next_table();
                continue;
            };
            if slice >= geometry.slices() {
                return Ok(Some(Step::Table { index, at: table }));
            }
            let place = table.0 + slice * geometry.slice_size();
            let loaded = image.l2.get(&image.file, place).await?;
            // An L1 table has at most 4 Mi entries, whose last byte is far below 2^63.
            let start = geometry.l1_start(index as u64).unwrap_or_default();
            let before = slice * geometry.l2_entries_per_slice() * geometry.cluster_size();
            return Ok(Some(Step::Slice(loaded, GuestOffset(start.0 + before))));
        }
        Ok(None)
    }

    /// The step is done.
    pub(crate) fn advance(&mut self, step: &Step) {
        match step {
            Step::Slice(..) => self.at.slice += 1,
            Step::Table { .. } => self.next_table(),
        }
    }

    /// What is left of this L1 entry's is passed over.
    pub(crate) fn next_table(&mut self) {
        self.at = Position {
            index: self.at.index + 1,
            slice: 0,
        };
    }
}

impl Metadata {
    /// The host clusters that a step leads to, neighbours together.
    ///
    /// Errors: those of [`L2Entry::decode`].
    pub(crate) fn references(&self, step: &Step) -> Result<Vec<Reference>> {
        let geometry = &self.geometry;
        let (slice, guest) = match step {
            Step::Slice(slice, guest) => (slice, *guest),
            Step::Table { at, .. } => {
                let cluster = geometry.cluster_of(*at);
                return Ok(vec![Reference {
                    clusters: cluster..cluster + 1,
                    what: Table::L2,
                    compressed: false,
                }]);
            }
        };
        let bytes = slice.bytes();
        let mut found: Vec<Reference> = Vec::new();
        for index in 0..geometry.l2_entries_per_slice() {
            let entry = L2Entry::read(geometry, &bytes, index as usize).unwrap_or_default();
            if entry == L2Entry::EMPTY {
                continue;
            }
            let here = GuestOffset(guest.0 + index * geometry.cluster_size());
            let reference = match entry.decode(geometry, here)? {
                Cluster::Compressed { at, bytes } => Reference {
                    clusters: geometry.cluster_of(at)..geometry.clusters_for(at.0 + bytes),
                    what: Table::Data,
                    compressed: true,
                },
                cluster => match cluster.host() {
                    Some(host) => Reference {
                        clusters: geometry.cluster_of(host)..geometry.cluster_of(host) + 1,
                        what: Table::Data,
                        compressed: false,
                    },
                    None => continue,
                },
            };
            match found.last_mut() {
                Some(last)
                    if last.clusters.end == reference.clusters.start
                        && !last.compressed
                        && !reference.compressed =>
                {
                    last.clusters.end = reference.clusters.end;
                }
                _ => found.push(reference),
            }
        }
        Ok(found)
    }
}
