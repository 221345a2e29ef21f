//! A stream that becomes the state of a snapshot.

use crate::{SaveOptions, SnapshotSave};
use block_core::{BlockError, BlockNode, NewSnapshot, Op, Result, SnapshotInfo};
use futures::io::{AsyncRead, AsyncReadExt};
use std::io::ErrorKind;

/// Bytes asked of the reader at once.
const PIECE: usize = 128 << 10;

/// Saves what `reader` gives, to its end, and the disk as it is then, as a snapshot: [`SnapshotSave`] from begin to commit.
///
/// # Errors
/// Those of [`SnapshotSave`], `EINVAL` for an empty stream among them. An error of the reader is a failed read at the position it had reached, with its errno; or the [`BlockError`]
/// that it carries. Dropped: as [`SnapshotSave`].
pub async fn save_snapshot(
    node: &BlockNode,
    new: NewSnapshot,
    options: SaveOptions,
    reader: &mut (impl AsyncRead + Unpin + ?Sized),
) -> Result<SnapshotInfo> {
    let save = SnapshotSave::begin(node, new, options).await?;
    match copy(&save, reader).await {
        Ok(()) => save.commit().await,
        Err(error) => Err(save.give_up(error).await),
    }
}

async fn copy(to: &SnapshotSave, from: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<()> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        let len = match from.read(&mut piece).await {
            Ok(0) => return Ok(()),
            Ok(len) => len.min(PIECE),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(of_reader(at, &error)),
        };
        to.save().write(at, &piece[..len]).await?;
        at += len as u64;
    }
}

fn of_reader(at: u64, error: &std::io::Error) -> BlockError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(error) => BlockError::clone(error),
        None => BlockError::from_io(Op::Read, at, 0, error),
    }
}
