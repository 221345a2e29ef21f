//! Internal snapshots: recorded and gone to alone, passed down to the driver that has them, shown by views.

mod common;

use block_core::test_disk::TestDiskOptions;
use block_core::{
    BlockChild, BlockDriver, BlockLimits, BlockNode, CacheMode, Cause, Children, DiskOffset, Errno,
    IoVector, NewSnapshot, NodeExtension, Op, Permissions, Perms, ReadVector, Result, SnapshotInfo,
    VmstateOffset, WriteFlags,
};
use common::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

#[test]
fn a_snapshot_holds_the_disk_its_length_and_the_finished_state() {
    let rig = Rig::new(imaged(1000));
    rig.write(0, b"old").expect("written");
    save_state(&rig, &[7; 512], 300);
    let date = UNIX_EPOCH + Duration::new(5, 6);
    let new = NewSnapshot {
        vm_clock_nsec: 8,
        icount: Some(9),
        ..NewSnapshot::new("first").taken_at(date)
    };
    let made = rig.run(rig.node.snapshot_create(new)).expect("made");
    let expected = SnapshotInfo {
        id: "1".into(),
        name: "first".into(),
        vmstate_size: 300,
        disk_size: 1000,
        date_sec: 5,
        date_nsec: 6,
        vm_clock_nsec: 8,
        icount: Some(9),
    };
    assert_eq!(made, expected);
    assert_eq!(rig.run(rig.node.snapshot_list()), Ok(vec![expected]));
    assert_eq!(state(&rig, 300), [0; 300], "the state is the snapshot's");
    assert_eq!(rig.run(rig.node.vmstate_length()), Ok(None));

    rig.write(0, b"new").expect("written");
    rig.run(rig.node.truncate(to(2000))).expect("longer");
    rig.run(rig.node.snapshot_goto("first"))
        .expect("gone back to");
    assert_eq!(rig.read(0, 3), Ok(b"old".to_vec()));
    assert_eq!(rig.run(rig.node.length()), Ok(1000));
    assert_eq!(state(&rig, 300), [7; 300]);
    assert_eq!(rig.run(rig.node.vmstate_length()), Ok(Some(300)));
    assert_eq!(rig.disk.snapshots().len(), 1, "it stays");
}

#[test]
fn a_state_is_recorded_once_and_only_if_it_was_finished() {
    let rig = Rig::new(imaged(1000));
    let size = |name| {
        let made = rig.run(rig.node.snapshot_create(NewSnapshot::new(name)));
        made.expect("made").vmstate_size
    };
    write_state(&rig, &[7; 512]);
    assert_eq!(size("unfinished"), 0);
    rig.run(rig.node.finish_vmstate(512)).expect("finished");
    assert_eq!(size("finished"), 512);
    assert_eq!(size("after it"), 0);
    rig.run(rig.node.snapshot_goto("finished"))
        .expect("gone to");
    assert_eq!(size("what a snapshot brought is recorded already"), 0);
}

#[test]
fn a_state_begins_on_an_empty_area_after_a_discard_and_after_a_goto() {
    let rig = Rig::new(imaged(1000));
    save_state(&rig, &[7; 1024], 1024);
    rig.run(rig.node.discard_vmstate()).expect("discarded");
    assert_eq!(state(&rig, 1024), [0; 1024]);
    assert_eq!(rig.run(rig.node.vmstate_length()), Ok(None));

    save_state(&rig, &[8; 1024], 1024);
    create(&rig, "full");
    rig.run(rig.node.snapshot_goto("full")).expect("gone to");
    rig.run(rig.node.discard_vmstate()).expect("nothing to do");
    assert_eq!(state(&rig, 1024), [8; 1024], "a snapshot's is not ours");
    write_state(&rig, &[9; 512]);
    assert_eq!(state(&rig, 1024)[512..], [0; 512]);
    rig.run(rig.node.snapshot_goto("full")).expect("gone to");
    assert_eq!(state(&rig, 1024), [8; 1024], "the snapshot has what it had");
}

