//! Requests that fail, and requests that are given up.

use super::Conformance;
use super::bench::{Bench, Driver, Stop, found, must, skip};
use super::content::Content;
use super::growth::{needs_growth, past_the_end};
use crate::{Cause, DiskOffset, Errno, IoBuf, Op, Preallocation, ReadVector, Truncate};
use crate::{Result as BlockResult, WriteFlags, ZeroFlags};
use std::ops::Range;

/// An errno that no driver makes up: EPROTO.
const FAULT: Errno = Errno(71);

/// Most calls of one operation that a single request may make to a disk before the rest are not tried.
const MOST_CALLS: u64 = 24;

/// The child's operations that are made to fail.
const CHILD_OPS: [Op; 6] = [
    Op::Read,
    Op::Write,
    Op::WriteZeroes,
    Op::Discard,
    // These move no bytes.
    Op::Flush,
    Op::Truncate,
];

/// [`super::Property::Errors`].
pub(super) fn errors(suite: &Conformance) -> Result<(), Stop> {
    each_fault(suite, &CHILD_OPS, 0)
}

/// [`super::Property::Short`].
pub(super) fn short(suite: &Conformance) -> Result<(), Stop> {
    each_fault(suite, &CHILD_OPS[..4], 37)
}

/// [`super::Property::Dropped`].
pub(super) fn dropped(suite: &Conformance) -> Result<(), Stop> {
    for kind in Kind::ALL {
        for released in 0..200 {
            let bench = suite.bench()?;
            if bench.disks.is_empty() {
                return skip(
                    "there is no test disk below the driver, which could hold a request at an await",
                );
            }
            let Some(request) = kind.prepare(&bench)? else {
                break;
            };
            let what = format!(
                "{} that was dropped after {released} calls of its children",
                request.what
            );
            bench.hold_all();
            let mut started = request.start(&bench);
            for _ in 0..released {
                bench.release(0);
            }
            let has_ended = bench.poll(&mut started)?.is_some();
            drop(started);
            bench.go_on();
            // What was started may still take effect.
            bench.stop_holding();
            bench.release_all();
            if has_ended {
                break;
            }
            request.then_try_again(&bench, &what)?;
            bench.close()?;
        }
    }
    Ok(())
}

/// Each call that each request makes to each disk fails once, after `moved` bytes.
fn each_fault(suite: &Conformance, ops: &[Op], moved: u64) -> Result<(), Stop> {
    for kind in Kind::ALL {
        for &op in ops {
            let mut disk = 0;
            let mut nth = 0;
            while nth < MOST_CALLS {
                let bench = suite.bench()?;
                if bench.disks.is_empty() {
                    return skip("there is no test disk below the driver, which could fail");
                }
                let Some(request) = kind.prepare(&bench)? else {
                    break;
                };
                let Some(control) = bench.disks.get(disk) else {
                    break;
                };
                control.short_nth(op, nth, moved, FAULT);
                let started = request.start(&bench);
                let result = bench.finish(started)?;
                let fired = control.faults_fired() > 0;
                control.clear_faults();
                if !fired {
                    must(request.what.clone(), result)?;
                    (disk, nth) = (disk + 1, 0);
                    continue;
                }
                request.after_fault(&bench, op, nth, result)?;
                nth += 1;
            }
        }
    }
    Ok(())
}

/// The requests that are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    WritePastTheEnd,
    Zeroes,
    Discard,
    Grow,
    Shrink,
    Flush,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Read,
        Self::Write,
        Self::WritePastTheEnd,
        Self::Zeroes,
        Self::Discard,
        Self::Grow,
        Self::Shrink,
        Self::Flush,
    ];

    /// Fills the disk and chooses a request. `None` if the driver does not have this kind.
    fn prepare(self, bench: &Bench) -> Result<Option<Request>, Stop> {
        bench.fill()?;
        bench.flush()?;
        let limits = bench.driver.limits();
        let whole = bench.whole();
        let most = (bench.longest() / bench.unit).min(8);
        let request = |what: String, at, len, bytes| {
            Ok(Some(Request {
                kind: self,
                what,
                range: at..at + len,
                bytes,
                old: bench.len(),
            }))
        };
        match self {
            Self::Read => {
                let (at, len) = bench.range(whole, most);
                request(
                    format!("a read of {len} bytes at {at}"),
                    at,
                    len,
                    Vec::new(),
                )
            }
            Self::Write => {
                let (at, len) = bench.range(whole, most);
                request(
                    format!("a write of {len} bytes at {at}"),
                    at,
                    len,
                    bench.bytes(len),
                )
            }
            Self::WritePastTheEnd => {
                if needs_growth(bench).is_err() {
                    return Ok(None);
                }
                let (at, len) = past_the_end(bench);
                request(
                    format!("a write of {len} bytes at {at} past the end"),
                    at,
                    len,
                    bench.bytes(len),
                )
            }
            Self::Zeroes => {
                let len = bench.unit.max(limits.write_zeroes.alignment.into());
                if len * 2 > whole || is_unsupported(&bench.zeroes(len, len, false)?) {
                    return Ok(None);
                }
                bench.fill()?;
                request(
                    format!("a write of {len} zeroes at {len}"),
                    len,
                    len,
                    vec![0; len as usize],
                )
            }
            Self::Discard => {
                let len = bench.unit.max(limits.discard.alignment.into());
                if len * 2 > whole || is_unsupported(&bench.discard(len, len)?) {
                    return Ok(None);
                }
                bench.fill()?;
                request(
                    format!("a discard of {len} bytes at {len}"),
                    len,
                    len,
                    Vec::new(),
                )
            }
            Self::Grow | Self::Shrink => {
                if bench.needs_truncate().is_err() {
                    return Ok(None);
                }
                let len = match self {
                    Self::Grow => whole + 8 * bench.unit.max(512),
                    _ => whole / 2 / bench.unit * bench.unit,
                };
                request(
                    format!("a truncate from {} to {len} bytes", bench.len()),
                    len,
                    0,
                    Vec::new(),
                )
            }
            Self::Flush => {
                let (at, len) = bench.range(whole, most);
                bench.write(at, &bench.bytes(len))?;
                request("a flush".into(), 0, 0, Vec::new())
            }
        }
    }
}

