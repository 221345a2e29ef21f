//! Zeroes, discard and status.

use super::Conformance;
use super::bench::{Bench, Stop, found, must, skip};
use crate::{Cause, DiskOffset, RangeLimits};

/// [`super::Property::Zeroes`].
pub(super) fn zeroes(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    let mut supported = false;
    for round in 0..16 {
        if round % 4 == 0 {
            bench.fill()?;
        }
        let (at, len) = range(&bench, bench.driver.limits().write_zeroes)?;
        let what = format!("a write of {len} zeroes at {at}");
        match bench.zeroes(at, len, round % 2 == 1)? {
            Ok(()) => {
                supported = true;
                bench.content.borrow_mut().zero(at..at + len);
                bench.compare(&what)?;
            }
            Err(error) if error.cause == Cause::NotSupported => {
                bench.compare(&format!("{what}, which is not supported,"))?;
            }
            failed => must(what, failed)?,
        }
    }
    if supported {
        Ok(())
    } else {
        skip("the driver does not support writes of zeroes, and changed nothing")
    }
}

/// [`super::Property::Discard`].
pub(super) fn discard(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    for round in 0..16 {
        if round % 4 == 0 {
            bench.fill()?;
        }
        let (at, len) = range(&bench, bench.driver.limits().discard)?;
        let what = format!("a discard of {len} bytes at {at}");
        match bench.discard(at, len)? {
            Err(error) if error.cause == Cause::NotSupported => {}
            result => {
                must(what.clone(), result)?;
                bench.content.borrow_mut().forget(at..at + len);
            }
        }
        bench.compare(&what)?;
    }
    Ok(())
}

/// [`super::Property::Status`].
pub(super) fn status(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    walk(&bench)?;
    // Some of it data, some zeroes, some as it was.
    for _ in 0..6 {
        let (at, len) = bench.range(bench.whole(), 16);
        bench.write(at, &bench.bytes(len.min(bench.longest())))?;
        let (at, len) = range(&bench, bench.driver.limits().write_zeroes)?;
        let _ = bench.zeroes(at, len, true)?;
    }
    walk(&bench)
}

fn walk(bench: &Bench) -> Result<(), Stop> {
    let (mut at, end) = (0, bench.whole());
    while at < end {
        let asked = end - at;
        let what = format!("a status of {asked} bytes at {at}");
        let started = bench.start(what.clone(), async move |driver| {
            driver.block_status(DiskOffset(at), asked).await
        });
        let status = must(what.clone(), bench.finish(started)?)?;
        if !(1..=asked).contains(&status.len) {
            return found(format!("{what} was answered for {} bytes", status.len));
        }
        let from = at / bench.unit * bench.unit;
        let to = (at + status.len).next_multiple_of(bench.unit).min(end);
        let bytes = bench.read(from, to - from)?;
        let mine = &bytes[(at - from) as usize..][..status.len as usize];
        if status.zero
            && let Some(i) = mine.iter().position(|byte| *byte != 0)
        {
            return found(format!(
                "{what} calls byte {} zero, but it reads as {:#04x}",
                at + i as u64,
                mine[i]
            ));
        }
        // The node asks about whole units.
        at = ((at + status.len) / bench.unit * bench.unit).max(at + bench.unit);
    }
    Ok(())
}

/// A range of the seed's choice that obeys `limits`.
fn range(bench: &Bench, limits: RangeLimits) -> Result<(u64, u64), Stop> {
    let align = bench.unit.max(limits.alignment.into());
    let whole = bench.whole() / align;
    let most = limits.max.map_or(u64::MAX, |max| max.get()) / align;
    if whole == 0 || most == 0 {
        return skip("no aligned range fits on the factory's disk");
    }
    let len = bench.within(1..=most.min(whole).min(8));
    let at = bench.within(0..=whole - len);
    Ok((at * align, len * align))
}
