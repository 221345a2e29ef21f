//! A driver over a test disk that breaks its contract in one way.

use aio_task::{AioHandle, CoMutex};
use block_core::test_disk::conformance::{Conformance, Subject};
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{
    BlockDriver, BlockError, BlockLimits, BlockStatus, Cause, DiskOffset, Errno, IoBuf, IoVector,
    Op, ReadVector, Result, Truncate, WriteFlags, ZeroFlags,
};
use std::cell::{Cell, RefCell};

const UNIT: u64 = 512;
/// A block that some of the faults store as one.
const BLOCK: u64 = 4096;

/// How the driver is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    AlignmentOfThree,
    LengthCountsWrites,
    WritesHalf,
    OverlapsMix,
    UnorderedReadModifyWrite,
    TruncateAddsKey,
    TruncateDoesNothing,
    ShrinkHides,
    GapOfKey,
    UnorderedGaps,
    PaddingShown,
    PaddingReturns,
    SwapsMemory,
    LosesMemoryOfFailedRead,
    KeepsMemory,
    SwallowsErrors,
    SwallowsFlushErrors,
    OtherErrno,
    ErrorTwice,
    FailedWriteSpills,
    ShortIsSuccess,
    FailedGrowthKeepsLength,
    BusyForEver,
    DropSpills,
    FlushStaysHere,
    FuaStaysHere,
    ForgetsFuaWrites,
    ZeroesTooFew,
    ZeroesTooMany,
    UnsupportedZeroesChange,
    DiscardsTooMuch,
    StatusOfNothing,
    StatusTooLong,
    StatusCallsDataZero,
    CloseForgets,
    CloseKeepsChild,
    WritesReadOnly,
    Panics,
}

/// The suite for a driver with this fault.
pub(crate) fn suite(fault: Fault) -> Conformance {
    let make = move |bytes: Option<&Vec<u8>>, read_only| {
        let (disk, control) = disk(bytes);
        let driver = Wrong {
            disk,
            fault,
            read_only,
            writes: Cell::new(0),
            in_flight: Cell::new(0),
            sticky: RefCell::default(),
            kept: RefCell::default(),
            cached: RefCell::default(),
            hidden: Cell::new(None),
            padding: RefCell::default(),
            lock: CoMutex::new(()),
        };
        Subject::new(driver).over(control)
    };
    Conformance::new(async move |_: AioHandle| make(None, false))
        .reopen(async move |_: AioHandle, disks: Vec<Vec<u8>>| make(disks.first(), false))
        .read_only(async move |_: AioHandle, disks: Vec<Vec<u8>>| make(disks.first(), true))
}

fn disk(bytes: Option<&Vec<u8>>) -> (TestDisk, TestDiskControl) {
    let made = TestDisk::new(TestDiskOptions {
        len: 128 << 10,
        limits: BlockLimits {
            request_alignment: UNIT as u32,
            memory_alignment: UNIT as u32,
            ..BlockLimits::default()
        },
        grows: true,
        supports_fua: true,
        ..TestDiskOptions::default()
    });
    if let Some(bytes) = bytes {
        made.1.set_contents(bytes);
    }
    made
}

struct Wrong {
    disk: TestDisk,
    fault: Fault,
    read_only: bool,
    writes: Cell<u64>,
    in_flight: Cell<u64>,
    sticky: RefCell<Option<BlockError>>,
    kept: RefCell<Vec<IoVector>>,
    cached: RefCell<Vec<(u64, IoVector)>>,
    /// The length that a truncate pretended.
    hidden: Cell<Option<u64>>,
    padding: RefCell<Option<(u64, IoVector)>>,
    lock: CoMutex<()>,
}

fn memory(len: u64, byte: u8) -> IoVector {
    let mut memory = IoBuf::zeroed(len as usize, UNIT as usize).expect("memory");
    memory.fill(byte);
    memory.into()
}

impl Wrong {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn refuse(&self, op: Op, at: u64, len: u64) -> Result<()> {
        if self.read_only && !self.is(Fault::WritesReadOnly) {
            return Err(BlockError::new(op, at, len, Cause::ReadOnly));
        }
        Ok(())
    }

    async fn raw_write(&self, at: u64, src: IoVector) -> Result<()> {
        let flags = WriteFlags::default();
        self.disk.pwritev(DiskOffset(at), src, flags).await
    }

    async fn raw_read(&self, at: u64, len: u64) -> Result<IoVector> {
        let dst = IoBuf::zeroed(len as usize, UNIT as usize).expect("memory");
        let (dst, result) = self.disk.preadv(DiskOffset(at), dst.into()).await;
        result.map(|()| dst.freeze())
    }

