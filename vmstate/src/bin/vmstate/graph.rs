//! The nodes: a vmstate-file or a qcow2 image over a file, with counters between the nodes and their drivers.
use crate::args::Engine;
use crate::context::Cx;
use crate::counting::{Counting, Counts};
use crate::failure::Failure;
use crate::magic;
use block_core::{BlockChild, BlockNode, CacheMode, Cause, NodeBuilder, Permissions};
use block_drivers::qcow2::{self, BackingFile, ChainError, ChainOptions, ImageInfo, Permit};
use block_drivers::qcow2::{Qcow2Driver, Qcow2Error, Qcow2Options, Table};
use block_drivers::{Create, DirectIo, FileDriver, FileOptions, OpenError, VmstateFileDriver};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It must not exist; nothing else may write it.
    Create,
    /// It must exist; nothing else may write it.
    Change,
    /// No task may write it meanwhile.
    Read,
    /// Whatever others do.
    ReadShared,
}

impl Purpose {
    /// Of a command that only reads.
    pub(crate) fn reading(force_share: bool) -> Self {
        match force_share {
            true => Self::ReadShared,
            false => Self::Read,
        }
    }

    fn permissions(self) -> Permissions {
        match self {
            Self::Create | Self::Change => Permissions::writer(),
            Self::Read => Permissions::reader(),
            Self::ReadShared => Permissions::force_share(),
        }
    }

    fn is_read_only(self) -> bool {
        matches!(self, Self::Read | Self::ReadShared)
    }
}

/// An open file of the host.
pub(crate) struct HostFile {
    node: BlockNode,
    purpose: Purpose,
    cache: CacheMode,
    /// Requests that reached the file's driver.
    pub(crate) counts: Rc<Counts>,
    /// Whether the page cache is bypassed.
    direct: DirectIo,
    path: PathBuf,
    /// Of the open file.
    identity: Identity,
    /// As the user calls it.
    shown: PathBuf,
}

/// What makes a file the same file: the numbers of its device and inode.
pub(crate) type Identity = (u64, u64);

pub(crate) fn identity(found: &Metadata) -> Identity {
    (found.dev(), found.ino())
}

impl HostFile {
    /// Opens and locks the file at `path`, which the user calls `shown`.
    pub(crate) async fn open(
        cx: &Cx,
        path: &Path,
        shown: &Path,
        direct: bool,
        purpose: Purpose,
    ) -> Result<Self, Failure> {
        let cache = match direct {
            true => CacheMode::None,
            false => CacheMode::Writeback,
        };
        let mut options = match purpose.is_read_only() {
            true => FileOptions::reader(cx.workers.clone()),
            false => FileOptions::writer(cx.workers.clone()),
        };
        options.cache = cache;
        options.permissions = purpose.permissions();
        if purpose == Purpose::Create {
            options.create = Create::New;
            options.mode = 0o600; // a machine's memory is private
        }
        let driver = FileDriver::open(path, options)
            .await
            .map_err(|e| open_failure(shown, &e))?;
        let (direct, identity) = (driver.direct(), driver.identity());
        let counts = Rc::new(Counts::default());
        let node = NodeBuilder::new("file")
            .cache(cache)
            .read_only(purpose.is_read_only())
            .open(&cx.handle, Counting::new(driver, &counts))
            .await
            .map_err(|e| Failure::block(shown.display(), &e))?;
        Ok(Self {
            node,
            purpose,
            cache,
            counts,
            direct,
            path: path.to_path_buf(),
            identity,
            shown: shown.to_path_buf(),
        })
    }

    /// Fails if the path leads to another file than the open one by now, or to none: what is done to this file no one will find there.
    pub(crate) async fn check_place(
        &self,
        cx: &Cx,
        operation: &'static str,
    ) -> Result<(), Failure> {
        let path = self.path.clone();
        let shown = self.shown.display();
        match cx.blocking(move || fs::metadata(path)).await? {
            Ok(found) if identity(&found) == self.identity => Ok(()),
            Ok(_) => {
                let why = "another file has taken its place";
                Err(Failure::new(shown, operation, why))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = "it was removed or renamed meanwhile";
                Err(Failure::new(shown, operation, why))
            }
            Err(error) => Err(Failure::io(shown, "stat", &error)),
        }
    }

