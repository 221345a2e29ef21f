//! Changes of the disk's length: QEMU's `qcow2_co_truncate`.
//!
//! ```text
//!   longer:   drop what is mapped behind the old end | zero what would show behind it | longer L1 table | allocate, if wanted | size
//!   shorter:  size | drop what is mapped behind the new end
//! ```
//!
//! Behind the end there may be clusters that no guest sees: a machine's state that QEMU left there, the rest of a length that was never
//! reached, the last cluster's tail. Whoever makes the disk longer must not find them, nor the backing file where that is longer.
//!
//! The size is one write of the header, behind everything that the new length shows (`commit.rs`). The L1 table never becomes shorter.

use super::Result;
use super::allocate::Wanted;
use super::entry::{Cluster, Subcluster, Subclusters};
use super::error::{Qcow2Error, Table};
use super::free::Freeing;
use super::geometry::TABLE_ENTRY_SIZE;
use super::image::Image;
use super::locks::EVERYTHING;
use super::mapping::Content;
use super::offset::{GuestOffset, HostOffset};
use super::tree::Tree;
use block_core::{IoBuf, IoVector, Preallocation, Truncate, ZeroFlags};
use std::ops::Range;

/// Most zero bytes that are written at once.
const PIECE: u64 = 1 << 20;

impl Image {
    /// Makes the disk longer or shorter. What is added reads as zeroes. Stable when it returns.
    ///
    /// Errors, before anything is written: [`Qcow2Error::Resize`], [`Qcow2Error::SizeTooLarge`]. On any error of a growth the length is the old
    /// one. A disk that was to become shorter may be so although what lay behind its new end could not be dropped.
    pub(super) async fn truncate(&self, to: Truncate) -> Result<()> {
        let _lock = self.locks.exclusive(EVERYTHING).await;
        self.check_writable()?;
        let old = self.size.get();
        self.check_length(old, &to)?;
        if to.len != old {
            self.before_guest_change().await?;
            self.note_disk_sizes().await?;
        }
        if to.len != old {
            self.vmstate.show(None); // what a snapshot that was gone to has left behind the disk goes
        }
        if to.len < old {
            return self.shrink(to).await;
        }
        let grown = match to.len > old {
            true => self.grow(old, to).await,
            false => return Ok(()),
        };
        if grown.is_err() {
            // It does no harm if this fails: the next growth drops what the new length would have shown.
            let _ = self.drop_grown(old).await;
        }
        grown
    }

    /// Drops what a growth that failed has mapped. The new length may be on disk: it goes first.
    async fn drop_grown(&self, old: u64) -> Result<()> {
        self.commit().await?;
        self.drop_mapped(&Tree::Active, self.cluster_up(old)).await
    }

    fn check_length(&self, old: u64, to: &Truncate) -> Result<(), Qcow2Error> {
        let refused = |reason| {
            Err(Qcow2Error::Resize {
                size: to.len,
                reason,
            })
        };
        let geometry = &self.geometry;
        let max = geometry.max_l1_entries().saturating_mul(geometry.l2_span());
        if !to.len.is_multiple_of(512) {
            return refused("the length is not a multiple of 512");
        }
        if geometry.version() < 3 && self.snapshots_at.get().1 > 0 {
            return refused("version 2 images with snapshots keep their length");
        }
        if to.len < old && to.preallocation != Preallocation::Off {
            return refused("nothing can be allocated while it becomes shorter");
        }
        if to.len > max.min(i64::MAX as u64) {
            let size = to.len;
            return Err(Qcow2Error::SizeTooLarge { size, max });
        }
        Ok(())
    }

    async fn shrink(&self, to: Truncate) -> Result<()> {
        self.set_size(to.len).await?;
        self.drop_mapped(&Tree::Active, self.cluster_up(to.len))
            .await?;
        self.commit().await?;
        self.resize_data_file(&to).await
    }

