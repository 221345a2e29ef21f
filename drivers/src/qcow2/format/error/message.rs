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
                write!(f, "not a qcow2 image (magic {found:#010x})")
            }
            Self::Truncated {
                what,
                bytes,
                needed,
            } => write!(
                f,
                "the {what} has only {bytes} of the {needed} bytes that it needs"
            ),
            Self::Version { found } => {
                write!(
                    f,
                    "qcow2 version {found} is not supported (supported: 2 and 3)"
                )
            }
            Self::ClusterBits { found, least } => write!(
                f,
                "a cluster size of 2^{found} bytes is not supported (supported: 2^{least} to 2^21)"
            ),
            Self::HeaderLength {
                found,
                cluster_size,
            } => write!(
                f,
                "header length {found} is out of range (104 to {cluster_size} bytes)"
            ),
            Self::RefcountOrder { found } => {
                write!(
                    f,
                    "a refcount width of 2^{found} bits is out of range (at most 2^6)"
                )
            }
            Self::Encrypted { method } => {
                let name = match method {
                    1 => "AES",
                    2 => "LUKS",
                    _ => "an unknown method",
                };
                write!(
                    f,
                    "the image is encrypted with {name} (method {method}), which is not supported"
                )
            }
            Self::IncompatibleFeatures { features } => {
                f.write_str("the image needs features that are not supported: ")?;
                for (i, feature) in features.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{feature}")?;
                }
                Ok(())
            }
            Self::CorruptBit => f.write_str("the image is marked as corrupt: repair it first"),
            Self::CompressionType { found } => write!(f, "compression type {found} is not known"),
            Self::CompressionBit { kind, bit } => write!(
                f,
                "the compression type is {kind} while its feature bit is {}",
                u8::from(*bit)
            ),
            Self::ExtensionLength { magic, len, max } => write!(
                f,
                "header extension {magic:#010x} has {len} bytes, more than the {max} that fit here"
            ),
            Self::Extension { magic, reason } => {
                write!(f, "header extension {magic:#010x}: {reason}")
            }
            Self::BackingNameOffset {
                offset,
                cluster_size,
            } => write!(
                f,
                "the backing file name is at offset {offset:#x}, outside the first cluster ({cluster_size} bytes)"
            ),
            Self::NameLength { what, bytes, max } => write!(
                f,
                "the {what} name has {bytes} bytes, more than the {max} that fit here"
            ),
            Self::HeaderTooLong {
                bytes,
                cluster_size,
            } => write!(
                f,
                "the header with its names has {bytes} bytes, more than a cluster ({cluster_size} bytes)"
            ),
            Self::SizeTooLarge { size, max } => write!(
                f,
                "a disk of {size} bytes is too large for this cluster size (at most {max} bytes)"
            ),
            Self::Denied { what, path } => write!(
                f,
                "the image names {path:?} as its {what}, and opening it is not permitted"
            ),
            Self::DataFileMissing => {
                f.write_str("the image has an external data file, and none was given")
            }
            Self::DataFileUnwanted => f.write_str("the image has no external data file"),
            Self::NotAligned { what, offset } => {
                write!(
                    f,
                    "{what} offset {offset:#x} is not aligned to the cluster size"
                )
            }
            Self::TableTooLarge { what, entries, max } => {
                write!(
                    f,
                    "the {what} is too large: {entries}, at most {max} is supported"
                )
            }
            Self::TableTooSmall {
                what,
                entries,
                needed,
            } => write!(f, "the {what} has {entries} entries, but needs {needed}"),
            Self::Outside {
                what,
                offset,
                bytes,
                end,
            } => write!(
                f,
                "the {what} at offset {offset:#x} ({bytes} bytes) reaches past {end:#x}"
            ),
            Self::Overlap {
                what,
                other,
                offset,
            } => write!(f, "the {what} at offset {offset:#x} overlaps the {other}"),
            Self::ReservedBits { what, at, raw } => write!(
                f,
                "the {what} entry for {at} has reserved bits set ({raw:#018x})"
            ),
            Self::EntryNotAligned { what, at, offset } => write!(
                f,
                "{what} offset {offset:#x} for {at} is not aligned to the cluster size"
            ),
            Self::ZeroInVersion2 { at } => {
                write!(
                    f,
                    "the entry for guest offset {at:#x} is a zero cluster, which version 2 does not have"
                )
            }
            Self::SubclusterBitmap { at, bitmap } => write!(
                f,
                "the entry for guest offset {at:#x} has subclusters that are both allocated and zero ({bitmap:#018x})"
            ),
            Self::CompressedInDataFile { at } => write!(
                f,
                "the entry for guest offset {at:#x} is compressed, but the image has an external data file"
            ),
            Self::DataFileOffset { at, offset } => write!(
                f,
                "guest offset {at:#x} is mapped to offset {offset:#x} of the external data file, which must be the same"
            ),
            Self::RefcountOverflow { cluster, bits } => write!(
                f,
                "the refcount of cluster {cluster} cannot be raised: it has {bits} bits"
            ),
            Self::RefcountUnderflow { cluster } => {
                write!(f, "cluster {cluster} is in use, but its refcount is 0")
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
                "a compressed write of {len} bytes at offset {at} does not cover whole clusters"
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
                f.write_str("an image with an external data file cannot have internal snapshots")
            }
            Self::SnapshotInUse { id, name } => {
                write!(f, "snapshot {name:?} (id {id}) is being read")
            }
            Self::StateUnfinished => f.write_str("the VM state is still being saved"),
            Self::NoSnapshotId => {
                f.write_str("no snapshot id is left: the highest one is 2^64 - 1")
            }
            Self::ResizeVersion2 { from, to } => write!(
                f,
                "a version 2 image with snapshots cannot change its size from {from} to {to} bytes"
            ),
            Self::OutOfMemory { what, bytes } => {
                write!(f, "out of memory: {bytes} bytes for the {what}")
            }
            Self::Io { what, error } => write!(f, "cannot access the {what}: {error}"),
        }
    }
}
