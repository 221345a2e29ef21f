//! The clusters that the persistent bitmaps use. QEMU's `qcow2_check_bitmaps_refcounts`.

use super::reference_counts::ReferenceCounts;
use super::report::Finding;
use crate::qcow2::format::bitmap_directory::Directory;
use crate::qcow2::format::entry::OFFSET_MASK;
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::TABLE_ENTRY_SIZE;
use crate::qcow2::format::header::Header;
use crate::qcow2::metadata::Entries;

/// Counts the uses of clusters by the bitmaps. Without the autoclear bit they are out of date, and their clusters are leaked.
///
/// Errors: [`Qcow2Error::BitmapEntry`]: what the bitmaps use is not known then, so that nothing may be freed.
pub(crate) async fn count(
    found: &mut ReferenceCounts<'_, '_>,
    header: &Header,
) -> Result<(), Qcow2Error> {
    // The extension is there only with the autoclear bit.
    let Some(place) = header.extensions.bitmaps else {
        return Ok(());
    };
    let (what, at) = (Table::BitmapDirectory, place.directory_offset.0);
    found.area(what, at, place.directory_size, 1)?;
    let source = found.source;
    let mut directory = Directory::new(source, place, header);
    while let Some(entry) = directory.next().await? {
        table(found, entry.table_at, entry.table_entries).await?;
    }
    Ok(())
}

async fn table(
    found: &mut ReferenceCounts<'_, '_>,
    at: u64,
    entries: u64,
) -> Result<(), Qcow2Error> {
    let what = Table::BitmapTable;
    found.area(what, at, entries * TABLE_ENTRY_SIZE, 1)?;
    let cluster_size = found.geometry.cluster_size();
    let source = found.source;
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
            } else if !found.geometry.is_aligned(offset) {
                Finding::NotAligned {
                    what,
                    table: at,
                    index,
                    offset,
                }
            } else {
                if offset != 0 {
                    found.count(what, offset, cluster_size, 1)?;
                }
                continue;
            };
            found.report.corrupt(1, wrong);
        }
    }
    Ok(())
}
