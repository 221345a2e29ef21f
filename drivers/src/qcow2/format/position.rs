//! Where a table may be: the rules that hold for every table that the image names.

use super::error::{Qcow2Error, Table};
use super::geometry::Geometry;
use super::offset::HostOffset;

/// A table of `bytes` bytes may start at `offset` (QEMU's `qcow2_validate_table`). Its size was checked before.
pub(crate) fn check_table(
    geometry: &Geometry,
    what: Table,
    offset: u64,
    bytes: u64,
) -> Result<(), Qcow2Error> {
    if !geometry.is_aligned(offset) {
        return Err(Qcow2Error::NotAligned { what, offset });
    }
    if HostOffset(offset).checked_add(bytes).is_none() {
        return Err(Qcow2Error::Outside {
            what,
            offset,
            bytes,
            end: i64::MAX as u64,
        });
    }
    Ok(())
}

/// Whether `bytes` bytes at `offset` are in a file that ends at `end`. The last cluster of a file may be there in part only, so that they may
/// reach past its end by less than a cluster (`qcow2_inc_refcounts_imrt`).
pub(crate) fn is_inside(offset: u64, bytes: u64, end: u64, cluster_size: u64) -> bool {
    bytes == 0 || offset.saturating_add(bytes).saturating_sub(end) < cluster_size
}
