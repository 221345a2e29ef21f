//! `vmstate-file`: a plain file that holds one saved machine state. No QEMU counterpart; it is what `migrate file:` leaves.
//!
//! ```text
//!   vmstate position      0 ............................ length
//!                         |                              |  padding of the last block,
//!   byte of the child     0 ............................ |..until finish_vmstate cuts it off
//!
//!   as a disk             (length 0)
//! ```
//!
//! The file is the stream, byte for byte: no header, no table. It must be chosen by name. Savevm over raw or file never ends up here,
//! since there the bytes of the file are a guest's disk.
//!
//! A save that ends inside a block makes the file longer in steps of [`GROWTH`] first, so that the block's rest is inside the file, as the
//! rest of a cluster is in qcow2: such a save then costs what it costs QEMU, a read of the first and of the last block and one write.

use block_core::{BlockChild, BlockDriver, BlockError, BlockLimits, Cause, Children, DiskOffset};
use block_core::{IoVector, Op, Preallocation, ReadVector, Result, Truncate, VmstateLimits};
use block_core::{VmstateOffset, WriteFlags};
use std::cell::Cell;

/// The name by which this driver is told from one that holds a disk.
pub(crate) const NAME: &str = "vmstate-file";

/// One saved machine state in a child, which should be a [`FileDriver`](crate::FileDriver)'s node that may grow.
///
/// Calls are passed to the child as they are; a dropped future runs on there. Positions that are a multiple of the
/// child's request alignment cost no read.
pub struct VmstateFileDriver {
    file: BlockChild,
    /// How far the child reaches, or will when the saves that were started are over; `None` until the first of them has asked. Only
    /// grows, except at the end of a state; no save makes the child end before it.
    claimed: Cell<Option<u64>>,
    /// The child's length as a read last found it. Cleared by whatever may change it.
    known: Cell<Option<u64>>,
    /// The length that the state cannot lose without another user's doing: the longest length that the child has reported, lowered by
    /// the end of a state.
    seen: Cell<u64>,
    /// Saves and ends of states, begun or over. Tells a read that the length it asked for may be old.
    changes: Cell<u64>,
}

/// How much longer the file becomes at once when unaligned saves reach its end. A multiple of every request alignment that files have.
const GROWTH: u64 = 1 << 20;

impl std::fmt::Debug for VmstateFileDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmstateFileDriver")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl VmstateFileDriver {
    /// The state in `file`, or the place for one. Nothing is read or written.
    pub fn new(file: BlockChild) -> Self {
        Self {
            file,
            claimed: Cell::new(None),
            known: Cell::new(None),
            seen: Cell::new(0),
            changes: Cell::new(0),
        }
    }
}

impl BlockDriver for VmstateFileDriver {
    fn format_name(&self) -> &'static str {
        NAME
    }

    fn limits(&self) -> BlockLimits {
        BlockLimits::default()
    }

    fn children(&self) -> Children<'_> {
        Children {
            file: Some(&self.file),
            backing: None,
        }
    }

    /// Always 0: there is no disk here.
    async fn length(&self) -> Result<u64> {
        Ok(0)
    }

    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        let len = dst.len();
        (dst, no_disk(Op::Read, at, len))
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, _: WriteFlags) -> Result<()> {
        no_disk(Op::Write, at, src.len())
    }

    async fn flush(&self) -> Result<()> {
        self.file.flush().await
    }

    fn vmstate(&self) -> Option<VmstateLimits> {
        let limits = self.file.limits();
        Some(VmstateLimits {
            request_alignment: limits.request_alignment,
            memory_alignment: limits.memory_alignment,
            cluster_size: 0,
        })
    }

    async fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> Result<()> {
        let len = src.len();
        let error = |cause| BlockError::new(Op::SaveVmstate, at.0, len, cause);
        let end = at.checked_add(len).ok_or(error(Cause::Overflow))?;
        let _change = self.change();
        self.make_room(end.0).await.map_err(|e| error(e.cause))?;
        let written = self
            .file
            .pwritev(DiskOffset(at.0), src, WriteFlags::default())
            .await;
        written.map_err(|e| error(e.cause))
    }

    async fn load_vmstate(&self, at: VmstateOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        let len = dst.len();
        let (dst, result) = self.read_clipped(at.0, dst).await;
        (
            dst,
            result.map_err(|error| BlockError::new(Op::LoadVmstate, at.0, len, error.cause)),
        )
    }

    async fn vmstate_length(&self) -> Result<Option<u64>> {
        match self.length_of_child().await {
            Ok(length) => Ok(Some(length)),
            Err(error) => Err(BlockError::new(Op::LoadVmstate, 0, 0, error.cause)),
        }
    }

    /// The child becomes exactly as long as the stream: padding is cut off, and so is what an older, longer state left.
    async fn finish_vmstate(&self, len: u64) -> Result<()> {
        let to = Truncate {
            len,
            exact: true,
            preallocation: Preallocation::Off,
        };
        // What comes next is another state's: it makes its own room.
        self.claimed.set(Some(len));
        self.seen.set(self.seen.get().min(len));
        let _change = self.change();
        let result = self.file.truncate(to).await;
        result.map_err(|error| BlockError::new(Op::FinalizeVmstate, 0, len, error.cause))
    }

    /// Lets go of the child: closed, unless others use it.
    async fn close(&self) -> Result<()> {
        self.file.release().await
    }
}

