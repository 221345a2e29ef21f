//! The clusters that the persistent bitmaps use. QEMU's `qcow2_check_bitmaps_refcounts`.

use super::report::Finding;
use super::source::Entries;
use super::walk::Walk;
use crate::qcow2::bitmaps::directory::Directory;
use crate::qcow2::entry::OFFSET_MASK;
use crate::qcow2::error::{Qcow2Error, Table};
use crate::qcow2::geometry::TABLE_ENTRY_SIZE;
use crate::qcow2::header::Header;

/// Counts the uses of clusters by the bitmaps. Without the autoclear bit they are out of date, and their clusters are leaked.
///
/// Errors: [`Qcow2Error::BitmapEntry`]: what the bitmaps use is not known then, so that nothing may be freed.
pub(super) async fn count(walk: &mut Walk<'_, '_>, header: &Header) -> Result<(), Qcow2Error> {
    // The extension is there only with the autoclear bit.
    let Some(place) = header.extensions.bitmaps else {
        return Ok(());
    };
    let (what, at) = (Table::BitmapDirectory, place.directory_offset.0);
    walk.area(what, at, place.directory_size, 1)?;
    let source = walk.source;
    let mut directory = Directory::new(source, place, header);
    while let Some(entry) = directory.next().await? {
        table(walk, entry.table_at, entry.table_entries).await?;
    }
    Ok(())
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
