//! Nodes on nodes: vmstate calls that are passed down, users and their permissions, the end of a node.

mod common;

use aio_task::AioContext;
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{
    BlockError, BlockNode, Cause, DiskOffset, Errno, NodeExtension, Op, Permissions, Perms, Result,
    VmstateOffset, WriteFlags, ZeroFlags,
};
use common::*;
use std::cell::Cell;
use std::rc::Rc;

/// `depth` nodes without a vmstate area on one with the given one; the top comes first.
fn chain(
    context: &AioContext,
    depth: usize,
    bottom: TestDiskOptions,
) -> Vec<(BlockNode, TestDiskControl)> {
    let mut nodes = vec![open(context, "bottom", bottom, |b| b)];
    for i in 0..depth {
        let hold = nodes[0]
            .0
            .attach(format!("node {i}"), Permissions::writer())
            .expect("alone");
        let (driver, disk) = TestDisk::new(plain(4096));
        let node = open_driver(context, &format!("node {i}"), driver.with_file(hold), |b| b);
        nodes.insert(0, (node, disk));
    }
    nodes
}

fn with_area() -> TestDiskOptions {
    TestDiskOptions {
        vmstate: vmstate_area(),
        ..plain(4096)
    }
}

#[test]
fn vmstate_calls_go_down_to_the_first_node_that_has_an_area() {
    for depth in 0..=3 {
        let context = AioContext::new().expect("a context");
        let nodes = chain(&context, depth, with_area());
        let (top, (bottom, disk)) = (&nodes[0].0, nodes.last().expect("one"));
        assert!(top.vmstate_node().is_some_and(|n| n.is_same(bottom)));
        assert_eq!(top.vmstate_limits(), vmstate_area());
        context.block_on(async {
            let src = source([shifted(1000, 1, 7)]);
            top.save_vmstate_unbuffered(VmstateOffset(333), src)
                .await
                .expect("saved");
            assert_eq!(top.vmstate_length().await, Ok(None));
            top.finish_vmstate(1000).await.expect("finished");
            assert_eq!(top.vmstate_length().await, Ok(Some(1000)));
            let dst = destination([filled(4, 1)]);
            let (dst, result) = top.load_vmstate_unbuffered(VmstateOffset(331), dst).await;
            result.expect("loaded");
            assert_eq!(dst.to_vec(), [0, 0, 7, 7]);
        });
        let calls: Vec<_> = disk
            .records()
            .iter()
            .map(|r| (r.op, r.offset, r.len))
            .collect();
        let expected = [
            (Op::SaveVmstate, 333, 1000),
            (Op::FinalizeVmstate, 0, 1000),
            (Op::LoadVmstate, 331, 4),
        ];
        assert_eq!(calls, expected, "one driver call each, as it came");
        for (_, passed) in &nodes[..depth] {
            assert!(passed.records().is_empty());
        }
    }
}

#[test]
fn without_an_area_anywhere_savevm_is_not_supported_and_writes_nothing() {
    let context = AioContext::new().expect("a context");
    let nodes = chain(&context, 2, plain(4096));
    for (node, disk) in &nodes {
        disk.set_contents(&pattern(4096, 8));
        assert!(node.vmstate_node().is_none() && node.vmstate_limits().is_none());
    }
    context.block_on(async {
        let top = &nodes[0].0;
        let saved = top
            .save_vmstate_unbuffered(VmstateOffset(0), source([filled(512, 1)]))
            .await;
        let refused = error(Op::SaveVmstate, 0, 512, Cause::NotSupported);
        assert_eq!(
            (&saved, refused.errno()),
            (&Err(refused.clone()), Errno::NOTSUP)
        );
        let (dst, loaded) = top
            .load_vmstate_unbuffered(VmstateOffset(0), destination([filled(9, 1)]))
            .await;
        assert_eq!((dst.len(), cause(loaded)), (9, Cause::NotSupported));
        assert_eq!(cause(top.finish_vmstate(512).await), Cause::NotSupported);
        assert_eq!(cause(top.vmstate_length().await), Cause::NotSupported);
    });
    for (_, disk) in &nodes {
        assert!(disk.records().is_empty());
        assert_eq!(disk.contents(), pattern(4096, 8));
    }
}

