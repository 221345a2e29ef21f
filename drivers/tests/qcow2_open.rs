//! What an open does to an image, and what it refuses by name.

use aio_task::AioContext;
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{
    BlockChild, BlockNode, Cause, DiskOffset, Errno, NodeBuilder, Op, Permissions, WriteFlags,
};
use block_drivers::qcow2::{
    self, BackingFile, CreateOptions, Qcow2Driver, Qcow2Error, Qcow2Options,
};
use std::error::Error as _;

const SIZE: u64 = 1 << 20;
/// Bytes of a cluster of the images here.
const CLUSTER: usize = 4096;
/// Where fields of the header are.
const INCOMPATIBLE: usize = 72;
const AUTOCLEAR: usize = 88;

struct Bench {
    context: AioContext,
    control: TestDiskControl,
    file: BlockNode,
}

impl Bench {
    /// An image with data in its first half.
    fn new(options: &str) -> Self {
        let context = AioContext::new().expect("a context");
        let (driver, control) = TestDisk::new(TestDiskOptions {
            grows: true,
            ..TestDiskOptions::default()
        });
        let handle = context.handle();
        let file = context.block_on(async {
            let file = NodeBuilder::new("file").open(&handle, driver).await;
            let file = file.expect("a node");
            let child = file.attach("create", Permissions::writer()).expect("alone");
            let mut create = CreateOptions::from_pairs(options).expect("options");
            create.size = Some(SIZE);
            qcow2::create(&child, None, &create).await.expect("created");
            file
        });
        Self {
            context,
            control,
            file,
        }
    }

    fn with_data(self) -> Self {
        self.context.block_on(async {
            let image = self.image(Qcow2Options::default()).await;
            let bytes = [5; SIZE as usize / 2];
            let written = image.pwrite(DiskOffset(0), &bytes, WriteFlags::default());
            written.await.expect("written");
            image.close().await.expect("closed");
        });
        self.reopened()
    }

    /// The bytes as they are, under a node that was not closed with the image.
    fn reopened(self) -> Self {
        let bytes = self.control.contents();
        self.holding(bytes)
    }

    fn holding(self, bytes: Vec<u8>) -> Self {
        let (driver, control) = TestDisk::new(TestDiskOptions {
            grows: true,
            ..TestDiskOptions::default()
        });
        control.set_contents(&bytes);
        let handle = self.context.handle();
        let file = NodeBuilder::new("file").open(&handle, driver);
        let file = self.context.block_on(file).expect("a node");
        Self {
            context: self.context,
            control,
            file,
        }
    }

    fn changed(self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = self.control.contents();
        change(&mut bytes);
        self.holding(bytes)
    }

    fn child(&self) -> BlockChild {
        let child = self.file.attach("qcow2", Permissions::writer());
        child.expect("the only user")
    }

    async fn image(&self, options: Qcow2Options) -> BlockNode {
        let read_only = options.read_only;
        let driver = Qcow2Driver::open(self.child(), options).await;
        let driver = driver.unwrap_or_else(|error| panic!("{error}"));
        let builder = NodeBuilder::new("image").read_only(read_only);
        let node = builder.open(self.file.handle(), driver).await;
        node.expect("a node")
    }

    fn refusal(&self, options: Qcow2Options) -> Qcow2Error {
        let before = self.control.contents();
        let opened = self
            .context
            .block_on(Qcow2Driver::open(self.child(), options));
        assert_eq!(self.control.contents(), before, "nothing is written");
        match opened {
            Ok(_) => panic!("it was opened"),
            Err(error) => error,
        }
    }

    fn open_and_close(&self, options: Qcow2Options) {
        self.context.block_on(async {
            let image = self.image(options).await;
            image.close().await.expect("closed");
        });
    }
}

fn read_only() -> Qcow2Options {
    Qcow2Options {
        read_only: true,
        ..Qcow2Options::default()
    }
}

fn set_bit(bytes: &mut [u8], field: usize, bit: usize) {
    bytes[field + 7 - bit / 8] |= 1 << (bit % 8);
}

fn field(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(*bytes[at..].first_chunk().expect("eight bytes"))
}

/// The place of the first refcount block, by the reftable's first entry.
fn refcount_block(bytes: &[u8]) -> usize {
    field(bytes, field(bytes, 48) as usize) as usize
}

#[test]
fn an_image_that_was_not_closed_is_repaired_before_it_is_written_to() {
    let bench = Bench::new("cluster_size=4k,lazy_refcounts=on").with_data();
    let sound = bench.control.contents();
    // As a crash with lazy refcounts leaves it: data is mapped that no task has counted yet.
    let bench = bench.changed(|bytes| {
        set_bit(bytes, INCOMPATIBLE, 0);
        let block = refcount_block(bytes);
        bytes[block + 2 * 20..block + 2 * 60].fill(0);
    });
    bench.open_and_close(Qcow2Options::default());
    assert_eq!(bench.control.contents(), sound);
}

