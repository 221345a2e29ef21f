//! The disk's internal snapshots: copies of both byte arrays.

use super::TestDiskOptions;
use super::state::{Answer, State, Work};
use super::store::Store;
use crate::{Cause, NewSnapshot, SnapshotInfo};
use std::cell::RefCell;
use std::rc::Rc;

#[derive(Default)]
pub(super) struct Snapshots {
    list: Vec<Snapshot>,
    /// The vmstate area shows the state of a snapshot: the next state begins on an empty area. Set when a snapshot is gone to, cleared by
    /// the first write after it.
    pub(super) shown: bool,
    /// The disks behind the views that were made, in the order they were.
    pub(super) views: Vec<Rc<RefCell<State>>>,
}

struct Snapshot {
    info: SnapshotInfo,
    disk: Store,
    vmstate: Store,
}

impl Snapshots {
    pub(super) fn infos(&self) -> Vec<SnapshotInfo> {
        self.list.iter().map(|s| s.info.clone()).collect()
    }

    fn find(&self, id_or_name: &str) -> Result<usize, Cause> {
        let by_id = self.list.iter().position(|s| s.info.id == id_or_name);
        by_id
            .or_else(|| self.list.iter().position(|s| s.info.name == id_or_name))
            .ok_or_else(|| Cause::NoSuchSnapshot {
                name: id_or_name.into(),
            })
    }

    /// One more than the highest there is, as in qcow2.
    fn new_id(&self) -> String {
        let ids = self.list.iter().filter_map(|s| s.info.id.parse().ok());
        (ids.max().unwrap_or(0u64) + 1).to_string()
    }
}

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
        for view in &self.snapshots.views {
            view.borrow_mut().image_closed = true;
        }
    }
}
