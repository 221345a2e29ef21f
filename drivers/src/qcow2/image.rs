//! One open image: all that is kept in memory of it.

use super::backing::Backing;
use super::bitmaps::Bitmaps;
use super::cache::SliceCache;
use super::commit::Commits;
use super::error::{Qcow2Error, Table};
use super::file::ImageFile;
use super::free::Freeing;
use super::free::Frees;
use super::geometry::Geometry;
use super::header::Header;
use super::locks::ClusterLocks;
use super::offset::HostOffset;
use super::refcounts::Refcounts;
use super::root_table::RootTable;
use super::snapshot::Snapshots;
use super::snapshot::leftovers::Leftovers;
use super::vmstate::Vmstate;
use aio_task::{CoMutex, WorkerPool};
use std::cell::Cell;
use std::ops::Range;

/// The state of an image. No borrow of any part is held across an await.
///
/// Whoever needs several of these takes them in this order: cluster locks, `l2_turn`, the refcounts' turn; a commit takes the last only, and
/// may be asked for while cluster locks are held, but not while a turn is.
pub(super) struct Image {
    pub(super) geometry: Geometry,
    /// As it was when the image was opened; [`Image::roots`] has the fields that change.
    pub(super) header: Header,
    /// The image file.
    pub(super) file: ImageFile,
    /// Where guest data is, if not in the image file.
    pub(super) data: Option<ImageFile>,
    pub(super) backing: Backing,
    pub(super) read_only: bool,
    /// Where compressed clusters are packed and unpacked.
    pub(super) workers: Option<WorkerPool>,
    /// Set when the close begins.
    pub(super) closed: Cell<bool>,

    pub(super) refcounts: Refcounts,
    /// Slices of L2 tables, whichever L1 table they belong to.
    pub(super) l2: SliceCache,
    /// The active L1 table.
    pub(super) active: RootTable,
    /// The guest's disk in bytes.
    pub(super) size: Cell<u64>,
    /// Where the snapshot table is, or is to be, and how many snapshots it has.
    pub(super) snapshots_at: Cell<(u64, u32)>,
    /// The header's fields as they are on disk.
    pub(super) on_disk: Cell<OnDisk>,

    pub(super) locks: ClusterLocks,
    /// Held while an L1 entry gets a new L2 table.
    pub(super) l2_turn: CoMutex<()>,
    pub(super) commits: Commits,
    /// Clusters that are to lose a reference.
    pub(super) frees: Frees,
    /// Bytes of the image file when it was opened: it is never made shorter than this.
    pub(super) length_at_open: u64,

    pub(super) snapshots: Snapshots,
    /// What snapshot operations have left to be done.
    pub(super) leftovers: Leftovers,
    /// Whether the persistent bitmaps are still true.
    pub(super) bitmaps: Bitmaps,
    /// The state that is being saved.
    pub(super) vmstate: Vmstate,
}

/// The fields of the header that change while an image is open. They lie in one sector, so that they change together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Roots {
    pub(super) size: u64,
    pub(super) l1_size: u32,
    pub(super) l1_at: u64,
    pub(super) reftable_at: u64,
    pub(super) reftable_clusters: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_at: u64,
}

/// What is known of the header on disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnDisk {
    /// The fields that were stable last.
    pub(super) roots: Roots,
    /// False from a write of other fields until it is known to be stable: either may be there.
    pub(super) sure: bool,
}

impl Roots {
    /// Where they are in the header.
    pub(super) const AT: u64 = 24;

    /// Bytes 24 to 71 of the header. The encryption method between them is 0: encrypted images are not opened.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let encryption = 0_u32.to_be_bytes();
        [
            &self.size.to_be_bytes()[..],
            &encryption,
            &self.l1_size.to_be_bytes(),
            &self.l1_at.to_be_bytes(),
            &self.reftable_at.to_be_bytes(),
            &self.reftable_clusters.to_be_bytes(),
            &self.snapshots.to_be_bytes(),
            &self.snapshots_at.to_be_bytes(),
        ]
        .concat()
    }
}

impl Image {
    /// The header's fields as they are to be.
    pub(super) fn roots(&self) -> Roots {
        let (snapshots_at, snapshots) = self.snapshots_at.get();
        let table = &self.refcounts.table;
        let per_cluster = self.geometry.cluster_size() / 8;
        Roots {
            size: self.size.get(),
            l1_size: self.active.len() as u32, // bounded by 32 MiB
            l1_at: self.active.at(),
            reftable_at: table.at(),
            reftable_clusters: table.len().div_ceil(per_cluster) as u32, // bounded by 8 MiB
            snapshots,
            snapshots_at,
        }
    }

    /// Takes host clusters for guest data or for tables.
    pub(super) async fn allocate(
        &self,
        wanted: super::allocate::Wanted,
    ) -> super::Result<Range<u64>> {
        let (clusters, old_table) = self.refcounts.allocate(&self.file, wanted).await?;
        if let Some(old_table) = old_table {
            self.free(old_table, Freeing::ForHost);
        }
        Ok(clusters)
    }

    /// These clusters hold a table, which was allocated for it, or which the image names.
    pub(super) fn add_table(&self, what: Table, clusters: Range<u64>) -> Result<(), Qcow2Error> {
        let bits = self.geometry.cluster_bits();
        self.refcounts.tables.add(what, clusters, bits)
    }

    /// Guest data may be written to these bytes: no table is there.
    pub(super) fn check_data(&self, at: HostOffset, len: u64) -> Result<(), Qcow2Error> {
        if self.data.is_some() {
            return Ok(());
        }
        let clusters = self.geometry.cluster_of(at)..self.geometry.clusters_for(at.0 + len);
        let bits = self.geometry.cluster_bits();
        self.refcounts.tables.check(Table::Data, clusters, bits)
    }

    /// Where guest data is.
    pub(super) fn data_file(&self) -> &ImageFile {
        self.data.as_ref().unwrap_or(&self.file)
    }
}
