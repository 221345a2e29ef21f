//! Images with backing files and data files, on real files: what is opened, what is refused, and that nothing stays open.

use aio_task::{AioContext, WorkerPool};
use block_core::{BlockNode, CacheMode, Cause, DiskOffset, Errno, NodeBuilder, Permissions};
use block_core::{Perms, WriteFlags};
use block_drivers::qcow2::{Backing, ChainError, ChainOptions, CreateOptions, DataFile};
use block_drivers::qcow2::{
    BackingFile, Qcow2Driver, Qcow2Options, create, open_backing, open_image,
};
use block_drivers::qcow2::{ImageFormat, MAX_CHAIN, MissingFormat, Permit, Qcow2Error};
use block_drivers::{Create, FileDriver, FileOptions, Locking, OpenError};
use std::cell::RefCell;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tempfile::TempDir;

const CLUSTER: usize = 64 << 10;
const SIZE: u64 = 4 * CLUSTER as u64;

struct Bench {
    context: AioContext,
    workers: WorkerPool,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            context: AioContext::new().expect("a context"),
            workers: WorkerPool::new(NonZeroUsize::new(4).expect("four")),
            folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn raw(&self, name: &str, fill: u8) {
        fs::write(self.path(name), vec![fill; SIZE as usize]).expect("a file");
    }

    /// An image called `name` over `backing`.
    fn image(&self, name: &str, backing: &str, format: &str) {
        let backing = (!backing.is_empty()).then(|| Backing {
            file: backing.into(),
            format: format.into(),
        });
        self.make(
            name,
            &CreateOptions {
                size: Some(SIZE),
                backing,
                ..CreateOptions::default()
            },
        );
    }

    fn make(&self, name: &str, options: &CreateOptions) {
        let path = self.path(name);
        self.context.block_on(async {
            let file = self.file(&path).await;
            let child = file.attach("create", Permissions::writer()).expect("free");
            let data = match &options.data_file {
                Some(data) => Some(self.file(&self.folder.path().join(&data.file)).await),
                None => None,
            };
            let data_child = data
                .as_ref()
                .map(|node| node.attach("create", Permissions::writer()).expect("free"));
            let made = create(&child, data_child.as_ref(), options).await;
            made.expect("an image");
            for child in [Some(child), data_child].into_iter().flatten() {
                child.release().await.expect("closed");
            }
        });
    }

    async fn file(&self, path: &Path) -> BlockNode {
        let options = FileOptions {
            create: Create::IfMissing,
            ..FileOptions::writer(self.workers.clone())
        };
        let driver = FileDriver::open(path, options).await.expect("a file");
        let builder = NodeBuilder::new("file");
        let node = builder.open(&self.context.handle(), driver).await;
        node.expect("a node")
    }

    /// The image no longer says what its backing file's format is.
    fn forget_the_format(&self, name: &str) {
        let mut bytes = fs::read(self.path(name)).expect("an image");
        let at = bytes
            .windows(4)
            .position(|word| word == 0xe279_2aca_u32.to_be_bytes())
            .expect("the extension");
        bytes[at..at + 4].copy_from_slice(b"none"); // of a type that is not known, and so kept
        fs::write(self.path(name), bytes).expect("an image");
    }

    fn writer(&self, permit: Permit) -> ChainOptions {
        ChainOptions {
            permit,
            ..ChainOptions::writer(self.workers.clone())
        }
    }

    async fn open(&self, name: &str, options: ChainOptions) -> Result<BlockNode, ChainError> {
        open_image(&self.context.handle(), self.path(name), options).await
    }

    fn refusal(&self, name: &str, options: ChainOptions) -> ChainError {
        let opened = self.context.block_on(self.open(name, options));
        opened.expect_err("an image that must be refused")
    }

    fn first_byte(&self, name: &str, options: ChainOptions) -> u8 {
        self.context.block_on(async {
            let node = self.open(name, options).await.expect("an image");
            let byte = byte(&node, 0).await;
            node.close().await.expect("closed");
            byte
        })
    }