    /// The format of the image in the open file, if it is one.
    pub(crate) async fn image_format(&self, cx: &Cx) -> Result<Option<&'static str>, Failure> {
        let (path, expected) = (self.path.clone(), self.identity);
        // Not by the node: these are no requests of the command.
        let look = move || -> io::Result<_> {
            let file = File::open(path)?;
            match identity(&file.metadata()?) == expected {
                true => magic::image_format_of(&file),
                false => Err(io::Error::other("another file has taken its place")),
            }
        };
        let found = cx.blocking(look).await?;
        found.map_err(|e| Failure::io(self.shown.display(), "read", &e))
    }

    /// Takes the file's permissions for `who`.
    pub(crate) fn attach(&self, who: &'static str) -> Result<BlockChild, Failure> {
        let attached = self.node.attach(who, self.purpose.permissions());
        attached.map_err(|e| Failure::block(self.shown.display(), &e))
    }

    /// A node on top of it.
    fn builder(&self, name: &'static str) -> NodeBuilder {
        NodeBuilder::new(name)
            .cache(self.cache)
            .read_only(self.purpose.is_read_only())
    }

    /// Closes the node and lets go of the lock.
    pub(crate) async fn close(&self) -> Result<(), Failure> {
        let closed = self.node.close().await;
        closed.map_err(|e| Failure::block(self.shown.display(), &e))
    }

    /// How the file is accessed, in a word.
    pub(crate) fn access(&self) -> String {
        match self.direct {
            DirectIo::Off => "cached".to_owned(),
            DirectIo::Direct {
                request_alignment, ..
            } => format!("direct, {request_alignment} B"),
            DirectIo::AcceptedNotDirect => "O_DIRECT accepted, not direct".to_owned(),
        }
    }
}

/// What a change of an image that came to nothing leaves, as far as the image's users are concerned.
pub(crate) const AS_IT_WAS: &str = "the image has the snapshots and the content that it had";

/// What a step that failed after the change leaves.
pub(crate) const LEAKS: &str = "clusters that nothing uses and COPIED flags that are not exact may be left, and check --repair leaks mends both";

/// What an open for writing has done to an image that was not closed.
const REPAIRED: &str = "its last user had not closed it, and it was repaired";

/// What an operation on the snapshots leaves that failed with `cause`; `verb`: what the snapshot was to be.
pub(crate) fn left(cause: &Cause, verb: &str) -> String {
    match cause {
        Cause::Done { .. } => format!("the snapshot is {verb}; {LEAKS}"),
        cause if is_unsure(cause) => format!(
            "the image is in order, and has either the snapshots and the content that it had, or the snapshot is {verb}: list tells which, once the disk is in order; {LEAKS}"
        ),
        Cause::Leaked { .. } => format!("{AS_IT_WAS}, and {LEAKS}"),
        _ => AS_IT_WAS.to_owned(),
    }
}

fn is_unsure(cause: &Cause) -> bool {
    match cause {
        Cause::Unsure { .. } => true,
        Cause::Leaked { cause, .. } => is_unsure(cause),
        _ => false,
    }
}

/// An open file that holds a state, or an image that can.
pub(crate) struct Graph {
    /// The node whose driver holds the state.
    pub(crate) state: BlockNode,
    pub(crate) file: HostFile,
    /// What was asked of an image's driver; `None` for a file that is the state.
    pub(crate) image: Option<Rc<Counts>>,
    /// The image was dirty, and its open has repaired it.
    repaired: bool,
}