#[test]
fn vmstate_is_never_passed_to_a_backing_node() {
    let context = AioContext::new().expect("a context");
    let (backing, disk) = open(&context, "backing", with_area(), |b| b);
    let hold = backing
        .attach("overlay", Permissions::reader())
        .expect("alone");
    let driver = TestDisk::new(plain(4096)).0.with_backing(hold);
    let top = open_driver(&context, "overlay", driver, |b| b);
    assert!(top.children().backing.is_some() && top.vmstate_node().is_none());
    let save = top.save_vmstate_unbuffered(VmstateOffset(0), source([filled(1, 1)]));
    assert_eq!(cause(context.block_on(save)), Cause::NotSupported);
    assert!(disk.records().is_empty());
}

#[test]
fn an_error_of_the_childs_driver_comes_out_as_that_of_the_call() {
    let context = AioContext::new().expect("a context");
    let nodes = chain(&context, 2, with_area());
    let disk = &nodes[2].1;
    disk.fail_nth(Op::SaveVmstate, 0, Errno::NOSPC);
    disk.fail_nth(Op::LoadVmstate, 0, Errno::IO);
    let top = &nodes[0].0;
    let saved =
        context.block_on(top.save_vmstate_unbuffered(VmstateOffset(9), source([filled(8, 1)])));
    assert_eq!(
        saved,
        Err(error(Op::SaveVmstate, 9, 8, Cause::Os(Errno::NOSPC)))
    );
    let load = top.load_vmstate_unbuffered(VmstateOffset(9), destination([filled(8, 1)]));
    let (dst, loaded) = context.block_on(load);
    assert_eq!(
        (dst.len(), loaded),
        (8, Err(error(Op::LoadVmstate, 9, 8, Cause::Os(Errno::IO))))
    );
    for (node, _) in &nodes {
        assert_eq!(node.in_flight(), 0);
    }
}

#[test]
fn a_vmstate_call_is_in_flight_in_every_node_it_goes_through() {
    let context = AioContext::new().expect("a context");
    let nodes = chain(&context, 2, with_area());
    let disk = &nodes[2].1;
    disk.hold_all();
    let top = nodes[0].0.clone();
    let save = async move {
        top.save_vmstate_unbuffered(VmstateOffset(0), source([filled(8, 1)]))
            .await
    };
    let save = context.handle().spawn(save);
    context.by_hand().run_until_stalled();
    assert!(nodes.iter().all(|(node, _)| node.in_flight() == 1));
    disk.release_all();
    assert_eq!(context.block_on(save).expect("ran"), Ok(()));
    assert!(nodes.iter().all(|(node, _)| node.in_flight() == 0));
}

#[test]
fn conflicting_users_are_refused_by_the_permissions_name_until_the_other_has_gone() {
    let rig = Rig::new(plain(4096));
    let writer = rig
        .node
        .attach("guest", Permissions::writer())
        .expect("alone");
    for other in [Permissions::writer(), Permissions::reader()] {
        let refused = rig.node.attach("second", other).map(drop);
        assert_eq!(
            refused,
            Err(error(
                Op::Lock,
                0,
                0,
                Cause::Conflict {
                    permission: "write"
                }
            ))
        );
    }
    let peek = rig
        .node
        .attach("peek", Permissions::force_share())
        .expect("shares all");
    let names: Vec<_> = rig.node.users().into_iter().map(|(who, _)| who).collect();
    assert_eq!(names, ["guest", "peek"]);
    drop(writer);
    let readers = [
        rig.node.attach("one", Permissions::reader()),
        rig.node.attach("two", Permissions::reader()),
    ];
    assert!(readers.iter().all(Result::is_ok));
    assert_eq!(
        rig.node.attach("late", Permissions::writer()).map(drop),
        Err(error(
            Op::Lock,
            0,
            0,
            Cause::Conflict {
                permission: "write"
            }
        ))
    );
    drop((readers, peek));
    assert!(rig.node.users().is_empty());
    rig.node
        .attach("late", Permissions::writer())
        .expect("alone again");
}

