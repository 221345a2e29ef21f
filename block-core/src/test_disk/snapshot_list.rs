//! The snapshots that the disk has.

use super::store::Store;
use crate::{Cause, SnapshotInfo};

#[derive(Default)]
pub(super) struct Snapshots {
    pub(super) list: Vec<Snapshot>,
    /// The vmstate area shows the state of a snapshot: the next state begins on an empty area. Set when a snapshot is gone to, cleared by
    /// the first write after it.
    pub(super) shown: bool,
}

pub(super) struct Snapshot {
    pub(super) info: SnapshotInfo,
    pub(super) disk: Store,
    pub(super) vmstate: Store,
}

impl Snapshots {
    pub(super) fn infos(&self) -> Vec<SnapshotInfo> {
        self.list.iter().map(|s| s.info.clone()).collect()
    }

    pub(super) fn find(&self, id_or_name: &str) -> Result<usize, Cause> {
        let by_id = self.list.iter().position(|s| s.info.id == id_or_name);
        by_id
            .or_else(|| self.list.iter().position(|s| s.info.name == id_or_name))
            .ok_or_else(|| Cause::NoSuchSnapshot {
                name: id_or_name.into(),
            })
    }

    /// One more than the highest there is, as in qcow2.
    pub(super) fn new_id(&self) -> String {
        let ids = self.list.iter().filter_map(|s| s.info.id.parse().ok());
        (ids.max().unwrap_or(0u64) + 1).to_string()
    }
}
