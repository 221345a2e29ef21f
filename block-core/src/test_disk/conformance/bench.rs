//! One driver in a context of its own, and requests to it that obey its limits.

use super::Subject;
use super::content::Content;
use super::random::Random;
use crate::test_disk::TestDiskControl;
use crate::{
    Cause, DiskOffset, DynBlockDriver, IoBuf, IoVector, Preallocation, ReadVector, Truncate,
    WriteFlags, ZeroFlags,
};
use aio_task::{AioContext, AioHandle, JoinError, JoinHandle};
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The lengths that a factory may choose, in bytes.
pub(super) const MIN_LEN: u64 = 64 << 10;
pub(super) const MAX_LEN: u64 = 4 << 20;

/// Why the check of a property ended early.
pub(super) enum Stop {
    /// It does not hold: the sentence.
    Found(String),
    /// It cannot be checked: the reason.
    Skipped(String),
}

impl From<String> for Stop {
    fn from(sentence: String) -> Self {
        Self::Found(sentence)
    }
}

pub(super) fn skip<T>(reason: &str) -> Result<T, Stop> {
    Err(Stop::Skipped(reason.into()))
}

pub(super) fn found<T>(sentence: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Found(sentence.into()))
}

pub(super) type Driver = Rc<dyn DynBlockDriver>;

pub(super) struct Bench {
    // Dropped before the context: the driver's nodes belong to it.
    pub(super) driver: Driver,
    pub(super) disks: Vec<TestDiskControl>,
    /// Offsets and lengths of requests are multiples of this.
    pub(super) unit: u64,
    /// What the disk should contain.
    pub(super) content: RefCell<Content>,
    pub(super) random: RefCell<Random>,
    pub(super) context: AioContext,
}

/// A request that was started. Dropping it drops the driver's future.
pub(super) struct Started<T> {
    what: String,
    task: JoinHandle<T>,
}

impl Bench {
    pub(super) fn new<F: Future<Output = Subject>>(
        seed: u64,
        make: impl FnOnce(AioHandle) -> F,
    ) -> Result<Self, Stop> {
        let context = AioContext::new().expect("a context for the suite");
        let subject = context.block_on(make(context.handle()));
        let limits = subject.driver.limits();
        let unit = limits.request_alignment.max(limits.transfer_alignment);
        if !unit.is_power_of_two() || !limits.memory_alignment.is_power_of_two() {
            return found(format!("an alignment is not a power of two: {limits:?}"));
        }
        let bench = Self {
            driver: subject.driver.into(),
            disks: subject.disks,
            unit: unit.into(),
            content: RefCell::default(),
            random: RefCell::new(Random::new(seed)),
            context,
        };
        let len = bench.length()?;
        let least = MIN_LEN.max(16 * bench.unit);
        if !(least..=MAX_LEN).contains(&len) {
            return found(format!(
                "the factory's disk has {len} bytes, and the suite needs {least} to {MAX_LEN}"
            ));
        }
        bench.content.borrow_mut().resize(len);
        Ok(bench)
    }

    /// The length as the content has it.
    pub(super) fn len(&self) -> u64 {
        self.content.borrow().len()
    }

    /// The length in whole units.
    pub(super) fn whole(&self) -> u64 {
        self.len() / self.unit * self.unit
    }

    pub(super) fn within(&self, range: std::ops::RangeInclusive<u64>) -> u64 {
        self.random.borrow_mut().within(range)
    }

    pub(super) fn bytes(&self, len: u64) -> Vec<u8> {
        self.random.borrow_mut().bytes(len)
    }

    /// A range of at most `most` units inside `0..end`, in bytes.
    pub(super) fn range(&self, end: u64, most: u64) -> (u64, u64) {
        let units = end / self.unit;
        let len = self.within(1..=most.min(units));
        let at = self.within(0..=units - len);
        (at * self.unit, len * self.unit)
    }

    /// Most segments of a vector that the suite uses: 1 or 2.
    pub(super) fn segments(&self) -> u64 {
        let limits = self.driver.limits();
        let units = self.longest() / self.unit;
        u64::from(limits.max_iov.get()).min(units).min(2)
    }

    /// Longest transfer that the suite makes.
    pub(super) fn longest(&self) -> u64 {
        let max = self
            .driver
            .limits()
            .max_transfer
            .map_or(u64::MAX, |max| max.get());
        (max.min(128 << 10) / self.unit * self.unit).max(self.unit)
    }
}

