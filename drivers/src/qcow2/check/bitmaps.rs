//! The persistent bitmaps: their directory, their tables, and the clusters that these lead to. QEMU's `qcow2_check_bitmaps_refcounts`.
//!
//! ```text
//!   an entry of the directory, at a multiple of 8 bytes:
//!     0  bitmap_table_offset u64                 16  type u8, granularity_bits u8, name_size u16
//!     8  bitmap_table_size u32, flags u32        20  extra_data_size u32
//!                                                24  extra data, name
//! ```

use super::report::Finding;
use super::source::{Entries, buffer};
use super::walk::Walk;
use crate::qcow2::entry::OFFSET_MASK;
use crate::qcow2::error::{Qcow2Error, Table};
use crate::qcow2::geometry::TABLE_ENTRY_SIZE;
use crate::qcow2::header::features::autoclear;
use crate::qcow2::header::{Header, be32, be64};

/// Bytes of an entry without extra data and name.
const ENTRY_SIZE: usize = 24;
/// Longest bitmap table in entries (`BME_MAX_TABLE_SIZE`).
const MAX_TABLE: u32 = 0x800_0000;
/// Largest bitmap in bytes (`BME_MAX_PHYS_SIZE`).
const MAX_BYTES: u64 = 512 << 20;
/// Longest name in bytes (`BME_MAX_NAME_SIZE`).
const MAX_NAME: u32 = 1023;
/// The bitmap was being changed when its image was closed: its content means nothing.
const IN_USE: u32 = 1;
/// Flags that are known: in use, automatic.
const FLAGS: u32 = 3;
/// The only type: what has been written since some point in time.
const DIRTY_TRACKING: u8 = 1;

/// Counts the uses of clusters by the bitmaps. Without the autoclear bit they are out of date, and their clusters are leaked.
///
/// Errors: [`Qcow2Error::BitmapEntry`]: what the bitmaps use is not known then, so that nothing may be freed.
pub(super) async fn count(walk: &mut Walk<'_, '_>, header: &Header) -> Result<(), Qcow2Error> {
    let valid = header.autoclear & autoclear::BITMAPS != 0;
    let Some(bitmaps) = header.extensions.bitmaps.filter(|_| valid) else {
        return Ok(());
    };
    let (what, at) = (Table::BitmapDirectory, bitmaps.directory_offset.0);
    walk.area(what, at, bitmaps.directory_size, 1)?;
    let mut directory = buffer(what, bitmaps.directory_size)?;
    walk.source.read(what, at, &mut directory).await?;
    for (offset, entries) in tables(&directory, bitmaps.bitmaps, walk, header)? {
        table(walk, offset, entries).await?;
    }
    Ok(())
}

/// Offset and entries of each bitmap's table (`bitmap_list_load`).
fn tables(
    directory: &[u8],
    count: u32,
    walk: &Walk<'_, '_>,
    header: &Header,
) -> Result<Vec<(u64, u64)>, Qcow2Error> {
    let mut tables = Vec::new();
    let mut rest = directory;
    for index in 0..count {
        let wrong = |reason, value| Qcow2Error::BitmapEntry {
            index,
            reason,
            value,
        };
        let cut = || wrong("the directory ends inside it", directory.len() as u64);
        let (fields, names) = rest.split_at_checked(ENTRY_SIZE).ok_or_else(cut)?;
        let extra = be32(fields, 20);
        let name = be32(fields, 16) & 0xffff;
        let size = (ENTRY_SIZE as u64 + u64::from(extra) + u64::from(name)).next_multiple_of(8);
        let after = usize::try_from(size - ENTRY_SIZE as u64).ok();
        rest = after.and_then(|n| names.get(n..)).ok_or_else(cut)?;
        if extra != 0 {
            return Err(wrong("it has extra data", extra.into()));
        }
        let (offset, entries) = (be64(fields, 0), be32(fields, 8));
        let flags = be32(fields, 12);
        let (kind, granularity) = (fields.get(16).copied(), fields.get(17).copied());
        let granularity = u32::from(granularity.unwrap_or(0));
        let bytes = u64::from(entries) * walk.geometry.cluster_size();
        if entries == 0 || entries > MAX_TABLE || bytes > MAX_BYTES {
            return Err(wrong("the size of its table", entries.into()));
        }
        if offset == 0 || !walk.geometry.is_aligned(offset) {
            return Err(wrong("the offset of its table", offset));
        }
        if !(9..=31).contains(&granularity) {
            return Err(wrong("its granularity", granularity.into()));
        }
        if flags & !FLAGS != 0 {
            return Err(wrong("its flags", flags.into()));
        }
        if name > MAX_NAME {
            return Err(wrong("the length of its name", name.into()));
        }
        if kind != Some(DIRTY_TRACKING) {
            return Err(wrong("its type", kind.unwrap_or(0).into()));
        }
        // 512 MiB of bits of 2 GiB each fit.
        if flags & IN_USE == 0 && header.disk_size() > (bytes * 8) << granularity {
            return Err(wrong("too small for the disk", bytes));
        }
        tables.push((offset, entries.into()));
    }
    match rest {
        [] => Ok(tables),
        rest => Err(Qcow2Error::BitmapEntry {
            index: count,
            reason: "the directory is longer than its entries",
            value: rest.len() as u64,
        }),
    }
}

async fn table(walk: &mut Walk<'_, '_>, at: u64, entries: u64) -> Result<(), Qcow2Error> {
    let what = Table::BitmapTable;
    walk.area(what, at, entries * TABLE_ENTRY_SIZE, 1)?;
    let cluster_size = walk.geometry.cluster_size();
    let source = walk.source;
    let mut pieces = Entries::new(source, what, at, entries);
    while let Some((first, piece)) = pieces.next().await? {
        for (index, raw) in (first..).zip(piece) {
            let offset = raw & OFFSET_MASK;
            // Bit 0 says "all ones" where there is no cluster, and is reserved where there is one.
            let reserved = raw & !(OFFSET_MASK | 1) != 0 || offset != 0 && raw & 1 != 0;
            let what = Table::Data;
            let wrong = if reserved {
                Finding::ReservedBits {
                    what,
                    table: at,
                    index,
                    raw,
                }
            } else if !walk.geometry.is_aligned(offset) {
                Finding::NotAligned {
                    what,
                    table: at,
                    index,
                    offset,
                }
            } else {
                if offset != 0 {
                    walk.count(what, offset, cluster_size, 1)?;
                }
                continue;
            };
            walk.report.corrupt(1, wrong);
        }
    }
    Ok(())
}
