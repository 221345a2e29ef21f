//! Read-ahead load: [`VmstateLoad`].
#![allow(clippy::todo, unused_variables, reason = "shape first; bodies follow")]

use crate::LoadOptions;
use block_core::{BlockNode, Result, VmstateOffset};

/// A load in progress: chunks of the state are read ahead of the reader, wherever it is.
///
/// Dropping it drops the read-ahead; driver calls that were made still end, and the node counts them.
pub struct VmstateLoad {
    _todo: (),
}

impl VmstateLoad {
    /// Opens the state in the vmstate area of `node`.
    ///
    /// # Errors
    /// `ENOTSUP` where there is no such area; `EINVAL` where neither the driver nor [`LoadOptions::length`] tells the length, or for a
    /// buffer size of 0 or above 1 GiB.
    pub async fn open(node: &BlockNode, options: LoadOptions) -> Result<Self> {
        todo!()
    }

    /// The node that the load was opened on.
    pub fn node(&self) -> &BlockNode {
        todo!()
    }

    /// Length of the state in bytes.
    pub fn length(&self) -> u64 {
        todo!()
    }

    /// Reads at `at`; returns how many bytes were copied: fewer than asked where the state's end comes first, 0 at or behind it.
    ///
    /// An error in a chunk is returned when a read reaches that chunk; the bytes before it were good. Reading there again asks the driver
    /// again. Dropping the future loses nothing.
    pub async fn read(&self, at: impl Into<VmstateOffset>, dst: &mut [u8]) -> Result<usize> {
        todo!()
    }

    /// Copies what is there at `at` now. `None`: nothing yet, the read-ahead was started; await [`VmstateLoad::ready`].
    pub fn try_read(&self, at: impl Into<VmstateOffset>, dst: &mut [u8]) -> Result<Option<usize>> {
        todo!()
    }

    /// Waits until [`VmstateLoad::try_read`] at `at` has something to say. Holds nothing while it waits.
    pub async fn ready(&self, at: impl Into<VmstateOffset>) -> Result<()> {
        todo!()
    }
}