#[test]
fn an_id_is_looked_for_before_a_name() {
    let rig = Rig::new(imaged(100));
    for (byte, name) in [(b'a', "2"), (b'b', "other")] {
        rig.write(0, &[byte]).expect("written");
        create(&rig, name);
    }
    let goto = |which: &str| {
        rig.run(rig.node.snapshot_goto(which)).expect("there");
        rig.read(0, 1).expect("read")
    };
    assert_eq!(goto("2"), b"b", "the one with the id 2, called other");
    assert_eq!(goto("1"), b"a");
    rig.run(rig.node.snapshot_delete("2")).expect("deleted");
    assert_eq!(goto("2"), b"a", "no id is 2 now: the one called 2");
}

#[test]
fn what_is_not_there_and_what_is_taken_are_told_by_name_and_errno() {
    let rig = Rig::new(imaged(100));
    create(&rig, "taken");
    let missing = |op| {
        let name = "absent".into();
        error(op, 0, 0, Cause::NoSuchSnapshot { name })
    };
    let goto = rig.run(rig.node.snapshot_goto("absent"));
    assert_eq!(goto, Err(missing(Op::SnapshotGoto)));
    assert_eq!(goto.map_err(|e| e.errno()), Err(Errno::NOENT));
    let delete = rig.run(rig.node.snapshot_delete("absent"));
    assert_eq!(delete, Err(missing(Op::SnapshotDelete)));
    let load = rig.run(rig.node.snapshot_load_tmp("absent")).map(drop);
    assert_eq!(load, Err(missing(Op::SnapshotLoad)));
    let twice = rig.run(rig.node.snapshot_create(NewSnapshot::new("taken")));
    let name = "taken".into();
    let taken = error(Op::SnapshotCreate, 0, 0, Cause::SnapshotExists { name });
    assert_eq!(twice, Err(taken.clone()));
    assert_eq!(taken.errno(), Errno::EXIST);
    assert_eq!(
        taken.to_string(),
        "snapshot create at offset 0, length 0: there is a snapshot \"taken\" already"
    );
}

#[test]
fn a_replacement_leaves_one_snapshot_of_the_name() {
    let rig = Rig::new(imaged(100));
    create(&rig, "name");
    create(&rig, "other");
    rig.write(0, b"new").expect("written");
    let new = NewSnapshot {
        replace: true,
        ..NewSnapshot::new("name")
    };
    let made = rig.run(rig.node.snapshot_create(new)).expect("made");
    let ids: Vec<_> = list(&rig)
        .into_iter()
        .map(|info| (info.id, info.name))
        .collect();
    let expected = [("2", "other"), ("3", "name")];
    assert_eq!(
        ids,
        expected.map(|(id, name)| (id.to_string(), name.to_string()))
    );
    assert_eq!(made.id, "3");
}

#[test]
fn a_name_that_no_format_takes_does_not_reach_the_driver() {
    let rig = Rig::new(imaged(100));
    for name in ["x".repeat(256), "a\0b".into()] {
        let refused = rig.run(rig.node.snapshot_create(NewSnapshot::new(name)));
        assert_eq!(refused.map_err(|e| e.errno()), Err(Errno::INVAL));
    }
    assert_eq!(rig.calls(), []);
    create(&rig, &"x".repeat(255));
}

#[test]
fn a_date_that_the_format_cannot_hold_becomes_the_nearest() {
    let at = |time| {
        let new = NewSnapshot::new("x").taken_at(time);
        (new.date_sec, new.date_nsec)
    };
    assert_eq!(at(UNIX_EPOCH - Duration::from_secs(1)), (0, 0));
    let (far, _) = at(UNIX_EPOCH + Duration::from_secs(1 << 33));
    assert_eq!(far, u32::MAX);
}

#[test]
fn without_snapshots_every_call_is_not_supported() {
    let rig = Rig::new(TestDiskOptions {
        vmstate: vmstate_area(),
        ..plain(100)
    });
    let results = every_call(&rig);
    for (op, result) in results {
        assert_eq!(result, Err(error(op, 0, 0, Cause::NotSupported)));
    }
    assert!(rig.node.snapshot_node().is_none());
    assert_eq!(rig.calls(), []);
}

