//! The header: its fields, its checks, and how it is written.
//!
//! ```text
//!     0  magic u32, version u32            72  incompatible_features u64   (version 3 from here on)
//!     8  backing_file_offset u64           80  compatible_features u64
//!    16  backing_file_size u32             88  autoclear_features u64
//!    20  cluster_bits u32                  96  refcount_order u32
//!    24  size u64                         100  header_length u32
//!    32  crypt_method u32, l1_size u32    104  compression_type u8
//!    40  l1_table_offset u64              105  0, up to 112
//!    48  refcount_table_offset u64        112  fields of a later version, up to header_length
//!    56  refcount_table_clusters u32           extensions, end mark
//!    60  nb_snapshots u32                      backing file name
//!    64  snapshots_offset u64                  (all in the first cluster)
//! ```
//!
//! What changes while an image is in use lies in bytes 24..72, one sector: it is written at once ([`Header::table_fields`]), or in the
//! features ([`Header::feature_fields`]). The rest is written only by [`Header::serialise`].

pub(crate) mod extensions;
pub(crate) mod features;
#[cfg(test)]
mod tests;
mod version_3_fields;

use self::extensions::Extensions;
use self::features::{autoclear, compatible, incompatible};
use self::version_3_fields::VersionFields;
use super::big_endian::{be32, be64, put};
use super::codec::CompressionType;
use super::error::{Qcow2Error, Table};
use super::geometry::{Geometry, MAX_CLUSTER_BITS, MIN_CLUSTER_BITS, TABLE_ENTRY_SIZE};
use super::geometry::{MAX_L1_BYTES, MAX_REFTABLE_BYTES, MAX_SNAPSHOTS, SNAPSHOT_ENTRY_SIZE};
use super::name::Name;
use super::offset::HostOffset;
use super::position::{check_table, is_inside};
use super::read_at::ReadAt;

/// `QFI\xfb`.
pub(crate) const MAGIC: u32 = 0x5146_49fb;
/// Where [`Header::table_fields`] are.
pub(crate) const TABLE_FIELDS_AT: u64 = 24;
/// Where [`Header::feature_fields`] are, in version 3.
pub(crate) const FEATURE_FIELDS_AT: u64 = 72;
/// Where the autoclear features are, in version 3.
pub(crate) const AUTOCLEAR_AT: u64 = 88;
/// Bytes of a version 2 header.
const V2_LENGTH: usize = 72;
/// Bytes of the shortest version 3 header.
const V3_LENGTH: usize = 104;
/// Bytes of the header that this driver writes, all fields that it knows included.
const LENGTH: usize = 112;
/// Longest name of a backing file.
const MAX_BACKING_NAME: u64 = 1023;

/// What is to be done with an image: a check must open what is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Reading or writing it.
    Use,
    /// Checking or repairing it: no refcount table, a bad snapshot table and tables upon each other are for it to find.
    Check,
}

/// The header of an image, checked: every number in it is in its range, and no table reaches past `i64::MAX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Version, cluster size, refcount width, and which features change the tables' form. Never changes.
    pub(crate) geometry: Geometry,
    /// The virtual size in bytes as it is in the header. The disk ends at the last whole sector: [`Header::disk_size`].
    pub(crate) size: u64,
    /// Entries of the active L1 table, at most 4 Mi.
    pub(crate) l1_entries: u32,
    /// Where it starts.
    pub(crate) l1_offset: HostOffset,
    /// Where the refcount table starts.
    pub(crate) reftable_offset: HostOffset,
    /// Its clusters, together at most 8 MiB. 0 only for a check.
    pub(crate) reftable_clusters: u32,
    /// How many snapshots there are, at most 65536 unless for a check.
    pub(crate) snapshots: u32,
    /// Where their table starts.
    pub(crate) snapshots_offset: HostOffset,
    /// Only bits that are known. [`features::incompatible`].
    pub(crate) incompatible: u64,
    /// Any bits. [`features::compatible`].
    pub(crate) compatible: u64,
    /// Any bits. [`features::autoclear`].
    pub(crate) autoclear: u64,
    /// How compressed clusters are compressed.
    pub(crate) compression: CompressionType,
    /// Fields after those that are known, kept.
    pub(crate) later_fields: Vec<u8>,
    /// The header extensions.
    pub(crate) extensions: Extensions,
    /// The backing file's name.
    pub(crate) backing_file: Option<Name>,
}

