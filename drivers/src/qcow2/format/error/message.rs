//! What an error prints.

use super::Qcow2Error;
use std::fmt;

impl fmt::Display for Qcow2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRepaired {
                corruptions,
                check_errors,
            } => write!(
                f,
                "the image was not closed, and could not be repaired: {corruptions} corruptions, {check_errors} check errors left"
            ),
            Self::BadMagic { found } => {
                write!(f, "not a qcow2 image: it begins with {found:#010x}")
            }
            Self::Truncated {
                what,
                bytes,
                needed,
            } => write!(f, "the {what} has {bytes} bytes, {needed} are needed"),
            Self::Version { found } => {
                write!(
                    f,
                    "qcow2 version {found} is not supported, only 2 and 3 are"
                )
            }
            Self::ClusterBits { found, least } => write!(
                f,
                "the cluster size is 2^{found} bytes, only 2^{least} to 2^21 are supported here"
            ),
            Self::HeaderLength {
                found,
                cluster_size,
            } => write!(
                f,
                "the header says it has {found} bytes, it needs 104 to {cluster_size}"
            ),
            Self::RefcountOrder { found } => {
                write!(f, "refcounts have 2^{found} bits, at most 2^6 are possible")
            }
            Self::Encrypted { method } => {
                let name = match method {
                    1 => "AES",
                    2 => "LUKS",
                    _ => "an unknown method",
                };
                write!(f, "the image is encrypted by {name} (method {method})")
            }
            Self::IncompatibleFeatures { features } => {
                f.write_str("the image needs features that are not supported: ")?;
                for (i, feature) in features.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{feature}")?;
                }
                Ok(())
            }
            Self::CorruptBit => f.write_str("the image is marked corrupt; repair it first"),
            Self::CompressionType { found } => write!(f, "compression type {found} is unknown"),
            Self::CompressionBit { kind, bit } => write!(
                f,
                "the compression type is {kind} while its feature bit is {}",
                u8::from(*bit)
            ),
            Self::ExtensionLength { magic, len, max } => write!(
                f,
                "header extension {magic:#010x} has {len} bytes, at most {max} are possible here"
            ),
            Self::Extension { magic, reason } => {
                write!(f, "header extension {magic:#010x}: {reason}")
            }
            Self::BackingNameOffset {
                offset,
                cluster_size,
            } => write!(
                f,
                "the backing file's name is at {offset}, outside the first cluster of {cluster_size} bytes"
            ),
            Self::NameLength { what, bytes, max } => write!(
                f,
                "the name of the {what} has {bytes} bytes, at most {max} are possible here"
            ),
            Self::HeaderTooLong {
                bytes,
                cluster_size,
            } => write!(
                f,
                "the header with its names has {bytes} bytes, a cluster only {cluster_size}"
            ),
            Self::SizeTooLarge { size, max } => write!(
                f,
                "the disk has {size} bytes, at most {max} are possible with this cluster size"
            ),
            Self::Denied { what, path } => write!(
                f,
                "the image names {path:?} as its {what}, which is not permitted here"
            ),
            Self::DataFileMissing => {
                f.write_str("the image keeps its data in an external file, and none was given")
            }
            Self::DataFileUnwanted => f.write_str("the image has no external data file"),
            Self::NotAligned { what, offset } => {
                write!(f, "the {what} starts at {offset}, inside a cluster")
            }
            Self::TableTooLarge { what, entries, max } => {
                write!(
                    f,
                    "the {what} has size {entries}, at most {max} is supported"
                )
            }
            Self::TableTooSmall {
                what,
                entries,
                needed,
            } => write!(f, "the {what} has {entries} entries, {needed} are needed"),
            Self::Outside {
                what,
                offset,
                bytes,
                end,
            } => write!(
                f,
                "the {what} of {bytes} bytes at {offset} reaches past {end}"
            ),
            Self::Overlap {
                what,
                other,
                offset,
            } => write!(f, "the {what} at {offset} lies on the {other}"),
            Self::ReservedBits { what, at, raw } => write!(
                f,
                "the entry {raw:#018x} that leads to the {what} for {at} has reserved bits set"
            ),
            Self::EntryNotAligned { what, at, offset } => write!(
                f,
                "the {what} for {at} is said to be at {offset}, inside a cluster"
            ),
            Self::ZeroInVersion2 { at } => {
                write!(
                    f,
                    "the cluster at {at} is a zero cluster, which version 2 has not got"
                )
            }
            Self::SubclusterBitmap { at, bitmap } => write!(
                f,
                "the subclusters of the cluster at {at} contradict each other: {bitmap:#018x}"
            ),
            Self::CompressedInDataFile { at } => write!(
                f,
                "the cluster at {at} is compressed, in an image with an external data file"
            ),
            Self::DataFileOffset { at, offset } => write!(
                f,
                "the cluster at {at} is said to be at {offset} in the external data file"
            ),
            Self::RefcountOverflow { cluster, bits } => write!(
                f,
                "one more reference to cluster {cluster} does not fit a refcount of {bits} bits"
            ),
            Self::RefcountUnderflow { cluster } => {
                write!(f, "cluster {cluster} is in use but counted as free")
            }
            Self::SnapshotEntry {
                index,
                reason,
                value,
            } => write!(f, "snapshot table entry {index}: {reason} ({value})"),
            Self::Resize { size, reason } => {
                write!(f, "the disk cannot have {size} bytes: {reason}")
            }
            Self::Compressed { at, len } => write!(
                f,
                "{len} bytes at {at} are no whole clusters, which compressed data is written in"
            ),
            Self::Options(error) => error.fmt(f),
            Self::BitmapEntry {
                index,
                reason,
                value,
            } => write!(f, "bitmap directory entry {index}: {reason} ({value})"),
            Self::ActiveBitmaps { bitmaps } => write!(
                f,
                "the disk cannot be replaced while the image has persistent bitmaps ({bitmaps}); `qemu-img bitmap --remove` removes one"
            ),
            Self::SnapshotsWithDataFile => {
                f.write_str("an image with an external data file can have no internal snapshots")
            }
            Self::SnapshotInUse { id, name } => {
                write!(f, "snapshot {name:?} (id {id}) is being read")
            }
            Self::StateUnfinished => {
                f.write_str("the machine's state is being saved and not complete yet")
            }
            Self::NoSnapshotId => f.write_str("there is no higher id for another snapshot"),
            Self::ResizeVersion2 { from, to } => write!(
                f,
                "a version 2 image with snapshots keeps its size of {from} bytes, it cannot have {to}"
            ),
            Self::OutOfMemory { what, bytes } => {
                write!(f, "no memory for {bytes} bytes of the {what}")
            }
            Self::Io { what, error } => write!(f, "cannot access the {what}: {error}"),
        }
    }
}
