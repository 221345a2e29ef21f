//! One cluster through a compressor and back: what a compressed cluster holds. QEMU's `block/qcow2-threads.c`.
//!
//! ```text
//!   descriptor in the L2 entry: byte offset, sectors
//!        |
//!        v     stream       rest of the last sector: other clusters' bytes, or none
//!   file ....[==============|------)....
//!            |                     |
//!            +------ src ----------+   -> decompress -> exactly one cluster
//! ```
//!
//! The length of a stream is known to a sector only, so what follows it in the last sector is not looked at.
//!
//! 1. `zlib`: a raw deflate stream, written with a window of 4 KiB (12 bits).
//! 2. `zstd`: zstd frames one after the other until the cluster is full.
//!
//! Each type is a feature of this crate, `zlib` and `zstd`, and both are off by default: most images have no compressed cluster, and the two
//! codecs are most of this crate's weight. Without its feature a type is refused by name ([`CodecError::BuiltWithout`]).
//!
//! Both functions are pure and take a while (a cluster is up to 2 MiB): call them in a job of a worker thread. The memory that they take is
//! bounded by the cluster's size and some hundred KiB of the codec's own, whatever the stream claims.

use std::fmt;

#[cfg(feature = "zlib")]
mod zlib;
#[cfg(feature = "zstd")]
mod zstd;

#[cfg(test)]
mod tests;

/// How the compressed clusters of an image are compressed: one type for all of them. QEMU's `Qcow2CompressionType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CompressionType {
    /// Raw deflate with a window of 12 bits; what an image has that names no type.
    #[default]
    Zlib,
    /// Zstandard frames. Needs version 3 and an incompatible feature bit.
    Zstd,
}

impl CompressionType {
    /// Every type.
    pub const ALL: [Self; 2] = [Self::Zlib, Self::Zstd];

    /// The name in options and reports: `zlib` or `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }

    /// Whether this build can compress and decompress it.
    pub fn is_built(self) -> bool {
        match self {
            Self::Zlib => cfg!(feature = "zlib"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }
}

impl fmt::Display for CompressionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a cluster could not be compressed or decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodecError {
    /// This crate was built without the feature of that name.
    BuiltWithout {
        /// The type that is missing.
        kind: CompressionType,
    },
    /// The bytes are no stream of that type, or one that does not give exactly a cluster.
    Corrupt {
        /// The type of the image.
        kind: CompressionType,
        /// Bytes that were given: whole sectors of the file.
        bytes: usize,
        /// Bytes wanted: a cluster.
        wanted: usize,
        /// Bytes that came before the fault.
        got: usize,
    },
    /// The compressor gave up, which no input should make it do.
    Refused {
        /// The type of the image.
        kind: CompressionType,
        /// Bytes that were given: a cluster.
        bytes: usize,
    },
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltWithout { kind } => {
                write!(
                    f,
                    "{kind} compression: built without the feature \"{kind}\""
                )
            }
            Self::Corrupt {
                kind,
                bytes,
                wanted,
                got,
            } => write!(
                f,
                "{bytes} bytes of {kind} data gave {got} bytes of a cluster of {wanted}, then made no sense"
            ),
            Self::Refused { kind, bytes } => {
                write!(f, "{kind} did not compress {bytes} bytes")
            }
        }
    }
}

impl std::error::Error for CodecError {}

/// Decompresses one cluster: `src` is the sectors that its descriptor names, `dst` the cluster, all of which is written. What follows the
/// stream in `src` is ignored. Zlib: a stream that goes on after the cluster is cut there; zstd: it is an error. Both as in QEMU.
///
/// Errors: [`CodecError::BuiltWithout`], [`CodecError::Corrupt`]; the content of `dst` is anything then. `qcow2_co_decompress`.
pub fn decompress(kind: CompressionType, src: &[u8], dst: &mut [u8]) -> Result<(), CodecError> {
    let _used_by_some_build = (src, &dst);
    match kind {
        #[cfg(feature = "zlib")]
        CompressionType::Zlib => zlib::decompress(src, dst),
        #[cfg(feature = "zstd")]
        CompressionType::Zstd => zstd::decompress(src, dst),
        #[cfg(not(all(feature = "zlib", feature = "zstd")))]
        kind => Err(CodecError::BuiltWithout { kind }),
    }
}

/// Compresses one cluster, `src`. `None` where that makes it no smaller: the cluster is stored plain then. `qcow2_co_compress`.
///
/// Errors: [`CodecError::BuiltWithout`], [`CodecError::Refused`].
pub fn compress(kind: CompressionType, src: &[u8]) -> Result<Option<Vec<u8>>, CodecError> {
    let _used_by_some_build = src;
    match kind {
        #[cfg(feature = "zlib")]
        CompressionType::Zlib => zlib::compress(src),
        #[cfg(feature = "zstd")]
        CompressionType::Zstd => zstd::compress(src),
        #[cfg(not(all(feature = "zlib", feature = "zstd")))]
        kind => Err(CodecError::BuiltWithout { kind }),
    }
}
