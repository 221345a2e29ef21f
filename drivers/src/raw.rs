//! `raw`: a window on a child. QEMU's `block/raw-format.c`.
//!
//! ```text
//!   this node            0 ............ size
//!                        |               |
//!   child      0 ...... offset ......... offset + size ...... length
//! ```
//!
//! Bytes are passed on as they are; nothing outside the window is read or written. Offset and size may be any number: the child's node
//! does the alignment. Without a size the window reaches to the child's end, and truncate changes the child.
//!
//! It has no vmstate area, and the file below has none: savevm is "not supported", and no byte of the guest's disk is touched.

use crate::vmstate_file;
use block_core::{BlockChild, BlockDriver, BlockError, BlockLimits, BlockStatus, Cause, Children};
use block_core::{DiskOffset, IoVector, Op, ReadVector, Result, Truncate, WriteFlags, ZeroFlags};

/// Which part of the child is shown; QEMU's `offset` and `size` options. The default is all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawOptions {
    /// First byte of the window.
    pub offset: u64,
    /// Its length in bytes; `None`: to the child's end, wherever that moves to.
    pub size: Option<u64>,
}

/// A window on a child.
///
/// Calls are passed to the child; a dropped future runs on there.
pub struct RawDriver {
    file: BlockChild,
    offset: u64,
    size: Option<u64>,
}

impl std::fmt::Debug for RawDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawDriver")
            .field("file", &self.file)
            .field("offset", &self.offset)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl RawDriver {
    /// The window of `file` that `options` names. It must lie inside the child (`raw_apply_options`), which must hold a disk.
    pub async fn open(file: BlockChild, options: RawOptions) -> Result<Self> {
        let RawOptions { offset, size } = options;
        let refuse = |cause| Err(BlockError::new(Op::Open, offset, size.unwrap_or(0), cause));
        if file.format_name() == vmstate_file::NAME {
            // Vmstate calls would be passed down to it, though no task chose it as their target.
            return refuse(Cause::Driver(
                "a vmstate-file holds no disk for raw to show".into(),
            ));
        }
        let length = file.length().await?;
        match DiskOffset(offset).checked_add(size.unwrap_or(0)) {
            Some(end) if end.0 <= length => Ok(Self { file, offset, size }),
            Some(end) => refuse(Cause::OutOfBounds {
                end: end.0,
                size: length,
            }),
            None => refuse(Cause::Overflow),
        }
    }

    /// The child's offset of the range; a window with a size ends there.
    fn place(&self, op: Op, at: DiskOffset, len: u64) -> Result<DiskOffset> {
        let refuse = |cause| Err(BlockError::new(op, at.0, len, cause));
        match (
            at.checked_add(len),
            DiskOffset(self.offset).checked_add(at.0),
        ) {
            (Some(end), _) if self.size.is_some_and(|size| end.0 > size) => {
                refuse(Cause::OutOfBounds {
                    end: end.0,
                    size: self.size.unwrap_or(0),
                })
            }
            (Some(_), Some(place)) if place.checked_add(len).is_some() => Ok(place),
            _ => refuse(Cause::Overflow),
        }
    }

    /// An error of the child, in this node's offsets.
    fn ours<T>(&self, result: Result<T>, op: Op, at: DiskOffset, len: u64) -> Result<T> {
        result.map_err(|error| {
            let cause = match error.cause {
                Cause::OutOfBounds { end, size } => Cause::OutOfBounds {
                    end: end.saturating_sub(self.offset),
                    size: size.saturating_sub(self.offset),
                },
                cause => cause,
            };
            BlockError::new(op, at.0, len, cause)
        })
    }
}

impl BlockDriver for RawDriver {
    fn format_name(&self) -> &'static str {
        "raw"
    }

    /// Any offset and length: padding to the child's blocks here could reach over the window's ends.
    fn limits(&self) -> BlockLimits {
        let child = self.file.limits();
        BlockLimits {
            request_alignment: 1,
            memory_alignment: child.memory_alignment,
            transfer_alignment: 1,
            max_transfer: child.max_transfer,
            max_iov: child.max_iov,
            opt_transfer: child.opt_transfer,
            ..BlockLimits::default()
        }
    }

    fn children(&self) -> Children<'_> {
        Children {
            file: Some(&self.file),
            backing: None,
        }
    }

    fn supports_fua(&self) -> bool {
        true // the child's node does it, or flushes
    }

    async fn length(&self) -> Result<u64> {
        match self.size {
            Some(size) => Ok(size),
            None => Ok(self.file.length().await?.saturating_sub(self.offset)),
        }
    }

    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        let len = dst.len();
        match self.place(Op::Read, at, len) {
            Ok(place) => {
                let (dst, result) = self.file.preadv(place, dst).await;
                (dst, self.ours(result, Op::Read, at, len))
            }
            Err(error) => (dst, Err(error)),
        }
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        let len = src.len();
        let place = self.place(Op::Write, at, len)?;
        self.ours(
            self.file.pwritev(place, src, flags).await,
            Op::Write,
            at,
            len,
        )
    }

    async fn flush(&self) -> Result<()> {
        self.file.flush().await
    }

    async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        let place = self.place(Op::WriteZeroes, at, len)?;
        self.ours(
            self.file.pwrite_zeroes(place, len, flags).await,
            Op::WriteZeroes,
            at,
            len,
        )
    }

    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        let place = self.place(Op::Discard, at, len)?;
        self.ours(self.file.pdiscard(place, len).await, Op::Discard, at, len)
    }

    /// The child's own answer; `map` is the place in the child.
    async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        let place = self.place(Op::BlockStatus, at, len)?;
        let status = self.file.block_status(place, len).await;
        let status = self.ours(status, Op::BlockStatus, at, len)?;
        Ok(BlockStatus {
            map: Some(place),
            ..status
        })
    }

    /// Changes the child's length; a window with a size keeps it.
    async fn truncate(&self, to: Truncate) -> Result<()> {
        let refuse = |cause| Err(BlockError::new(Op::Truncate, to.len, 0, cause));
        if self.size.is_some() {
            return refuse(Cause::NotSupported);
        }
        let Some(end) = DiskOffset(self.offset).checked_add(to.len) else {
            return refuse(Cause::Overflow);
        };
        let result = self.file.truncate(Truncate { len: end.0, ..to }).await;
        self.ours(result, Op::Truncate, DiskOffset(to.len), 0)
    }

    /// Lets go of the child: closed, unless others use it.
    async fn close(&self) -> Result<()> {
        self.file.release().await
    }
}
