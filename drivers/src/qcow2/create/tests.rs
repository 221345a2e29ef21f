use super::*;
use crate::qcow2::format::header::Purpose;
use aio_task::AioContext;
use block_core::test_disk::{Keep, TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{Errno, NodeBuilder, Op, Permissions};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// A disk of `old` bytes that are not zero, and a user of it.
struct Bench {
    context: AioContext,
    disk: TestDiskControl,
    file: BlockChild,
}

impl Bench {
    fn new(old: &[u8]) -> Self {
        let context = AioContext::new().expect("a context");
        let (disk, control) = TestDisk::new(TestDiskOptions {
            grows: true,
            ..TestDiskOptions::default()
        });
        control.set_contents(old);
        let handle = context.handle();
        let file = context.block_on(async {
            let builder = NodeBuilder::new("file");
            let node = builder.open(&handle, disk).await.expect("a node");
            node.attach("create", Permissions::writer()).expect("free")
        });
        Self {
            context,
            disk: control,
            file,
        }
    }

    fn create(&self, options: &CreateOptions) -> Result<(), Qcow2Error> {
        self.context.block_on(create(&self.file, None, options))
    }
}

fn options(list: &str) -> CreateOptions {
    let options = CreateOptions::from_pairs(list).expect("good options");
    CreateOptions {
        size: options.size.or(Some(3 << 20)),
        ..options
    }
}

/// An image with everything that create writes: several refcount blocks, L2 tables.
fn full() -> CreateOptions {
    options("cluster_size=512,preallocation=metadata,refcount_bits=64,size=128k")
}

fn parse(image: &[u8]) -> Result<Header, Qcow2Error> {
    let header = Header::parse(
        image.get(..512.min(image.len())).unwrap_or(&[]),
        Purpose::Use,
    )?;
    header.check_inside(image.len() as u64)?;
    Ok(header)
}

/// What another image may have left there.
fn old_image() -> Vec<u8> {
    let bench = Bench::new(&[]);
    bench
        .create(&options("cluster_size=512,size=1M,refcount_bits=1"))
        .expect("created");
    let mut image = bench.disk.contents();
    image.resize(400_000, 0xa5);
    image[1536..].fill(0xa5); // its L1 table and all past it
    image
}

#[test]
fn the_header_is_written_last_and_between_two_flushes() {
    let bench = Bench::new(&[]);
    bench.create(&full()).expect("created");
    let records = bench.disk.records();
    let changes = |op: &Op| matches!(op, Op::Write | Op::WriteZeroes | Op::Flush);
    let last: Vec<_> = records.iter().filter(|r| changes(&r.op)).rev().collect();
    assert_eq!(
        [last[0].op, last[1].op, last[2].op],
        [Op::Flush, Op::Write, Op::Flush]
    );
    assert_eq!(last[1].offset, 0);
    let on_it = last.iter().filter(|r| r.op == Op::Write && r.offset < 512);
    assert_eq!(on_it.count(), 1);
    assert!(parse(&bench.disk.contents()).is_ok());
}

#[test]
fn whatever_fails_there_is_no_image_and_the_error_is_the_files() {
    for op in [Op::Write, Op::WriteZeroes, Op::Flush, Op::Truncate] {
        for nth in 0.. {
            let bench = Bench::new(&old_image());
            bench.disk.support(Op::Truncate, op == Op::Truncate);
            bench.disk.fail_nth(op, nth, Errno::NOSPC);
            let result = bench.create(&full());
            if bench.disk.faults_fired() == 0 {
                assert_eq!(result, Ok(()));
                assert!(nth > 0, "{op} never came");
                break;
            }
            let error = result.expect_err("a fault fired");
            assert_eq!(error.errno(), Errno::NOSPC, "{op} {nth}: {error}");
            // The very first change may have failed: then the old image is as it was. The last flush may have: then it is unknown.
            let image = bench.disk.contents();
            let unchanged = image == old_image();
            let complete = parse(&image) == parse_created(&full());
            assert!(
                unchanged || complete || parse(&image).is_err(),
                "{op} {nth}"
            );
        }
    }
}

fn parse_created(options: &CreateOptions) -> Result<Header, Qcow2Error> {
    let bench = Bench::new(&[]);
    bench.create(options).expect("created");
    parse(&bench.disk.contents())
}

#[test]
fn a_crash_at_any_moment_leaves_the_old_image_or_none_or_the_whole_new_one() {
    for cut in [true, false] {
        let finished = Bench::new(&old_image());
        finished.disk.support(Op::Truncate, cut);
        finished.create(&full()).expect("created");
        let new = finished.disk.contents();

        let bench = Bench::new(&old_image());
        bench.disk.support(Op::Truncate, cut);
        bench.disk.track_crashes();
        bench.disk.hold_all();
        let Bench {
            context,
            disk,
            file,
        } = bench;
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        let task = context.handle().spawn(async move {
            *slot.borrow_mut() = Some(create(&file, None, &full()).await);
        });
        let (mut random, mut seen) = (5_u64, [0; 3]);
        while result.borrow().is_none() {
            context.by_hand().run_until_stalled();
            for round in 0..8 {
                let image = disk.contents_after_crash(|_| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    match round {
                        0 => Keep::Nothing,
                        1 => Keep::All,
                        _ => Keep::from(random.is_multiple_of(2)),
                    }
                });
                let what = if image == old_image() {
                    0
                } else if parse(&image).is_err() {
                    1
                } else {
                    assert!(
                        image == new,
                        "an image, and neither the old nor the new one"
                    );
                    2
                };
                seen[what] += 1;
            }
            disk.release_all();
        }
        drop(task);
        assert_eq!(result.take(), Some(Ok(())));
        assert!(seen.iter().all(|n| *n > 0), "{seen:?}: each was met");
    }
}

