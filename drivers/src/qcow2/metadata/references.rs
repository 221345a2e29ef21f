//! References of whole tables: checked, raised, given back. QEMU's `qcow2_update_snapshot_refcount`.

use super::Metadata;
use super::{Freeing, Reference, Step, Walk};
use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use block_core::Cause;
use std::collections::BTreeMap;
use std::ops::Range;

/// What is going to be done to the references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Each gets one more.
    Raise,
    /// Each gets one less.
    Lower,
}

impl Metadata {
    /// Every table and cluster that these L1 entries lead to is in the file, in use, in one place only, and can be counted once more
    /// (or less). Nothing is changed: what comes after this fails only where the disk does.
    ///
    /// `own`: the clusters of the L1 table itself. Memory: a bit for each host cluster that is referred to; with refcounts of few bits, a
    /// counter for each that holds compressed data.
    pub(crate) async fn check_references(
        &self,
        walk: &mut Walk,
        own: Range<u64>,
        change: Change,
    ) -> Result<()> {
        let length = self.file.length().await?;
        let mut check = Check {
            end: self.geometry.clusters_for(length),
            length,
            change,
            whole: ClusterSet::default(),
            shared: ClusterSet::default(),
            more: BTreeMap::new(),
        };
        own.for_each(|cluster| {
            check.whole.insert(cluster);
        });
        while let Some(step) = walk.step(self).await? {
            for reference in self.references(&step)? {
                check.place(self, &reference)?;
                check.count(self, &reference).await?;
            }
            walk.advance(&step);
        }
        walk.restart();
        Ok(())
    }

    /// One reference more to all that the walk leads to. On an error `walk` stands at the L2 table where it failed: the references of those
    /// before are still raised, tables included, and those of this one are given back.
    ///
    /// A table whose own reference is not raised may be let go as soon as a request writes to the disk, and could not be walked over again.
    /// Memory: two numbers for each run of clusters that one table leads to.
    pub(crate) async fn raise_references(&self, walk: &mut Walk) -> Result<()> {
        let mut of_this_table = Vec::new();
        let raised = self.raise_tables(walk, &mut of_this_table).await;
        if raised.is_err() {
            walk.restart_table();
            of_this_table
                .into_iter()
                .for_each(|c| self.free(c, Freeing::Unnamed));
        }
        raised
    }

    /// `of_this_table`: what was raised of the table that the walk stands at.
    async fn raise_tables(
        &self,
        walk: &mut Walk,
        of_this_table: &mut Vec<Range<u64>>,
    ) -> Result<()> {
        while let Some(step) = walk.step(self).await? {
            for Reference { clusters, .. } in self.references(&step)? {
                self.raise(clusters.clone()).await?;
                of_this_table.push(clusters);
            }
            if matches!(step, Step::Table { .. }) {
                of_this_table.clear();
            }
            walk.advance(&step);
        }
        Ok(())
    }

    async fn raise(&self, clusters: Range<u64>) -> Result<()> {
        self.make_room().await?;
        self.refcounts.raise(&self.file, clusters).await
    }

    /// One reference less to all that the walk leads to. Where no table on disk had it, nothing is written here, so that a full disk does not
    /// matter. On an error `walk` stands where it failed.
    pub(crate) async fn free_references(&self, walk: &mut Walk, freeing: Freeing) -> Result<()> {
        while let Some(step) = walk.step(self).await? {
            match freeing {
                Freeing::Unnamed => self.make_room_unnamed().await?,
                _ => self.make_room().await?,
            }
            let references = self.references(&step)?;
            for Reference { clusters, what, .. } in references {
                match what {
                    Table::Data => self.free_data(clusters, freeing),
                    _ => self.free(clusters, freeing),
                }
            }
            walk.advance(&step);
        }
        Ok(())
    }

    /// Nothing that the walk leads to may be written in place any more. The flags in the L1 entries are the caller's.
    pub(crate) async fn clear_copied(&self, walk: &mut Walk) -> Result<()> {
        while let Some(step) = walk.step(self).await? {
            self.make_room().await?;
            if let Step::Slice(slice, guest) = &step {
                let clusters = self.decode_all(slice, *guest);
                let copied = clusters.filter(|(_, cluster)| cluster.copied());
                for (index, cluster) in copied.collect::<Vec<_>>() {
                    self.set_entry(slice, index, cluster.with_copied(false));
                }
            }
            walk.advance(&step);
        }
        Ok(())
    }
}