/// Starting and ending requests.
impl Bench {
    pub(super) fn start<T: 'static>(
        &self,
        what: impl Into<String>,
        request: impl AsyncFnOnce(Driver) -> T + 'static,
    ) -> Started<T> {
        let driver = self.driver.clone();
        let task = self
            .context
            .handle()
            .spawn(async move { request(driver).await });
        self.go_on();
        Started {
            what: what.into(),
            task,
        }
    }

    /// Runs what can run without a release.
    pub(super) fn go_on(&self) {
        self.context.by_hand().run_until_stalled();
    }

    /// The result, if the request has ended. A panic is a finding.
    pub(super) fn poll<T: 'static>(&self, started: &mut Started<T>) -> Result<Option<T>, Stop> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut started.task).poll(&mut cx) {
            Poll::Pending => Ok(None),
            Poll::Ready(result) => ended(&started.what, result).map(Some),
        }
    }

    /// Runs the request to its end, releasing held calls in the order they came.
    pub(super) fn finish<T: 'static>(&self, mut started: Started<T>) -> Result<T, Stop> {
        loop {
            self.go_on();
            if let Some(result) = self.poll(&mut started)? {
                return Ok(result);
            }
            if self.disks.is_empty() {
                let result = self.context.block_on(started.task);
                return ended(&started.what, result);
            }
            if !self.release(0) {
                return found(format!(
                    "{} never ended, though no call of a child was in flight",
                    started.what
                ));
            }
        }
    }

    /// How many calls of the disks are held.
    pub(super) fn held(&self) -> usize {
        self.disks.iter().map(TestDiskControl::in_flight).sum()
    }

    /// Releases the nth held call, counted over all disks, and runs on. False if there is none.
    pub(super) fn release(&self, nth: usize) -> bool {
        let held = self
            .disks
            .iter()
            .flat_map(|disk| disk.held().into_iter().map(move |call| (disk, call.id)));
        let Some((disk, id)) = held.collect::<Vec<_>>().into_iter().nth(nth) else {
            return false;
        };
        let released = disk.release(id);
        self.go_on();
        released
    }

    /// Releases held calls in an order of the seed's choice until none is left.
    pub(super) fn release_all(&self) {
        loop {
            let held = self.held();
            if held == 0 || !self.release(self.within(0..=held as u64 - 1) as usize) {
                return;
            }
        }
    }

    pub(super) fn hold_all(&self) {
        self.disks.iter().for_each(TestDiskControl::hold_all);
    }

    pub(super) fn stop_holding(&self) {
        self.disks.iter().for_each(TestDiskControl::stop_holding);
    }

    fn call<T: 'static>(
        &self,
        what: String,
        request: impl AsyncFnOnce(Driver) -> T + 'static,
    ) -> Result<T, Stop> {
        let started = self.start(what, request);
        self.finish(started)
    }
}

fn ended<T>(what: &str, result: Result<T, JoinError>) -> Result<T, Stop> {
    match result {
        Ok(result) => Ok(result),
        Err(JoinError::Panicked(_)) => found(format!("the driver panicked in {what}")),
        Err(JoinError::Cancelled) => found(format!("{what} was cancelled")),
    }
}

/// Requests.
impl Bench {
    pub(super) fn memory(&self, len: u64) -> IoBuf {
        let alignment = self.driver.limits().memory_alignment as usize;
        IoBuf::zeroed(len as usize, alignment).expect("memory for the suite")
    }

    pub(super) fn source(&self, bytes: &[u8]) -> IoVector {
        let mut memory = self.memory(bytes.len() as u64);
        memory.copy_from_slice(bytes);
        memory.into()
    }

    pub(super) fn start_write(&self, at: u64, bytes: &[u8]) -> Started<crate::Result<()>> {
        let src = self.source(bytes);
        self.start(write_at(at, bytes.len()), async move |driver| {
            driver
                .pwritev(DiskOffset(at), src, WriteFlags::default())
                .await
        })
    }

