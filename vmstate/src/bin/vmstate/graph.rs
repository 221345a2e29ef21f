//! The nodes: a vmstate-file over a file, with a counter between the file's node and its driver.
use crate::args::Engine;
use crate::context::Cx;
use crate::counting::{Counting, Counts};
use crate::failure::Failure;
use block_core::{BlockNode, CacheMode, NodeBuilder, Permissions};
use block_drivers::{Create, DirectIo, FileDriver, FileOptions, OpenError, VmstateFileDriver};
use std::path::Path;
use std::rc::Rc;

/// An open state file.
pub(crate) struct Graph {
    /// The node whose driver holds the state.
    pub(crate) state: BlockNode,
    file: BlockNode,
    /// Requests that reached the file's driver.
    pub(crate) counts: Rc<Counts>,
    /// Whether the page cache is bypassed.
    pub(crate) direct: DirectIo,
    path: std::path::PathBuf,
}

/// How the file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It must not exist; nobody else may write it.
    Create,
    /// Nobody may write it meanwhile.
    Read,
    /// Whatever others do.
    ReadShared,
}

impl Graph {
    pub(crate) async fn open(
        cx: &Cx,
        path: &Path,
        shown: &Path,
        engine: &Engine,
        purpose: Purpose,
    ) -> Result<Self, Failure> {
        let cache = match engine.direct {
            true => CacheMode::None,
            false => CacheMode::Writeback,
        };
        let permissions = match purpose {
            Purpose::Create => Permissions::writer(),
            Purpose::Read => Permissions::reader(),
            Purpose::ReadShared => Permissions::force_share(),
        };
        let read_only = purpose != Purpose::Create;
        let mut options = match read_only {
            true => FileOptions::reader(cx.workers.clone()),
            false => FileOptions::writer(cx.workers.clone()),
        };
        options.cache = cache;
        options.permissions = permissions;
        if purpose == Purpose::Create {
            options.create = Create::New;
            options.mode = 0o600; // a machine's memory is nobody else's business
        }
        let driver = FileDriver::open(path, options)
            .await
            .map_err(|e| open_failure(shown, &e))?;
        let direct = driver.direct();
        let counts = Rc::new(Counts::default());
        let counting = Counting {
            inner: driver,
            counts: counts.clone(),
        };
        let failed = |error| Failure::block(shown.display(), &error);
        let builder = |name| NodeBuilder::new(name).cache(cache).read_only(read_only);
        let file = builder("file")
            .open(&cx.handle, counting)
            .await
            .map_err(failed)?;
        let child = file.attach("vmstate-file", permissions).map_err(failed)?;
        let state = builder("state")
            .open(&cx.handle, VmstateFileDriver::new(child))
            .await
            .map_err(failed)?;
        Ok(Self {
            state,
            file,
            counts,
            direct,
            path: shown.to_path_buf(),
        })
    }

    /// Makes what was written durable.
    pub(crate) async fn flush(&self) -> Result<(), Failure> {
        let flushed = self.state.flush().await;
        flushed.map_err(|e| Failure::block(self.path.display(), &e))
    }

    /// Closes both nodes; the first error is returned.
    pub(crate) async fn close(&self) -> Result<(), Failure> {
        let (above, below) = (self.state.close().await, self.file.close().await);
        above
            .and(below)
            .map_err(|e| Failure::block(self.path.display(), &e))
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