    async fn grow(&self, old: u64, to: Truncate) -> Result<()> {
        let tree = &Tree::Active;
        self.drop_mapped(tree, self.cluster_up(old)).await?;
        let stale = self.data_file_tail(old, to.len).await?;
        self.resize_data_file(&to).await?;
        if let Some(data) = &self.data
            && !stale.is_empty()
        {
            let len = stale.end - stale.start;
            data.write_zeroes(stale.start, len, ZeroFlags::default())
                .await?;
        }
        self.zero_tail(old..to.len.min(self.cluster_up(old).0))
            .await?;
        self.grow_l1(self.geometry.l1_entries_for(to.len)).await?;
        let new = self.cluster_up(old).0..self.cluster_up(to.len).0;
        match to.preallocation {
            // The raw data file is to be found through the tables, too.
            Preallocation::Off if self.header.data_file_raw() => {
                self.preallocate(tree, new, Preallocation::Metadata).await?;
            }
            Preallocation::Off => self.hide_backing(new).await?,
            mode => self.preallocate(tree, new, mode).await?,
        }
        self.set_size(to.len).await
    }

    /// The header's size, on disk. On an error it is what it was: where the new one is on disk already, the next commit puts the old one
    /// back.
    async fn set_size(&self, size: u64) -> Result<()> {
        let old = self.size.replace(size);
        let done = self.commit().await;
        if done.is_err() {
            self.size.set(old);
        }
        done
    }

    /// Makes bytes of one cluster zeroes that lay behind the disk's end.
    async fn zero_tail(&self, tail: Range<u64>) -> Result<()> {
        let tree = &Tree::Active;
        let mut at = tail.start;
        while at < tail.end {
            let here = GuestOffset(at);
            let extent = self.extent(tree, here, tail.end - at).await?;
            let shows = match extent.content {
                Content::Zero => false,
                Content::Unallocated => self.backing_end().await? > at,
                Content::Data(_) => self.data.is_none(), // the data file's tail is zero by now
                Content::Compressed { .. } => true,
            };
            if shows {
                self.write_zeroes(tree, here, extent.len).await?;
            }
            at += extent.len;
        }
        Ok(())
    }

    /// Lets nothing of the backing file show through in whole clusters that are not allocated.
    async fn hide_backing(&self, new: Range<u64>) -> Result<()> {
        let end = self.backing_end().await?.min(new.end);
        if end <= new.start {
            return Ok(());
        }
        let len = self.cluster_up(end).0.min(new.end) - new.start;
        let (tree, at) = (&Tree::Active, GuestOffset(new.start));
        match self.geometry.version() {
            2 => self.write_zeroes(tree, at, len).await,
            _ => self.zero_mapped(tree, at, len).await,
        }
    }

    /// The first byte behind the backing file; `u64::MAX` where it was not opened.
    async fn backing_end(&self) -> Result<u64> {
        match self.backing.file() {
            Some(file) => file.length().await,
            None if self.backing.is_there() => Ok(u64::MAX),
            None => Ok(0),
        }
    }

    /// Writes zero bytes. The caller holds the clusters exclusively.
    pub(super) async fn write_zeroes(&self, tree: &Tree, at: GuestOffset, len: u64) -> Result<()> {
        let memory = self.data_file().child().limits().memory_alignment as usize;
        let zeroes = IoBuf::zeroed(len.min(PIECE) as usize, memory);
        let zeroes = IoVector::from(zeroes.map_err(super::commit::out_of_memory)?.freeze());
        let mut done = 0;
        while done < len {
            let piece = zeroes.slice(0..(len - done).min(PIECE));
            let here = GuestOffset(at.0 + done);
            done += piece.len();
            self.write_mapped(tree, here, piece).await?;
        }
        Ok(())
    }

    /// Moves the active L1 table to a place where it can have `entries` entries, if it has fewer (QEMU's `qcow2_grow_l1_table`). The new
    /// table is in use from now on, whatever becomes of the change of length; it reaches the disk with the next commit.
    async fn grow_l1(&self, entries: u64) -> Result<()> {
        let geometry = &self.geometry;
        let known = self.active.len();
        if entries <= known {
            return Ok(());
        }
        let wanted = geometry.clusters_for(entries * TABLE_ENTRY_SIZE);
        let new = self.allocate(Wanted::Exactly(wanted)).await?;
        if let Err(error) = self.add_table(Table::L1, new.clone()) {
            self.free(new, Freeing::Unnamed);
            return Err(error.into());
        }
        let old = geometry.cluster_of(HostOffset(self.active.at()));
        let old = old..old + geometry.clusters_for(known * TABLE_ENTRY_SIZE);
        let mut table = self.active.copy(0..known);
        table.resize(entries as usize, 0); // at most 4 Mi
        self.active
            .replace(table, new.start << geometry.cluster_bits());
        self.free(old, Freeing::ForReuse);
        Ok(())
    }

