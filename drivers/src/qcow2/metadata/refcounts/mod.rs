//! Refcounts in memory: the reftable whole, the blocks through a cache. Changes are dirty here until a commit has written them.
//!
//! ```text
//!   reftable (in memory)       refcount blocks (cached in slices)
//!   [ block 0 | block 1 | 0 ]
//!        |         +---------> refcounts of clusters n .. 2n - 1
//!        +-------------------> refcounts of clusters 0 .. n - 1        an absent block: all of its clusters are free
//! ```
//!
//! Raising comes before use. Lowering comes only from `free.rs`, when nothing on disk points to the cluster any more: so dirty blocks may
//! be written at any time, and a crash leaves leaks at worst.

mod allocate;

pub(crate) use self::allocate::Wanted;

use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use crate::qcow2::format::geometry::Geometry;
use crate::qcow2::metadata::image_file::ImageFile;
use crate::qcow2::metadata::overlap::TableMap;
use crate::qcow2::metadata::root_table::RootTable;
use crate::qcow2::metadata::slice_cache::{Slice, SliceCache};
use aio_task::{CoMutex, CoMutexGuard};
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

/// The refcounts of one image.
pub(crate) struct Refcounts {
    geometry: Geometry,
    cache: SliceCache,
    /// Where the blocks are; 0: absent. Only grows.
    table: RootTable,
    /// Clusters that hold tables.
    tables: TableMap,
    /// No cluster below this one is free.
    first_free: Cell<u64>,
    /// No gap of so many clusters begins before this one: the search for a run that was wanted in one piece goes on here.
    no_gap: Cell<Gap>,
    /// The first byte after the compressed data that was taken last, inside a cluster of such data that is in use; 0: there is none.
    append_at: Cell<u64>,
    /// A task that searches or changes refcounts has the turn: what it found stays true until it has made its change.
    turn: CoMutex<()>,
}

/// What is known of gaps of more than one cluster.
#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    /// Clusters of a gap. 0: nothing is known.
    len: u64,
    /// No gap of `len` begins before this cluster.
    from: u64,
}

impl Gap {
    /// The same when `cluster` is free too: it may lengthen a gap before it.
    fn with_free(self, cluster: u64) -> Self {
        let from = cluster.saturating_sub(self.len);
        Self {
            from: self.from.min(from),
            ..self
        }
    }
}

impl Refcounts {
    /// Of a table read from the file.
    pub(crate) fn new(geometry: Geometry, table: Vec<u64>, table_at: u64, memory: u64) -> Self {
        Self {
            geometry,
            cache: SliceCache::new(geometry.slice_size(), memory),
            table: RootTable::new(table, table_at),
            tables: TableMap::default(),
            first_free: Cell::new(0),
            no_gap: Cell::default(),
            append_at: Cell::default(),
            turn: CoMutex::new(()),
        }
    }

    /// Where the refcount blocks are.
    pub(crate) fn table(&self) -> &RootTable {
        &self.table
    }

    /// The cached slices of refcount blocks.
    pub(crate) fn cache(&self) -> &SliceCache {
        &self.cache
    }

    /// Which clusters hold tables.
    pub(crate) fn tables(&self) -> &TableMap {
        &self.tables
    }

    /// Keeps refcounts as they are until the guard is dropped.
    pub(crate) async fn lock(&self) -> CoMutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// References to host cluster `cluster`, as far as is known in memory.
    pub(crate) async fn get(&self, file: &ImageFile, cluster: u64) -> Result<u64> {
        Ok(match self.slice(file, cluster).await? {
            Some((slice, index)) => self.read(&slice, index),
            None => 0,
        })
    }

    /// One reference more to each of `clusters`.
    ///
    /// Errors: [`Qcow2Error::RefcountOverflow`] where one does not fit its width. On any error nothing has changed.
    pub(crate) async fn raise(&self, file: &ImageFile, clusters: Range<u64>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let max = self.geometry.max_refcount();
        let slices = self.slices(file, clusters).await?;
        for (slice, indices, first) in &slices {
            for index in indices.clone() {
                let count = self.read(slice, index);
                let cluster = first + (index - indices.start) as u64;
                if count == max {
                    let bits = self.geometry.refcount_bits();
                    return Err(Qcow2Error::RefcountOverflow { cluster, bits }.into());
                }
                if count == 0 {
                    return Err(Qcow2Error::RefcountUnderflow { cluster }.into());
                }
            }
        }
        for (slice, indices, _) in &slices {
            for index in indices.clone() {
                let count = self.read(slice, index);
                self.write(slice, index, count + 1);
            }
        }
        Ok(())
    }

