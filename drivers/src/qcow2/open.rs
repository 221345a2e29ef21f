//! Opening and closing an image: QEMU's `qcow2_do_open` and `qcow2_close`.

use super::backing::Backing;
use super::cache::SliceCache;
use super::check::{self, RepairLevel, Source};
use super::entry::{L1Entry, ReftableEntry};
use super::error::{Qcow2Error, Table};
use super::file::ImageFile;
use super::geometry::TABLE_ENTRY_SIZE;
use super::header::{Header, Purpose};
use super::image::{Image, OnDisk, Roots};
use super::locks::EVERYTHING;
use super::offset::HostOffset;
use super::options::{BackingFile, L2_CACHE, Qcow2Options, REFCOUNT_CACHE};
use super::refcounts::Refcounts;
use super::root_table::RootTable;
use super::snapshot::Snapshots;
use super::snapshot::table::SnapshotTable;
use block_core::{BlockChild, Cause};
use std::cell::Cell;

impl Image {
    /// Reads the header and the tables that are kept whole. Nothing is written, unless the image is to be written to and
    /// was not closed by its last user.
    pub(super) async fn open(file: BlockChild, options: Qcow2Options) -> Result<Self, Qcow2Error> {
        let mut header = Header::read(&file, Purpose::Use).await?;
        let read_only = options.read_only || file.is_read_only();
        if header.is_corrupt() && !read_only {
            return Err(Qcow2Error::CorruptBit);
        }
        let backing = backing(&header, options.backing)?;
        if header.is_dirty() && !read_only {
            mend(&file, &mut header).await?;
        }
        let file = ImageFile::new(file);
        let length = file.length().await.map_err(read_failed(Table::Header))?;
        if !read_only {
            header.check_inside(length)?;
        }
        let geometry = header.geometry;
        let data = match (geometry.data_file(), options.data_file) {
            (true, Some(data)) => Some(ImageFile::new(data)),
            (false, None) => None,
            (true, None) => return Err(Qcow2Error::DataFileMissing),
            (false, Some(_)) => return Err(Qcow2Error::DataFileUnwanted),
        };
        let l1 = read_entries(&file, Table::L1, header.l1_offset, header.l1_entries.into()).await?;
        let entries = geometry.reftable_entries(header.reftable_clusters.into());
        let at = header.reftable_offset;
        let reftable = read_entries(&file, Table::RefcountTable, at, entries).await?;
        let snapshots = match header.snapshots {
            0 => SnapshotTable::default(),
            _ => {
                let source = Source::new(file.child()).await?;
                SnapshotTable::read(&source, &header, Purpose::Use).await?
            }
        };
        let or_default = |wanted, default| if wanted == 0 { default } else { wanted };
        let l2_memory = or_default(options.l2_cache, L2_CACHE);
        let refcount_memory = or_default(options.refcount_cache, REFCOUNT_CACHE);
        let image = Self {
            geometry,
            refcounts: Refcounts::new(geometry, reftable, at.0, refcount_memory),
            l2: SliceCache::new(geometry.slice_size(), l2_memory),
            active: RootTable::new(l1, header.l1_offset.0),
            size: Cell::new(header.disk_size()),
            snapshots_at: Cell::new((header.snapshots_offset.0, header.snapshots)),
            on_disk: Cell::new(OnDisk {
                roots: Roots::default(),
                sure: true,
            }),
            backing,
            file,
            data,
            read_only,
            workers: options.workers,
            closed: Cell::new(false),
            locks: Default::default(),
            l2_turn: Default::default(),
            commits: Default::default(),
            frees: Default::default(),
            length_at_open: length,
            snapshots: Snapshots::new(snapshots),
            leftovers: Default::default(),
            bitmaps: Default::default(),
            vmstate: Default::default(),
            header,
        };
        image.on_disk.set(OnDisk {
            roots: image.roots(),
            sure: true,
        });
        if !read_only {
            image.find_tables(length)?;
            image.find_snapshot_tables()?;
            image.note_autoclear_features();
        }
        Ok(image)
    }

