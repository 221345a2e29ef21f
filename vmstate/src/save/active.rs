//! Which save an area has: at most one at a time.

use crate::area_state::Area;
use crate::geometry::Geometry;
use crate::save::session::{Owner, SaveSession};
use crate::{EBUSY, SaveOptions};
use block_core::{BlockError, BlockNode, Cause, Op, Result};
use std::cell::RefCell;
use std::rc::Rc;

/// An area and the save that is active on it.
#[derive(Default)]
pub(crate) struct ActiveSave {
    pub(crate) area: Rc<Area>,
    /// Set when a save begins; cleared when it is finalized, cancelled or closed.
    active: RefCell<Option<Rc<SaveSession>>>,
}

impl ActiveSave {
    /// Begins a save on the area of `node`, to which this belongs.
    ///
    /// # Errors
    ///
    /// [`Cause::NotSupported`], [`Cause::ReadOnly`], EBUSY while another save is active, and what is wrong with the options.
    pub(crate) fn begin(
        self: &Rc<Self>,
        node: &BlockNode,
        geometry: Geometry,
        options: SaveOptions,
    ) -> Result<Rc<SaveSession>> {
        if self.active().is_some() {
            return Err(BlockError::new(Op::SaveVmstate, 0, 0, Cause::Os(EBUSY)));
        }
        let owner = Rc::downgrade(self) as std::rc::Weak<dyn Owner>;
        let session = SaveSession::new(node, geometry, options, self.area.clone(), owner);
        self.activate(&session);
        Ok(session)
    }

    /// The active save.
    pub(crate) fn active(&self) -> Option<Rc<SaveSession>> {
        self.active.borrow().clone()
    }

    /// There must be no active save.
    fn activate(&self, session: &Rc<SaveSession>) {
        debug_assert!(self.active.borrow().is_none());
        *self.active.borrow_mut() = Some(session.clone());
        self.area.saves.set(self.area.saves.get() + 1);
        session.number.set(self.area.saves.get());
        self.area.finalized.set(None);
        self.area.epoch.set(self.area.epoch.get() + 1);
    }
}

impl Owner for ActiveSave {
    fn deactivate(&self, session: &SaveSession) {
        let ours = self
            .active
            .borrow()
            .as_ref()
            .is_some_and(|active| std::ptr::eq(&**active, session));
        if ours {
            let gone = self.active.borrow_mut().take();
            self.area.epoch.set(self.area.epoch.get() + 1);
            drop(gone);
        }
    }
}
