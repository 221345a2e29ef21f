//! The way into a node: drained sections, and requests of nodes that are closed or that are not driven.

mod common;

use block_core::{
    BlockNode, Cause, DiskOffset, NodeExtension, Op, Result, VmstateOffset, WriteFlags, ZeroFlags,
};
use common::*;
use futures::FutureExt;
use futures::executor::block_on;
use std::cell::Cell;
use std::rc::Rc;

/// Three writes to the same block wait; a fourth is called when the section has ended but none of them has run.
#[test]
fn a_newcomer_does_not_pass_those_that_waited_for_the_end_of_a_drained_section() {
    let rig = Rig::new(direct(4096));
    let section = rig.run(rig.node.drain_begin()).expect("nothing in flight");
    let waiting: Vec<_> = (1..=3)
        .map(|byte| rig.start_write(100, &[byte; 8]))
        .collect();
    assert!(waiting.iter().all(|write| write.is_pending()));
    assert_eq!(
        rig.node.in_flight(),
        0,
        "who waits at the gate is not in flight"
    );
    drop(section);
    let node = rig.node.clone();
    let late = node.pwrite(DiskOffset(100), &[4; 8], WriteFlags::default());
    rig.run(late).expect("the last write");
    assert!(waiting.iter().all(|write| write.result() == Some(Ok(()))));
    assert_eq!(rig.disk.contents()[100..108], [4; 8]);
}

/// The gate shuts again before those that were woken have run.
#[test]
fn a_section_that_begins_at_once_after_another_lets_no_task_slip_through() {
    let rig = Rig::new(plain(4096));
    let first = rig.run(rig.node.drain_begin()).expect("quiet");
    let waiting: Vec<_> = (0..3).map(|i| rig.start_write(i, &[7])).collect();
    drop(first);
    let second = rig.node.drain_begin().now_or_never();
    let second = second.expect("at once").expect("nothing in flight");
    rig.go_on();
    assert!(waiting.iter().all(|write| write.is_pending()));
    assert!(
        rig.calls().is_empty(),
        "no driver call in a drained section"
    );
    drop(second);
    rig.go_on();
    assert!(waiting.iter().all(|write| write.result() == Some(Ok(()))));
    let order: Vec<u64> = rig.calls().into_iter().map(|(_, at, _)| at).collect();
    assert_eq!(order, [0, 1, 2]);
}

#[test]
fn sections_nest_and_a_dropped_beginning_opens_the_gate_again() {
    let rig = Rig::new(plain(4096));
    rig.disk.hold_all();
    let write = rig.start_write(0, b"held");
    assert_eq!(rig.node.in_flight(), 1);
    let outer = rig.node.drain_begin();
    let inner = rig.node.drain_begin();
    let late = rig.start_write(9, b"late");
    assert!(
        rig.node.is_drained(),
        "shut by the call, not by the first poll"
    );
    drop(outer);
    assert!(rig.node.is_drained());
    rig.release_until_quiet();
    assert_eq!(write.result(), Some(Ok(())));
    let section = rig.run(inner).expect("quiet");
    assert!(late.is_pending());
    assert_eq!(
        rig.disk.in_flight(),
        0,
        "the late one has not reached the driver"
    );
    assert_eq!(rig.run(rig.node.length()), Ok(4096), "the length is known");
    drop(section);
    assert!(!rig.node.is_drained());
    rig.go_on();
    rig.release_until_quiet();
    assert_eq!(late.result(), Some(Ok(())));
}

#[test]
fn vmstate_calls_and_flushes_wait_at_the_gate_too() {
    let options = block_core::test_disk::TestDiskOptions {
        vmstate: vmstate_area(),
        ..plain(4096)
    };
    let rig = Rig::new(options);
    let section = rig.run(rig.node.drain_begin()).expect("quiet");
    let save = rig.start(async |node: BlockNode| {
        let src = source([filled(512, 1)]);
        node.save_vmstate_unbuffered(VmstateOffset(0), src).await
    });
    let finish = rig.start(async |node: BlockNode| node.finish_vmstate(512).await);
    let flush = rig.start(async |node: BlockNode| node.flush().await);
    assert!(save.is_pending() && finish.is_pending() && flush.is_pending());
    assert!(rig.calls().is_empty());
    drop(section);
    rig.go_on();
    assert_eq!(save.result(), Some(Ok(())));
    assert_eq!(finish.result(), Some(Ok(())));
    assert_eq!(flush.result(), Some(Ok(())));
    let calls: Vec<Op> = rig.calls().into_iter().map(|(op, ..)| op).collect();
    assert_eq!(calls, [Op::SaveVmstate, Op::FinalizeVmstate, Op::Flush]);
}

/// Something that would lose bytes.
struct Unsaved(Cell<u32>);

impl NodeExtension for Unsaved {
    fn on_close(&self) -> Result<()> {
        self.0.set(self.0.get() + 1);
        Err(error(Op::Close, 0, 3, Cause::Unfinalized))
    }
}

