//! Makes an image: `qemu-img create`, QEMU's `qcow2_co_create`.
//!
//! 1. All options are checked, and the header with its names is built: nothing has been written yet.
//! 2. The file is cut to length 0, and made as long as the image. What cannot be cut (a device) gets zeroes instead. An older image in it
//!    is one no more, and that is stable, before its tables change.
//! 3. Refcount blocks, refcount table, L2 tables and L1 table are written, in the file's order and each once.
//! 4. Flush. The header is written. Flush. A crash before this leaves a file that is no image.

mod layout;
mod options;
#[cfg(test)]
mod tests;

pub use self::options::{Backing, CreateOptions, DataFile, OptionError, Version};

use self::layout::Layout;
use crate::qcow2::format::codec::CompressionType;
use crate::qcow2::format::entry::{Cluster, L1Entry, L2Entry, ReftableEntry, Subclusters};
use crate::qcow2::format::error::{Qcow2Error, Table, io};
use crate::qcow2::format::geometry::Geometry;
use crate::qcow2::format::header::Header;
use crate::qcow2::format::header::extensions::Extensions;
use crate::qcow2::format::header::features::{self, autoclear, compatible, incompatible};
use crate::qcow2::format::name::Name;
use crate::qcow2::format::offset::HostOffset;
use block_core::{BlockChild, Cause, DiskOffset, Preallocation, Truncate, WriteFlags, ZeroFlags};
use std::os::unix::ffi::OsStrExt;

/// Smaller clusters get no feature name table, as in QEMU: it would fill most of the header's.
const MIN_CLUSTER_FOR_NAMES: u64 = 8192;
/// Most bytes that are written at once.
const PIECE: usize = 1 << 20;

/// Makes an image in `file`, whose content is lost. `data_file` is the external data file, of which the same is true, where
/// [`CreateOptions::data_file`] names one. Memory: 1 MiB and a cluster.
///
/// A data file becomes exactly as long as the disk, so that a raw one is the disk byte for byte (qemu-img rounds up to clusters where it
/// preallocates).
///
/// Both must be attached with the permissions "write" and "resize". The backing file is not looked at.
///
/// Errors: those of [`CreateOptions::check`], [`Qcow2Error::DataFileMissing`] and [`Qcow2Error::DataFileUnwanted`], before anything is
/// written; [`Qcow2Error::Io`], and the file then is no image. Dropped: the same.
pub async fn create(
    file: &BlockChild,
    data_file: Option<&BlockChild>,
    options: &CreateOptions,
) -> Result<(), Qcow2Error> {
    let plan = Plan::new(options)?;
    match (data_file, &options.data_file) {
        (None, Some(_)) => return Err(Qcow2Error::DataFileMissing),
        (Some(_), None) => return Err(Qcow2Error::DataFileUnwanted),
        _ => {}
    }
    let cluster_size = plan.geometry.cluster_size();
    let old_bytes = remove_old(file, cluster_size).await?;
    if let Some(data_file) = data_file {
        resize(data_file, Table::Data, 0, Preallocation::Off).await?;
        resize(data_file, Table::Data, plan.size, plan.of_the_data()).await?;
    }
    let len = plan.layout.total * cluster_size;
    resize(file, Table::Header, len, plan.of_the_file()).await?;
    if old_bytes {
        let tables = (plan.layout.data_at - 1) * cluster_size;
        zero(file, cluster_size, tables).await?;
    }
    plan.write_refcounts(file).await?;
    plan.write_mapping(file).await?;
    file.flush().await.map_err(io(Table::Header))?;
    if let Some(data_file) = data_file {
        data_file.flush().await.map_err(io(Table::Data))?;
    }
    let header = file.pwrite(DiskOffset(0), &plan.header, WriteFlags::default());
    header.await.map_err(io(Table::Header))?;
    file.flush().await.map_err(io(Table::Header))
}

/// Makes sure that an older image in the file is one no more, before anything else of it changes. True if it has bytes left.
async fn remove_old(file: &BlockChild, cluster_size: u64) -> Result<bool, Qcow2Error> {
    let length = || async { file.length().await.map_err(io(Table::Header)) };
    if length().await? == 0 {
        return Ok(false);
    }
    resize(file, Table::Header, 0, Preallocation::Off).await?;
    let rest = length().await?;
    if rest > 0 {
        zero(file, 0, cluster_size.min(rest)).await?;
    }
    file.flush().await.map_err(io(Table::Header))?;
    Ok(rest > 0)
}

