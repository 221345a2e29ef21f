//! `file`: a file of the host, through worker threads. QEMU's `block/file-posix.c` with `aio=threads`.
//!
//! ```text
//!   context's thread                      worker thread
//!   ----------------                      -------------
//!   request (owns its memory)
//!     job = file + memory ------------->  preadv / pwritev ... until all is moved
//!     (future waits, or is dropped)       lets go of the file and of a write's memory
//!     result, a read's memory <---------  completes
//! ```
//!
//! A job owns the file and the memory until its system calls are over. So a future of this driver may be dropped at any await: the I/O
//! runs on, the memory stays, and the file is closed (and unlocked) by its last user.

mod direct_io;
mod error;
mod known;
mod open;
mod opened;
mod options;
mod probe_direct;
mod range;
mod sys;
pub(crate) mod transfer;

#[cfg(test)]
mod fault;
#[cfg(test)]
mod tests;

pub use direct_io::DirectIo;
pub use error::{FileKind, OpenError, OpenStep};
pub use options::{Create, FileOptions, Locking};

use aio_task::edge::Arc;
use aio_task::{JobError, WorkerPool};
use block_core::{
    BlockDriver, BlockError, BlockLimits, BlockStatus, Cause, DiskOffset, Errno, IoVector, Op,
    Perms, Preallocation, RangeLimits, ReadVector, Result, Truncate, WriteFlags, ZeroFlags,
};
use known::KnownLength;
use opened::Opened;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::Path;
use sys::{Os, Sys};

/// A file of the host. It has no vmstate area: savevm over it is "not supported".
///
/// Every call runs in a worker thread, and the context's thread never blocks. Dropping the future of a call lets the call run on; its
/// memory and the file stay alive until it is over.
///
/// [`BlockDriver::close`] closes the file in a worker, and the locks are gone when it returns. Dropping an unclosed driver that no call
/// uses any more unlocks at once and closes later; if calls still run, the last of them closes and so unlocks.
pub struct FileDriver {
    /// `None` once closed.
    file: RefCell<Option<Arc<Opened>>>,
    workers: WorkerPool,
    /// The file system can neither zero nor punch; set by the first call that found out, so that the others need not ask.
    zeroes_refused: Cell<bool>,
    /// The same of discard.
    discard_refused: Cell<bool>,
    /// A sync of cached bytes has failed. Set once: the kernel tells it once, and takes the lost pages for clean from then on. QEMU's
    /// `page_cache_inconsistent`.
    sync_failed: Cell<Option<Errno>>,
    /// The length that the file cannot lose without another process's doing.
    known: KnownLength,
    facts: Facts,
}

/// What was found when the file was opened, for answers that need no system call.
#[derive(Clone, Copy, Debug)]
struct Facts {
    direct: DirectIo,
    range_alignment: u32,
    locked: bool,
    read_only: bool,
    kind: FileKind,
    perm: Perms,
    identity: (u64, u64),
}

impl std::fmt::Debug for FileDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileDriver")
            .field("facts", &self.facts)
            .field("closed", &self.file.borrow().is_none())
            .field("sync_failed", &self.sync_failed.get())
            .finish_non_exhaustive()
    }
}

impl FileDriver {
    /// Opens `path` in a worker thread: `raw_open_common`. Symbolic links are followed.
    ///
    /// Directories, FIFOs, sockets and devices are refused by name. The locks are taken before anything is read or cut. Dropping the
    /// future lets the worker finish; the file is closed then, and one that [`Create::New`] made stays.
    pub async fn open(
        path: impl AsRef<Path>,
        options: FileOptions,
    ) -> std::result::Result<Self, OpenError> {
        Self::open_with(path.as_ref(), options, Arc::new(Os)).await
    }

    /// Takes over an open file, which must be readable, and writable unless `options.read_only`. `options.create` may not ask for
    /// anything but an existing file. Locks and O_DIRECT belong to the open file description: duplicates of the descriptor share them,
    /// and lose the locks when the driver ends.
    pub async fn from_file(
        file: File,
        options: FileOptions,
    ) -> std::result::Result<Self, OpenError> {
        Self::adopt_with(file, options, Arc::new(Os)).await
    }