#[test]
fn a_read_only_node_lists_and_shows_snapshots_and_changes_none() {
    let rig = Rig::with(imaged(100), |builder| builder.read_only(true));
    for (op, result) in every_call(&rig) {
        match op {
            Op::SnapshotList => assert_eq!(result, Ok(())),
            Op::SnapshotLoad => assert_eq!(result.map_err(|e| e.errno()), Err(Errno::NOENT)),
            _ => assert_eq!(result, Err(error(op, 0, 0, Cause::ReadOnly))),
        }
    }
    let discard = rig.run(rig.node.discard_vmstate());
    let refused = error(Op::DiscardVmstate, 0, 0, Cause::ReadOnly);
    assert_eq!(discard, Err(refused));
    assert_eq!(
        rig.calls(),
        [(Op::SnapshotList, 0, 0), (Op::SnapshotLoad, 0, 0)]
    );
}

#[test]
fn a_closed_node_has_no_snapshots_any_more() {
    let rig = Rig::new(imaged(100));
    rig.run(rig.node.close()).expect("closes");
    for (op, result) in every_call(&rig) {
        assert_eq!(result, Err(error(op, 0, 0, Cause::Closed)));
    }
}

#[test]
fn each_call_can_fail_and_changes_nothing_then() {
    let rig = Rig::new(imaged(100));
    create(&rig, "x");
    rig.write(0, b"now").expect("written");
    save_state(&rig, &[7; 512], 512);
    let before = list(&rig);
    let ops = [
        Op::SnapshotCreate,
        Op::SnapshotGoto,
        Op::SnapshotDelete,
        Op::SnapshotList,
        Op::SnapshotLoad,
    ];
    for op in ops {
        rig.disk.fail_nth(op, 0, Errno::NOSPC);
    }
    for (op, result) in every_call(&rig) {
        let failed = error(op, 0, 0, Cause::Os(Errno::NOSPC));
        assert_eq!(result, Err(failed));
    }
    assert_eq!(list(&rig), before);
    assert_eq!(rig.read(0, 3), Ok(b"now".to_vec()));
    rig.disk.fail_nth(Op::DiscardVmstate, 0, Errno::NOSPC);
    let discard = rig.run(rig.node.discard_vmstate());
    let failed = error(Op::DiscardVmstate, 0, 0, Cause::Os(Errno::NOSPC));
    assert_eq!(discard, Err(failed));
    assert_eq!(state(&rig, 512), [7; 512]);
}

#[test]
fn a_snapshot_is_made_after_earlier_requests_and_before_later_ones() {
    let rig = Rig::new(imaged(100));
    rig.disk.hold_all();
    let earlier = rig.start_write(0, b"earlier");
    let made = rig.start(async |node| node.snapshot_create(NewSnapshot::new("x")).await);
    let later = rig.start_write(0, b"later..");
    let held = |rig: &Rig| {
        let held = rig.disk.held();
        held.iter().map(|r| r.op).collect::<Vec<_>>()
    };
    assert_eq!(held(&rig), [Op::Write]);
    rig.release_first();
    assert_eq!(earlier.result(), Some(Ok(())));
    assert_eq!(held(&rig), [Op::SnapshotCreate]);
    rig.release_first();
    assert!(made.result().expect("made").is_ok());
    assert_eq!(held(&rig), [Op::Write]);
    rig.disk.stop_holding();
    rig.release_until_quiet();
    assert_eq!(later.result(), Some(Ok(())));
    assert_eq!(rig.read(0, 7), Ok(b"later..".to_vec()));
    rig.run(rig.node.snapshot_goto("x")).expect("gone to");
    assert_eq!(rig.read(0, 7), Ok(b"earlier".to_vec()));
}

#[test]
fn requests_after_a_goto_are_checked_against_the_snapshots_length() {
    let rig = Rig::new(imaged(1000));
    create(&rig, "short");
    rig.run(rig.node.truncate(to(3000))).expect("longer");
    rig.disk.hold(Op::SnapshotGoto, 0..u64::MAX);
    let goto = rig.start(async |node| node.snapshot_goto("short").await);
    let read = rig.start_read(2000, 1);
    assert!(read.is_pending(), "it waits for its turn");
    rig.release_first();
    assert_eq!(goto.result(), Some(Ok(())));
    let outside = Cause::OutOfBounds {
        end: 2001,
        size: 1000,
    };
    assert_eq!(read.result().map(cause), Some(outside));
    let length = rig.disk.length_calls();
    rig.read(999, 1).expect("inside");
    assert_eq!(rig.disk.length_calls(), length, "it is known already");
}

