//! The last block, and the memory of requests.

use super::Conformance;
use super::bench::{Bench, Driver, Stop, found, must, skip};
use crate::{DiskOffset, Errno, IoVector, Op, ReadVector, WriteFlags};

/// [`super::Property::End`].
pub(super) fn end(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    if bench.unit == 1 {
        return skip("every length is a multiple of a request alignment of 1");
    }
    bench.fill()?;
    let truncates = bench.needs_truncate().is_ok();
    if truncates {
        let cut = (bench.unit / 2).next_multiple_of(suite.length_unit);
        if cut >= bench.unit {
            return skip("every length is a multiple of the request alignment");
        }
        bench.truncate((bench.whole() - bench.unit).next_multiple_of(suite.length_unit) + cut)?;
        bench.compare("a truncate into a block")?;
    } else if bench.len().is_multiple_of(bench.unit) {
        return skip(
            "the length is a multiple of the request alignment, and truncate is not supported",
        );
    }
    let len = bench.len();
    let last = bench.whole();
    let bytes = bench.bytes(bench.unit);
    let started = bench.start_write(last, &bytes);
    must("a write of the last block".into(), bench.finish(started)?)?;
    if bench.driver.grows() {
        // The node's next step.
        bench.content.borrow_mut().write(last, &bytes);
        bench.compare("a write of the last block and its padding")?;
        bench.truncate(len)?;
    } else {
        bench
            .content
            .borrow_mut()
            .write(last, &bytes[..(len - last) as usize]);
    }
    bench.compare("a write of the last block with padding past the end")?;
    if truncates {
        bench.truncate(last + bench.unit)?;
        bench.compare("growth after a write with padding past the end")?;
    }
    Ok(())
}

/// [`super::Property::Memory`].
pub(super) fn memory(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    bench.fill()?;
    for fault in [None, Some(Errno::IO)] {
        for disk in &bench.disks {
            if let Some(errno) = fault {
                disk.fail_nth(Op::Read, 0, errno);
                disk.fail_nth(Op::Write, 0, errno);
            }
        }
        reads(&bench)?;
        writes(&bench)?;
        bench.disks.iter().for_each(|disk| disk.clear_faults());
    }
    Ok(())
}

fn reads(bench: &Bench) -> Result<(), Stop> {
    let count = bench.segments();
    let dst: ReadVector = (0..count).map(|_| bench.memory(bench.unit)).collect();
    let lent: Vec<_> = dst
        .parts()
        .iter()
        .map(|part| (part.as_ptr().addr(), part.len()))
        .collect();
    let (dst, result) = {
        let request = async |driver: Driver| driver.preadv(DiskOffset(0), dst).await;
        let started = bench.start("a read", request);
        bench.finish(started)?
    };
    let back: Vec<_> = dst
        .parts()
        .iter()
        .map(|part| (part.as_ptr().addr(), part.len()))
        .collect();
    if lent == back {
        return Ok(());
    }
    let how = if result.is_ok() {
        "succeeded"
    } else {
        "failed"
    };
    found(format!(
        "a read of {count} segments that {how} returned other memory than it was lent"
    ))
}

fn writes(bench: &Bench) -> Result<(), Stop> {
    let src = bench.memory(bench.unit).freeze();
    let kept = src.clone();
    let request = async |driver: Driver| {
        let vector = IoVector::from(src);
        let _ = driver
            .pwritev(DiskOffset(0), vector, WriteFlags::default())
            .await;
        // At once: the caller may use the memory again.
        kept.try_into_mut().is_ok()
    };
    let started = bench.start("a write", request);
    if bench.finish(started)? {
        return Ok(());
    }
    found("a write returned while the driver still held its memory")
}
