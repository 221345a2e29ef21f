//! The metadata of an open image: its tables in memory, host clusters allocated and freed, and the order in which changes reach the disk.
//!
//! Nothing in this layer knows what a guest request is: it hands out host clusters, caches slices of tables, and commits.
//!
//! | what | file |
//! |---|---|
//! | the image file, and a file as open, check and info read it | `image_file.rs`, `source.rs` |
//! | slices of L2 tables and refcount blocks; the L1 table and the refcount table | `slice_cache.rs`, `root_table.rs` |
//! | entries of an L2 table; all that an L1 table leads to, and its references | `l2_entries.rs`, `l1_walk.rs`, `references.rs` |
//! | refcounts, and the allocator | `refcounts/` |
//! | which clusters hold tables | `overlap.rs`, `protected_tables.rs` |
//! | freed clusters, and the end of the file | `free.rs`, `trim_file.rs` |
//! | the fields of the header; **the order on disk** | `roots.rs`, `commit.rs` |

mod commit;
mod free;
mod image_file;
mod l1_walk;
mod l2_entries;
mod overlap;
mod protected_tables;
mod refcounts;
mod references;
mod root_table;
mod roots;
mod slice_cache;
mod source;
mod trim_file;
mod write_table;

pub(super) use self::free::Freeing;
pub(super) use self::image_file::{ImageFile, out_of_memory, read_entries};
pub(super) use self::l1_walk::{Reference, Step, Walk};
pub(super) use self::refcounts::{Refcounts, Wanted};
pub(super) use self::references::Change;
pub(super) use self::root_table::RootTable;
pub(super) use self::slice_cache::{Slice, SliceCache};
pub(super) use self::source::{Entries, Source, buffer};

use self::commit::Commits;
use self::free::Frees;
use self::roots::{OnDisk, Roots};
use super::format::error::{Qcow2Error, Result, Table};
use super::format::geometry::Geometry;
use super::format::header::Header;
use super::format::offset::HostOffset;
use std::cell::Cell;
use std::ops::Range;

/// The tables of an open image. No borrow of any part is held across an await.
///
/// The parts change in memory; [`Metadata::commit`] brings them to the disk.
pub(super) struct Metadata {
    geometry: Geometry,
    /// The image file.
    file: ImageFile,
    /// The external data file, if guest data is not in the image file.
    data: Option<ImageFile>,
    refcounts: Refcounts,
    /// Slices of L2 tables, of all L1 tables together.
    l2: SliceCache,
    /// The active L1 table.
    active: RootTable,
    /// The guest's disk in bytes.
    size: Cell<u64>,
    /// Where the snapshot table is, or is to be, and how many snapshots it has.
    snapshots_at: Cell<(u64, u32)>,
    /// The header's fields as they are on disk.
    on_disk: Cell<OnDisk>,
    commits: Commits,
    /// Clusters that are to lose a reference.
    frees: Frees,
    /// Bytes of the image file when it was opened: it is never made shorter than this.
    length_at_open: u64,
}

/// Bytes of tables that are kept in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheSizes {
    pub(super) l2: u64,
    pub(super) refcounts: u64,
}

