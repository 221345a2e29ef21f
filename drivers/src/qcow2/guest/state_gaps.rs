//! Gaps of a state that is being saved: what was never written reads as zeroes, in an image with a backing file too.
//!
//! QEMU reads the vmstate area as it reads the disk: an unallocated cluster shows the backing file at the same offset, as far as that is long
//! enough (`qcow2_load_vmstate`). So in such an image a gap is written down before a snapshot records the state:
//!
//! | version | a gap is |
//! |---|---|
//! | 2 | clusters of zeroes, as holes where the file system has them |
//! | 3 | zero clusters, without host clusters |
//! | 3, extended L2 | also the subclusters that are unallocated in a cluster with data |
//!
//! That does not depend on how long the backing file is: it may be replaced by a longer one, and where the area begins is not known before
//! the snapshot is made.

use super::L1Table;
use super::mapping::Content;
use super::{Exclusive, Guest};
use crate::qcow2::format::error::Result;
use crate::qcow2::format::offset::GuestOffset;
use block_core::Preallocation;

impl Guest {
    /// Makes the gaps of the first `len` bytes of a state read as zeroes without the backing file, to the end of the last cluster. Does
    /// nothing where the image has no backing file.
    ///
    /// Slice by slice, each under its lock; a write that comes meanwhile is kept. `len` is at most `i64::MAX`.
    ///
    /// # Errors
    ///
    /// [`Cancelled`](block_core::Cause::Cancelled) where the state was recorded or dropped meanwhile, and what the disk says. Some gaps may
    /// be filled then, which changes nothing of what is read.
    pub(crate) async fn fill_gaps(&self, l1: &L1Table, len: u64) -> Result<()> {
        if !self.backing.is_there() {
            return Ok(());
        }
        let end = len.next_multiple_of(self.meta.geometry().cluster_size());
        let mut at = 0;
        while at < end {
            self.meta.make_room().await?;
            let here = GuestOffset(at);
            let piece = (end - at).min(self.within_slice(here));
            let clusters = self.lock_numbers(l1, here, piece);
            let held = &self.locks.exclusive(clusters).await;
            self.check_tree(l1)?;
            match self.meta.geometry().version() {
                2 => self.allocate_gaps(held, l1, here, piece).await?,
                _ => self.hide_mapped(held, l1, here, piece).await?,
            }
            at += piece;
        }
        Ok(())
    }

    /// Version 2 has no zero clusters: what is unallocated gets host clusters that read as zeroes. `at` and `len` are multiples of the cluster
    /// size. The caller holds the clusters exclusively.
    async fn allocate_gaps(
        &self,
        held: &Exclusive<'_>,
        l1: &L1Table,
        at: GuestOffset,
        len: u64,
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            let here = GuestOffset(at.0 + done);
            let extent = self.extent(l1, here, len - done).await?;
            if extent.content == Content::Unallocated {
                let gap = here.0..here.0 + extent.len;
                self.preallocate(held, l1, gap, Preallocation::Metadata)
                    .await?;
            }
            done += extent.len;
        }
        Ok(())
    }
}
