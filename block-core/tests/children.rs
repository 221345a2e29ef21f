//! Nodes over nodes: vmstate calls passed down, permissions of those above.

mod common;

use block_core::test_disk::TestDiskOptions;
use block_core::{
    BlockChild, BlockDriver, BlockLimits, BlockNode, Cause, Children, DiskOffset, Errno, IoVector,
    NodeBuilder, Op, Permissions, Perms, ReadVector, Result, Truncate, VmstateOffset, WriteFlags,
    ZeroFlags,
};
use common::*;

/// Passes everything to its child, as raw does.
struct Through(BlockChild);

impl BlockDriver for Through {
    fn format_name(&self) -> &'static str {
        "through"
    }
    fn limits(&self) -> BlockLimits {
        BlockLimits::default()
    }
    fn children(&self) -> Children<'_> {
        Children {
            file: Some(&self.0),
            backing: None,
        }
    }
    async fn length(&self) -> Result<u64> {
        self.0.length().await
    }
    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        self.0.preadv(at, dst).await
    }
    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        self.0.pwritev(at, src, flags).await
    }
    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
    async fn close(&self) -> Result<()> {
        self.0.release().await
    }
}

/// A node over the rig's.
fn above(rig: &Rig, below: &BlockNode, read_only: bool) -> BlockNode {
    let permissions = if read_only {
        Permissions::reader()
    } else {
        Permissions::writer()
    };
    let child = below.attach("the node above", permissions).expect("free");
    let builder = NodeBuilder::new("above").read_only(read_only);
    let handle = rig.context.handle();
    let opened = rig.run(builder.open(&handle, Through(child)));
    opened.expect("a node")
}

fn with_vmstate() -> TestDiskOptions {
    TestDiskOptions {
        vmstate: vmstate_area(),
        ..plain(4096)
    }
}

#[test]
fn vmstate_calls_are_passed_down_to_the_driver_that_has_the_area() {
    let rig = Rig::new(with_vmstate());
    let middle = above(&rig, &rig.node, false);
    let top = above(&rig, &middle, false);
    assert!(
        top.vmstate_node()
            .is_some_and(|node| node.is_same(&rig.node))
    );
    assert_eq!(top.vmstate_limits(), vmstate_area());
    rig.disk.take_records();
    let src = source([filled(3, 7)]);
    rig.run(top.save_vmstate_unbuffered(VmstateOffset(5), src))
        .expect("saves");
    rig.run(top.finish_vmstate(8)).expect("finishes");
    assert_eq!(rig.disk.vmstate_contents(), [0, 0, 0, 0, 0, 7, 7, 7]);
    assert_eq!(rig.run(top.vmstate_length()), Ok(Some(8)));
    let dst = destination([filled(4, 1)]);
    let (dst, result) = rig.run(top.load_vmstate_unbuffered(VmstateOffset(4), dst));
    result.expect("loads");
    assert_eq!(dst.to_vec(), [0, 7, 7, 7]);
    let calls = rig.calls();
    assert_eq!(calls[0], (Op::SaveVmstate, 5, 3), "one call, as it came");
}

#[test]
fn a_save_that_is_passed_down_is_in_flight_on_every_node_and_stops_at_each_gate() {
    let rig = Rig::new(with_vmstate());
    let top = above(&rig, &rig.node, false);
    rig.disk.hold_all();
    let save = |rig: &Rig| {
        let node = top.clone();
        rig.start(async move |_| {
            let src = source([filled(3, 7)]);
            node.save_vmstate_unbuffered(VmstateOffset(0), src).await
        })
    };
    let held = save(&rig);
    assert_eq!((top.in_flight(), rig.node.in_flight()), (1, 1));
    rig.release_until_quiet();
    assert_eq!(held.result(), Some(Ok(())));
    let section = rig.run(rig.node.drain_begin()).expect("quiet");
    let waits = save(&rig);
    assert_eq!((top.in_flight(), rig.node.in_flight()), (1, 0));
    assert_eq!(rig.disk.in_flight(), 0);
    drop(section);
    rig.go_on();
    rig.release_until_quiet();
    assert_eq!(waits.result(), Some(Ok(())));
    assert_eq!((top.in_flight(), rig.node.in_flight()), (0, 0));
}

#[test]
fn without_an_area_below_vmstate_is_not_supported_and_nothing_is_written() {
    let rig = Rig::new(plain(4096));
    let top = above(&rig, &rig.node, false);
    rig.disk.take_records();
    assert!(top.vmstate_node().is_none() && top.vmstate_limits().is_none());
    let src = source([filled(3, 7)]);
    let save = rig.run(top.save_vmstate_unbuffered(VmstateOffset(1), src));
    assert_eq!(save, Err(error(Op::SaveVmstate, 1, 3, Cause::NotSupported)));
    let dst = destination([filled(4, 1)]);
    let (dst, load) = rig.run(top.load_vmstate_unbuffered(VmstateOffset(0), dst));
    assert_eq!(load, Err(error(Op::LoadVmstate, 0, 4, Cause::NotSupported)));
    assert_eq!(dst.len(), 4, "the memory comes back");
    assert_eq!(cause(rig.run(top.finish_vmstate(3))), Cause::NotSupported);
    assert!(rig.calls().is_empty());
}

#[test]
fn a_read_only_node_above_saves_nothing_below() {
    let rig = Rig::new(with_vmstate());
    let top = above(&rig, &rig.node, true);
    let src = source([filled(3, 7)]);
    let save = rig.run(top.save_vmstate_unbuffered(VmstateOffset(0), src));
    assert_eq!(cause(save), Cause::ReadOnly);
}

