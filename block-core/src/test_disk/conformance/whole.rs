//! The driver as a whole: its limits, and its work in a node.

use super::Conformance;
use super::bench::{MAX_LEN, Stop, found, must};
use crate::{Cause, DiskOffset, NodeBuilder, Preallocation, Truncate, WriteFlags, ZeroFlags};
use aio_task::AioContext;

/// [`super::Property::Limits`].
pub(super) fn limits(suite: &Conformance) -> Result<(), Stop> {
    let bench = suite.bench()?;
    let limits = bench.driver.limits();
    let len = bench.length()?;
    bench.fill()?;
    if bench.driver.limits() != limits {
        return found("the limits changed after writes");
    }
    if bench.length()? != len {
        return found("the length changed after writes inside the disk");
    }
    drop(bench);
    let context = AioContext::new().expect("a context for the suite");
    let opened = context.block_on(async {
        let subject = (suite.fresh)(context.handle()).await;
        let builder = NodeBuilder::new("subject");
        builder.open_boxed(&context.handle(), subject.driver).await
    });
    must("opening a node".into(), opened).map(|_| ())
}

/// [`super::Property::InANode`].
pub(super) fn in_a_node(suite: &Conformance) -> Result<(), Stop> {
    // For its random choices and its model of the content; the node has a driver of its own.
    let bench = suite.bench()?;
    let context = AioContext::new().expect("a context for the suite");
    let opened = context.block_on(async {
        let subject = (suite.fresh)(context.handle()).await;
        let builder = NodeBuilder::new("subject");
        builder.open_boxed(&context.handle(), subject.driver).await
    });
    let node = must("opening a node".into(), opened)?;
    let grows = bench.driver.grows();
    let fill = bench.bytes(bench.len());
    let written = context.block_on(node.pwrite(DiskOffset(0), &fill, WriteFlags::default()));
    must("a write of the whole disk".into(), written)?;
    bench.content.borrow_mut().write(0, &fill);
    for round in 0..200 {
        let size = bench.len();
        let at = bench.within(0..=size);
        let room = if grows && size < MAX_LEN {
            9000
        } else {
            size - at
        };
        let len = bench.within(0..=room.min(9000));
        let what = match round % 8 {
            0..=3 => {
                let bytes = bench.bytes(len);
                let flags = WriteFlags {
                    fua: round % 3 == 0,
                };
                let result = context.block_on(node.pwrite(DiskOffset(at), &bytes, flags));
                let what = format!("a write of {len} bytes at {at}");
                must(what.clone(), result)?;
                if len > 0 {
                    bench.content.borrow_mut().write(at, &bytes);
                }
                what
            }
            4 => {
                let flags = ZeroFlags {
                    may_unmap: bench.within(0..=1) == 1,
                    ..ZeroFlags::default()
                };
                let result = context.block_on(node.pwrite_zeroes(DiskOffset(at), len, flags));
                let what = format!("a write of {len} zeroes at {at}");
                must(what.clone(), result)?;
                if len > 0 {
                    bench.content.borrow_mut().write(at, &vec![0; len as usize]);
                }
                what
            }
            5 => {
                let len = bench.within(size / 2..=(size + size / 4).min(MAX_LEN));
                let to = Truncate {
                    len: len.next_multiple_of(suite.length_unit),
                    exact: true,
                    preallocation: Preallocation::Off,
                };
                let what = format!("a truncate to {} bytes", to.len);
                match context.block_on(node.truncate(to)) {
                    Err(error) if error.cause == Cause::NotSupported => {}
                    result => {
                        must(what.clone(), result)?;
                        bench.content.borrow_mut().resize(to.len);
                    }
                }
                what
            }
            6 => {
                let flushed = context.block_on(node.flush());
                must("a flush".into(), flushed)?;
                "a flush".into()
            }
            _ => {
                let mut dst = [0; 64];
                let past = context.block_on(node.pread(DiskOffset(size - 32), &mut dst));
                match past.map_err(|error| error.cause) {
                    Err(Cause::OutOfBounds { .. }) => {}
                    result => {
                        return found(format!("a read across the end returned {result:?}"));
                    }
                }
                "a read across the end".into()
            }
        };
        let len = must(
            "a request for the length".into(),
            context.block_on(node.length()),
        )?;
        if len != bench.len() {
            let expected = bench.len();
            return found(format!(
                "after {what} the length is {len} bytes and not {expected}"
            ));
        }
        let mut bytes = vec![0; len as usize];
        let read = context.block_on(node.pread(DiskOffset(0), &mut bytes));
        must("a read of the whole disk".into(), read)?;
        let compared = bench.content.borrow().compare(0, &bytes);
        compared.map_err(|wrong| format!("{what} left {wrong}"))?;
    }
    must("a close".into(), context.block_on(node.close()))
}
