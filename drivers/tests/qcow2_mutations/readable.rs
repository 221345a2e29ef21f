//! Everything that can be read of an image: its disk, and the disk and state of each snapshot, piece by piece.

use crate::images::SIZE;
use aio_task::{AioContext, AioHandle};
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{BlockChild, BlockError, BlockNode, DiskOffset, NodeBuilder, Permissions};
use block_core::{VmstateOffset, WriteFlags};
use block_drivers::qcow2::{Qcow2Driver, Qcow2Options};
use std::collections::BTreeMap;

/// Bytes of a piece: the smallest cluster of most images here.
pub(crate) const PIECE: u64 = 4096;

/// An image file in memory.
pub(crate) struct Disk {
    context: AioContext,
    control: TestDiskControl,
    disk: Option<TestDisk>,
}

impl Disk {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let (disk, control) = TestDisk::new(TestDiskOptions {
            grows: true,
            ..TestDiskOptions::default()
        });
        control.set_contents(bytes);
        Self {
            context: AioContext::new().expect("a context"),
            control,
            disk: Some(disk),
        }
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        self.control.contents()
    }

    /// Does `job` with a node on the file. Once only.
    pub(crate) fn with_node<T>(&mut self, job: impl AsyncFnOnce(&BlockNode, &AioHandle) -> T) -> T {
        let disk = self.disk.take().expect("used once");
        let handle = self.context.handle();
        self.context.block_on(async {
            let node = NodeBuilder::new("file").open(&handle, disk).await;
            job(&node.expect("a node"), &handle).await
        })
    }

    /// Does `job` with the file. Once only.
    pub(crate) fn with<T>(&mut self, job: impl AsyncFnOnce(&BlockChild) -> T) -> T {
        self.with_node(async |node, _| {
            let child = node.attach("qcow2", Permissions::writer());
            job(&child.expect("the only user")).await
        })
    }

    /// Opens the image and writes to the second half of its disk, where nothing was written before. What fails is left at that.
    ///
    /// # Errors
    ///
    /// The image could not be opened, written or closed.
    pub(crate) fn write_new_clusters(&mut self) -> Result<(), BlockError> {
        self.with_node(async |file, handle| {
            let image = open(file, handle, false).await?;
            let size = image.length().await?.min(SIZE);
            let mut done = Ok(());
            for at in (SIZE / 2..size.saturating_sub(PIECE)).step_by(3 * PIECE as usize) {
                let bytes = [0xe7; PIECE as usize];
                let written = image.pwrite(DiskOffset(at), &bytes, WriteFlags::default());
                done = done.and(written.await);
            }
            done.and(image.close().await)
        })
    }
}

async fn open(
    file: &BlockNode,
    handle: &AioHandle,
    read_only: bool,
) -> Result<BlockNode, BlockError> {
    let child = file.attach("qcow2", Permissions::writer());
    let options = Qcow2Options {
        read_only,
        ..Qcow2Options::default()
    };
    let driver = Qcow2Driver::open(child.expect("the only user"), options).await?;
    let builder = NodeBuilder::new("image").read_only(read_only);
    builder.open(handle, driver).await
}

/// A piece of what can be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    /// Id and name of the snapshot; `None` for the disk as it is.
    pub(crate) of: Option<(String, String)>,
    /// The snapshot's state, not its disk.
    pub(crate) state: bool,
    pub(crate) at: u64,
}

/// All pieces: what they hold, or that they cannot be read.
#[derive(Debug, Default)]
pub(crate) struct Readable(BTreeMap<Piece, Result<Vec<u8>, BlockError>>);

impl Readable {
    /// # Errors
    ///
    /// The image cannot be opened for reading.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self, BlockError> {
        let mut all = Self::default();
        Disk::new(bytes).with_node(async |file, handle| {
            let image = open(file, handle, true).await?;
            all.disk(&image, None).await;
            let snapshots = image.snapshot_list().await?;
            let mut called: BTreeMap<&str, u32> = BTreeMap::new();
            for snapshot in &snapshots {
                *called.entry(&snapshot.id).or_default() += 1;
                *called.entry(&snapshot.name).or_default() += 1;
            }
            // A damaged number may make tens of thousands of them.
            for (index, snapshot) in snapshots.iter().enumerate().take(8) {
                let text = !snapshot.id.contains(char::REPLACEMENT_CHARACTER);
                if !text || called.get(snapshot.id.as_str()) != Some(&1) {
                    continue; // it is not the only one that this id finds
                }
                let of = Some((snapshot.id.clone(), snapshot.name.clone()));
                match image.snapshot_load_tmp(snapshot.id.clone()).await {
                    Ok(view) => {
                        all.disk(&view, of.clone()).await;
                        all.state(&view, of, snapshot.vmstate_size).await;
                        view.close().await?;
                    }
                    Err(error) => {
                        let at = index as u64;
                        let state = false;
                        all.0.insert(Piece { of, state, at }, Err(error));
                    }
                }
            }
            image.close().await
        })?;
        Ok(all)
    }

    async fn disk(&mut self, node: &BlockNode, of: Option<(String, String)>) {
        let size = node.length().await.unwrap_or(0).min(2 * SIZE);
        for at in (0..size).step_by(PIECE as usize) {
            let mut bytes = vec![0xa5; PIECE.min(size - at) as usize];
            let read = node.pread(DiskOffset(at), &mut bytes).await;
            let (of, state) = (of.clone(), false);
            self.0.insert(Piece { of, state, at }, read.map(|()| bytes));
        }
    }

    async fn state(&mut self, view: &BlockNode, of: Option<(String, String)>, size: u64) {
        let size = size.min(SIZE);
        for at in (0..size).step_by(PIECE as usize) {
            let len = PIECE.min(size - at) as usize;
            let buffer = block_core::IoBuf::zeroed(len, 512).expect("memory");
            let (buffer, read) = view
                .load_vmstate_unbuffered(VmstateOffset(at), buffer.into())
                .await;
            let (of, state) = (of.clone(), true);
            self.0
                .insert(Piece { of, state, at }, read.map(|()| buffer.to_vec()));
        }
    }

    pub(crate) fn pieces(&self) -> u64 {
        self.0.len() as u64
    }

    /// # Panics
    ///
    /// If a piece cannot be read, for another reason than that it is no compressed data.
    pub(crate) fn assert_whole(&self, what: &str) {
        for (piece, read) in &self.0 {
            let Err(error) = read else { continue };
            // A check does not unpack what an entry says is compressed.
            if !error.to_string().contains("compress") {
                panic!("{what}: a check finds nothing, but {piece:?} cannot be read: {error}");
            }
        }
    }

    /// What was read here, and is something else or not to be read there. The second half of the disk may have been written since.
    pub(crate) fn lost_in(&self, other: &Self) -> Vec<Piece> {
        let kept = |piece: &Piece, bytes: &Vec<u8>| match other.0.get(piece) {
            Some(Ok(now)) => now == bytes || piece.of.is_none() && piece.at >= SIZE / 2,
            _ => false,
        };
        let read = self.0.iter().filter_map(|(piece, read)| {
            let bytes = read.as_ref().ok()?;
            (!kept(piece, bytes)).then(|| piece.clone())
        });
        read.collect()
    }
}