#[test]
fn two_writers_of_one_node_are_kept_apart_until_one_of_them_goes() {
    let rig = Rig::new(plain(4096));
    let writer = rig
        .node
        .attach("first", Permissions::writer())
        .expect("free");
    let second = rig.node.attach("second", Permissions::writer());
    let refused = error(
        Op::Lock,
        0,
        0,
        Cause::Conflict {
            permission: "write",
        },
    );
    assert_eq!(second.map(drop), Err(refused));
    assert!(rig.node.attach("reader", Permissions::reader()).is_err());
    let any = rig
        .node
        .attach("any", Permissions::force_share())
        .expect("shares");
    assert_eq!(rig.node.users().len(), 2);
    assert_eq!(rig.node.users()[0].0, "first");
    drop((writer, any));
    let readers = [0, 1].map(|_| rig.node.attach("reader", Permissions::reader()));
    assert!(readers.iter().all(|reader| reader.is_ok()));
}

#[test]
fn a_child_does_only_what_it_has_taken() {
    let rig = Rig::new(TestDiskOptions {
        grows: true,
        vmstate: vmstate_area(),
        ..plain(100)
    });
    let take = |perm| {
        let shared = Perms::ALL;
        rig.node
            .attach("user", Permissions { perm, shared })
            .expect("shared")
    };
    let refused = |permission| Cause::NoPermission { permission };
    let at = DiskOffset(98);
    let flags = WriteFlags::default();

    let reader = take(Perms::CONSISTENT_READ);
    assert_eq!(
        rig.run(reader.pwrite(at, b"x", flags)),
        Err(error(Op::Write, 98, 1, refused("write")))
    );
    let src = source([filled(1, 1)]);
    assert_eq!(
        cause(rig.run(reader.pwritev(at, src, flags))),
        refused("write")
    );
    let zero = reader.pwrite_zeroes(at, 1, ZeroFlags::default());
    assert_eq!(cause(rig.run(zero)), refused("write"));
    assert_eq!(cause(rig.run(reader.pdiscard(at, 1))), refused("write"));
    assert_eq!(cause(rig.run(reader.truncate(to(5)))), refused("resize"));
    let src = source([filled(1, 1)]);
    let save = reader.save_vmstate_unbuffered(VmstateOffset(0), src);
    assert_eq!(cause(rig.run(save)), refused("write"));
    assert_eq!(cause(rig.run(reader.finish_vmstate(5))), refused("write"));
    assert!(rig.calls().is_empty());

    let writer = take(Perms::WRITE);
    rig.run(writer.pwrite(at, b"xy", flags)).expect("inside");
    assert_eq!(
        cause(rig.run(writer.pwrite(at, b"xyz", flags))),
        refused("resize")
    );
    assert_eq!(rig.disk.len(), 100);

    let grower = take(Perms::WRITE | Perms::RESIZE);
    rig.run(grower.pwrite(at, b"xyz", flags)).expect("grows");
    let shorter = Truncate { len: 3, ..to(3) };
    rig.run(grower.truncate(shorter)).expect("shrinks");
    assert_eq!(rig.disk.len(), 3);
}

#[test]
fn no_task_takes_write_on_a_read_only_node_or_anything_on_a_closed_one() {
    let rig = Rig::with(plain(100), |builder| builder.read_only(true));
    let writer = rig.node.attach("writer", Permissions::writer());
    assert_eq!(cause(writer), Cause::ReadOnly);
    let reader = rig.node.attach("reader", Permissions::reader());
    assert_eq!(reader.expect("reads").permissions(), Permissions::reader());
    rig.run(rig.node.close()).expect("closes");
    let reader = rig.node.attach("reader", Permissions::reader());
    assert_eq!(cause(reader), Cause::Closed);
}

#[test]
fn closing_the_node_above_closes_the_one_below_and_tells_its_error() {
    let rig = Rig::new(plain(4096));
    let top = above(&rig, &rig.node, false);
    rig.disk.fail_nth(Op::Close, 0, Errno::NOSPC);
    assert_eq!(cause(rig.run(top.close())), Cause::Os(Errno::NOSPC));
    assert_eq!(rig.disk.faults_fired(), 1);
    assert!(rig.node.is_closed());
    assert!(rig.node.users().is_empty());
}

#[test]
fn a_node_that_another_uses_too_stays_open_until_the_last_of_them_is_closed() {
    let rig = Rig::new(plain(4096));
    let first = above(&rig, &rig.node, true);
    let second = above(&rig, &rig.node, true);
    rig.run(first.close()).expect("closes");
    assert!(!rig.node.is_closed(), "the other one reads it");
    let mut byte = [1];
    let read = second.pread(DiskOffset(0), &mut byte);
    rig.run(read).expect("reads");
    rig.run(second.close()).expect("closes");
    assert!(rig.node.is_closed(), "though both still hold it");
}

#[test]
fn a_released_child_holds_nothing_changes_nothing_and_takes_no_others_place() {
    let rig = Rig::new(plain(4096));
    let reader = rig.node.attach("reader", Permissions::force_share());
    let writer = rig.node.attach("writer", Permissions::writer());
    let writer = writer.expect("shared");
    rig.run(writer.release())
        .expect("the reader is still there");
    assert!(!rig.node.is_closed());
    let next = rig.node.attach("next", Permissions::writer());
    let next = next.expect("given back");
    let flags = WriteFlags::default();
    let write = writer.pwrite(DiskOffset(0), b"x", flags);
    assert_eq!(cause(rig.run(write)), Cause::Closed);
    rig.run(writer.release()).expect("once");
    drop(writer);
    assert_eq!(rig.node.users().len(), 2, "the reader and the next writer");
    drop((reader, next));
    assert!(!rig.node.is_closed(), "dropped is not released");
}
