//! Freed clusters: when they lose a reference, and when the host gets their space back.
//!
//! ```text
//!   freed   | commit: no table on disk points there any more, flushed | cached tables forgotten | hole punched | refcount lowered in memory
//!                                                                                                              | next commit: lowered on disk
//!                                                                                                              | file cut: `trim_file.rs`
//! ```
//!
//! - A hole is punched only after the commit is stable: a crash finds a table on disk that points to the cluster as it was, or none.
//! - It is punched before the refcount is lowered, and in the refcounts' turn: nothing is allocated there before the punch is over.
//! - A table that was in the cluster is forgotten before, so that it is not written into the hole. A commit that captured it earlier is over,
//!   since commits take turns.
//! - The file is cut last. What is cut off is free in the refcounts on disk as well.
//!
//! What no table on disk ever named needs no commit ([`Freeing::Unnamed`]): a dropped state, the clusters of a write that failed, the references of a
//! snapshot that was not recorded. Its refcounts are lowered, and its holes punched, *before* the next commit captures what is dirty:
//!
//! - A count that was raised in memory alone is never written, and neither is a cached table of such a cluster. So the undo of an operation that
//!   failed on a full disk does not need what the operation could not get.
//! - Where a raised count is on disk already, the lowered one is written over it, in place.
//! - No commit is under way meanwhile, which could still write what it has captured of such a table.
//!
//! While it is not known which header is on disk ([`OnDisk::sure`](super::roots::OnDisk)), nothing counts as never named.
//!
//! A punch is a hint: its failure is no failure of what freed the clusters. Its work is bounded: one request for each run of neighbours, and
//! none in the rest of the commit in which one has failed.

use super::Metadata;
use crate::qcow2::format::entry::Cluster;
use crate::qcow2::format::error::Result;
use block_core::Cause;
use std::cell::{Cell, RefCell};
use std::ops::Range;

/// When freed clusters lose their reference, and what becomes of the space of those that nothing uses then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freeing {
    /// Once a commit has made the present mapping stable. The space stays in the file, for the guest's next write: QEMU's
    /// `QCOW2_DISCARD_OTHER` and `_REQUEST`, which it does not pass to the file by default.
    ForReuse,
    /// At the same time, and the host gets the space back: QEMU's `QCOW2_DISCARD_SNAPSHOT` and `_ALWAYS`.
    ForHost,
    /// Before the next commit writes refcounts, since no table on disk ever had the reference. The host gets the space back.
    Unnamed,
}

/// Clusters that lose a reference each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Freed {
    clusters: Range<u64>,
    space: Space,
}

/// What becomes of the host's space when a cluster has no reference left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    /// It stays allocated.
    Stays,
    /// A hole is punched.
    GoesBack,
}

/// Clusters that have not lost their reference yet.
#[derive(Default)]
pub(crate) struct Frees {
    /// They lose it when the present mapping is stable.
    pub(crate) waiting: RefCell<Vec<Freed>>,
    /// The mapping is stable: they lose it now.
    pub(crate) stable: RefCell<Vec<Freed>>,
    /// No table on disk ever named them: they lose it before the next capture.
    pub(crate) unnamed: RefCell<Vec<Freed>>,
}

impl Frees {
    /// Whether no cluster waits for anything.
    pub(crate) fn is_empty(&self) -> bool {
        let lists = [&self.waiting, &self.stable, &self.unnamed];
        lists.iter().all(|list| list.borrow().is_empty())
    }
}

impl Metadata {
    /// The clusters lose a reference each: QEMU's `qcow2_free_clusters`.
    pub(crate) fn free(&self, clusters: Range<u64>, freeing: Freeing) {
        let frees = &self.frees;
        let (list, space) = match freeing {
            Freeing::ForReuse => (&frees.waiting, Space::Stays),
            Freeing::Unnamed if self.on_disk.get().sure => (&frees.unnamed, Space::GoesBack),
            Freeing::ForHost | Freeing::Unnamed => (&frees.waiting, Space::GoesBack),
        };
        push(&mut list.borrow_mut(), clusters, space);
    }

    /// What a cluster used loses a reference. Nothing does for one in an external data file.
    pub(crate) fn free_cluster(&self, old: &Cluster, freeing: Freeing) {
        if let Cluster::Compressed { at, bytes } = *old {
            self.free_data(self.clusters_of(at, bytes), freeing);
        } else if let Some(host) = old.host()
            && self.data.is_none()
        {
            self.free_data(
                self.clusters_of(host, self.geometry.cluster_size()),
                freeing,
            );
        }
    }

    /// The same for host clusters that an entry of an L2 table names. A damaged one may name a table's: that stays in use, or the next who
    /// allocates would write over it.
    pub(crate) fn free_data(&self, clusters: Range<u64>, freeing: Freeing) {
        let tables = self.refcounts.tables();
        for cluster in clusters.filter(|cluster| tables.get(*cluster).is_none()) {
            self.free(cluster..cluster + 1, freeing);
        }
    }

    /// How references are dropped that only tables in memory have: no table on disk does, unless a header that was written may be there.
    pub(crate) fn freeing_of_unnamed(&self) -> Freeing {
        match self.on_disk.get().sure {
            true => Freeing::Unnamed,
            false => Freeing::ForHost,
        }
    }

    /// Lowers the refcounts of what nothing on disk points to any more, and gives back its space. The caller has the commits' turn.
    ///
    /// # Errors
    ///
    /// What is left is tried again by the next commit; clusters whose refcount cannot be lowered, since it is 0, are given up.
    pub(crate) async fn reclaim(&self) -> Result<()> {
        self.lower_all(&self.frees.stable).await
    }

