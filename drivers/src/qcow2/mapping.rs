//! Where a guest's byte is: from an L1 table over an L2 table to a cluster, and what runs of clusters have in common.

use super::Result;
use super::allocate::Wanted;
use super::cache::Slice;
use super::entry::{Cluster, L1Entry, L2Entry, Subcluster};
use super::error::{Qcow2Error, Table};
use super::free::Freeing;
use super::image::Image;
use super::offset::{GuestOffset, HostOffset};
use super::tree::Tree;
use std::ops::Range;
use std::rc::Rc;

/// What a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
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
pub(super) struct Extent {
    pub(super) content: Content,
    /// At least 1, unless nothing was asked.
    pub(super) len: u64,
    /// [`Content::Data`] that may be overwritten where it is.
    pub(super) in_place: bool,
}

impl Image {
    /// What the bytes from `at` on are: a run inside one slice of an L2 table, `len` at most.
    pub(super) async fn extent(&self, tree: &Tree, at: GuestOffset, len: u64) -> Result<Extent> {
        let len = len.min(self.within_slice(at));
        let Some((slice, index)) = self.l2_slice(tree, at).await? else {
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
            if self.geometry.in_cluster(at.0 + done) != 0 {
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
        let geometry = &self.geometry;
        let inside = geometry.in_cluster(at.0);
        let len = len.min(geometry.cluster_size() - inside);
        let cluster = self.decode(slice, index, GuestOffset(at.0 - inside))?;
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
    pub(super) async fn l2_slice(
        &self,
        tree: &Tree,
        at: GuestOffset,
    ) -> Result<Option<(Rc<Slice>, usize)>> {
        let l1_index = self.geometry.l1_index(at);
        let (offset, index) = self.geometry.l2_slice(self.geometry.l2_index(at));
        loop {
            let entry = L1Entry(self.l1_entry(tree, l1_index));
            let Some(table) = entry.table(&self.geometry, l1_index)? else {
                return Ok(None);
            };
            let slice = self.l2.get(&self.file, table.0 + offset).await;
            // A write to another cluster may have copied the table meanwhile, and the old one's cluster may be anything by now.
            let now = L1Entry(self.l1_entry(tree, l1_index));
            if now.offset() == entry.offset() {
                return Ok(Some((slice?, index)));
            }
        }
    }

    /// The entry `index` of a slice, which maps the cluster at `guest`.
    pub(super) fn decode(
        &self,
        slice: &Slice,
        index: usize,
        guest: GuestOffset,
    ) -> Result<Cluster> {
        let entry = L2Entry::read(&self.geometry, &slice.bytes(), index).unwrap_or_default();
        Ok(entry.decode(&self.geometry, guest)?)
    }

    /// Makes `cluster` the entry `index` of a slice, whose table is not shared with a snapshot.
    pub(super) fn set_entry(&self, slice: &Slice, index: usize, cluster: Cluster) {
        let entry = cluster.encode(&self.geometry);
        let size = self.geometry.l2_entry_size() as usize; // 8 or 16
        let part = index * size..(index + 1) * size;
        let done = slice.change(part, |bytes| entry.write(&self.geometry, bytes, 0));
        debug_assert!(done.is_some());
    }

    /// The slice with the entry of `at`, in an L2 table of this tree alone: made if there is none, copied if a snapshot has it too
    /// (QEMU's `get_cluster_table` and `l2_allocate`).
    pub(super) async fn writable_l2_slice(
        &self,
        tree: &Tree,
        at: GuestOffset,
    ) -> Result<(Rc<Slice>, usize)> {
        let l1_index = self.geometry.l1_index(at);
        if !L1Entry(self.l1_entry(tree, l1_index)).copied() {
            let _turn = self.l2_turn.lock().await;
            self.make_l2_table(tree, l1_index).await?;
        }
        match self.l2_slice(tree, at).await? {
            Some(found) => Ok(found),
            None => Err(Qcow2Error::TableTooSmall {
                what: Table::L1,
                entries: self.l1_len(tree),
                needed: l1_index + 1,
            }
            .into()),
        }
    }

    async fn make_l2_table(&self, tree: &Tree, l1_index: u64) -> Result<()> {
        let old = L1Entry(self.l1_entry(tree, l1_index));
        if old.copied() {
            return Ok(()); // somebody was here before
        }
        self.check_l1_index(tree, l1_index)?;
        let cluster_size = self.geometry.cluster_size();
        let mut bytes = vec![0; cluster_size as usize];
        let old = old.table(&self.geometry, l1_index)?;
        if let Some(old) = old {
            let slice_size = self.l2.slice_size();
            let pieces = bytes.chunks_exact_mut(slice_size as usize);
            for (at, piece) in (old.0..).step_by(slice_size as usize).zip(pieces) {
                let slice = self.l2.get(&self.file, at).await?;
                piece.copy_from_slice(&slice.bytes());
            }
        }
        let new = self.allocate(Wanted::Exactly(1)).await?;
        let at = new.start * cluster_size;
        let written = match self.add_table(Table::L2, new.clone()) {
            Ok(()) => self.file.write(at, &bytes).await,
            Err(error) => Err(error.into()),
        };
        if let Err(cause) = written {
            self.free(new, Freeing::Unnamed);
            return Err(cause);
        }
        self.l2.adopt(at, &bytes);
        self.set_l1_entry(tree, l1_index, L1Entry::new(HostOffset(at), true).0);
        if let Some(old) = old {
            self.free(self.clusters_of(old, cluster_size), Freeing::ForReuse);
        }
        Ok(())
    }

    /// What a cluster used loses a reference. Nothing does for one in an external data file.
    pub(super) fn free_cluster(&self, old: &Cluster, freeing: Freeing) {
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
    pub(super) fn free_data(&self, clusters: Range<u64>, freeing: Freeing) {
        let tables = &self.refcounts.tables;
        for cluster in clusters.filter(|cluster| tables.get(*cluster).is_none()) {
            self.free(cluster..cluster + 1, freeing);
        }
    }

    /// The host clusters that hold `bytes` bytes at `at`.
    pub(super) fn clusters_of(&self, at: HostOffset, bytes: u64) -> Range<u64> {
        self.geometry.cluster_of(at)..self.geometry.clusters_for(at.0 + bytes)
    }

    /// Bytes from `at` to the end of what its slice of an L2 table maps.
    pub(super) fn within_slice(&self, at: GuestOffset) -> u64 {
        let span = self.geometry.l2_entries_per_slice() << self.geometry.cluster_bits();
        span - at.0 % span
    }

    /// The numbers of the guest clusters of a range that is not empty.
    pub(super) fn guest_clusters(&self, at: GuestOffset, len: u64) -> Range<u64> {
        let bits = self.geometry.cluster_bits();
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
