//! The snapshot table as a check reads it, and what is wrong in it. QEMU's `qcow2_check_read_snapshot_table`.

use super::report::{CheckReport, Finding};
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::{MAX_SNAPSHOTS, SNAPSHOT_ENTRY_SIZE};
use crate::qcow2::format::header::{Header, Purpose};
use crate::qcow2::format::position::check_table;
use crate::qcow2::format::snapshot_table::{Snapshot, SnapshotTable};
use crate::qcow2::metadata::Source;

/// The extra data that an entry of version 3 must have: the size of the machine state and of the disk.
const NEEDED_EXTRA: u32 = 16;

/// The snapshots of the image that is checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshots {
    pub(crate) list: Vec<Snapshot>,
    /// Bytes of their table on disk.
    pub(crate) bytes: u64,
    /// How many entries are wrong in a way that writing the table again puts right.
    pub(crate) wrong: u64,
    /// How many are too many. They are not in the list. Only where they are to be dropped.
    pub(crate) overhang: u32,
}

impl Snapshots {
    /// Reads the table that `header` names. `repair`: what is too much in it is left out, and to be dropped on disk.
    ///
    /// Errors: [`Qcow2Error::NotAligned`], [`Qcow2Error::TableTooLarge`], [`Qcow2Error::SnapshotEntry`]. Nothing
    /// more can be said of the image then: without the table most of its clusters would seem to be leaked.
    pub(crate) async fn read(
        source: &Source<'_>,
        header: &Header,
        repair: bool,
        report: &mut CheckReport,
    ) -> Result<Self, Qcow2Error> {
        let what = Table::SnapshotTable;
        if header.snapshots > MAX_SNAPSHOTS && !repair {
            return Err(Qcow2Error::TableTooLarge {
                what,
                entries: header.snapshots.into(),
                max: MAX_SNAPSHOTS.into(),
            });
        }
        let count = header.snapshots.min(MAX_SNAPSHOTS);
        let fixed_bytes = u64::from(count) * SNAPSHOT_ENTRY_SIZE;
        check_table(
            &header.geometry,
            what,
            header.snapshots_offset.0,
            fixed_bytes,
        )?;
        let purpose = if repair { Purpose::Check } else { Purpose::Use };
        let readable = Header {
            snapshots: count,
            ..header.clone()
        };
        let table = SnapshotTable::read(source, &readable, purpose).await?;

        let overhang = (header.snapshots - count).saturating_add(table.left_out);
        if overhang != 0 {
            report.find(Finding::SnapshotsOverhang { dropped: overhang });
        }
        let mut wrong = 0;
        for (index, snapshot) in (0..).zip(&table.snapshots) {
            let reason = if table.extra_dropped.binary_search(&index).is_ok() {
                "it had more than 1024 bytes of extra data"
            } else if header.geometry.version() >= 3 && snapshot.extra_len < NEEDED_EXTRA {
                "its size of machine state and disk is missing"
            } else {
                continue;
            };
            wrong += 1;
            report.find(Finding::Snapshot {
                index,
                reason,
                value: snapshot.extra_len.into(),
            });
        }
        Ok(Self {
            list: table.snapshots,
            bytes: table.bytes,
            wrong,
            overhang,
        })
    }
}
