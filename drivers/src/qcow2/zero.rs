//! Zeroes and discards: QEMU's `qcow2_subcluster_zeroize` and `qcow2_cluster_discard`.
//!
//! | a whole cluster that is | zeroes | hide | discard | drop |
//! |---|---|---|---|---|
//! | unallocated | zero | zero | stays; zero over a backing file | stays |
//! | zero | zero; without its host cluster if it may be unmapped | stays | zero, without its host cluster | unallocated |
//! | data | zero, its host cluster stays for later writes unless it may be unmapped | stays | zero (version 3), unallocated (2) | unallocated |
//! | compressed | zero | stays | zero (3), unallocated (2) | unallocated |
//!
//! What a cluster used is let go only when the entry that led to it has changed on disk: see `commit.rs`.

use super::Result;
use super::entry::{Cluster, L1Entry, Subcluster, Subclusters};
use super::free::Freeing;
use super::image::Image;
use super::offset::GuestOffset;
use super::tree::Tree;
use block_core::{Cause, DiskOffset, ZeroFlags};
use std::ops::Range;

/// What a cluster becomes.
#[derive(Clone, Copy)]
enum Change {
    /// Zeroes, whole or by subclusters.
    Zero { may_unmap: bool },
    /// What is unallocated, whole or by subclusters, becomes zeroes, so that the backing file does not show through. Version 3 only.
    Hide,
    /// Nothing that matters; it reads as zeroes where the format can say so.
    Discard,
    /// Nothing at all.
    Drop,
}

impl Change {
    /// How the clusters that it leaves are freed. A guest writes to what it has discarded, and QEMU keeps its space in the file by default; what is past the
    /// end of a disk that becomes shorter goes back.
    fn freeing(self) -> Freeing {
        match self {
            Self::Hide | Self::Zero { .. } | Self::Discard => Freeing::ForReuse,
            Self::Drop => Freeing::ForHost,
        }
    }
}

impl Image {
    /// Makes whole subclusters read as zeroes. `at` and `len` are multiples of the subcluster size.
    ///
    /// Errors: [`Cause::NotSupported`] for version 2, which has no zero clusters; nothing has changed then.
    pub(super) async fn zero_guest(
        &self,
        tree: &Tree,
        at: GuestOffset,
        len: u64,
        may_unmap: bool,
    ) -> Result<()> {
        if self.geometry.version() < 3 {
            return Err(Cause::NotSupported);
        }
        self.change_guest(tree, at, len, Change::Zero { may_unmap })
            .await
    }

    /// The content of whole clusters no longer matters. `at` and `len` are multiples of the cluster size.
    ///
    /// Errors: [`Cause::NotSupported`] where the backing file would show through: in version 2, which has no zero clusters. Nothing has
    /// changed then.
    pub(super) async fn discard_guest(&self, tree: &Tree, at: GuestOffset, len: u64) -> Result<()> {
        if self.geometry.version() < 3 && self.backing.is_there() {
            return Err(Cause::NotSupported);
        }
        self.change_guest(tree, at, len, Change::Discard).await
    }

    /// Slice by slice, each under its lock.
    async fn change_guest(
        &self,
        tree: &Tree,
        at: GuestOffset,
        len: u64,
        change: Change,
    ) -> Result<()> {
        if matches!(tree, Tree::Active) && len > 0 {
            self.before_guest_change().await?;
        }
        let mut done = 0;
        while done < len {
            self.make_room().await?;
            let here = GuestOffset(at.0 + done);
            let piece = (len - done).min(self.within_slice(here));
            let clusters = self.lock_numbers(tree, here, piece);
            let _lock = self.locks.exclusive(clusters).await;
            self.change_slice(tree, here, piece, change).await?;
            done += piece;
        }
        Ok(())
    }

