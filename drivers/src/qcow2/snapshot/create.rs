//! Making a snapshot: QEMU's `qcow2_snapshot_create`.
//!
//! 1. Everything that can be refused is refused: names, limits, tables that make no sense, refcounts that do not fit.
//! 2. Each table and cluster of the guest's disk gets a reference more, and COPIED is cleared in the active tables.
//! 3. The snapshot's L1 table is written, and a new snapshot table; the header names it, behind all of this.
//! 4. What is no longer needed is dropped: the old snapshot table, a replaced snapshot, a state that QEMU left in the active L1 table.
//!
//! The saved state has its references already, and they become the snapshot's.

use super::references::Change;
use super::table::{KNOWN_EXTRA, Snapshot, SnapshotTable, serialise};
use crate::qcow2::Result;
use crate::qcow2::entry::L1Entry;
use crate::qcow2::error::{Qcow2Error, Table};
use crate::qcow2::free::Freeing;
use crate::qcow2::geometry::TABLE_ENTRY_SIZE;
use crate::qcow2::image::Image;
use crate::qcow2::locks::EVERYTHING;
use crate::qcow2::name::Name;
use crate::qcow2::offset::HostOffset;
use crate::qcow2::tree::StateTree;
use crate::qcow2::walk::Walk;
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
    pub(in crate::qcow2) async fn create_snapshot(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        new.check()?;
        let _lock = self.locks.exclusive(EVERYTHING).await;
        self.check_snapshots()?;
        let mut plan = self.plan_snapshot(new).await?;
        let info = plan.snapshot.info();
        match self.record_snapshot(&mut plan).await {
            Ok(()) => {
                self.leave_old_behind(plan);
                // The snapshot is there, whatever becomes of this.
                let _ = self.tidy().await;
                Ok(info)
            }
            Err(cause) => Err(self.give_back(plan, cause).await),
        }
    }

    /// All that may be refused, with nothing changed.
    async fn plan_snapshot(&self, new: NewSnapshot) -> Result<Plan> {
        let state = self.vmstate.finished()?;
        let disk = self.geometry.vmstate_l1_index(self.size.get());
        let (snapshots, replaced) = self.make_place(&new)?;
        let state_len = state.as_ref().map_or(0, |(state, _)| state.len());
        let entries = (disk + state_len).max(1);
        let max = self.geometry.max_l1_entries();
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
                disk_size: self.size.get(),
                icount: new.icount.filter(|count| *count != u64::MAX),
                extra_len: KNOWN_EXTRA as u32,
                unknown_extra: Vec::new(),
            },
            others: others.snapshots,
            disk: Walk::new(self.active.copy(0..disk)),
            state: state.map(|(state, _)| state),
            replaced: None,
            l1: 0..0,
        };
        serialise(&plan.all())?;
        self.check_plan(plan, replaced).await
    }

    /// Reads the tables.
    async fn check_plan(&self, mut plan: Plan, replaced: Option<Snapshot>) -> Result<Plan> {
        self.finish_earlier().await?;
        let l1 = self.clusters_at(self.active.at(), self.active.len() * TABLE_ENTRY_SIZE);
        self.check_references(&mut plan.disk, l1, Change::Raise)
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
    async fn record_snapshot(&self, plan: &mut Plan) -> Result<()> {
        self.raise_references(&mut plan.disk).await?;
        self.share_active_l1(plan.disk.entries().len());
        let mut again = Walk::new(plan.disk.entries().to_vec());
        self.clear_copied(&mut again).await?;
        plan.l1 = self
            .write_table(Table::SnapshotL1, &plan.l1_bytes())
            .await?;
        let at = plan.l1.start << self.geometry.cluster_bits();
        plan.snapshot.l1_offset = HostOffset(at);
        self.switch_snapshots(plan.all()).await
    }

    /// The L2 tables of the first L1 entries are not to be written in place.
    fn share_active_l1(&self, entries: usize) {
        for index in 0..entries as u64 {
            let entry = L1Entry(self.active.get(index));
            if entry.copied() {
                self.active.set(index, entry.with_copied(false).0);
            }
        }
    }

    /// After a success: what the image no longer says loses its references.
    fn leave_old_behind(&self, plan: Plan) {
        match plan.state {
            Some(_) => drop(self.vmstate.take()),
            None => self.drop_state(),
        }
        self.vmstate.show(None);
        if let Some((walk, l1)) = plan.replaced {
            self.free(l1, Freeing::ForHost);
            self.cover_snapshot_tables();
            self.abandon(walk);
            self.recompute_copied();
        }
        self.drop_active_vmstate();
    }

    /// What QEMU's savevm or loadvm left in the active L1 table behind the disk is dropped.
    fn drop_active_vmstate(&self) {
        let disk = self.geometry.vmstate_l1_index(self.size.get());
        let entries = self.active.copy(disk..self.active.len());
        for (index, entry) in (disk..).zip(&entries) {
            if *entry != 0 {
                self.active.set(index, 0);
            }
        }
        if entries.iter().any(|entry| *entry != 0) {
            self.abandon(Walk::new(entries));
        }
    }

    /// After a failure: the disk gets its references back, and its flags. The error to return.
    async fn give_back(&self, plan: Plan, cause: Cause) -> Cause {
        self.free(plan.l1, Freeing::Unnamed);
        self.cover_snapshot_tables();
        // From here on its tables cannot change, so that what is raised can be lowered at any later time.
        self.share_active_l1(plan.disk.entries().len());
        self.abandon_unnamed(plan.disk.done_so_far());
        self.recompute_copied();
        match self.tidy().await {
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
    state: Option<Rc<StateTree>>,
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

    /// The snapshot's L1 table: the disk's entries, and from the first one behind them on the state's. Its flags are not used.
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
