//! The fields that version 3 of the header adds.

use super::features::incompatible;
use super::{V2_LENGTH, V3_LENGTH, compression_byte, too_short};
use crate::qcow2::format::big_endian::{be32, be64};
use crate::qcow2::format::codec::CompressionType;
use crate::qcow2::format::error::Qcow2Error;

/// What version 3 has after the fields of version 2.
pub(super) struct VersionFields {
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) refcount_order: u32,
    compression_type: u8,
    /// Bytes of all fields, at most a cluster.
    pub(super) length: usize,
}

impl VersionFields {
    pub(super) fn of_version_2() -> Self {
        Self {
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            compression_type: 0,
            length: V2_LENGTH,
        }
    }

    pub(super) fn parse(cluster: &[u8], cluster_size: usize) -> Result<Self, Qcow2Error> {
        let fields: &[u8; V3_LENGTH] = cluster
            .first_chunk()
            .ok_or_else(|| too_short(cluster.len() as u64, V3_LENGTH))?;
        let found = be32(fields, 100);
        let length = usize::try_from(found)
            .ok()
            .filter(|length| (V3_LENGTH..=cluster_size).contains(length))
            .ok_or(Qcow2Error::HeaderLength {
                found,
                cluster_size: cluster_size as u64,
            })?;
        if length > cluster.len() {
            return Err(too_short(cluster.len() as u64, length));
        }
        let compression_type = match cluster.get(V3_LENGTH) {
            Some(byte) if length > V3_LENGTH => *byte,
            _ => 0,
        };
        Ok(Self {
            incompatible: be64(fields, 72),
            compatible: be64(fields, 80),
            autoclear: be64(fields, 88),
            refcount_order: be32(fields, 96),
            compression_type,
            length,
        })
    }

    /// The type, and that it agrees with its feature bit (QEMU's `validate_compression_type`).
    pub(super) fn compression(&self) -> Result<CompressionType, Qcow2Error> {
        let kind = self.compression_type;
        let compression = CompressionType::ALL
            .into_iter()
            .find(|known| compression_byte(*known) == kind)
            .ok_or(Qcow2Error::CompressionType { found: kind })?;
        let bit = self.incompatible & incompatible::COMPRESSION != 0;
        if bit != (compression != CompressionType::Zlib) {
            return Err(Qcow2Error::CompressionBit { kind, bit });
        }
        Ok(compression)
    }
}
