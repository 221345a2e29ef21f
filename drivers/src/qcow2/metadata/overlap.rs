//! Which host clusters hold tables, so that guest data is never written over one: QEMU's `qcow2_pre_write_overlap_check`.
//!
//! A damaged image may name a table's cluster as a guest's, or count it as free. What is written to such an image would destroy more of it,
//! so it is refused, by name.

use crate::qcow2::format::error::{Qcow2Error, Table};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

/// The header, the reftable, refcount blocks, the active L1 table and its L2 tables, the snapshot table and the snapshots' L1 tables. The
/// snapshots' L2 tables are left out, as in QEMU.
///
/// Memory: a few numbers for each table, however long; an image may claim any number of snapshots with L1 tables of 32 MiB.
#[derive(Default)]
pub(crate) struct TableMap(RefCell<BTreeMap<u64, Run>>);

/// Clusters of tables of one kind, from the key to here. No two runs overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    end: u64,
    what: Table,
}

impl TableMap {
    /// These clusters hold a table from now on.
    ///
    /// Errors: [`Qcow2Error::Overlap`] where another one is there; `offset` of it counts clusters of `cluster_bits`.
    pub(crate) fn add(
        &self,
        what: Table,
        clusters: Range<u64>,
        cluster_bits: u32,
    ) -> Result<(), Qcow2Error> {
        self.check(what, clusters.clone(), cluster_bits)?;
        if !clusters.is_empty() {
            let end = clusters.end;
            self.0
                .borrow_mut()
                .insert(clusters.start, Run { end, what });
        }
        Ok(())
    }

    /// The same where tables may lie on others already, which keep their names: several snapshots may share one table, and a damaged one may
    /// be anywhere.
    pub(crate) fn cover(&self, what: Table, clusters: Range<u64>) {
        let mut at = clusters.start;
        while at < clusters.end {
            let next = first_in(&self.0.borrow(), at..clusters.end);
            let none = (clusters.end, clusters.end);
            let (start, end) = next.map_or(none, |(start, run)| (start, run.end));
            if at < start {
                self.0.borrow_mut().insert(at, Run { end: start, what });
            }
            at = end;
        }
    }

    /// No table of this kind is anywhere.
    pub(crate) fn uncover(&self, what: Table) {
        self.0.borrow_mut().retain(|_, run| run.what != what);
    }

    /// The first table among `clusters` that the disk can do without: a snapshot's L1 table, the bitmap directory. From its first cluster
    /// among them to its end, which may be past them.
    pub(crate) fn first_foreign(&self, clusters: Range<u64>) -> Option<Range<u64>> {
        let runs = self.0.borrow();
        let mut at = clusters.start;
        while let Some((start, run)) = first_in(&runs, at..clusters.end) {
            if matches!(run.what, Table::SnapshotL1 | Table::BitmapDirectory) {
                return Some(start.max(at)..run.end);
            }
            at = run.end;
        }
        None
    }

    /// The table in this cluster.
    pub(crate) fn get(&self, cluster: u64) -> Option<Table> {
        run_at(&self.0.borrow(), cluster).map(|(_, run)| run.what)
    }

    /// The cluster is free.
    pub(crate) fn remove(&self, cluster: u64) {
        let mut runs = self.0.borrow_mut();
        let Some((start, run)) = run_at(&runs, cluster) else {
            return;
        };
        runs.remove(&start);
        if start < cluster {
            let end = cluster;
            runs.insert(start, Run { end, ..run });
        }
        if cluster + 1 < run.end {
            runs.insert(cluster + 1, run);
        }
    }

    /// None of these clusters, where `what` is or is to be written, holds a table.
    pub(crate) fn check(
        &self,
        what: Table,
        clusters: Range<u64>,
        cluster_bits: u32,
    ) -> Result<(), Qcow2Error> {
        let other = first_in(&self.0.borrow(), clusters);
        match other {
            None => Ok(()),
            Some((cluster, other)) => Err(Qcow2Error::Overlap {
                what,
                other: other.what,
                offset: cluster << cluster_bits,
            }),
        }
    }
}

/// The first cluster of `clusters` that holds a table, and its run.
fn first_in(runs: &BTreeMap<u64, Run>, clusters: Range<u64>) -> Option<(u64, Run)> {
    if clusters.is_empty() {
        return None;
    }
    let first = run_at(runs, clusters.start).map(|(_, run)| (clusters.start, run));
    first.or_else(|| {
        let (start, run) = runs.range(clusters).next()?;
        Some((*start, *run))
    })
}

/// The run with this cluster, and where it starts.
fn run_at(runs: &BTreeMap<u64, Run>, cluster: u64) -> Option<(u64, Run)> {
    let (start, run) = runs.range(..=cluster).next_back()?;
    (cluster < run.end).then_some((*start, *run))
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

    #[test]
    fn a_table_that_lies_on_others_covers_what_they_leave() {
        let tables = TableMap::default();
        tables.add(Table::L1, 4..6, 16).expect("free");
        tables.cover(Table::SnapshotL1, 2..8);
        tables.cover(Table::SnapshotL1, 7..9);
        let kinds: Vec<_> = (1..10).map(|cluster| tables.get(cluster)).collect();
        let (l1, snapshot) = (Some(Table::L1), Some(Table::SnapshotL1));
        let wanted = [
            None, snapshot, snapshot, l1, l1, snapshot, snapshot, snapshot, None,
        ];
        assert_eq!(kinds, wanted);
        tables.uncover(Table::SnapshotL1);
        assert_eq!(tables.check(Table::Data, 0..4, 16), Ok(()));
        assert_eq!(tables.get(5), l1);
    }

    #[test]
    fn a_table_takes_the_same_memory_whatever_its_length_and_may_go_in_pieces() {
        let tables = TableMap::default();
        tables.add(Table::SnapshotL1, 8..1 << 50, 9).expect("free");
        tables.add(Table::L2, 7..8, 9).expect("free");
        tables.add(Table::L1, 3..3, 9).expect("nothing");
        assert_eq!(tables.0.borrow().len(), 2);
        for gone in [8, 100, 101, (1 << 50) - 1, 5] {
            tables.remove(gone);
            assert_eq!(tables.get(gone), None);
        }
        let there = [7, 9, 99, 102, (1 << 50) - 2].map(|cluster| tables.get(cluster));
        let l1 = Some(Table::SnapshotL1);
        assert_eq!(there, [Some(Table::L2), l1, l1, l1, l1]);
        assert_eq!(tables.check(Table::Data, 100..102, 9), Ok(()));
        let first = tables.check(Table::Data, 100..200, 9);
        assert!(matches!(first, Err(Qcow2Error::Overlap { offset, .. }) if offset == 102 << 9));
    }
}
