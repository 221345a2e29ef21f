//! Internal snapshots, passed down to the driver that has them: QEMU's `block/snapshot.c`.

use super::{BlockNode, Inner, NodeBuilder};
use crate::{Cause, DynBlockDriver, NewSnapshot, Op, Result, SnapshotInfo};
use futures::future::LocalBoxFuture;
use std::rc::Rc;

impl BlockNode {
    /// The node whose driver has internal snapshots: this one, or its primary child's (`file`), recursively; `None` if there is none
    /// (`bdrv_snapshot_fallback`).
    pub fn snapshot_node(&self) -> Option<BlockNode> {
        let mut inner = self.inner.clone();
        while !inner.driver.supports_snapshots() {
            inner = inner.primary()?;
        }
        Some(BlockNode { inner })
    }

    /// Records the disk as it is, and the state that was finished and not recorded yet, if there is one (`bdrv_snapshot_create`; see
    /// [`crate::BlockDriver::snapshot_create`]). Stable when it returns.
    ///
    /// Order: after every request that was called before, and before every one that is called after it, here and in every node that it
    /// is passed down through; flushes and vmstate calls are not ordered. Errors, after which the snapshots are what they were:
    /// [`Cause::SnapshotExists`], [`Cause::NotSupported`] where no driver has snapshots, [`Cause::ReadOnly`], [`Cause::Driver`] for a name
    /// of more than 255 bytes or with a 0 in it; their numbers are 0. Dropped: it runs on, and the snapshot may be there.
    pub async fn snapshot_create(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        let error = |cause| self.error(Op::SnapshotCreate, 0, 0, cause);
        self.check_snapshots(true).map_err(error)?;
        new.check().map_err(error)?;
        let task = self.inner.clone().create_snapshot(new);
        self.request(task).await.and_then(|r| r).map_err(error)
    }

    /// Makes the disk, its length and the stored state those of a snapshot (`bdrv_snapshot_goto`). The snapshot stays.
    ///
    /// `id_or_name` here and below: the snapshot with this id, else the first with this name; [`Cause::NoSuchSnapshot`] if there is none.
    /// Else as [`BlockNode::snapshot_create`].
    pub async fn snapshot_goto(&self, id_or_name: impl Into<String>) -> Result<()> {
        let error = |cause| self.error(Op::SnapshotGoto, 0, 0, cause);
        self.check_snapshots(true).map_err(error)?;
        let task = self.inner.clone().go_to_snapshot(id_or_name.into());
        self.request(task).await.and_then(|r| r).map_err(error)
    }

    /// Drops a snapshot (`bdrv_snapshot_delete`). Not ordered among other requests. Errors as [`BlockNode::snapshot_goto`]'s. Dropped: it
    /// runs on.
    pub async fn snapshot_delete(&self, id_or_name: impl Into<String>) -> Result<()> {
        let error = |cause| self.error(Op::SnapshotDelete, 0, 0, cause);
        self.check_snapshots(true).map_err(error)?;
        let (top, id_or_name) = (self.inner.clone(), id_or_name.into());
        let task = async move {
            let (node, _in_flight) = top.enter_down_to(has_snapshots).await?;
            let deleted = node.driver.snapshot_delete(id_or_name).await;
            deleted.map_err(|e| e.cause)
        };
        self.request(task).await.and_then(|r| r).map_err(error)
    }

    /// The snapshots in the image's order (`bdrv_snapshot_list`).
    pub async fn snapshot_list(&self) -> Result<Vec<SnapshotInfo>> {
        let error = |cause| self.error(Op::SnapshotList, 0, 0, cause);
        self.check_snapshots(false).map_err(error)?;
        let top = self.inner.clone();
        let task = async move {
            let (node, _in_flight) = top.enter_down_to(has_snapshots).await?;
            node.driver.snapshot_list().await.map_err(|e| e.cause)
        };
        self.request(task).await.and_then(|r| r).map_err(error)
    }

    /// A read-only node that shows a snapshot's disk and state (`bdrv_snapshot_load_tmp`), called `name@id_or_name`, in this node's context
    /// and cache mode. This node works on.
    ///
    /// The view's requests are its own: this node's drained sections and close do not wait for them. It fails with [`Cause::Closed`] once
    /// this node is closed. Dropping it is as good as closing it. Errors as [`BlockNode::snapshot_goto`]'s, but it needs no write access.
    pub async fn snapshot_load_tmp(&self, id_or_name: impl Into<String>) -> Result<BlockNode> {
        let error = |cause| self.error(Op::SnapshotLoad, 0, 0, cause);
        self.check_snapshots(false).map_err(error)?;
        let (top, id_or_name) = (self.inner.clone(), id_or_name.into());
        let builder = NodeBuilder::new(format!("{}@{id_or_name}", self.name()));
        let task = async move {
            let (node, _in_flight) = top.enter_down_to(has_snapshots).await?;
            let view = node.driver.snapshot_load_tmp(id_or_name).await;
            view.map_err(|e| e.cause)
        };
        let view = self.request(task).await.and_then(|r| r).map_err(error)?;
        let builder = builder.read_only(true).cache(self.cache());
        let opened = builder.open_boxed(self.handle(), view).await;
        opened.map_err(|e| error(e.cause))
    }

    /// The node is open, a driver has snapshots, and they may be changed if that is what is wanted.
    fn check_snapshots(&self, change: bool) -> Result<(), Cause> {
        self.inner.check_range(0, 0)?;
        let node = self.snapshot_node().ok_or(Cause::NotSupported)?;
        if change && (self.inner.read_only || node.inner.read_only) {
            return Err(Cause::ReadOnly);
        }
        Ok(())
    }
}

fn has_snapshots(driver: &dyn DynBlockDriver) -> bool {
    driver.supports_snapshots()
}

impl Inner {
    async fn create_snapshot(self: Rc<Self>, new: NewSnapshot) -> Result<SnapshotInfo, Cause> {
        let act = async move |node: &Self| {
            let created = node.driver.snapshot_create(new).await;
            if created.as_ref().is_ok_and(|info| info.vmstate_size > 0) {
                node.extensions.vmstate_replaced();
            }
            created.map_err(|e| e.cause)
        };
        self.alone_down(false, act).await
    }

    async fn go_to_snapshot(self: Rc<Self>, id_or_name: String) -> Result<(), Cause> {
        let act = async move |node: &Self| {
            let gone = node.driver.snapshot_goto(id_or_name).await;
            if gone.is_ok() {
                node.extensions.vmstate_replaced();
            }
            gone.map_err(|e| e.cause)
        };
        self.alone_down(true, act).await
    }

    /// Waits for its turn in this node, then goes one node down, until `act` is done where the snapshots are. On the way back each node
    /// learns its new length, the lowest first: those above ask it.
    fn alone_down<T: 'static>(
        self: Rc<Self>,
        resizes: bool,
        act: impl AsyncFnOnce(&Self) -> Result<T, Cause> + 'static,
    ) -> LocalBoxFuture<'static, Result<T, Cause>> {
        Box::pin(async move {
            let _in_flight = self.enter().await?;
            // The whole node, as for a change of length: a snapshot holds each earlier write and no part of a later one.
            let place = self.tracked.track(0..u64::MAX, true);
            place.turn().await;
            let result = if self.driver.supports_snapshots() {
                act(&self).await
            } else {
                match self.primary() {
                    Some(child) => child.alone_down(resizes, act).await,
                    None => Err(Cause::NotSupported),
                }
            };
            if resizes {
                self.relearn_length().await;
            }
            result
        })
    }
}
