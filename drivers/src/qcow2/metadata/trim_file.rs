//! The end of the image file: cut off where nothing is in use, down to the length that the file had when it was opened.
//!
//! QEMU makes a file shorter only when the disk becomes shorter. Here a file that a save has made longer is as long as before when the state
//! is dropped. What was there at open is not ours to cut: a preallocated file keeps its length.

use super::Metadata;
use crate::qcow2::format::error::Result;
use block_core::{Preallocation, Truncate};

impl Metadata {
    /// Makes the file shorter if its last clusters are free, in memory and on disk. Called when everything is written and nothing is waiting
    /// to be freed. An error is ignored: the file keeps its length then.
    pub(crate) async fn cut_tail(&self) {
        if self.owns_length() {
            let _ = self.try_to_cut().await;
        }
    }

    async fn try_to_cut(&self) -> Result<()> {
        // Nothing is allocated meanwhile.
        let _turn = self.refcounts.lock().await;
        let length = self.file.length().await?;
        let kept = self.length_at_open;
        if length <= kept {
            return Ok(());
        }
        // The cluster that the file ended in at open may have been written to its end since.
        let first = kept >> self.geometry.cluster_bits();
        let clusters = first..self.geometry.clusters_for(length);
        let end = self.refcounts.used_end(&self.file, clusters).await?;
        let len = (end << self.geometry.cluster_bits()).max(kept);
        if len >= length {
            return Ok(());
        }
        self.file
            .truncate(Truncate {
                len,
                exact: true,
                preallocation: Preallocation::Off,
            })
            .await
    }
}