    /// The same of what nothing on disk ever pointed to. Reads tables, and writes nothing.
    pub(crate) async fn reclaim_unnamed(&self) -> Result<()> {
        self.lower_all(&self.frees.unnamed).await
    }

    async fn lower_all(&self, list: &RefCell<Vec<Freed>>) -> Result<()> {
        arrange(&mut list.borrow_mut());
        let mut first = Ok(());
        let refused = Cell::new(false);
        loop {
            let next = list.borrow_mut().pop();
            let Some(Freed { clusters, space }) = next else {
                return first;
            };
            let per_step = 4 * self.geometry.refcounts_per_slice();
            let step = clusters.start..clusters.end.min(clusters.start + per_step);
            let rest = step.end..clusters.end;
            let unused = async |runs: &[Range<u64>]| self.leave(runs, space, &refused).await;
            let lowered = self.refcounts.lower(&self.file, step.clone(), unused).await;
            let put_back = |clusters| {
                let freed = Freed { clusters, space };
                list.borrow_mut().push(freed);
            };
            if !rest.is_empty() {
                put_back(rest);
            }
            match lowered {
                Ok(()) => {}
                // One of them cannot be lowered: it is found by halves, and costs none of the others.
                Err(Cause::Corrupt(_)) if step.end - step.start > 1 => {
                    let middle = step.start + (step.end - step.start) / 2;
                    put_back(middle..step.end);
                    put_back(step.start..middle);
                }
                Err(cause @ Cause::Corrupt(_)) => first = first.and(Err(cause)),
                Err(cause) => {
                    put_back(step);
                    return first.and(Err(cause));
                }
            }
        }
    }

    /// Nothing uses the clusters of these runs any more; they can be allocated when this returns. `refused`: a punch has failed.
    async fn leave(&self, runs: &[Range<u64>], space: Space, refused: &Cell<bool>) {
        let bits = self.geometry.cluster_bits();
        for run in runs {
            // No run reaches past 2^63: its refcounts are in the file.
            self.l2
                .forget(run.start << bits, (run.end - run.start) << bits);
        }
        for run in runs.iter().flat_map(|run| self.split_at_foreign(run)) {
            run.clone().for_each(|c| self.refcounts.tables().remove(c));
            if space == Space::Stays || refused.get() || !self.owns_length() {
                continue;
            }
            let (at, len) = (run.start << bits, (run.end - run.start) << bits);
            refused.set(self.file.discard(at, len).await.is_err());
        }
    }

    /// The run without tables that the disk can do without: the L1 table of a snapshot, or the bitmap directory, of an image that counts them
    /// too low. They keep their content.
    fn split_at_foreign(&self, run: &Range<u64>) -> Vec<Range<u64>> {
        let tables = self.refcounts.tables();
        let mut parts = Vec::new();
        let mut at = run.start;
        while let Some(foreign) = tables.first_foreign(at..run.end) {
            parts.push(at..foreign.start);
            at = foreign.end.min(run.end);
        }
        parts.push(at..run.end);
        parts.retain(|part| !part.is_empty());
        parts
    }

    /// Whether the image file is as long as this driver makes it. The space of anything else, a block device above all, is not ours to give back.
    pub(crate) fn owns_length(&self) -> bool {
        self.file.child().grows()
    }

    /// Commits until nothing is waiting to be freed, so that refcounts are what they will be. The caller keeps changes out.
    ///
    /// # Errors
    ///
    /// Those of a commit, and why clusters could not be freed. Those that only failed to be read are tried again by the next commit.
    pub(crate) async fn free_all(&self) -> Result<()> {
        loop {
            self.reclaimed()?;
            if self.frees.is_empty() {
                return Ok(());
            }
            self.commit().await?;
        }
    }
}

/// Neighbours become one range.
fn push(list: &mut Vec<Freed>, clusters: Range<u64>, space: Space) {
    if clusters.is_empty() {
        return;
    }
    match list.last_mut() {
        Some(last) if last.space == space && last.clusters.end == clusters.start => {
            last.clusters.end = clusters.end;
        }
        _ => list.push(Freed { clusters, space }),
    }
}

/// Sorts the list so that its end is the lowest cluster, and joins neighbours. A cluster that loses two references stays in it twice.
fn arrange(list: &mut Vec<Freed>) {
    list.sort_by_key(|freed| freed.clusters.start);
    let mut joined = Vec::new();
    for Freed { clusters, space } in list.drain(..) {
        push(&mut joined, clusters, space);
    }
    joined.reverse();
    *list = joined;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freed(clusters: Range<u64>, space: Space) -> Freed {
        Freed { clusters, space }
    }

    #[test]
    fn neighbours_are_one_run_in_whatever_order_they_were_freed() {
        let mut list = Vec::new();
        for cluster in [7, 4, 5, 9, 6] {
            push(&mut list, cluster..cluster + 1, Space::GoesBack);
        }
        push(&mut list, 3..3, Space::GoesBack);
        arrange(&mut list);
        let wanted = [freed(9..10, Space::GoesBack), freed(4..8, Space::GoesBack)];
        assert_eq!(list, wanted);
    }

    #[test]
    fn what_stays_is_not_joined_with_what_goes_back_and_two_references_stay_two() {
        let mut list = Vec::new();
        push(&mut list, 4..6, Space::GoesBack);
        push(&mut list, 6..7, Space::Stays);
        push(&mut list, 4..5, Space::GoesBack);
        arrange(&mut list);
        assert_eq!(list.len(), 3, "{list:?}");
        let clusters: u64 = list.iter().map(|f| f.clusters.end - f.clusters.start).sum();
        assert_eq!(clusters, 4);
    }
}