impl VmstateFileDriver {
    /// Makes the child reach to the end of the block in which a save ends.
    ///
    /// The child is cut nowhere: the new length is past everything that an earlier save claimed, and the child does later saves after
    /// the change of length.
    async fn make_room(&self, end: u64) -> Result<()> {
        let alignment = u64::from(self.file.limits().request_alignment);
        if self.claimed.get().is_none() {
            let length = self.file.length().await?;
            self.claimed.set(self.claimed.get().max(Some(length)));
        }
        let reach = self.claimed.get().unwrap_or(0);
        if end.is_multiple_of(alignment) || end.next_multiple_of(alignment) <= reach {
            self.claimed.set(Some(reach.max(end)));
            return Ok(());
        }
        let len = end.next_multiple_of(GROWTH.max(alignment));
        self.claimed.set(Some(len));
        let to = Truncate {
            len,
            exact: false,
            preallocation: Preallocation::Off,
        };
        self.file.truncate(to).await
    }

    /// The child's length, asked once while nothing changes it: a loader's thousands of reads need no system call each for it.
    async fn readable_length(&self) -> Result<u64> {
        if let Some(length) = self.known.get() {
            return Ok(length);
        }
        let changes = self.changes.get();
        let length = self.length_of_child().await?;
        if self.changes.get() == changes {
            self.known.set(Some(length));
        }
        Ok(length)
    }

    /// The child's length. A state that has become shorter is an error, whatever the child makes of it.
    async fn length_of_child(&self) -> Result<u64> {
        let changes = self.changes.get();
        let length = self.file.length().await?;
        let seen = self.seen.get();
        if self.changes.get() != changes {
            // Saves raise the length and ends of states lower it, in an order that is not known here.
            return Ok(length);
        }
        if length < seen {
            let cause = Cause::Shrunk {
                at: 0,
                wanted: seen,
                got: length,
                length: seen,
            };
            return Err(BlockError::new(Op::Length, 0, 0, cause));
        }
        self.seen.set(length);
        Ok(length)
    }

    /// The length may change from now on until the guard is dropped.
    fn change(&self) -> impl Drop + '_ {
        struct Change<'a>(&'a VmstateFileDriver);
        impl Change<'_> {
            fn note(&self) {
                self.0.known.set(None);
                self.0.changes.set(self.0.changes.get() + 1);
            }
        }
        impl Drop for Change<'_> {
            fn drop(&mut self) {
                self.note();
            }
        }
        let change = Change(self);
        change.note();
        change
    }

    /// Reads what the child has, and zeroes past its end. The child is not asked for a byte past its end.
    async fn read_clipped(&self, at: u64, mut dst: ReadVector) -> (ReadVector, Result<()>) {
        let length = match self.readable_length().await {
            Ok(length) => length,
            Err(error) => return (dst, Err(error)),
        };
        let there = length.saturating_sub(at).min(dst.len());
        if there == 0 {
            crate::file::transfer::zero_from(&mut dst, 0);
            return (dst, Ok(()));
        }
        let asked = dst.len();
        let head = dst.split_to(there);
        let (mut head, result) = self.file.preadv(DiskOffset(at), head).await;
        if head.len() == there {
            head.unsplit(dst);
        }
        if result.is_ok() && there < asked {
            crate::file::transfer::zero_from(&mut head, there);
        }
        (head, result)
    }
}

fn no_disk(op: Op, at: DiskOffset, len: u64) -> Result<()> {
    Err(BlockError::new(op, at.0, len, Cause::NotSupported))
}
