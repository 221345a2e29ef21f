//! The state of one save, and the ways in which it ends.

use crate::area_state::Area;
use crate::call_lock::{Turn, TurnLock};
use crate::geometry::Geometry;
use crate::ranges::Ranges;
use crate::save::cells::{Buffer, Cells};
use crate::save::partial_blocks::Kept;
use crate::save::written::Written;
use crate::snapshot::{discard, on_its_own};
use crate::{Progress, SaveOptions};
use aio_task::edge::CancelFlag;
use aio_task::{AioHandle, AioTaskPool};
use block_core::{AllocError, BlockError, BlockNode, Cause, IoBuf, Op, Result, VmstateOffset};
use futures::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::pin::pin;
use std::rc::{Rc, Weak};

/// What knows which save is active.
pub(crate) trait Owner {
    /// This save is over. Another save stays active.
    fn deactivate(&self, session: &SaveSession);
}

/// One save. Owned by the node's extension, by the [`VmstateSave`](crate::VmstateSave) if there is one, and by its tasks. It does
/// not hold the node: each call brings it along.
pub(crate) struct SaveSession {
    pub(crate) geometry: Geometry,
    /// Most buffers in existence: one per worker and one to fill meanwhile.
    max_buffers: usize,
    /// Most cells being filled.
    pub(crate) max_cells: usize,
    pub(crate) handle: AioHandle,
    pub(crate) area: Rc<Area>,
    owner: Weak<dyn Owner>,
    /// See [`SaveOptions::gap_threshold`].
    pub(crate) gap_threshold: u64,
    /// See [`SaveOptions::fresh`]. Set by begin, and when the area was emptied; cleared when its content is replaced under the save.
    fresh: Cell<bool>,
    /// Of [`Area::saves`]. Set by begin.
    pub(crate) number: Cell<u64>,
    /// Of [`Area::replaced`]. Set by finalize: the state is in the area while the two are equal.
    pub(crate) finalized_at: Cell<u64>,
    pub(crate) pool: AioTaskPool<BlockError>,
    /// Held by the one call that is at work on the save. Everything is submitted under it.
    turn: TurnLock,
    pub(crate) state: RefCell<State>,
    /// The end of the byte that was accepted last, and the highest one.
    pub(crate) position: Cell<u64>,
    pub(crate) length: Cell<u64>,
    /// Length of what was stored before this save, where the driver tells it, else 0; `None` until it is needed.
    stored_end: Cell<Option<u64>>,
    pub(crate) progress: Progress,
    pub(crate) cancel: CancelFlag,
}

/// Borrowed for moments only: never across an await, a poll, or a waker.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) cells: Cells,
    pub(crate) kept: Kept,
    /// What was handed to the driver, in a fresh area.
    pub(crate) written: Written,
    /// Buffers that nothing uses.
    spare: Vec<Buffer>,
    /// Buffers in existence: filling, in flight and spare. At most [`SaveSession::max_buffers`].
    buffers: usize,
    /// The save's first failure. Set once.
    failed: Option<BlockError>,
    /// Bytes accepted when the driver was last told the length.
    pub(crate) told: Option<u64>,
    /// What finalize returned. Set once, by the finalize that freed everything.
    pub(crate) ended: Option<Result<u64>>,
}

impl SaveSession {
    /// Nothing is written yet.
    pub(crate) fn new(
        node: &BlockNode,
        geometry: Geometry,
        options: SaveOptions,
        area: Rc<Area>,
        owner: Weak<dyn Owner>,
    ) -> Rc<Self> {
        let max_buffers = options.workers.get().saturating_add(1);
        Rc::new(Self {
            geometry,
            max_buffers,
            max_cells: options.cursors.get().min(max_buffers),
            handle: node.handle().clone(),
            area,
            owner,
            gap_threshold: options.gap_threshold,
            fresh: Cell::new(options.fresh),
            number: Cell::new(0),
            finalized_at: Cell::new(0),
            pool: AioTaskPool::new(node.handle(), options.workers),
            turn: TurnLock::new(),
            state: RefCell::default(),
            position: Cell::new(0),
            length: Cell::new(0),
            stored_end: Cell::new(None),
            progress: Progress::default(),
            cancel: CancelFlag::new(),
        })
    }