#[test]
fn what_cannot_be_cut_gets_the_same_image_as_an_empty_file() {
    let empty = Bench::new(&[]);
    empty.create(&full()).expect("created");
    let device = Bench::new(&old_image());
    device.disk.support(Op::Truncate, false);
    device.create(&full()).expect("created");
    let tables = Plan::new(&full()).expect("good").layout.data_at as usize * 512;
    let (image, same) = (empty.disk.contents(), device.disk.contents());
    assert_eq!(image[..tables], same[..tables]);
    assert_eq!(same.len(), old_image().len(), "it keeps its length");
}

#[test]
fn a_device_that_is_too_small_is_refused() {
    let bench = Bench::new(&[1; 4096]);
    bench.disk.support(Op::Truncate, false);
    let error = bench.create(&full()).expect_err("too small");
    assert!(matches!(error, Qcow2Error::Io { .. }), "{error}");
}

#[test]
fn what_is_refused_changes_nothing() {
    let bench = Bench::new(&[7; 1000]);
    let no_size = CreateOptions::default();
    let raw = options("data_file=d,data_file_raw=on");
    for (options, error) in [
        (no_size, Qcow2Error::Options(OptionError::NoSize)),
        (raw, Qcow2Error::DataFileMissing),
    ] {
        assert_eq!(bench.create(&options), Err(error));
    }
    let wanted = full();
    let unwanted = create(&bench.file, Some(&bench.file), &wanted);
    let unwanted = bench.context.block_on(unwanted);
    assert_eq!(unwanted, Err(Qcow2Error::DataFileUnwanted));
    assert_eq!(bench.disk.contents(), [7; 1000]);
    assert!(bench.disk.records_of(Op::Truncate).is_empty());
}

#[test]
fn every_cluster_of_a_new_image_is_counted_once_and_none_after_it() {
    for list in [
        "size=0",
        "cluster_size=512,refcount_bits=1,size=8M",
        "cluster_size=512,refcount_bits=64,size=1M,preallocation=metadata",
        "cluster_size=2M,refcount_bits=32,size=5M,preallocation=metadata",
        "cluster_size=16k,extended_l2=on,size=3M,preallocation=metadata",
    ] {
        let bench = Bench::new(&[]);
        bench.create(&options(list)).expect("created");
        let image = bench.disk.contents();
        let geometry = options(list).geometry().expect("good");
        let cluster = geometry.cluster_size() as usize;
        let header = Header::parse(&image[..cluster], Purpose::Use).expect("an image");
        let clusters = (image.len() / cluster) as u64;
        for number in 0..clusters + 3 {
            let at = |offset: u64| Range {
                start: offset as usize,
                end: offset as usize + cluster,
            };
            let entry = header.reftable_offset.0 + geometry.reftable_index(number) * 8;
            let entry = ReftableEntry(crate::qcow2::format::big_endian::be64(
                &image,
                entry as usize,
            ));
            let refcount = entry.block(&geometry, 0).expect("good").map(|block| {
                let index = geometry.refcount_index(number) as usize;
                geometry.refcount(&image[at(block.0)], index)
            });
            let wanted = u64::from(number < clusters);
            assert_eq!(refcount.flatten().unwrap_or(0), wanted, "{list}: {number}");
        }
    }
}