    /// How the file is accessed.
    pub fn direct(&self) -> DirectIo {
        self.facts.direct
    }

    /// True if QEMU's locks were taken when the file was opened.
    pub fn is_locked(&self) -> bool {
        self.facts.locked
    }

    /// A regular file or a block device.
    pub fn kind(&self) -> FileKind {
        self.facts.kind
    }

    /// The numbers of the file's device and inode: those of the file that is open, and locked, whatever its path leads to by now.
    pub fn identity(&self) -> (u64, u64) {
        self.facts.identity
    }

    async fn open_with(
        path: &Path,
        options: FileOptions,
        sys: Arc<dyn Sys>,
    ) -> std::result::Result<Self, OpenError> {
        let owned = path.to_path_buf();
        Self::start(path, options, move |options| {
            open::open(&owned, options, sys)
        })
        .await
    }

    async fn adopt_with(
        file: File,
        options: FileOptions,
        sys: Arc<dyn Sys>,
    ) -> std::result::Result<Self, OpenError> {
        // For messages only.
        let path = Path::new("(open file)");
        if options.create != Create::Existing {
            let reason = "to be created or truncated, though it is open already";
            return Err(OpenError::Options {
                path: path.into(),
                reason,
            });
        }
        Self::start(path, options, move |options| {
            open::adopt(file, path, options, sys)
        })
        .await
    }

    async fn start(
        path: &Path,
        options: FileOptions,
        job: impl FnOnce(&FileOptions) -> std::result::Result<Opened, OpenError> + Send + 'static,
    ) -> std::result::Result<Self, OpenError> {
        let workers = options.workers.clone();
        let opened = match workers.run(move || job(&options)).await {
            Ok(opened) => opened?,
            Err(error) => {
                return Err(OpenError::Workers {
                    path: path.into(),
                    cause: job_cause(error),
                });
            }
        };
        let facts = Facts {
            direct: opened.direct,
            range_alignment: opened.range_alignment,
            locked: opened.locked,
            read_only: opened.read_only,
            kind: opened.kind,
            perm: opened.permissions.perm,
            identity: opened.identity,
        };
        let known = KnownLength::new(opened.length);
        Ok(Self {
            file: RefCell::new(Some(Arc::new(opened))),
            workers,
            zeroes_refused: Cell::new(false),
            discard_refused: Cell::new(false),
            sync_failed: Cell::new(None),
            known,
            facts,
        })
    }

    /// Runs a job on the file. The job is submitted before this first waits.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Opened) -> T + Send + 'static,
    ) -> std::result::Result<T, Cause> {
        let Some(file) = self.file.borrow().clone() else {
            return Err(Cause::Closed);
        };
        let job = self.workers.run(move || {
            let result = job(&file);
            // Before the result is told: any task that gets it may rely on the file being used by nothing else.
            drop(file);
            result
        });
        job.await.map_err(job_cause)
    }

    /// As [`FileDriver::run`], for jobs whose only result is success.
    async fn call<T: Send + 'static>(
        &self,
        (op, at, len): (Op, u64, u64),
        job: impl FnOnce(&Opened) -> std::result::Result<T, Cause> + Send + 'static,
    ) -> Result<T> {
        let result = self.run(job).await.and_then(|result| result);
        result.map_err(|cause| BlockError::new(op, at, len, cause))
    }

    /// Makes all finished writes stable. A failure sticks, unless there is no page cache between us and the disk.
    async fn sync(&self, op: (Op, u64, u64)) -> Result<()> {
        if let Some(errno) = self.sync_failed.get() {
            return Err(BlockError::new(op.0, op.1, op.2, Cause::Os(errno)));
        }
        let result = self.call(op, Opened::sync).await;
        self.note_sync(&result);
        result
    }

    fn note_sync(&self, result: &Result<()>) {
        if let Err(BlockError {
            cause: Cause::Os(errno),
            ..
        }) = result
            && !matches!(self.facts.direct, DirectIo::Direct { .. })
        {
            self.sync_failed.set(Some(*errno));
        }
    }

    /// Refuses a change of the content or, with [`Perms::RESIZE`], of the length.
    fn may(&self, permission: Perms, op: (Op, u64, u64)) -> Result<()> {
        let cause = if self.facts.read_only {
            Cause::ReadOnly
        } else if !self.facts.perm.contains(permission) {
            let name = Perms::EACH
                .iter()
                .find(|(_, each, _)| permission.contains(*each));
            Cause::NoPermission {
                permission: name.map_or("none", |(.., name)| name),
            }
        } else {
            return Ok(());
        };
        Err(BlockError::new(op.0, op.1, op.2, cause))
    }
}

