//! The machine's state after the guest's disk: QEMU's `qcow2_save_vmstate` and `qcow2_load_vmstate`.
//!
//! ```text
//!   first save_vmstate   a state of its own begins: an L1 table in memory (`guest/l1_table.rs`), written to by the ordinary allocating path
//!   finish_vmstate       its length is known
//!   snapshot_create      its entries become the end of the snapshot's L1 table       (`snapshot/create.rs`)
//!   discard_vmstate      its clusters are freed; goto and close do the same
//! ```
//!
//! Nothing on disk leads to a state before a snapshot records it: a crash leaves its clusters counted and unused. What is read is the state
//! that is being saved; where there is none, what a snapshot that was gone to (here or by QEMU) has left in the active L1 table.

use super::Image;
use crate::qcow2::format::error::{Qcow2Error, Result};
use crate::qcow2::format::offset::GuestOffset;
use crate::qcow2::guest::{Exclusive, L1Table, SNAPSHOTS, STATE, StateL1};
use crate::qcow2::metadata::Walk;
use block_core::{Cause, IoVector, ReadVector, VmstateOffset};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The vmstate area of an open image.
#[derive(Default)]
pub(crate) struct Vmstate {
    /// The state that no snapshot has recorded. Made by the first write, taken by a snapshot or by whatever drops it.
    tree: RefCell<Option<Rc<StateL1>>>,
    /// Bytes of the state in the active L1 table, where a snapshot was gone to while the image was open.
    shown: Cell<Option<u64>>,
}

impl Vmstate {
    fn tree(&self) -> Option<Rc<StateL1>> {
        self.tree.borrow().clone()
    }

    /// The state that is to be recorded, and its length; `None` where there is none, or none of any length.
    pub(crate) fn finished(&self) -> Result<Option<(Rc<StateL1>, u64)>> {
        let Some(tree) = self.tree() else {
            return Ok(None);
        };
        match tree.finished.get() {
            Some(0) => Ok(None),
            Some(len) => Ok(Some((tree, len))),
            None => Err(Qcow2Error::StateUnfinished.into()),
        }
    }

    /// The state is a snapshot's now, or dropped: later writes to it fail.
    pub(crate) fn take(&self) -> Option<Rc<StateL1>> {
        let tree = self.tree.take()?;
        tree.gone.set(true);
        Some(tree)
    }

    /// What the active L1 table has of a state is so long; `None`: not known, or none.
    pub(crate) fn show(&self, len: Option<u64>) {
        self.shown.set(len);
    }
}

impl Image {
    /// Writes to the state that is being saved; the first write begins it.
    ///
    /// Order, concurrency and memory are a guest write's. A request inside one slice of an L2 table (128 MiB at 64 KiB clusters) whose
    /// clusters are new is one write of data. Errors, before anything is written: [`Cause::ReadOnly`],
    /// [`Qcow2Error::SnapshotsWithDataFile`], [`Cause::Overflow`], [`Qcow2Error::TableTooLarge`] where disk and state together need an L1
    /// table of more than 32 MiB; [`Cause::Cancelled`] where the state was recorded or dropped meanwhile.
    pub(crate) async fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> Result<()> {
        self.check_snapshots()?;
        let end = at.checked_add(src.len()).ok_or(Cause::Overflow)?;
        // After a snapshot that is being made, which takes the state with it.
        drop(self.guest.locks().shared(SNAPSHOTS).await);
        self.check_snapshots()?;
        let tree = self.vmstate.tree().unwrap_or_default();
        if src.is_empty() {
            return Ok(());
        }
        let last = self.meta().geometry().l1_index(GuestOffset(end.0 - 1));
        self.guest
            .check_l1_index(&L1Table::State(tree.clone()), last)?;
        tree.finished.set(None);
        *self.vmstate.tree.borrow_mut() = Some(tree.clone());
        self.guest
            .write_guest(&L1Table::State(tree), GuestOffset(at.0), src)
            .await
    }

