//! Where a guest's byte is: from an L1 table over an L2 table to a cluster, and what runs of clusters have in common.

use super::Guest;
use super::L1Table;
use crate::qcow2::format::entry::{Cluster, L1Entry, Subcluster};
use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use crate::qcow2::format::offset::{GuestOffset, HostOffset};
use crate::qcow2::metadata::Freeing;
use crate::qcow2::metadata::Slice;
use crate::qcow2::metadata::Wanted;
use std::ops::Range;
use std::rc::Rc;

/// What a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// In the data file, from this byte on.
    Data(HostOffset),
    Zero,
    /// Nothing here: the backing file shows through.
    Unallocated,
    /// Inside one compressed cluster: where its compressed data is, and how long at most.
    Compressed {
        at: HostOffset,
        bytes: u64,
    },
}

/// A run of bytes with the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) content: Content,
    /// At least 1, unless nothing was asked.
    pub(crate) len: u64,
    /// [`Content::Data`] that may be overwritten where it is.
    pub(crate) in_place: bool,
}

impl Guest {
    /// What the bytes from `at` on are: a run inside one slice of an L2 table, `len` at most.
    pub(crate) async fn extent(&self, l1: &L1Table, at: GuestOffset, len: u64) -> Result<Extent> {
        let len = len.min(self.within_slice(at));
        let Some((slice, index)) = self.l2_slice(l1, at).await? else {
            return Ok(Extent {
                content: Content::Unallocated,
                len,
                in_place: false,
            });
        };
        let mut found: Option<Extent> = None;
        let mut done = 0;
        for index in index.. {
            if done >= len {
                break;
            }
            let here = GuestOffset(at.0 + done);
            let next = self.extent_in_cluster(&slice, index, here, len - done)?;
            match &mut found {
                None => found = Some(next),
                Some(run) if continues(run, &next) => run.len += next.len,
                Some(_) => break,
            }
            done += next.len;
            if self.meta.geometry().in_cluster(at.0 + done) != 0 {
                break; // the rest of the cluster is something else
            }
        }
        Ok(found.unwrap_or(Extent {
            content: Content::Unallocated,
            len,
            in_place: false,
        }))
    }

    fn extent_in_cluster(
        &self,
        slice: &Slice,
        index: usize,
        at: GuestOffset,
        len: u64,
    ) -> Result<Extent> {
        let geometry = self.meta.geometry();
        let inside = geometry.in_cluster(at.0);
        let len = len.min(geometry.cluster_size() - inside);
        let cluster = self.meta.decode(slice, index, GuestOffset(at.0 - inside))?;
        if let Cluster::Compressed { at, bytes } = cluster {
            return Ok(Extent {
                content: Content::Compressed { at, bytes },
                len,
                in_place: false,
            });
        }
        let first = geometry.subcluster_index(at);
        let (kind, count) = cluster
            .subclusters(geometry)
            .run(first, geometry.subclusters());
        let end = (u64::from(first) + u64::from(count)) * geometry.subcluster_size();
        let content = match (kind, cluster.host()) {
            (Subcluster::Data, Some(host)) => Content::Data(HostOffset(host.0 + inside)),
            (Subcluster::Zero, _) => Content::Zero,
            _ => Content::Unallocated,
        };
        Ok(Extent {
            content,
            len: len.min(end.saturating_sub(inside)),
            in_place: cluster.copied(),
        })
    }

    /// The slice of the L2 table that maps `at`, and the entry's index in it; `None` where there is no L2 table.
    pub(crate) async fn l2_slice(
        &self,
        l1: &L1Table,
        at: GuestOffset,
    ) -> Result<Option<(Rc<Slice>, usize)>> {
        let l1_index = self.meta.geometry().l1_index(at);
        let (offset, index) = self
            .meta
            .geometry()
            .l2_slice(self.meta.geometry().l2_index(at));
        loop {
            let entry = L1Entry(self.l1_entry(l1, l1_index));
            let Some(table) = entry.table(self.meta.geometry(), l1_index)? else {
                return Ok(None);
            };
            let slice = self.meta.l2().get(self.meta.file(), table.0 + offset).await;
            // A write to another cluster may have copied the table meanwhile, and the old one's cluster may be anything by now.
            let now = L1Entry(self.l1_entry(l1, l1_index));
            if now.offset() == entry.offset() {
                return Ok(Some((slice?, index)));
            }
        }
    }

