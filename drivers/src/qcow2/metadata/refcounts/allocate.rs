//! Free host clusters, found and taken: QEMU's `qcow2_alloc_clusters` and `alloc_refcount_block`.
//!
//! The lowest free clusters are taken first. Where a run reaches clusters that no block counts yet, what is needed to count them is laid
//! out after it and taken in the same step:
//!
//! ```text
//!   |<- the run ->|<- new refcount blocks ->|<- new reftable, if the old one is too short ->|
//! ```
//!
//! All of this happens in memory, except that new blocks are written as zeroes to their places, which nothing points to yet.

use super::{Gap, Refcounts};
use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use crate::qcow2::format::geometry::{MAX_REFTABLE_BYTES, TABLE_ENTRY_SIZE};
use crate::qcow2::format::offset::HostOffset;
use crate::qcow2::metadata::image_file::ImageFile;
use block_core::Cause;
use std::ops::Range;

/// How many clusters are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// So many in one piece.
    Exactly(u64),
    /// At least 1 and at most so many, in one piece: what the first gap has.
    UpTo(u64),
}

/// A run of free clusters.
struct Run {
    start: u64,
    /// How many of it are taken.
    len: u64,
    /// The first free cluster of the image; `start`, unless smaller gaps were passed over.
    first_free: u64,
}

impl Refcounts {
    /// Takes free clusters: their refcount is 1 from now on, in memory. They are not on disk before a commit.
    ///
    /// Also returns the clusters of the old reftable if it had to move, which the caller lets go.
    ///
    /// Errors: [`Qcow2Error::TableTooLarge`] where the reftable would be longer than 8 MiB; what loading or writing a table gave. Nothing is
    /// taken then.
    pub(crate) async fn allocate(
        &self,
        file: &ImageFile,
        wanted: Wanted,
    ) -> Result<(Range<u64>, Option<Range<u64>>)> {
        let _turn = self.turn.lock().await;
        let run = self.find(file, wanted).await?;
        let gap = match wanted {
            Wanted::Exactly(len) if len > 1 => Some(Gap {
                len,
                from: run.start,
            }),
            _ => None,
        };
        let taken = self.take(file, run).await?;
        if let Some(gap) = gap {
            self.no_gap.set(gap);
        }
        Ok(taken)
    }

    /// Takes `bytes` bytes for compressed data, at most a cluster: after the ones taken last where there is room or the next cluster is
    /// free, else in a free cluster (QEMU's `qcow2_alloc_bytes`). Every cluster that they touch has one reference more.
    ///
    /// Result and errors otherwise as in [`Refcounts::allocate`].
    pub(crate) async fn append(
        &self,
        file: &ImageFile,
        bytes: u64,
    ) -> Result<(HostOffset, Option<Range<u64>>)> {
        let geometry = &self.geometry;
        let _turn = self.turn.lock().await;
        let at = self.append_at.get();
        let cluster = geometry.cluster_of(HostOffset(at));
        let last = match at {
            0 => None,
            _ => self.slice(file, cluster).await?,
        };
        // One more reference must fit.
        let last = last.and_then(|(slice, index)| {
            let count = self.read(&slice, index);
            (0 < count && count < geometry.max_refcount()).then_some((slice, index, count))
        });
        let room = match last {
            Some(_) => geometry.cluster_size() - geometry.in_cluster(at),
            None => 0,
        };
        let raise_last = || {
            if let Some((slice, index, count)) = &last {
                self.write(slice, *index, count + 1);
            }
        };
        let (at, old_table) = if room >= bytes {
            raise_last();
            (at, None)
        } else {
            let run = self.find(file, Wanted::Exactly(1)).await?;
            let (new, old_table) = self.take(file, run).await?;
            if room > 0 && new.start == cluster + 1 {
                raise_last();
                (at, old_table)
            } else {
                (new.start << geometry.cluster_bits(), old_table)
            }
        };
        let end = at + bytes;
        let full = geometry.is_aligned(end);
        self.append_at.set(if full { 0 } else { end });
        Ok((HostOffset(at), old_table))
    }

