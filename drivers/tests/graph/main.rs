//! The drivers in nodes, on real files: what users see.

mod file;
mod null;
mod raw;
mod vmstate_file;

use aio_task::{AioContext, AioHandle, WorkerPool};
use block_core::{
    BlockChild, BlockDriver, BlockError, BlockNode, CacheMode, Cause, DiskOffset, IoBuf, IoVector,
    NodeBuilder, Op, Permissions, Preallocation, ReadVector, Truncate, VmstateOffset, WriteFlags,
    ZeroFlags,
};
use block_drivers::{Create, FileDriver, FileOptions, OpenError};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use tempfile::TempDir;

/// A context, workers and a folder.
struct Bench {
    context: AioContext,
    workers: WorkerPool,
    folder: TempDir,
    cache: CacheMode,
}

impl Bench {
    fn new(cache: CacheMode) -> Self {
        Self {
            context: AioContext::new().expect("a context"),
            workers: WorkerPool::new(NonZeroUsize::new(4).expect("four")),
            // Beside the build: a tmpfs, as /tmp may be, takes O_DIRECT without meaning it.
            folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder"),
            cache,
        }
    }

    fn with(self, bytes: &[u8]) -> Self {
        std::fs::write(self.path(), bytes).expect("a file");
        self
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).expect("the file")
    }

    fn run<F: Future>(&self, future: F) -> F::Output {
        self.context.block_on(future)
    }

    fn handle(&self) -> AioHandle {
        self.context.handle()
    }

    /// A node on the file, which is created if need be.
    async fn file(&self) -> BlockNode {
        let options = FileOptions {
            create: Create::IfMissing,
            cache: self.cache,
            ..FileOptions::writer(self.workers.clone())
        };
        let driver = FileDriver::open(self.path(), options).await.expect("open");
        self.node("file", driver).await
    }

    async fn node(&self, name: &str, driver: impl BlockDriver) -> BlockNode {
        let builder = NodeBuilder::new(name).cache(self.cache);
        builder.open(&self.handle(), driver).await.expect("a node")
    }
}

/// A test, once through the page cache and once with O_DIRECT, where this machine has it.
fn each_cache(test: impl Fn(Bench)) {
    for cache in [CacheMode::Writeback, CacheMode::None] {
        let bench = Bench::new(cache);
        let probe = FileOptions {
            create: Create::New,
            cache,
            ..FileOptions::writer(bench.workers.clone())
        };
        let probed = bench.run(FileDriver::open(bench.folder.path().join("probe"), probe));
        if !matches!(probed.map(drop), Err(OpenError::DirectRefused { .. })) {
            test(bench);
        }
    }
}

fn user(node: &BlockNode) -> BlockChild {
    node.attach("the test", Permissions::writer())
        .expect("nothing else uses it")
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect()
}

fn vector(bytes: &[u8]) -> IoVector {
    IoVector::copy_of(bytes, 4096).expect("memory")
}

fn room(len: usize) -> ReadVector {
    ReadVector::from(IoBuf::copy_of(&vec![0xEE; len], 4096).expect("memory"))
}

fn joined(vector: ReadVector) -> Vec<u8> {
    vector
        .into_parts()
        .iter()
        .flat_map(|part| part.to_vec())
        .collect()
}

async fn write(node: &BlockNode, at: u64, bytes: &[u8]) -> Result<(), BlockError> {
    node.pwrite(DiskOffset(at), bytes, WriteFlags::default())
        .await
}

async fn read(node: &BlockNode, at: u64, len: usize) -> Result<Vec<u8>, BlockError> {
    let mut bytes = vec![0xEE; len];
    node.pread(DiskOffset(at), &mut bytes).await?;
    Ok(bytes)
}

fn to(len: u64) -> Truncate {
    Truncate {
        len,
        exact: true,
        preallocation: Preallocation::Off,
    }
}
