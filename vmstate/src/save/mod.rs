//! Buffered save: [`VmstateSave`].
#![allow(clippy::todo, unused_variables, reason = "shape first; bodies follow")]

use crate::{CancelHandle, Progress, SaveOptions};
use block_core::{BlockNode, IoVector, Result, VmstateOffset};

/// A save in progress.
///
/// Bytes may be written at any positions, in any order, overlapping or not: the stored state always equals the writes applied in the
/// order of the calls. Calls that overlap in time take turns, first come first served.
///
/// The first failure ends the save: from then on every call returns that same error, until [`VmstateSave::finalize`] has waited for
/// what is in flight and freed everything. Dropping the save without `finalize` cancels it: buffered bytes are lost, driver calls that
/// were made still land, and the node counts them.
pub struct VmstateSave {
    _todo: (),
}

impl VmstateSave {
    /// Begins a save on the vmstate area of `node`, that is of the node's driver or of its primary child, recursively.
    ///
    /// # Errors
    /// `ENOTSUP` where there is no such area; `EBUSY` while another save is active on it; `EINVAL` for a buffer size of 0 or above
    /// 1 GiB. Nothing is written in any case.
    pub fn begin(node: &BlockNode, options: SaveOptions) -> Result<Self> {
        todo!()
    }

    /// The node that the save was begun on.
    pub fn node(&self) -> &BlockNode {
        todo!()
    }

    /// Bytes of one buffer.
    pub fn buffer_size(&self) -> u64 {
        todo!()
    }

    /// Writes `bytes` at `at`: copies them into buffers, and waits where no buffer is free.
    ///
    /// Dropping the future keeps exactly the prefix copied so far; [`VmstateSave::position`] tells its end.
    ///
    /// # Errors
    /// `Overflow` where the range ends behind `i64::MAX`, and nothing is written; else the save's first failure.
    pub async fn write(&self, at: impl Into<VmstateOffset>, bytes: &[u8]) -> Result<()> {
        todo!()
    }

    /// [`VmstateSave::write`] of a vector, QEMU's `bdrv_save_vmstate`.
    pub async fn writev(&self, at: impl Into<VmstateOffset>, src: &IoVector) -> Result<()> {
        todo!()
    }

    /// Copies as many of the first bytes as there is room for now, and tells how many. Never waits, and allocates only buffers.
    ///
    /// 0 (for bytes that are not empty): no room now; await [`VmstateSave::make_room`], then try again.
    pub fn try_write(&self, at: impl Into<VmstateOffset>, bytes: &[u8]) -> Result<usize> {
        todo!()
    }

    /// Waits until [`VmstateSave::try_write`] at `at` would copy at least one byte. Another writer may take the room first.
    ///
    /// Holds nothing while it waits: it may be left unpolled while other calls of this save go on.
    pub async fn make_room(&self, at: impl Into<VmstateOffset>) -> Result<()> {
        todo!()
    }

    /// Hands all accepted bytes to the driver and waits until it has them. It does not flush the node: that is [`BlockNode::flush`].
    ///
    /// A partly written last block is padded with zeroes; a later write inside it is served from a kept copy.
    pub async fn flush(&self) -> Result<()> {
        todo!()
    }

    /// Hands all accepted bytes to the driver, waits for all of them, tells the driver the state's length and frees everything,
    /// QEMU's `bdrv_finalize_vmstate`. Returns the length: the highest end of any write.
    ///
    /// Ends the save: later writes fail with `Closed`, a later `finalize` returns the same again. Dropping the future leaves a save
    /// that can be finalized again.
    pub async fn finalize(&self) -> Result<u64> {
        todo!()
    }

    /// Ends the save without its result. What is in flight lands; the next save waits for it where it must.
    pub fn cancel(self) {
        todo!()
    }

    /// Reads what was accepted so far: buffered bytes, those in flight and those stored. Returns how many bytes were copied: fewer than
    /// asked where the highest end comes first, 0 at or behind it. Gaps read as the area's content.
    pub async fn read(&self, at: impl Into<VmstateOffset>, dst: &mut [u8]) -> Result<usize> {
        todo!()
    }

    /// The end of the byte that was accepted last.
    pub fn position(&self) -> VmstateOffset {
        todo!()
    }

    /// The highest end of any accepted byte: the state's length so far.
    pub fn length(&self) -> u64 {
        todo!()
    }

    /// The save's first failure, if it has failed.
    pub fn status(&self) -> Result<()> {
        todo!()
    }

    /// Counts of bytes, for any thread.
    pub fn progress(&self) -> Progress {
        todo!()
    }

    /// Cancels this save from any thread.
    pub fn cancel_handle(&self) -> CancelHandle {
        todo!()
    }
}