    /// No task has a lock on any file of the folder.
    fn nothing_is_open(&self) {
        for entry in fs::read_dir(self.folder.path()).expect("a folder") {
            let path = entry.expect("an entry").path();
            if !path.is_file() {
                continue;
            }
            let alone = FileOptions {
                permissions: Permissions {
                    perm: Perms::ALL,
                    shared: Perms::NONE,
                },
                ..FileOptions::writer(self.workers.clone())
            };
            let opened = self.context.block_on(FileDriver::open(&path, alone));
            assert!(opened.is_ok(), "{path:?} is still open");
        }
    }
}

async fn byte(node: &BlockNode, at: u64) -> u8 {
    let mut byte = [0xee];
    let read = node.pread(DiskOffset(at), &mut byte).await;
    read.expect("readable");
    byte[0]
}

/// What is denied, and the name in the image.
fn denied(error: &ChainError) -> (&'static str, &str) {
    match error {
        ChainError::Image {
            error: Qcow2Error::Denied { what, path },
            ..
        } => (what, path),
        other => panic!("not denied: {other}"),
    }
}

#[test]
fn a_chain_of_three_is_read_through_and_only_its_top_is_written() {
    let bench = Bench::new();
    bench.raw("base.raw", 7);
    bench.image("mid.qcow2", "base.raw", "raw");
    bench.image("top.qcow2", "mid.qcow2", "qcow2");
    let below = || ["base.raw", "mid.qcow2"].map(|name| fs::read(bench.path(name)).expect("there"));
    let before = below();
    for cache in [CacheMode::Writeback, CacheMode::None] {
        bench.context.block_on(async {
            let options = ChainOptions {
                cache,
                ..bench.writer(Permit::SameFolder)
            };
            let node = bench.open("top.qcow2", options).await.expect("a chain");
            assert_eq!(byte(&node, 0).await, 7);
            let at = DiskOffset(CLUSTER as u64);
            let written = node.pwrite(at, &[9; 5], WriteFlags::default()).await;
            written.expect("written");
            node.close().await.expect("closed");
        });
        bench.nothing_is_open();
    }
    assert!(below() == before, "what is below is as it was");
    bench.context.block_on(async {
        let options = ChainOptions {
            permit: Permit::SameFolder,
            ..ChainOptions::reader(bench.workers.clone())
        };
        let node = bench.open("top.qcow2", options).await.expect("a chain");
        assert_eq!(byte(&node, CLUSTER as u64 + 4).await, 9);
        assert_eq!(
            byte(&node, CLUSTER as u64 + 5).await,
            7,
            "copied from below"
        );
        let refused = node.pwrite(DiskOffset(0), &[1], WriteFlags::default());
        assert_eq!(refused.await.map_err(|e| e.cause), Err(Cause::ReadOnly));
        node.close().await.expect("closed");
    });
}

#[test]
fn no_file_that_an_image_names_is_opened_unless_the_caller_says_so() {
    let bench = Bench::new();
    bench.raw("base.raw", 7);
    bench.image("top.qcow2", "base.raw", "raw");
    let error = bench.refusal("top.qcow2", ChainOptions::writer(bench.workers.clone()));
    assert_eq!(denied(&error), ("backing file", "base.raw"));
    assert_eq!(error.errno(), Errno::PERM);
    assert!(error.to_string().contains("top.qcow2"), "{error}");
    bench.nothing_is_open();
}

/// For a caller that opens the image itself: the chain below it, closed with the driver that gets it.
#[test]
fn what_an_image_stands_on_is_opened_without_the_image() {
    let bench = Bench::new();
    bench.raw("base.raw", 7);
    bench.image("middle.qcow2", "base.raw", "raw");
    bench.image("top.qcow2", "middle.qcow2", "qcow2");
    bench.image("alone.qcow2", "", "");
    bench.image("loop.qcow2", "loop.qcow2", "qcow2");
    let below = async |name: &str, permit| {
        let path = bench.path(name);
        let file = bench.file(&path).await;
        let child = file.attach("image", Permissions::writer()).expect("free");
        let options = bench.writer(permit);
        let opened = open_backing(&bench.context.handle(), &path, &child, options).await;
        (child, opened)
    };
    bench.context.block_on(async {
        let (file, opened) = below("top.qcow2", Permit::SameFolder).await;
        let backing = opened.expect("opened").expect("it names one");
        assert!(backing.is_read_only());
        let options = Qcow2Options {
            backing: BackingFile::Open(backing),
            ..Qcow2Options::default()
        };
        let driver = Qcow2Driver::open(file, options).await.expect("an image");
        let builder = NodeBuilder::new("top");
        let node = builder.open(&bench.context.handle(), driver).await;
        let node = node.expect("a node");
        assert_eq!(byte(&node, 0).await, 7);
        node.close().await.expect("closed");
    });
    bench.nothing_is_open();
    bench.context.block_on(async {
        let (file, opened) = below("alone.qcow2", Permit::Nothing).await;
        assert!(opened.expect("nothing to open").is_none());
        file.release().await.expect("closed");
        let (file, opened) = below("top.qcow2", Permit::Nothing).await;
        let error = opened.expect_err("not permitted");
        assert_eq!(denied(&error), ("backing file", "middle.qcow2"));
        file.release().await.expect("closed");
        let (file, opened) = below("loop.qcow2", Permit::SameFolder).await;
        let error = opened.expect_err("it stands on itself");
        assert!(matches!(error, ChainError::Loop { .. }), "{error}");
        file.release().await.expect("closed");
    });
    bench.nothing_is_open();
}