/// All that is known before the first write.
struct Plan {
    geometry: Geometry,
    layout: Layout,
    /// The disk's size in whole sectors.
    size: u64,
    preallocation: Preallocation,
    /// The first bytes of the image.
    header: Vec<u8>,
}

impl Plan {
    fn new(options: &CreateOptions) -> Result<Self, Qcow2Error> {
        let geometry = options.geometry()?;
        let size = options.size.ok_or(OptionError::NoSize)?;
        // Silently to whole sectors, as in QEMU. Sizes that this would take past the end are too large as they are.
        let size = size.checked_next_multiple_of(512).unwrap_or(size);
        let raw = options.data_file.as_ref().is_some_and(|file| file.raw);
        let preallocation = match options.preallocation {
            // A raw data file must be the same with and without the tables.
            Preallocation::Off if raw => Preallocation::Metadata,
            mode => mode,
        };
        let layout = Layout::new(&geometry, size, preallocation != Preallocation::Off)?;
        let header = header(options, geometry, &layout, size).serialise()?;
        Ok(Self {
            geometry,
            layout,
            size,
            preallocation,
            header,
        })
    }

    /// How the image file's space is had. With an external data file the space that matters is that one's.
    fn of_the_file(&self) -> Preallocation {
        match self.preallocation {
            Preallocation::Metadata => Preallocation::Off,
            _ if self.geometry.data_file() => Preallocation::Off,
            mode => mode,
        }
    }

    fn of_the_data(&self) -> Preallocation {
        match self.preallocation {
            Preallocation::Metadata => Preallocation::Off,
            mode => mode,
        }
    }

    /// The offset of a cluster of the layout, whose end has been checked.
    fn at(&self, cluster: u64) -> HostOffset {
        HostOffset(cluster << self.geometry.cluster_bits())
    }

    /// The refcount table and its blocks: every cluster of the layout is in use once.
    async fn write_refcounts(&self, file: &BlockChild) -> Result<(), Qcow2Error> {
        let Layout {
            blocks_at, blocks, ..
        } = self.layout;
        let mut writer = Writer::new(file, Table::RefcountTable, self.at(1));
        for block in 0..blocks {
            let entry = ReftableEntry::new(self.at(blocks_at + block));
            writer.push(&entry.0.to_be_bytes()).await?;
        }
        writer.end().await?;

        let per_block = self.geometry.refcounts_per_block();
        let mut writer = Writer::new(file, Table::RefcountBlock, self.at(blocks_at));
        let full = self.refcount_block(per_block)?;
        for _ in 1..blocks {
            writer.push(&full).await?;
        }
        let rest = self.layout.total - (blocks - 1) * per_block;
        writer.push(&self.refcount_block(rest)?).await?;
        writer.end().await
    }

    /// A refcount block whose first `used` clusters are in use once.
    fn refcount_block(&self, used: u64) -> Result<Vec<u8>, Qcow2Error> {
        let mut block = zeroes(Table::RefcountBlock, self.geometry.cluster_size())?;
        for index in 0..used.min(self.geometry.refcounts_per_block()) {
            // 1 fits every width, and the index is inside the block.
            let _ = self.geometry.set_refcount(&mut block, index as usize, 1);
        }
        Ok(block)
    }

    /// The L2 tables with all guest clusters, and the L1 table that leads to them. Without preallocation both are zeroes, as the file is.
    async fn write_mapping(&self, file: &BlockChild) -> Result<(), Qcow2Error> {
        let Layout {
            l1_at,
            l2_at,
            l2_tables,
            guest_clusters,
            ..
        } = self.layout;
        let mut writer = Writer::new(file, Table::L1, self.at(l1_at));
        for table in 0..l2_tables {
            let entry = L1Entry::new(self.at(l2_at + table), true);
            writer.push(&entry.0.to_be_bytes()).await?;
        }
        writer.end().await?;

        let mut writer = Writer::new(file, Table::L2, self.at(l2_at));
        let mut entry = [0; 16];
        let entry = entry
            .get_mut(..self.geometry.l2_entry_size() as usize)
            .unwrap_or_default();
        for cluster in 0..guest_clusters {
            // The entry fits: it has just been made so long.
            let _ = self.mapping(cluster).write(&self.geometry, entry, 0);
            writer.push(entry).await?;
        }
        writer.end().await
    }