    /// Finds free clusters. A damaged snapshot may have its L1 table in such, and the bitmap directory may be there: they are passed by, so that
    /// neither keeps anything else from being written.
    async fn find(&self, file: &ImageFile, wanted: Wanted) -> Result<Run> {
        let mut from = 0;
        loop {
            let run = self.find_from(file, wanted, from).await?;
            let taken = run.start..self.layout(&run)?.end;
            match self.tables.first_foreign(taken) {
                None => return Ok(run),
                Some(foreign) => from = foreign.end,
            }
        }
    }

    async fn find_from(&self, file: &ImageFile, wanted: Wanted, from: u64) -> Result<Run> {
        let geometry = &self.geometry;
        let (least, most) = match wanted {
            Wanted::Exactly(n) => (n.max(1), n.max(1)),
            Wanted::UpTo(n) => (1, n.max(1)),
        };
        let known = self.no_gap.get();
        let lowest = self.first_free.get();
        let skip = least > 1 && known.len > 0 && known.len <= least && known.from > lowest;
        let mut cluster = if skip { known.from } else { lowest }.max(from);
        let mut first_free = (cluster > lowest).then_some(lowest);
        // The gap that ends at `cluster`: its first cluster, and how many blocks would have to be made for it.
        let (mut start, mut absent) = (cluster, 0_u64);
        loop {
            if cluster >= geometry.max_host_clusters() {
                return Err(self.too_large(cluster));
            }
            let room = |start: u64, absent: u64, end: u64| (end - start).saturating_sub(absent);
            if room(start, absent, cluster) >= most {
                break;
            }
            let Some((slice, index)) = self.slice(file, cluster).await? else {
                first_free.get_or_insert(cluster);
                absent += 1;
                let block = geometry.reftable_index(cluster);
                if block >= self.table.len() {
                    // Nothing is past this: as long as one likes.
                    let len = most;
                    return Ok(self.run(start, len, first_free));
                }
                cluster = (block + 1) * geometry.refcounts_per_block();
                continue;
            };
            let here = geometry.refcounts_per_slice() - index as u64;
            for offset in 0..here {
                let at = cluster + offset;
                if self.read(&slice, index + offset as usize) == 0 {
                    first_free.get_or_insert(at);
                    if room(start, absent, at + 1) >= most {
                        return Ok(self.run(start, most, first_free));
                    }
                    continue;
                }
                let gap = room(start, absent, at);
                if gap >= least {
                    return Ok(self.run(start, gap.min(most), first_free));
                }
                (start, absent) = (at + 1, 0);
            }
            cluster += here;
        }
        Ok(self.run(start, most, first_free))
    }

    fn run(&self, start: u64, len: u64, first_free: Option<u64>) -> Run {
        Run {
            start,
            len,
            first_free: first_free.unwrap_or(start),
        }
    }

    /// Everything that may fail comes first; then, in one step, the clusters are taken.
    async fn take(&self, file: &ImageFile, run: Run) -> Result<(Range<u64>, Option<Range<u64>>)> {
        let geometry = &self.geometry;
        let layout = self.layout(&run)?;
        let bits = geometry.cluster_bits();
        // A damaged image may count a table's cluster as free.
        self.tables
            .check(Table::Data, run.start..layout.end, bits)?;
        for at in &layout.new_blocks {
            self.write_zero_block(file, *at).await?;
        }
        let per_block = geometry.refcounts_per_block();
        let mut slices = Vec::new();
        let mut cluster = run.start;
        while cluster < layout.end {
            let block = geometry.reftable_index(cluster);
            let at = layout
                .block_at(block)
                .unwrap_or_else(|| self.table.get(block));
            let (slice, index) = self.slice_of(file, at, cluster).await?;
            let in_slice = geometry.refcounts_per_slice() - index as u64;
            let here = in_slice
                .min(layout.end - cluster)
                .min((block + 1) * per_block - cluster);
            slices.push((slice, index..index + here as usize));
            cluster += here;
        }

        for (slice, indices) in slices {
            for index in indices {
                self.write(&slice, index, 1);
            }
        }
        let old = layout.table.map(|(at, entries)| {
            let known = self.table.len();
            let clusters = geometry.clusters_for(known * TABLE_ENTRY_SIZE);
            let first = self.table.at() >> geometry.cluster_bits();
            let mut table = self.table.copy(0..known);
            table.resize(entries, 0);
            self.table.replace(table, at);
            first..first + clusters
        });
        for (block, at) in layout.absent.iter().zip(&layout.new_blocks) {
            self.table.set(*block, *at);
        }
        let blocks = run.start + run.len..run.start + run.len + layout.absent.len() as u64;
        let table = blocks.end..layout.end;
        self.tables.add(Table::RefcountBlock, blocks, bits)?;
        self.tables.add(Table::RefcountTable, table, bits)?;
        let end = run.start + run.len;
        self.first_free.set(match run.first_free == run.start {
            true => layout.end,
            false => run.first_free,
        });
        Ok((run.start..end, old))
    }

