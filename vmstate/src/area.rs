//! What is shared by all saves and loads of one vmstate area, and lives with its node.

use crate::load::LoadCore;
use crate::save::Core;
use aio_task::CoQueue;
use block_core::{BlockError, BlockNode, Cause, NodeExtension, Op, Result};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::{Rc, Weak};

/// The area's account: which of its bytes are in flight, and how far it was ever written. Knows neither node nor saves, so that all of
/// these may point here.
#[derive(Default)]
pub(crate) struct Area {
    flights: RefCell<Vec<Flight>>,
    next_flight: Cell<u64>,
    /// Woken, all of them, whenever a flight ends.
    pub(crate) changed: CoQueue,
    /// Highest end of any driver write that was ever started here, by any save. Behind it nothing was ever written.
    pub(crate) driver_end: Cell<u64>,
    /// Grows whenever a save begins or ends: what was read before is void.
    pub(crate) epoch: Cell<u64>,
    /// Length of the state that the last save has stored. Set by its finalize, cleared when another begins, and when a snapshot takes the
    /// state or it is discarded.
    pub(crate) finalized: Cell<Option<u64>>,
    /// Saves that were ever begun here: the number of the last, to whom the area belongs.
    pub(crate) saves: Cell<u64>,
    /// How often the stored state was replaced or dropped, by snapshots and discards.
    pub(crate) replaced: Cell<u64>,
}

struct Flight {
    id: u64,
    range: Range<u64>,
}

impl Area {
    /// True if a byte of `range` is being written. Two writes of one byte are never in flight together: they could land in either order.
    pub(crate) fn is_flying(&self, range: &Range<u64>) -> bool {
        self.flights
            .borrow()
            .iter()
            .any(|flight| flight.range.start < range.end && range.start < flight.range.end)
    }

    /// True if anything is being written.
    pub(crate) fn has_flights(&self) -> bool {
        !self.flights.borrow().is_empty()
    }

    /// True if anything is being written that took off earlier.
    pub(crate) fn has_flights_before(&self, guard: &FlightGuard) -> bool {
        self.flights.borrow().iter().any(|f| f.id < guard.id)
    }

    /// Bytes of `range` are being written until the guard is dropped.
    pub(crate) fn take_off(self: &Rc<Self>, range: Range<u64>) -> FlightGuard {
        let id = self.next_flight.get();
        self.next_flight.set(id + 1);
        self.flights.borrow_mut().push(Flight { id, range });
        FlightGuard {
            area: self.clone(),
            id,
        }
    }
}

/// See [`Area::take_off`].
pub(crate) struct FlightGuard {
    area: Rc<Area>,
    id: u64,
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        self.area.flights.borrow_mut().retain(|f| f.id != self.id);
        self.area.changed.wake_all();
    }
}

/// The part that the node owns.
#[derive(Default)]
pub(crate) struct Extension {
    pub(crate) area: Rc<Area>,
    /// The save that is active. Set by its begin; cleared when it is finalized, cancelled or closed.
    active: RefCell<Option<Rc<Core>>>,
    /// Read-ahead of `load_vmstate`. Set by the first such call; cleared by `finalize_vmstate` and close.
    pub(crate) load: RefCell<Option<Rc<LoadCore>>>,
}

impl Extension {
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

    /// The active save.
    pub(crate) fn active(&self) -> Option<Rc<Core>> {
        self.active.borrow().clone()
    }

    /// Makes `core` the active save. There must be none.
    pub(crate) fn activate(&self, core: &Rc<Core>) {
        debug_assert!(self.active.borrow().is_none());
        *self.active.borrow_mut() = Some(core.clone());
        self.area.saves.set(self.area.saves.get() + 1);
        core.number.set(self.area.saves.get());
        self.area.finalized.set(None);
        self.area.epoch.set(self.area.epoch.get() + 1);
    }

    /// `core` is over. Another save stays.
    pub(crate) fn deactivate(&self, core: &Core) {
        let ours = self
            .active
            .borrow()
            .as_ref()
            .is_some_and(|active| std::ptr::eq(&**active, core));
        if ours {
            let gone = self.active.borrow_mut().take();
            self.area.epoch.set(self.area.epoch.get() + 1);
            drop(gone);
        }
    }

    /// A reference for those that this owns.
    pub(crate) fn weak(self: &Rc<Self>) -> Weak<Self> {
        Rc::downgrade(self)
    }
}

impl NodeExtension for Extension {
    fn on_close(&self) -> Result<()> {
        let load = self.load.borrow_mut().take();
        drop(load);
        let Some(save) = self.active() else {
            return Ok(());
        };
        let error = save.lost();
        self.deactivate(&save);
        Err(error)
    }

    fn on_vmstate_replaced(&self) {
        self.area.finalized.set(None);
        self.area.replaced.set(self.area.replaced.get() + 1);
        self.area.epoch.set(self.area.epoch.get() + 1);
        let load = self.load.borrow_mut().take();
        drop(load);
        let Some(save) = self.active() else {
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