#[test]
fn the_same_folder_is_the_one_in_which_the_links_end() {
    let bench = Bench::new();
    fs::create_dir(bench.path("in")).expect("a folder");
    bench.raw("outside.raw", 1);
    bench.raw("in/inside.raw", 2);
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(to, bench.path(name)).expect("a link");
    };
    link("../outside.raw", "in/leads-out");
    link("inside.raw", "in/leads-in");
    link("in", "also-in");
    let inside = bench.path("in/inside.raw");
    let inside = inside.to_str().expect("text");
    for name in [
        "inside.raw",
        "leads-in",
        "./inside.raw",
        "../in/inside.raw",
        inside,
    ] {
        bench.image("in/top.qcow2", name, "raw");
        for top in ["in/top.qcow2", "also-in/top.qcow2"] {
            let read = bench.first_byte(top, bench.writer(Permit::SameFolder));
            assert_eq!(read, 2, "{name} of {top}");
        }
    }
    for name in [
        "../outside.raw",
        "leads-out",
        "/etc/passwd",
        "..",
        "/no/such/file",
    ] {
        bench.image("in/top.qcow2", name, "raw");
        let error = bench.refusal("in/top.qcow2", bench.writer(Permit::SameFolder));
        assert_eq!(denied(&error), ("backing file", name));
    }
    bench.image("in/top.qcow2", "leads-out", "raw");
    assert_eq!(
        bench.first_byte("in/top.qcow2", bench.writer(Permit::Anything)),
        1
    );
    bench.image("in/top.qcow2", "missing.raw", "raw");
    let error = bench.refusal("in/top.qcow2", bench.writer(Permit::SameFolder));
    assert!(
        matches!(&error, ChainError::File(OpenError::Os { path, errno, .. })
            if *errno == Errno::NOENT && path.ends_with("in/missing.raw")),
        "{error}"
    );
    bench.nothing_is_open();
}

#[test]
fn the_caller_is_asked_for_each_file_with_its_image_and_its_path() {
    let bench = Bench::new();
    bench.raw("base.raw", 7);
    bench.image("mid.qcow2", "base.raw", "raw");
    bench.image("top.qcow2", "mid.qcow2", "qcow2");
    let asked = Rc::new(RefCell::new(Vec::new()));
    let permit = |yes: &'static str| {
        let asked = asked.clone();
        Permit::Each(Box::new(move |file| {
            let image = file
                .image
                .file_name()
                .map(|n| n.to_string_lossy().into_owned());
            let name = file.name.to_string_lossy().into_owned();
            assert_eq!(file.path.file_name(), Some(file.name));
            asked
                .borrow_mut()
                .push((image.unwrap_or_default(), file.what, name));
            file.name == yes || yes == "all"
        }))
    };
    assert_eq!(
        bench.first_byte("top.qcow2", bench.writer(permit("all"))),
        7
    );
    let question = |image: &str, name: &str| (image.to_owned(), "backing file", name.to_owned());
    assert_eq!(
        asked.take(),
        [
            question("top.qcow2", "mid.qcow2"),
            question("mid.qcow2", "base.raw")
        ]
    );
    let error = bench.refusal("top.qcow2", bench.writer(permit("mid.qcow2")));
    assert_eq!(denied(&error), ("backing file", "base.raw"));
    assert!(error.to_string().contains("mid.qcow2"), "{error}");
    bench.nothing_is_open();
}