impl BlockDriver for FileDriver {
    fn format_name(&self) -> &'static str {
        "file"
    }

    fn limits(&self) -> BlockLimits {
        let request_alignment = self.facts.direct.request_alignment();
        let range = RangeLimits {
            alignment: self.facts.range_alignment,
            max: None,
        };
        BlockLimits {
            request_alignment,
            memory_alignment: self.facts.direct.memory_alignment(),
            transfer_alignment: request_alignment,
            write_zeroes: range,
            discard: range,
            ..BlockLimits::default()
        }
    }

    fn supports_fua(&self) -> bool {
        true
    }

    fn grows(&self) -> bool {
        !self.facts.read_only
            && self.facts.kind == FileKind::Regular
            && self.facts.perm.contains(Perms::RESIZE)
    }

    /// # Errors
    /// [`Cause::Shrunk`] if another process has made the file shorter than it was at open or than this driver has made it since.
    async fn length(&self) -> Result<u64> {
        let (op, known) = ((Op::Length, 0, 0), self.known.look());
        let length = self.call(op, Opened::size).await?;
        let complete = self.known.check(known, 0, u64::MAX, length);
        complete.map_err(|cause| BlockError::new(op.0, op.1, op.2, cause))?;
        Ok(length)
    }

    /// Bytes past the end of the file read as zeroes, as in QEMU, but only past the length that the file had at open, as raised by
    /// this driver's own growth and lowered by its own truncates.
    ///
    /// The memory is lost only if the job panicked, or the worker threads were shut down.
    ///
    /// # Errors
    /// [`Cause::Shrunk`] if the file ends before that length and inside the request.
    async fn preadv(&self, at: DiskOffset, mut dst: ReadVector) -> (ReadVector, Result<()>) {
        let len = dst.len();
        if self.file.borrow().is_none() {
            return (
                dst,
                Err(BlockError::new(Op::Read, at.0, len, Cause::Closed)),
            );
        }
        let known = self.known.look();
        let job = self.run(move |file| {
            let result = transfer::read(file, at.0, &mut dst);
            (dst, result)
        });
        let (dst, result) = match job.await {
            Ok((dst, result)) => (dst, result),
            // The memory went with the job.
            Err(cause) => (ReadVector::new(), Err(cause)),
        };
        let result = result.and_then(|end| match end {
            Some(end) => self.known.check(known, at.0, len, end),
            None => Ok(()),
        });
        (
            dst,
            result.map_err(|cause| BlockError::new(Op::Read, at.0, len, cause)),
        )
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        let op = (Op::Write, at.0, src.len());
        self.may(Perms::WRITE, op)?;
        let known = self.known.look();
        let write = self.call(op, move |file| {
            let result = transfer::write(file, at.0, &src, flags.fua);
            // Before the result is told: the caller may then use the memory again.
            drop(src);
            result
        });
        let sync_after = write.await?;
        self.known.grew_to(known, op.1.saturating_add(op.2));
        if sync_after {
            self.sync(op).await
        } else {
            Ok(())
        }
    }

    async fn flush(&self) -> Result<()> {
        if self.facts.read_only {
            return Ok(());
        }
        self.sync((Op::Flush, 0, 0)).await
    }

    async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        let op = (Op::WriteZeroes, at.0, len);
        self.may(Perms::WRITE, op)?;
        if self.zeroes_refused.get() {
            return Err(BlockError::new(op.0, op.1, op.2, Cause::NotSupported));
        }
        let known = self.known.look();
        let job = move |file: &Opened| range::write_zeroes(file, at.0, len, flags.may_unmap);
        let result = self.call(op, job).await;
        remember_refusal(&self.zeroes_refused, &result);
        result?;
        self.known.grew_to(known, at.0.saturating_add(len));
        if flags.fua {
            self.sync(op).await
        } else {
            Ok(())
        }
    }

    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        let op = (Op::Discard, at.0, len);
        self.may(Perms::WRITE, op)?;
        if self.discard_refused.get() {
            return Err(BlockError::new(op.0, op.1, op.2, Cause::NotSupported));
        }
        let result = self
            .call(op, move |file| range::discard(file, at.0, len))
            .await;
        remember_refusal(&self.discard_refused, &result);
        result
    }

    async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        let (op, known) = ((Op::BlockStatus, at.0, len), self.known.look());
        let job = move |file: &Opened| range::block_status(file, at.0, len);
        let (status, end) = self.call(op, job).await?;
        if let Some(end) = end {
            let complete = self.known.check(known, at.0, len, end);
            complete.map_err(|cause| BlockError::new(op.0, op.1, op.2, cause))?;
        }
        Ok(status)
    }

    async fn truncate(&self, to: Truncate) -> Result<()> {
        let op = (Op::Truncate, to.len, 0);
        self.may(Perms::RESIZE, op)?;
        let known = self.known.begin_truncate(to.len);
        let result = self.call(op, move |file| range::truncate(file, to)).await;
        self.known.end_truncate(known, to.len, result.is_ok());
        // Of the errors of full preallocation, this one may have been that of its sync.
        if to.preallocation == Preallocation::Full
            && matches!(
                &result,
                Err(BlockError {
                    cause: Cause::Os(Errno::IO),
                    ..
                })
            )
        {
            self.note_sync(&result);
        }
        result
    }

    async fn close(&self) -> Result<()> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let closed = self.workers.run(move || drop(file)).await;
        closed.map_err(|error| BlockError::new(Op::Close, 0, 0, job_cause(error)))
    }
}

