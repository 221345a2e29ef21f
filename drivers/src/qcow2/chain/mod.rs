//! An image with all that it stands on: its file, its data file, and the backing files below, each in a node. QEMU's `bdrv_open`,
//! `bdrv_open_backing_file`.
//!
//! ```text
//!   open_image(top) ->  qcow2 node ----------- backing ---> qcow2 node (read-only) --- backing ---> raw node (read-only)
//!                         |       |                            |                                      |
//!                        file   data file                     file                                   file
//! ```
//!
//! 1. From the top down: each file is opened and locked, and its header says what comes next. The caller's [`Permit`] is asked before a
//!    file that an image names is touched. A file that is in the chain already, and a chain of more than [`MAX_CHAIN`] images, are refused.
//! 2. From the bottom up: the drivers and nodes are built.
//!
//! Names are QEMU's: relative to the folder of the image that has them; what begins with a word and a colon (`json:`, `nbd:`) is no file,
//! and is refused by name. A backing file whose format the image does not say is refused too, unless the caller says what it is: a guest
//! that writes a qcow2 header into a raw disk would otherwise choose which files of the host are read.

mod error;
mod options;
mod resolve;

pub use self::error::ChainError;
pub use self::options::{ChainOptions, ImageFormat, MissingFormat, NamedFile, Permit};

use self::resolve::{Identity, Place, resolve};
use crate::qcow2::driver::{BackingFile, Qcow2Driver, Qcow2Options};
use crate::qcow2::format::error::Qcow2Error;
use crate::qcow2::format::header::{Header, MAGIC, Purpose};
use crate::qcow2::metadata::Source;
use crate::{FileDriver, FileOptions, RawDriver, RawOptions};
use aio_task::AioHandle;
use block_core::{BlockChild, BlockNode, DiskOffset, NodeBuilder, Permissions};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// Most images of a chain, the top included. A request for what only the lowest one has goes through all of them, nested.
pub const MAX_CHAIN: usize = 100;

/// Opens the image at `path` with its data file and its backing files, and makes a node of it. The nodes below belong to it: closing it
/// closes them all, and unlocks their files.
///
/// Backing files are opened read-only, and locked as [`Permissions::reader`] (or not at all, where the caller does not lock the top
/// against writers). The node's name is the path.
///
/// Errors: [`ChainError`], which says which file of the chain is meant. What was opened is closed again, and nothing has been written,
/// except that the top image may have been repaired or lost its stale features, as in [`Qcow2Driver::open`]. Dropped: the same.
pub async fn open_image(
    handle: &AioHandle,
    path: impl AsRef<Path>,
    options: ChainOptions,
) -> Result<BlockNode, ChainError> {
    let opening = Opening {
        handle,
        options: &options,
        seen: RefCell::default(),
    };
    let place = Place::named_by_caller(path.as_ref());
    let format = Some(options.format);
    let (lowest, above) = opening.walk(place, format, true).await?;
    opening.build(lowest, above, true).await
}

/// Opens what the image at `path` stands on, for an image whose `file` the caller has open: its backing file with all below it, read-only.
/// Returns `None` where it names none. For [`BackingFile::Open`].
///
/// The child goes with the driver that gets it: closing that closes the nodes below. Of the options those that are about the top image alone
/// do not matter.
///
/// # Errors
///
/// As [`open_image`]. Nothing has been written.
///
/// # Cancel safety
///
/// What was opened is closed again.
pub async fn open_backing(
    handle: &AioHandle,
    path: impl AsRef<Path>,
    file: &BlockChild,
    options: ChainOptions,
) -> Result<Option<BlockChild>, ChainError> {
    let opening = Opening {
        handle,
        options: &options,
        seen: RefCell::default(),
    };
    let path = path.as_ref();
    opening.only_once(&Place::named_by_caller(path)).await?;
    let header = read_header(file).await;
    let header = header.map_err(|error| ChainError::image(path, error))?;
    let Some((place, format)) = opening.below(path, &header).await? else {
        return Ok(None);
    };
    let (lowest, above) = opening.walk(place, format, false).await?;
    let node = opening.build(lowest, above, false).await?;
    let child = node.attach("backing", opening.shared());
    let child = child.map_err(|error| ChainError::node(path, error))?;
    Ok(Some(child))
}