    /// Notes where the tables are. Two of them in one place, or an entry that leads to none, is an image that must not be written to; nor is
    /// one with a refcount block past the file's end at `length`, whose clusters would all seem to be free.
    fn find_tables(&self, length: u64) -> Result<(), Qcow2Error> {
        let geometry = &self.geometry;
        let clusters = |at: u64, entries: u64| {
            let end = at + entries * TABLE_ENTRY_SIZE; // checked with the header
            geometry.cluster_of(HostOffset(at))..geometry.clusters_for(end)
        };
        let (reftable, l1) = (&self.refcounts.table, &self.active);
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

    /// Waits for what is under way, writes everything back, and lets go of the children. All steps are taken; the first error is
    /// returned.
    pub(super) async fn close(&self) -> super::Result<()> {
        let _lock = self.locks.exclusive(EVERYTHING).await;
        self.closed.set(true);
        let mut first = match self.read_only {
            true => Ok(()),
            false => self.finish().await,
        };
        let children = [Some(&self.file), self.data.as_ref(), self.backing.file()];
        for file in children.into_iter().flatten() {
            let released = file.child().release().await;
            first = first.and(released.map_err(|e| e.cause));
        }
        first
    }

    /// Drops a state that no snapshot recorded, and writes everything back. Both are tried, whatever becomes of the first.
    async fn finish(&self) -> super::Result<()> {
        self.drop_state();
        let tidied = self.tidy().await;
        let written = tidied.and(self.write_everything().await);
        if written.is_ok() {
            self.cut_tail().await;
        }
        written
    }

    /// Commits until nothing is left to be written or freed. The caller keeps changes out.
    pub(super) async fn write_everything(&self) -> super::Result<()> {
        while self.is_dirty() {
            self.commit().await?;
            self.reclaimed()?;
        }
        self.reclaimed()
    }

    /// Whether a commit would write metadata.
    fn is_dirty(&self) -> bool {
        self.l2.is_dirty()
            || self.refcounts.cache.is_dirty()
            || self.refcounts.table.is_dirty()
            || self.active.is_dirty()
            || !self.frees.is_empty()
            || !self.on_disk.get().sure
            || self.on_disk.get().roots != self.roots()
    }

    /// Refuses what changes the image where it must not be changed.
    pub(super) fn check_writable(&self) -> super::Result<()> {
        match (self.closed.get(), self.read_only) {
            (true, _) => Err(Cause::Closed),
            (_, true) => Err(Cause::ReadOnly),
            _ => Ok(()),
        }
    }
}

/// Repairs an image with lazy refcounts whose last user did not come to its end, as QEMU does when it opens one.
async fn mend(file: &BlockChild, header: &mut Header) -> Result<(), Qcow2Error> {
    let report = check::repair_opened(file, header, RepairLevel::All).await?;
    let (corruptions, check_errors) = (report.corruptions, report.check_errors);
    if corruptions + check_errors > 0 {
        return Err(Qcow2Error::NotRepaired {
            corruptions,
            check_errors,
        });
    }
    Ok(())
}

fn backing(header: &Header, wanted: BackingFile) -> Result<Backing, Qcow2Error> {
    let Some(name) = header.backing_file_name() else {
        return Ok(Backing::None);
    };
    match wanted {
        BackingFile::Open(child) => Ok(Backing::Open(ImageFile::new(child))),
        BackingFile::Ignore => Ok(Backing::NotOpened {
            path: name.to_string(),
            why: None,
        }),
        BackingFile::Missing { why } => Ok(Backing::NotOpened {
            path: name.to_string(),
            why: Some(why),
        }),
        BackingFile::Deny => Err(Qcow2Error::Denied {
            what: "backing file",
            path: name.to_string(),
        }),
    }
}

/// A table of 8-byte entries, whose size was checked.
pub(super) async fn read_entries(
    file: &ImageFile,
    what: Table,
    at: HostOffset,
    entries: u64,
) -> Result<Vec<u64>, Qcow2Error> {
    let bytes = entries.saturating_mul(TABLE_ENTRY_SIZE);
    let too_much = |_| Qcow2Error::OutOfMemory { what, bytes };
    let len = usize::try_from(bytes).map_err(|_| Qcow2Error::OutOfMemory { what, bytes })?;
    let mut table = Vec::new();
    table.try_reserve_exact(len).map_err(too_much)?;
    table.resize(len, 0);
    let read = file.read_table(at.0, &mut table).await;
    read.map_err(read_failed(what))?;
    let (entries, _) = table.as_chunks::<8>();
    Ok(entries.iter().map(|e| u64::from_be_bytes(*e)).collect())
}

/// What a child said while a table was read.
pub(super) fn read_failed(what: Table) -> impl Fn(Cause) -> Qcow2Error {
    move |cause| Qcow2Error::Io {
        what,
        error: block_core::BlockError::new(block_core::Op::Open, 0, 0, cause),
    }
}
