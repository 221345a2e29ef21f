//! FILE, and the temporary file beside it that becomes FILE when the state or image in it is complete.
//!
//! ```text
//!   1. an existing FILE is locked, then looked at, then refused or accepted; the lock stays to the end
//!   2. .FILE.vmstate-save.PID.tmp is created by the caller, written, and made durable
//!   3. renamed to FILE: no task sees a state under its final name that is not whole
//!   4. the directory is made durable
//! ```
use crate::context::Cx;
use crate::failure::Failure;
use crate::graph::{self, Identity, identity};
use crate::magic;
use block_core::{BlockDriver, BlockError, DiskOffset, IoBuf, Op, ReadVector};
use block_drivers::{FileDriver, FileOptions};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Longest name of a file on Linux, in bytes.
const NAME_MAX: usize = 255;

/// What is made; an existing file of which kind it may replace, if it is forced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Making {
    /// A state: it replaces no disk image.
    State,
    /// A qcow2 image: it replaces no disk image of another format.
    Image,
}

/// Where a state or an image goes. Dropping it removes the temporary file; so does every failure.
pub(crate) struct Target {
    /// As the user called it, for messages.
    shown: PathBuf,
    /// With symbolic links followed: what is renamed to.
    file: PathBuf,
    directory: PathBuf,
    temporary: Temporary,
    /// Another name beside FILE that is free, for what a command needs for itself.
    scratch: PathBuf,
    /// The file that is there now, locked; it is replaced.
    existing: Option<(FileDriver, Identity)>,
}

/// A path whose file is removed when this is dropped. It need not exist yet.
pub(crate) struct Temporary {
    path: PathBuf,
    /// Cleared when the file has become something else.
    armed: bool,
}

impl Target {
    /// Looks at FILE and refuses what must not be written or replaced. Nothing is created yet.
    pub(crate) async fn prepare(
        cx: &Cx,
        path: &Path,
        making: Making,
        force: bool,
    ) -> Result<Self, Failure> {
        let untouched = |failure: Failure| failure.leaving("nothing was written");
        let shown = path.to_path_buf();
        let place = {
            let path = shown.clone();
            cx.blocking(move || locate(&path))
                .await?
                .map_err(untouched)?
        };
        let existing = match place.exists {
            true => {
                let checked = check_existing(cx, &shown, &place.file, making, force).await;
                Some(checked.map_err(|e| e.leaving("it is as it was"))?)
            }
            false => None,
        };
        let (temporary, scratch) = {
            let (directory, name) = (place.directory.clone(), place.name.clone());
            let free = move |numbers| free_name(&directory, &name, numbers);
            cx.blocking(move || (free(0..500), free(500..1000))).await?
        };
        Ok(Self {
            shown,
            file: place.file,
            directory: place.directory,
            temporary: Temporary::new(temporary),
            scratch,
            existing,
        })
    }