#[test]
fn calls_wait_at_the_gate_and_run_on_when_dropped() {
    let rig = Rig::new(imaged(100));
    let section = rig.run(rig.node.drain_begin()).expect("quiet");
    let made = rig.start(async |node| node.snapshot_create(NewSnapshot::new("x")).await);
    let listed = rig.start(async |node| node.snapshot_list().await);
    assert_eq!((rig.node.in_flight(), rig.calls()), (0, vec![]));
    drop(section);
    rig.go_on();
    assert!(made.result().expect("made").is_ok());
    assert_eq!(listed.result().expect("listed").expect("lists").len(), 1);

    rig.disk.hold(Op::SnapshotDelete, 0..u64::MAX);
    let deleted = rig.start(async |node| node.snapshot_delete("x").await);
    deleted.drop_future();
    assert_eq!(rig.node.in_flight(), 1);
    rig.release_first();
    assert_eq!((rig.node.in_flight(), list(&rig)), (0, vec![]));
}

#[test]
fn calls_are_passed_down_to_the_first_driver_that_has_snapshots() {
    let rig = Rig::new(imaged(1000));
    let top = through(&rig, &rig.node);
    let on_top = |request| rig.run(request);
    assert!(top.snapshot_node().expect("the image's").is_same(&rig.node));
    on_top(top.snapshot_create(NewSnapshot::new("x"))).expect("made");
    assert_eq!(list(&rig).len(), 1);
    rig.run(rig.node.truncate(to(3000))).expect("longer");
    assert_eq!(rig.run(top.length()), Ok(3000));
    let mut byte = [0];
    rig.run(top.pread(DiskOffset(2999), &mut byte))
        .expect("inside");

    rig.run(top.snapshot_goto("x")).expect("gone to");
    let outside = Cause::OutOfBounds {
        end: 3000,
        size: 1000,
    };
    let read = rig.run(top.pread(DiskOffset(2999), &mut byte));
    assert_eq!(cause(read), outside, "both nodes know the length");
    let read = rig.run(rig.node.pread(DiskOffset(2999), &mut byte));
    assert_eq!(cause(read), outside);
    assert_eq!(rig.run(top.snapshot_list()).map(|all| all.len()), Ok(1));
    let view = rig.run(top.snapshot_load_tmp("x")).expect("shown");
    assert_eq!(view.name(), "top@x");
    rig.run(top.snapshot_delete("x")).expect("deleted");
    assert_eq!(rig.disk.snapshots(), []);
}

#[test]
fn a_snapshot_called_above_is_alone_in_the_node_below_too() {
    let rig = Rig::new(imaged(100));
    let top = through(&rig, &rig.node);
    rig.disk.hold_all();
    let below = rig.start_write(0, b"1");
    let made = rig.start({
        let top = top.clone();
        async move |_| top.snapshot_create(NewSnapshot::new("x")).await
    });
    let above = rig.start({
        let top = top.clone();
        async move |_| {
            let flags = WriteFlags::default();
            top.pwrite(DiskOffset(0), b"2", flags).await
        }
    });
    assert_eq!((top.in_flight(), rig.node.in_flight()), (2, 2));
    assert_eq!(rig.disk.held().len(), 1, "the write below");
    rig.release_until_quiet();
    assert_eq!(below.result(), Some(Ok(())));
    assert!(made.result().expect("made").is_ok());
    assert_eq!(above.result(), Some(Ok(())));
    let order: Vec<_> = rig.calls().into_iter().map(|(op, ..)| op).collect();
    assert_eq!(order, [Op::Write, Op::SnapshotCreate, Op::Write]);
}