    /// The entry of a guest cluster. With subclusters it has its place, but none of them is in use: the backing file shows through.
    fn mapping(&self, cluster: u64) -> L2Entry {
        let place = if self.geometry.data_file() {
            cluster
        } else {
            self.layout.data_at + cluster
        };
        let offset = self.at(place);
        let cluster = if self.geometry.extended_l2() {
            Cluster::of(&self.geometry, Some(offset), true, Subclusters::UNALLOCATED)
        } else {
            Cluster::Normal {
                offset,
                copied: true,
            }
        };
        cluster.encode(&self.geometry)
    }
}

/// The header of the new image.
fn header(options: &CreateOptions, geometry: Geometry, layout: &Layout, size: u64) -> Header {
    let at = |cluster: u64| HostOffset(cluster << geometry.cluster_bits());
    let bit = |on: bool, bit: u64| if on { bit } else { 0 };
    let data_file = options.data_file.as_ref();
    let has_names = options.version == Version::V3 && options.cluster_size >= MIN_CLUSTER_FOR_NAMES;
    Header {
        geometry,
        size,
        l1_entries: layout.l1_entries as u32, // at most 4 Mi
        l1_offset: match layout.l1_entries {
            0 => HostOffset(0),
            _ => at(layout.l1_at),
        },
        reftable_offset: at(1),
        reftable_clusters: layout.reftable as u32, // at most 8 MiB of them
        snapshots: 0,
        snapshots_offset: HostOffset(0),
        incompatible: bit(data_file.is_some(), incompatible::DATA_FILE)
            | bit(
                options.compression_type != CompressionType::Zlib,
                incompatible::COMPRESSION,
            )
            | bit(options.extended_l2, incompatible::EXTENDED_L2),
        compatible: bit(options.lazy_refcounts, compatible::LAZY_REFCOUNTS),
        autoclear: bit(
            data_file.is_some_and(|file| file.raw),
            autoclear::DATA_FILE_RAW,
        ),
        compression: options.compression_type,
        later_fields: Vec::new(),
        extensions: Extensions {
            backing_format: options
                .backing
                .as_ref()
                .map(|backing| Name::new(backing.format.as_bytes())),
            data_file: data_file.map(|file| Name::new(file.file.as_bytes())),
            feature_names: has_names.then(features::name_table),
            ..Extensions::default()
        },
        backing_file: options
            .backing
            .as_ref()
            .map(|backing| Name::new(backing.file.as_bytes())),
    }
}

/// Makes the file `len` bytes long. What cannot change its length, as a device, keeps it, and is an error where it is shorter.
async fn resize(
    file: &BlockChild,
    what: Table,
    len: u64,
    preallocation: Preallocation,
) -> Result<(), Qcow2Error> {
    let to = Truncate {
        len,
        exact: false,
        preallocation,
    };
    match file.truncate(to).await {
        Err(error) if error.cause == Cause::NotSupported => {
            match file.length().await.map_err(io(what))? >= len {
                true => Ok(()),
                false => Err(io(what)(error)),
            }
        }
        result => result.map_err(io(what)),
    }
}

async fn zero(file: &BlockChild, at: u64, len: u64) -> Result<(), Qcow2Error> {
    let zeroed = file.pwrite_zeroes(DiskOffset(at), len, ZeroFlags::default());
    zeroed.await.map_err(io(Table::Header))
}

fn zeroes(what: Table, bytes: u64) -> Result<Vec<u8>, Qcow2Error> {
    let mut memory = Vec::new();
    let len = usize::try_from(bytes).unwrap_or(usize::MAX);
    match memory.try_reserve_exact(len) {
        Ok(()) => {
            memory.resize(len, 0);
            Ok(memory)
        }
        Err(_) => Err(Qcow2Error::OutOfMemory { what, bytes }),
    }
}

/// Writes one table from its start on, in large pieces.
struct Writer<'a> {
    file: &'a BlockChild,
    what: Table,
    at: u64,
    /// What comes at `at`. Shorter than [`PIECE`] between calls.
    pending: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(file: &'a BlockChild, what: Table, at: HostOffset) -> Self {
        Self {
            file,
            what,
            at: at.0,
            pending: Vec::new(),
        }
    }

    async fn push(&mut self, bytes: &[u8]) -> Result<(), Qcow2Error> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE {
            self.write().await?;
        }
        Ok(())
    }

    async fn end(mut self) -> Result<(), Qcow2Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.write().await
    }

    async fn write(&mut self) -> Result<(), Qcow2Error> {
        let (at, flags) = (DiskOffset(self.at), WriteFlags::default());
        let written = self.file.pwrite(at, &self.pending, flags).await;
        written.map_err(io(self.what))?;
        self.at += self.pending.len() as u64; // below the layout's end
        self.pending.clear();
        Ok(())
    }
}
