//! The file driver on real files, through the page cache and past it.

use crate::{assert_conforms, child};
use aio_task::{AioHandle, WorkerPool};
use block_core::CacheMode;
use block_core::test_disk::conformance::{Conformance, Property, Subject};
use block_drivers::{Create, FileDriver, FileOptions, OpenError, RawDriver, RawOptions};
use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::rc::Rc;
use tempfile::TempDir;

const LEN: usize = 128 << 10;

/// A file of its own for each driver. Those of earlier drivers stay until the end.
#[derive(Clone)]
struct Files {
    workers: WorkerPool,
    folders: Rc<RefCell<Vec<TempDir>>>,
    cache: CacheMode,
}

impl Files {
    fn new(cache: CacheMode) -> Self {
        Self {
            workers: WorkerPool::new(NonZeroUsize::new(4).expect("four")),
            folders: Rc::default(),
            cache,
        }
    }

    fn new_path(&self) -> PathBuf {
        // Beside the build: a tmpfs, as /tmp may be, takes O_DIRECT without meaning it.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        std::fs::write(folder.path().join("disk"), vec![0; LEN]).expect("a file");
        self.folders.borrow_mut().push(folder);
        self.last_path()
    }

    fn last_path(&self) -> PathBuf {
        let folders = self.folders.borrow();
        folders.last().expect("a file was made").path().join("disk")
    }

    fn options(&self, read_only: bool) -> FileOptions {
        let options = match read_only {
            true => FileOptions::reader(self.workers.clone()),
            false => FileOptions::writer(self.workers.clone()),
        };
        FileOptions {
            create: Create::Existing,
            cache: self.cache,
            ..options
        }
    }

    async fn open(&self, path: PathBuf, read_only: bool) -> FileDriver {
        FileDriver::open(path, self.options(read_only))
            .await
            .expect("open")
    }

    fn suite(&self) -> Conformance {
        let [fresh, again, read_only] = [self.clone(), self.clone(), self.clone()];
        Conformance::new(async move |_: AioHandle| {
            Subject::new(fresh.open(fresh.new_path(), false).await)
        })
        .reopen(async move |_: AioHandle, _| {
            Subject::new(again.open(again.last_path(), false).await)
        })
        .read_only(async move |_: AioHandle, _| {
            Subject::new(read_only.open(read_only.last_path(), true).await)
        })
    }

    /// True if this machine has this kind of access here.
    fn are_possible(&self) -> bool {
        let context = aio_task::AioContext::new().expect("a context");
        let opened = context.block_on(FileDriver::open(self.new_path(), self.options(false)));
        !matches!(opened.map(drop), Err(OpenError::DirectRefused { .. }))
    }
}

/// What needs a test disk.
const UNCHECKED: [Property; 5] = [
    Property::Errors,
    Property::Short,
    Property::Dropped,
    Property::Flush,
    Property::Fua,
];

#[test]
fn a_file_in_the_page_cache_keeps_the_contract() {
    let report = Files::new(CacheMode::Writeback).suite().run();
    let unchecked = [&[Property::End][..], &UNCHECKED].concat();
    assert_conforms(&report, &unchecked);
}

#[test]
fn a_file_past_the_page_cache_keeps_the_contract() {
    let files = Files::new(CacheMode::None);
    if files.are_possible() {
        assert_conforms(&files.suite().run(), &UNCHECKED);
    }
}

#[test]
fn raw_over_a_file_keeps_the_contract() {
    let files = Files::new(CacheMode::Writeback);
    let fresh = async move |handle: AioHandle| {
        let file = files.open(files.new_path(), false).await;
        let file = child(&handle, file).await;
        let raw = RawDriver::open(file, RawOptions::default()).await;
        Subject::new(raw.expect("all of the file"))
    };
    Conformance::new(fresh).run().assert_clean();
}
