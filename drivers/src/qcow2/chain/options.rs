//! How a chain is opened, and which files an image may name.

use crate::Locking;
use crate::qcow2::format::name::Name;
use aio_task::WorkerPool;
use block_core::CacheMode;
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

/// How [`open_image`](super::open_image) opens an image. Made by [`ChainOptions::writer`] or [`ChainOptions::reader`]; then single fields are
/// changed.
#[derive(Debug)]
pub struct ChainOptions {
    /// What the top image is.
    pub format: ImageFormat,
    /// The top image is not written to. What is below it never is, except for its data file.
    pub read_only: bool,
    /// Which files an image may name.
    pub permit: Permit,
    /// What is done about a backing file whose format the image does not say.
    pub missing_format: MissingFormat,
    /// Of the top node. All files are opened with O_DIRECT or ignore flushes as it says.
    pub cache: CacheMode,
    /// No task is kept from writing meanwhile, as with `qemu-img -U`. Implies `read_only`.
    pub force_share: bool,
    /// Whether locks are taken.
    pub locking: Locking,
    /// Block devices are allowed.
    pub block_device: bool,
    /// [`Qcow2Options::l2_cache`](crate::qcow2::Qcow2Options::l2_cache) of each image.
    pub l2_cache: u64,
    /// [`Qcow2Options::refcount_cache`](crate::qcow2::Qcow2Options::refcount_cache) of each image.
    pub refcount_cache: u64,
    /// Where blocking calls run, and where compressed clusters are packed and unpacked.
    pub workers: WorkerPool,
}

impl ChainOptions {
    /// Reads and writes a qcow2 image through the page cache. No file that it names is opened.
    pub fn writer(workers: WorkerPool) -> Self {
        Self {
            format: ImageFormat::Qcow2,
            read_only: false,
            permit: Permit::Nothing,
            missing_format: MissingFormat::Refuse,
            cache: CacheMode::Writeback,
            force_share: false,
            locking: Locking::Auto,
            block_device: false,
            l2_cache: 0,
            refcount_cache: 0,
            workers,
        }
    }

    /// The same, for reading.
    pub fn reader(workers: WorkerPool) -> Self {
        Self {
            read_only: true,
            ..Self::writer(workers)
        }
    }

    /// Below the top node nothing is written through: the top's flushes decide.
    pub(crate) fn cache_of_files(&self) -> CacheMode {
        match self.cache {
            CacheMode::Writethrough => CacheMode::Writeback,
            mode => mode,
        }
    }
}

/// A format that a chain may be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageFormat {
    /// [`Qcow2Driver`](crate::qcow2::Qcow2Driver).
    Qcow2,
    /// [`RawDriver`](crate::RawDriver): the file is the disk.
    Raw,
}

impl ImageFormat {
    /// By QEMU's name, as an image has it.
    pub(crate) fn of_name(name: &Name) -> Option<Self> {
        match name.as_os_str().to_str() {
            Some("qcow2") => Some(Self::Qcow2),
            Some("raw") => Some(Self::Raw),
            _ => None,
        }
    }
}

/// What is done about a backing file whose format the image does not say. QEMU looks at its content, and warns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingFormat {
    /// The image is refused.
    #[default]
    Refuse,
    /// It is taken for this.
    Assume(ImageFormat),
    /// It is qcow2 if it begins like that, else raw. Unsafe where a guest could ever write to it as a raw disk: a header that it wrote
    /// would be believed, within what [`Permit`] allows.
    Probe,
}

/// Which files an image may name: its data file and its backing file, and theirs.
#[derive(Default)]
pub enum Permit {
    /// None. Enough for images that stand alone.
    #[default]
    Nothing,
    /// Those that lie in the folder of the image that names them, symbolic links resolved.
    SameFolder,
    /// Any file that this process can open.
    Anything,
    /// Those for which this says yes. Called once for each name, before the file is looked at.
    Each(Box<dyn Fn(&NamedFile<'_>) -> bool>),
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::SameFolder => "SameFolder",
            Self::Anything => "Anything",
            Self::Each(_) => "Each(..)",
        })
    }
}

/// A file that an image names.
#[derive(Clone, Copy, Debug)]
pub struct NamedFile<'a> {
    /// The image, as it was opened.
    pub image: &'a Path,
    /// `backing file` or `data file`.
    pub what: &'static str,
    /// What the image says.
    pub name: &'a OsStr,
    /// The path that will be opened: the name, after the image's folder where it is relative. Symbolic links are not resolved.
    pub path: &'a Path,
}
