//! Changes of the disk's length: QEMU's `qcow2_co_truncate`.
//!
//! ```text
//!   longer:   drop what is mapped past the old end | zero what would show past it | longer L1 table | allocate, if wanted | size
//!   shorter:  size | drop what is mapped past the new end
//! ```
//!
//! Past the end there may be clusters that no guest sees: a machine's state that QEMU left there, the rest of a length that was never
//! reached, the last cluster's tail. A longer disk must not show them, nor the backing file where that is longer.
//!
//! The size is one write of the header, after everything that the new length shows (`metadata/commit.rs`). The L1 table never becomes shorter.

use super::L1Table;
use super::mapping::Content;
use super::{AllClusters, Exclusive, Guest};
use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use crate::qcow2::format::geometry::TABLE_ENTRY_SIZE;
use crate::qcow2::format::offset::{GuestOffset, HostOffset};
use crate::qcow2::metadata::Freeing;
use crate::qcow2::metadata::Wanted;
use block_core::{Preallocation, Truncate, ZeroFlags};
use std::ops::Range;

impl Guest {
    /// Makes the disk longer or shorter. What is added reads as zeroes. Stable when it returns. The caller has checked the length.
    ///
    /// # Errors
    ///
    /// On any error of a growth the length is the old one. A disk that was to become shorter may be so although what was after its new end
    /// could not be dropped.
    pub(crate) async fn resize(&self, all: &AllClusters<'_>, to: Truncate) -> Result<()> {
        let held = all.exclusive();
        let old = self.meta.size();
        if to.len < old {
            return self.shrink(held, to).await;
        }
        let grown = self.grow(held, old, to).await;
        if grown.is_err() {
            // It does no harm if this fails: the next growth drops what the new length would have shown.
            let _ = self.drop_grown(held, old).await;
        }
        grown
    }

    /// Drops what a growth that failed has mapped. The new length may be on disk: it goes first.
    async fn drop_grown(&self, held: &Exclusive<'_>, old: u64) -> Result<()> {
        self.meta.commit().await?;
        self.drop_mapped(held, &L1Table::Active, self.cluster_up(old))
            .await
    }