    /// Empties the area before the first byte, in a driver that can: what an earlier save has left there and no snapshot recorded is
    /// dropped, when all that is in flight has landed. No block has to be read before it is padded then.
    pub(crate) async fn begin_empty(&self, node: &BlockNode) -> Result<()> {
        let flight = self.area.take_off(0..u64::MAX);
        let discard = discard(node.clone(), self.area.clone(), flight);
        on_its_own(&self.handle, discard).await.and_then(|r| r)?;
        self.stored_end.set(Some(0));
        self.fresh.set(true);
        Ok(())
    }

    /// The area's content was replaced, and nothing is known of what it has now.
    pub(crate) fn area_was_replaced(&self) {
        self.fresh.set(false);
        self.stored_end.set(None);
        self.state.borrow_mut().kept.none_is_blank();
    }

    /// True if no reader relies on any of these bytes: the area is fresh, and this save has handed none of them to the driver.
    pub(crate) fn is_blank(&self, written: &Written, range: &Range<u64>) -> bool {
        self.fresh.get() && !written.overlaps(range)
    }

    /// Bytes of `range`, which lie in one cell, are about to be handed to the driver.
    pub(crate) fn note_written(&self, range: Range<u64>) {
        let end = &self.area.driver_end;
        end.set(end.get().max(range.end));
        if self.fresh.get() {
            let written = &mut self.state.borrow_mut().written;
            written.insert(range, self.geometry.cell);
        }
    }

    /// No save has begun here since.
    pub(crate) fn owns_area(&self) -> bool {
        self.number.get() == self.area.saves.get()
    }

    /// The end of a range, if the range may be written.
    pub(crate) fn check_range(&self, at: VmstateOffset, len: usize) -> Result<u64> {
        self.geometry.check(Op::SaveVmstate, at.0, len)
    }

    /// An error if the save has failed, was cancelled, or is over. A cancel becomes the save's failure here, if it has none.
    pub(crate) fn check(&self) -> Result<()> {
        {
            let state = self.state.borrow();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if state.ended.is_some() {
                return Err(self.error_here(Cause::Closed));
            }
        }
        if self.cancel.is_cancelled() {
            return Err(self.fail(self.error_here(Cause::Cancelled)));
        }
        Ok(())
    }

    /// The save's first failure is this one, unless there was one before; returns the first. Buffers are let go: they will not be written.
    pub(crate) fn fail(&self, error: BlockError) -> BlockError {
        let (first, gone);
        {
            let mut state = self.state.borrow_mut();
            first = state.failed.get_or_insert(error).clone();
            gone = state.release();
        }
        drop(gone);
        // A task that waits for room or for a flight learns of it now.
        self.area.changed.wake_all();
        first
    }

    /// The save's first failure.
    pub(crate) fn failure(&self) -> Option<BlockError> {
        self.state.borrow().failed.clone()
    }

    /// An error of the save as a whole, at the position reached.
    pub(crate) fn error_here(&self, cause: Cause) -> BlockError {
        BlockError::new(Op::SaveVmstate, self.position.get(), 0, cause)
    }

    /// Its owner has gone: a cancel that no task asks the result of.
    pub(crate) fn abandon(&self) {
        self.cancel.cancel();
        if self.state.borrow().ended.is_none() {
            self.fail(self.error_here(Cause::Cancelled));
        }
        self.leave();
    }

    /// The node closes under the save: what the close has to report.
    pub(crate) fn lost(&self) -> BlockError {
        self.fail(self.error_here(Cause::Unfinalized))
    }

    /// The node may begin another save.
    pub(crate) fn leave(&self) {
        if let Some(owner) = self.owner.upgrade() {
            owner.deactivate(self);
        }
    }