/// One request, chosen.
struct Request {
    kind: Kind,
    what: String,
    range: Range<u64>,
    /// What its range then contains.
    bytes: Vec<u8>,
    /// The length before it.
    old: u64,
}

impl Request {
    fn start(&self, bench: &Bench) -> super::bench::Started<BlockResult<IoBuf>> {
        let (kind, at) = (self.kind, DiskOffset(self.range.start));
        let len = self.range.end - self.range.start;
        let src = bench.source(&self.bytes);
        let dst = bench.memory(if kind == Kind::Read { len } else { 0 });
        bench.start(self.what.clone(), async move |driver: Driver| {
            let done = match kind {
                Kind::Read => {
                    let (dst, result) = driver.preadv(at, ReadVector::from(dst)).await;
                    return result.map(|()| dst.into_parts().pop().unwrap_or_default());
                }
                Kind::Write | Kind::WritePastTheEnd => {
                    driver.pwritev(at, src, WriteFlags::default()).await
                }
                Kind::Zeroes => driver.pwrite_zeroes(at, len, ZeroFlags::default()).await,
                Kind::Discard => driver.pdiscard(at, len).await,
                Kind::Grow | Kind::Shrink => {
                    let to = Truncate {
                        len: at.0,
                        exact: true,
                        preallocation: Preallocation::Off,
                    };
                    driver.truncate(to).await
                }
                Kind::Flush => driver.flush().await,
            };
            done.map(|()| IoBuf::empty())
        })
    }

    /// What the disk contains if the request is done.
    fn apply(&self, content: &mut Content) {
        match self.kind {
            Kind::Read | Kind::Flush => {}
            Kind::Write | Kind::WritePastTheEnd | Kind::Zeroes => {
                content.write(self.range.start, &self.bytes)
            }
            Kind::Discard => content.forget(self.range.clone()),
            Kind::Grow | Kind::Shrink => content.resize(self.range.start),
        }
    }

    /// A child's call failed during the request, which ended with `result`.
    fn after_fault(
        &self,
        bench: &Bench,
        op: Op,
        nth: u64,
        result: BlockResult<IoBuf>,
    ) -> Result<(), Stop> {
        let what = format!(
            "{}, during which call {nth} of the child's {op} failed,",
            self.what
        );
        match result {
            Err(error) if error.errno() != FAULT => {
                return found(format!(
                    "{what} returned {error}, and not the child's errno {}",
                    FAULT.0
                ));
            }
            Err(_) => self.then_try_again(bench, &what)?,
            Ok(read) => {
                // Allowed only if the driver did what was asked in another way.
                if self.kind == Kind::Flush && op == Op::Flush {
                    return found(format!("{what} succeeded"));
                }
                if self.kind == Kind::Read {
                    let compared = bench.content.borrow().compare(self.range.start, &read);
                    compared.map_err(|wrong| format!("{what} succeeded with {wrong}"))?;
                }
                self.apply(&mut bench.content.borrow_mut());
                bench.compare(&what)?;
            }
        }
        if op == Op::Flush {
            return Ok(()); // a driver may fail every flush after one that failed
        }
        must(format!("a flush after {what}"), bench.try_flush()?)?;
        bench.close()
    }

    /// Nothing outside the request has changed, and the same request succeeds now.
    fn then_try_again(&self, bench: &Bench, what: &str) -> Result<(), Stop> {
        self.compare_half_done(bench, what)?;
        let started = self.start(bench);
        let result = bench.finish(started)?;
        if self.kind == Kind::Flush {
            return Ok(()); // as above
        }
        must(format!("the same request again after {what}"), result)?;
        self.apply(&mut bench.content.borrow_mut());
        bench.compare(&format!("the same request again after {what}"))
    }

    /// The request failed or was dropped: its own range may contain anything, and the length lies between the old and the new.
    fn compare_half_done(&self, bench: &Bench, what: &str) -> Result<(), Stop> {
        let new = match self.kind {
            Kind::Grow | Kind::Shrink => self.range.start,
            Kind::WritePastTheEnd => self.range.end,
            _ => self.old,
        };
        let len = bench.length()?;
        let (least, most) = (self.old.min(new), self.old.max(new));
        if !(least..=most).contains(&len) {
            return found(format!(
                "after {what} the length is {len} bytes, and not between {least} and {most}"
            ));
        }
        let before = bench.content.borrow().clone();
        {
            let mut content = bench.content.borrow_mut();
            content.resize(len);
            match self.kind {
                Kind::Read | Kind::Flush | Kind::Grow => {}
                Kind::Shrink => content.forget(self.range.start..len),
                _ => content.forget(self.range.clone()),
            }
        }
        bench.compare(what)?;
        if self.kind != Kind::Shrink && len <= self.old {
            *bench.content.borrow_mut() = before;
        }
        Ok(())
    }
}

fn is_unsupported(result: &BlockResult<()>) -> bool {
    matches!(result, Err(error) if error.cause == Cause::NotSupported)
}
