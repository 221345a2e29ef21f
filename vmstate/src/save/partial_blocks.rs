//! Partly written blocks of cells that are no longer being filled, kept in memory.
//!
//! A *dirty* block waits for the rest of its bytes: a later write completes it for nothing, where writing it now would cost a read, or
//! zeroes that are overwritten soon. A *clean* block is stored and its content known, so that a later write inside it needs no read.

use crate::geometry::Geometry;
use crate::ranges::Ranges;
use crate::save::cells::FillingCell;
use block_core::IoBuf;

/// Memory for kept blocks, in bytes; but at least four and at most 64 blocks.
const KEPT_BYTES: u64 = 256 << 10;

/// One block.
pub(crate) struct KeptBlock {
    /// Its first byte in the area.
    pub(crate) at: u64,
    pub(crate) data: IoBuf,
    pub(crate) valid: Ranges,
    /// Some valid byte is not stored.
    pub(crate) dirty: bool,
    /// Nothing that counts is stored in the block (see [`SaveSession::is_blank`](crate::save::SaveSession::is_blank)): its missing bytes are zeroes. Stays
    /// true while the block is kept: every write to it moves it into a cell.
    pub(crate) blank: bool,
}

/// The kept blocks, oldest first. Never one inside a cell that is being filled: [`Kept::absorb`] moved it there.
#[derive(Default)]
pub(crate) struct Kept(Vec<KeptBlock>);

impl Kept {
    /// True if another dirty block may be kept.
    pub(crate) fn has_room(&self, geometry: &Geometry) -> bool {
        self.0.iter().filter(|kept| kept.dirty).count() < room(geometry)
    }

    /// Keeps a block. A clean one is let go for it if there is no room, or is not kept itself.
    pub(crate) fn keep(&mut self, geometry: &Geometry, block: KeptBlock) {
        debug_assert!(self.0.iter().all(|kept| kept.at != block.at));
        if self.0.len() >= room(geometry) {
            match self.0.iter().position(|kept| !kept.dirty) {
                Some(clean) => drop(self.0.remove(clean)),
                None if !block.dirty => return,
                None => debug_assert!(false, "the caller asked has_room"),
            }
        }
        self.0.push(block);
    }

    /// Moves what is kept of a cell into its new buffer.
    pub(crate) fn absorb(&mut self, geometry: &Geometry, cell: &mut FillingCell) {
        let range = geometry.range(cell.index);
        self.0.retain(|kept| {
            if !range.contains(&kept.at) {
                return true;
            }
            let base = (kept.at - range.start) as usize;
            for part in kept.valid.iter() {
                let (from, to) = (part.start as usize, part.end as usize);
                cell.buffer.memory[base + from..base + to].copy_from_slice(&kept.data[from..to]);
                cell.buffer
                    .valid
                    .insert((base + from) as u32..(base + to) as u32);
            }
            false
        });
    }

    /// Copies valid bytes over `dst`, which holds the area's bytes from `at` on.
    pub(crate) fn overlay(&self, at: u64, dst: &mut [u8]) {
        let end = at + dst.len() as u64;
        for kept in &self.0 {
            for part in kept.valid.iter() {
                let from = (kept.at + u64::from(part.start)).max(at);
                let to = (kept.at + u64::from(part.end)).min(end);
                if from < to {
                    let source = &kept.data[(from - kept.at) as usize..(to - kept.at) as usize];
                    dst[(from - at) as usize..(to - at) as usize].copy_from_slice(source);
                }
            }
        }
    }

    /// True if something of this block is kept.
    pub(crate) fn contains(&self, at: u64) -> bool {
        self.0.iter().any(|kept| kept.at == at)
    }

    /// What the area has in these blocks is to be kept.
    pub(crate) fn none_is_blank(&mut self) {
        self.0.iter_mut().for_each(|kept| kept.blank = false);
    }

    /// The cells that have dirty blocks here.
    pub(crate) fn dirty_cells(&self, geometry: &Geometry) -> Vec<u64> {
        let mut cells: Vec<u64> = self
            .0
            .iter()
            .filter(|kept| kept.dirty)
            .map(|kept| geometry.index(kept.at))
            .collect();
        cells.sort_unstable();
        cells.dedup();
        cells
    }

    /// Takes the dirty blocks of one cell out, lowest first.
    pub(crate) fn take_dirty(&mut self, geometry: &Geometry, index: u64) -> Vec<KeptBlock> {
        let mut taken: Vec<_> = self
            .0
            .extract_if(.., |kept| kept.dirty && geometry.index(kept.at) == index)
            .collect();
        taken.sort_unstable_by_key(|kept| kept.at);
        taken
    }
}

fn room(geometry: &Geometry) -> usize {
    (KEPT_BYTES / geometry.block).clamp(4, 64) as usize
}
