//! Reads of guest data: QEMU's `qcow2_co_preadv_part`.

use super::Result;
use super::image::Image;
use super::mapping::Content;
use super::offset::GuestOffset;
use super::tree::Tree;
use block_core::{IoBuf, IoVector, ReadVector};

impl Image {
    /// Fills `dst` from `at` on, in the order of the locks: behind changes of the same clusters that came before.
    pub(super) async fn read_guest(
        &self,
        tree: &Tree,
        at: GuestOffset,
        dst: ReadVector,
    ) -> (ReadVector, Result<()>) {
        if dst.is_empty() {
            return (dst, Ok(()));
        }
        let _lock = match tree {
            // Nothing changes what a snapshot maps.
            Tree::Snapshot(_) => None,
            _ => Some(
                self.locks
                    .shared(self.lock_numbers(tree, at, dst.len()))
                    .await,
            ),
        };
        if let Err(cause) = self.check_tree(tree) {
            return (dst, Err(cause));
        }
        self.read_mapped(tree, at, dst).await
    }

    /// The same for callers that hold a lock on the clusters.
    pub(super) async fn read_mapped(
        &self,
        tree: &Tree,
        at: GuestOffset,
        mut dst: ReadVector,
    ) -> (ReadVector, Result<()>) {
        let mut done = ReadVector::new();
        let mut here = at;
        while !dst.is_empty() {
            let extent = match self.extent(tree, here, dst.len()).await {
                Ok(extent) => extent,
                Err(cause) => {
                    done.unsplit(dst);
                    return (done, Err(cause));
                }
            };
            let piece = dst.split_to(extent.len);
            let (piece, result) = self.read_extent(tree, here, extent.content, piece).await;
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
        tree: &Tree,
        at: GuestOffset,
        content: Content,
        mut dst: ReadVector,
    ) -> (ReadVector, Result<()>) {
        let len = dst.len();
        match content {
            Content::Data(host) => self.data_file().read(host.0, dst).await,
            Content::Zero => {
                dst.fill_zero(0, len);
                (dst, Ok(()))
            }
            Content::Unallocated => match tree {
                // The vmstate area too: QEMU reads it through the same tables in the same way.
                Tree::Active | Tree::Snapshot(_) => self.backing.read(at, dst).await,
                // Where it will be is not known yet. Gaps are zeroes, and are written down when the state is finished.
                Tree::State(_) => {
                    dst.fill_zero(0, len);
                    (dst, Ok(()))
                }
            },
            Content::Compressed { at: host, bytes } => {
                let result = self.decompress(host, bytes).await.map(|cluster| {
                    let from = self.geometry.in_cluster(at.0) as usize;
                    dst.copy_from(0, cluster.get(from..).unwrap_or_default());
                });
                (dst, result)
            }
        }
    }

    /// Reads bytes into new memory, for copy on write. The caller holds the clusters.
    pub(super) async fn read_copy(
        &self,
        tree: &Tree,
        at: GuestOffset,
        len: u64,
    ) -> Result<IoVector> {
        if len == 0 {
            return Ok(IoVector::new());
        }
        let memory = self.data_file().child().limits().memory_alignment as usize;
        let buffer = IoBuf::zeroed(len as usize, memory).map_err(super::commit::out_of_memory)?;
        let (filled, result) = self.read_mapped(tree, at, ReadVector::from(buffer)).await;
        result?;
        let mut copy = IoVector::new();
        for part in filled.into_parts() {
            copy.push(part.freeze());
        }
        Ok(copy)
    }
}
