//! The limits of an image's disk, and of views of its snapshots.

use super::Guest;
use block_core::{BlockLimits, RangeLimits, VmstateLimits};

impl Guest {
    pub(crate) fn limits(&self) -> BlockLimits {
        let geometry = self.meta.geometry();
        let data = self.meta.data_file().child().limits();
        BlockLimits {
            request_alignment: self.request_alignment(),
            memory_alignment: data.memory_alignment,
            opt_transfer: geometry.cluster_size() as u32, // at most 2 MiB
            write_zeroes: RangeLimits {
                alignment: geometry.subcluster_size() as u32,
                max: None,
            },
            discard: RangeLimits {
                alignment: geometry.cluster_size() as u32,
                max: None,
            },
            ..BlockLimits::default()
        }
    }

    pub(crate) fn vmstate_limits(&self) -> VmstateLimits {
        VmstateLimits {
            request_alignment: self.request_alignment(),
            memory_alignment: self.meta.data_file().child().limits().memory_alignment,
            cluster_size: self.meta.geometry().cluster_size(),
        }
    }

    /// The data file's alignment, so that requests that are aligned here are aligned there; but a block is never larger than a cluster.
    fn request_alignment(&self) -> u32 {
        let data = self.meta.data_file().child().limits();
        let cluster_size = self.meta.geometry().cluster_size() as u32; // at most 2 MiB
        data.request_alignment.min(cluster_size)
    }
}
