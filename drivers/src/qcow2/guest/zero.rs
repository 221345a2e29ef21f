//! Zeroes and discards: QEMU's `qcow2_subcluster_zeroize` and `qcow2_cluster_discard`.
//!
//! | a whole cluster that is | zeroes | hide | discard | drop |
//! |---|---|---|---|---|
//! | unallocated | zero | zero | stays; zero over a backing file | stays |
//! | zero | zero; without its host cluster if it may be unmapped | stays | zero, without its host cluster | unallocated |
//! | data | zero, its host cluster stays for later writes unless it may be unmapped | stays | zero (version 3), unallocated (2) | unallocated |
//! | compressed | zero | stays | zero (3), unallocated (2) | unallocated |
//!
//! What a cluster used is let go only when the entry that led to it has changed on disk: see `metadata/commit.rs`.

use super::L1Table;
use super::{Exclusive, Guest};
use crate::qcow2::format::entry::{Cluster, Subcluster, Subclusters};
use crate::qcow2::format::error::Result;
use crate::qcow2::format::offset::GuestOffset;
use crate::qcow2::metadata::Freeing;
use block_core::{Cause, DiskOffset, ZeroFlags};
use std::ops::Range;

/// What a cluster becomes.
#[derive(Clone, Copy)]
pub(super) enum Change {
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

impl Guest {
    /// Makes whole subclusters read as zeroes. `at` and `len` are multiples of the subcluster size.
    ///
    /// Errors: [`Cause::NotSupported`] for version 2, which has no zero clusters; nothing has changed then.
    pub(crate) async fn zero_guest(
        &self,
        l1: &L1Table,
        at: GuestOffset,
        len: u64,
        may_unmap: bool,
    ) -> Result<()> {
        if self.meta.geometry().version() < 3 {
            return Err(Cause::NotSupported);
        }
        self.change_guest(l1, at, len, Change::Zero { may_unmap })
            .await
    }

    /// The content of whole clusters no longer matters. `at` and `len` are multiples of the cluster size.
    ///
    /// Errors: [`Cause::NotSupported`] where the backing file would show through: in version 2, which has no zero clusters. Nothing has
    /// changed then.
    pub(crate) async fn discard_guest(
        &self,
        l1: &L1Table,
        at: GuestOffset,
        len: u64,
    ) -> Result<()> {
        if self.meta.geometry().version() < 3 && self.backing.is_there() {
            return Err(Cause::NotSupported);
        }
        self.change_guest(l1, at, len, Change::Discard).await
    }

    /// Slice by slice, each under its lock.
    async fn change_guest(
        &self,
        l1: &L1Table,
        at: GuestOffset,
        len: u64,
        change: Change,
    ) -> Result<()> {
        if matches!(l1, L1Table::Active) && len > 0 {
            self.before_guest_change().await?;
        }
        let mut done = 0;
        while done < len {
            self.meta.make_room().await?;
            let here = GuestOffset(at.0 + done);
            let piece = (len - done).min(self.within_slice(here));
            let clusters = self.lock_numbers(l1, here, piece);
            let held = &self.locks.exclusive(clusters).await;
            self.change_slice(held, l1, here, piece, change).await?;
            done += piece;
        }
        Ok(())
    }

    /// The same as [`Guest::zero_guest`] for a caller that holds the clusters.
    pub(crate) async fn zero_mapped(
        &self,
        held: &Exclusive<'_>,
        l1: &L1Table,
        at: GuestOffset,
        len: u64,
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            self.meta.make_room().await?;
            let here = GuestOffset(at.0 + done);
            let piece = (len - done).min(self.within_slice(here));
            let change = Change::Zero { may_unmap: false };
            self.change_slice(held, l1, here, piece, change).await?;
            done += piece;
        }
        Ok(())
    }

    /// Makes what is unallocated read as zeroes; the rest stays. Whole clusters within one slice of an L2 table, in an image of version 3.
    /// The caller holds the clusters exclusively.
    pub(crate) async fn hide_mapped(
        &self,
        held: &Exclusive<'_>,
        l1: &L1Table,
        at: GuestOffset,
        len: u64,
    ) -> Result<()> {
        self.change_slice(held, l1, at, len, Change::Hide).await
    }

    /// Changes what lies within one slice of an L2 table. The caller holds the clusters exclusively.
    pub(super) async fn change_slice(
        &self,
        held: &Exclusive<'_>,
        l1: &L1Table,
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
        if stays && self.l2_slice(l1, at).await?.is_none() {
            return Ok(()); // nothing is allocated, and nothing shows through
        }
        let (slice, index) = self.writable_l2_slice(l1, at).await?;
        let geometry = self.meta.geometry();
        let mut parts_of_compressed = Vec::new();
        let mut done = 0;
        for index in index.. {
            if done >= len {
                break;
            }
            let inside = geometry.in_cluster(at.0 + done);
            let piece = (len - done).min(geometry.cluster_size() - inside);
            let guest = GuestOffset(at.0 + done - inside);
            let old = self.meta.decode(&slice, index, guest)?;
            match self.changed(&old, inside..inside + piece, change) {
                Some(new) if new != old => {
                    self.meta.set_entry(&slice, index, new);
                    if new.host() != old.host() || matches!(old, Cluster::Compressed { .. }) {
                        self.meta.free_cluster(&old, change.freeing());
                    }
                }
                Some(_) => {}
                None => parts_of_compressed.push((GuestOffset(at.0 + done), piece)),
            }
            done += piece;
        }
        drop(slice);
        for (at, len) in parts_of_compressed {
            self.write_zeroes(held, l1, at, len).await?;
        }
        Ok(())
    }

    /// What becomes of a cluster whose bytes `part` are changed; `None` where it has to be written.
    fn changed(&self, old: &Cluster, part: Range<u64>, change: Change) -> Option<Cluster> {
        let geometry = self.meta.geometry();
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
        let Some(data) = self.meta.external_data() else {
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
}

/// The cluster with the subclusters of its bytes `part` as zeroes, and its host cluster kept.
fn zeroed(
    geometry: &crate::qcow2::format::geometry::Geometry,
    old: &Cluster,
    part: Range<u64>,
) -> Cluster {
    let size = geometry.subcluster_size();
    let range = (part.start / size) as u32..part.end.div_ceil(size) as u32; // at most 32
    let subclusters: Subclusters = old.subclusters(geometry).with(range, Subcluster::Zero);
    Cluster::of(geometry, old.host(), old.copied(), subclusters)
}

/// The cluster with zeroes where it was unallocated.
fn hidden(geometry: &crate::qcow2::format::geometry::Geometry, old: &Cluster) -> Cluster {
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
