//! Reads of guest data: QEMU's `qcow2_co_preadv_part`.

use super::Guest;
use super::L1Table;
use super::mapping::Content;
use crate::qcow2::format::error::Result;
use crate::qcow2::format::offset::GuestOffset;
use crate::qcow2::metadata::out_of_memory;
use block_core::{IoBuf, IoVector, ReadVector};

impl Guest {
    /// Fills `dst` from `at` on, in the order of the locks: after changes of the same clusters that came before.
    pub(crate) async fn read_guest(
        &self,
        l1: &L1Table,
        at: GuestOffset,
        dst: ReadVector,
    ) -> (ReadVector, Result<()>) {
        if dst.is_empty() {
            return (dst, Ok(()));
        }
        let _lock = match l1 {
            // Nothing changes what a snapshot maps.
            L1Table::Snapshot(_) => None,
            _ => Some(
                self.locks
                    .shared(self.lock_numbers(l1, at, dst.len()))
                    .await,
            ),
        };
        if let Err(cause) = self.check_tree(l1) {
            return (dst, Err(cause));
        }
        self.read_mapped(l1, at, dst).await
    }

    /// The same for callers that hold a lock on the clusters.
    pub(crate) async fn read_mapped(
        &self,
        l1: &L1Table,
        at: GuestOffset,
        mut dst: ReadVector,
    ) -> (ReadVector, Result<()>) {
        let mut done = ReadVector::new();
        let mut here = at;
        while !dst.is_empty() {
            let extent = match self.extent(l1, here, dst.len()).await {
                Ok(extent) => extent,
                Err(cause) => {
                    done.unsplit(dst);
                    return (done, Err(cause));
                }
            };
            let piece = dst.split_to(extent.len);
            let (piece, result) = self.read_extent(l1, here, extent.content, piece).await;
            done.unsplit(piece);
            if result.is_err() {
                done.unsplit(dst);
                return (done, result);
            }
            here = GuestOffset(here.0 + extent.len);
        }
        done.unsplit(dst); // empty pieces of the caller
        (done, Ok(()))
    }

    async fn read_extent(
        &self,
        l1: &L1Table,
        at: GuestOffset,
        content: Content,
        mut dst: ReadVector,
    ) -> (ReadVector, Result<()>) {
        let len = dst.len();
        match content {
            Content::Data(host) => self.meta.data_file().read(host.0, dst).await,
            Content::Zero => {
                dst.fill_zero(0, len);
                (dst, Ok(()))
            }
            Content::Unallocated => match l1 {
                // The vmstate area too: QEMU reads it through the same tables in the same way.
                L1Table::Active | L1Table::Snapshot(_) => self.backing.read(at, dst).await,
                // Where it will be is not known yet. Gaps are zeroes, and are written down when the state is finished.
                L1Table::State(_) => {
                    dst.fill_zero(0, len);
                    (dst, Ok(()))
                }
            },
            Content::Compressed { at: host, bytes } => {
                let result = self.decompress(host, bytes).await.map(|cluster| {
                    let from = self.meta.geometry().in_cluster(at.0) as usize;
                    dst.copy_from(0, cluster.get(from..).unwrap_or_default());
                });
                (dst, result)
            }
        }
    }

    /// Reads bytes into new memory, for copy on write. The caller holds the clusters.
    pub(crate) async fn read_copy(
        &self,
        l1: &L1Table,
        at: GuestOffset,
        len: u64,
    ) -> Result<IoVector> {
        if len == 0 {
            return Ok(IoVector::new());
        }
        let memory = self.meta.data_file().child().limits().memory_alignment as usize;
        let buffer = IoBuf::zeroed(len as usize, memory).map_err(out_of_memory)?;
        let (filled, result) = self.read_mapped(l1, at, ReadVector::from(buffer)).await;
        result?;
        let mut copy = IoVector::new();
        for part in filled.into_parts() {
            copy.push(part.freeze());
        }
        Ok(copy)
    }
}
