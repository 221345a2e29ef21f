//! Reading during a save: what is stored, under what is kept, under what is being filled.

use crate::save::session::SaveSession;
use block_core::{BlockError, BlockNode, Cause, IoBuf, Op, ReadVector, Result, VmstateOffset};
use std::ops::Range;

/// Bytes read from the driver at once; a multiple of every block size up to this.
const PIECE: u64 = 128 << 10;

impl SaveSession {
    /// See [`VmstateSave::read`](crate::VmstateSave::read). An error of the driver is one of this read, not of the save.
    pub(crate) async fn read(&self, node: &BlockNode, at: u64, dst: &mut [u8]) -> Result<usize> {
        self.geometry.check(Op::LoadVmstate, at, dst.len())?;
        let _turn = self.turn().await?;
        self.check()?;
        let there = self.length.get().saturating_sub(at);
        let len = there.min(dst.len() as u64) as usize;
        let mut done = 0;
        while done < len {
            let here = at + done as u64;
            let cell = self.geometry.range(self.geometry.index(here));
            let piece = (here - here % PIECE + PIECE).min(cell.end) - here;
            let next = (done + piece as usize).min(len);
            self.read_piece(node, here, &mut dst[done..next]).await?;
            done = next;
        }
        Ok(len)
    }

    /// Reads bytes of one cell. Nothing can be submitted meanwhile: the turn is ours.
    async fn read_piece(&self, node: &BlockNode, at: u64, dst: &mut [u8]) -> Result<()> {
        let end = at + dst.len() as u64;
        if !self.is_filling(at..end) {
            let blocks = self.geometry.block_down(at)..self.geometry.block_up(end);
            while self.area.is_flying(&blocks) {
                self.until_changed().await?;
                self.check()?;
            }
            let stored = self.read_stored(node, blocks.clone()).await?;
            // A save that has failed meanwhile has let go of the bytes that belong over these.
            self.check()?;
            let from = (at - blocks.start) as usize;
            dst.copy_from_slice(&stored[from..from + dst.len()]);
        }
        let state = self.state.borrow();
        state.kept.overlay(at, dst);
        let index = self.geometry.index(at);
        if let Some(cell) = state.cells.get(index) {
            let from = (at - self.geometry.start(index)) as u32;
            let buffer = &cell.buffer;
            for part in buffer.valid.within(from..from + dst.len() as u32) {
                let source = &buffer.memory[part.start as usize..part.end as usize];
                dst[(part.start - from) as usize..(part.end - from) as usize]
                    .copy_from_slice(source);
            }
        }
        Ok(())
    }

    /// True if the bytes, all of one cell, are all in its buffer.
    fn is_filling(&self, bytes: Range<u64>) -> bool {
        let index = self.geometry.index(bytes.start);
        let start = self.geometry.start(index);
        let range = (bytes.start - start) as u32..(bytes.end - start) as u32;
        let state = self.state.borrow();
        let cell = state.cells.get(index);
        cell.is_some_and(|cell| cell.buffer.valid.covers(range))
    }

    async fn read_stored(&self, node: &BlockNode, blocks: Range<u64>) -> Result<IoBuf> {
        let len = blocks.end - blocks.start;
        let failed = |cause| BlockError::new(Op::LoadVmstate, blocks.start, len, cause);
        let memory = IoBuf::zeroed(len as usize, self.geometry.memory)
            .map_err(|_| failed(Cause::OutOfMemory { bytes: len }))?;
        if blocks.start >= self.unread_from() {
            // Nothing of the state is stored there. The driver may have something else: an overlay's area shows the backing file.
            return Ok(memory);
        }
        let (read, result) = node
            .load_vmstate_unbuffered(VmstateOffset(blocks.start), ReadVector::from(memory))
            .await;
        result?;
        let part = read.into_parts().pop();
        part.ok_or_else(|| failed(Cause::Short { moved: 0 }))
    }
}