/// A check of one table under way.
struct Check {
    /// Clusters of the file, the last one perhaps cut short.
    end: u64,
    /// Bytes of the file.
    length: u64,
    change: Change,
    /// Clusters that have been referred to, and may not be again.
    whole: ClusterSet,
    /// Those that hold compressed data.
    shared: ClusterSet,
    /// How many references more there will be to those of `shared` that are already near the most that can be counted.
    more: BTreeMap<u64, u64>,
}

impl Check {
    /// The clusters are in the file, no table is there unless this is one, and nothing else of this table.
    fn place(&mut self, metadata: &Metadata, reference: &Reference) -> Result<(), Qcow2Error> {
        let geometry = metadata.geometry;
        let Reference {
            clusters,
            what,
            compressed,
        } = reference;
        let start = |cluster: u64| geometry.cluster_start(cluster).unwrap_or_default().0;
        let outside = clusters.end > self.end || geometry.cluster_start(clusters.end).is_none();
        if outside || clusters.start == 0 {
            let bytes = (clusters.end - clusters.start).saturating_mul(geometry.cluster_size());
            return Err(Qcow2Error::Outside {
                what: *what,
                offset: start(clusters.start),
                bytes,
                end: if outside { self.length } else { 0 },
            });
        }
        for cluster in clusters.clone() {
            let other = metadata.refcounts.tables().get(cluster);
            let other = other.filter(|other| (*what, *other) != (Table::L2, Table::L2));
            let again = match compressed {
                true => {
                    self.shared.insert(cluster);
                    self.whole.contains(cluster)
                }
                false => !self.whole.insert(cluster) || self.shared.contains(cluster),
            };
            if let Some(other) = other.or(again.then_some(Table::Data)) {
                return Err(Qcow2Error::Overlap {
                    what: *what,
                    other,
                    offset: start(cluster),
                });
            }
        }
        Ok(())
    }

    /// The clusters are counted, and will be after the change.
    async fn count(&mut self, metadata: &Metadata, reference: &Reference) -> Result<()> {
        let (refcounts, max) = (&metadata.refcounts, metadata.geometry.max_refcount());
        let clusters = reference.clusters.clone();
        for (slice, indices, first) in refcounts.slices(&metadata.file, clusters).await? {
            for (cluster, index) in (first..).zip(indices) {
                let count = refcounts.read(&slice, index);
                if count == 0 {
                    return Err(Qcow2Error::RefcountUnderflow { cluster }.into());
                }
                if self.change == Change::Lower {
                    continue;
                }
                // Twice as many always fit where no more refer to the cluster than are counted.
                let more = match reference.compressed && count > max / 2 {
                    true => {
                        let more = self.more.entry(cluster).or_default();
                        *more += 1;
                        *more
                    }
                    false => 1,
                };
                if max - count < more {
                    let bits = metadata.geometry.refcount_bits();
                    return Err(Cause::from(Qcow2Error::RefcountOverflow { cluster, bits }));
                }
            }
        }
        Ok(())
    }
}

/// A set of clusters that lie near each other.
#[derive(Default)]
struct ClusterSet(BTreeMap<u64, Box<[u64; 64]>>);

impl ClusterSet {
    /// False where it was in already.
    fn insert(&mut self, cluster: u64) -> bool {
        let (block, word, bit) = Self::place(cluster);
        let block = self.0.entry(block).or_insert_with(|| Box::new([0; 64]));
        let word = &mut block[word];
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn contains(&self, cluster: u64) -> bool {
        let (block, word, bit) = Self::place(cluster);
        let block = self.0.get(&block);
        block.is_some_and(|block| block[word] & bit != 0)
    }

    /// Block, word in it (below 64), bit in that.
    fn place(cluster: u64) -> (u64, usize, u64) {
        (
            cluster >> 12,
            (cluster >> 6) as usize & 63,
            1 << (cluster & 63),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in_and_nothing_else() {
        let mut set = ClusterSet::default();
        let clusters = [0, 1, 63, 64, 4095, 4096, 1 << 40, u64::MAX >> 9];
        for cluster in clusters {
            assert!(!set.contains(cluster));
            assert!(set.insert(cluster));
            assert!(!set.insert(cluster));
        }
        assert!(clusters.iter().all(|cluster| set.contains(*cluster)));
        assert!(![2, 62, 65, 4094, 4097].iter().any(|c| set.contains(*c)));
    }
}
