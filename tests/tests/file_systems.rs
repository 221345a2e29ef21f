//! The file driver where it takes a mount or a device to try it: tmpfs, a full disk, a block device.

use aio_task::{AioContext, WorkerPool};
use block_core::{
    BlockDriver, BlockNode, CacheMode, Cause, DiskOffset, Errno, NodeBuilder, Preallocation,
    Truncate, WriteFlags, ZeroFlags,
};
use block_drivers::{Create, DirectIo, FileDriver, FileKind, FileOptions, OpenError};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use tests::files::{SmallDisk, disk_folder};
use tests::tools::{self, Need};

fn main() -> ExitCode {
    let mut trials = vec![
        tools::trial(
            "tmpfs accepts O_DIRECT and is not called direct",
            &[Need::Mount],
            tmpfs_is_not_direct,
        ),
        tools::trial(
            "a full disk is ENOSPC for writes and for preallocation, and the old length is back",
            &[Need::Mount],
            a_full_disk_is_told,
        ),
    ];
    let block_device = tools::trial(
        "a block device is refused by name unless it is asked for, and keeps its length",
        &[Need::Mount, Need::Tool("losetup")],
        a_block_device_keeps_its_length,
    );
    // The tool and the right alone do not make a device.
    trials.push(match Path::new("/dev/loop-control").exists() {
        true => block_device,
        false => block_device.with_ignored_flag(true),
    });
    tools::main(trials)
}

struct Bench {
    context: AioContext,
    workers: WorkerPool,
}

impl Bench {
    fn new() -> Self {
        let workers = WorkerPool::new(NonZeroUsize::new(4).expect("four"));
        Self {
            context: AioContext::new().expect("a context"),
            workers,
        }
    }

    fn options(&self, cache: CacheMode) -> FileOptions {
        let options = FileOptions::writer(self.workers.clone());
        FileOptions {
            cache,
            create: Create::IfMissing,
            ..options
        }
    }

    fn open(&self, path: &Path, options: FileOptions) -> Result<FileDriver, OpenError> {
        self.context.block_on(FileDriver::open(path, options))
    }

    async fn node(&self, driver: FileDriver) -> BlockNode {
        let builder = NodeBuilder::new("file");
        builder
            .open(&self.context.handle(), driver)
            .await
            .expect("a node")
    }
}

