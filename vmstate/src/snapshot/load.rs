//! Reading the state of a snapshot.

use crate::{LoadOptions, VmstateLoad};
use block_core::{BlockError, BlockNode, Cause, Op, Result};

/// The state of a snapshot, open for reading, and its disk. The image works on meanwhile.
///
/// Dropping it lets go of the snapshot, as closing it does, but tells no error.
#[derive(Debug)]
pub struct SnapshotLoad {
    // Fields drop in this order: the read-ahead before the node.
    load: VmstateLoad,
    view: BlockNode,
}

/// Opens a snapshot of `node`'s image (see [`BlockNode::snapshot_load_tmp`]) and its state, with read-ahead. Nothing is changed; to make the
/// disk the snapshot's is [`BlockNode::snapshot_goto`]. What HMP `loadvm` reads.
///
/// # Errors
/// `ENOENT` where there is no such snapshot; `EINVAL` where it holds a disk only, or for a buffer size of 0 or above 1 GiB; `ENOTSUP` where
/// no driver has snapshots.
pub async fn load_snapshot(
    node: &BlockNode,
    id_or_name: &str,
    options: LoadOptions,
) -> Result<SnapshotLoad> {
    let view = node.snapshot_load_tmp(id_or_name).await?;
    let load = VmstateLoad::open(&view, options).await?;
    if load.length() == 0 {
        let text = format!("the snapshot {id_or_name:?} holds a disk only, no state");
        let none = Cause::Driver(text.into());
        return Err(BlockError::new(Op::SnapshotLoad, 0, 0, none));
    }
    Ok(SnapshotLoad { load, view })
}

impl SnapshotLoad {
    /// The state.
    pub fn load(&self) -> &VmstateLoad {
        &self.load
    }

    /// The snapshot's disk and state, read-only.
    pub fn view(&self) -> &BlockNode {
        &self.view
    }

    /// Both, for those who need to own the load (a [`VmstateReader`](crate::VmstateReader)).
    pub fn into_parts(self) -> (BlockNode, VmstateLoad) {
        (self.view, self.load)
    }

    /// Closes the view.
    pub async fn close(self) -> Result<()> {
        drop(self.load);
        self.view.close().await
    }
}
