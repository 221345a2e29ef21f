//! From a cell to driver calls: what of it is written, what is kept, and the task that does it.

use crate::area_state::FlightGuard;
use crate::ranges::Ranges;
use crate::save::cells::{Buffer, FillingCell};
use crate::save::partial_blocks::KeptBlock;
use crate::save::session::{SaveSession, State};
use crate::save::written::Written;
use aio_task::{NotDriven, Slot};
use block_core::{
    AllocError, BlockError, BlockNode, Cause, IoBuf, ReadVector, Result, SharedBuf, VmstateOffset,
};
use std::ops::Range;
use std::rc::Rc;

/// Why a cell is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its buffer is needed, or nothing is missing from it: partly written blocks may be kept for later.
    Room,
    /// Everything must be written now.
    Flush,
}

/// What became of a cell that was to be submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
    /// It is no longer being filled.
    Yes,
    /// Every worker is busy, or the context is not driven, where a driver call that has to wait would fail; nothing was done.
    NoSlot,
    /// An older version of it is in flight; nothing was done.
    InFlight,
}

/// One task of the pool: the writes of one cell, one after the other.
///
/// It owns the buffer until the task is over, however it ends, and the save with it: a save that was dropped still has its flights.
struct Job {
    core: Rc<SaveSession>,
    node: BlockNode,
    /// First byte of the cell.
    start: u64,
    /// The cell's bytes, if any of them are to be written: taken by drop.
    bytes: Option<(SharedBuf, Ranges)>,
    /// Whole blocks to be written, relative to `start`.
    runs: Vec<Range<u32>>,
    /// Blocks of `bytes` that are valid in part, relative to `start`.
    partial: Vec<u32>,
    /// Kept blocks of the cell.
    kept: Vec<KeptBlock>,
    /// Past this end of the area no save wrote before the job: blocks there need no read, unless something was stored there before.
    driver_end: u64,
    _flight: FlightGuard,
}

impl SaveSession {
    /// Moves a filling cell into a task, without waiting: the slot comes first, then the buffer moves. The caller has the turn.
    ///
    /// The task is polled before this returns, so that its first driver call has been made.
    pub(crate) fn submit_cell(
        self: &Rc<Self>,
        node: &BlockNode,
        index: u64,
        why: Why,
    ) -> Result<Submitted> {
        let range = self.geometry.range(index);
        if self.area.is_flying(&range) {
            return Ok(Submitted::InFlight);
        }
        let Some(slot) = self.slot() else {
            return Ok(Submitted::NoSlot);
        };
        let Some(cell) = self.state.borrow_mut().cells.remove(index) else {
            return Ok(Submitted::Yes);
        };
        let driver_end = self.area.driver_end.get();
        let unread_from = self.unread_from();
        let planned = self.plan(&mut self.state.borrow_mut(), cell, why, unread_from);
        let (buffer, runs, partial) = match planned {
            Ok(plan) => plan,
            Err((buffer, error)) => {
                self.give_buffer(Some(buffer));
                return Err(self.fail(self.out_of_memory(error)));
            }
        };
        if runs.is_empty() && partial.is_empty() {
            self.give_buffer(Some(buffer));
            return Ok(Submitted::Yes);
        }
        let block = self.geometry.block as u32;
        let spans = runs.iter().cloned();
        let spans = spans.chain(partial.iter().map(|at| *at..at + block));
        let all = spans.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
        let all = all.unwrap_or_default();
        self.note_written(range.start + u64::from(all.start)..range.start + u64::from(all.end));
        let job = Job {
            core: self.clone(),
            node: node.clone(),
            start: range.start,
            bytes: Some((buffer.memory.freeze(), buffer.valid)),
            runs,
            partial,
            kept: Vec::new(),
            driver_end,
            _flight: self.area.take_off(range),
        };
        self.start(slot, job)
    }

