//! Read-ahead load: [`VmstateLoad`].
//!
//! The state is read in chunks on a fixed grid. The window is the reader's chunk and `workers` more after it; a read outside of it puts it
//! there. Chunks are read by tasks of a pool into recycled buffers.

mod session; // aiming, reading ahead, copying out
mod window; // the chunks and their buffers

pub(crate) use self::session::LoadSession;

use crate::LoadOptions;
use crate::extension::Extension;
use block_core::{BlockError, BlockNode, Cause, Op, Result, VmstateOffset};
use std::fmt;
use std::rc::Rc;

/// A load in progress: chunks of the state are read ahead of the reader, wherever it is.
///
/// Reads that overlap in time take turns. A read during a save on the same area sees all bytes that the save has accepted, and nothing is
/// read ahead; when the save ends, what was read before it is forgotten.
///
/// Dropping it drops the read-ahead; driver calls that were made still end, and the node counts them.
pub struct VmstateLoad {
    node: BlockNode,
    extension: Rc<Extension>,
    core: Rc<LoadSession>,
}

impl VmstateLoad {
    /// Opens the state in the vmstate area of `node`. Nothing is read yet.
    ///
    /// # Errors
    /// `ENOTSUP` where there is no such area; `EINVAL` where neither the driver nor [`LoadOptions::length`] tells the length, or for a
    /// buffer size of 0 or above 1 GiB.
    pub async fn open(node: &BlockNode, options: LoadOptions) -> Result<Self> {
        let extension = Extension::of(Op::LoadVmstate, node)?;
        let core = LoadSession::open(node, &extension.saves, options).await?;
        let unknown = || {
            let text = "the length of the state is not known: it must be given";
            BlockError::new(Op::LoadVmstate, 0, 0, Cause::Driver(text.into()))
        };
        Ok(Self {
            node: node.clone(),
            extension,
            core: core.ok_or_else(unknown)?,
        })
    }

    /// The node that the load was opened on.
    pub fn node(&self) -> &BlockNode {
        &self.node
    }

    /// Length of the state in bytes, as known when last asked for: at open, and by the first read after a save.
    pub fn length(&self) -> u64 {
        self.core.length.get()
    }

    /// Reads at `at`; returns how many bytes were copied: fewer than asked where the state's end comes first, 0 at or past it.
    ///
    /// An error in a chunk is returned when a read reaches that chunk; the bytes before it were good. Reading there again asks the driver
    /// again. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `Overflow` where the range ends past `i64::MAX`; else the driver's.
    pub async fn read(&self, at: impl Into<VmstateOffset>, dst: &mut [u8]) -> Result<usize> {
        self.core
            .read(&self.node, &self.extension.saves, at.into().0, dst)
            .await
    }

    /// Copies what is there at `at` now, perhaps fewer bytes than asked. `None`: nothing yet, the read-ahead was started; await
    /// [`VmstateLoad::ready`]. During a save always `None`: use [`VmstateLoad::read`].
    pub fn try_read(&self, at: impl Into<VmstateOffset>, dst: &mut [u8]) -> Result<Option<usize>> {
        self.core
            .try_read(&self.node, &self.extension.saves, at.into().0, dst)
    }

    /// Waits until [`VmstateLoad::try_read`] at `at` has something to say, or a save is active. Holds nothing while it waits for chunks: it
    /// may be left unpolled while other reads go on.
    pub async fn ready(&self, at: impl Into<VmstateOffset>) -> Result<()> {
        self.core
            .ready(&self.node, &self.extension.saves, at.into().0)
            .await
    }

    /// The same load, for the futures that a reader keeps.
    pub(crate) fn share(&self) -> Self {
        Self {
            node: self.node.clone(),
            extension: self.extension.clone(),
            core: self.core.clone(),
        }
    }

    /// True while a save is active, when only [`VmstateLoad::read`] works.
    pub(crate) fn is_saving(&self) -> bool {
        self.extension.saves.active().is_some()
    }
}

impl fmt::Debug for VmstateLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmstateLoad")
            .field("node", &self.node.name())
            .field("length", &self.length())
            .finish_non_exhaustive()
    }
}