    /// Waits for its turn, first come first served.
    pub(crate) async fn turn(&self) -> Result<Turn<'_>> {
        match self.turn.try_take() {
            Some(turn) => Ok(turn),
            None => self.driven(self.turn.take()).await,
        }
    }

    /// Its turn, if it is free.
    pub(crate) fn try_turn(&self) -> Option<Turn<'_>> {
        self.turn.try_take()
    }

    /// Waits until a turn has ended, not in line.
    pub(crate) async fn until_idle(&self) -> Result<()> {
        self.driven(self.turn.until_idle()).await
    }

    /// Waits until a flight of the area has ended, or the save was cancelled.
    pub(crate) async fn until_changed(&self) -> Result<()> {
        let changed = pin!(self.area.changed.wait());
        let cancelled = pin!(self.cancel.cancelled());
        match self.driven(select(changed, cancelled)).await? {
            Either::Left(_) => Ok(()),
            Either::Right(_) => self.check(),
        }
    }

    /// Waits for `f`, unless the context is not driven: an error of this call, not of the save.
    pub(crate) async fn driven<F: Future>(&self, f: F) -> Result<F::Output> {
        let here = |_| self.error_here(Cause::NotDriven);
        self.handle.while_driven(f).await.map_err(here)
    }

    /// Past this end of the area nothing was stored before this save began. What the save itself writes is in [`Area::driver_end`].
    pub(crate) async fn stored_end(&self, node: &BlockNode) -> Result<u64> {
        if let Some(end) = self.stored_end.get() {
            return Ok(end);
        }
        let length = self.driven(node.vmstate_length()).await?;
        match length {
            Ok(length) => {
                let end = length.unwrap_or(0);
                self.stored_end.set(Some(end));
                Ok(end)
            }
            Err(error) if error.cause == Cause::NotDriven => Err(error),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// The end past which a block need not be read before it is padded: as far as anybody has asked, no end at all.
    pub(crate) fn unread_from(&self) -> u64 {
        let stored = self.stored_end.get().unwrap_or(u64::MAX);
        stored.max(self.area.driver_end.get())
    }

    /// A buffer without valid bytes; `None` where as many exist as may.
    pub(crate) fn take_buffer(&self) -> Result<Option<Buffer>> {
        {
            let mut state = self.state.borrow_mut();
            if let Some(buffer) = state.spare.pop() {
                return Ok(Some(buffer));
            }
            if state.buffers >= self.max_buffers {
                return Ok(None);
            }
            state.buffers += 1;
        }
        match IoBuf::zeroed(self.geometry.cell as usize, self.geometry.memory) {
            Ok(memory) => Ok(Some(Buffer {
                memory,
                valid: Ranges::default(),
            })),
            Err(error) => {
                self.state.borrow_mut().buffers -= 1;
                Err(self.fail(self.out_of_memory(error)))
            }
        }
    }

    /// Gives a buffer back; `None`: its memory is lost to someone who still uses it.
    pub(crate) fn give_buffer(&self, buffer: Option<Buffer>) {
        let mut state = self.state.borrow_mut();
        let over = state.failed.is_some() || state.ended.is_some();
        match buffer {
            Some(mut buffer) if !over => {
                buffer.valid.clear();
                state.spare.push(buffer);
            }
            unused => {
                state.buffers -= 1;
                drop(state);
                drop(unused);
            }
        }
    }

    pub(crate) fn out_of_memory(&self, error: AllocError) -> BlockError {
        let bytes = error.bytes as u64;
        BlockError::new(
            Op::SaveVmstate,
            self.position.get(),
            bytes,
            Cause::OutOfMemory { bytes },
        )
    }
}

impl State {
    /// Takes out everything that will not be written any more, to be dropped outside the borrow. Buffers in flight come back later.
    pub(crate) fn release(&mut self) -> impl Sized + use<> {
        let cells = std::mem::take(&mut self.cells);
        let spare = std::mem::take(&mut self.spare);
        self.buffers -= cells.len() + spare.len();
        (cells, spare, std::mem::take(&mut self.kept))
    }

    /// Buffers in existence.
    pub(crate) fn buffers(&self) -> usize {
        self.buffers
    }
}