    /// A write that must succeed. The content follows.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Stop> {
        let most = self.longest();
        for (i, part) in bytes.chunks(most as usize).enumerate() {
            let at = at + i as u64 * most;
            let started = self.start_write(at, part);
            must(write_at(at, part.len()), self.finish(started)?)?;
        }
        self.content.borrow_mut().write(at, bytes);
        Ok(())
    }

    /// Writes every whole unit, so that all content is known, and other than zero.
    pub(super) fn fill(&self) -> Result<(), Stop> {
        self.write(0, &self.bytes(self.whole()))
    }

    pub(super) fn read(&self, at: u64, len: u64) -> Result<Vec<u8>, Stop> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let at = at + bytes.len() as u64;
            let part = self.longest().min(len - bytes.len() as u64);
            let mut dst = self.memory(part);
            dst.fill(0xee);
            let what = format!("a read of {part} bytes at {at}");
            let request = async move |driver: Driver| {
                driver.preadv(DiskOffset(at), ReadVector::from(dst)).await
            };
            let (dst, result) = self.call(what.clone(), request)?;
            must(what.clone(), result)?;
            if dst.len() != part {
                return found(format!("{what} returned {} bytes of memory", dst.len()));
            }
            bytes.extend(dst.to_vec());
        }
        Ok(bytes)
    }

    pub(super) fn zeroes(
        &self,
        at: u64,
        len: u64,
        may_unmap: bool,
    ) -> Result<crate::Result<()>, Stop> {
        let flags = ZeroFlags {
            may_unmap,
            ..ZeroFlags::default()
        };
        self.call(
            format!("a write of {len} zeroes at {at}"),
            async move |driver| driver.pwrite_zeroes(DiskOffset(at), len, flags).await,
        )
    }

    pub(super) fn discard(&self, at: u64, len: u64) -> Result<crate::Result<()>, Stop> {
        self.call(
            format!("a discard of {len} bytes at {at}"),
            async move |driver| driver.pdiscard(DiskOffset(at), len).await,
        )
    }

    pub(super) fn length(&self) -> Result<u64, Stop> {
        let result = self.call("a request for the length".into(), async |driver| {
            driver.length().await
        })?;
        must("a request for the length".into(), result)
    }

    pub(super) fn try_truncate(&self, len: u64) -> Result<crate::Result<()>, Stop> {
        let to = Truncate {
            len,
            exact: true,
            preallocation: Preallocation::Off,
        };
        self.call(format!("a truncate to {len} bytes"), async move |driver| {
            driver.truncate(to).await
        })
    }

    /// A truncate that must succeed. The content follows.
    pub(super) fn truncate(&self, len: u64) -> Result<(), Stop> {
        must(
            format!("a truncate to {len} bytes"),
            self.try_truncate(len)?,
        )?;
        self.content.borrow_mut().resize(len);
        Ok(())
    }

    /// Ends the check of a property that needs truncate if the driver cannot.
    pub(super) fn needs_truncate(&self) -> Result<(), Stop> {
        match self.try_truncate(self.len())? {
            Err(error) if error.cause == Cause::NotSupported => {
                skip("the driver does not support truncate")
            }
            result => must("a truncate to the current length".into(), result),
        }
    }

    pub(super) fn try_flush(&self) -> Result<crate::Result<()>, Stop> {
        self.call("a flush".into(), async |driver| driver.flush().await)
    }

    pub(super) fn flush(&self) -> Result<(), Stop> {
        must("a flush".into(), self.try_flush()?)
    }

    pub(super) fn close(&self) -> Result<(), Stop> {
        must(
            "a close".into(),
            self.call("a close".into(), async |driver| driver.close().await)?,
        )
    }

    /// Compares all bytes and the length with the content.
    pub(super) fn compare(&self, after: &str) -> Result<(), Stop> {
        let len = self.length()?;
        if len != self.len() {
            return found(format!(
                "after {after} the length is {len} bytes and not {}",
                self.len()
            ));
        }
        let bytes = self.read(0, len.next_multiple_of(self.unit))?;
        let compared = self.content.borrow().compare(0, &bytes);
        compared.map_err(|what| Stop::Found(format!("{after} left {what}")))
    }
}

pub(super) fn write_at(at: u64, len: usize) -> String {
    format!("a write of {len} bytes at {at}")
}

/// The result of a request that must succeed.
pub(super) fn must<T>(what: String, result: crate::Result<T>) -> Result<T, Stop> {
    result.map_err(|error| Stop::Found(format!("{what} failed: {error}")))
}
