//! Drained sections over reads and writes that the disk holds, and over a parent and its child.

mod common;

use block_core::test_disk::{TestDisk, TestDiskOptions};
use block_core::{Cause, DiskOffset, Op, Permissions, VmstateOffset};
use common::*;

#[test]
fn a_drain_waits_for_what_is_in_flight_and_keeps_the_rest_out() {
    let rig = Rig::new(direct(4096));
    rig.disk.hold_all();
    let before = rig.start_write(10, b"before");
    let overlapping = rig.start_write(20, b"waits in its turn");
    assert_eq!(
        rig.node.in_flight(),
        2,
        "what waits for its turn has passed the gate"
    );
    let drain = rig.start(async |node| node.drain_begin().await);
    assert!(rig.node.is_drained());
    let after = rig.start_write(30, b"after");
    assert_eq!(
        rig.node.in_flight(),
        2,
        "what waits at the gate is not in flight"
    );
    let shown = format!("{:?}", rig.node);
    for part in [
        "in_flight: 2",
        "drained_sections: 1",
        "waiting_at_the_gate: 1",
        "waits for #0",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    rig.release_until_quiet();
    assert_eq!(
        (before.result(), overlapping.result()),
        (Some(Ok(())), Some(Ok(())))
    );
    let section = drain.result().expect("quiet").expect("driven");
    assert!(after.is_pending() && rig.disk.held().is_empty());
    rig.go_on();
    assert!(after.is_pending(), "nothing starts in the section");
    drop(section);
    assert!(!rig.node.is_drained());
    rig.go_on();
    rig.release_until_quiet();
    assert_eq!(after.result(), Some(Ok(())));
}

#[test]
fn the_gate_closes_at_the_call_and_not_at_the_first_poll() {
    let rig = Rig::new(plain(4096));
    let unpolled = rig.node.drain_begin();
    let write = rig.start_write(0, b"x");
    assert!(write.is_pending() && rig.calls().is_empty());
    drop(unpolled);
    rig.go_on();
    assert_eq!(write.result(), Some(Ok(())));
}

#[test]
fn a_drain_dropped_while_it_waits_lets_everybody_in_again() {
    let rig = Rig::new(plain(4096));
    rig.disk.hold_all();
    let first = rig.start_write(0, b"held");
    let drain = rig.start(async |node| node.drain_begin().await.map(drop));
    let second = rig.start_write(8, b"gated");
    assert!(drain.is_pending() && rig.disk.held().len() == 1);
    drain.drop_future();
    rig.go_on();
    assert_eq!(rig.disk.held().len(), 2);
    rig.release_until_quiet();
    assert_eq!(
        (first.result(), second.result()),
        (Some(Ok(())), Some(Ok(())))
    );
}

#[test]
fn requests_dropped_at_the_gate_still_run_when_it_opens_and_in_their_order() {
    // A request is the node's from its first poll on: what its caller does afterwards changes nothing.
    let rig = Rig::new(direct(4096));
    let section = rig.run(rig.node.drain_begin()).expect("quiet");
    rig.start_write(5, b"first").drop_future();
    rig.start_write(8, b"second").drop_future();
    let third = rig.start_read(5, 9);
    drop(section);
    rig.go_on();
    assert_eq!(third.result(), Some(Ok(b"firsecond".to_vec())));
}

#[test]
fn many_users_drain_at_once_and_the_last_one_opens_the_gate() {
    let rig = Rig::new(plain(4096));
    rig.disk.hold_all();
    let write = rig.start_write(0, b"held");
    let drains: Vec<_> = (0..3)
        .map(|_| rig.start(async |node| node.drain_begin().await))
        .collect();
    let gated = rig.start_read(0, 4);
    rig.release_until_quiet();
    assert_eq!(write.result(), Some(Ok(())));
    let mut sections: Vec<_> = drains
        .iter()
        .map(|d| d.result().expect("quiet").expect("driven"))
        .collect();
    while let Some(section) = sections.pop() {
        assert!(rig.node.is_drained() && gated.is_pending());
        drop(section);
        rig.go_on();
    }
    assert!(!rig.node.is_drained());
    rig.release_until_quiet();
    assert_eq!(gated.result(), Some(Ok(b"held".to_vec())));
}

#[test]
fn the_length_can_be_asked_in_a_drained_section() {
    let rig = Rig::new(plain(4096));
    let section = rig.run(rig.node.drain_begin()).expect("quiet");
    assert_eq!(rig.run(rig.node.length()), Ok(4096));
    drop(section);
}

#[test]
fn a_close_refuses_those_at_the_gate_and_waits_for_those_in_flight() {
    let rig = Rig::new(plain(4096));
    rig.disk.hold(Op::Write, 0..u64::MAX);
    let in_flight = rig.start_write(0, b"lands");
    let section = rig.start(async |node| node.drain_begin().await);
    let gated = rig.start_write(100, b"never");
    let close = rig.start(async |node| node.close().await);
    assert_eq!(
        gated.result(),
        Some(Err(error(Op::Write, 100, 5, Cause::Closed)))
    );
    assert!(close.is_pending() && !rig.disk.is_closed());
    rig.release_until_quiet();
    assert_eq!(
        (in_flight.result(), close.result()),
        (Some(Ok(())), Some(Ok(())))
    );
    assert!(rig.disk.is_closed());
    assert_eq!(&rig.disk.contents()[..5], b"lands");
    assert_eq!(rig.disk.records_of(Op::Write).len(), 1);
    drop(section.result().expect("quiet"));
}

#[test]
fn a_vmstate_call_that_passed_the_parents_gate_still_waits_at_the_childs() {
    let (context, parent, child, disk) = parent_and_child();
    let section = context.block_on(child.drain_begin()).expect("quiet");
    assert!(
        !parent.is_drained(),
        "a child's section does not drain its parent"
    );
    let node = parent.clone();
    let save = context.handle().spawn(async move {
        node.save_vmstate_unbuffered(VmstateOffset(0), source([filled(512, 1)]))
            .await
    });
    context.by_hand().run_until_stalled();
    assert_eq!(
        (parent.in_flight(), child.in_flight(), disk.records().len()),
        (1, 0, 0)
    );
    drop(section);
    context.by_hand().run_until_stalled();
    assert_eq!((parent.in_flight(), child.in_flight()), (0, 0));
    assert_eq!(context.block_on(save).expect("ran"), Ok(()));
    assert_eq!(disk.vmstate_contents(), [1; 512]);
}

#[test]
fn draining_a_parent_leaves_its_child_usable() {
    let (context, parent, child, _) = parent_and_child();
    let section = context.block_on(parent.drain_begin()).expect("quiet");
    assert!(!child.is_drained());
    context
        .block_on(child.pwrite(DiskOffset(0), b"x", Default::default()))
        .expect("not drained");
    drop(section);
}

fn parent_and_child() -> (
    aio_task::AioContext,
    block_core::BlockNode,
    block_core::BlockNode,
    block_core::test_disk::TestDiskControl,
) {
    let context = aio_task::AioContext::new().expect("a context");
    let options = TestDiskOptions {
        vmstate: vmstate_area(),
        ..plain(4096)
    };
    let (child, disk) = open(&context, "child", options, |b| b);
    let hold = child
        .attach("parent", Permissions::writer())
        .expect("alone");
    let driver = TestDisk::new(plain(4096)).0.with_file(hold);
    let parent = open_driver(&context, "parent", driver, |b| b);
    (context, parent, child, disk)
}