    /// What has to be made so that the run can be counted.
    fn layout(&self, run: &Run) -> Result<Layout> {
        let geometry = &self.geometry;
        let known = self.table.len();
        let cluster_size = geometry.cluster_size();
        let (mut absent, mut table_clusters) = (Vec::new(), 0);
        loop {
            let end = run.start + run.len + absent.len() as u64 + table_clusters;
            if end > geometry.max_host_clusters() {
                return Err(self.too_large(end));
            }
            let last = geometry.reftable_index(end - 1);
            let missing: Vec<u64> = (geometry.reftable_index(run.start)..=last)
                .filter(|block| self.table.get(*block) == 0)
                .collect();
            let needed = match last < known {
                true => 0,
                // Half as long again, so that the next growth is far away; but never longer than is allowed.
                false => ((last + 1).max(known + known / 2) * TABLE_ENTRY_SIZE)
                    .div_ceil(cluster_size)
                    .min(geometry.max_reftable_clusters())
                    .max(table_clusters),
            };
            if missing.len() == absent.len() && needed == table_clusters {
                break;
            }
            (absent, table_clusters) = (missing, needed);
        }
        let first_block = run.start + run.len;
        let new_blocks: Vec<u64> = (first_block..first_block + absent.len() as u64)
            .map(|cluster| cluster << geometry.cluster_bits())
            .collect();
        let first_table = first_block + absent.len() as u64;
        let entries = (table_clusters * cluster_size / TABLE_ENTRY_SIZE) as usize;
        Ok(Layout {
            absent,
            new_blocks,
            table: (table_clusters > 0)
                .then_some((first_table << geometry.cluster_bits(), entries)),
            end: first_table + table_clusters,
        })
    }

    fn too_large(&self, clusters: u64) -> Cause {
        let error = Qcow2Error::TableTooLarge {
            what: Table::RefcountTable,
            entries: self.geometry.reftable_index(clusters).saturating_add(1),
            max: MAX_REFTABLE_BYTES / TABLE_ENTRY_SIZE,
        };
        error.into()
    }

    async fn write_zero_block(&self, file: &ImageFile, at: u64) -> Result<()> {
        let zeroes = vec![0; self.geometry.cluster_size() as usize];
        file.write(at, &zeroes).await?;
        self.cache.adopt(at, &zeroes);
        Ok(())
    }
}

/// See the picture at the top.
struct Layout {
    /// Numbers of the blocks that are to be made, ascending.
    absent: Vec<u64>,
    /// Where they will be.
    new_blocks: Vec<u64>,
    /// A longer reftable: where, and how many entries.
    table: Option<(u64, usize)>,
    /// First cluster after all.
    end: u64,
}

impl Layout {
    /// Where a block will be that is to be made.
    fn block_at(&self, block: u64) -> Option<u64> {
        let new = self.absent.binary_search(&block).ok()?;
        self.new_blocks.get(new).copied()
    }
}