#[test]
fn a_user_does_what_it_took_the_permission_for_and_nothing_else() {
    let rig = Rig::new(TestDiskOptions {
        grows: true,
        vmstate: vmstate_area(),
        ..plain(4096)
    });
    let no = |permission| Cause::NoPermission { permission };
    let reader = rig
        .node
        .attach("reader", Permissions::reader())
        .expect("alone");
    rig.run(reader.pread(DiskOffset(0), &mut [0; 10]))
        .expect("may read");
    assert_eq!(
        cause(rig.run(reader.pwrite(DiskOffset(0), b"x", WriteFlags::default()))),
        no("write")
    );
    let vector = reader.pwritev(DiskOffset(0), source([filled(1, 1)]), WriteFlags::default());
    assert_eq!(cause(rig.run(vector)), no("write"));
    let zeroes = reader.pwrite_zeroes(DiskOffset(0), 1, ZeroFlags::default());
    assert_eq!(cause(rig.run(zeroes)), no("write"));
    assert_eq!(
        cause(rig.run(reader.pdiscard(DiskOffset(0), 1))),
        no("write")
    );
    assert_eq!(cause(rig.run(reader.truncate(to(1)))), no("resize"));
    let save = reader.save_vmstate_unbuffered(VmstateOffset(0), source([filled(1, 1)]));
    assert_eq!(cause(rig.run(save)), no("write"));
    drop(reader);

    let keeps_length = Permissions {
        perm: Perms::WRITE,
        shared: Perms::ALL,
    };
    let writer = rig
        .node
        .attach("keeps the length", keeps_length)
        .expect("alone");
    rig.run(writer.pwrite(DiskOffset(4090), b"inside", WriteFlags::default()))
        .expect("inside");
    let after = writer.pwrite(DiskOffset(4090), b"outside", WriteFlags::default());
    assert_eq!(cause(rig.run(after)), no("resize"));
    let zeroes = writer.pwrite_zeroes(DiskOffset(4090), 7, ZeroFlags::default());
    assert_eq!(cause(rig.run(zeroes)), no("resize"));
    assert_eq!(cause(rig.run(writer.truncate(to(1)))), no("resize"));
    assert_eq!(rig.disk.len(), 4096);
}

#[test]
fn a_read_only_node_lets_no_task_take_a_writers_permissions() {
    let rig = Rig::with(plain(4096), |b| b.read_only(true));
    let refused = rig.node.attach("writer", Permissions::writer()).map(drop);
    assert_eq!(refused, Err(error(Op::Lock, 0, 0, Cause::ReadOnly)));
    rig.node
        .attach("reader", Permissions::reader())
        .expect("reads");
}

#[test]
fn every_request_after_a_close_is_refused_by_name() {
    let rig = Rig::new(with_area());
    rig.run(rig.node.close()).expect("closed");
    rig.calls();
    assert_eq!(
        rig.read(0, 1).map(drop),
        Err(error(Op::Read, 0, 1, Cause::Closed))
    );
    assert_eq!(
        rig.write(0, b"x"),
        Err(error(Op::Write, 0, 1, Cause::Closed))
    );
    let node = &rig.node;
    rig.run(async {
        assert_eq!(cause(node.flush().await), Cause::Closed);
        assert_eq!(cause(node.length().await), Cause::Closed);
        assert_eq!(cause(node.truncate(to(1)).await), Cause::Closed);
        assert_eq!(cause(node.pdiscard(DiskOffset(0), 1).await), Cause::Closed);
        assert_eq!(
            cause(node.block_status(DiskOffset(0), 1).await),
            Cause::Closed
        );
        assert_eq!(
            cause(
                node.pwrite_zeroes(DiskOffset(0), 1, ZeroFlags::default())
                    .await
            ),
            Cause::Closed
        );
        assert_eq!(cause(node.vmstate_length().await), Cause::Closed);
        assert_eq!(cause(node.finish_vmstate(1).await), Cause::Closed);
        let src = source([filled(1, 1)]);
        assert_eq!(
            cause(node.save_vmstate_unbuffered(VmstateOffset(0), src).await),
            Cause::Closed
        );
        let dst = destination([filled(1, 1)]);
        let (dst, result) = node.load_vmstate_unbuffered(VmstateOffset(0), dst).await;
        assert_eq!((dst.len(), cause(result)), (1, Cause::Closed));
        node.settle().await.expect("quiet");
        drop(node.drain_begin().await.expect("quiet"));
    });
    assert_eq!(
        node.attach("late", Permissions::reader()).map(drop),
        Err(error(Op::Lock, 0, 0, Cause::Closed))
    );
    assert!(
        rig.calls().is_empty(),
        "the driver was closed: nothing may reach it"
    );
}

