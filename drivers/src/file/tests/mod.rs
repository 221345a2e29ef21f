//! The file driver by itself, on real files, with each system call made to fail, fall short or wait.

mod close;
mod direct;
mod engine;
mod faults;
mod node;
mod opening;
mod range;
mod shrunk;

use super::fault::{Call, Fault, Script};
use super::*;
use aio_task::AioContext;
use block_core::{CacheMode, IoBuf};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder, a context and one worker: calls come in the order in which they were submitted.
struct Bench {
    context: AioContext,
    workers: WorkerPool,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            context: AioContext::new().expect("a context"),
            workers: WorkerPool::new(NonZeroUsize::MIN),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// The file with `bytes` in it.
    fn with(self, bytes: &[u8]) -> Self {
        std::fs::write(self.path(), bytes).expect("a file");
        self
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).expect("the file")
    }

    fn run<F: Future>(&self, future: F) -> F::Output {
        self.context.block_on(future)
    }

    fn options(&self) -> FileOptions {
        FileOptions::writer(self.workers.clone())
    }

    fn direct_options(&self) -> FileOptions {
        FileOptions {
            cache: CacheMode::None,
            ..self.options()
        }
    }

    /// The file, opened with the faults of `script`.
    fn open(&self, script: &Arc<Script>) -> FileDriver {
        self.try_open(self.options(), script).expect("open")
    }

    fn try_open(
        &self,
        options: FileOptions,
        script: &Arc<Script>,
    ) -> std::result::Result<FileDriver, OpenError> {
        self.run(FileDriver::open_with(&self.path(), options, script.clone()))
    }
}

/// `len` bytes, each different from its neighbours and from those a block further on.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect()
}

fn vector(bytes: &[u8]) -> IoVector {
    IoVector::copy_of(bytes, 4096).expect("memory")
}

/// The bytes in pieces of `piece`.
fn pieces(bytes: &[u8], piece: usize) -> IoVector {
    let mut vector = IoVector::new();
    for part in bytes.chunks(piece) {
        vector.push(IoBuf::copy_of(part, 4096).expect("memory").freeze());
    }
    vector
}

/// Memory full of 0xEE for a read of `len` bytes, in pieces.
fn room(len: usize, piece: usize) -> ReadVector {
    let mut vector = ReadVector::new();
    let mut left = len;
    while left > 0 {
        let len = left.min(piece);
        vector.push(IoBuf::copy_of(&vec![0xEE; len], 4096).expect("memory"));
        left -= len;
    }
    vector
}

fn joined(vector: ReadVector) -> Vec<u8> {
    vector
        .into_parts()
        .iter()
        .flat_map(|part| part.to_vec())
        .collect()
}

async fn write(file: &FileDriver, at: u64, bytes: &[u8]) -> Result<()> {
    file.pwritev(DiskOffset(at), vector(bytes), WriteFlags::default())
        .await
}

/// Reads in one piece.
async fn read(file: &FileDriver, at: u64, len: usize) -> Result<Vec<u8>> {
    let (dst, result) = file.preadv(DiskOffset(at), room(len, len.max(1))).await;
    assert_eq!(dst.len(), len as u64, "the memory comes back");
    result.map(|()| joined(dst))
}

fn errno(raw: rustix::io::Errno) -> Cause {
    Cause::Os(Errno(raw.raw_os_error()))
}