impl Header {
    /// Reads and checks the header of the image in `file`: at most the first cluster, 2 MiB.
    ///
    /// # Errors
    ///
    /// Those of [`Header::parse`]; [`Qcow2Error::Io`]; [`Qcow2Error::OutOfMemory`].
    pub(crate) async fn read(file: &impl ReadAt, purpose: Purpose) -> Result<Self, Qcow2Error> {
        let length = file.length();
        let mut first = [0; V2_LENGTH];
        if length < first.len() as u64 {
            return Err(too_short(length, first.len()));
        }
        file.read(Table::Header, 0, &mut first).await?;
        let cluster_size = cluster_size(&first)?;
        let mut cluster = Vec::new();
        cluster
            .try_reserve_exact(cluster_size)
            .map_err(|_| Qcow2Error::OutOfMemory {
                what: Table::Header,
                bytes: cluster_size as u64,
            })?;
        // An image may end inside its first cluster; there is nothing after that end.
        let there = usize::try_from(length).unwrap_or(usize::MAX);
        cluster.resize(cluster_size.min(there), 0);
        file.read(Table::Header, 0, &mut cluster).await?;
        Self::parse(&cluster, purpose)
    }

    /// Checks the header in `cluster`, the first cluster of an image, or as much of it as there is (QEMU's `qcow2_do_open`).
    ///
    /// Errors: [`Qcow2Error::BadMagic`], [`Qcow2Error::Version`], [`Qcow2Error::ClusterBits`], [`Qcow2Error::HeaderLength`],
    /// [`Qcow2Error::Encrypted`], [`Qcow2Error::IncompatibleFeatures`] by the names that the image has for them, and others for what is
    /// out of range. The corrupt and dirty bits are no errors here.
    pub(crate) fn parse(cluster: &[u8], purpose: Purpose) -> Result<Self, Qcow2Error> {
        let v2: &[u8; V2_LENGTH] = cluster
            .first_chunk()
            .ok_or_else(|| too_short(cluster.len() as u64, V2_LENGTH))?;
        let cluster_size = cluster_size(v2)?;
        let cluster = cluster.get(..cluster_size).unwrap_or(cluster);
        let version = be32(v2, 4);
        let later = if version == 2 {
            VersionFields::of_version_2()
        } else {
            VersionFields::parse(cluster, cluster_size)?
        };
        let backing_at = be64(v2, 8);
        let extensions_end = match backing_at {
            0 => cluster.len(),
            at => usize::try_from(at)
                .ok()
                .filter(|at| *at <= cluster_size)
                .ok_or(Qcow2Error::BackingNameOffset {
                    offset: at,
                    cluster_size: cluster_size as u64,
                })?
                .min(cluster.len()),
        };
        // A backing file name inside the fields leaves no room for extensions, as in QEMU.
        let area = cluster.get(later.length..extensions_end).unwrap_or(&[]);
        let unknown = later.incompatible & !incompatible::KNOWN;
        if unknown != 0 {
            return Err(Qcow2Error::IncompatibleFeatures {
                features: features::name_each(unknown, extensions::feature_names(area)),
            });
        }
        let compression = later.compression()?;
        let has = |feature| later.incompatible & feature != 0;
        let geometry = Geometry::new(
            version,
            be32(v2, 20),
            later.refcount_order,
            has(incompatible::EXTENDED_L2),
            has(incompatible::DATA_FILE),
        )?;
        match be32(v2, 32) {
            0 => {}
            method => return Err(Qcow2Error::Encrypted { method }),
        }
        if later.autoclear & autoclear::DATA_FILE_RAW != 0 && !geometry.data_file() {
            return Err(Qcow2Error::DataFileUnwanted);
        }
        let bitmaps = later.autoclear & autoclear::BITMAPS != 0;
        let header = Self {
            geometry,
            size: be64(v2, 24),
            l1_entries: be32(v2, 36),
            l1_offset: HostOffset(be64(v2, 40)),
            reftable_offset: HostOffset(be64(v2, 48)),
            reftable_clusters: be32(v2, 56),
            snapshots: be32(v2, 60),
            snapshots_offset: HostOffset(be64(v2, 64)),
            incompatible: later.incompatible,
            compatible: later.compatible,
            autoclear: later.autoclear,
            compression,
            later_fields: cluster.get(LENGTH..later.length).unwrap_or(&[]).to_vec(),
            extensions: Extensions::parse(area, &geometry, bitmaps)?,
            backing_file: backing_file(cluster, cluster_size, backing_at, be32(v2, 16))?,
        };
        header.check_tables(purpose)?;
        Ok(header)
    }

