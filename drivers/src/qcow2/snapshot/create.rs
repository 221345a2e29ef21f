//! Making a snapshot: QEMU's `qcow2_snapshot_create`.
//!
//! 1. Everything that can be refused is refused: names, limits, tables that make no sense, refcounts that do not fit.
//! 2. Each table and cluster of the guest's disk gets a reference more, and COPIED is cleared in the active tables.
//! 3. The snapshot's L1 table is written, and a new snapshot table; the header names it, after all of this.
//! 4. What is no longer needed is dropped: the old snapshot table, a replaced snapshot, a state that QEMU left in the active L1 table.
//!
//! The saved state has its references already, and they become the snapshot's.

use super::Image;
use crate::qcow2::format::entry::L1Entry;
use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use crate::qcow2::format::geometry::TABLE_ENTRY_SIZE;
use crate::qcow2::format::name::Name;
use crate::qcow2::format::offset::HostOffset;
use crate::qcow2::format::snapshot_table::{KNOWN_EXTRA, Snapshot, SnapshotTable, serialise};
use crate::qcow2::guest::{AllClusters, StateL1};
use crate::qcow2::metadata::{Change, Freeing, Walk};
use block_core::{Cause, NewSnapshot, SnapshotInfo};
use std::ops::Range;
use std::rc::Rc;

impl Image {
    /// Records the disk as it is, and the state that was finished and no snapshot has recorded. See
    /// [`BlockDriver::snapshot_create`](block_core::BlockDriver::snapshot_create).
    ///
    /// Errors, before anything is written: [`Cause::SnapshotExists`]; [`Qcow2Error::SnapshotsWithDataFile`],
    /// [`Qcow2Error::StateUnfinished`], [`Qcow2Error::RefcountOverflow`], [`Qcow2Error::TableTooLarge`], [`Qcow2Error::SnapshotInUse`]
    /// where a view of the replaced one is open, and what is wrong in the tables. After any error the snapshots are what they were, and no
    /// space is lost unless it is [`Cause::Leaked`].
    pub(crate) async fn create_snapshot(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        new.check()?;
        let all = &self.guest.locks().all().await;
        self.check_snapshots()?;
        let mut plan = self.plan_snapshot(all, new).await?;
        let info = plan.snapshot.info();
        match self.record_snapshot(all, &mut plan).await {
            Ok(()) => {
                self.drop_replaced(all, plan);
                // The snapshot is there, whatever becomes of this.
                let _ = self.tidy(all).await;
                Ok(info)
            }
            Err(cause) => Err(self.undo(all, plan, cause).await),
        }
    }

    /// All that may be refused, with nothing changed.
    async fn plan_snapshot(&self, all: &AllClusters<'_>, new: NewSnapshot) -> Result<Plan> {
        let state = self.vmstate.finished()?;
        let disk = self.meta().geometry().vmstate_l1_index(self.meta().size());
        let (snapshots, replaced) = self.make_place(&new)?;
        let state_len = state.as_ref().map_or(0, |(state, _)| state.len());
        let entries = (disk + state_len).max(1);
        let max = self.meta().geometry().max_l1_entries();
        if entries > max {
            let what = Table::SnapshotL1;
            return Err(Qcow2Error::TableTooLarge { what, entries, max }.into());
        }
        let others = SnapshotTable {
            snapshots,
            ..SnapshotTable::default()
        };
        let id = others.new_id().ok_or(Qcow2Error::NoSnapshotId)?;
        let plan = Plan {
            snapshot: Snapshot {
                l1_offset: HostOffset(0),   // not known yet
                l1_entries: entries as u32, // at most 4 Mi
                id,
                name: Name::new(new.name),
                date_sec: new.date_sec,
                date_nsec: new.date_nsec,
                vm_clock_nsec: new.vm_clock_nsec,
                vmstate_size: state.as_ref().map_or(0, |(_, len)| *len),
                disk_size: self.meta().size(),
                icount: new.icount.filter(|count| *count != u64::MAX),
                extra_len: KNOWN_EXTRA as u32,
                unknown_extra: Vec::new(),
            },
            others: others.snapshots,
            disk: Walk::new(self.meta().active().copy(0..disk)),
            state: state.map(|(state, _)| state),
            replaced: None,
            l1: 0..0,
        };
        serialise(&plan.all())?;
        self.check_plan(all, plan, replaced).await
    }

    /// Reads the tables.
    async fn check_plan(
        &self,
        all: &AllClusters<'_>,
        mut plan: Plan,
        replaced: Option<Snapshot>,
    ) -> Result<Plan> {
        self.finish_earlier(all).await?;
        let l1 = self.meta().clusters_at(
            self.meta().active().at(),
            self.meta().active().len() * TABLE_ENTRY_SIZE,
        );
        self.meta()
            .check_references(&mut plan.disk, l1, Change::Raise)
            .await?;
        if let Some(snapshot) = replaced {
            let walk = self.walk_over_snapshot(&snapshot, Change::Lower).await?;
            plan.replaced = Some((walk, self.l1_clusters(&snapshot)));
        }
        Ok(plan)
    }