#[test]
fn an_image_that_was_not_closed_is_read_as_it_is() {
    let bench = Bench::new("cluster_size=4k,lazy_refcounts=on").with_data();
    let bench = bench.changed(|bytes| set_bit(bytes, INCOMPATIBLE, 0));
    let before = bench.control.contents();
    bench.open_and_close(read_only());
    assert_eq!(bench.control.contents(), before);
}

#[test]
fn an_image_that_was_not_closed_and_cannot_be_repaired_is_not_written_to() {
    let bench = Bench::new("cluster_size=4k,lazy_refcounts=on").with_data();
    let bench = bench.changed(|bytes| set_bit(bytes, INCOMPATIBLE, 0));
    bench.control.fail_nth(Op::Flush, 0, block_core::Errno::IO);
    let opened = bench
        .context
        .block_on(Qcow2Driver::open(bench.child(), Qcow2Options::default()));
    assert!(
        matches!(opened, Err(Qcow2Error::Io { .. })),
        "the fault comes out"
    );
    let still_dirty = field(&bench.control.contents(), INCOMPATIBLE) & 1;
    assert_eq!(still_dirty, 1, "and the next open tries again");
}

#[test]
fn an_image_that_says_it_is_corrupt_is_read_but_not_written_to() {
    let bench = Bench::new("cluster_size=4k").with_data();
    let bench = bench.changed(|bytes| set_bit(bytes, INCOMPATIBLE, 1));
    assert_eq!(
        bench.refusal(Qcow2Options::default()),
        Qcow2Error::CorruptBit
    );
    bench.open_and_close(read_only());
}

#[test]
fn an_incompatible_feature_that_is_not_known_is_refused_by_name() {
    let bench = Bench::new("cluster_size=4k").changed(|bytes| set_bit(bytes, INCOMPATIBLE, 40));
    for options in [Qcow2Options::default(), read_only()] {
        let error = bench.refusal(options).to_string();
        assert!(error.contains("40"), "{error}");
    }
}

#[test]
fn an_encrypted_image_is_refused_by_name() {
    let bench = Bench::new("cluster_size=4k").changed(|bytes| bytes[35] = 2);
    let error = bench.refusal(read_only());
    assert_eq!(error, Qcow2Error::Encrypted { method: 2 });
    assert!(error.to_string().contains("LUKS"), "{error}");
}

#[test]
fn autoclear_features_that_are_not_known_go_before_the_first_write_and_not_before() {
    let bench = Bench::new("cluster_size=4k").with_data();
    let sound = bench.control.contents();
    let mut bench = bench.changed(|bytes| set_bit(bytes, AUTOCLEAR, 33));
    for options in [read_only(), Qcow2Options::default()] {
        bench.open_and_close(options);
        assert_eq!(field(&bench.control.contents(), AUTOCLEAR), 1 << 33);
        bench = bench.reopened();
    }
    bench.control.take_records();
    bench.context.block_on(async {
        let image = bench.image(Qcow2Options::default()).await;
        let written = image.pwrite(DiskOffset(0), &[5; CLUSTER], WriteFlags::default());
        written.await.expect("written");
        image.close().await.expect("closed");
    });
    assert!(bench.control.contents() == sound, "the same data");
    let changes = bench.control.records();
    let changes: Vec<Op> = changes
        .iter()
        .map(|record| record.op)
        .filter(|op| [Op::Write, Op::Flush].contains(op))
        .collect();
    assert_eq!(changes[..3], [Op::Write, Op::Flush, Op::Write]);
}

#[test]
fn a_header_that_cannot_be_written_keeps_everything_else_from_being_written() {
    let bench = Bench::new("cluster_size=4k").with_data();
    let bench = bench.changed(|bytes| set_bit(bytes, AUTOCLEAR, 33));
    let before = bench.control.contents();
    bench.context.block_on(async {
        let image = bench.image(Qcow2Options::default()).await;
        for op in [Op::Write, Op::Flush] {
            bench.control.fail_nth(op, 0, Errno::IO);
            let written = image.pwrite(DiskOffset(0), &[6; CLUSTER], WriteFlags::default());
            written.await.expect_err("the header comes first");
            let after = bench.control.contents();
            assert!(after[CLUSTER..] == before[CLUSTER..], "{op:?}");
        }
        let written = image.pwrite(DiskOffset(0), &[6; CLUSTER], WriteFlags::default());
        written.await.expect("tried again");
        image.close().await.expect("closed");
    });
    assert_eq!(field(&bench.control.contents(), AUTOCLEAR), 0);
}