impl Graph {
    /// A file that is the state.
    pub(crate) async fn open_state(
        cx: &Cx,
        path: &Path,
        shown: &Path,
        engine: &Engine,
        purpose: Purpose,
    ) -> Result<Self, Failure> {
        let file = HostFile::open(cx, path, shown, engine.direct, purpose).await?;
        let driver = VmstateFileDriver::new(file.attach("vmstate-file")?);
        let state = file.builder("state").open(&cx.handle, driver).await;
        let state = state.map_err(|e| Failure::block(shown.display(), &e))?;
        Ok(Self {
            state,
            file,
            image: None,
            repaired: false,
        })
    }

    /// A qcow2 image. What the image names is not opened: a backing file is not needed to make, apply and delete snapshots, and an image with
    /// an external data file has none.
    pub(crate) async fn open_image(
        cx: &Cx,
        path: &Path,
        shown: &Path,
        direct: bool,
        purpose: Purpose,
    ) -> Result<Self, Failure> {
        Self::open_image_if(cx, path, shown, direct, purpose, async |_| Ok(())).await
    }

    /// The same, but an image whose open would repair it is shown to `may` first: if that fails, nothing is written.
    pub(crate) async fn open_image_if(
        cx: &Cx,
        path: &Path,
        shown: &Path,
        direct: bool,
        purpose: Purpose,
        may: impl AsyncFnOnce(&ImageInfo) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let file = HostFile::open(cx, path, shown, direct, purpose).await?;
        let mut dirty = false;
        if let Ok(info) = qcow2::info(&file.attach("look")?).await
            && info.dirty
        {
            may(&info).await?;
            dirty = !purpose.is_read_only();
        }
        let mut graph = Self::open_driver(cx, file, BackingFile::Ignore).await?;
        graph.repaired = dirty;
        Ok(graph)
    }

    /// A qcow2 image whose states are to be read. What was never written of a state shows the backing file, as in QEMU, so the
    /// backing file is opened. Where that fails, only a read that needs it is an error. `anywhere`: it may lie in another folder than the image.
    pub(crate) async fn open_image_to_load(
        cx: &Cx,
        path: &Path,
        direct: bool,
        purpose: Purpose,
        anywhere: bool,
    ) -> Result<Self, Failure> {
        let file = HostFile::open(cx, path, path, direct, purpose).await?;
        let options = ChainOptions {
            permit: match anywhere {
                true => Permit::Anything,
                false => Permit::SameFolder,
            },
            cache: file.cache,
            force_share: purpose == Purpose::ReadShared,
            ..ChainOptions::reader(cx.workers.clone())
        };
        let image = file.attach("look")?;
        let backing = match qcow2::open_backing(&cx.handle, path, &image, options).await {
            Ok(Some(child)) => BackingFile::Open(child),
            Ok(None) => BackingFile::Ignore, // none is named
            Err(ChainError::Image {
                error: Qcow2Error::Denied { .. },
                ..
            }) => BackingFile::Missing {
                why: "it is in another folder, and --any-backing-file was not given".to_owned(),
            },
            Err(error) => BackingFile::Missing {
                why: error.to_string(),
            },
        };
        drop(image);
        Self::open_driver(cx, file, backing).await
    }

    async fn open_driver(cx: &Cx, file: HostFile, backing: BackingFile) -> Result<Self, Failure> {
        let (purpose, shown) = (file.purpose, file.shown.clone());
        let options = Qcow2Options {
            read_only: purpose.is_read_only(),
            backing,
            workers: Some(cx.workers.clone()),
            ..Qcow2Options::default()
        };
        let driver = match Qcow2Driver::open(file.attach("qcow2")?, options).await {
            Ok(driver) => driver,
            Err(error) => {
                let failure = image_failure(cx, &file.path, &shown, &error).await;
                return Err(match (&error, purpose) {
                    // It may have begun to repair an image that was not closed.
                    (Qcow2Error::Io { .. }, Purpose::Change) => failure.leaving(AS_IT_WAS),
                    _ => failure,
                });
            }
        };
        let counts = Rc::new(Counts::default());
        let driver = Counting::new(driver, &counts);
        let state = file.builder("image").open(&cx.handle, driver).await;
        let state = state.map_err(|e| Failure::block(shown.display(), &e))?;
        Ok(Self {
            state,
            file,
            image: Some(counts),
            repaired: false,
        })
    }