#[test]
fn names_that_are_protocols_are_refused_by_name() {
    let bench = Bench::new();
    let names = [
        r#"json:{"driver":"file","filename":"base.raw"}"#,
        "nbd://localhost:10809/disk",
        "file:base.raw",
        "https://example.org/a/b",
    ];
    for name in names {
        bench.image("top.qcow2", name, "raw");
        match bench.refusal("top.qcow2", bench.writer(Permit::Anything)) {
            ChainError::NoFile { name: found, .. } => assert_eq!(found, name),
            other => panic!("{name}: {other}"),
        }
    }
    // A colon after a slash is part of a file's name.
    bench.raw("a:b", 3);
    bench.image("top.qcow2", "./a:b", "raw");
    assert_eq!(
        bench.first_byte("top.qcow2", bench.writer(Permit::SameFolder)),
        3
    );
}

#[test]
fn a_backing_file_of_no_known_format_is_refused_unless_the_caller_says_what_it_is() {
    let bench = Bench::new();
    bench.raw("base.raw", 7);
    bench.image("mid.qcow2", "base.raw", "raw");
    bench.image("top.qcow2", "mid.qcow2", "qcow2");
    bench.forget_the_format("mid.qcow2");
    bench.forget_the_format("top.qcow2");
    let opened_with = |missing_format| ChainOptions {
        missing_format,
        ..bench.writer(Permit::SameFolder)
    };
    let error = bench.refusal("top.qcow2", opened_with(MissingFormat::Refuse));
    assert!(
        matches!(&error, ChainError::NoFormat { name, .. } if name == "mid.qcow2"),
        "{error}"
    );
    assert_eq!(
        bench.first_byte("top.qcow2", opened_with(MissingFormat::Probe)),
        7
    );
    let raw = MissingFormat::Assume(ImageFormat::Raw);
    assert_eq!(
        bench.first_byte("top.qcow2", opened_with(raw)),
        b'Q',
        "the header's magic"
    );
    let qcow2 = MissingFormat::Assume(ImageFormat::Qcow2);
    match bench.refusal("top.qcow2", opened_with(qcow2)) {
        ChainError::Image { path, error } => {
            assert!(path.ends_with("base.raw"), "{path:?}");
            assert_eq!(error, Qcow2Error::BadMagic { found: 0x0707_0707 });
        }
        other => panic!("{other}"),
    }
    bench.image("other.qcow2", "base.raw", "vmdk");
    let error = bench.refusal("other.qcow2", opened_with(MissingFormat::Probe));
    assert!(
        matches!(&error, ChainError::Format { format, .. } if format == "vmdk"),
        "{error}"
    );
    bench.nothing_is_open();
}

#[test]
fn an_image_that_stands_on_itself_is_refused_whatever_its_names() {
    let bench = Bench::new();
    bench.image("self.qcow2", "self.qcow2", "qcow2");
    bench.image("a.qcow2", "b.qcow2", "qcow2");
    bench.image("b.qcow2", "also-a.qcow2", "qcow2");
    fs::hard_link(bench.path("a.qcow2"), bench.path("also-a.qcow2")).expect("a link");
    for (top, twice) in [("self.qcow2", "self.qcow2"), ("a.qcow2", "also-a.qcow2")] {
        let error = bench.refusal(top, bench.writer(Permit::SameFolder));
        assert!(
            matches!(&error, ChainError::Loop { path } if path.ends_with(twice)),
            "{error}"
        );
    }
    bench.nothing_is_open();
}

#[test]
fn the_longest_chain_is_read_to_its_end_and_a_longer_one_is_refused() {
    let bench = Bench::new();
    bench.raw("0", 7);
    for level in 1..=MAX_CHAIN {
        let below = (level - 1).to_string();
        bench.image(
            &level.to_string(),
            &below,
            if level == 1 { "raw" } else { "qcow2" },
        );
    }
    let longest = (MAX_CHAIN - 1).to_string();
    assert_eq!(
        bench.first_byte(&longest, bench.writer(Permit::SameFolder)),
        7
    );
    let too_long = MAX_CHAIN.to_string();
    let error = bench.refusal(&too_long, bench.writer(Permit::SameFolder));
    assert!(
        matches!(&error, ChainError::TooLong { path, .. } if path.ends_with("0")),
        "{error}"
    );
    bench.nothing_is_open();
}

