//! What is wrong with a list of options.

use block_core::Errno;
use std::fmt;

/// Options that contradict each other or the format. qemu-img refuses them too.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionError {
    /// The text is not a list of `name=value`.
    NoList {
        /// The part that is not.
        text: String,
    },
    /// There is no such option.
    Unknown {
        /// Its name.
        name: String,
    },
    /// An option of the file that the image is in, or of encryption, which is not supported here.
    Unsupported {
        /// Its name.
        name: String,
    },
    /// The value is none for this option.
    Value {
        /// The option's name.
        name: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// There is no size.
    NoSize,
    /// Not a power of two, or outside 512 bytes to 2 MiB.
    ClusterSize {
        /// In bytes.
        bytes: u64,
    },
    /// Subclusters would be smaller than 512 bytes.
    ExtendedClusterSize {
        /// The cluster size in bytes.
        bytes: u64,
    },
    /// Not a power of two, or above 64.
    RefcountBits {
        /// The width in bits.
        bits: u64,
    },
    /// Version 2 has not got it.
    NeedsVersion3 {
        /// The option's name.
        name: &'static str,
    },
    /// A backing file's format without a backing file.
    NoBackingFile,
    /// A backing file without its format: to guess it from its content is unsafe, since a guest writes that.
    NoBackingFormat,
    /// QEMU has no such format.
    BackingFormat {
        /// The format's name.
        name: String,
    },
    /// The name is empty or has a NUL in it, which ends it for QEMU.
    FileName {
        /// The option's name.
        name: &'static str,
    },
    /// Preallocated clusters would hide the backing file; without subclusters nothing else can be said of them.
    BackingAndPreallocation,
    /// The data file alone would not be the disk.
    BackingAndRawData,
    /// The data file is to be raw, and there is none.
    NoDataFile,
}

impl OptionError {
    /// EINVAL, as QEMU says.
    pub fn errno(&self) -> Errno {
        Errno::INVAL
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoList { text } => {
                write!(f, "{text:?} is not 'name=value' in a list with commas")
            }
            Self::Unknown { name } => write!(f, "there is no option '{name}'"),
            Self::Unsupported { name } => write!(f, "option '{name}' is not supported"),
            Self::Value {
                name,
                value,
                wanted,
            } => write!(f, "option '{name}' takes {wanted}, not {value:?}"),
            Self::NoSize => f.write_str("the size is missing"),
            Self::ClusterSize { bytes } => write!(
                f,
                "clusters of {bytes} bytes are not possible, only powers of two from 512 to 2097152"
            ),
            Self::ExtendedClusterSize { bytes } => write!(
                f,
                "extended L2 entries need clusters of 16384 bytes at least, not {bytes}"
            ),
            Self::RefcountBits { bits } => write!(
                f,
                "refcounts of {bits} bits are not possible, only powers of two up to 64"
            ),
            Self::NeedsVersion3 { name } => write!(f, "option '{name}' needs version 3"),
            Self::NoBackingFile => f.write_str("a backing format without a backing file"),
            Self::NoBackingFormat => f.write_str("a backing file without its format"),
            Self::BackingFormat { name } => write!(f, "QEMU has no format '{name}'"),
            Self::FileName { name } => {
                write!(f, "the name of option '{name}' is empty or has a NUL in it")
            }
            Self::BackingAndPreallocation => {
                f.write_str("preallocation with a backing file needs extended L2 entries")
            }
            Self::BackingAndRawData => {
                f.write_str("a raw data file and a backing file exclude each other")
            }
            Self::NoDataFile => f.write_str("a raw data file is asked for, and there is none"),
        }
    }
}

impl std::error::Error for OptionError {}