    /// A failure after the open, with what the open has changed.
    pub(crate) fn failed(&self, failure: Failure) -> Failure {
        match self.repaired {
            true => failure.mentioning(REPAIRED),
            false => failure,
        }
    }

    /// Makes what was written durable.
    pub(crate) async fn flush(&self) -> Result<(), Failure> {
        let flushed = self.state.flush().await;
        flushed.map_err(|e| Failure::block(self.file.shown.display(), &e))
    }

    /// Closes both nodes; the first error is returned.
    pub(crate) async fn close(&self) -> Result<(), Failure> {
        let (above, below) = (self.state.close().await, self.file.close().await);
        above
            .map_err(|e| Failure::block(self.file.shown.display(), &e))
            .and(below)
    }
}

/// Why a file could not be opened, to the user.
pub(crate) fn open_failure(shown: &Path, error: &OpenError) -> Failure {
    let file = shown.display();
    match error {
        OpenError::Refused { kind, .. } => Failure::new(file, "open", format!("it is {kind}")),
        OpenError::Locked { conflict, .. } => {
            Failure::new(file, "lock", format!("it is in use: {conflict}"))
        }
        OpenError::Os { step, errno, .. } => Failure::io(
            file,
            step.to_string(),
            &std::io::Error::from_raw_os_error(errno.0),
        ),
        OpenError::DirectRefused { errno, .. } => {
            let why = format!("the file system does no direct I/O ({errno})");
            Failure::new(file, "open with O_DIRECT", why)
        }
        other => Failure::new(file, "open", other),
    }
}

/// Why the image at `path` could not be made, opened or checked, to the user.
pub(crate) async fn image_failure(
    cx: &Cx,
    path: &Path,
    shown: &Path,
    error: &Qcow2Error,
) -> Failure {
    let file = shown.display();
    match error {
        Qcow2Error::BadMagic { .. } => {
            let path = path.to_path_buf();
            let look = move || magic::image_format_of(&File::open(path).ok()?).ok()?;
            let why = match cx.blocking(look).await {
                Ok(Some(format)) => format!("not a qcow2 image, but a disk image ({format})"),
                _ => "not a qcow2 image".to_owned(),
            };
            Failure::new(file, "open", why)
        }
        Qcow2Error::Truncated {
            what: Table::Header,
            ..
        } => Failure::new(file, "open", format!("not a qcow2 image: {error}")),
        Qcow2Error::DataFileMissing => {
            let why = "the guest's data is in an external file, so it can have no snapshots";
            Failure::new(file, "open", why)
        }
        Qcow2Error::Io { error, .. } => Failure::block(file, error),
        other => Failure::new(file, "open", other).with_errno(other.errno().0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_core::Errno;

    #[test]
    fn what_is_left_follows_from_the_cause_however_deep_it_is() {
        let io = || Box::new(Cause::Os(Errno::IO));
        let unsure = || Box::new(Cause::Unsure { cause: io() });
        let leaked = |cause| Cause::Leaked {
            cause,
            freeing: io(),
        };
        assert_eq!(left(&io(), "deleted"), AS_IT_WAS);
        let told = left(&leaked(io()), "deleted");
        assert!(told.starts_with(AS_IT_WAS) && told.ends_with(LEAKS));
        for cause in [
            *unsure(),
            leaked(unsure()),
            leaked(Box::new(leaked(unsure()))),
        ] {
            assert!(left(&cause, "deleted").contains("or the snapshot is deleted"));
        }
        let done = left(&Cause::Done { but: io() }, "deleted");
        assert!(done.starts_with("the snapshot is deleted"));
    }
}