    /// Moves the dirty kept blocks of a cell into a task, as [`SaveSession::submit_cell`] does with a buffer.
    pub(crate) fn submit_kept(self: &Rc<Self>, node: &BlockNode, index: u64) -> Result<Submitted> {
        let range = self.geometry.range(index);
        if self.area.is_flying(&range) {
            return Ok(Submitted::InFlight);
        }
        let Some(slot) = self.slot() else {
            return Ok(Submitted::NoSlot);
        };
        let kept = self
            .state
            .borrow_mut()
            .kept
            .take_dirty(&self.geometry, index);
        let driver_end = self.area.driver_end.get();
        if let (Some(first), Some(last)) = (kept.first(), kept.last()) {
            self.note_written(first.at..last.at + self.geometry.block);
        }
        let job = Job {
            core: self.clone(),
            node: node.clone(),
            start: range.start,
            bytes: None,
            runs: Vec::new(),
            partial: Vec::new(),
            kept,
            driver_end,
            _flight: self.area.take_off(range),
        };
        self.start(slot, job)
    }

    /// Starts the job in its slot. Where the context is gone, what the job was to write is lost, and the save has failed.
    fn start(&self, slot: Slot<BlockError>, job: Job) -> Result<Submitted> {
        match slot.start(job.run()) {
            Ok(_) => Ok(Submitted::Yes),
            Err(NotDriven) => Err(self.fail(self.error_here(Cause::NotDriven))),
        }
    }

    /// Decides about each block of a cell: whole ones become runs, partly written ones are kept, padded, or merged by the task.
    #[allow(
        clippy::type_complexity,
        reason = "one caller, which takes it apart at once"
    )]
    fn plan(
        &self,
        state: &mut State,
        mut cell: FillingCell,
        why: Why,
        unread_from: u64,
    ) -> Result<(Buffer, Vec<Range<u32>>, Vec<u32>), (Buffer, AllocError)> {
        let geometry = &self.geometry;
        let start = geometry.start(cell.index);
        let block = geometry.block as u32;
        self.fill_gaps(&state.written, &mut cell);
        let mut buffer = cell.buffer;
        let mut partial = Vec::new();
        for at in partial_blocks(&buffer.valid, block) {
            let in_area = start + u64::from(at);
            let blank = self.is_blank(&state.written, &(in_area..in_area + geometry.block));
            let keep = |buffer: &Buffer, dirty| {
                let bytes = &buffer.memory[at as usize..(at + block) as usize];
                let mut valid = Ranges::default();
                for part in buffer.valid.within(at..at + block) {
                    valid.insert(part.start - at..part.end - at);
                }
                IoBuf::copy_of(bytes, geometry.memory).map(|data| KeptBlock {
                    at: in_area,
                    data,
                    valid,
                    dirty,
                    blank,
                })
            };
            match why {
                Why::Room if state.kept.has_room(geometry) => match keep(&buffer, true) {
                    Ok(kept) => state.kept.keep(geometry, kept),
                    Err(error) => return Err((buffer, error)),
                },
                _ if blank || (why == Why::Flush && in_area >= unread_from) => {
                    // Nothing that counts is stored in this block: the rest of it is zeroes, and goes out with its neighbours.
                    let gaps: Vec<_> = buffer.valid.gaps(at..at + block).collect();
                    for gap in gaps {
                        buffer.memory[gap.start as usize..gap.end as usize].fill(0);
                    }
                    buffer.valid.insert(at..at + block);
                    if let Ok(kept) = keep(&buffer, false) {
                        state.kept.keep(geometry, kept);
                    }
                }
                _ => partial.push(at),
            }
        }
        let runs = buffer
            .valid
            .iter()
            .map(|part| part.start.next_multiple_of(block)..part.end - part.end % block)
            .filter(|run| run.start < run.end)
            .collect();
        Ok((buffer, runs, partial))
    }

    /// A free worker. None while the context is not driven.
    pub(crate) fn slot(&self) -> Option<Slot<BlockError>> {
        self.handle.is_driven().then(|| self.pool.try_reserve())?
    }

    /// Fills the short gaps of a cell in a fresh area with zeroes, where nothing was written before. Gaps at the cell's edges stay: they
    /// cost no request, and may be part of a longer one.
    pub(crate) fn fill_gaps(&self, written: &Written, cell: &mut FillingCell) {
        let start = self.geometry.start(cell.index);
        cell.buffer.fill_gaps(|gap| {
            let in_area = start + u64::from(gap.start)..start + u64::from(gap.end);
            in_area.end - in_area.start < self.gap_threshold && self.is_blank(written, &in_area)
        });
    }
}

