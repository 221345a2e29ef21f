//! What is known of guest data without reading it: QEMU's `qcow2_co_block_status`.

use super::Guest;
use super::L1Table;
use crate::qcow2::format::entry::{Cluster, Subcluster};
use crate::qcow2::format::error::Result;
use crate::qcow2::format::offset::{GuestOffset, HostOffset};
use block_core::{BlockStatus, DiskOffset};

/// What a run of bytes has in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    /// Compressed clusters are data without a place.
    subcluster: Subcluster,
    /// The host cluster is there, used or not: where the run's first byte is.
    host: Option<HostOffset>,
    compressed: bool,
}

impl Guest {
    /// The status of the first bytes of a range that is not empty, inside one slice of an L2 table.
    ///
    /// `map` is the place in the file that holds guest data: the image file or the external data file. Zero and unallocated clusters have
    /// one, too, where a host cluster is kept for them.
    pub(crate) async fn status(
        &self,
        l1: &L1Table,
        at: GuestOffset,
        len: u64,
    ) -> Result<BlockStatus> {
        let len = len.min(self.within_slice(at));
        let _lock = match l1 {
            // Nothing changes what a snapshot maps.
            L1Table::Snapshot(_) => None,
            _ => Some(self.locks.shared(self.lock_numbers(l1, at, len)).await),
        };
        let (kind, len) = self.run(l1, at, len).await?;
        let mut status = BlockStatus {
            len,
            data: kind.subcluster == Subcluster::Data,
            zero: kind.subcluster == Subcluster::Zero,
            allocated: kind.subcluster != Subcluster::Unallocated,
            map: kind.host.map(|host| DiskOffset(host.0)),
        };
        if kind.subcluster == Subcluster::Unallocated {
            let backed = self.backed_bytes(at).await?;
            status.zero = backed == 0;
            status.len = match backed {
                0 => len,
                _ => len.min(backed), // what is past the backing file's end reads as zeroes, and is the next answer
            };
        }
        Ok(status)
    }

    /// Bytes from `at` on that the backing file has.
    async fn backed_bytes(&self, at: GuestOffset) -> Result<u64> {
        match self.backing.file() {
            Some(file) => Ok(file.length().await?.saturating_sub(at.0)),
            None if self.backing.is_there() => Ok(u64::MAX), // not opened: it is not known
            None => Ok(0),
        }
    }

    async fn run(&self, l1: &L1Table, at: GuestOffset, len: u64) -> Result<(Kind, u64)> {
        let unallocated = Kind {
            subcluster: Subcluster::Unallocated,
            host: None,
            compressed: false,
        };
        let Some((slice, index)) = self.l2_slice(l1, at).await? else {
            return Ok((unallocated, len));
        };
        let geometry = self.meta.geometry();
        let mut found: Option<Kind> = None;
        let mut done = 0;
        for index in index.. {
            if done >= len {
                break;
            }
            let here = GuestOffset(at.0 + done);
            let inside = geometry.in_cluster(here.0);
            let cluster = self
                .meta
                .decode(&slice, index, GuestOffset(here.0 - inside))?;
            let (kind, bytes) = self.part(&cluster, here);
            match found {
                None => found = Some(kind),
                Some(first) if first.goes_on_with(&kind, done) => {}
                Some(_) => break,
            }
            done += bytes.min(len - done);
            if geometry.in_cluster(at.0 + done) != 0 {
                break; // the rest of the cluster is something else
            }
        }
        Ok((found.unwrap_or(unallocated), done))
    }

    /// What a cluster is from `at` on, and for how many bytes.
    fn part(&self, cluster: &Cluster, at: GuestOffset) -> (Kind, u64) {
        let geometry = self.meta.geometry();
        let inside = geometry.in_cluster(at.0);
        if matches!(cluster, Cluster::Compressed { .. }) {
            let kind = Kind {
                subcluster: Subcluster::Data,
                host: None,
                compressed: true,
            };
            return (kind, geometry.cluster_size() - inside);
        }
        let first = geometry.subcluster_index(at);
        let subclusters = cluster.subclusters(geometry);
        let (subcluster, count) = subclusters.run(first, geometry.subclusters());
        let end = (u64::from(first) + u64::from(count)) * geometry.subcluster_size();
        let kind = Kind {
            subcluster,
            host: cluster.host().map(|host| HostOffset(host.0 + inside)),
            compressed: false,
        };
        (kind, end - inside)
    }
}

impl Kind {
    /// Whether `next`, which begins `done` bytes past the start of this run, belongs to it.
    fn goes_on_with(&self, next: &Self, done: u64) -> bool {
        let expected = Self {
            host: self.host.map(|host| HostOffset(host.0 + done)),
            ..*self
        };
        *next == expected
    }
}
