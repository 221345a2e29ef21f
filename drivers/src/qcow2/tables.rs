//! Which host clusters hold tables, so that guest data is never written over one: QEMU's `qcow2_pre_write_overlap_check`.
//!
//! A damaged image may name a table's cluster as a guest's, or count it as free. What is written to such an image would destroy more of it,
//! so it is refused, by name.

use super::error::{Qcow2Error, Table};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

/// The header, the reftable, refcount blocks, the active L1 table and its L2 tables, the snapshot table and the snapshots' L1 tables. The
/// snapshots' L2 tables are left out, as in QEMU.
#[derive(Default)]
pub(super) struct TableMap(RefCell<HashMap<u64, Table>>);

impl TableMap {
    /// These clusters hold a table from now on.
    ///
    /// Errors: [`Qcow2Error::Overlap`] where another one is there; `offset` of it counts clusters of `cluster_bits`.
    pub(super) fn add(
        &self,
        what: Table,
        clusters: Range<u64>,
        cluster_bits: u32,
    ) -> Result<(), Qcow2Error> {
        self.check(what, clusters.clone(), cluster_bits)?;
        self.0.borrow_mut().extend(clusters.map(|c| (c, what)));
        Ok(())
    }

    /// The table in this cluster.
    pub(super) fn get(&self, cluster: u64) -> Option<Table> {
        self.0.borrow().get(&cluster).copied()
    }

    /// The cluster is free.
    pub(super) fn remove(&self, cluster: u64) {
        self.0.borrow_mut().remove(&cluster);
    }

    /// None of these clusters, where `what` is or is to be written, holds a table.
    pub(super) fn check(
        &self,
        what: Table,
        clusters: Range<u64>,
        cluster_bits: u32,
    ) -> Result<(), Qcow2Error> {
        let tables = self.0.borrow();
        for cluster in clusters {
            if let Some(other) = tables.get(&cluster) {
                return Err(Qcow2Error::Overlap {
                    what,
                    other: *other,
                    offset: cluster << cluster_bits,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_a_table_is_refused_by_both_names_until_the_table_is_gone() {
        let tables = TableMap::default();
        tables.add(Table::L1, 4..6, 16).expect("the first");
        let error = tables.check(Table::Data, 5..9, 16);
        assert_eq!(
            error,
            Err(Qcow2Error::Overlap {
                what: Table::Data,
                other: Table::L1,
                offset: 5 << 16,
            })
        );
        assert!(tables.add(Table::L2, 3..5, 16).is_err());
        assert_eq!(
            tables.check(Table::Data, 3..4, 16),
            Ok(()),
            "not added by half"
        );
        assert_eq!(tables.check(Table::Data, 6..9, 16), Ok(()));
        (4..6).for_each(|cluster| tables.remove(cluster));
        assert_eq!(tables.check(Table::Data, 0..9, 16), Ok(()));
    }
}
