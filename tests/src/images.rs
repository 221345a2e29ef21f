//! qcow2 images, made and opened by our drivers.

use std::num::NonZeroUsize;
use std::path::Path;

use aio_task::{AioContext, WorkerPool};
use block_core::{BlockChild, BlockNode, CacheMode, DiskOffset, NodeBuilder, Permissions};
use block_drivers::qcow2::{ChainOptions, CreateOptions, Permit, Qcow2Compressor, Qcow2Driver};
use block_drivers::qcow2::{Qcow2Options, create, open_image};
use block_drivers::{Create, FileDriver, FileOptions};
use vmstate::{LoadOptions, load_snapshot};

/// A context with workers, in which images are opened.
#[derive(Debug)]
pub struct Images {
    context: AioContext,
    workers: WorkerPool,
}

impl Images {
    /// # Panics
    /// If the system has no descriptors left.
    #[allow(clippy::new_without_default, reason = "it takes a descriptor")]
    pub fn new() -> Images {
        Images {
            context: AioContext::new().expect("a context"),
            workers: WorkerPool::new(NonZeroUsize::new(4).expect("four")),
        }
    }

    /// Runs `work` to its end.
    pub fn run<F: Future>(&self, work: F) -> F::Output {
        self.context.block_on(work)
    }

    /// Makes an image at `path`, and its data file where the options name one.
    ///
    /// # Panics
    /// If that fails.
    pub fn create(&self, path: &Path, options: &CreateOptions) {
        self.run(async {
            let file = self.file(path).await;
            let data_file = match &options.data_file {
                Some(data) => Some(self.file(Path::new(&data.file)).await),
                None => None,
            };
            let made = create(&file, data_file.as_ref(), options).await;
            made.unwrap_or_else(|error| panic!("create {path:?} {options:?}: {error}"));
            for child in [Some(file), data_file].into_iter().flatten() {
                child.release().await.expect("the file is closed");
            }
        });
    }

    /// Opens an image for writing, with all that it stands on.
    ///
    /// # Panics
    /// If that fails.
    pub async fn open(&self, path: &Path, cache: CacheMode) -> BlockNode {
        let options = ChainOptions {
            permit: Permit::Anything,
            cache,
            ..ChainOptions::writer(self.workers.clone())
        };
        self.open_with(path, options).await
    }

    /// Opens an image that stands alone, with what writes compressed clusters to it.
    ///
    /// # Panics
    /// If that fails.
    pub async fn open_to_compress(&self, path: &Path) -> (BlockNode, Qcow2Compressor) {
        let options = Qcow2Options {
            workers: Some(self.workers.clone()),
            ..Qcow2Options::default()
        };
        let opened = Qcow2Driver::open(self.file(path).await, options).await;
        let driver = opened.unwrap_or_else(|error| panic!("open: {error}"));
        let compressor = driver.compressor();
        let builder = NodeBuilder::new("compressed");
        let node = builder.open(&self.context.handle(), driver).await;
        (node.expect("a node on the image"), compressor)
    }

    /// Opens an image for reading, with all that it stands on.
    ///
    /// # Panics
    /// If that fails.
    pub async fn open_to_read(&self, path: &Path) -> BlockNode {
        let options = ChainOptions {
            permit: Permit::Anything,
            ..ChainOptions::reader(self.workers.clone())
        };
        self.open_with(path, options).await
    }

    async fn open_with(&self, path: &Path, options: ChainOptions) -> BlockNode {
        let opened = open_image(&self.context.handle(), path, options).await;
        opened.unwrap_or_else(|error| panic!("open: {error}"))
    }

    async fn file(&self, path: &Path) -> BlockChild {
        let options = FileOptions {
            create: Create::IfMissing,
            ..FileOptions::writer(self.workers.clone())
        };
        let opened = FileDriver::open(path, options).await;
        let driver = opened.unwrap_or_else(|error| panic!("open: {error}"));
        let builder = NodeBuilder::new("file");
        let node = builder.open(&self.context.handle(), driver).await;
        let node = node.expect("a node on the file");
        node.attach("create", Permissions::writer())
            .expect("its first user")
    }
}

/// All bytes of a disk.
///
/// # Panics
/// If it cannot be read.
pub async fn contents(node: &BlockNode) -> Vec<u8> {
    let len = node.length().await.expect("a length");
    let mut bytes = vec![0xa5; usize::try_from(len).expect("a small disk")];
    for (at, piece) in (0..).step_by(PIECE).zip(bytes.chunks_mut(PIECE)) {
        let read = node.pread(DiskOffset(at), piece).await;
        read.unwrap_or_else(|error| panic!("read: {error}"));
    }
    bytes
}

const PIECE: usize = 1 << 20;

/// The whole state of a snapshot, and the snapshot's whole disk, both read without going to it.
///
/// # Panics
/// If they cannot be read.
pub async fn state_and_disk(node: &BlockNode, snapshot: &str) -> (Vec<u8>, Vec<u8>) {
    let loaded = load_snapshot(node, snapshot, LoadOptions::default()).await;
    let loaded = loaded.unwrap_or_else(|error| panic!("{snapshot}: {error}"));
    let load = loaded.load();
    let mut state = vec![0xa5; usize::try_from(load.length()).expect("a small state")];
    let mut at = 0;
    while at < state.len() {
        let read = load.read(at as u64, &mut state[at..]).await;
        let read = read.unwrap_or_else(|error| panic!("{snapshot}: {error}"));
        assert_ne!(read, 0, "{snapshot}: the state ends before its length");
        at += read;
    }
    let disk = contents(loaded.view()).await;
    loaded.close().await.expect("the view is closed");
    (state, disk)
}

/// Two disks have the same bytes.
///
/// # Panics
/// If not; with the first byte that differs.
pub fn same_bytes(found: &[u8], wanted: &[u8], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}: length");
    let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
    if let Some(at) = differs {
        let end = found.len().min(at + 16);
        panic!(
            "{what}: byte {at:#x} is {:02x?}..., should be {:02x?}...",
            &found[at..end],
            &wanted[at..end]
        );
    }
}
