//! A named save, from its begin to the record.

use crate::area_state::FlightGuard;
use crate::save::SaveSession;
use crate::snapshot::{discard, on_its_own};
use crate::{SaveOptions, VmstateSave};
use block_core::{BlockError, BlockNode, Cause, NewSnapshot, Op, Result, SnapshotInfo};
use std::fmt;
use std::rc::Rc;

/// A machine that is being saved under a name: HMP `savevm` on one image.
///
/// 1. [`SnapshotSave::begin`] refuses what cannot work before anything is written, and empties the vmstate area.
/// 2. The state is written through [`SnapshotSave::save`], at any positions.
/// 3. [`SnapshotSave::commit`] writes what is left, flushes the image, and makes the snapshot: the state, and the disk as it is then.
///
/// All or nothing: until the record is there the image has the snapshots, the length and the guest's bytes that it had; a save that fails
/// or is cancelled drops what it wrote of the state. The machine's disk is recorded at the commit, so the machine must stand still from the
/// last byte of its state on.
///
/// Dropping it, or the future of its commit before the record is being written, cancels the save: what was written is dropped by a task of
/// the context when all that is in flight has landed, and where that fails, or the context is not driven, by the driver when the next named
/// save begins or the image is closed. A crash before that leaks the space.
pub struct SnapshotSave {
    new: NewSnapshot,
    save: VmstateSave,
    /// Another user sees to what was written: the task of commit or cancel. Set once.
    settled: bool,
}

impl SnapshotSave {
    /// Begins a save on the image of `node`: the node's driver, or its primary child's, recursively, with snapshots and the vmstate area.
    ///
    /// What an earlier save has left in the area and no snapshot recorded is dropped, when what is in flight of it has landed.
    ///
    /// # Errors
    /// Before anything is written: `ENOTSUP` where no driver has snapshots; `EEXIST` where the name is taken and not to be replaced;
    /// `EINVAL` for an empty name, one of more than 255 bytes, or one with a 0 in it; and those of [`VmstateSave::begin`].
    pub async fn begin(node: &BlockNode, new: NewSnapshot, options: SaveOptions) -> Result<Self> {
        let error = |cause| BlockError::new(Op::SnapshotCreate, 0, 0, cause);
        if !has_both(node) {
            return Err(error(Cause::NotSupported));
        }
        if new.name.is_empty() {
            return Err(error(Cause::Driver("the snapshot has no name".into())));
        }
        new.check().map_err(error)?;
        let taken = node.snapshot_list().await?;
        if !new.replace && taken.iter().any(|info| info.name == new.name) {
            let name = new.name;
            return Err(error(Cause::SnapshotExists { name }));
        }
        let save = VmstateSave::begin(node, options)?;
        save.core().begin_empty(node).await?;
        Ok(Self {
            new,
            save,
            settled: false,
        })
    }

    /// The save, to write the state to. Its progress and its cancel handle work until the record is being written.
    pub fn save(&self) -> &VmstateSave {
        &self.save
    }

    /// The node that the save was begun on.
    pub fn node(&self) -> &BlockNode {
        self.save.node()
    }

    /// The snapshot that is to be made.
    pub fn snapshot(&self) -> &NewSnapshot {
        &self.new
    }

    /// Completes the state ([`VmstateSave::finalize`]), flushes the node, makes the snapshot. Stable when it returns.
    ///
    /// # Errors
    /// The first one, once, and no snapshot was made: `EINVAL` where nothing was written, since a snapshot of the disk alone is
    /// [`BlockNode::snapshot_create`]; in its cause [`Cause::Leaked`] where what was written could not be dropped either.
    /// `EBUSY` where the state is no longer in the area: it was finalized by hand and another save has begun, or a snapshot was gone to.
    pub async fn commit(mut self) -> Result<SnapshotInfo> {
        match self.save.finalize().await {
            Ok(0) => {
                let error = BlockError::new(Op::SnapshotCreate, 0, 0, crate::calls::no_state());
                return Err(self.give_up(error).await);
            }
            Ok(_) => {}
            Err(error) => return Err(self.give_up(error).await),
        }
        // In the same poll, so that no other save gets in between: the area is ours until the record is there.
        let rest = Rest::of(&mut self);
        let record = rest.record(self.new.clone());
        on_its_own(self.node().handle(), record).await?
    }