#[test]
fn a_backing_file_is_opened_by_the_caller_or_not_at_all() {
    let bench = Bench::new("cluster_size=4k,backing_file=secret,backing_fmt=raw");
    let denied = bench.refusal(Qcow2Options::default());
    assert_eq!(
        denied,
        Qcow2Error::Denied {
            what: "backing file",
            path: "secret".into(),
        }
    );
    bench.context.block_on(async {
        let image = bench
            .image(Qcow2Options {
                backing: BackingFile::Ignore,
                ..Qcow2Options::default()
            })
            .await;
        let mut byte = [0];
        let error = image.pread(DiskOffset(0), &mut byte).await.unwrap_err();
        assert!(error.to_string().contains("secret"), "{error}");
        // A whole cluster needs nothing of it; a part of one does.
        let whole = image.pwrite(DiskOffset(0), &[1; CLUSTER], WriteFlags::default());
        whole.await.expect("written");
        let part = image.pwrite(DiskOffset(CLUSTER as u64), &[1], WriteFlags::default());
        assert!(part.await.is_err());
        image.pread(DiskOffset(0), &mut byte).await.expect("read");
        assert_eq!(byte, [1]);
        image.close().await.expect("closed");
    });
}

#[test]
fn a_data_file_must_be_given_where_the_image_has_one_and_only_there() {
    let bench = Bench::new("cluster_size=4k");
    let with = bench.changed(|bytes| set_bit(bytes, INCOMPATIBLE, 2));
    assert_eq!(with.refusal(read_only()), Qcow2Error::DataFileMissing);
    let without = Bench::new("cluster_size=4k");
    let (driver, _) = TestDisk::new(TestDiskOptions::default());
    let data = NodeBuilder::new("data").open(without.file.handle(), driver);
    let data = without.context.block_on(data).expect("a node");
    let options = Qcow2Options {
        data_file: Some(data.attach("data", Permissions::reader()).expect("alone")),
        ..read_only()
    };
    assert_eq!(without.refusal(options), Qcow2Error::DataFileUnwanted);
}

#[test]
fn two_tables_in_one_place_are_not_written_to() {
    let bench = Bench::new("cluster_size=4k").with_data();
    // The L1 table's first entry leads to the refcount block.
    let bench = bench.changed(|bytes| {
        let l1 = field(bytes, 40) as usize;
        let block = (1 << 63) | refcount_block(bytes) as u64;
        bytes[l1..l1 + 8].copy_from_slice(&block.to_be_bytes());
    });
    let error = bench.refusal(Qcow2Options::default());
    assert!(matches!(error, Qcow2Error::Overlap { .. }), "{error}");
}

#[test]
fn a_guest_cluster_that_is_a_table_is_not_written_to() {
    let bench = Bench::new("cluster_size=4k").with_data();
    // Guest cluster 3 is, by its entry, the reftable.
    let bench = bench.changed(|bytes| {
        let l1 = field(bytes, 40) as usize;
        let l2 = (field(bytes, l1) << 8 >> 8) as usize;
        let reftable = (1 << 63) | field(bytes, 48);
        bytes[l2 + 24..l2 + 32].copy_from_slice(&reftable.to_be_bytes());
    });
    let before = bench.control.contents();
    bench.context.block_on(async {
        let image = bench.image(Qcow2Options::default()).await;
        let at = DiskOffset(3 * CLUSTER as u64);
        let error = image.pwrite(at, &[1; 512], WriteFlags::default()).await;
        let error = error.unwrap_err();
        assert!(matches!(error.cause, Cause::Corrupt(_)), "{error}");
        let source = error.source().and_then(|source| source.downcast_ref());
        let Some(Qcow2Error::Overlap { other, .. }) = source else {
            panic!("{error:#}");
        };
        assert_eq!(*other, qcow2::Table::RefcountTable);
        image.close().await.expect("closed");
    });
    assert_eq!(bench.control.contents(), before);
}

#[test]
fn a_close_that_cannot_write_says_so() {
    let bench = Bench::new("cluster_size=4k");
    bench.context.block_on(async {
        let image = bench.image(Qcow2Options::default()).await;
        let written = image.pwrite(DiskOffset(0), &[1; 512], WriteFlags::default());
        written.await.expect("written");
        bench
            .control
            .fail_range(Op::Flush, 0..u64::MAX, block_core::Errno::NOSPC);
        let error = image.close().await.unwrap_err();
        assert_eq!(error.errno(), block_core::Errno::NOSPC);
    });
}
