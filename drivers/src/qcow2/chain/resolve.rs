//! From a name in an image to a file.

use super::ChainError;
use super::options::{ChainOptions, NamedFile, Permit};
use crate::qcow2::format::error::Qcow2Error;
use crate::{OpenError, OpenStep};
use aio_task::WorkerPool;
use block_core::{Cause, Errno};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file of the chain that has not been opened yet.
pub(crate) struct Place {
    /// As it was named. Names in this image are relative to its folder.
    pub(crate) path: PathBuf,
    /// Where that led when it was permitted, if that was looked at.
    real: Option<PathBuf>,
}

/// Which file it is, whatever its name. Device and inode; for a block device, that device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    File { device: u64, inode: u64 },
    BlockDevice { device: u64 },
}

impl Place {
    pub(crate) fn named_by_caller(path: &Path) -> Self {
        Self {
            path: path.into(),
            real: None,
        }
    }

    /// What is to be opened.
    pub(crate) fn opened(&self) -> &Path {
        self.real.as_deref().unwrap_or(&self.path)
    }

    pub(crate) async fn identify(&self, workers: &WorkerPool) -> Result<Identity, ChainError> {
        let path = self.opened().to_path_buf();
        let found = workers.run(move || std::fs::metadata(path)).await;
        let metadata = found.map_err(|error| lost(&self.path, &error))?;
        let metadata = metadata.map_err(|error| failed(&self.path, &error))?;
        Ok(match metadata.file_type().is_block_device() {
            true => Identity::BlockDevice {
                device: metadata.rdev(),
            },
            false => Identity::File {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
        })
    }
}

/// The file that `image` calls `name`, if that is a file and permitted.
pub(crate) async fn resolve(
    image: &Path,
    what: &'static str,
    name: &OsStr,
    options: &ChainOptions,
) -> Result<Place, ChainError> {
    let denied = || {
        let path = name.to_string_lossy().into_owned();
        ChainError::image(image, Qcow2Error::Denied { what, path })
    };
    if matches!(options.permit, Permit::Nothing) {
        return Err(denied());
    }
    if has_protocol(name) {
        return Err(ChainError::NoFile {
            path: image.into(),
            what,
            name: name.to_string_lossy().into_owned(),
        });
    }
    let folder = folder_of(image);
    let path = folder.join(name); // an absolute name replaces it
    let mut real = None;
    match &options.permit {
        Permit::Nothing => return Err(denied()),
        Permit::Anything => {}
        Permit::Each(says_yes) => {
            let named = NamedFile {
                image,
                what,
                name,
                path: &path,
            };
            if !says_yes(&named) {
                return Err(denied());
            }
        }
        Permit::SameFolder => {
            let (folder, file) = (folder.to_path_buf(), path.clone());
            let looked = options.workers.run(move || look(&folder, &file)).await;
            match looked.map_err(|error| lost(&path, &error))? {
                Ok(Some(found)) => real = Some(found),
                Ok(None) => return Err(denied()),
                Err(error) => return Err(failed(&path, &error)),
            }
        }
    }
    Ok(Place { path, real })
}

/// QEMU's `path_has_protocol`: a colon before the first slash.
fn has_protocol(name: &OsStr) -> bool {
    let first = name.as_bytes().iter().find(|b| matches!(b, b':' | b'/'));
    first == Some(&b':')
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Where `file` leads, if that lies in `folder`. Nothing is told of files elsewhere, not even whether they exist. Blocks.
fn look(folder: &Path, file: &Path) -> std::io::Result<Option<PathBuf>> {
    let folder = folder.canonicalize()?;
    let lies_there = |path: &Path| path.parent() == Some(&folder);
    match file.canonicalize() {
        Ok(real) => Ok(lies_there(&real).then_some(real)),
        Err(error) => {
            let named_there = folder_of(file).canonicalize().is_ok_and(|f| f == folder);
            match named_there {
                true => Err(error),
                false => Ok(None),
            }
        }
    }
}

fn failed(path: &Path, error: &std::io::Error) -> ChainError {
    ChainError::File(OpenError::Os {
        path: path.into(),
        step: OpenStep::Stat,
        errno: error.raw_os_error().map_or(Errno::IO, Errno),
    })
}

fn lost(path: &Path, error: &aio_task::JobError) -> ChainError {
    ChainError::File(OpenError::Workers {
        path: path.into(),
        cause: Cause::Driver(format!("a worker thread lost the job: {error}").into()),
    })
}