    /// Allocates whole clusters that nothing is mapped to, and makes them zeroes.
    ///
    /// What lies in a free cluster of the file is old data, so it is overwritten before the table leads there. The caller holds the clusters
    /// exclusively.
    pub(super) async fn preallocate(
        &self,
        tree: &Tree,
        new: Range<u64>,
        mode: Preallocation,
    ) -> Result<()> {
        let geometry = &self.geometry;
        let mut at = new.start;
        while at < new.end {
            self.make_room().await?;
            let here = GuestOffset(at);
            let clusters = geometry.clusters_for((new.end - at).min(self.within_slice(here)));
            let taken = match &self.data {
                Some(_) => None,
                None => Some(self.allocate(Wanted::UpTo(clusters)).await?),
            };
            let clusters = taken.as_ref().map_or(clusters, |t| t.end - t.start);
            let host = taken
                .as_ref()
                .map_or(at, |t| t.start << geometry.cluster_bits());
            let done = self.preallocate_run(tree, here, host, clusters, mode).await;
            if done.is_err()
                && let Some(taken) = taken
            {
                self.free(taken, Freeing::Unnamed);
            }
            done?;
            at += clusters << geometry.cluster_bits();
        }
        Ok(())
    }

    /// Inside one slice of an L2 table.
    async fn preallocate_run(
        &self,
        tree: &Tree,
        at: GuestOffset,
        host: u64,
        clusters: u64,
        mode: Preallocation,
    ) -> Result<()> {
        let geometry = &self.geometry;
        if self.data.is_none() {
            let len = clusters << geometry.cluster_bits();
            self.check_data(HostOffset(host), len)?;
            self.zero_file(host, len, mode).await?;
        }
        let (slice, first) = self.writable_l2_slice(tree, at).await?;
        let all = 0..geometry.subclusters();
        let data = Subclusters::UNALLOCATED.with(all, Subcluster::Data);
        for number in 0..clusters {
            let host = HostOffset(host + (number << geometry.cluster_bits()));
            let cluster = Cluster::of(geometry, Some(host), true, data);
            self.set_entry(&slice, first + number as usize, cluster);
        }
        Ok(())
    }

    /// Makes bytes of the image file zeroes, with space for them as `mode` wants it.
    async fn zero_file(&self, at: u64, len: u64, mode: Preallocation) -> Result<()> {
        if mode != Preallocation::Full {
            let flags = ZeroFlags {
                may_unmap: mode == Preallocation::Metadata,
                ..ZeroFlags::default()
            };
            return self.file.write_zeroes(at, len, flags).await;
        }
        let memory = self.file.child().limits().memory_alignment as usize;
        let zeroes = IoBuf::zeroed(len.min(PIECE) as usize, memory);
        let zeroes = IoVector::from(zeroes.map_err(super::commit::out_of_memory)?.freeze());
        let mut done = 0;
        while done < len {
            let piece = zeroes.slice(0..(len - done).min(PIECE));
            let here = at + done;
            done += piece.len();
            self.file.writev(here, piece).await?;
        }
        Ok(())
    }

    /// The external data file gets the disk's length.
    async fn resize_data_file(&self, to: &Truncate) -> Result<()> {
        let Some(data) = &self.data else {
            return Ok(());
        };
        let to = Truncate {
            preallocation: match to.preallocation {
                Preallocation::Metadata => Preallocation::Off,
                mode => mode,
            },
            exact: to.exact || self.header.data_file_raw(),
            len: to.len,
        };
        data.child().truncate(to).await.map_err(|e| e.cause)
    }

    /// What the external data file has behind the disk's old end, as far as the new length would show it.
    async fn data_file_tail(&self, old: u64, new: u64) -> Result<Range<u64>> {
        match &self.data {
            Some(data) => Ok(old..data.length().await?.clamp(old, new)),
            None => Ok(old..old),
        }
    }

    /// The first cluster that begins at or behind `at`, which is at most `i64::MAX`.
    fn cluster_up(&self, at: u64) -> GuestOffset {
        GuestOffset(at.next_multiple_of(self.geometry.cluster_size()))
    }
}