    /// The temporary file, which the caller creates and writes.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary.path
    }

    /// A free name for another file beside it, which the caller removes.
    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Both would get the same name.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let place = |target: &Self| fs::canonicalize(&target.directory).ok();
        self.file.file_name() == other.file.file_name() && place(self) == place(other)
    }

    /// The failure of a command that was to write the temporary file, with what it leaves on disk.
    pub(crate) fn failed(&mut self, failure: Failure) -> Failure {
        if failure.found_existing() {
            // Not made by us: a process in another PID namespace is writing it.
            self.temporary.armed = false;
            return failure.leaving("nothing was written");
        }
        let left = self.left_after();
        failure.leaving(left)
    }

    /// Removes the temporary file; what is on disk then, as it is found there.
    pub(crate) fn left_after(&mut self) -> String {
        let found = match fs::metadata(&self.file) {
            Ok(found) => Ok(Some(identity(&found))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let checked = self.existing.as_ref().map(|(_, identity)| *identity);
        let file = match (checked, found) {
            (Some(checked), Ok(Some(found))) if found == checked => "the file is as it was",
            (Some(_), Ok(Some(_))) => "another file has taken the place of the old one",
            (Some(_), Ok(None)) => "the old file is no longer there",
            (None, Ok(Some(_))) => "a file of that name has appeared and is as it was",
            (None, Ok(None)) => "there is no such file",
            (Some(_), Err(_)) => "the old file was not touched",
            (None, Err(_)) => "no file of that name was made",
        };
        match self.temporary.remove() {
            Ok(true) => format!("{file}, the temporary file was removed"),
            Ok(false) => file.to_owned(),
            Err(error) => {
                let temporary = self.temporary.path.display();
                format!("{file}, the temporary file {temporary} could not be removed: {error}")
            }
        }
    }

    /// Gives the temporary file, which is complete and durable, its final name. If that fails it is removed.
    pub(crate) async fn commit(mut self, cx: &Cx) -> Result<(), Failure> {
        let checked = self.existing.as_ref().map(|(_, identity)| *identity);
        let (from, to) = (self.temporary.path.clone(), self.file.clone());
        let shown = self.shown.display().to_string();
        let renamed = cx.blocking(move || rename(&from, &to, checked)).await;
        let renamed = renamed.and_then(|result| {
            result.map_err(|e| Failure::io(&shown, "rename the temporary file", &e))
        });
        let second_name = match renamed {
            Ok(second_name) => second_name,
            Err(failure) => return Err(failure.leaving(self.left_after())),
        };
        self.temporary.armed = false;
        let directory = self.directory.clone();
        let synced = cx.blocking(move || sync_directory(&directory)).await;
        synced
            .and_then(|result| result.map_err(|e| Failure::io(&shown, "sync the directory", &e)))
            .map_err(|e| e.leaving("the file is complete, but a crash may undo its new name"))?;
        if let Some(error) = second_name {
            let left = format!(
                "the file is complete, and has a second name: {}",
                self.temporary.path.display()
            );
            return Err(Failure::io(&shown, "remove the temporary file", &error).leaving(left));
        }
        if let Some((driver, _)) = self.existing.take() {
            // It no longer has a name: all that can be lost is its lock.
            let _ = driver.close().await;
        }
        Ok(())
    }
}

impl Temporary {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, armed: true }
    }

    /// Removes the file now, and again later if it is made anew. Returns false if there is none.
    pub(crate) fn remove(&self) -> io::Result<bool> {
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Leaves the file where it is.
    pub(crate) fn keep(mut self) {
        self.armed = false;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.armed {
            // At the end of a failed command: there is no caller left to report to, and its name tells what it is.
            let _ = self.remove();
        }
    }
}

/// What a path leads to.
struct Place {
    file: PathBuf,
    directory: PathBuf,
    name: OsString,
    exists: bool,
}

fn locate(path: &Path) -> Result<Place, Failure> {
    let failed = |error: io::Error| Failure::io(path.display(), "open", &error);
    let exists = match fs::metadata(path) {
        Ok(found) => {
            if let Some(kind) = unfit_kind(&found) {
                return Err(Failure::new(
                    path.display(),
                    "open",
                    format!("it is {kind}"),
                ));
            }
            true
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(failed(error)),
    };
    let file = match exists {
        true => fs::canonicalize(path).map_err(failed)?,
        // A link that leads nowhere would be replaced by the file: not what its owner wants.
        false if fs::symlink_metadata(path).is_ok() => {
            let why = "it is a symbolic link that leads nowhere";
            return Err(Failure::new(path.display(), "open", why));
        }
        false => path.to_path_buf(),
    };
    let Some(name) = file.file_name().map(OsStr::to_owned) else {
        return Err(Failure::new(
            path.display(),
            "open",
            "the path has no file name",
        ));
    };
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(Failure::new(
            path.display(),
            "open",
            "the path names a directory",
        ));
    }
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    if !exists {
        let found = fs::metadata(&directory).map_err(failed)?;
        if !found.is_dir() {
            return Err(failed(io::ErrorKind::NotADirectory.into()));
        }
    }
    Ok(Place {
        file,
        directory,
        name,
        exists,
    })
}

/// What a file is, where a state can be neither written to nor read from it.
pub(crate) fn unfit_kind(found: &Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_block_device() {
        Some("a block device")
    } else if kind.is_fifo() {
        Some("a FIFO")
    } else if kind.is_char_device() {
        Some("a character device")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("not a regular file")
    }
}

