//! The snapshots of an open image, in memory as in their table, and who looks at them.

use super::Image;
use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use crate::qcow2::format::geometry::TABLE_ENTRY_SIZE;
use crate::qcow2::format::position::is_inside;
use crate::qcow2::format::snapshot_table::{Snapshot, SnapshotTable};
use crate::qcow2::guest::{SNAPSHOTS, SnapshotL1};
use crate::qcow2::metadata::{Change, Walk, read_entries};
use block_core::{Cause, SnapshotInfo};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::{Rc, Weak};

/// The snapshots of an image.
#[derive(Default)]
pub(crate) struct Snapshots {
    /// As the table on disk has them.
    pub(crate) table: RefCell<SnapshotTable>,
    /// Views that were opened, and what of. Those that are gone are swept out now and then.
    views: RefCell<Vec<(Snapshot, Weak<SnapshotL1>)>>,
}

impl Snapshots {
    pub(crate) fn new(table: SnapshotTable) -> Self {
        Self {
            table: RefCell::new(table),
            views: RefCell::default(),
        }
    }

    /// The snapshot with this id, else the first with this name.
    pub(crate) fn find(&self, id_or_name: &str) -> Result<(usize, Snapshot)> {
        let table = self.table.borrow();
        let found = table.find(id_or_name).and_then(|index| {
            let snapshot = table.snapshots.get(index)?;
            Some((index, snapshot.clone()))
        });
        found.ok_or_else(|| Cause::NoSuchSnapshot {
            name: id_or_name.into(),
        })
    }

    /// A view of the snapshot is open as long as `tree` lives.
    pub(crate) fn add_view(&self, snapshot: Snapshot, tree: &Rc<SnapshotL1>) {
        let mut views = self.views.borrow_mut();
        views.retain(|(_, tree)| tree.strong_count() > 0);
        views.push((snapshot, Rc::downgrade(tree)));
    }

    /// Refuses if a view of the snapshot is open.
    pub(crate) fn check_unused(&self, snapshot: &Snapshot) -> Result<()> {
        let views = self.views.borrow();
        let used = views
            .iter()
            .any(|(of, tree)| of == snapshot && tree.strong_count() > 0);
        match used {
            true => Err(Qcow2Error::SnapshotInUse {
                id: snapshot.id.to_string(),
                name: snapshot.name.to_string(),
            }
            .into()),
            false => Ok(()),
        }
    }
}

impl Image {
    /// The snapshots in the order of their table.
    pub(crate) async fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        self.guest.check_open()?;
        let _lock = self.guest.locks().shared(SNAPSHOTS).await;
        let table = self.snapshots.table.borrow();
        Ok(table.snapshots.iter().map(Snapshot::info).collect())
    }

    /// Notes where the snapshot table and the snapshots' L1 tables are.
    pub(crate) fn note_snapshot_tables(&self) -> Result<(), Qcow2Error> {
        let (at, _) = self.meta().snapshots_at();
        let bytes = self.snapshots.table.borrow().bytes;
        self.meta()
            .add_table(Table::SnapshotTable, self.meta().clusters_at(at, bytes))?;
        self.cover_snapshot_tables();
        Ok(())
    }

    /// Notes where the snapshots' L1 tables are. One that makes no sense, or lies on another table, is refused when it is used, and keeps
    /// nothing else from being used.
    pub(crate) fn cover_snapshot_tables(&self) {
        let (table, tables) = (
            self.snapshots.table.borrow(),
            self.meta().refcounts().tables(),
        );
        tables.uncover(Table::SnapshotL1);
        for snapshot in &table.snapshots {
            if snapshot.check_l1(self.meta().geometry()).is_ok() {
                tables.cover(Table::SnapshotL1, self.l1_clusters(snapshot));
            }
        }
    }

    /// The L1 table of a snapshot.
    ///
    /// Errors: those of [`Snapshot::check_l1`]; [`Qcow2Error::Outside`] where a check says so too; what reading it gave.
    pub(crate) async fn read_snapshot_l1(&self, snapshot: &Snapshot) -> Result<Vec<u64>> {
        snapshot.check_l1(self.meta().geometry())?;
        let (at, entries) = (snapshot.l1_offset, snapshot.l1_entries.into());
        let (bytes, end) = (
            entries * TABLE_ENTRY_SIZE,
            self.meta().file().length().await?,
        );
        if !is_inside(at.0, bytes, end, self.meta().geometry().cluster_size()) {
            return Err(Qcow2Error::Outside {
                what: Table::SnapshotL1,
                offset: at.0,
                bytes,
                end,
            }
            .into());
        }
        Ok(read_entries(self.meta().file(), Table::SnapshotL1, at, entries).await?)
    }

    /// A walk over all that a snapshot refers to, which was checked.
    pub(crate) async fn walk_over_snapshot(
        &self,
        snapshot: &Snapshot,
        change: Change,
    ) -> Result<Walk> {
        let mut walk = Walk::new(self.read_snapshot_l1(snapshot).await?);
        self.meta()
            .check_references(&mut walk, self.l1_clusters(snapshot), change)
            .await?;
        Ok(walk)
    }

    /// The clusters of the snapshot's L1 table, whose place was checked.
    pub(crate) fn l1_clusters(&self, snapshot: &Snapshot) -> Range<u64> {
        let bytes = u64::from(snapshot.l1_entries) * TABLE_ENTRY_SIZE;
        self.meta().clusters_at(snapshot.l1_offset.0, bytes)
    }

    /// Refuses, by name, where snapshots cannot be changed.
    pub(crate) fn check_snapshots(&self) -> Result<()> {
        self.guest.check_writable()?;
        match self.meta().geometry().data_file() {
            true => Err(Qcow2Error::SnapshotsWithDataFile.into()),
            false => Ok(()),
        }
    }
}

impl Snapshot {
    pub(crate) fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            id: self.id.to_string(),
            name: self.name.to_string(),
            vmstate_size: self.vmstate_size,
            disk_size: self.disk_size,
            date_sec: self.date_sec,
            date_nsec: self.date_nsec,
            vm_clock_nsec: self.vm_clock_nsec,
            icount: self.icount,
        }
    }
}
