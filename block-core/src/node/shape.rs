//! A driver's limits, checked once and in the form that requests need them.

use crate::{BlockLimits, Cause, RangeLimits};

/// The most memory that a bounced piece takes, unless one aligned block is larger.
const BOUNCE_MAX: u64 = 1 << 20;

/// Limits of requests. Every alignment is a power of two; every maximum is a multiple of the alignment and not 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Of offsets and lengths. Not less than `transfer`, so that one aligned block can be one piece.
    pub(super) align: u64,
    /// Of addresses.
    pub(super) memory: usize,
    /// Of the lengths of pieces.
    pub(super) transfer: usize,
    /// Longest read or write.
    pub(super) max_transfer: u64,
    /// Most pieces of a vector.
    pub(super) max_iov: usize,
    /// Longest piece that goes through a bounce buffer.
    pub(super) max_bounce: u64,
    /// Of write-zeroes.
    pub(super) zeroes: Ranges,
    /// Of discard.
    pub(super) discard: Ranges,
}

/// Limits of requests without data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranges {
    pub(super) align: u64,
    pub(super) max: u64,
}

impl Shape {
    /// Refuses limits that no request could fit, by name.
    pub(super) fn new(limits: &BlockLimits) -> Result<Self, Cause> {
        power("request_alignment", limits.request_alignment, 1 << 30)?;
        power("memory_alignment", limits.memory_alignment, 1 << 21)?;
        power("transfer_alignment", limits.transfer_alignment, 1 << 30)?;
        let align = u64::from(limits.request_alignment.max(limits.transfer_alignment));
        let max = limits.max_transfer.map_or(i32::MAX as u64, u64::from);
        let max_transfer = maximum("max_transfer", max, align)?;
        Ok(Self {
            align,
            memory: limits.memory_alignment as usize,
            transfer: limits.transfer_alignment as usize,
            max_transfer,
            max_iov: usize::try_from(limits.max_iov.get()).unwrap_or(usize::MAX),
            max_bounce: round_down(max_transfer.min(BOUNCE_MAX), align).max(align),
            zeroes: ranges("write_zeroes", limits.write_zeroes, align)?,
            discard: ranges("discard", limits.discard, align)?,
        })
    }

    /// The whole blocks that `at..end` touches; `None` where they end past the last offset.
    pub(super) fn padded(&self, at: u64, end: u64) -> Option<(u64, u64)> {
        let stop = round_up(end, self.align)?;
        (stop <= i64::MAX as u64).then(|| (round_down(at, self.align), stop))
    }
}

pub(super) fn round_down(value: u64, align: u64) -> u64 {
    value & !(align - 1)
}

pub(super) fn round_up(value: u64, align: u64) -> Option<u64> {
    Some(round_down(value.checked_add(align - 1)?, align))
}

fn power(name: &str, value: u32, max: u32) -> Result<(), Cause> {
    if value.is_power_of_two() && value <= max {
        return Ok(());
    }
    let text = format!("the driver's {name} is {value}, not a power of two from 1 to {max}");
    Err(Cause::Driver(text.into()))
}

fn maximum(name: &str, max: u64, align: u64) -> Result<u64, Cause> {
    match round_down(max, align) {
        0 => {
            let text =
                format!("the driver's maximum for {name} is {max}, less than one block of {align}");
            Err(Cause::Driver(text.into()))
        }
        max => Ok(max),
    }
}

fn ranges(name: &'static str, limits: RangeLimits, align: u64) -> Result<Ranges, Cause> {
    power(name, limits.alignment, 1 << 31)?;
    let align = align.max(u64::from(limits.alignment));
    let max = limits.max.map_or(i64::MAX as u64, u64::from);
    Ok(Ranges {
        align,
        max: maximum(name, max, align)?,
    })
}