impl Metadata {
    /// Reads the L1 table and the refcount table that `header` names. `length` is that of the image file in bytes.
    ///
    /// # Errors
    ///
    /// [`Qcow2Error::OutOfMemory`], and [`Qcow2Error::Io`] if a table cannot be read.
    pub(super) async fn load(
        header: &Header,
        file: ImageFile,
        length: u64,
        data: Option<ImageFile>,
        caches: CacheSizes,
    ) -> Result<Self, Qcow2Error> {
        let geometry = header.geometry;
        let l1 = read_entries(&file, Table::L1, header.l1_offset, header.l1_entries.into()).await?;
        let entries = geometry.reftable_entries(header.reftable_clusters.into());
        let at = header.reftable_offset;
        let reftable = read_entries(&file, Table::RefcountTable, at, entries).await?;
        let metadata = Self {
            geometry,
            file,
            data,
            refcounts: Refcounts::new(geometry, reftable, at.0, caches.refcounts),
            l2: SliceCache::new(geometry.slice_size(), caches.l2),
            active: RootTable::new(l1, header.l1_offset.0),
            size: Cell::new(header.disk_size()),
            snapshots_at: Cell::new((header.snapshots_offset.0, header.snapshots)),
            on_disk: Cell::new(OnDisk {
                roots: Roots::default(),
                sure: true,
            }),
            commits: Commits::default(),
            frees: Frees::default(),
            length_at_open: length,
        };
        metadata.on_disk.set(OnDisk {
            roots: metadata.roots(),
            sure: true,
        });
        Ok(metadata)
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The image file.
    pub(super) fn file(&self) -> &ImageFile {
        &self.file
    }

    /// The external data file.
    pub(super) fn external_data(&self) -> Option<&ImageFile> {
        self.data.as_ref()
    }

    /// The file with the guest's data.
    pub(super) fn data_file(&self) -> &ImageFile {
        self.data.as_ref().unwrap_or(&self.file)
    }

    pub(super) fn refcounts(&self) -> &Refcounts {
        &self.refcounts
    }

    /// Slices of L2 tables.
    pub(super) fn l2(&self) -> &SliceCache {
        &self.l2
    }

    /// The active L1 table.
    pub(super) fn active(&self) -> &RootTable {
        &self.active
    }

    /// The guest's disk in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size.get()
    }

    /// Changes the size that the next commit writes. Returns the one before.
    pub(super) fn replace_size(&self, size: u64) -> u64 {
        self.size.replace(size)
    }

    /// Where the snapshot table is, or is to be, and how many snapshots it has.
    pub(super) fn snapshots_at(&self) -> (u64, u32) {
        self.snapshots_at.get()
    }

    /// Changes the snapshot table that the next commit names. Returns the one before.
    pub(super) fn replace_snapshots_at(&self, at: u64, count: u32) -> (u64, u32) {
        self.snapshots_at.replace((at, count))
    }

    /// The header's fields as the next commit writes them.
    fn roots(&self) -> Roots {
        let (snapshots_at, snapshots) = self.snapshots_at.get();
        let table = self.refcounts.table();
        let per_cluster = self.geometry.cluster_size() / 8;
        Roots {
            size: self.size.get(),
            l1_size: self.active.len() as u32, // at most 32 MiB of entries
            l1_at: self.active.at(),
            reftable_at: table.at(),
            reftable_clusters: table.len().div_ceil(per_cluster) as u32, // at most 8 MiB of entries
            snapshots,
            snapshots_at,
        }
    }

    /// Allocates host clusters for guest data or for tables.
    ///
    /// # Errors
    ///
    /// Those of [`Refcounts::allocate`]; nothing is allocated then.
    pub(super) async fn allocate(&self, wanted: Wanted) -> Result<Range<u64>> {
        let (clusters, old_table) = self.refcounts.allocate(&self.file, wanted).await?;
        self.free_old_reftable(old_table);
        Ok(clusters)
    }

    /// Allocates `bytes` bytes for compressed data, at most a cluster, after those allocated last if that is possible.
    ///
    /// # Errors
    ///
    /// Those of [`Refcounts::append`]; nothing is allocated then.
    pub(super) async fn allocate_compressed(&self, bytes: u64) -> Result<HostOffset> {
        let (at, old_table) = self.refcounts.append(&self.file, bytes).await?;
        self.free_old_reftable(old_table);
        Ok(at)
    }

    fn free_old_reftable(&self, old: Option<Range<u64>>) {
        if let Some(old) = old {
            self.free(old, Freeing::ForHost);
        }
    }

    /// The host clusters that hold `bytes` bytes at `at`.
    pub(super) fn clusters_of(&self, at: HostOffset, bytes: u64) -> Range<u64> {
        self.geometry.cluster_of(at)..self.geometry.clusters_for(at.0 + bytes)
    }

    /// The clusters of a table, whose position was checked. No bytes have no clusters.
    pub(super) fn clusters_at(&self, at: u64, bytes: u64) -> Range<u64> {
        let first = self.geometry.cluster_of(HostOffset(at));
        first..first + self.geometry.clusters_for(bytes)
    }
}
