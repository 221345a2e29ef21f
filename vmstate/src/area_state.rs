//! What is shared by all saves and loads of one vmstate area, and lives with its node.

use aio_task::CoQueue;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

/// The area's account: which of its bytes are in flight, and how far it was ever written. Knows neither node nor saves, so that all of
/// these may point here.
#[derive(Default)]
pub(crate) struct Area {
    flights: RefCell<Vec<Flight>>,
    next_flight: Cell<u64>,
    /// Woken, all of them, whenever a flight ends.
    pub(crate) changed: CoQueue,
    /// Highest end of any driver write that was ever started here, by any save. Past it nothing was ever written.
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
