//! Buffered save: [`VmstateSave`].
//!
//! A write is copied into the buffers of the cells it touches; there is one buffer per cell, so the newest bytes win. A full cell, or the
//! one not used for longest where room is needed, becomes a task of the pool. Two versions of one cell are never in flight together.

mod active; // which save an area has
mod cell_write; // from a cell to driver calls
mod cells; // buffers being filled
mod copy_in; // where the next byte goes
mod finalize; // flush and the end
mod partial_blocks; // partly written blocks, kept for later
mod read; // reading during a save
mod session; // the state of one save, its lock, its failure
mod written; // what the driver was handed already

pub(crate) use self::active::ActiveSave;
pub(crate) use self::session::{Owner, SaveSession};

use self::copy_in::Room;
use crate::extension::Extension;
use crate::{CancelHandle, Progress, SaveOptions};
use block_core::{BlockNode, IoVector, Result, VmstateOffset};
use std::fmt;
use std::rc::Rc;

/// A save in progress.
///
/// Bytes may be written at any positions, in any order, overlapping or not: the stored state always equals the writes applied in the
/// order of the calls. Calls that overlap in time take turns, first come first served.
///
/// The first failure ends the save: from then on every call returns that same error, until [`VmstateSave::finalize`] has waited for
/// what is in flight and freed everything. Dropping the save without `finalize` cancels it: buffered bytes are lost, driver calls that
/// were made still land, and the node counts them.
pub struct VmstateSave {
    node: BlockNode,
    core: Rc<SaveSession>,
}

impl VmstateSave {
    /// Begins a save on the vmstate area of `node`, that is of the node's driver or of its primary child, recursively.
    ///
    /// # Errors
    /// `ENOTSUP` where there is no such area; `EACCES` where the node is read-only; `EBUSY` while another save is active on it; `EINVAL` for a buffer size of 0 or above
    /// 1 GiB. Nothing is written in any case.
    pub fn begin(node: &BlockNode, options: SaveOptions) -> Result<Self> {
        let core = Extension::begin_save(node, options)?;
        Ok(Self {
            node: node.clone(),
            core,
        })
    }

    /// The node that the save was begun on.
    pub fn node(&self) -> &BlockNode {
        &self.node
    }

    /// Bytes of one buffer.
    pub fn buffer_size(&self) -> u64 {
        self.core.geometry.cell
    }

    /// Writes `bytes` at `at`: copies them into buffers, and waits where no buffer is free.
    ///
    /// Dropping the future keeps exactly the prefix copied so far; [`VmstateSave::position`] tells its end.
    ///
    /// # Errors
    /// `Overflow` where the range ends past `i64::MAX`, and nothing is written; else the save's first failure.
    pub async fn write(&self, at: impl Into<VmstateOffset>, bytes: &[u8]) -> Result<()> {
        self.core.write(&self.node, at.into(), bytes).await
    }

    /// [`VmstateSave::write`] of a vector, QEMU's `bdrv_save_vmstate`.
    pub async fn writev(&self, at: impl Into<VmstateOffset>, src: &IoVector) -> Result<()> {
        self.core.writev(&self.node, at.into(), src).await
    }

    /// Copies as many of the first bytes as there is room for now, and tells how many. Never waits, and allocates only buffers.
    ///
    /// 0 (for bytes that are not empty): no room now; await [`VmstateSave::make_room`], then try again. A full buffer is handed to the
    /// driver at once if the context is driven, else by the next call that is awaited.
    pub fn try_write(&self, at: impl Into<VmstateOffset>, bytes: &[u8]) -> Result<usize> {
        self.core.try_write(&self.node, at.into(), bytes)
    }

    /// Waits until [`VmstateSave::try_write`] at `at` would copy at least one byte. Another writer may take the room first.
    ///
    /// Holds nothing while it waits: it may be left unpolled while other calls of this save go on.
    pub async fn make_room(&self, at: impl Into<VmstateOffset>) -> Result<()> {
        self.core.make_room(&self.node, at.into()).await
    }

    /// Hands all accepted bytes to the driver and waits until it has them. It does not flush the node: that is [`BlockNode::flush`].
    ///
    /// A partly written last block is padded with zeroes; a later write inside it is served from a kept copy.
    pub async fn flush(&self) -> Result<()> {
        self.core.flush(&self.node).await
    }

