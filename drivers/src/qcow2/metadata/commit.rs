//! Commits: metadata goes to disk in an order that a crash cannot corrupt, without a flush per write.
//!
//! In memory the image is ahead of the disk. An entry is set there only after its data was written and the refcount raised, so what is
//! captured at any one moment fits together. A commit captures, then writes:
//!
//! ```text
//!   lower unnamed references | capture
//!   refcount blocks | flush | reftable | flush | L2 tables | flush | L1 table | flush | header | flush | punch holes, lower refcounts in memory
//!                     ^ data too  (if changed)               (if changed)       (if changed)
//! ```
//!
//! A crash between two steps leaves clusters that are counted and not used, or OFLAG_COPIED that is not yet true: nothing else. What the
//! old mapping used is given back and lowered last (`free.rs`), and so is neither a hole nor used again before nothing on disk points to it.
//!
//! Every step is a set of writes in any order after a flush. The header's fields are one write inside the first 72 bytes.

use super::free::Freed;
use super::root_table::CapturedTable;
use super::roots::{OnDisk, Roots};
use super::slice_cache::Captured;
use super::{Metadata, out_of_memory};
use crate::qcow2::format::error::Result;
use block_core::{Cause, IoVector, SharedBuf};
use std::cell::{Cell, RefCell};

/// Ranges of freed clusters after which a commit is due.
const MANY_FREES: usize = 4096;
/// Longest write of neighbouring slices.
const MAX_WRITE: u64 = 1 << 20;

/// Which commit is which.
#[derive(Default)]
pub(crate) struct Commits {
    /// Held by the one that runs.
    turn: aio_task::CoMutex<()>,
    /// Commits that began so far. Only grows.
    begun: Cell<u64>,
    /// The number of the last one that succeeded.
    succeeded: Cell<u64>,
    /// The first error that kept clusters from being freed. A task that has to see to it that nothing leaks takes it: a snapshot operation, a
    /// close. It is no error of the flush or write that happened to commit.
    not_reclaimed: RefCell<Option<Cause>>,
}

/// All that one commit writes.
struct Capture {
    refcounts: Vec<Captured>,
    reftable: CapturedTable,
    l2: Vec<Captured>,
    l1: CapturedTable,
    roots: Roots,
    frees: Vec<Freed>,
}

impl Metadata {
    /// Everything that was changed before the call is stable on disk when this returns: guest data that was written, and metadata.
    ///
    /// Returns after a commit that began after the call; callers share it. On an error nothing is lost: the next commit tries again. What
    /// the failed step has written is valid by itself, as after a crash.
    pub(crate) async fn commit(&self) -> Result<()> {
        let commits = &self.commits;
        let asked = commits.begun.get();
        let _turn = commits.turn.lock().await;
        if commits.succeeded.get() > asked {
            return Ok(());
        }
        let number = commits.begun.get() + 1;
        commits.begun.set(number);
        // What fails here is tried again by the next commit, and is no error of the caller's changes.
        if let Err(cause) = self.reclaim_unnamed().await {
            commits.not_reclaimed.borrow_mut().get_or_insert(cause);
        }
        let capture = self.capture();
        let result = self.write_capture(&capture).await;
        self.settle(capture, result.is_ok());
        result?;
        commits.succeeded.set(number);
        // The caller's changes are stable, whatever becomes of this.
        if let Err(cause) = self.reclaim().await {
            commits.not_reclaimed.borrow_mut().get_or_insert(cause);
        }
        Ok(())
    }

    /// Drops the references that no table on disk ever had if many of them have piled up. Nothing is written.
    pub(crate) async fn make_room_unnamed(&self) -> Result<()> {
        if self.frees.unnamed.borrow().len() < MANY_FREES {
            return Ok(());
        }
        let _turn = self.commits.turn.lock().await;
        self.reclaim_unnamed().await
    }

    /// Commits until nothing is left to be written or freed. The caller keeps changes out.
    pub(crate) async fn write_everything(&self) -> Result<()> {
        while self.is_dirty() {
            self.commit().await?;
            self.reclaimed()?;
        }
        self.reclaimed()
    }

    /// Whether a commit would write metadata.
    fn is_dirty(&self) -> bool {
        self.l2.is_dirty()
            || self.refcounts.cache().is_dirty()
            || self.refcounts.table().is_dirty()
            || self.active.is_dirty()
            || !self.frees.is_empty()
            || !self.on_disk.get().sure
            || self.on_disk.get().roots != self.roots()
    }

    /// Why a commit failed, with what that means for the header: where its write was begun and is not known to be stable, the disk may have the
    /// old fields or the new ones. In memory it is the old ones from now on, and the next commit writes these first.
    pub(crate) fn unsure(&self, cause: Cause) -> Cause {
        match self.on_disk.get().sure {
            true => cause,
            false => Cause::Unsure {
                cause: Box::new(cause),
            },
        }
    }