    /// Reads the state that is being saved, whose gaps are zeroes; where there is none, what the active L1 table has, and the backing file
    /// where that has nothing (QEMU's `qcow2_load_vmstate`).
    pub(crate) async fn load_vmstate(
        &self,
        at: VmstateOffset,
        mut dst: ReadVector,
    ) -> (ReadVector, Result<()>) {
        loop {
            if let Err(cause) = self.guest.check_open() {
                return (dst, Err(cause));
            }
            drop(self.guest.locks().shared(SNAPSHOTS).await);
            let (tree, start) = match self.vmstate.tree() {
                Some(tree) => (L1Table::State(tree), Some(GuestOffset(0))),
                None => {
                    let start = self.meta().geometry().vmstate_start(self.meta().size());
                    (L1Table::Active, start)
                }
            };
            let place = start.and_then(|start| start.checked_add(at.0));
            let Some(place) = place.filter(|place| place.checked_add(dst.len()).is_some()) else {
                return (dst, Err(Cause::Overflow));
            };
            let result;
            (dst, result) = self.guest.read_guest(&tree, place, dst).await;
            // A snapshot took the state while we waited: what the area has now is read.
            let gone = matches!(&tree, L1Table::State(state) if state.gone.get());
            match result {
                Err(Cause::Cancelled) if gone => {}
                result => return (dst, result),
            }
        }
    }

    /// The state is complete and `len` bytes long. A state of which nothing was written is all zeroes. Over a backing file the gaps are
    /// written down (`guest/state_gaps.rs`).
    ///
    /// # Errors
    ///
    /// As [`Image::save_vmstate`], and what the disk says while gaps are written down: the state is not complete then.
    pub(crate) async fn finish_vmstate(&self, len: u64) -> Result<()> {
        self.check_snapshots()?;
        drop(self.guest.locks().shared(SNAPSHOTS).await);
        self.check_snapshots()?;
        let tree = match self.vmstate.tree() {
            Some(tree) => tree,
            None if len == 0 => return Ok(()),
            None => Rc::default(),
        };
        let state = L1Table::State(tree.clone());
        if len > 0 {
            let last = self.meta().geometry().l1_index(GuestOffset(len - 1));
            self.guest.check_l1_index(&state, last)?;
        }
        tree.finished.set(None);
        *self.vmstate.tree.borrow_mut() = Some(tree.clone());
        self.guest.fill_gaps(&state, len).await?;
        self.guest.check_tree(&state)?;
        tree.finished.set(Some(len));
        Ok(())
    }

    /// The length of the state that [`Image::load_vmstate`] reads: that of one being saved once it is finished, else that of the snapshot
    /// that was gone to since the image was opened. `None` where it is not known, or where there is none.
    pub(crate) fn vmstate_length(&self) -> Option<u64> {
        match self.vmstate.tree() {
            Some(tree) => tree.finished.get(),
            None => self.vmstate.shown.get(),
        }
    }

    /// Drops the state that no snapshot recorded, and frees its clusters, on disk too. Writes to it that are under way are waited for.
    ///
    /// Errors: those clusters are still in use, and are freed by the next call, the next snapshot operation, or the close.
    pub(crate) async fn discard_vmstate(&self) -> Result<()> {
        self.guest.check_open()?;
        if self.guest.is_read_only() {
            return Ok(());
        }
        let held = &self.guest.locks().exclusive(STATE).await;
        self.guest.check_open()?;
        self.drop_state(held);
        if !self.has_abandoned() {
            return Ok(());
        }
        let freed = match self.free_state(held).await {
            Ok(()) => Ok(()),
            Err(_) => self.free_state(held).await,
        };
        if freed.is_ok() {
            self.meta().cut_tail().await;
        }
        freed
    }

    async fn free_state(&self, held: &Exclusive<'_>) -> Result<()> {
        self.free_abandoned(held).await?;
        self.meta().commit().await?; // lowers the refcounts in memory
        self.meta().commit().await?;
        self.meta().reclaimed()
    }

    /// Its clusters are freed later: the caller sees to it. The caller holds the state's clusters.
    pub(crate) fn drop_state(&self, _: &Exclusive<'_>) {
        if let Some(tree) = self.vmstate.take() {
            self.abandon_unnamed(Walk::new(tree.entries.take()));
        }
    }
}
