//! Changes of length, QEMU's `bdrv_co_truncate`.

use super::{BlockNode, Inner, contract};
use crate::{Cause, Op, Perms, Result, Truncate};
use std::rc::Rc;

impl BlockNode {
    /// Makes the node longer or shorter (`bdrv_co_truncate`). What is added reads as zeroes.
    ///
    /// Order: after every request that was called before, and before every one that is called after it. The error's offset is the new
    /// length. Dropped: the request runs on.
    pub async fn truncate(&self, to: Truncate) -> Result<()> {
        self.truncate_as(Perms::ALL, to).await
    }

    pub(super) async fn truncate_as(&self, user: Perms, to: Truncate) -> Result<()> {
        let error = |cause| self.error(Op::Truncate, to.len, 0, cause);
        self.inner.check_change(to.len, 0).map_err(error)?;
        if !user.contains(Perms::RESIZE) {
            return Err(error(Cause::NoPermission {
                permission: "resize",
            }));
        }
        let task = self.inner.clone().change_length(to);
        self.request(task).await.and_then(|r| r).map_err(error)
    }
}

impl Inner {
    async fn change_length(self: Rc<Self>, to: Truncate) -> Result<(), Cause> {
        let _in_flight = self.enter().await?;
        // The whole node: what the new length cuts off or adds depends on changes of length that are still under way.
        let place = self.tracked.track(0..u64::MAX, true);
        place.turn().await;
        let result = self.driver.truncate(to).await.map_err(|e| e.cause);
        self.relearn_length().await;
        result?;
        match self.length.known() {
            Some(len) => contract::check_truncated(to, len),
            None => Ok(()),
        }
    }
}