    /// The block around a write, changed as a whole.
    async fn whole_block(&self, at: u64, src: &IoVector) -> Result<(u64, IoVector)> {
        let start = at / BLOCK * BLOCK;
        let stop = (at + src.len()).next_multiple_of(BLOCK);
        let old = self.raw_read(start, stop - start).await?;
        let mut whole = old.slice(0..at - start);
        whole.append(src.clone());
        whole.append(old.slice(at + src.len() - start..stop - start));
        Ok((start, whole))
    }

    async fn write(&self, at: u64, src: IoVector, flags: WriteFlags) -> Result<()> {
        let len = src.len();
        let end = self.disk.length().await?;
        let inside = at + len <= end / BLOCK * BLOCK;
        match self.fault {
            Fault::Panics => panic!("a driver that panics"),
            Fault::WritesHalf if len >= 2 * UNIT => {
                return self.raw_write(at, src.slice(0..UNIT)).await;
            }
            Fault::OverlapsMix if self.in_flight.get() > 1 => {
                return self.raw_write(at, memory(len, 0xcc)).await;
            }
            Fault::UnorderedReadModifyWrite if inside => {
                let (start, whole) = self.whole_block(at, &src).await?;
                return self.raw_write(start, whole).await;
            }
            Fault::DropSpills if inside => {
                let _turn = self.lock.lock().await;
                let (start, whole) = self.whole_block(at, &src).await?;
                self.raw_write(start, memory(whole.len(), 0)).await?;
                return self.raw_write(start, whole).await;
            }
            Fault::GapOfKey if at > end => {
                self.raw_write(end, memory(at - end, 0x5a)).await?;
            }
            Fault::UnorderedGaps if at > end => {
                self.raw_write(end, memory(at - end, 0)).await?;
            }
            Fault::CloseForgets => {
                self.cached.borrow_mut().push((at, src));
                return Ok(());
            }
            Fault::ForgetsFuaWrites if flags.fua => return Ok(()),
            Fault::PaddingReturns => {
                self.padding.replace(Some((at, src.clone())));
            }
            Fault::KeepsMemory => self.kept.borrow_mut().push(src.clone()),
            _ => {}
        }
        let fua = flags.fua && !self.is(Fault::FuaStaysHere);
        let result = self
            .disk
            .pwritev(DiskOffset(at), src, WriteFlags { fua })
            .await;
        match (self.fault, &result) {
            (Fault::FailedWriteSpills, Err(_)) if at >= UNIT => {
                self.raw_write(at - UNIT, memory(UNIT, 0)).await?;
            }
            (Fault::FailedGrowthKeepsLength, Err(_)) if at > end => {
                self.raw_write(at + len, memory(UNIT, 0)).await?;
            }
            _ => {}
        }
        result
    }

    /// What a request returns to the caller.
    fn answer<T: Default>(&self, result: Result<T>) -> Result<T> {
        match (self.fault, result) {
            (Fault::SwallowsErrors, Err(_)) => Ok(T::default()),
            (Fault::OtherErrno, Err(mut error)) => {
                error.cause = Cause::Os(Errno::IO);
                Err(error)
            }
            (Fault::ErrorTwice, Err(error)) => {
                self.sticky.replace(Some(error.clone()));
                Err(error)
            }
            (_, result) => match self.sticky.take() {
                Some(again) => Err(again),
                None => result,
            },
        }
    }

    /// Writes what `CloseForgets` keeps, before anything else looks at the disk.
    async fn write_back(&self) -> Result<()> {
        loop {
            let next = self.cached.borrow_mut().pop();
            let Some((at, src)) = next else { return Ok(()) };
            self.raw_write(at, src).await?;
        }
    }
}