    /// The snapshots that stay, and the first of the new one's name.
    fn make_place(&self, new: &NewSnapshot) -> Result<(Vec<Snapshot>, Option<Snapshot>)> {
        let table = self.snapshots.table.borrow();
        let mut others = table.snapshots.clone();
        let Some(index) = table.find_name(&new.name) else {
            return Ok((others, None));
        };
        if !new.replace {
            let name = new.name.clone();
            return Err(Cause::SnapshotExists { name });
        }
        let replaced = others.remove(index);
        self.snapshots.check_unused(&replaced)?;
        Ok((others, Some(replaced)))
    }

    /// Steps 2 and 3. On an error the disk has references too many, as far as the plan's walk is.
    async fn record_snapshot(&self, all: &AllClusters<'_>, plan: &mut Plan) -> Result<()> {
        self.meta().raise_references(&mut plan.disk).await?;
        self.share_active_l1(plan.disk.entries().len());
        let mut again = Walk::new(plan.disk.entries().to_vec());
        self.meta().clear_copied(&mut again).await?;
        plan.l1 = self
            .meta()
            .write_table(Table::SnapshotL1, &plan.l1_bytes())
            .await?;
        let at = plan.l1.start << self.meta().geometry().cluster_bits();
        plan.snapshot.l1_offset = HostOffset(at);
        self.replace_snapshots(all, plan.all()).await
    }

    /// The L2 tables of the first L1 entries are not to be written in place.
    fn share_active_l1(&self, entries: usize) {
        for index in 0..entries as u64 {
            let entry = L1Entry(self.meta().active().get(index));
            if entry.copied() {
                self.meta().active().set(index, entry.with_copied(false).0);
            }
        }
    }

    /// After a success: what the image no longer says loses its references.
    fn drop_replaced(&self, all: &AllClusters<'_>, plan: Plan) {
        match plan.state {
            Some(_) => drop(self.vmstate.take()),
            None => self.drop_state(all.exclusive()),
        }
        self.vmstate.show(None);
        if let Some((walk, l1)) = plan.replaced {
            self.meta().free(l1, Freeing::ForHost);
            self.cover_snapshot_tables();
            self.abandon(walk);
            self.recompute_copied();
        }
        self.drop_active_vmstate();
    }

    /// What QEMU's savevm or loadvm left in the active L1 table past the disk is dropped.
    fn drop_active_vmstate(&self) {
        let disk = self.meta().geometry().vmstate_l1_index(self.meta().size());
        let entries = self.meta().active().copy(disk..self.meta().active().len());
        for (index, entry) in (disk..).zip(&entries) {
            if *entry != 0 {
                self.meta().active().set(index, 0);
            }
        }
        if entries.iter().any(|entry| *entry != 0) {
            self.abandon(Walk::new(entries));
        }
    }

    /// After a failure: the disk gets its references back, and its flags. The error to return.
    async fn undo(&self, all: &AllClusters<'_>, plan: Plan, cause: Cause) -> Cause {
        self.meta().free(plan.l1, Freeing::Unnamed);
        self.cover_snapshot_tables();
        // From here on its tables cannot change, so that what is raised can be lowered at any later time.
        self.share_active_l1(plan.disk.entries().len());
        self.abandon_unnamed(plan.disk.done_so_far());
        self.recompute_copied();
        match self.tidy(all).await {
            Ok(()) => cause,
            Err(freeing) => Cause::Leaked {
                cause: Box::new(cause),
                freeing: Box::new(freeing),
            },
        }
    }
}

/// A snapshot that nothing speaks against.
struct Plan {
    snapshot: Snapshot,
    /// Those that stay.
    others: Vec<Snapshot>,
    /// The active L1 entries of the guest's disk. Stands where the references have been raised to.
    disk: Walk,
    /// The state to be recorded.
    state: Option<Rc<StateL1>>,
    /// What the replaced snapshot leads to, and the clusters of its L1 table.
    replaced: Option<(Walk, Range<u64>)>,
    /// The clusters of the snapshot's L1 table, once it is written.
    l1: Range<u64>,
}

impl Plan {
    /// The snapshots as they are to be.
    fn all(&self) -> Vec<Snapshot> {
        let mut all = self.others.clone();
        all.push(self.snapshot.clone());
        all
    }

    /// The snapshot's L1 table: the disk's entries, and from the first one after them on the state's. Its flags are not used.
    fn l1_bytes(&self) -> Vec<u8> {
        let disk = self.disk.entries().iter().copied();
        let state = self
            .state
            .as_ref()
            .map(|state| state.entries.borrow().clone());
        let entries = disk.chain(state.into_iter().flatten());
        let shared = entries.map(|entry| L1Entry(entry).with_copied(false).0);
        let mut bytes: Vec<u8> = shared.flat_map(u64::to_be_bytes).collect();
        bytes.resize(
            self.snapshot.l1_entries as usize * TABLE_ENTRY_SIZE as usize,
            0,
        );
        bytes
    }
}