    /// One reference less to each of `clusters`. `unused` gets the runs of those that have none left, and can use their bytes until it returns:
    /// they are not free before.
    ///
    /// Errors: [`Qcow2Error::RefcountUnderflow`] where there was none. On any error nothing has changed.
    pub(crate) async fn lower(
        &self,
        file: &ImageFile,
        clusters: Range<u64>,
        unused: impl AsyncFnOnce(&[Range<u64>]),
    ) -> Result<()> {
        let _turn = self.turn.lock().await;
        let slices = self.slices(file, clusters).await?;
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (slice, indices, first) in &slices {
            for (cluster, index) in (*first..).zip(indices.clone()) {
                match (self.read(slice, index), runs.last_mut()) {
                    (0, _) => return Err(Qcow2Error::RefcountUnderflow { cluster }.into()),
                    (1, Some(run)) if run.end == cluster => run.end += 1,
                    (1, _) => runs.push(cluster..cluster + 1),
                    _ => {}
                }
            }
        }
        unused(&runs).await;
        for (slice, indices, first) in &slices {
            for index in indices.clone() {
                let count = self.read(slice, index) - 1;
                self.write(slice, index, count);
                if count == 0 {
                    let cluster = first + (index - indices.start) as u64;
                    self.first_free.set(self.first_free.get().min(cluster));
                    self.no_gap.set(self.no_gap.get().with_free(cluster));
                    if self.append_at.get() >> self.geometry.cluster_bits() == cluster {
                        self.append_at.set(0); // it will be another's
                    }
                }
            }
        }
        Ok(())
    }

    /// The first cluster past the last one of `clusters` that is in use; `clusters.start` if none is. The caller has the turn.
    pub(crate) async fn used_end(&self, file: &ImageFile, clusters: Range<u64>) -> Result<u64> {
        let mut end = clusters.end.min(self.geometry.max_host_clusters());
        while end > clusters.start {
            let last = end - 1;
            let Some((slice, index)) = self.slice(file, last).await? else {
                // No block: all that it would count is free.
                end = last - self.geometry.refcount_index(last);
                continue;
            };
            let first = last - index as u64;
            let used = (0..=index).rev().find(|i| self.read(&slice, *i) != 0);
            match used {
                Some(used) => return Ok((first + used as u64 + 1).max(clusters.start)),
                None => end = first,
            }
        }
        Ok(clusters.start)
    }

    /// The slices with the refcounts of `clusters`: each with the indices in it and the cluster of the first of these. All must be there.
    pub(crate) async fn slices(
        &self,
        file: &ImageFile,
        clusters: Range<u64>,
    ) -> Result<Vec<(Rc<Slice>, Range<usize>, u64)>> {
        let per_slice = self.geometry.refcounts_per_slice();
        let mut slices = Vec::new();
        let mut cluster = clusters.start;
        while cluster < clusters.end {
            let Some((slice, index)) = self.slice(file, cluster).await? else {
                return Err(Qcow2Error::RefcountUnderflow { cluster }.into());
            };
            let here = (per_slice - index as u64).min(clusters.end - cluster);
            slices.push((slice, index..index + here as usize, cluster));
            cluster += here;
        }
        Ok(slices)
    }

    /// The slice with the refcount of `cluster`, and its index there; `None` where the block is absent.
    pub(crate) async fn slice(
        &self,
        file: &ImageFile,
        cluster: u64,
    ) -> Result<Option<(Rc<Slice>, usize)>> {
        let at = self.table.get(self.geometry.reftable_index(cluster));
        if at == 0 {
            return Ok(None);
        }
        self.slice_of(file, at, cluster).await.map(Some)
    }

    /// The same in the block at `at`.
    pub(crate) async fn slice_of(
        &self,
        file: &ImageFile,
        at: u64,
        cluster: u64,
    ) -> Result<(Rc<Slice>, usize)> {
        let geometry = &self.geometry;
        let (offset, index) = geometry.refcount_slice(geometry.refcount_index(cluster));
        if !geometry.is_aligned(at) {
            return Err(Qcow2Error::NotAligned {
                what: Table::RefcountBlock,
                offset: at,
            }
            .into());
        }
        let slice = self.cache.get(file, at + offset).await?;
        Ok((slice, index))
    }

    /// `index` comes from [`Geometry::refcount_slice`], and so is inside.
    pub(crate) fn read(&self, slice: &Slice, index: usize) -> u64 {
        self.geometry.refcount(&slice.bytes(), index).unwrap_or(0)
    }

    /// `value` fits the width.
    pub(crate) fn write(&self, slice: &Slice, index: usize, value: u64) {
        let bits = self.geometry.refcount_bits() as usize; // at most 64
        let part = index * bits / 8..((index + 1) * bits).div_ceil(8);
        let inside = index - part.start * 8 / bits; // several share a byte where they are narrow
        let done = slice.change(part, |bytes| {
            self.geometry.set_refcount(bytes, inside, value)
        });
        debug_assert!(done.is_some());
    }
}
