//! The disk's internal snapshots: copies of both byte arrays.

use super::TestDiskOptions;
use super::request::Work;
use super::snapshot_list::Snapshot;
use super::state::{Answer, State};
use super::store::Store;
use crate::{Cause, NewSnapshot, SnapshotInfo};

impl State {
    /// A call on snapshots takes effect.
    pub(super) fn on_snapshots(&mut self, work: Work) -> Result<Answer, Cause> {
        let mut answer = Answer::default();
        match work {
            Work::SnapshotCreate(new) => answer.snapshots = vec![self.create_snapshot(new)?],
            Work::SnapshotGoto(id_or_name) => self.go_to_snapshot(&id_or_name)?,
            Work::SnapshotDelete(id_or_name) => {
                let at = self.snapshots.find(&id_or_name)?;
                self.snapshots.list.remove(at);
            }
            Work::SnapshotList => answer.snapshots = self.snapshots.infos(),
            Work::SnapshotLoad(id_or_name) => {
                answer.view = Some(Box::new(self.view(&id_or_name)?));
            }
            _ => {}
        }
        Ok(answer)
    }

    fn create_snapshot(&mut self, new: NewSnapshot) -> Result<SnapshotInfo, Cause> {
        let taken = |s: &Snapshot| s.info.name == new.name;
        let replaced = self.snapshots.list.iter().position(taken);
        if replaced.is_some() && !new.replace {
            return Err(Cause::SnapshotExists { name: new.name });
        }
        let id = self.snapshots.new_id();
        let state = self.vmstate_length.filter(|_| !self.snapshots.shown);
        let vmstate = match state {
            Some(_) => self.take_vmstate(),
            None => Store::default(),
        };
        let info = SnapshotInfo {
            id,
            name: new.name,
            vmstate_size: state.unwrap_or(0),
            disk_size: self.disk.len(),
            date_sec: new.date_sec,
            date_nsec: new.date_nsec,
            vm_clock_nsec: new.vm_clock_nsec,
            icount: new.icount,
        };
        if let Some(at) = replaced {
            self.snapshots.list.remove(at);
        }
        self.snapshots.list.push(Snapshot {
            info: info.clone(),
            disk: self.disk.clone(),
            vmstate,
        });
        self.disk_is_stable();
        Ok(info)
    }

    fn go_to_snapshot(&mut self, id_or_name: &str) -> Result<(), Cause> {
        let at = self.snapshots.find(id_or_name)?;
        let Snapshot {
            info,
            disk,
            vmstate,
        } = &self.snapshots.list[at];
        self.disk = disk.clone();
        self.vmstate = vmstate.clone();
        self.vmstate_length = (info.vmstate_size > 0).then_some(info.vmstate_size);
        self.snapshots.shown = true;
        self.disk_is_stable();
        Ok(())
    }

    /// A disk of its own with the bytes of a snapshot.
    fn view(&self, id_or_name: &str) -> Result<Self, Cause> {
        let at = self.snapshots.find(id_or_name)?;
        let snapshot = &self.snapshots.list[at];
        let mut view = Self::new(TestDiskOptions {
            len: snapshot.info.disk_size,
            grows: false,
            snapshots: false,
            ..self.options.clone()
        });
        view.disk = snapshot.disk.clone();
        view.vmstate = snapshot.vmstate.clone();
        view.vmstate_length = Some(snapshot.info.vmstate_size);
        Ok(view)
    }

    /// A state begins, or goes on: not on what a snapshot has brought.
    pub(super) fn vmstate_is_written(&mut self) {
        if self.snapshots.shown {
            self.take_vmstate();
        }
    }

    /// What no snapshot recorded goes.
    pub(super) fn discard_vmstate(&mut self) {
        if self.options.snapshots && !self.snapshots.shown {
            self.take_vmstate();
        }
    }

    /// The area is empty then.
    fn take_vmstate(&mut self) -> Store {
        self.snapshots.shown = false;
        self.vmstate_length = None;
        std::mem::take(&mut self.vmstate)
    }

    fn disk_is_stable(&mut self) {
        if let Some(crash) = &mut self.crash {
            crash.replace(self.disk.clone());
        }
    }

    /// The views fail from now on.
    pub(super) fn close_views(&mut self) {
        for view in &self.views {
            view.borrow_mut().image_closed = true;
        }
    }
}
