//! `vmstate-file`: a plain file that holds one saved machine state. No QEMU counterpart; it is what `migrate file:` leaves behind.
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

use block_core::{BlockChild, BlockDriver, BlockError, BlockLimits, Cause, Children, DiskOffset};
use block_core::{IoVector, Op, Preallocation, ReadVector, Result, Truncate, VmstateLimits};
use block_core::{VmstateOffset, WriteFlags};

/// The name by which this driver is told from one that holds a disk.
pub(crate) const NAME: &str = "vmstate-file";

/// One saved machine state in a child, which should be a [`FileDriver`](crate::FileDriver)'s node that may grow.
///
/// Calls are passed to the child as they are; whoever drops their futures lets them run on there. Positions that are a multiple of the
/// child's request alignment cost no read.
pub struct VmstateFileDriver {
    file: BlockChild,
}

impl VmstateFileDriver {
    /// The state in `file`, or the place for one. Nothing is read or written.
    pub fn new(file: BlockChild) -> Self {
        Self { file }
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
        let result = self
            .file
            .pwritev(DiskOffset(at.0), src, WriteFlags::default())
            .await;
        result.map_err(|error| BlockError::new(Op::SaveVmstate, at.0, len, error.cause))
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
        match self.file.length().await {
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
        let result = self.file.truncate(to).await;
        result.map_err(|error| BlockError::new(Op::FinalizeVmstate, len, 0, error.cause))
    }
}

impl VmstateFileDriver {
    /// Reads what the child has, and zeroes behind its end. The child is not asked for a byte behind its end.
    async fn read_clipped(&self, at: u64, mut dst: ReadVector) -> (ReadVector, Result<()>) {
        let length = match self.file.length().await {
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
