//! Features that are true only while every writer keeps them so (autoclear bits), persistent bitmaps above all. This driver keeps none of
//! them up to date but the raw external data file, and drops the others before it writes.
//!
//! ```text
//!   header extension --> directory: for each bitmap  | table at u64 | entries u32 | flags u32 | type, granularity | name, extra lengths | ...
//!                                                        |
//!                                                        +--> table: cluster of the bitmap, or 0 (bit 0: all ones), u64 each
//! ```

use super::Result;
use super::error::{Qcow2Error, Table};
use super::geometry::TABLE_ENTRY_SIZE;
use super::header::extensions::BitmapsExtension;
use super::header::features::autoclear;
use super::header::{be32, be64};
use super::image::Image;
use super::offset::HostOffset;
use super::open::read_entries;
use block_core::Cause;
use std::ops::Range;

/// Where the autoclear features are in the header.
const AUTOCLEAR_AT: u64 = 88;
/// Bytes of a directory entry before its extra data and name.
const ENTRY_SIZE: usize = 24;
/// Largest bitmap in bytes (QEMU's `BME_MAX_PHYS_SIZE`).
const MAX_BITMAP: u64 = 512 << 20;
/// The cluster in an entry of a bitmap's table.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

impl Image {
    /// Clears the bits of what is not kept up to date, and frees the clusters of the bitmaps.
    ///
    /// The bit goes first: from then on nothing refers to these clusters, and a crash leaves them as leaks. So they stay, too, where the
    /// directory or the refcounts contradict it.
    pub(super) async fn drop_stale_features(&mut self) -> Result<()> {
        let kept = self.header.autoclear & autoclear::DATA_FILE_RAW;
        if self.header.autoclear == kept {
            return Ok(());
        }
        let clusters = match self.header.extensions.bitmaps.take() {
            Some(bitmaps) => match self.bitmap_clusters(&bitmaps).await {
                Err(Cause::Corrupt(_)) => Vec::new(),
                found => found?,
            },
            None => Vec::new(),
        };
        self.file.write(AUTOCLEAR_AT, &kept.to_be_bytes()).await?;
        self.file.flush().await?;
        self.header.autoclear = kept;
        clusters.into_iter().for_each(|range| self.free(range));
        match self.write_everything().await {
            Err(Cause::Corrupt(_)) => Ok(()), // not counted: given up; what is left to be written goes with the next commit
            written => written,
        }
    }

    /// All host clusters of the bitmaps, none of them twice.
    async fn bitmap_clusters(&self, bitmaps: &BitmapsExtension) -> Result<Vec<Range<u64>>> {
        let length = self.file.length().await?;
        let geometry = &self.geometry;
        let mut found = Vec::new();
        let mut add = |what, at: u64, bytes: u64| -> Result<()> {
            let end = at.checked_add(bytes).filter(|end| *end <= length);
            let end = end.ok_or(Qcow2Error::Outside {
                what,
                offset: at,
                bytes,
                end: length,
            })?;
            if !geometry.is_aligned(at) || at == 0 {
                return Err(Qcow2Error::EntryNotAligned {
                    what,
                    at: 0,
                    offset: at,
                }
                .into());
            }
            let clusters = geometry.cluster_of(HostOffset(at))..geometry.clusters_for(end);
            let tables = &self.refcounts.tables;
            tables.check(what, clusters.clone(), geometry.cluster_bits())?;
            found.push(clusters);
            Ok(())
        };
        let (at, bytes) = (bitmaps.directory_offset.0, bitmaps.directory_size);
        add(Table::BitmapDirectory, at, bytes)?;
        let directory = self.read_directory(at, bytes).await?;
        let mut rest = directory.as_slice();
        for index in 0..bitmaps.bitmaps {
            let (table_at, entries) = (be64(rest, 0), u64::from(be32(rest, 8)));
            let names = u64::from(be32(rest, 16) & 0xffff) + u64::from(be32(rest, 20));
            let size = (ENTRY_SIZE as u64 + names).next_multiple_of(8);
            rest = usize::try_from(size)
                .ok()
                .and_then(|size| rest.get(size..))
                .ok_or(Qcow2Error::Outside {
                    what: Table::BitmapDirectory,
                    offset: at + bytes - rest.len() as u64,
                    bytes: size,
                    end: at + bytes,
                })?;
            if entries == 0 {
                continue;
            }
            if entries * geometry.cluster_size() > MAX_BITMAP {
                let error = Qcow2Error::BitmapEntry {
                    index,
                    reason: "the size of its table",
                    value: entries,
                };
                return Err(Cause::Corrupt(error.to_string().into()));
            }
            add(Table::BitmapTable, table_at, entries * TABLE_ENTRY_SIZE)?;
            let table = read_entries(
                &self.file,
                Table::BitmapTable,
                HostOffset(table_at),
                entries,
            );
            let table = table.await.map_err(Cause::from)?;
            for cluster in table.iter().map(|entry| entry & OFFSET_MASK) {
                if cluster != 0 {
                    add(Table::BitmapTable, cluster, geometry.cluster_size())?;
                }
            }
        }
        found.sort_by_key(|range| range.start);
        let overlap = found.windows(2).find(|pair| pair[0].end > pair[1].start);
        match overlap {
            Some(pair) => Err(Qcow2Error::Overlap {
                what: Table::BitmapTable,
                other: Table::BitmapTable,
                offset: pair[1].start << geometry.cluster_bits(),
            }
            .into()),
            None => Ok(found),
        }
    }

    async fn read_directory(&self, at: u64, bytes: u64) -> Result<Vec<u8>> {
        let mut directory = Vec::new();
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        let reserved = directory.try_reserve_exact(len);
        reserved.map_err(|_| Cause::OutOfMemory { bytes })?;
        directory.resize(len, 0);
        let read = self
            .file
            .read_table(Table::BitmapDirectory, at, &mut directory);
        read.await?;
        Ok(directory)
    }
}
