//! What is left to be done when a snapshot operation has succeeded, or failed: references that nothing needs any more are dropped, and
//! COPIED is made exact again. None of it changes what the image says, so a failure here is no failure of the operation: it is tried again
//! at once, with the next operation, and at the close.

use super::Image;
use crate::qcow2::format::entry::{Cluster, L1Entry};
use crate::qcow2::format::error::Result;
use crate::qcow2::guest::{AllClusters, Exclusive};
use crate::qcow2::metadata::{Freeing, Step, Walk};
use block_core::Cause;
use std::cell::{Cell, RefCell};

/// What is left to be done.
#[derive(Default)]
pub(crate) struct Deferred {
    /// Tables whose references are to be dropped, each as far as that has been done. No task writes to them any more.
    abandoned: RefCell<Vec<(Walk, Freeing)>>,
    /// Entries of the active tables may lead to clusters with one reference and say otherwise.
    copied: Cell<bool>,
}

impl Image {
    /// All that the walk leads to is to lose a reference, once no table on disk names these L1 entries.
    pub(crate) fn abandon(&self, walk: Walk) {
        let mut abandoned = self.deferred.abandoned.borrow_mut();
        abandoned.push((walk, Freeing::ForHost));
    }

    /// The same of references that no table on disk ever had: none may be raised for these L1 entries by then.
    pub(crate) fn abandon_unnamed(&self, walk: Walk) {
        let freeing = self.meta().freeing_of_unnamed();
        self.deferred.abandoned.borrow_mut().push((walk, freeing));
    }

    /// What operations before this one have left is done first: then refcounts are what they will be, and no more than one operation's
    /// tables are kept. The caller holds all clusters.
    pub(crate) async fn finish_earlier(&self, all: &AllClusters<'_>) -> Result<()> {
        self.free_abandoned(all.exclusive()).await?;
        self.meta().free_all().await
    }

    /// The active tables may say "shared" of clusters that are not, or will not be when all references are dropped.
    pub(crate) fn recompute_copied(&self) {
        self.deferred.copied.set(true);
    }

    /// Whether there is something for [`Image::free_abandoned`].
    pub(crate) fn has_abandoned(&self) -> bool {
        !self.deferred.abandoned.borrow().is_empty()
    }

    /// Does what is left to be done, if need be in a second attempt. The caller holds all clusters.
    ///
    /// Errors: of the second attempt; what could not be done is still to be done. But what an image contradicts itself in is given up at
    /// the first, and is told whatever comes of the second.
    pub(crate) async fn tidy(&self, all: &AllClusters<'_>) -> Result<()> {
        let tidied = match self.try_to_tidy(all).await {
            Ok(()) => Ok(()),
            Err(cause @ Cause::Corrupt(_)) => self.try_to_tidy(all).await.and(Err(cause)),
            Err(_) => self.try_to_tidy(all).await,
        };
        if tidied.is_ok() {
            self.meta().cut_tail().await;
        }
        tidied
    }

    async fn try_to_tidy(&self, all: &AllClusters<'_>) -> Result<()> {
        self.free_abandoned(all.exclusive()).await?;
        self.meta().write_everything().await?;
        if self.deferred.copied.get() {
            self.set_copied().await?;
            self.deferred.copied.set(false);
            self.meta().write_everything().await?;
        }
        Ok(())
    }

    /// Drops the references of what was abandoned, when the present mapping is stable. The caller holds the clusters of the state.
    pub(crate) async fn free_abandoned(&self, _: &Exclusive<'_>) -> Result<()> {
        loop {
            let next = self.deferred.abandoned.borrow_mut().pop();
            let Some((mut walk, freeing)) = next else {
                return Ok(());
            };
            match self.meta().free_references(&mut walk, freeing).await {
                Ok(()) => {}
                // Never to be read: given up. It was checked before, so another user has changed the file.
                Err(cause @ Cause::Corrupt(_)) => return Err(cause),
                Err(cause) => {
                    let mut abandoned = self.deferred.abandoned.borrow_mut();
                    abandoned.push((walk, freeing));
                    return Err(cause);
                }
            }
        }
    }

    /// Makes COPIED in the active tables exact: set where the refcount is 1, else clear. What cannot be read as a table stays as it is.
    async fn set_copied(&self) -> Result<()> {
        let mut walk = Walk::new(self.meta().active().copy(0..self.meta().active().len()));
        loop {
            self.meta().make_room().await?;
            let step = match walk.step(self.meta()).await {
                Ok(Some(step)) => step,
                Ok(None) => return Ok(()),
                Err(Cause::Corrupt(_)) => {
                    walk.next_table();
                    continue;
                }
                Err(cause) => return Err(cause),
            };
            match &step {
                Step::Slice(slice, guest) => {
                    let mut changed = Vec::new();
                    for (index, cluster) in self.meta().decode_all(slice, *guest) {
                        let exact = self.with_exact_flag(cluster).await?;
                        if exact != cluster {
                            changed.push((index, exact));
                        }
                    }
                    for (index, cluster) in changed {
                        self.meta().set_entry(slice, index, cluster);
                    }
                }
                Step::Table { index, at } => {
                    let cluster = self.meta().geometry().cluster_of(*at);
                    let copied = self
                        .meta()
                        .refcounts()
                        .get(self.meta().file(), cluster)
                        .await?
                        == 1;
                    let index = *index as u64;
                    let entry = L1Entry(self.meta().active().get(index));
                    if entry.copied() != copied {
                        self.meta().active().set(index, entry.with_copied(copied).0);
                    }
                }
            }
            walk.advance(&step);
        }
    }

    async fn with_exact_flag(&self, cluster: Cluster) -> Result<Cluster> {
        let Some(host) = cluster.host() else {
            return Ok(cluster);
        };
        let host = self.meta().geometry().cluster_of(host);
        let count = self
            .meta()
            .refcounts()
            .get(self.meta().file(), host)
            .await?;
        Ok(cluster.with_copied(count == 1))
    }
}
