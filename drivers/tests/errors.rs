//! What a caller can do with an error that came through several layers: match on the driver's own type, and print every part of it once.

use aio_task::AioContext;
use block_core::test_disk::{TestDisk, TestDiskOptions};
use block_core::{BlockError, Cause, DiskOffset, NodeBuilder, Op, Permissions};
use block_drivers::qcow2::{
    BackingFile, CreateOptions, Qcow2Driver, Qcow2Error, Qcow2Options, Table, create,
};
use block_drivers::{RawDriver, RawOptions};
use std::error::Error;
use std::io;

/// A write that must be refused: to a qcow2 image whose L2 entry leads to its own header, under a raw node.
fn refused_write() -> BlockError {
    let context = AioContext::new().expect("a context");
    let handle = context.handle();
    context.block_on(async {
        let (disk, control) = TestDisk::new(TestDiskOptions {
            grows: true,
            ..TestDiskOptions::default()
        });
        let file = NodeBuilder::new("disk")
            .open(&handle, disk)
            .await
            .expect("a node");
        let child = file.attach("create", Permissions::writer()).expect("free");
        let options = CreateOptions::from_pairs("size=1M").expect("options");
        create(&child, None, &options).await.expect("created");
        drop(child);
        // An L2 table past the others, whose first entry says that the guest's first cluster is the header.
        let mut bytes = control.contents();
        let table = bytes.len().next_multiple_of(1 << 16);
        bytes.resize(table + (1 << 16), 0);
        let l1 = u64::from_be_bytes(bytes[40..48].try_into().expect("8 bytes")) as usize;
        bytes[l1..l1 + 8].copy_from_slice(&(table as u64 | 1 << 63).to_be_bytes());
        bytes[table..table + 8].copy_from_slice(&((1_u64 << 16) | 1 << 63).to_be_bytes());
        control.set_contents(&bytes);

        let child = file.attach("qcow2", Permissions::writer()).expect("free");
        let options = Qcow2Options {
            backing: BackingFile::Deny,
            ..Qcow2Options::default()
        };
        let image = Qcow2Driver::open(child, options).await.expect("opened");
        let image = NodeBuilder::new("image")
            .open(&handle, image)
            .await
            .expect("a node");
        let child = image.attach("raw", Permissions::writer()).expect("free");
        let raw = RawDriver::open(child, RawOptions::default())
            .await
            .expect("a window");
        let raw = NodeBuilder::new("raw")
            .open(&handle, raw)
            .await
            .expect("a node");
        let written = raw
            .pwrite(DiskOffset(0), &[1; 512], Default::default())
            .await;
        written.expect_err("it would overwrite a table")
    })
}

#[test]
fn a_qcow2_error_is_matched_on_through_three_layers() {
    let error = refused_write();
    assert_eq!((error.op, error.offset, error.len), (Op::Write, 0, 512));
    assert!(error.node().is_some(), "{error:?}");
    let source = error.source().and_then(|source| source.downcast_ref());
    match source {
        Some(Qcow2Error::Overlap {
            what: Table::Data, ..
        }) => {}
        other => panic!("{other:?} of {error:#}"),
    }
}

#[test]
fn an_error_survives_being_an_io_error() {
    let error = refused_write();
    let as_io = io::Error::from(error.clone());
    assert_eq!(as_io.kind(), error.kind());
    let back = BlockError::from_io(Op::Read, 7, 7, &as_io);
    assert_eq!(back, error);
    assert_eq!(back.node(), error.node());
    assert_eq!(
        error.clone().into_os_error().raw_os_error(),
        Some(error.errno().0)
    );
    // An error without an errno is EIO.
    let other = BlockError::from_io(Op::Read, 0, 0, &io::Error::other("words"));
    assert_eq!(other.cause, Cause::Os(block_core::Errno::IO));
}

#[test]
fn no_error_prints_its_source_twice() {
    let errors: [Box<dyn Error>; 3] = [
        Box::new(refused_write()),
        Box::new(io::Error::from(refused_write())),
        Box::new(aio_task::JobError::Spawn(io::Error::other(
            "no more threads",
        ))),
    ];
    for error in &errors {
        let mut above: &dyn Error = &**error;
        let mut layers = 1;
        while let Some(below) = above.source() {
            let (outer, inner) = (above.to_string(), below.to_string());
            assert!(!outer.contains(&inner), "{outer:?} has {inner:?} in it");
            (above, layers) = (below, layers + 1);
        }
        assert!(layers >= 2, "{error} has no source");
    }
    // One line for a program: every part once.
    let line = format!("{:#}", refused_write());
    let source = refused_write().source().expect("a source").to_string();
    assert_eq!(line.matches(&source).count(), 1, "{line}");
}
