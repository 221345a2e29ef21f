//! A new table, written to clusters of its own.

use super::{Freeing, Metadata, Wanted};
use crate::qcow2::format::error::{Result, Table};
use std::ops::Range;

impl Metadata {
    /// Writes a table to clusters of its own, which nothing names yet. No bytes need no clusters: `0..0`.
    pub(crate) async fn write_table(&self, what: Table, bytes: &[u8]) -> Result<Range<u64>> {
        if bytes.is_empty() {
            return Ok(0..0);
        }
        let count = self.geometry.clusters_for(bytes.len() as u64);
        let clusters = self.allocate(Wanted::Exactly(count)).await?;
        let written = match self.add_table(what, clusters.clone()) {
            Ok(()) => self.write_whole(clusters.start, bytes).await,
            Err(error) => Err(error.into()),
        };
        if let Err(cause) = written {
            self.free(clusters, Freeing::Unnamed);
            return Err(cause);
        }
        Ok(clusters)
    }

    /// Padded to whole clusters, so that no old bytes follow a table.
    async fn write_whole(&self, cluster: u64, bytes: &[u8]) -> Result<()> {
        let mut whole = bytes.to_vec();
        whole.resize(
            whole
                .len()
                .next_multiple_of(self.geometry.cluster_size() as usize),
            0,
        );
        self.file
            .write(cluster << self.geometry.cluster_bits(), &whole)
            .await
    }
}
