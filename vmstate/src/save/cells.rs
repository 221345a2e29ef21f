//! Buffers being filled: the write-back window.

use crate::geometry::Geometry;
use crate::ranges::Ranges;
use block_core::IoBuf;
use std::ops::Range;

/// More ranges than this in one cell, and it is written although not full: bounds the list, and the cost of an insertion.
const MAX_RANGES: usize = 1024;

/// Memory of one cell and which of its bytes are valid. Recycled as one, list and all.
pub(crate) struct Buffer {
    pub(crate) memory: IoBuf,
    pub(crate) valid: Ranges,
}

/// A cell that is being filled.
pub(crate) struct FillingCell {
    pub(crate) index: u64,
    pub(crate) buffer: Buffer,
    /// Of [`Cells::clock`], at the last write.
    used: u64,
}

impl Buffer {
    /// Fills with zeroes each gap between two valid ranges for which `may_fill` returns true, and makes it valid.
    pub(crate) fn fill_gaps(&mut self, may_fill: impl Fn(&Range<u32>) -> bool) {
        let memory = &mut self.memory;
        self.valid.join(|gap| {
            let fill = may_fill(&gap);
            if fill {
                memory[gap.start as usize..gap.end as usize].fill(0);
            }
            fill
        });
    }
}

impl FillingCell {
    /// Every byte is valid, or the list of ranges is as long as it may be: to be written at once.
    pub(crate) fn is_full(&self) -> bool {
        let valid = &self.buffer.valid;
        valid.len() >= MAX_RANGES || valid.covers(0..self.buffer.memory.len() as u32)
    }

    /// No further range may be begun.
    fn is_crowded(&self) -> bool {
        self.buffer.valid.len() >= MAX_RANGES
    }
}

/// The filling cells. Few, so a plain list does.
#[derive(Default)]
pub(crate) struct Cells {
    list: Vec<FillingCell>,
    /// Grows with each write: orders cells by their last use.
    clock: u64,
}

/// What [`Cells::put`] did.
pub(crate) struct Put {
    pub(crate) copied: usize,
    pub(crate) full: bool,
}

impl Cells {
    /// Copies as much of `bytes` as its first cell takes; `None` where that cell is not being filled, or takes no more.
    pub(crate) fn put(&mut self, geometry: &Geometry, at: u64, bytes: &[u8]) -> Option<Put> {
        let index = geometry.index(at);
        let cell = self.list.iter_mut().find(|cell| cell.index == index)?;
        if cell.is_crowded() {
            return None;
        }
        self.clock += 1;
        cell.used = self.clock;
        let from = (at - geometry.start(index)) as usize;
        let copied = bytes.len().min(cell.buffer.memory.len() - from);
        cell.buffer.memory[from..from + copied].copy_from_slice(&bytes[..copied]);
        cell.buffer
            .valid
            .insert(from as u32..(from + copied) as u32);
        Some(Put {
            copied,
            full: cell.is_full(),
        })
    }

    /// True if a write to this cell needs no further buffer.
    pub(crate) fn takes(&self, index: u64) -> bool {
        self.get(index).is_some_and(|cell| !cell.is_crowded())
    }

    pub(crate) fn get(&self, index: u64) -> Option<&FillingCell> {
        self.list.iter().find(|cell| cell.index == index)
    }

    pub(crate) fn get_mut(&mut self, index: u64) -> Option<&mut FillingCell> {
        self.list.iter_mut().find(|cell| cell.index == index)
    }

    /// A new cell. There must be none of this index.
    pub(crate) fn open(&mut self, index: u64, buffer: Buffer) -> &mut FillingCell {
        debug_assert!(self.get(index).is_none());
        self.clock += 1;
        self.list.push(FillingCell {
            index,
            buffer,
            used: self.clock,
        });
        self.list.last_mut().expect("just pushed")
    }

    pub(crate) fn remove(&mut self, index: u64) -> Option<FillingCell> {
        let place = self.list.iter().position(|cell| cell.index == index)?;
        Some(self.list.swap_remove(place))
    }

    /// Indices, the one not used for longest first.
    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = u64> {
        let mut order: Vec<_> = self
            .list
            .iter()
            .map(|cell| (cell.used, cell.index))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, index)| index)
    }

    /// Cells that are to be written at once.
    pub(crate) fn full(&self) -> impl Iterator<Item = u64> + '_ {
        self.list
            .iter()
            .filter(|cell| cell.is_full())
            .map(|cell| cell.index)
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
}