impl Drop for FileDriver {
    fn drop(&mut self) {
        // With calls in flight, the last of them closes the file.
        let Some(mut file) = self.file.take().and_then(Arc::into_inner) else {
            return;
        };
        file.unlock();
        // Closing may wait for the disk. A pool that is shut down drops the job, and with it the file, right here.
        drop(self.workers.run(move || drop(file)));
    }
}

fn remember_refusal(refused: &Cell<bool>, result: &Result<()>) {
    if matches!(
        result,
        Err(BlockError {
            cause: Cause::NotSupported,
            ..
        })
    ) {
        refused.set(true);
    }
}

fn os(errno: rustix::io::Errno) -> Cause {
    Cause::Os(Errno(errno.raw_os_error()))
}

/// As [`os`]; what says that the file system cannot do it is [`Cause::NotSupported`] (QEMU's `translate_err`).
fn not_supported_or(errno: rustix::io::Errno) -> Cause {
    use rustix::io::Errno as E;
    match errno {
        E::OPNOTSUPP | E::NOSYS | E::NODEV | E::NOTTY => Cause::NotSupported,
        errno => os(errno),
    }
}

fn job_cause(error: JobError) -> Cause {
    match error {
        JobError::Panicked(_) => Cause::Panicked,
        JobError::Spawn(error) => Cause::Os(Errno(error.raw_os_error().unwrap_or(Errno::AGAIN.0))),
        JobError::Refused => Cause::Driver("the worker threads were shut down".into()),
        _ => Cause::Driver("the worker threads lost the job".into()),
    }
}