    /// Ends the save without a snapshot: waits for what is in flight and drops what was written.
    ///
    /// # Errors
    /// The driver's, where what was written could not be dropped: the image is good, and the space is in use until the next named save
    /// begins or the image is closed. Dropped: it goes on.
    pub async fn cancel(mut self) -> Result<()> {
        let rest = Rest::of(&mut self);
        on_its_own(self.node().handle(), rest.drop_state()).await?
    }

    /// [`SnapshotSave::cancel`] because of `error`, which comes back, with what became of the cancel.
    pub(super) async fn give_up(mut self, error: BlockError) -> BlockError {
        let rest = Rest::of(&mut self);
        let given_up = on_its_own(self.node().handle(), rest.give_up(error.clone()));
        given_up.await.unwrap_or(error)
    }
}

impl Drop for SnapshotSave {
    fn drop(&mut self) {
        if !self.settled {
            let rest = Rest::of(self);
            drop(on_its_own(self.node().handle(), rest.drop_state()));
        }
    }
}

impl fmt::Debug for SnapshotSave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotSave")
            .field("name", &self.new.name)
            .field("save", &self.save)
            .finish_non_exhaustive()
    }
}

/// The image has snapshots, and the state would be recorded in them.
fn has_both(node: &BlockNode) -> bool {
    let image = node.snapshot_node();
    let area = node.vmstate_node();
    matches!((image, area), (Some(image), Some(area)) if image.is_same(&area))
}

/// What is left to be done when the last byte was accepted, or none is any more. It goes on without a waiter.
struct Rest {
    node: BlockNode,
    core: Rc<SaveSession>,
    /// Of the whole area. `None` where another save has begun: nothing there is ours then.
    flight: Option<FlightGuard>,
}

impl Rest {
    fn of(whole: &mut SnapshotSave) -> Self {
        whole.settled = true;
        let core = whole.save.core().clone();
        let flight = core.owns_area().then(|| core.area.take_off(0..u64::MAX));
        Self {
            node: whole.node().clone(),
            core,
            flight,
        }
    }

    async fn record(self, new: NewSnapshot) -> Result<SnapshotInfo> {
        match self.flush_and_create(new).await {
            Ok(info) => Ok(info),
            Err(error) => Err(self.give_up(error).await),
        }
    }

    async fn flush_and_create(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        self.check_state_is_there()?;
        self.node.flush().await?;
        if self.core.cancel.is_cancelled() {
            return Err(self.core.error_here(Cause::Cancelled));
        }
        self.check_state_is_there()?;
        self.node.snapshot_create(new).await
    }

    /// What was finalized is what would be recorded: no other save has begun, no snapshot has taken or replaced it.
    fn check_state_is_there(&self) -> Result<()> {
        let (core, area) = (&self.core, &self.core.area);
        if self.flight.is_some() && core.finalized_at.get() == area.replaced.get() {
            return Ok(());
        }
        let busy = Cause::Os(crate::EBUSY);
        Err(BlockError::new(Op::SnapshotCreate, 0, 0, busy))
    }

    /// Drops what was written. `error` comes back, with the news that it could not be dropped, if so.
    async fn give_up(self, error: BlockError) -> BlockError {
        let Err(kept) = self.drop_state().await else {
            return error;
        };
        let leaked = Cause::Leaked {
            cause: Box::new(error.cause.clone()),
            freeing: Box::new(kept.cause),
        };
        error.with_cause(leaked)
    }

    async fn drop_state(self) -> Result<()> {
        self.core.abandon();
        match self.flight {
            Some(flight) => discard(self.node, self.core.area.clone(), flight).await,
            None => Ok(()),
        }
    }
}