#[test]
fn a_child_changes_snapshots_only_with_the_permissions_for_it() {
    let rig = Rig::new(imaged(100));
    let take = |perm| {
        let shared = Perms::ALL;
        let child = rig.node.attach("user", Permissions { perm, shared });
        child.expect("shared")
    };
    let refused = |permission| Cause::NoPermission { permission };
    let reader = take(Perms::CONSISTENT_READ);
    let made = rig.run(reader.snapshot_create(NewSnapshot::new("x")));
    assert_eq!(cause(made), refused("write"));
    assert_eq!(cause(rig.run(reader.snapshot_goto("x"))), refused("write"));
    assert_eq!(
        cause(rig.run(reader.snapshot_delete("x"))),
        refused("write")
    );
    assert_eq!(cause(rig.run(reader.discard_vmstate())), refused("write"));
    assert_eq!(rig.calls(), []);

    let writer = take(Perms::WRITE);
    rig.run(writer.snapshot_create(NewSnapshot::new("x")))
        .expect("made");
    assert_eq!(cause(rig.run(writer.snapshot_goto("x"))), refused("resize"));
    let resizer = take(Perms::WRITE | Perms::RESIZE);
    rig.run(resizer.snapshot_goto("x")).expect("gone to");
    rig.run(writer.discard_vmstate()).expect("discarded");
    rig.run(writer.snapshot_delete("x")).expect("deleted");
}

#[test]
fn a_view_shows_the_snapshot_and_the_image_works_on() {
    let rig = Rig::cached(imaged(1000), CacheMode::Unsafe);
    rig.write(0, b"old").expect("written");
    save_state(&rig, &[7; 512], 300);
    create(&rig, "x");
    rig.write(0, b"new").expect("written");
    rig.run(rig.node.truncate(to(2000))).expect("longer");

    let view = rig.run(rig.node.snapshot_load_tmp("x")).expect("shown");
    assert_eq!(view.name(), "disk@x");
    assert_eq!(view.cache(), CacheMode::Unsafe);
    let mut bytes = [0; 3];
    rig.run(view.pread(DiskOffset(0), &mut bytes))
        .expect("read");
    assert_eq!(&bytes, b"old");
    assert_eq!(rig.run(view.length()), Ok(1000));
    assert_eq!(rig.run(view.vmstate_length()), Ok(Some(300)));
    assert_eq!(state_of(&rig, &view, 300), [7; 300]);
    let flags = WriteFlags::default();
    let write = rig.run(view.pwrite(DiskOffset(0), b"no", flags));
    assert_eq!(cause(write), Cause::ReadOnly);
    assert_eq!(cause(rig.run(view.discard_vmstate())), Cause::ReadOnly);

    rig.run(rig.node.snapshot_delete("x")).expect("deleted");
    rig.run(view.pread(DiskOffset(0), &mut bytes))
        .expect("a view shows its snapshot as long as it lives");
    assert_eq!(rig.read(0, 3), Ok(b"new".to_vec()));
    let knobs = rig.disk.views();
    drop(view);
    assert!(knobs[0].is_dropped());
}

#[test]
fn a_views_requests_are_its_own_and_fail_when_the_image_is_closed() {
    let rig = Rig::new(imaged(1000));
    create(&rig, "x");
    let view = rig.run(rig.node.snapshot_load_tmp("x")).expect("shown");
    let knobs = rig.disk.views();
    knobs[0].hold(Op::Read, 0..u64::MAX);
    let read = rig.start({
        let view = view.clone();
        async move |_| view.pread(DiskOffset(0), &mut [0; 3]).await
    });
    assert_eq!((view.in_flight(), rig.node.in_flight()), (1, 0));
    rig.run(rig.node.close()).expect("does not wait for it");
    knobs[0].release_all();
    rig.go_on();
    assert_eq!(read.result().map(cause), Some(Cause::Closed));
    rig.run(view.close()).expect("closes");
}

#[test]
fn who_keeps_something_of_the_area_is_told_when_its_state_is_another() {
    let rig = Rig::new(imaged(100));
    let told = Rc::new(Told::default());
    assert!(rig.node.set_extension(told.clone()).is_none());
    let times = || told.0.take();
    save_state(&rig, &[7; 512], 512);
    create(&rig, "x");
    assert_eq!(times(), 1, "it took the state");
    rig.run(rig.node.snapshot_goto("x")).expect("gone to");
    assert_eq!(times(), 1);
    rig.run(rig.node.discard_vmstate()).expect("discarded");
    assert_eq!(times(), 1);
    rig.disk.fail_nth(Op::DiscardVmstate, 0, Errno::IO);
    rig.run(rig.node.discard_vmstate()).expect_err("fails");
    assert_eq!(times(), 1, "it may have got half way");
    create(&rig, "a disk only");
    rig.run(rig.node.snapshot_goto("y")).expect_err("no such");
    rig.run(rig.node.snapshot_delete("x")).expect("deleted");
    list(&rig);
    assert_eq!(times(), 0);
}

