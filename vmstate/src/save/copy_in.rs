//! Where the next byte goes: finding, opening and making room for its cell. Nothing here waits.

use crate::save::cell_write::{Submitted, Why};
use crate::save::session::{SaveSession, State};
use block_core::{BlockNode, Result};
use std::rc::Rc;

/// Whether a byte can be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Its cell is being filled.
    Ready,
    /// A flight has to end first.
    Wait,
}

impl SaveSession {
    /// Copies as many of the first bytes as there is room for without waiting. The caller has the turn and has checked the range.
    ///
    /// An error is returned only if nothing was copied: what was copied counts, and the failure comes out of the next call.
    pub(crate) fn copy_in(
        self: &Rc<Self>,
        node: &BlockNode,
        at: u64,
        bytes: &[u8],
    ) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let here = at + done as u64;
            let put = self
                .state
                .borrow_mut()
                .cells
                .put(&self.geometry, here, &bytes[done..]);
            let Some(put) = put else {
                match self.make_room_now(node, here) {
                    Ok(Room::Ready) => continue,
                    Ok(Room::Wait) => break,
                    Err(_) if done > 0 => break,
                    Err(error) => return Err(error),
                }
            };
            done += put.copied;
            let end = here + put.copied as u64;
            self.position.set(end);
            self.length.set(self.length.get().max(end));
            self.progress.accepted.add(put.copied as u64);
            let index = self.geometry.index(here);
            if put.full && !self.make_room_in_cell(index) {
                // Where this cannot be done now, the next call that needs room does it.
                match self.submit_cell(node, index, Why::Room) {
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        Ok(done)
    }

    /// Gets the cell of `at` ready to be filled, writing other cells where that helps. The caller has the turn.
    pub(crate) fn make_room_now(self: &Rc<Self>, node: &BlockNode, at: u64) -> Result<Room> {
        let index = self.geometry.index(at);
        loop {
            self.check()?;
            if self.state.borrow().cells.takes(index) {
                return Ok(Room::Ready);
            }
            // Full cells first: they were to be written as soon as they were full. The cell itself may be among them.
            if self.submit_full(node)? == Submitted::NoSlot {
                return Ok(Room::Wait);
            }
            if self.state.borrow().cells.get(index).is_some() {
                return Ok(Room::Wait); // full of ranges, and an older version of it is in flight
            }
            let filling = self.state.borrow().cells.len();
            if filling < self.max_cells {
                if self.open_cell(index)? {
                    return Ok(Room::Ready);
                }
                // Every buffer is in use. One that is in flight comes back by itself.
                if self.state.borrow().buffers() > filling {
                    return Ok(Room::Wait);
                }
            }
            match self.submit_oldest(node)? {
                Submitted::Yes => {}
                Submitted::NoSlot | Submitted::InFlight => return Ok(Room::Wait),
            }
        }
    }

    /// Fills the short gaps of a cell that has as many ranges as it may have. True if it takes more now; false if it is full.
    fn make_room_in_cell(&self, index: u64) -> bool {
        let mut state = self.state.borrow_mut();
        let State { cells, written, .. } = &mut *state;
        cells.get_mut(index).is_some_and(|cell| {
            self.fill_gaps(written, cell);
            !cell.is_full()
        })
    }

    /// Opens the cell, if there is a buffer for it. What was kept of it moves in.
    fn open_cell(&self, index: u64) -> Result<bool> {
        let Some(buffer) = self.take_buffer()? else {
            return Ok(false);
        };
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let cell = state.cells.open(index, buffer);
        state.kept.absorb(&self.geometry, cell);
        Ok(true)
    }

    /// Submits every full cell that may be. `NoSlot` if one of them only lacks a slot.
    fn submit_full(self: &Rc<Self>, node: &BlockNode) -> Result<Submitted> {
        loop {
            let mut progress = false;
            let full: Vec<u64> = self.state.borrow().cells.full().collect();
            for index in full {
                match self.submit_cell(node, index, Why::Room)? {
                    Submitted::Yes => progress = true,
                    Submitted::NoSlot => return Ok(Submitted::NoSlot),
                    Submitted::InFlight => {}
                }
            }
            if !progress {
                return Ok(Submitted::Yes);
            }
        }
    }

    /// Submits the cell that was not written to for longest, of those that are not in flight already.
    fn submit_oldest(self: &Rc<Self>, node: &BlockNode) -> Result<Submitted> {
        let order: Vec<u64> = self.state.borrow().cells.oldest_first().collect();
        for index in order {
            match self.submit_cell(node, index, Why::Room)? {
                Submitted::InFlight => {}
                other => return Ok(other),
            }
        }
        Ok(Submitted::InFlight)
    }
}
