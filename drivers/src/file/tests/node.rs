//! What a node makes of a file driver that cannot do everything.

use super::*;
use block_core::NodeBuilder;
use rustix::io::Errno as Raw;

#[test]
fn where_the_file_system_cannot_zero_the_node_writes_the_zeroes() {
    let bench = Bench::new().with(&pattern(3 << 20));
    let fails = || Fault::Fails(Raw::OPNOTSUPP);
    let script = Script::new()
        .at(Call::Fallocate, 0, fails())
        .at(Call::Fallocate, 1, fails());
    let script = script.share();
    let driver = bench.open(&script);
    bench.run(async {
        let node = NodeBuilder::new("file")
            .open(&bench.context.handle(), driver)
            .await;
        let node = node.expect("a node");
        let no_fallback = ZeroFlags {
            no_fallback: true,
            ..Default::default()
        };
        let refused = node
            .pwrite_zeroes(DiskOffset(1001), 2 << 20, no_fallback)
            .await;
        assert_eq!(refused.expect_err("told to").cause, Cause::NotSupported);
        assert_eq!(
            bench.bytes(),
            pattern(3 << 20),
            "refused before any byte is changed"
        );
        let zeroes = node.pwrite_zeroes(DiskOffset(1001), 2 << 20, ZeroFlags::default());
        zeroes.await.expect("written out");
        node.close().await.expect("close");
    });
    let mut expected = pattern(3 << 20);
    expected[1001..1001 + (2 << 20)].fill(0);
    assert_eq!(bench.bytes(), expected);
    assert_eq!(script.count(Call::Fallocate), 2, "not asked again");
    assert!(script.count(Call::Write) >= 2, "in bounded pieces");
}

#[test]
fn the_error_of_a_system_call_reaches_the_nodes_user_with_the_users_numbers() {
    let bench = Bench::new().with(&pattern(8192));
    let script = Script::new()
        .strict(512)
        .at(Call::Write, 0, Fault::Fails(Raw::NOSPC));
    let driver = bench
        .try_open(bench.direct_options(), &script.share())
        .expect("open");
    bench.run(async {
        let node = NodeBuilder::new("file")
            .open(&bench.context.handle(), driver)
            .await;
        let node = node.expect("a node");
        // Unaligned at both ends: the driver sees whole blocks.
        let error = node
            .pwrite(DiskOffset(1000), &pattern(700), WriteFlags::default())
            .await;
        assert_eq!(
            error,
            Err(BlockError::new(Op::Write, 1000, 700, errno(Raw::NOSPC)))
        );
        node.close().await.expect("close");
    });
    assert_eq!(bench.bytes(), pattern(8192));
}

#[test]
fn a_node_whose_file_cannot_be_synced_says_so_when_it_closes() {
    let bench = Bench::new().with(b"");
    let script = Script::new().at(Call::Sync, 0, Fault::Fails(Raw::IO));
    let driver = bench.open(&script.share());
    bench.run(async {
        let node = NodeBuilder::new("file")
            .open(&bench.context.handle(), driver)
            .await;
        let node = node.expect("a node");
        node.pwrite(DiskOffset(0), b"lost", WriteFlags::default())
            .await
            .expect("write");
        let error = node.close().await.expect_err("the flush of the close");
        assert_eq!(error.cause, errno(Raw::IO));
    });
    // All steps of the close were taken.
    bench.open(&Script::new().share());
}
