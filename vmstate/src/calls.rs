//! The calls as QEMU has them: a node, a position, a vector. The state of a save or load lives with the node.
#![allow(clippy::todo, unused_variables, reason = "shape first; bodies follow")]

use crate::SaveOptions;
use block_core::{BlockNode, IoVector, ReadVector, Result, VmstateOffset};

/// Begins a save with `options`, to be continued by [`save_vmstate`]; without it the first `save_vmstate` begins one with the defaults.
/// Errors as [`VmstateSave::begin`](crate::VmstateSave::begin).
pub fn begin_save_vmstate(node: &BlockNode, options: SaveOptions) -> Result<()> {
    todo!()
}

/// Writes `src` at `at` in the node's vmstate area, buffered; QEMU's `bdrv_save_vmstate`. Begins a save if none is active.
/// See [`VmstateSave::write`](crate::VmstateSave::write) for order, failure and dropping.
pub async fn save_vmstate(
    node: &BlockNode,
    at: impl Into<VmstateOffset>,
    src: &IoVector,
) -> Result<()> {
    todo!()
}

/// [`save_vmstate`] of borrowed bytes.
pub async fn save_vmstate_bytes(
    node: &BlockNode,
    at: impl Into<VmstateOffset>,
    src: &[u8],
) -> Result<()> {
    todo!()
}

/// Waits for the node's save and ends it; QEMU's `bdrv_finalize_vmstate`. Returns the state's length. Also drops the read-ahead of
/// [`load_vmstate`]. With no save active it returns 0 and touches nothing.
pub async fn finalize_vmstate(node: &BlockNode) -> Result<u64> {
    todo!()
}

/// Reads into `dst`; QEMU's `bdrv_load_vmstate`. Returns how many bytes were copied: fewer than asked where the end comes first, 0 at or
/// behind it. During a save it sees all accepted bytes. Where neither a save nor the driver knows the end, `dst` is filled by one
/// unbuffered driver call.
pub async fn load_vmstate(
    node: &BlockNode,
    at: impl Into<VmstateOffset>,
    dst: &mut [u8],
) -> Result<usize> {
    todo!()
}

/// [`load_vmstate`] into a vector, which comes back. Bytes behind the returned count are unchanged.
pub async fn load_vmstate_vector(
    node: &BlockNode,
    at: impl Into<VmstateOffset>,
    dst: ReadVector,
) -> (ReadVector, Result<u64>) {
    todo!()
}

/// The end of the byte that the node's active save accepted last; `None` without one.
pub fn vmstate_position(node: &BlockNode) -> Option<VmstateOffset> {
    todo!()
}
