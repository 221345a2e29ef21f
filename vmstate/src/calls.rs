//! The calls as QEMU has them: a node, a position, a vector. The state of a save or load lives with the node.

use crate::extension::Extension;
use crate::load::LoadSession;
use crate::save::SaveSession;
use crate::{LoadOptions, SaveOptions};
use block_core::VmstateOffset;
use block_core::{BlockError, BlockNode, Cause, IoBuf, IoVector, Op, ReadVector, Result};
use std::rc::Rc;

/// Why a whole stream without a byte is refused: its writer has failed before it wrote anything.
pub(crate) fn no_state() -> Cause {
    Cause::Driver("the stream is empty: there is no state".into())
}

/// Begins a save with `options`, to be continued by [`save_vmstate`]; without it the first `save_vmstate` begins one with the defaults.
/// Errors as [`VmstateSave::begin`](crate::VmstateSave::begin).
pub fn begin_save_vmstate(node: &BlockNode, options: SaveOptions) -> Result<()> {
    Extension::begin_save(node, options).map(drop)
}

/// Writes `src` at `at` in the node's vmstate area, buffered; QEMU's `bdrv_save_vmstate`. Begins a save if none is active.
/// See [`VmstateSave::write`](crate::VmstateSave::write) for order, failure and dropping.
pub async fn save_vmstate(
    node: &BlockNode,
    at: impl Into<VmstateOffset>,
    src: &IoVector,
) -> Result<()> {
    active(node)?.writev(node, at.into(), src).await
}

/// [`save_vmstate`] of borrowed bytes.
pub async fn save_vmstate_bytes(
    node: &BlockNode,
    at: impl Into<VmstateOffset>,
    src: &[u8],
) -> Result<()> {
    active(node)?.write(node, at.into(), src).await
}

/// Waits for the node's save and ends it; QEMU's `bdrv_finalize_vmstate`. Returns the state's length. Also drops the read-ahead of
/// [`load_vmstate`]. With no save active it returns 0 and touches nothing.
pub async fn finalize_vmstate(node: &BlockNode) -> Result<u64> {
    let extension = Extension::of(Op::FinalizeVmstate, node)?;
    let load = extension.load.borrow_mut().take();
    drop(load);
    match extension.saves.active() {
        Some(save) => save.finalize(node).await,
        None => Ok(0),
    }
}

/// Reads into `dst`; QEMU's `bdrv_load_vmstate`. Returns how many bytes were copied: fewer than asked where the end comes first, 0 at or
/// past it. During a save it sees all accepted bytes. Where neither a save nor the driver knows the end, `dst` is filled by one
/// unbuffered driver call.
pub async fn load_vmstate(
    node: &BlockNode,
    at: impl Into<VmstateOffset>,
    dst: &mut [u8],
) -> Result<usize> {
    let at = at.into();
    let extension = Extension::of(Op::LoadVmstate, node)?;
    if let Some(save) = extension.saves.active() {
        return save.read(node, at.0, dst).await;
    }
    match reader(node, &extension).await? {
        Some(load) => load.read(node, &extension.saves, at.0, dst).await,
        None => read_unbuffered(node, at, dst).await,
    }
}

/// [`load_vmstate`] into a vector, which comes back. Bytes after the returned count are unchanged.
pub async fn load_vmstate_vector(
    node: &BlockNode,
    at: impl Into<VmstateOffset>,
    dst: ReadVector,
) -> (ReadVector, Result<u64>) {
    let mut at = at.into().0;
    let mut dst = dst;
    let mut done = 0;
    for part in dst.parts_mut() {
        match load_vmstate(node, at, part).await {
            Ok(len) => {
                done += len as u64;
                at = at.saturating_add(len as u64);
                if len < part.len() {
                    break;
                }
            }
            Err(error) => return (dst, Err(error)),
        }
    }
    (dst, Ok(done))
}

/// The end of the byte that the node's active save accepted last; `None` without one.
pub fn vmstate_position(node: &BlockNode) -> Option<VmstateOffset> {
    let save = existing(node)?.saves.active()?;
    Some(VmstateOffset(save.position.get()))
}

/// The node's save, begun if need be.
fn active(node: &BlockNode) -> Result<Rc<SaveSession>> {
    match existing(node).and_then(|extension| extension.saves.active()) {
        Some(save) => Ok(save),
        None => Extension::begin_save(node, SaveOptions::default()),
    }
}

/// What earlier calls have left with the node.
fn existing(node: &BlockNode) -> Option<Rc<Extension>> {
    node.vmstate_node()?.extension()
}

/// The node's read-ahead, begun if need be; `None` if the end is not known.
async fn reader(node: &BlockNode, extension: &Extension) -> Result<Option<Rc<LoadSession>>> {
    if let Some(load) = &*extension.load.borrow() {
        return Ok(Some(load.clone()));
    }
    let opened = LoadSession::open(node, &extension.saves, LoadOptions::default()).await?;
    extension.load.borrow_mut().clone_from(&opened);
    Ok(opened)
}

async fn read_unbuffered(node: &BlockNode, at: VmstateOffset, dst: &mut [u8]) -> Result<usize> {
    let len = dst.len() as u64;
    let failed = |cause| BlockError::new(Op::LoadVmstate, at.0, len, cause);
    at.checked_add(len).ok_or_else(|| failed(Cause::Overflow))?;
    let alignment = node
        .vmstate_limits()
        .map_or(1, |l| l.memory_alignment.max(1)) as usize;
    let memory = IoBuf::zeroed(dst.len(), alignment)
        .map_err(|_| failed(Cause::OutOfMemory { bytes: len }))?;
    let (read, result) = node
        .load_vmstate_unbuffered(at, ReadVector::from(memory))
        .await;
    result?;
    Ok(read.copy_to(0, dst))
}