/// Blocks of which some bytes are valid and some are not, in order.
fn partial_blocks(valid: &Ranges, block: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for part in valid.iter() {
        for edge in [part.start, part.end] {
            let at = edge - edge % block;
            if at != edge && found.last() != Some(&at) {
                found.push(at);
            }
        }
    }
    found
}

impl Job {
    /// Writes everything. Stops at the first error, which becomes the save's failure, or when the save has failed or was cancelled.
    async fn run(self) -> Result<()> {
        let result = self.write_all().await;
        if let Err(error) = &result {
            self.core.fail(error.clone());
        }
        result
    }

    async fn write_all(&self) -> Result<()> {
        if let Some((bytes, valid)) = &self.bytes {
            for run in &self.runs {
                let piece = bytes.slice(run.start as usize..run.end as usize);
                self.write(self.start + u64::from(run.start), piece).await?;
            }
            for &at in &self.partial {
                let block = at..at + self.core.geometry.block as u32;
                let overlay = |scratch: &mut [u8]| {
                    for part in valid.within(block.clone()) {
                        scratch[(part.start - at) as usize..(part.end - at) as usize]
                            .copy_from_slice(&bytes[part.start as usize..part.end as usize]);
                    }
                };
                self.merge(self.start + u64::from(at), false, overlay)
                    .await?;
            }
        }
        for kept in &self.kept {
            let overlay = |scratch: &mut [u8]| {
                for part in kept.valid.iter() {
                    let part = part.start as usize..part.end as usize;
                    scratch[part.clone()].copy_from_slice(&kept.data[part]);
                }
            };
            self.merge(kept.at, kept.blank, overlay).await?;
        }
        Ok(())
    }

    /// One driver write.
    async fn write(&self, at: u64, bytes: SharedBuf) -> Result<()> {
        self.core.check()?;
        let len = bytes.len() as u64;
        self.core.progress.submitted.add(len);
        self.node
            .save_vmstate_unbuffered(VmstateOffset(at), bytes.into())
            .await?;
        self.core.progress.completed.add(len);
        Ok(())
    }

    /// Writes one partly valid block: over what is stored there, or over zeroes where nothing ever was, or where it is `blank`.
    async fn merge(&self, at: u64, blank: bool, overlay: impl Fn(&mut [u8])) -> Result<()> {
        let geometry = &self.core.geometry;
        let mut scratch = IoBuf::zeroed(geometry.block as usize, geometry.memory)
            .map_err(|error| self.core.out_of_memory(error))?;
        if !blank && (at < self.driver_end || at < self.core.stored_end(&self.node).await?) {
            self.core.check()?;
            let (read, result) = self
                .node
                .load_vmstate_unbuffered(VmstateOffset(at), ReadVector::from(scratch))
                .await;
            result?;
            match read.into_parts().pop() {
                Some(part) => scratch = part,
                None => return Err(self.core.out_of_memory(AllocError { bytes: 0 })),
            }
        }
        overlay(&mut scratch);
        let stored = scratch.freeze();
        self.write(at, stored.clone()).await?;
        self.keep_clean(at, stored);
        Ok(())
    }

    /// The block is stored, and its content known: a later write inside it need not read it.
    fn keep_clean(&self, at: u64, stored: SharedBuf) {
        let geometry = &self.core.geometry;
        let Ok(data) = stored.try_into_mut() else {
            return;
        };
        let mut valid = Ranges::default();
        valid.insert(0..geometry.block as u32);
        let mut state = self.core.state.borrow_mut();
        // A newer version that is being filled comes after this one.
        let newer = state.cells.get(geometry.index(at)).is_some() || state.kept.contains(at);
        if !newer && state.ended.is_none() {
            state.kept.keep(
                geometry,
                KeptBlock {
                    at,
                    data,
                    valid,
                    dirty: false,
                    blank: false,
                },
            );
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some((bytes, valid)) = self.bytes.take() {
            // A driver that was left in the middle still has the memory: it is freed when the driver is done.
            let buffer = bytes
                .try_into_mut()
                .ok()
                .map(|memory| Buffer { memory, valid });
            self.core.give_buffer(buffer);
        }
    }
}