#[test]
fn a_close_takes_every_step_and_gives_the_first_error_to_everybody_who_asks() {
    let rig = Rig::new(plain(4096));
    let extension = Rc::new(Unsaved(Cell::new(0)));
    assert!(rig.node.set_extension(extension.clone()).is_none());
    assert!(rig.node.extension::<Unsaved>().is_some());
    rig.disk.fail_nth(Op::Flush, 0, block_core::Errno::NOSPC);
    rig.disk.hold(Op::Write, 0..4096);
    let in_flight = rig.start_write(0, b"held");
    let section = rig.node.drain_begin();
    let at_the_gate = rig.start_write(9, b"late");
    let close = rig.start(async |node: BlockNode| node.close().await);
    assert!(close.is_pending(), "a write is in flight");
    assert_eq!(
        at_the_gate.result(),
        Some(Err(error(Op::Write, 9, 4, Cause::Closed)))
    );
    let second = rig.start(async |node: BlockNode| node.close().await);
    assert!(second.is_pending());
    rig.release_until_quiet();
    assert_eq!(in_flight.result(), Some(Ok(())));
    let unfinalized = Err(error(Op::Close, 0, 3, Cause::Unfinalized));
    assert_eq!(close.result(), Some(unfinalized.clone()));
    assert_eq!(second.result(), Some(unfinalized.clone()));
    assert_eq!(rig.run(rig.node.close()), unfinalized);
    assert_eq!(rig.disk.faults_fired(), 1, "flushed all the same");
    assert!(rig.disk.is_closed(), "closed all the same");
    assert_eq!(extension.0.get(), 1, "asked once");
    assert!(rig.node.extension::<Unsaved>().is_none());
    assert_eq!(cause(rig.read(0, 1)), Cause::Closed);
    assert_eq!(cause(rig.run(rig.node.flush())), Cause::Closed);
    assert_eq!(cause(rig.run(rig.node.length())), Cause::Closed);
    rig.run(rig.node.settle()).expect("nothing in flight");
    drop(section);
}

#[test]
fn a_dropped_close_goes_on() {
    let rig = Rig::new(plain(4096));
    rig.disk.hold_all();
    let write = rig.start_write(0, b"held");
    let close = rig.start(async |node: BlockNode| node.close().await);
    close.drop_future();
    rig.go_on();
    rig.release_until_quiet();
    assert_eq!(write.result(), Some(Ok(())));
    assert!(rig.disk.is_closed());
    assert_eq!(rig.run(rig.node.close()), Ok(()));
}

/// Outside of block_on, by_hand and drive the context is not driven.
#[test]
fn a_request_that_would_wait_while_it_is_not_driven_is_refused_and_still_ends_when_it_is_driven() {
    let rig = Rig::new(plain(4096));
    let node = &rig.node;
    let write = node.pwrite(DiskOffset(0), b"now", WriteFlags::default());
    block_on(write).expect("this disk answers at once");
    rig.disk.hold_all();
    let write = node.pwrite(DiskOffset(8), b"later", WriteFlags::default());
    let refused = error(Op::Write, 8, 5, Cause::NotDriven);
    assert_eq!(block_on(write), Err(refused));
    assert_eq!(rig.disk.in_flight(), 1, "it had reached the disk");
    assert_eq!(cause(block_on(node.settle())), Cause::NotDriven);
    let drain = block_on(node.drain_begin());
    assert_eq!(cause(drain), Cause::NotDriven);
    assert!(!node.is_drained(), "the section that never began has ended");
    let close = block_on(node.close());
    assert_eq!(close, Err(error(Op::Close, 0, 0, Cause::NotDriven)));
    rig.release_until_quiet();
    assert_eq!(&rig.disk.contents()[8..13], b"later");
    assert_eq!(rig.run(node.close()), Ok(()), "it went on meanwhile");
}

#[test]
fn zeroes_of_no_bytes_wait_for_no_task_but_the_gate() {
    let rig = Rig::new(direct(4096));
    rig.disk.hold_all();
    let modify = rig.start_write(3, b"read, modify, write");
    assert!(modify.is_pending());
    let none = rig.start(async |node: BlockNode| {
        node.pwrite(DiskOffset(5), b"", WriteFlags::default())
            .await?;
        node.pwrite_zeroes(DiskOffset(5), 0, ZeroFlags::default())
            .await
    });
    assert_eq!(none.result(), Some(Ok(())));
    rig.release_until_quiet();
    assert_eq!(modify.result(), Some(Ok(())));
}

#[test]
fn the_length_is_told_in_a_drained_section_after_a_change_that_failed_too() {
    for op in [Op::Write, Op::WriteZeroes, Op::Truncate] {
        let rig = Rig::new(block_core::test_disk::TestDiskOptions {
            grows: true,
            ..plain(4096)
        });
        rig.disk.fail_nth(op, 0, block_core::Errno::NOSPC);
        let failed = match op {
            Op::Write => rig.write(5000, b"past the end"),
            Op::WriteZeroes => {
                let zeroes = ZeroFlags::default();
                rig.run(rig.node.pwrite_zeroes(DiskOffset(5000), 9, zeroes))
            }
            _ => rig.run(rig.node.truncate(to(9000))),
        };
        failed.expect_err("no space");
        let section = rig.run(rig.node.drain_begin()).expect("quiet");
        let length = rig.start(async |node: BlockNode| node.length().await);
        assert_eq!(
            length.result(),
            Some(Ok(4096)),
            "{op}: the holder of the section would wait for itself"
        );
        drop(section);
    }
}