    /// The slice with the entry of `at`, in an L2 table of this l1 alone: made if there is none, copied if a snapshot has it too
    /// (QEMU's `get_cluster_table` and `l2_allocate`).
    pub(crate) async fn writable_l2_slice(
        &self,
        l1: &L1Table,
        at: GuestOffset,
    ) -> Result<(Rc<Slice>, usize)> {
        let l1_index = self.meta.geometry().l1_index(at);
        if !L1Entry(self.l1_entry(l1, l1_index)).copied() {
            let _turn = self.l2_turn.lock().await;
            self.make_l2_table(l1, l1_index).await?;
        }
        match self.l2_slice(l1, at).await? {
            Some(found) => Ok(found),
            None => Err(Qcow2Error::TableTooSmall {
                what: Table::L1,
                entries: self.l1_len(l1),
                needed: l1_index + 1,
            }
            .into()),
        }
    }

    async fn make_l2_table(&self, l1: &L1Table, l1_index: u64) -> Result<()> {
        let old = L1Entry(self.l1_entry(l1, l1_index));
        if old.copied() {
            return Ok(()); // done by a task before us
        }
        self.check_l1_index(l1, l1_index)?;
        let cluster_size = self.meta.geometry().cluster_size();
        let mut bytes = vec![0; cluster_size as usize];
        let old = old.table(self.meta.geometry(), l1_index)?;
        if let Some(old) = old {
            let slice_size = self.meta.l2().slice_size();
            let pieces = bytes.chunks_exact_mut(slice_size as usize);
            for (at, piece) in (old.0..).step_by(slice_size as usize).zip(pieces) {
                let slice = self.meta.l2().get(self.meta.file(), at).await?;
                piece.copy_from_slice(&slice.bytes());
            }
        }
        let new = self.meta.allocate(Wanted::Exactly(1)).await?;
        let at = new.start * cluster_size;
        let written = match self.meta.add_table(Table::L2, new.clone()) {
            Ok(()) => self.meta.file().write(at, &bytes).await,
            Err(error) => Err(error.into()),
        };
        if let Err(cause) = written {
            self.meta.free(new, Freeing::Unnamed);
            return Err(cause);
        }
        self.meta.l2().adopt(at, &bytes);
        self.set_l1_entry(l1, l1_index, L1Entry::new(HostOffset(at), true).0);
        if let Some(old) = old {
            self.meta
                .free(self.meta.clusters_of(old, cluster_size), Freeing::ForReuse);
        }
        Ok(())
    }

    /// Bytes from `at` to the end of what its slice of an L2 table maps.
    pub(crate) fn within_slice(&self, at: GuestOffset) -> u64 {
        let span =
            self.meta.geometry().l2_entries_per_slice() << self.meta.geometry().cluster_bits();
        span - at.0 % span
    }

    /// The numbers of the guest clusters of a range that is not empty.
    pub(crate) fn guest_clusters(&self, at: GuestOffset, len: u64) -> Range<u64> {
        let bits = self.meta.geometry().cluster_bits();
        at.0 >> bits..((at.0 + len.max(1) - 1) >> bits) + 1
    }
}

/// Whether `next` goes on where `run` ends, in the same manner.
fn continues(run: &Extent, next: &Extent) -> bool {
    match (run.content, next.content) {
        (Content::Data(a), Content::Data(b)) => {
            a.0 + run.len == b.0 && run.in_place == next.in_place
        }
        (Content::Zero, Content::Zero) | (Content::Unallocated, Content::Unallocated) => true,
        _ => false,
    }
}