impl BlockDriver for Wrong {
    fn format_name(&self) -> &'static str {
        "wrong"
    }
    fn limits(&self) -> BlockLimits {
        BlockLimits {
            request_alignment: match self.fault {
                Fault::AlignmentOfThree => 3,
                _ => UNIT as u32,
            },
            ..self.disk.limits()
        }
    }
    fn supports_fua(&self) -> bool {
        true
    }
    fn grows(&self) -> bool {
        true
    }
    async fn length(&self) -> Result<u64> {
        let more = match self.fault {
            Fault::LengthCountsWrites => self.writes.get(),
            _ => 0,
        };
        let len = self.disk.length().await?;
        Ok(self.hidden.get().unwrap_or(len) + more)
    }

    async fn preadv(&self, at: DiskOffset, mut dst: ReadVector) -> (ReadVector, Result<()>) {
        if let Err(error) = self.write_back().await {
            return (dst, Err(error));
        }
        if self.is(Fault::SwapsMemory) && dst.parts().len() > 1 {
            dst = dst.into_parts().into_iter().rev().collect();
        }
        let len = dst.len();
        let (mut dst, result) = self.disk.preadv(at, dst).await;
        if let Ok(end) = self.disk.length().await
            && self.is(Fault::PaddingShown)
            && end < at.0 + len
        {
            dst.copy_from(end.saturating_sub(at.0), &[0xff]);
        }
        match (self.fault, result) {
            (Fault::LosesMemoryOfFailedRead, Err(error)) => (ReadVector::new(), Err(error)),
            (Fault::ShortIsSuccess, Err(_)) => (dst, Ok(())),
            (_, result) => (dst, self.answer(result)),
        }
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        self.refuse(Op::Write, at.0, src.len())?;
        if self.is(Fault::BusyForEver) && self.in_flight.get() > 0 {
            std::future::pending::<()>().await;
        }
        self.writes.set(self.writes.get() + 1);
        self.in_flight.set(self.in_flight.get() + 1);
        let result = self.write(at.0, src, flags).await;
        self.in_flight.set(self.in_flight.get() - 1);
        self.answer(result)
    }

    async fn flush(&self) -> Result<()> {
        self.write_back().await?;
        if self.is(Fault::FlushStaysHere) {
            return Ok(());
        }
        let result = self.disk.flush().await;
        match (self.fault, result) {
            (Fault::SwallowsFlushErrors, Err(_)) => Ok(()),
            (_, result) => self.answer(result),
        }
    }

    async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        self.refuse(Op::WriteZeroes, at.0, len)?;
        let end = self.disk.length().await?;
        let (from, size) = match self.fault {
            Fault::ZeroesTooFew => (at.0 + UNIT, len.saturating_sub(UNIT)),
            Fault::ZeroesTooMany if at.0 >= UNIT => (at.0 - UNIT, len + UNIT),
            _ => (at.0, len),
        };
        self.write_back().await?;
        if self.is(Fault::GapOfKey) && at.0 > end {
            self.raw_write(end, memory(at.0 - end, 0x5a)).await?;
        }
        if size == 0 {
            return Ok(());
        }
        let flags = ZeroFlags {
            fua: flags.fua && !self.is(Fault::FuaStaysHere),
            ..flags
        };
        let result = self.disk.pwrite_zeroes(DiskOffset(from), size, flags).await;
        if self.is(Fault::UnsupportedZeroesChange) {
            let cause = Cause::NotSupported;
            return Err(BlockError::new(Op::WriteZeroes, at.0, len, cause));
        }
        self.answer(result)
    }

    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        self.refuse(Op::Discard, at.0, len)?;
        self.write_back().await?;
        let from = match self.fault {
            Fault::DiscardsTooMuch => at.0.saturating_sub(UNIT),
            _ => at.0,
        };
        let len = at.0 + len - from;
        self.answer(self.disk.pdiscard(DiskOffset(from), len).await)
    }

    async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        let status = self.disk.block_status(at, len).await?;
        Ok(match self.fault {
            Fault::StatusOfNothing => BlockStatus { len: 0, ..status },
            Fault::StatusTooLong => BlockStatus {
                len: len + UNIT,
                ..status
            },
            Fault::StatusCallsDataZero => BlockStatus {
                zero: true,
                ..status
            },
            _ => status,
        })
    }

    async fn truncate(&self, to: Truncate) -> Result<()> {
        self.refuse(Op::Truncate, to.len, 0)?;
        self.write_back().await?;
        let len = self.disk.length().await?;
        match self.fault {
            Fault::TruncateDoesNothing => return Ok(()),
            Fault::ShrinkHides if to.len <= len => {
                self.hidden.set(Some(to.len));
                return Ok(());
            }
            Fault::ShrinkHides => self.hidden.set(None),
            _ => {}
        }
        let result = self.disk.truncate(to).await;
        if self.is(Fault::TruncateAddsKey) && to.len >= len.next_multiple_of(UNIT) + UNIT {
            let from = len.next_multiple_of(UNIT);
            self.raw_write(from, memory(UNIT, 0x5a)).await?;
            self.disk.truncate(to).await?;
        }
        let padding = match to.len > len {
            true => self.padding.take(),
            false => None,
        };
        if let Some((at, src)) = padding
            && at + src.len() > len
        {
            self.raw_write(at, src).await?;
        }
        self.answer(result)
    }

    async fn close(&self) -> Result<()> {
        if self.is(Fault::CloseKeepsChild) {
            return Ok(());
        }
        self.disk.close().await
    }
}