    /// The sizes and places of the tables that the header names.
    fn check_tables(&self, purpose: Purpose) -> Result<(), Qcow2Error> {
        let geometry = &self.geometry;
        let check = |what, offset: HostOffset, entries: u32, entry_size: u64, max_bytes: u64| {
            let max = max_bytes / entry_size;
            let entries = u64::from(entries);
            if entries > max {
                return Err(Qcow2Error::TableTooLarge { what, entries, max });
            }
            check_table(geometry, what, offset.0, entries * entry_size)
        };
        check(
            Table::RefcountTable,
            self.reftable_offset,
            self.reftable_clusters,
            geometry.cluster_size(),
            MAX_REFTABLE_BYTES,
        )?;
        check(
            Table::L1,
            self.l1_offset,
            self.l1_entries,
            TABLE_ENTRY_SIZE,
            MAX_L1_BYTES,
        )?;
        let needed = geometry.l1_entries_for(self.size);
        if needed > geometry.max_l1_entries() {
            return Err(Qcow2Error::SizeTooLarge {
                size: self.size,
                max: geometry.max_l1_entries().saturating_mul(geometry.l2_span()),
            });
        }
        if u64::from(self.l1_entries) < needed {
            return Err(Qcow2Error::TableTooSmall {
                what: Table::L1,
                entries: self.l1_entries.into(),
                needed,
            });
        }
        if purpose == Purpose::Check {
            return Ok(());
        }
        if self.reftable_clusters == 0 {
            return Err(Qcow2Error::TableTooSmall {
                what: Table::RefcountTable,
                entries: 0,
                needed: 1,
            });
        }
        check(
            Table::SnapshotTable,
            self.snapshots_offset,
            self.snapshots,
            SNAPSHOT_ENTRY_SIZE,
            SNAPSHOT_ENTRY_SIZE * u64::from(MAX_SNAPSHOTS),
        )
    }

    /// The refcount table and the active L1 table are in a file of `length` bytes, but for less than a cluster at its end, which reads as
    /// zeroes. More than that is what a check calls a corruption, and such an image must not be written to: clusters that are in use would seem
    /// to be free, and what is written would be far past the end.
    pub(crate) fn check_inside(&self, length: u64) -> Result<(), Qcow2Error> {
        let cluster = self.geometry.cluster_size();
        let tables = [
            (
                Table::RefcountTable,
                self.reftable_offset.0,
                u64::from(self.reftable_clusters) * cluster,
            ),
            (
                Table::L1,
                self.l1_offset.0,
                u64::from(self.l1_entries) * TABLE_ENTRY_SIZE,
            ),
        ];
        for (what, offset, bytes) in tables {
            if !is_inside(offset, bytes, length, cluster) {
                return Err(Qcow2Error::Outside {
                    what,
                    offset,
                    bytes,
                    end: length,
                });
            }
        }
        Ok(())
    }

    /// The length of the guest's disk in bytes: whole sectors, as in QEMU.
    pub(crate) const fn disk_size(&self) -> u64 {
        self.size & !511
    }

    /// The backing file's name. An empty one is none, as in QEMU.
    pub(crate) fn backing_file_name(&self) -> Option<&Name> {
        let name = self.backing_file.as_ref();
        name.filter(|name| !name.as_os_str().is_empty())
    }

    /// Refcounts may be wrong: the last user with lazy refcounts did not come to its end.
    pub(crate) const fn is_dirty(&self) -> bool {
        self.incompatible & incompatible::DIRTY != 0
    }

    /// The image must not be written to but by a repair.
    pub(crate) const fn is_corrupt(&self) -> bool {
        self.incompatible & incompatible::CORRUPT != 0
    }

    /// Refcounts may be written late.
    pub(crate) const fn lazy_refcounts(&self) -> bool {
        self.compatible & compatible::LAZY_REFCOUNTS != 0
    }

    /// The external data file is to stay a raw image of the disk.
    pub(crate) const fn data_file_raw(&self) -> bool {
        self.autoclear & autoclear::DATA_FILE_RAW != 0
    }

    /// Bytes 24..72, as they are on disk: size, L1 table, refcount table, snapshot table.
    pub(crate) fn table_fields(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        put(&mut bytes, 0, &self.size.to_be_bytes());
        put(&mut bytes, 12, &self.l1_entries.to_be_bytes()); // 8..12: not encrypted
        put(&mut bytes, 16, &self.l1_offset.0.to_be_bytes());
        put(&mut bytes, 24, &self.reftable_offset.0.to_be_bytes());
        put(&mut bytes, 32, &self.reftable_clusters.to_be_bytes());
        put(&mut bytes, 36, &self.snapshots.to_be_bytes());
        put(&mut bytes, 40, &self.snapshots_offset.0.to_be_bytes());
        bytes
    }