#[test]
fn the_data_file_is_opened_where_it_is_permitted_and_its_name_is_relative_to_the_image() {
    let bench = Bench::new();
    let options = CreateOptions {
        size: Some(SIZE),
        data_file: Some(DataFile {
            file: "data.raw".into(),
            raw: true,
        }),
        ..CreateOptions::default()
    };
    bench.make("top.qcow2", &options);
    let error = bench.refusal("top.qcow2", bench.writer(Permit::Nothing));
    assert_eq!(denied(&error), ("data file", "data.raw"));
    bench.context.block_on(async {
        let options = bench.writer(Permit::SameFolder);
        let node = bench.open("top.qcow2", options).await.expect("an image");
        let written = node.pwrite(DiskOffset(3), b"hello", WriteFlags::default());
        written.await.expect("written");
        node.close().await.expect("closed");
    });
    let data = fs::read(bench.path("data.raw")).expect("the data file");
    assert_eq!(&data[..9], b"\0\0\0hello\0");
    bench.nothing_is_open();
}

#[test]
fn a_data_file_that_is_an_image_of_the_chain_is_refused_whether_or_not_files_are_locked() {
    let bench = Bench::new();
    let with_data = |data: &str| CreateOptions {
        size: Some(SIZE),
        data_file: Some(DataFile {
            file: data.into(),
            raw: false,
        }),
        ..CreateOptions::default()
    };
    bench.make("self.qcow2", &with_data("data.raw"));
    fs::remove_file(bench.path("data.raw")).expect("the data file");
    fs::hard_link(bench.path("self.qcow2"), bench.path("data.raw")).expect("a link");
    let before = fs::read(bench.path("self.qcow2")).expect("the image");
    for locking in [Locking::On, Locking::Off] {
        let options = ChainOptions {
            locking,
            ..bench.writer(Permit::SameFolder)
        };
        let error = bench.refusal("self.qcow2", options);
        assert!(
            matches!(&error, ChainError::Loop { path } if path.ends_with("data.raw")),
            "{error}"
        );
    }
    assert_eq!(
        fs::read(bench.path("self.qcow2")).expect("the image"),
        before
    );
    bench.nothing_is_open();
}

#[test]
fn what_is_below_may_be_read_by_others_meanwhile_but_not_written() {
    let bench = Bench::new();
    bench.image("base.qcow2", "", "");
    bench.image("one.qcow2", "base.qcow2", "qcow2");
    bench.image("two.qcow2", "base.qcow2", "qcow2");
    let one = bench
        .context
        .block_on(bench.open("one.qcow2", bench.writer(Permit::SameFolder)));
    let one = one.expect("an image");
    assert_eq!(
        bench.first_byte("two.qcow2", bench.writer(Permit::SameFolder)),
        0
    );
    let error = bench.refusal("base.qcow2", bench.writer(Permit::Nothing));
    assert!(
        matches!(&error, ChainError::File(OpenError::Locked { path, .. }) if path.ends_with("base.qcow2")),
        "{error}"
    );
    bench.context.block_on(one.close()).expect("closed");
    assert_eq!(
        bench.first_byte("base.qcow2", bench.writer(Permit::Nothing)),
        0
    );
    // Once more with the writer first; he who shares everything is not kept out.
    let base = bench
        .context
        .block_on(bench.open("base.qcow2", bench.writer(Permit::Nothing)));
    let base = base.expect("an image");
    let error = bench.refusal("one.qcow2", bench.writer(Permit::SameFolder));
    assert!(
        matches!(&error, ChainError::File(OpenError::Locked { path, .. }) if path.ends_with("base.qcow2")),
        "{error}"
    );
    let shared = ChainOptions {
        permit: Permit::SameFolder,
        force_share: true,
        ..ChainOptions::reader(bench.workers.clone())
    };
    assert_eq!(bench.first_byte("one.qcow2", shared), 0);
    bench.context.block_on(base.close()).expect("closed");
    bench.nothing_is_open();
}
