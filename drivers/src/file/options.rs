//! How a file is to be opened.

use aio_task::WorkerPool;
use block_core::{CacheMode, Permissions};

/// What is done about a file that exists, or does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Create {
    /// It must exist.
    #[default]
    Existing,
    /// It is created, empty, if it does not exist.
    IfMissing,
    /// It must not exist (O_EXCL). If opening fails after the file was made, it is removed again.
    New,
    /// It is created if it does not exist, else cut to length 0, once its locks are held.
    Truncate,
}

/// Whether QEMU's locks are taken; QEMU's `locking` option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locking {
    /// Yes; a file system without locks is an error.
    On,
    /// No. No process is kept out, and none keeps us out.
    Off,
    /// Yes, unless the file system has none.
    #[default]
    Auto,
}

/// How [`FileDriver::open`](crate::FileDriver::open) opens a file. Made by [`FileOptions::writer`] or [`FileOptions::reader`]; then
/// single fields are changed.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Opened O_RDONLY; writes are refused.
    pub read_only: bool,
    /// What is done about a file that exists, or does not.
    pub create: Create,
    /// The mode of a created file, before the umask: 0o644, as QEMU does.
    pub mode: u32,
    /// [`CacheMode::None`] opens with O_DIRECT. The rest of the cache mode is the node's business.
    pub cache: CacheMode,
    /// What is done with the file, and what others may do meanwhile. The locks follow from it.
    pub permissions: Permissions,
    /// Whether they are taken.
    pub locking: Locking,
    /// Block devices are allowed. They keep their length, whatever the permissions.
    pub block_device: bool,
    /// Where blocking calls run. One pool can serve any number of files.
    pub workers: WorkerPool,
}

impl FileOptions {
    /// Reads, writes and resizes an existing file through the page cache, with the locks of [`Permissions::writer`].
    pub fn writer(workers: WorkerPool) -> Self {
        Self {
            read_only: false,
            create: Create::Existing,
            mode: 0o644,
            cache: CacheMode::Writeback,
            permissions: Permissions::writer(),
            locking: Locking::Auto,
            block_device: false,
            workers,
        }
    }

    /// Reads an existing file through the page cache, with the locks of [`Permissions::reader`].
    pub fn reader(workers: WorkerPool) -> Self {
        Self {
            read_only: true,
            permissions: Permissions::reader(),
            ..Self::writer(workers)
        }
    }

    /// What is wrong with these options, if anything.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        use block_core::Perms;
        let changes = self.permissions.perm.contains(Perms::WRITE)
            || self.permissions.perm.contains(Perms::RESIZE);
        if self.read_only && changes {
            return Some("opened read-only, with the permission to write or resize");
        }
        if self.read_only && self.create != Create::Existing {
            return Some("opened read-only, and to be created or truncated");
        }
        if self.create == Create::Truncate && !self.permissions.perm.contains(Perms::RESIZE) {
            return Some("to be truncated without the permission to resize");
        }
        None
    }
}