    /// The same as [`Image::zero_guest`] for a caller that holds the clusters.
    pub(super) async fn zero_mapped(&self, tree: &Tree, at: GuestOffset, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            self.make_room().await?;
            let here = GuestOffset(at.0 + done);
            let piece = (len - done).min(self.within_slice(here));
            let change = Change::Zero { may_unmap: false };
            self.change_slice(tree, here, piece, change).await?;
            done += piece;
        }
        Ok(())
    }

    /// Makes what is unallocated read as zeroes; the rest stays. Whole clusters within one slice of an L2 table, in an image of version 3.
    /// The caller holds the clusters exclusively.
    pub(super) async fn hide_mapped(&self, tree: &Tree, at: GuestOffset, len: u64) -> Result<()> {
        self.change_slice(tree, at, len, Change::Hide).await
    }

    /// Changes what lies within one slice of an L2 table. The caller holds the clusters exclusively.
    async fn change_slice(
        &self,
        tree: &Tree,
        at: GuestOffset,
        len: u64,
        change: Change,
    ) -> Result<()> {
        self.change_data_file(at, len, change).await?;
        let stays = match change {
            Change::Zero { .. } | Change::Hide => false,
            Change::Discard => !self.backing.is_there(),
            Change::Drop => true,
        };
        if stays && self.l2_slice(tree, at).await?.is_none() {
            return Ok(()); // nothing is allocated, and nothing shows through
        }
        let (slice, index) = self.writable_l2_slice(tree, at).await?;
        let geometry = &self.geometry;
        let mut parts_of_compressed = Vec::new();
        let mut done = 0;
        for index in index.. {
            if done >= len {
                break;
            }
            let inside = geometry.in_cluster(at.0 + done);
            let piece = (len - done).min(geometry.cluster_size() - inside);
            let guest = GuestOffset(at.0 + done - inside);
            let old = self.decode(&slice, index, guest)?;
            match self.changed(&old, inside..inside + piece, change) {
                Some(new) if new != old => {
                    self.set_entry(&slice, index, new);
                    if new.host() != old.host() || matches!(old, Cluster::Compressed { .. }) {
                        self.free_cluster(&old, change.freeing());
                    }
                }
                Some(_) => {}
                None => parts_of_compressed.push((GuestOffset(at.0 + done), piece)),
            }
            done += piece;
        }
        drop(slice);
        for (at, len) in parts_of_compressed {
            self.write_zeroes(tree, at, len).await?;
        }
        Ok(())
    }

    /// What becomes of a cluster whose bytes `part` are changed; `None` where it has to be written.
    fn changed(&self, old: &Cluster, part: Range<u64>, change: Change) -> Option<Cluster> {
        let geometry = &self.geometry;
        let zero = Cluster::Zero {
            preallocated: None,
            copied: false,
        };
        match change {
            Change::Drop => Some(Cluster::Unallocated),
            Change::Hide => Some(hidden(geometry, old)),
            Change::Discard if *old == Cluster::Unallocated && !self.backing.is_there() => {
                Some(*old)
            }
            Change::Discard if geometry.version() < 3 => Some(Cluster::Unallocated),
            Change::Discard => Some(zero),
            Change::Zero { may_unmap } => {
                let whole = part == (0..geometry.cluster_size());
                let compressed = matches!(old, Cluster::Compressed { .. });
                if whole && (may_unmap || compressed) {
                    return Some(zero);
                }
                if compressed {
                    return None;
                }
                Some(zeroed(geometry, old, part))
            }
        }
    }

    /// Where the data file must read as the disk does, it is changed first; else it is told what is not needed any more.
    async fn change_data_file(&self, at: GuestOffset, len: u64, change: Change) -> Result<()> {
        let Some(data) = &self.data else {
            return Ok(());
        };
        let may_unmap = match change {
            Change::Zero { may_unmap } => may_unmap,
            Change::Discard => true,
            Change::Hide | Change::Drop => return Ok(()),
        };
        let done = match (self.header.data_file_raw(), change) {
            (true, _) => {
                let flags = ZeroFlags {
                    may_unmap,
                    ..ZeroFlags::default()
                };
                return data.write_zeroes(at.0, len, flags).await;
            }
            (false, Change::Discard) => {
                // It ends where it was written last: QEMU does not lengthen it with the disk.
                let there = data.length().await?.saturating_sub(at.0).min(len);
                match there {
                    0 => Ok(()),
                    _ => data.child().pdiscard(DiskOffset(at.0), there).await,
                }
            }
            (false, _) => Ok(()),
        };
        done.map_err(|e| e.cause)
    }

    /// Drops everything that is mapped from `from` to the end of the L1 table: nothing is allocated there afterwards. `from` is a
    /// multiple of the cluster size. The caller holds the clusters exclusively. QEMU's full discard.
    ///
    /// L2 tables that map nothing before `from` go too. On an error some of it may be left.
    pub(super) async fn drop_mapped(&self, tree: &Tree, from: GuestOffset) -> Result<()> {
        let mut index = self.geometry.l1_index(from);
        let start = self.geometry.l1_start(index);
        if start.is_some_and(|start| start < from) {
            self.drop_in_table(tree, from).await?;
            index += 1;
        }
        while index < self.l1_len(tree) {
            if L1Entry(self.l1_entry(tree, index)) != L1Entry::EMPTY {
                self.make_room().await?;
                self.drop_table(tree, index).await?;
            }
            index += 1;
        }
        Ok(())
    }

    /// Drops what an L2 table maps from `from` on; the table stays.
    async fn drop_in_table(&self, tree: &Tree, from: GuestOffset) -> Result<()> {
        let span = self.geometry.l2_span();
        let end = from.0 - from.0 % span + span;
        let mut at = from.0;
        while at < end {
            let here = GuestOffset(at);
            let piece = self.within_slice(here);
            if self.l2_slice(tree, here).await?.is_none() {
                return Ok(());
            }
            self.make_room().await?;
            self.change_slice(tree, here, piece, Change::Drop).await?;
            at += piece;
        }
        Ok(())
    }

    /// Drops an L2 table with all that it maps, whoever else shares it.
    ///
    /// All of it is read before anything changes, so that a table that cannot be read is dropped by no half.
    async fn drop_table(&self, tree: &Tree, index: u64) -> Result<()> {
        let geometry = &self.geometry;
        let Some(table) = L1Entry(self.l1_entry(tree, index)).table(geometry, index)? else {
            return Ok(());
        };
        let Some(start) = geometry.l1_start(index) else {
            return Ok(());
        };
        let mut clusters = Vec::new();
        let step = geometry.l2_entries_per_slice() << geometry.cluster_bits();
        for at in (start.0..start.0 + geometry.l2_span()).step_by(step as usize) {
            let Some((slice, first)) = self.l2_slice(tree, GuestOffset(at)).await? else {
                break;
            };
            for number in 0..geometry.l2_entries_per_slice() {
                let guest = GuestOffset(at + (number << geometry.cluster_bits()));
                let cluster = self.decode(&slice, first + number as usize, guest)?;
                if cluster.host().is_some() || matches!(cluster, Cluster::Compressed { .. }) {
                    clusters.push(cluster);
                }
            }
        }
        self.set_l1_entry(tree, index, L1Entry::EMPTY.0);
        for cluster in &clusters {
            self.free_cluster(cluster, Freeing::ForHost);
        }
        let table = geometry.cluster_of(table);
        self.free(table..table + 1, Freeing::ForHost);
        Ok(())
    }
}

/// The cluster with the subclusters of its bytes `part` as zeroes, and its host cluster kept.
fn zeroed(geometry: &super::geometry::Geometry, old: &Cluster, part: Range<u64>) -> Cluster {
    let size = geometry.subcluster_size();
    let range = (part.start / size) as u32..part.end.div_ceil(size) as u32; // at most 32
    let subclusters: Subclusters = old.subclusters(geometry).with(range, Subcluster::Zero);
    Cluster::of(geometry, old.host(), old.copied(), subclusters)
}

/// The cluster with zeroes where it was unallocated.
fn hidden(geometry: &super::geometry::Geometry, old: &Cluster) -> Cluster {
    if matches!(old, Cluster::Compressed { .. }) {
        return *old;
    }
    let mut subclusters = old.subclusters(geometry);
    for index in 0..geometry.subclusters() {
        if subclusters.get(index) == Subcluster::Unallocated {
            subclusters = subclusters.with(index..index + 1, Subcluster::Zero);
        }
    }
    Cluster::of(geometry, old.host(), old.copied(), subclusters)
}