#[test]
fn a_crash_after_a_snapshot_loses_nothing_of_before() {
    let rig = Rig::new(imaged(3));
    rig.disk.track_crashes();
    rig.write(0, b"old").expect("written");
    create(&rig, "x");
    rig.write(0, b"new").expect("written");
    assert_eq!(rig.disk.contents_after_crash(|_| false), b"old");
    rig.run(rig.node.flush()).expect("stable");
    rig.run(rig.node.snapshot_goto("x")).expect("gone to");
    assert_eq!(rig.disk.contents_after_crash(|_| false), b"old");
}

#[test]
fn an_error_that_leaves_space_in_use_says_so_and_keeps_the_first_errno() {
    let leaked = Cause::Leaked {
        cause: Box::new(Cause::Os(Errno::NOSPC)),
        freeing: Box::new(Cause::Os(Errno::IO)),
    };
    let failed = error(Op::SaveVmstate, 1, 2, leaked);
    assert_eq!(failed.errno(), Errno::NOSPC);
    let text = failed.to_string();
    let [first, second] = [Errno::NOSPC, Errno::IO].map(|errno| errno.to_string());
    assert!(text.contains(&format!("{first}; what was written")));
    assert!(text.ends_with(&second), "{text}");
}

#[derive(Default)]
struct Told(Cell<u32>);

impl NodeExtension for Told {
    fn on_close(&self) -> Result<()> {
        Ok(())
    }

    fn on_vmstate_replaced(&self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Nothing but its child.
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
}

/// A node called "top" over `child`.
fn through(rig: &Rig, child: &BlockNode) -> BlockNode {
    let shared = Permissions {
        shared: Perms::ALL,
        ..Permissions::writer()
    };
    let child = child.attach("top", shared).expect("shared");
    let builder = block_core::NodeBuilder::new("top");
    let handle = rig.context.handle();
    let opened = builder.open(&handle, Through(child));
    rig.run(opened).expect("a node")
}

/// A disk with snapshots.
fn imaged(len: u64) -> TestDiskOptions {
    TestDiskOptions {
        vmstate: vmstate_area(),
        snapshots: true,
        ..plain(len)
    }
}

fn create(rig: &Rig, name: &str) {
    let made = rig.run(rig.node.snapshot_create(NewSnapshot::new(name)));
    made.expect("made");
}

fn list(rig: &Rig) -> Vec<SnapshotInfo> {
    rig.run(rig.node.snapshot_list()).expect("listed")
}

/// Each call once, on a snapshot "x", with its operation.
fn every_call(rig: &Rig) -> [(Op, Result<()>); 5] {
    let node = &rig.node;
    [
        (Op::SnapshotList, rig.run(node.snapshot_list()).map(drop)),
        (
            Op::SnapshotLoad,
            rig.run(node.snapshot_load_tmp("x")).map(drop),
        ),
        (
            Op::SnapshotCreate,
            rig.run(node.snapshot_create(NewSnapshot::new("y")))
                .map(drop),
        ),
        (Op::SnapshotGoto, rig.run(node.snapshot_goto("x"))),
        (Op::SnapshotDelete, rig.run(node.snapshot_delete("x"))),
    ]
}

fn write_state(rig: &Rig, bytes: &[u8]) {
    let mut memory = filled(bytes.len(), 0);
    memory.copy_from_slice(bytes);
    let saved = rig
        .node
        .save_vmstate_unbuffered(VmstateOffset(0), source([memory]));
    rig.run(saved).expect("saved");
}

fn save_state(rig: &Rig, bytes: &[u8], len: u64) {
    write_state(rig, bytes);
    rig.run(rig.node.finish_vmstate(len)).expect("finished");
}

fn state(rig: &Rig, len: usize) -> Vec<u8> {
    state_of(rig, &rig.node, len)
}

fn state_of(rig: &Rig, node: &BlockNode, len: usize) -> Vec<u8> {
    let dst = destination([filled(len, 0xee)]);
    let (dst, result) = rig.run(node.load_vmstate_unbuffered(VmstateOffset(0), dst));
    result.expect("loaded");
    let mut bytes = vec![0; len];
    dst.copy_to(0, &mut bytes);
    bytes
}