    /// Hands all accepted bytes to the driver, waits for all of them, tells the driver the state's length and frees everything,
    /// QEMU's `bdrv_finalize_vmstate`. Returns the length: the highest end of any write.
    ///
    /// Ends the save: later writes fail with `Closed`, a later `finalize` returns the same again. Dropping the future leaves a save
    /// that can be finalized again.
    pub async fn finalize(&self) -> Result<u64> {
        self.core.finalize(&self.node).await
    }

    /// Ends the save without its result. What is in flight lands; the next save waits for it where it must.
    pub fn cancel(self) {
        drop(self);
    }

    /// Reads what was accepted so far: buffered bytes, those in flight and those stored. Returns how many bytes were copied: fewer than
    /// asked where the highest end comes first, 0 at or past it. Gaps read as the area's content, or as zeroes where they were filled
    /// (see [`SaveOptions`]).
    pub async fn read(&self, at: impl Into<VmstateOffset>, dst: &mut [u8]) -> Result<usize> {
        self.core.read(&self.node, at.into().0, dst).await
    }

    /// The end of the byte that was accepted last.
    pub fn position(&self) -> VmstateOffset {
        VmstateOffset(self.core.position.get())
    }

    /// The highest end of any accepted byte: the state's length so far.
    pub fn length(&self) -> u64 {
        self.core.length.get()
    }

    /// The save's first failure, if it has failed.
    pub fn status(&self) -> Result<()> {
        self.core.failure().map_or(Ok(()), Err)
    }

    /// Counts of bytes, for any thread.
    pub fn progress(&self) -> Progress {
        self.core.progress.clone()
    }

    /// Cancels this save from any thread.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle(self.core.cancel.clone())
    }
}

impl VmstateSave {
    pub(crate) fn core(&self) -> &Rc<SaveSession> {
        &self.core
    }
}

impl Drop for VmstateSave {
    fn drop(&mut self) {
        self.core.abandon();
    }
}

impl fmt::Debug for VmstateSave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmstateSave")
            .field("node", &self.node.name())
            .field("position", &self.position())
            .field("length", &self.length())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl SaveSession {
    pub(crate) async fn write(
        self: &Rc<Self>,
        node: &BlockNode,
        at: VmstateOffset,
        bytes: &[u8],
    ) -> Result<()> {
        self.check_range(at, bytes.len())?;
        let _turn = self.turn().await?;
        self.write_in_turn(node, at.0, bytes).await
    }

    pub(crate) async fn writev(
        self: &Rc<Self>,
        node: &BlockNode,
        at: VmstateOffset,
        src: &IoVector,
    ) -> Result<()> {
        let len = usize::try_from(src.len()).unwrap_or(usize::MAX);
        self.check_range(at, len)?;
        let _turn = self.turn().await?;
        let mut at = at.0;
        for part in src.parts() {
            self.write_in_turn(node, at, part).await?;
            at += part.len() as u64;
        }
        self.check()
    }

    /// The caller has the turn, so that nothing comes between the pieces of one write.
    async fn write_in_turn(self: &Rc<Self>, node: &BlockNode, at: u64, bytes: &[u8]) -> Result<()> {
        self.check()?;
        let mut done = 0;
        while done < bytes.len() {
            let copied = self.copy_in(node, at + done as u64, &bytes[done..])?;
            done += copied;
            if copied == 0 {
                self.until_changed().await?;
                self.check()?;
            }
        }
        Ok(())
    }

    pub(crate) fn try_write(
        self: &Rc<Self>,
        node: &BlockNode,
        at: VmstateOffset,
        bytes: &[u8],
    ) -> Result<usize> {
        self.check_range(at, bytes.len())?;
        self.check()?;
        match self.try_turn() {
            Some(_turn) => self.copy_in(node, at.0, bytes),
            None => Ok(0),
        }
    }

    /// Takes the turn for moments only: a caller that stops polling stops no other.
    pub(crate) async fn make_room(
        self: &Rc<Self>,
        node: &BlockNode,
        at: VmstateOffset,
    ) -> Result<()> {
        self.check_range(at, 1)?;
        loop {
            self.check()?;
            let room = self.try_turn().map(|_turn| self.make_room_now(node, at.0));
            match room.transpose()? {
                Some(Room::Ready) => return Ok(()),
                Some(Room::Wait) => self.until_changed().await?,
                None => self.until_idle().await?,
            }
        }
    }
}