#[test]
fn a_close_reports_a_failed_flush_and_a_failed_close_of_the_driver() {
    let rig = Rig::new(plain(4096));
    rig.disk.fail_nth(Op::Flush, 0, Errno::IO);
    assert_eq!(
        rig.run(rig.node.close()),
        Err(error(Op::Flush, 0, 0, Cause::Os(Errno::IO)))
    );
    assert!(rig.disk.is_closed(), "all steps are taken");
    let rig = Rig::new(plain(4096));
    rig.disk.fail_nth(Op::Close, 0, Errno::NOSPC);
    assert_eq!(
        rig.run(rig.node.close()),
        Err(error(Op::Close, 0, 0, Cause::Os(Errno::NOSPC)))
    );
}

/// Counts what becomes of it.
struct Kept {
    asked: Rc<Cell<u32>>,
}

impl NodeExtension for Kept {
    fn on_close(&self) -> Result<()> {
        self.asked.set(self.asked.get() + 1);
        Err(BlockError::new(
            Op::FinalizeVmstate,
            0,
            0,
            Cause::Unfinalized,
        ))
    }
}

struct Other;

impl NodeExtension for Other {
    fn on_close(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn an_extension_is_found_by_its_type_and_asked_once_when_the_node_closes() {
    let rig = Rig::new(plain(4096));
    let asked = Rc::new(Cell::new(0));
    let kept = Rc::new(Kept {
        asked: asked.clone(),
    });
    assert!(rig.node.set_extension(kept.clone()).is_none());
    assert!(rig.node.set_extension(Rc::new(Other)).is_none());
    let found = rig
        .node
        .clone()
        .extension::<Kept>()
        .expect("any reference finds it");
    assert!(Rc::ptr_eq(&found, &kept));
    assert!(
        rig.node.remove_extension::<Other>().is_some() && rig.node.extension::<Other>().is_none()
    );
    let closed = rig.run(rig.node.close());
    assert_eq!(
        closed,
        Err(error(Op::FinalizeVmstate, 0, 0, Cause::Unfinalized))
    );
    assert_eq!(rig.run(rig.node.close()), closed, "the same answer");
    assert_eq!(asked.get(), 1);
    assert!(rig.disk.is_closed() && rig.node.extension::<Kept>().is_none());
}

#[test]
fn a_node_dropped_with_its_references_drops_its_driver_and_gives_its_children_back() {
    let context = AioContext::new().expect("a context");
    let mut nodes = chain(&context, 1, plain(4096));
    let (bottom, bottom_disk) = nodes.pop().expect("two");
    let (top, top_disk) = nodes.pop().expect("two");
    assert_eq!(bottom.users().len(), 1);
    drop(top);
    assert!(top_disk.is_dropped() && !bottom_disk.is_dropped());
    assert!(bottom.users().is_empty());
    let weak = bottom.downgrade();
    drop(bottom);
    assert!(bottom_disk.is_dropped() && weak.upgrade().is_none());
}