    /// Why clusters could not be freed since this was asked last.
    pub(crate) fn reclaimed(&self) -> Result<()> {
        self.commits.not_reclaimed.take().map_or(Ok(()), Err)
    }

    /// Commits if so much has piled up that the next change should wait for it. Called where no allocator's turn is held.
    pub(crate) async fn make_room(&self) -> Result<()> {
        let crowded = self.l2.is_crowded()
            || self.refcounts.cache().is_crowded()
            || self.frees.waiting.borrow().len() >= MANY_FREES;
        match crowded {
            true => self.commit().await,
            false => Ok(()),
        }
    }

    /// At one moment: no await in here.
    fn capture(&self) -> Capture {
        Capture {
            refcounts: self.refcounts.cache().capture(),
            reftable: self.refcounts.table().capture(),
            l2: self.l2.capture(),
            l1: self.active.capture(),
            roots: self.roots(),
            frees: self.frees.waiting.take(),
        }
    }

    async fn write_capture(&self, capture: &Capture) -> Result<()> {
        let Capture {
            refcounts,
            reftable,
            l2,
            l1,
            roots,
            ..
        } = capture;
        self.write_slices(refcounts).await?;
        if !reftable.is_empty() {
            self.flush_data_and_image().await?;
            reftable.write(&self.file).await?;
        }
        let on_disk = self.on_disk.get();
        let with_reftable = Roots {
            reftable_at: roots.reftable_at,
            reftable_clusters: roots.reftable_clusters,
            ..on_disk.roots
        };
        self.write_roots(with_reftable).await?;
        if !l2.is_empty() || !l1.is_empty() {
            self.flush_data_and_image().await?;
            self.write_slices(l2).await?;
        }
        if !l1.is_empty() {
            self.file.flush().await?;
            l1.write(&self.file).await?;
        }
        match self.write_roots(*roots).await? {
            // Everything was stable before the header, and the header is: a failure now could not be told from one before.
            true => Ok(()),
            false => self.flush_data_and_image().await,
        }
    }

    fn settle(&self, capture: Capture, ok: bool) {
        self.refcounts.cache().settle(capture.refcounts, ok);
        self.refcounts.table().settle(capture.reftable, ok);
        self.l2.settle(capture.l2, ok);
        self.active.settle(capture.l1, ok);
        let frees = match ok {
            true => &self.frees.stable,
            false => &self.frees.waiting,
        };
        frees.borrow_mut().extend(capture.frees);
    }

    async fn flush_data_and_image(&self) -> Result<()> {
        if let Some(data) = &self.data {
            data.flush().await?;
        }
        self.file.flush().await
    }

    /// Neighbours become one write. All are tried, whatever becomes of the others, since slices may be written in any order and any of them may
    /// be the one that frees space; the first error is returned.
    async fn write_slices(&self, slices: &[Captured]) -> Result<()> {
        let memory = self.file.child().limits().memory_alignment as usize;
        let mut first_error = Ok(());
        let mut left = slices;
        while let Some(first) = left.first() {
            let mut end = first.at;
            let count = left
                .iter()
                .take_while(|slice| {
                    let next = slice.at == end;
                    end += slice.bytes.len() as u64;
                    next && end - first.at <= MAX_WRITE
                })
                .count()
                .max(1);
            let (run, rest) = left.split_at(count);
            let bytes = run.iter().flat_map(|slice| slice.bytes.iter().copied());
            let bytes: Vec<u8> = bytes.collect();
            let owned = block_core::IoBuf::copy_of(&bytes, memory).map_err(out_of_memory)?;
            let owned: SharedBuf = owned.freeze();
            let written = self.file.writev(first.at, IoVector::from(owned)).await;
            first_error = first_error.and(written);
            left = rest;
        }
        first_error
    }

    /// Makes these the fields of the header, after a flush, and stable. One write inside the first sector, which is not torn.
    ///
    /// After a failure it is not known which fields are on disk: what was there before is written again first, which is still valid, since
    /// nothing that it names is let go before a commit succeeds.
    /// Returns whether there was anything to write.
    async fn write_roots(&self, roots: Roots) -> Result<bool> {
        let OnDisk {
            roots: before,
            sure,
        } = self.on_disk.get();
        if sure && roots == before {
            return Ok(false);
        }
        self.flush_data_and_image().await?;
        if !sure {
            self.file.write(Roots::AT, &before.to_bytes()).await?;
            self.file.flush().await?;
        }
        let unsure = OnDisk {
            roots: before,
            sure: false,
        };
        self.on_disk.set(unsure);
        self.file.write(Roots::AT, &roots.to_bytes()).await?;
        self.file.flush().await?;
        self.on_disk.set(OnDisk { roots, sure: true });
        Ok(true)
    }
}
