//! What a node with a vmstate area owns: the area's account, the active save, and the read-ahead of `load_vmstate`.

use crate::SaveOptions;
use crate::geometry::Geometry;
use crate::load::LoadSession;
use crate::save::{ActiveSave, Owner, SaveSession};
use block_core::{BlockError, BlockNode, Cause, NodeExtension, Op, Result};
use std::cell::RefCell;
use std::rc::Rc;

/// The part that the node owns.
#[derive(Default)]
pub(crate) struct Extension {
    pub(crate) saves: Rc<ActiveSave>,
    /// Read-ahead of `load_vmstate`. Set by the first such call; cleared by `finalize_vmstate` and close.
    pub(crate) load: RefCell<Option<Rc<LoadSession>>>,
}

impl Extension {
    /// Begins a save on the area of `node`.
    ///
    /// # Errors
    ///
    /// [`Cause::NotSupported`], [`Cause::ReadOnly`], EBUSY while another save is active, and what is wrong with the options.
    pub(crate) fn begin_save(node: &BlockNode, options: SaveOptions) -> Result<Rc<SaveSession>> {
        let op = Op::SaveVmstate;
        let Some(limits) = node.vmstate_limits() else {
            return Err(BlockError::new(op, 0, 0, Cause::NotSupported));
        };
        let owner_read_only = node
            .vmstate_node()
            .is_some_and(|owner| owner.is_read_only());
        if node.is_read_only() || owner_read_only {
            return Err(BlockError::new(op, 0, 0, Cause::ReadOnly));
        }
        let geometry = Geometry::new(op, limits, options.buffer_size)?;
        Self::of(op, node)?.saves.begin(node, geometry, options)
    }

    /// The extension of the node that has `node`'s vmstate area, made if need be.
    pub(crate) fn of(op: Op, node: &BlockNode) -> Result<Rc<Self>> {
        let Some(owner) = node.vmstate_node() else {
            return Err(BlockError::new(op, 0, 0, Cause::NotSupported));
        };
        let extension = owner.extension::<Self>().unwrap_or_else(|| {
            let new = Rc::new(Self::default());
            owner.set_extension(new.clone());
            new
        });
        // Closing the node that the save was begun on must report it too, not only closing the one below that has the area.
        if node.extension::<Self>().is_none() {
            node.set_extension(extension.clone());
        }
        Ok(extension)
    }
}

impl NodeExtension for Extension {
    fn on_close(&self) -> Result<()> {
        let load = self.load.borrow_mut().take();
        drop(load);
        let Some(save) = self.saves.active() else {
            return Ok(());
        };
        let error = save.lost();
        self.saves.deactivate(&save);
        Err(error)
    }

    fn on_vmstate_replaced(&self) {
        self.saves.area.finalized.set(None);
        self.saves
            .area
            .replaced
            .set(self.saves.area.replaced.get() + 1);
        self.saves.area.epoch.set(self.saves.area.epoch.get() + 1);
        let load = self.load.borrow_mut().take();
        drop(load);
        let Some(save) = self.saves.active() else {
            return;
        };
        save.area_was_replaced();
        // What the driver had of it is gone: the rest alone would be no state.
        if save.progress.submitted() > 0 {
            let text = "the state in the area was replaced or discarded under the save";
            save.fail(save.error_here(Cause::Driver(text.into())));
        }
    }
}