/// Locks the file that is there, and decides whether it may be replaced.
async fn check_existing(
    cx: &Cx,
    shown: &Path,
    file: &Path,
    making: Making,
    force: bool,
) -> Result<(FileDriver, Identity), Failure> {
    let refused = |why: String| Failure::new(shown.display(), "replace", why);
    let options = FileOptions::writer(cx.workers.clone());
    let driver = FileDriver::open(file, options)
        .await
        .map_err(|e| graph::open_failure(shown, &e))?;
    // Through the descriptor that is locked: the path may lead to another file by now.
    let format = image_format(&driver).await;
    let format = format.map_err(|e| Failure::block(shown.display(), &e))?;
    match (format, making) {
        (Some(magic::QCOW2), Making::State) => {
            let why = "it is a disk image (qcow2); a state goes into it with save --name";
            return Err(refused(why.to_owned()));
        }
        (None | Some(magic::QCOW2), _) => {}
        (Some(format), _) => return Err(refused(format!("it is a disk image ({format})"))),
    }
    if !force {
        return Err(refused("it exists; --force replaces it".to_owned()));
    }
    let identity = driver.identity();
    Ok((driver, identity))
}

/// The format of the image in an open file, if it is one.
async fn image_format(driver: &FileDriver) -> Result<Option<&'static str>, BlockError> {
    let len = driver.length().await?.min(magic::NEEDED as u64) as usize;
    if len == 0 {
        return Ok(None);
    }
    let memory = IoBuf::zeroed(len, 1);
    let memory = memory.map_err(|e| BlockError::out_of_memory(Op::Read, DiskOffset(0), e))?;
    let (read, result) = driver.preadv(DiskOffset(0), ReadVector::from(memory)).await;
    result?;
    let start = read.into_parts();
    Ok(start.first().and_then(|start| magic::image_format(start)))
}

/// A temporary name that is free: a process with our number may have crashed before.
fn free_name(directory: &Path, name: &OsStr, mut numbers: Range<u32>) -> PathBuf {
    let path = |n| directory.join(temporary_name(name, n));
    let first = numbers.start;
    let free = numbers.find(|n| fs::symlink_metadata(path(*n)).is_err());
    // Or not free at all; then it cannot be created, and that is the error.
    path(free.unwrap_or(first))
}

/// `.FILE.vmstate-save.PID.tmp`, or `PID-N` for N > 0, with FILE cut where the name would be too long.
fn temporary_name(name: &OsStr, number: u32) -> OsString {
    let pid = std::process::id();
    let end = match number {
        0 => format!(".vmstate-save.{pid}.tmp"),
        n => format!(".vmstate-save.{pid}-{n}.tmp"),
    };
    let room = NAME_MAX - 1 - end.len();
    let name = name.as_bytes();
    let mut bytes = b".".to_vec();
    bytes.extend_from_slice(&name[..name.len().min(room)]);
    bytes.extend_from_slice(end.as_bytes());
    OsString::from_vec(bytes)
}

/// Makes the names in a directory durable, where the file system does that.
fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// Renames `from` to `to`. With `replaces`, the file there must still be that one; without, there must be none. Returns why `from` is
/// still there as a second name of the file, if it is.
fn rename(from: &Path, to: &Path, replaces: Option<Identity>) -> io::Result<Option<io::Error>> {
    let Some(checked) = replaces else {
        return match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // A file system without the flag: a link is as exclusive.
            Err(Errno::INVAL | Errno::NOSYS) => {
                fs::hard_link(from, to)?;
                Ok(fs::remove_file(from).err())
            }
            result => Ok(result.map(|()| None)?),
        };
    };
    if identity(&fs::metadata(to)?) != checked {
        return Err(io::Error::other("another file has taken its place"));
    }
    fs::rename(from, to).map(|()| None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_fits_and_tells_what_it_is() {
        let short = temporary_name(OsStr::new("vm"), 0);
        let pid = std::process::id();
        assert_eq!(short, OsString::from(format!(".vm.vmstate-save.{pid}.tmp")));
        let long = temporary_name(OsStr::new(&"x".repeat(255)), 999);
        assert_eq!(long.len(), NAME_MAX);
        assert!(long.as_bytes().ends_with(b".tmp"));
    }

    #[test]
    fn a_file_that_appeared_meanwhile_is_not_replaced() {
        let dir = std::env::temp_dir().join(format!("vmstate-target-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::write(&from, "new").unwrap();
        fs::write(&to, "old").unwrap();
        let error = rename(&from, &to, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let checked = identity(&fs::metadata(&from).unwrap());
        assert!(
            rename(&from, &to, Some(checked)).is_err(),
            "another file is there"
        );
        assert_eq!(fs::read(&to).unwrap(), b"old");
        let checked = identity(&fs::metadata(&to).unwrap());
        rename(&from, &to, Some(checked)).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"new");
        fs::remove_dir_all(&dir).unwrap();
    }
}