/// One image of the chain, not yet a node.
struct Level {
    path: PathBuf,
    format: ImageFormat,
    file: BlockChild,
    data_file: Option<BlockChild>,
    read_only: bool,
}

/// An open under way.
struct Opening<'a> {
    handle: &'a AioHandle,
    options: &'a ChainOptions,
    /// The files that have a place in the chain: images and data files.
    seen: RefCell<Vec<Identity>>,
}

impl Opening<'_> {
    /// Step 1: the lowest image from `place` on, and those above it, the first one first. `is_top`: that is the caller's own image.
    async fn walk(
        &self,
        mut place: Place,
        mut format: Option<ImageFormat>,
        is_top: bool,
    ) -> Result<(Level, Vec<Level>), ChainError> {
        let mut above: Vec<Level> = Vec::new();
        let most = MAX_CHAIN - usize::from(!is_top);
        loop {
            if above.len() == most {
                return Err(ChainError::TooLong {
                    path: place.path,
                    max: MAX_CHAIN,
                });
            }
            self.only_once(&place).await?;
            let is_top = is_top && above.is_empty();
            let (level, below) = self.open_level(place, format, is_top).await?;
            let Some(below) = below else {
                return Ok((level, above));
            };
            above.push(level);
            (place, format) = below;
        }
    }

    /// Opens one image's file and data file; also says where the next image is, and what.
    async fn open_level(
        &self,
        place: Place,
        format: Option<ImageFormat>,
        is_top: bool,
    ) -> Result<(Level, Option<(Place, Option<ImageFormat>)>), ChainError> {
        let read_only = !is_top || self.options.read_only || self.options.force_share;
        let file = self.open_file(&place, "image", read_only).await?;
        let format = match format {
            Some(format) => format,
            None => probe(&place.path, &file).await?,
        };
        let path = place.path;
        let mut level = Level {
            path,
            format,
            file,
            data_file: None,
            read_only,
        };
        if format == ImageFormat::Raw {
            return Ok((level, None));
        }
        let path = &level.path;
        let header = read_header(&level.file).await;
        let header = header.map_err(|error| ChainError::image(path, error))?;
        if header.geometry.data_file() {
            level.data_file = Some(self.open_data_file(path, &header, read_only).await?);
        }
        let below = self.below(path, &header).await?;
        Ok((level, below))
    }

    /// Where the backing file of the image at `path` is, and what; `None` where it names none.
    async fn below(
        &self,
        path: &Path,
        header: &Header,
    ) -> Result<Option<(Place, Option<ImageFormat>)>, ChainError> {
        let Some(name) = header.backing_file_name() else {
            return Ok(None);
        };
        let format = match &header.extensions.backing_format {
            Some(name) => Some(
                ImageFormat::of_name(name).ok_or_else(|| ChainError::Format {
                    path: path.into(),
                    format: name.to_string(),
                })?,
            ),
            None => match self.options.missing_format {
                MissingFormat::Assume(format) => Some(format),
                MissingFormat::Probe => None,
                MissingFormat::Refuse => {
                    return Err(ChainError::NoFormat {
                        path: path.into(),
                        name: name.to_string(),
                    });
                }
            },
        };
        let place = resolve(path, "backing file", name.as_os_str(), self.options).await?;
        Ok(Some((place, format)))
    }

    async fn open_data_file(
        &self,
        image: &Path,
        header: &Header,
        read_only: bool,
    ) -> Result<BlockChild, ChainError> {
        let Some(name) = &header.extensions.data_file else {
            return Err(ChainError::image(image, Qcow2Error::DataFileMissing));
        };
        let place = resolve(image, "data file", name.as_os_str(), self.options).await?;
        self.only_once(&place).await?;
        self.open_file(&place, "data file", read_only).await
    }

    /// Refuses a file that has a place in this chain already, by whatever name: guest data would be written over an image's tables.
    async fn only_once(&self, place: &Place) -> Result<(), ChainError> {
        let identity = place.identify(&self.options.workers).await?;
        if self.seen.borrow().contains(&identity) {
            let path = place.path.clone();
            return Err(ChainError::Loop { path });
        }
        self.seen.borrow_mut().push(identity);
        Ok(())
    }

    /// A node of the `file` driver, and a parent's hold on it.
    async fn open_file(
        &self,
        place: &Place,
        parent: &str,
        read_only: bool,
    ) -> Result<BlockChild, ChainError> {
        let options = self.options;
        let permissions = match (options.force_share, read_only) {
            (true, _) => Permissions::force_share(),
            (false, true) => Permissions::reader(),
            (false, false) => Permissions::writer(),
        };
        let opened = FileOptions {
            read_only,
            cache: options.cache,
            permissions,
            locking: options.locking,
            block_device: options.block_device,
            ..FileOptions::writer(options.workers.clone())
        };
        let driver = FileDriver::open(place.opened(), opened).await;
        let driver = driver.map_err(ChainError::File)?;
        let node = NodeBuilder::new(place.path.to_string_lossy())
            .read_only(read_only)
            .cache(options.cache_of_files())
            .open(self.handle, driver)
            .await;
        let child = node.and_then(|node| node.attach(parent, permissions));
        child.map_err(|error| ChainError::node(&place.path, error))
    }

    /// Step 2. `has_top`: the first of them is the caller's own image.
    async fn build(
        &self,
        lowest: Level,
        mut above: Vec<Level>,
        has_top: bool,
    ) -> Result<BlockNode, ChainError> {
        let is_top = has_top && above.is_empty();
        let mut node = self.build_level(lowest, None, is_top).await?;
        while let Some(level) = above.pop() {
            let is_top = has_top && above.is_empty();
            node = self.build_level(level, Some(node), is_top).await?;
        }
        Ok(node)
    }

    /// What an image needs of its backing file.
    fn shared(&self) -> Permissions {
        match self.options.force_share {
            true => Permissions::force_share(),
            false => Permissions::reader(),
        }
    }

    async fn build_level(
        &self,
        level: Level,
        below: Option<BlockNode>,
        is_top: bool,
    ) -> Result<BlockNode, ChainError> {
        let Level {
            path,
            format,
            file,
            data_file,
            read_only,
        } = level;
        let options = self.options;
        let node_error = |error| ChainError::node(&path, error);
        let cache = match is_top {
            true => options.cache,
            false => options.cache_of_files(),
        };
        let builder = NodeBuilder::new(path.to_string_lossy())
            .read_only(read_only)
            .cache(cache);
        let node = match format {
            ImageFormat::Raw => {
                let driver = RawDriver::open(file, RawOptions::default()).await;
                builder.open(self.handle, driver.map_err(node_error)?).await
            }
            ImageFormat::Qcow2 => {
                let backing = match below {
                    Some(node) => {
                        let child = node.attach("backing", self.shared());
                        BackingFile::Open(child.map_err(node_error)?)
                    }
                    None => BackingFile::Deny, // none is named
                };
                let opened = Qcow2Options {
                    read_only,
                    backing,
                    data_file,
                    l2_cache: options.l2_cache,
                    refcount_cache: options.refcount_cache,
                    workers: Some(options.workers.clone()),
                };
                let driver = Qcow2Driver::open(file, opened).await;
                let driver = driver.map_err(|error| ChainError::image(&path, error))?;
                builder.open(self.handle, driver).await
            }
        };
        node.map_err(node_error)
    }
}

async fn read_header(file: &BlockChild) -> Result<Header, Qcow2Error> {
    Header::read(&Source::new(file).await?, Purpose::Use).await
}

/// What a file is, by how it begins.
async fn probe(path: &Path, file: &BlockChild) -> Result<ImageFormat, ChainError> {
    let node_error = |error| ChainError::node(path, error);
    let mut magic = [0; 4];
    if file.length().await.map_err(node_error)? < magic.len() as u64 {
        return Ok(ImageFormat::Raw);
    }
    let read = file.pread(DiskOffset(0), &mut magic).await;
    read.map_err(node_error)?;
    Ok(match u32::from_be_bytes(magic) {
        MAGIC => ImageFormat::Qcow2,
        _ => ImageFormat::Raw,
    })
}
