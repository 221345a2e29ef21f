//! Unbuffered vmstate calls, passed down to the driver that has the area: QEMU's `bdrv_co_writev_vmstate` and `bdrv_co_readv_vmstate`.

use super::request::InFlight;
use super::split::Lent;
use super::{BlockNode, Inner};
use crate::{Cause, DynBlockDriver, IoVector, Op, ReadVector, Result};
use crate::{VmstateLimits, VmstateOffset};
use std::rc::Rc;

impl BlockNode {
    /// The node whose driver has the vmstate area: this one, or its primary child's (`file`), recursively; `None` if there is none.
    pub fn vmstate_node(&self) -> Option<BlockNode> {
        let mut inner = self.inner.clone();
        while inner.driver.vmstate().is_none() {
            inner = inner.primary()?;
        }
        Some(BlockNode { inner })
    }

    /// Limits of the vmstate area of [`BlockNode::vmstate_node`].
    pub fn vmstate_limits(&self) -> Option<VmstateLimits> {
        self.vmstate_node()?.inner.driver.vmstate()
    }

    /// Writes to the vmstate area with one driver call, at any position and length (`bdrv_co_save_vmstate`).
    ///
    /// Waits at the drain gate and counts as in flight, here and in every node that it is passed down through. Not checked against any
    /// length, since the area grows; position + length is checked. Overlapping calls are not ordered by the node. Errors:
    /// [`Cause::NotSupported`] where there is no area, [`Cause::ReadOnly`] where this node or the one with the area is. Dropped: the
    /// write runs on.
    pub async fn save_vmstate_unbuffered(&self, at: VmstateOffset, src: IoVector) -> Result<()> {
        let error = |cause| self.error(Op::SaveVmstate, at.0, src.len(), cause);
        self.inner.check_range(at.0, src.len()).map_err(error)?;
        self.check_vmstate(true).map_err(error)?;
        if src.is_empty() {
            return Ok(());
        }
        let len = src.len();
        let top = self.inner.clone();
        let task = async move {
            let (node, _in_flight) = top.enter_down().await?;
            node.driver.save_vmstate(at, src).await.map_err(|e| e.cause)
        };
        let result = self.request(task).await.and_then(|r| r);
        result.map_err(|cause| self.error(Op::SaveVmstate, at.0, len, cause))
    }

    /// Reads from the vmstate area with one driver call (`bdrv_co_load_vmstate`). Bytes never written are zeroes, but see
    /// [`BlockDriver::load_vmstate`](crate::BlockDriver::load_vmstate).
    ///
    /// Else as [`BlockNode::save_vmstate_unbuffered`] and [`BlockNode::preadv`]: the memory comes back with the result.
    pub async fn load_vmstate_unbuffered(
        &self,
        at: VmstateOffset,
        dst: ReadVector,
    ) -> (ReadVector, Result<()>) {
        let len = dst.len();
        let error = |cause| self.error(Op::LoadVmstate, at.0, len, cause);
        let check = self.inner.check_range(at.0, len);
        if let Err(cause) = check.and_then(|()| self.check_vmstate(false)) {
            return (dst, Err(error(cause)));
        }
        if dst.is_empty() {
            return (dst, Ok(()));
        }
        let top = self.inner.clone();
        let task = async move {
            let (node, _in_flight) = match top.enter_down().await {
                Ok(entered) => entered,
                Err(cause) => return (dst, Err(cause)),
            };
            let lent = Lent::note(&dst);
            let (dst, result) = node.driver.load_vmstate(at, dst).await;
            let result = lent.came_back(&dst, result.map_err(|e| e.cause));
            (dst, result)
        };
        match self.request(task).await {
            Ok((dst, result)) => (dst, result.map_err(error)),
            Err(cause) => (ReadVector::new(), Err(error(cause))),
        }
    }

    /// The stored state's length in bytes, where the driver knows it. Counts as a request.
    pub async fn vmstate_length(&self) -> Result<Option<u64>> {
        let error = |cause| self.error(Op::LoadVmstate, 0, 0, cause);
        self.inner.check_range(0, 0).map_err(error)?;
        self.check_vmstate(false).map_err(error)?;
        let top = self.inner.clone();
        let task = async move {
            let (node, _in_flight) = top.enter_down().await?;
            node.driver.vmstate_length().await.map_err(|e| e.cause)
        };
        self.request(task).await.and_then(|r| r).map_err(error)
    }

    /// Tells the driver that the state is complete and `len` bytes long (see [`crate::BlockDriver::finish_vmstate`]).
    ///
    /// Waits at the gate and counts as in flight like a write. The error's offset is 0, its length `len`. Dropped: it runs on.
    pub async fn finish_vmstate(&self, len: u64) -> Result<()> {
        let error = |cause| self.error(Op::FinalizeVmstate, 0, len, cause);
        self.inner.check_range(0, len).map_err(error)?;
        self.check_vmstate(true).map_err(error)?;
        let top = self.inner.clone();
        let task = async move {
            let (node, _in_flight) = top.enter_down().await?;
            node.driver.finish_vmstate(len).await.map_err(|e| e.cause)
        };
        self.request(task).await.and_then(|r| r).map_err(error)
    }

    /// Drops what was written to the area and no snapshot recorded (see [`crate::BlockDriver::discard_vmstate`]): what a cancelled save
    /// leaves. Vmstate calls that are still in flight are not waited for. The error's numbers are 0. Dropped: it runs on.
    pub async fn discard_vmstate(&self) -> Result<()> {
        let error = |cause| self.error(Op::DiscardVmstate, 0, 0, cause);
        self.inner.check_range(0, 0).map_err(error)?;
        self.check_vmstate(true).map_err(error)?;
        let top = self.inner.clone();
        let task = async move {
            let (node, _in_flight) = top.enter_down().await?;
            let result = node.driver.discard_vmstate().await;
            node.extensions.vmstate_replaced();
            result.map_err(|e| e.cause)
        };
        self.request(task).await.and_then(|r| r).map_err(error)
    }

    /// There is an area, and it may be changed if that is what is wanted.
    fn check_vmstate(&self, change: bool) -> Result<(), Cause> {
        let node = self.vmstate_node().ok_or(Cause::NotSupported)?;
        if change && (self.inner.read_only || node.inner.read_only) {
            return Err(Cause::ReadOnly);
        }
        Ok(())
    }
}

impl Inner {
    /// Passes the gates from this node down to the one that has the vmstate area.
    async fn enter_down(self: Rc<Self>) -> Result<(Rc<Self>, Vec<InFlight>), Cause> {
        self.enter_down_to(|driver| driver.vmstate().is_some())
            .await
    }

    /// Passes the gates from this node down to the first whose driver is the one meant.
    pub(super) async fn enter_down_to(
        self: Rc<Self>,
        is_meant: fn(&dyn DynBlockDriver) -> bool,
    ) -> Result<(Rc<Self>, Vec<InFlight>), Cause> {
        let mut passed = Vec::with_capacity(1);
        let mut node = self;
        loop {
            passed.push(node.enter().await?);
            if is_meant(&*node.driver) {
                return Ok((node, passed));
            }
            node = node.primary().ok_or(Cause::NotSupported)?;
        }
    }

    /// The primary child.
    pub(super) fn primary(&self) -> Option<Rc<Self>> {
        let file = self.driver.children().file?;
        Some(file.node().inner.clone())
    }
}
