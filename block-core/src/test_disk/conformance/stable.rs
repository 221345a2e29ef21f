//! What a crash, a close and a read-only driver leave on the disks.

use super::Conformance;
use super::bench::{Bench, Stop, found, must, skip};
use crate::{DiskOffset, Op, Preallocation, Truncate, WriteFlags, ZeroFlags};

/// [`super::Property::Flush`].
pub(super) fn flush(suite: &Conformance) -> Result<(), Stop> {
    for round in 0..4 {
        let bench = suite.bench_of(round)?;
        needs_disks(&bench)?;
        bench.disks.iter().for_each(|disk| disk.track_crashes());
        bench.fill()?;
        for _ in 0..round {
            bench.flush()?;
            let (at, len) = bench.range(bench.whole(), 16);
            bench.write(at, &bench.bytes(len.min(bench.longest())))?;
        }
        bench.flush()?;
        for disk in &bench.disks {
            let records = disk.records();
            let last = |op| records.iter().rposition(|record| record.op == op);
            let unflushed = disk.unflushed().len();
            if suite.reopen.is_none() && unflushed > 0 && last(Op::Write) > last(Op::Flush) {
                return found(format!(
                    "after a flush {unflushed} changes of the child were still not flushed"
                ));
            }
        }
        let Some(_) = &suite.reopen else { continue };
        let after = bench
            .disks
            .iter()
            .map(|disk| disk.contents_after_crash(|_| false));
        compare_reopened(suite, &bench, after.collect(), "a crash after a flush")?;
    }
    Ok(())
}

/// [`super::Property::Fua`].
pub(super) fn fua(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    needs_disks(&bench)?;
    if !bench.driver.supports_fua() {
        return skip("the driver does not support FUA: the node flushes");
    }
    if suite.reopen.is_none() {
        return skip("there is no factory that reopens");
    }
    bench.disks.iter().for_each(|disk| disk.track_crashes());
    bench.fill()?;
    bench.flush()?;
    for _ in 0..4 {
        let (at, len) = bench.range(bench.whole(), 4.min(bench.longest() / bench.unit));
        let bytes = bench.bytes(len);
        let src = bench.source(&bytes);
        let started = bench.start("a write with FUA", async move |driver| {
            driver
                .pwritev(DiskOffset(at), src, WriteFlags { fua: true })
                .await
        });
        must("a write with FUA".into(), bench.finish(started)?)?;
        bench.content.borrow_mut().write(at, &bytes);
    }
    let after = bench
        .disks
        .iter()
        .map(|disk| disk.contents_after_crash(|_| false));
    compare_reopened(
        suite,
        &bench,
        after.collect(),
        "a crash after writes with FUA",
    )
}

/// [`super::Property::Close`].
pub(super) fn close(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    if bench.needs_truncate().is_ok() {
        bench.truncate(bench.whole() + 8 * bench.unit)?;
    }
    bench.fill()?;
    bench.close()?;
    if let Some(open) = bench.disks.iter().position(|disk| !disk.is_closed()) {
        return found(format!("after a close disk {open} is still open"));
    }
    if suite.reopen.is_none() {
        return Ok(());
    }
    let left = bench.disks.iter().map(|disk| disk.contents()).collect();
    compare_reopened(suite, &bench, left, "a close")
}

/// [`super::Property::ReadOnly`].
pub(super) fn read_only(suite: &Conformance) -> Result<(), Stop> {
    let Some(open) = &suite.read_only else {
        return skip("there is no factory for a read-only driver");
    };
    let first = suite.bench()?;
    first.fill()?;
    first.close()?;
    let left: Vec<_> = first.disks.iter().map(|disk| disk.contents()).collect();
    let bench = Bench::new(suite.seed, |handle| open(handle, left.clone()))?;
    *bench.content.borrow_mut() = first.content.take();
    let align = bench
        .unit
        .max(bench.driver.limits().write_zeroes.alignment.into());
    let start = bench.start_write(0, &vec![7; bench.unit as usize]);
    let written = bench.finish(start)?;
    let zeroes = bench.start("a write of zeroes", async move |driver| {
        driver
            .pwrite_zeroes(DiskOffset(0), align, ZeroFlags::default())
            .await
    });
    let zeroed = bench.finish(zeroes)?;
    let to = Truncate {
        len: bench.len() * 2,
        exact: true,
        preallocation: Preallocation::Off,
    };
    let truncate = bench.start("a truncate", async move |driver| driver.truncate(to).await);
    let truncated = bench.finish(truncate)?;
    for (what, result) in [
        ("write", written),
        ("write of zeroes", zeroed),
        ("truncate", truncated),
    ] {
        if result.is_ok() {
            return found(format!(
                "a {what} succeeded on a driver that was opened read-only"
            ));
        }
    }
    bench.compare("requests that a read-only driver refused")?;
    bench.close()?;
    for (i, (disk, before)) in bench.disks.iter().zip(&left).enumerate() {
        if disk.contents() != *before {
            return found(format!(
                "a driver that was opened read-only changed disk {i}"
            ));
        }
    }
    Ok(())
}

fn needs_disks(bench: &Bench) -> Result<(), Stop> {
    if bench.disks.is_empty() {
        return skip("there is no test disk below the driver");
    }
    Ok(())
}

/// A driver on `disks` shows what `bench` wrote.
fn compare_reopened(
    suite: &Conformance,
    bench: &Bench,
    disks: Vec<Vec<u8>>,
    after: &str,
) -> Result<(), Stop> {
    let again = suite.reopened(disks)?;
    *again.content.borrow_mut() = bench.content.borrow().clone();
    again.compare(after)
}