    /// Bytes 72..96, as they are on disk in version 3; version 2 has none.
    pub(crate) fn feature_fields(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        put(&mut bytes, 0, &self.incompatible.to_be_bytes());
        put(&mut bytes, 8, &self.compatible.to_be_bytes());
        put(&mut bytes, 16, &self.autoclear.to_be_bytes());
        bytes
    }

    /// The header with its extensions and names, as it is on disk (QEMU's `qcow2_update_header`). Fits in the first cluster.
    ///
    /// Errors: [`Qcow2Error::HeaderTooLong`] where it does not fit; [`Qcow2Error::NameLength`].
    pub(crate) fn serialise(&self) -> Result<Vec<u8>, Qcow2Error> {
        let version = self.geometry.version();
        let cluster_size = self.geometry.cluster_size();
        let mut bytes = vec![0; V2_LENGTH];
        put(&mut bytes, 0, &MAGIC.to_be_bytes());
        put(&mut bytes, 4, &version.to_be_bytes());
        put(&mut bytes, 20, &self.geometry.cluster_bits().to_be_bytes());
        put(&mut bytes, TABLE_FIELDS_AT as usize, &self.table_fields());
        if version >= 3 {
            bytes.resize(LENGTH, 0);
            put(
                &mut bytes,
                FEATURE_FIELDS_AT as usize,
                &self.feature_fields(),
            );
            put(
                &mut bytes,
                96,
                &self.geometry.refcount_order().to_be_bytes(),
            );
            put(&mut bytes, 104, &[compression_byte(self.compression)]);
            bytes.extend(&self.later_fields);
            let length = bytes.len() as u32; // a cluster at most, or it is refused below
            put(&mut bytes, 100, &length.to_be_bytes());
        }
        self.extensions.append_to(&mut bytes)?;
        if let Some(name) = &self.backing_file {
            let len = name.as_bytes().len() as u64;
            if len > MAX_BACKING_NAME {
                return Err(Qcow2Error::NameLength {
                    what: BACKING,
                    bytes: len,
                    max: MAX_BACKING_NAME,
                });
            }
            let at = bytes.len() as u64;
            put(&mut bytes, 8, &at.to_be_bytes());
            put(&mut bytes, 16, &(len as u32).to_be_bytes());
            bytes.extend(name.as_bytes());
        }
        if bytes.len() as u64 > cluster_size {
            return Err(Qcow2Error::HeaderTooLong {
                bytes: bytes.len() as u64,
                cluster_size,
            });
        }
        Ok(bytes)
    }
}

const BACKING: &str = "backing file";

/// The header's number for a compression type.
const fn compression_byte(kind: CompressionType) -> u8 {
    match kind {
        CompressionType::Zlib => 0,
        CompressionType::Zstd => 1,
    }
}

/// The cluster size in bytes, once it is sure that this is an image of a version that has it where we look.
fn cluster_size(first: &[u8; V2_LENGTH]) -> Result<usize, Qcow2Error> {
    if be32(first, 0) != MAGIC {
        return Err(Qcow2Error::BadMagic {
            found: be32(first, 0),
        });
    }
    let version = be32(first, 4);
    if !(2..=3).contains(&version) {
        return Err(Qcow2Error::Version { found: version });
    }
    let bits = be32(first, 20);
    if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&bits) {
        return Err(Qcow2Error::ClusterBits {
            found: bits,
            least: MIN_CLUSTER_BITS,
        });
    }
    Ok(1 << bits)
}

/// The backing file's name, which must end inside the first cluster.
fn backing_file(
    cluster: &[u8],
    cluster_size: usize,
    at: u64,
    len: u32,
) -> Result<Option<Name>, Qcow2Error> {
    if at == 0 {
        return Ok(None);
    }
    let room = (cluster_size as u64).saturating_sub(at); // at was checked: it is inside, or just past
    let max = room.min(MAX_BACKING_NAME);
    if u64::from(len) > max {
        return Err(Qcow2Error::NameLength {
            what: BACKING,
            bytes: len.into(),
            max,
        });
    }
    let name = usize::try_from(at).ok().and_then(|at| {
        let end = at.checked_add(usize::try_from(len).ok()?)?;
        cluster.get(at..end)
    });
    let name = name.ok_or(Qcow2Error::Truncated {
        what: Table::Header,
        bytes: cluster.len() as u64,
        needed: at.saturating_add(len.into()),
    })?;
    Ok(Some(Name::new(name)))
}

fn too_short(bytes: u64, needed: usize) -> Qcow2Error {
    Qcow2Error::Truncated {
        what: Table::Header,
        bytes,
        needed: needed as u64,
    }
}
