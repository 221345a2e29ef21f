//! Content and order of requests inside the disk.

use super::Conformance;
use super::bench::{Stop, found, must, write_at};
use crate::{DiskOffset, IoVector, WriteFlags};

/// [`super::Property::Content`].
pub(super) fn content(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    bench.fill()?;
    bench.compare("writing the whole disk")?;
    for _ in 0..60 {
        let (at, len) = bench.range(bench.whole(), bench.longest() / bench.unit);
        let bytes = bench.bytes(len);
        // In two segments, if there are two units.
        let cut = match bench.segments() {
            1 => 0,
            _ => bench.within(0..=len / bench.unit - 1) * bench.unit,
        };
        let mut src = IoVector::new();
        for part in [&bytes[..cut as usize], &bytes[cut as usize..]] {
            src.append(bench.source(part));
        }
        let started = bench.start(write_at(at, bytes.len()), async move |driver| {
            driver
                .pwritev(DiskOffset(at), src, WriteFlags::default())
                .await
        });
        must(write_at(at, bytes.len()), bench.finish(started)?)?;
        bench.content.borrow_mut().write(at, &bytes);
        let read = bench.read(at, len)?;
        let compared = bench.content.borrow().compare(at, &read);
        compared.map_err(|wrong| format!("{} left {wrong}", write_at(at, bytes.len())))?;
    }
    bench.compare("random writes")
}

/// [`super::Property::Overlaps`].
pub(super) fn overlaps(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    bench.fill()?;
    for _ in 0..20 {
        let most = (bench.longest() / bench.unit).clamp(1, 8);
        let (at, len) = bench.range(bench.whole(), most);
        let (from, size) = bench.range(len, most);
        let (first, second) = (vec![0xaa; len as usize], vec![0xbb; size as usize]);
        bench.hold_all();
        let both = [
            bench.start_write(at, &first),
            bench.start_write(at + from, &second),
        ];
        bench.release_all();
        bench.stop_holding();
        let what = format!("overlapping writes at {at} and {}", at + from);
        for write in both {
            must(what.clone(), bench.finish(write)?)?;
        }
        bench.content.borrow_mut().write(at, &first);
        bench
            .content
            .borrow_mut()
            .forget(at + from..at + from + size);
        bench.compare(&what)?;
        let common = bench.read(at + from, size)?;
        if let Some(i) = common.iter().position(|byte| ![0xaa, 0xbb].contains(byte)) {
            let place = at + from + i as u64;
            return found(format!(
                "{what} left {:#04x} at {place}, which neither wrote",
                common[i]
            ));
        }
        bench.content.borrow_mut().write(at + from, &common);
    }
    Ok(())
}

/// [`super::Property::Neighbours`].
pub(super) fn neighbours(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    bench.fill()?;
    // Small units lie in the same larger block of most drivers; large ones do not.
    let len = bench.unit.max(64).min(bench.longest());
    for round in 0..8 {
        let count = 8.min(bench.whole() / len);
        let first = bench.within(0..=bench.whole() / len - count) * len;
        bench.hold_all();
        let mut writes = Vec::new();
        for i in 0..count {
            let at = first + i * len;
            let bytes = bench.bytes(len);
            writes.push((at, bench.start_write(at, &bytes), bytes));
        }
        bench.release_all();
        bench.stop_holding();
        for (at, write, bytes) in writes {
            must(write_at(at, bytes.len()), bench.finish(write)?)?;
            bench.content.borrow_mut().write(at, &bytes);
        }
        bench.compare(&format!(
            "{count} neighbouring writes in flight (round {round})"
        ))?;
    }
    Ok(())
}
