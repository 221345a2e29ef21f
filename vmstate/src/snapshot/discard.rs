//! Dropping what a save has written and no snapshot holds.

use crate::area_state::{Area, FlightGuard};
use block_core::{BlockNode, Cause, Result};
use std::rc::Rc;

/// Waits for what took off before `flight`, then makes the driver drop what no snapshot recorded.
///
/// `flight` covers the whole area, so that nothing of a later save lands before, and is then dropped with it. Taken when the save ends, not
/// when this is polled first: a save that begins meanwhile comes after it.
pub(crate) async fn discard(node: BlockNode, area: Rc<Area>, flight: FlightGuard) -> Result<()> {
    while area.has_flights_before(&flight) {
        area.changed.wait().await;
    }
    match node.discard_vmstate().await {
        Ok(()) => {
            area.driver_end.set(0);
            Ok(())
        }
        // The driver's close has dropped it, or is about to.
        Err(error) if error.cause == Cause::Closed => Ok(()),
        Err(error) => Err(error),
    }
}
