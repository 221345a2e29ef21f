//! Which clusters of an open image hold tables: noted at open and at every change, and asked before guest data is written.

use super::Metadata;
use crate::qcow2::format::entry::{L1Entry, ReftableEntry};
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::TABLE_ENTRY_SIZE;
use crate::qcow2::format::offset::HostOffset;
use std::ops::Range;

impl Metadata {
    /// Notes that these clusters hold a table, which was allocated for it, or which the image names.
    pub(crate) fn add_table(&self, what: Table, clusters: Range<u64>) -> Result<(), Qcow2Error> {
        let bits = self.geometry.cluster_bits();
        self.refcounts.tables().add(what, clusters, bits)
    }

    /// Checks that no table is in these bytes, so that guest data may be written to them.
    pub(crate) fn check_data(&self, at: HostOffset, len: u64) -> Result<(), Qcow2Error> {
        if self.data.is_some() {
            return Ok(());
        }
        let clusters = self.geometry.cluster_of(at)..self.geometry.clusters_for(at.0 + len);
        let bits = self.geometry.cluster_bits();
        self.refcounts.tables().check(Table::Data, clusters, bits)
    }

    /// Notes where the tables are. Two of them in one place, or an entry that leads to none, is an image that must not be written to; nor is
    /// one with a refcount block past the file's end at `length`, whose clusters would all seem to be free.
    pub(crate) fn note_tables(&self, length: u64) -> Result<(), Qcow2Error> {
        let geometry = &self.geometry;
        let clusters = |at: u64, entries: u64| {
            let end = at + entries * TABLE_ENTRY_SIZE; // checked with the header
            geometry.cluster_of(HostOffset(at))..geometry.clusters_for(end)
        };
        let (reftable, l1) = (self.refcounts.table(), &self.active);
        self.add_table(Table::Header, 0..1)?;
        self.add_table(
            Table::RefcountTable,
            clusters(reftable.at(), reftable.len()),
        )?;
        self.add_table(Table::L1, clusters(l1.at(), l1.len()))?;
        for index in 0..reftable.len() {
            if let Some(at) = ReftableEntry(reftable.get(index)).block(geometry, index)? {
                if at.0 >= length {
                    return Err(Qcow2Error::Outside {
                        what: Table::RefcountBlock,
                        offset: at.0,
                        bytes: geometry.cluster_size(),
                        end: length,
                    });
                }
                let cluster = geometry.cluster_of(at);
                self.add_table(Table::RefcountBlock, cluster..cluster + 1)?;
            }
        }
        for index in 0..l1.len() {
            if let Some(at) = L1Entry(l1.get(index)).table(geometry, index)? {
                let cluster = geometry.cluster_of(at);
                self.add_table(Table::L2, cluster..cluster + 1)?;
            }
        }
        Ok(())
    }
}