    /// Refuses a length that the image cannot have.
    ///
    /// # Errors
    ///
    /// [`Qcow2Error::Resize`], [`Qcow2Error::SizeTooLarge`].
    pub(crate) fn check_length(&self, old: u64, to: &Truncate) -> Result<(), Qcow2Error> {
        let refused = |reason| {
            Err(Qcow2Error::Resize {
                size: to.len,
                reason,
            })
        };
        let geometry = self.meta.geometry();
        let max = geometry.max_l1_entries().saturating_mul(geometry.l2_span());
        if !to.len.is_multiple_of(512) {
            return refused("the length is not a multiple of 512");
        }
        if geometry.version() < 3 && self.meta.snapshots_at().1 > 0 {
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

    async fn shrink(&self, held: &Exclusive<'_>, to: Truncate) -> Result<()> {
        self.set_size(to.len).await?;
        self.drop_mapped(held, &L1Table::Active, self.cluster_up(to.len))
            .await?;
        self.meta.commit().await?;
        self.resize_data_file(&to).await
    }

    async fn grow(&self, held: &Exclusive<'_>, old: u64, to: Truncate) -> Result<()> {
        let l1 = &L1Table::Active;
        self.drop_mapped(held, l1, self.cluster_up(old)).await?;
        let stale = self.data_file_tail(old, to.len).await?;
        self.resize_data_file(&to).await?;
        if let Some(data) = self.meta.external_data()
            && !stale.is_empty()
        {
            let len = stale.end - stale.start;
            data.write_zeroes(stale.start, len, ZeroFlags::default())
                .await?;
        }
        self.zero_tail(held, old..to.len.min(self.cluster_up(old).0))
            .await?;
        self.grow_l1(self.meta.geometry().l1_entries_for(to.len))
            .await?;
        let new = self.cluster_up(old).0..self.cluster_up(to.len).0;
        match to.preallocation {
            // The raw data file is to be found through the tables, too.
            Preallocation::Off if self.header.data_file_raw() => {
                self.preallocate(held, l1, new, Preallocation::Metadata)
                    .await?;
            }
            Preallocation::Off => self.hide_backing(held, new).await?,
            mode => self.preallocate(held, l1, new, mode).await?,
        }
        self.set_size(to.len).await
    }

    /// The header's size, on disk. On an error it is what it was: where the new one is on disk already, the next commit puts the old one
    /// back.
    async fn set_size(&self, size: u64) -> Result<()> {
        let old = self.meta.replace_size(size);
        let done = self.meta.commit().await;
        if done.is_err() {
            self.meta.replace_size(old);
        }
        done
    }

    /// Makes bytes of one cluster zeroes that lay past the disk's end.
    async fn zero_tail(&self, held: &Exclusive<'_>, tail: Range<u64>) -> Result<()> {
        let l1 = &L1Table::Active;
        let mut at = tail.start;
        while at < tail.end {
            let here = GuestOffset(at);
            let extent = self.extent(l1, here, tail.end - at).await?;
            let shows = match extent.content {
                Content::Zero => false,
                Content::Unallocated => self.backing_end().await? > at,
                Content::Data(_) => self.meta.external_data().is_none(), // the data file's tail is zero by now
                Content::Compressed { .. } => true,
            };
            if shows {
                self.write_zeroes(held, l1, here, extent.len).await?;
            }
            at += extent.len;
        }
        Ok(())
    }

    /// Lets nothing of the backing file show through in whole clusters that are not allocated.
    async fn hide_backing(&self, held: &Exclusive<'_>, new: Range<u64>) -> Result<()> {
        let end = self.backing_end().await?.min(new.end);
        if end <= new.start {
            return Ok(());
        }
        let len = self.cluster_up(end).0.min(new.end) - new.start;
        let (l1, at) = (&L1Table::Active, GuestOffset(new.start));
        match self.meta.geometry().version() {
            2 => self.write_zeroes(held, l1, at, len).await,
            _ => self.zero_mapped(held, l1, at, len).await,
        }
    }

    /// The first byte after the backing file; `u64::MAX` where it was not opened.
    async fn backing_end(&self) -> Result<u64> {
        match self.backing.file() {
            Some(file) => file.length().await,
            None if self.backing.is_there() => Ok(u64::MAX),
            None => Ok(0),
        }
    }

    /// Moves the active L1 table to a place where it can have `entries` entries, if it has fewer (QEMU's `qcow2_grow_l1_table`). The new
    /// table is in use from now on, whatever becomes of the change of length; it reaches the disk with the next commit.
    async fn grow_l1(&self, entries: u64) -> Result<()> {
        let geometry = self.meta.geometry();
        let known = self.meta.active().len();
        if entries <= known {
            return Ok(());
        }
        let wanted = geometry.clusters_for(entries * TABLE_ENTRY_SIZE);
        let new = self.meta.allocate(Wanted::Exactly(wanted)).await?;
        if let Err(error) = self.meta.add_table(Table::L1, new.clone()) {
            self.meta.free(new, Freeing::Unnamed);
            return Err(error.into());
        }
        let old = geometry.cluster_of(HostOffset(self.meta.active().at()));
        let old = old..old + geometry.clusters_for(known * TABLE_ENTRY_SIZE);
        let mut table = self.meta.active().copy(0..known);
        table.resize(entries as usize, 0); // at most 4 Mi
        self.meta
            .active()
            .replace(table, new.start << geometry.cluster_bits());
        self.meta.free(old, Freeing::ForReuse);
        Ok(())
    }

    /// The external data file gets the disk's length.
    async fn resize_data_file(&self, to: &Truncate) -> Result<()> {
        let Some(data) = self.meta.external_data() else {
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

    /// What the external data file has past the disk's old end, as far as the new length would show it.
    async fn data_file_tail(&self, old: u64, new: u64) -> Result<Range<u64>> {
        match self.meta.external_data() {
            Some(data) => Ok(old..data.length().await?.clamp(old, new)),
            None => Ok(old..old),
        }
    }

    /// The first cluster that begins at or past `at`, which is at most `i64::MAX`.
    fn cluster_up(&self, at: u64) -> GuestOffset {
        GuestOffset(at.next_multiple_of(self.meta.geometry().cluster_size()))
    }
}