fn tmpfs_is_not_direct() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = SmallDisk::mount(folder.path(), 1 << 20).expect("a tmpfs");
    let bench = Bench::new();
    let path = disk.path().join("disk");
    let direct = match bench.open(&path, bench.options(CacheMode::None)) {
        Ok(file) => file.direct(),
        // Kernels before 6.6.
        Err(OpenError::DirectRefused { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(direct, DirectIo::AcceptedNotDirect);
    assert_eq!(
        path.metadata().expect("the file").len(),
        0,
        "the probe left nothing"
    );
    // ZERO_RANGE is not known there: zeroes that keep their space take another way.
    std::fs::write(&path, [7; 100_000]).expect("bytes");
    let file = bench
        .open(&path, bench.options(CacheMode::None))
        .expect("open");
    let zeroes = file.pwrite_zeroes(DiskOffset(4000), 50_000, ZeroFlags::default());
    bench.context.block_on(zeroes).expect("zeroes");
    let mut expected = vec![7; 100_000];
    expected[4000..54_000].fill(0);
    assert_eq!(std::fs::read(&path).expect("the file"), expected);
}

fn a_full_disk_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = SmallDisk::mount(folder.path(), 1 << 20).expect("a tmpfs");
    let bench = Bench::new();
    let path = disk.path().join("disk");
    let file = bench
        .open(&path, bench.options(CacheMode::Writeback))
        .expect("open");
    bench.context.block_on(async {
        let node = bench.node(file).await;
        node.pwrite(DiskOffset(0), &[7; 4096], WriteFlags::default())
            .await
            .expect("fits");
        let len = 4 << 20;
        for preallocation in [Preallocation::Falloc, Preallocation::Full] {
            let error = node
                .truncate(Truncate {
                    len,
                    exact: true,
                    preallocation,
                })
                .await;
            assert_eq!(error.expect_err("full").cause, Cause::Os(Errno::NOSPC));
            assert_eq!(node.length().await, Ok(4096), "{preallocation:?}");
        }
        let error = node
            .pwrite(DiskOffset(4096), &vec![8; 2 << 20], WriteFlags::default())
            .await;
        let error = error.expect_err("full");
        assert!(
            matches!(error.cause, Cause::Os(Errno::NOSPC) | Cause::Short { .. }),
            "{error}"
        );
        assert_eq!((error.offset, error.len), (4096, 2 << 20));
        let mut bytes = [0; 4096];
        node.pread(DiskOffset(0), &mut bytes)
            .await
            .expect("still there");
        assert_eq!(bytes, [7; 4096]);
        node.close().await.expect("close");
    });
}

fn a_block_device_keeps_its_length() {
    let folder = disk_folder();
    let image = folder.path().join("image");
    std::fs::write(&image, vec![7; 4 << 20]).expect("an image");
    let device = LoopDevice::on(&image);
    let bench = Bench::new();
    for create in [Create::Existing, Create::IfMissing, Create::Truncate] {
        let options = FileOptions {
            create,
            ..bench.options(CacheMode::Writeback)
        };
        let refused = bench.open(&device.path, options).map(drop);
        let expected = OpenError::Refused {
            path: device.path.clone(),
            kind: FileKind::BlockDevice,
        };
        assert_eq!(refused, Err(expected));
    }
    for cache in [CacheMode::Writeback, CacheMode::None] {
        let options = FileOptions {
            create: Create::Existing,
            block_device: true,
            ..bench.options(cache)
        };
        let file = bench.open(&device.path, options).expect("asked for");
        assert_eq!((file.kind(), file.grows()), (FileKind::BlockDevice, false));
        assert_eq!(
            matches!(file.direct(), DirectIo::Direct { .. }),
            cache.direct()
        );
        bench.context.block_on(async {
            let node = bench.node(file).await;
            assert_eq!(node.length().await, Ok(4 << 20));
            node.pwrite(DiskOffset(1000), &[8; 5000], WriteFlags::default())
                .await
                .expect("write");
            let mut bytes = vec![0; 7000];
            node.pread(DiskOffset(0), &mut bytes).await.expect("read");
            let mut expected = vec![7; 7000];
            expected[1000..6000].fill(8);
            assert_eq!(bytes, expected);
            let (at, flags) = (DiskOffset(1100), ZeroFlags::default());
            node.pwrite_zeroes(at, 1501, flags)
                .await
                .expect("a part of a block");
            node.pread(DiskOffset(0), &mut bytes).await.expect("read");
            expected[1100..2601].fill(0);
            assert_eq!(bytes, expected);
            node.pdiscard(DiskOffset(100), 1000)
                .await
                .expect("a part of a block");
            let last = node
                .pwrite(DiskOffset((4 << 20) - 1), &[9; 2], WriteFlags::default())
                .await;
            assert!(matches!(
                last.expect_err("too long").cause,
                Cause::OutOfBounds { .. }
            ));
            for (len, exact) in [(2 << 20, true), (8 << 20, false)] {
                let to = Truncate {
                    len,
                    exact,
                    preallocation: Preallocation::Off,
                };
                node.truncate(to)
                    .await
                    .expect_err("a device has the length that it has");
            }
            node.pwrite(DiskOffset(0), &[7; 7000], WriteFlags::default())
                .await
                .expect("write");
            node.flush().await.expect("flush");
            node.close().await.expect("close");
        });
    }
}

/// A block device on a file, detached when dropped.
struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    fn on(image: &Path) -> Self {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(image)
            .output();
        let output = output.expect("losetup starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let path = String::from_utf8(output.stdout).expect("a path");
        Self {
            path: path.trim().into(),
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.path)
            .status();
    }
}
