//! Changes of length.

use super::Conformance;
use super::bench::{Bench, Stop, must, skip, write_at};

/// [`super::Property::Growth`].
pub(super) fn growth(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    bench.needs_truncate()?;
    bench.fill()?;
    let unit = bench.unit;
    for _ in 0..6 {
        let more = bench.within(1..=40) * unit.max(1024);
        let len = bench.whole() + more;
        bench.truncate(len)?;
        bench.compare(&format!("a truncate to {len} bytes"))?;
        // The new space is as good as the old.
        let (at, size) = bench.range(more, 4);
        bench.write(len - more + at, &bench.bytes(size))?;
        bench.compare("a write to space that a truncate added")?;
    }
    Ok(())
}

/// [`super::Property::Shrinking`].
pub(super) fn shrinking(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    bench.needs_truncate()?;
    for _ in 0..6 {
        bench.fill()?;
        let full = bench.whole();
        let cut = bench.within(1..=full / bench.unit - 1) * bench.unit;
        bench.truncate(cut)?;
        bench.compare(&format!("a truncate to {cut} bytes"))?;
        bench.truncate(full)?;
        bench.compare(&format!("a truncate to {cut} bytes and back to {full}"))?;
    }
    Ok(())
}

/// [`super::Property::Gaps`].
pub(super) fn gaps(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    needs_growth(&bench)?;
    bench.fill()?;
    for _ in 0..6 {
        let (at, len) = past_the_end(&bench);
        bench.write(at, &bench.bytes(len))?;
        bench.compare(&format!("{} past the end", write_at(at, len as usize)))?;
    }
    // The gap after a shorter length is not what was there before.
    if bench.needs_truncate().is_ok() {
        let full = bench.whole();
        bench.fill()?;
        let cut = full / 2 / bench.unit * bench.unit;
        bench.truncate(cut)?;
        bench.write(full, &bench.bytes(bench.unit))?;
        bench.compare(&format!("a truncate to {cut} bytes and a write at {full}"))?;
    }
    let align = bench
        .unit
        .max(bench.driver.limits().write_zeroes.alignment.into());
    let at = (bench.len() + 1).next_multiple_of(align) + align;
    if bench.zeroes(at, align, false)?.is_ok() {
        bench.content.borrow_mut().resize(at + align);
        bench.compare(&format!("a write of {align} zeroes at {at} past the end"))?;
    }
    Ok(())
}

/// [`super::Property::GrowthInFlight`].
pub(super) fn in_flight(suite: &Conformance) -> Result<(), Stop> {
    for round in 0..12 {
        let bench = suite.bench_of(round)?;
        needs_growth(&bench)?;
        bench.fill()?;
        let start = bench.len().next_multiple_of(bench.unit);
        // Three neighbours with gaps between them, the farthest first.
        let step = bench.unit.max(512) * bench.within(1..=9);
        let size = bench.unit.max(512).min(bench.longest());
        let mut places = [
            start + step,
            start + 3 * step + size,
            start + 5 * step + 2 * size,
        ];
        if bench.within(0..=2) > 0 {
            places.reverse();
        }
        bench.hold_all();
        let mut writes = Vec::new();
        for at in places {
            let bytes = bench.bytes(size);
            writes.push((at, bench.start_write(at, &bytes), bytes));
        }
        bench.release_all();
        bench.stop_holding();
        for (at, write, bytes) in writes {
            must(write_at(at, bytes.len()), bench.finish(write)?)?;
            bench.content.borrow_mut().write(at, &bytes);
        }
        bench.compare(&format!(
            "three writes past the end in flight (round {round})"
        ))?;
    }
    Ok(())
}

pub(super) fn needs_growth(bench: &Bench) -> Result<(), Stop> {
    if bench.driver.grows() {
        return Ok(());
    }
    skip("the driver does not grow by writes")
}

/// A range that begins past the end, in bytes.
pub(super) fn past_the_end(bench: &Bench) -> (u64, u64) {
    let end = bench.len().next_multiple_of(bench.unit);
    let gap = bench.within(1..=20) * bench.unit.max(512);
    let len = bench.within(1..=4) * bench.unit;
    (end + gap, len.min(bench.longest()))
}
