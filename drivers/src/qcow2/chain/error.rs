//! Why a chain cannot be opened.

use crate::OpenError;
use crate::qcow2::format::error::Qcow2Error;
use block_core::{BlockError, Cause, DriverError, Errno, Op};
use std::fmt;
use std::path::{Path, PathBuf};

/// Why an image could not be opened with all that it stands on. Each names the file that is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainError {
    /// A file could not be opened.
    File(OpenError),
    /// An image is wrong, or not supported, or names a file that is not permitted ([`Qcow2Error::Denied`]).
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        error: Qcow2Error,
    },
    /// What an image names is no file: QEMU would take it for a protocol (`json:`, `nbd:`, `https:`).
    NoFile {
        /// The image.
        path: PathBuf,
        /// `backing file` or `data file`.
        what: &'static str,
        /// What it says.
        name: String,
    },
    /// An image does not say what format its backing file has, and the caller does not either.
    NoFormat {
        /// The image.
        path: PathBuf,
        /// What it says of the backing file's name.
        name: String,
    },
    /// There is no driver for the format of an image's backing file.
    Format {
        /// The image.
        path: PathBuf,
        /// What it says.
        format: String,
    },
    /// A file is its own backing or data file, through however many others.
    Loop {
        /// The file that comes twice, as it was named the second time.
        path: PathBuf,
    },
    /// The chain has more images than [`MAX_CHAIN`](super::MAX_CHAIN).
    TooLong {
        /// The first that is too many.
        path: PathBuf,
        /// The most.
        max: usize,
    },
    /// The node of an image, or of its file, could not be made.
    Node {
        /// The image or file.
        path: PathBuf,
        /// What was said.
        error: BlockError,
    },
}

impl ChainError {
    pub(crate) fn image(path: &Path, error: Qcow2Error) -> Self {
        let path = path.into();
        Self::Image { path, error }
    }

    pub(crate) fn node(path: &Path, error: BlockError) -> Self {
        let path = path.into();
        Self::Node { path, error }
    }

    /// The errno that stands for this error.
    pub fn errno(&self) -> Errno {
        match self {
            Self::File(error) => error.errno(),
            Self::Image { error, .. } => error.errno(),
            Self::NoFile { .. } | Self::Format { .. } => Errno::NOTSUP,
            Self::NoFormat { .. } | Self::TooLong { .. } => Errno::INVAL,
            Self::Loop { .. } => Errno(40), // ELOOP
            Self::Node { error, .. } => error.errno(),
        }
    }
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Image { path, error } => write!(f, "{}: {error}", path.display()),
            Self::NoFile { path, what, name } => {
                write!(f, "{}: its {what} {name:?} is not a file", path.display())
            }
            Self::NoFormat { path, name } => write!(
                f,
                "{}: it does not say what format its backing file {name:?} has",
                path.display()
            ),
            Self::Format { path, format } => write!(
                f,
                "{}: its backing file's format {format:?} is not supported, only qcow2 and raw are",
                path.display()
            ),
            Self::Loop { path } => {
                write!(
                    f,
                    "{} has a place in its own chain of images and data files already",
                    path.display()
                )
            }
            Self::TooLong { path, max } => write!(
                f,
                "{} is one image too many in a chain, {max} are allowed",
                path.display()
            ),
            Self::Node { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for ChainError {}

impl From<ChainError> for BlockError {
    /// As an error of [`Op::Open`]. Errors of files and nodes stay what they are; the rest is kept whole.
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::File(error) => error.into(),
            ChainError::Node { error, .. } => error,
            error => Self::new(Op::Open, 0, 0, Cause::Driver(DriverError::new(error))),
        }
    }
}

impl From<ChainError> for std::io::Error {
    fn from(error: ChainError) -> Self {
        BlockError::from(error).into()
    }
}
