//! What a call asks of the disk.

use super::Record;
use crate::{BlockError, Cause, NewSnapshot, Op, ReadVector, ZeroFlags};

/// A [`Record`] before it has a number.
pub(super) type Request = Record;

impl Record {
    pub(super) fn new(op: Op, offset: u64, len: u64) -> Self {
        Self {
            id: 0,
            op,
            offset,
            len,
            fua: false,
            may_unmap: false,
            no_fallback: false,
            pieces: 0,
        }
    }

    pub(super) fn pieces(self, pieces: usize) -> Self {
        Self { pieces, ..self }
    }

    pub(super) fn fua(self, fua: bool) -> Self {
        Self { fua, ..self }
    }

    pub(super) fn zeroes(self, flags: ZeroFlags) -> Self {
        let ZeroFlags {
            fua,
            may_unmap,
            no_fallback,
        } = flags;
        Self {
            fua,
            may_unmap,
            no_fallback,
            ..self
        }
    }

    /// The space it works on is the vmstate area, not the disk.
    pub(super) fn on_vmstate(&self) -> bool {
        matches!(
            self.op,
            Op::SaveVmstate | Op::LoadVmstate | Op::FinalizeVmstate | Op::DiscardVmstate
        )
    }

    pub(super) fn is_write(&self) -> bool {
        matches!(self.op, Op::Write | Op::WriteZeroes | Op::Discard)
    }

    pub(super) fn error(&self, cause: Cause) -> BlockError {
        BlockError::new(self.op, self.offset, self.len, cause)
    }
}

/// What a call does when it takes effect, with the memory that it owns until then.
pub(super) enum Work {
    Read(ReadVector),
    Write(crate::IoVector),
    Zero,
    Truncate,
    Flush,
    Status,
    Length,
    DiscardVmstate,
    SnapshotCreate(NewSnapshot),
    SnapshotGoto(String),
    SnapshotDelete(String),
    SnapshotList,
    SnapshotLoad(String),
    Close,
}
