//! The feature bits of the header, and the table in which an image names them.

use crate::qcow2::format::error::Feature;

/// Bits that an implementation must know, or not open the image.
pub(crate) mod incompatible {
    /// Refcounts may be wrong: check and repair before use.
    pub(crate) const DIRTY: u64 = 1 << 0;
    /// The image is corrupt: no writes but a repair's.
    pub(crate) const CORRUPT: u64 = 1 << 1;
    /// Guest clusters are in an external data file.
    pub(crate) const DATA_FILE: u64 = 1 << 2;
    /// The compression type is not zlib.
    pub(crate) const COMPRESSION: u64 = 1 << 3;
    /// L2 entries are extended: clusters have subclusters.
    pub(crate) const EXTENDED_L2: u64 = 1 << 4;
    /// All that this driver knows.
    pub(crate) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Bits that may be ignored.
pub(crate) mod compatible {
    /// Refcounts may be written late, with the dirty bit set.
    pub(crate) const LAZY_REFCOUNTS: u64 = 1 << 0;
}

/// Bits that a writer of the image must clear if it does not know them.
pub(crate) mod autoclear {
    /// The persistent bitmaps are up to date.
    pub(crate) const BITMAPS: u64 = 1 << 0;
    /// The external data file is a raw image of the disk.
    pub(crate) const DATA_FILE_RAW: u64 = 1 << 1;
    /// All that this driver knows.
    pub(crate) const KNOWN: u64 = BITMAPS | DATA_FILE_RAW;
}

/// Bytes of one entry of the feature name table.
const ENTRY: usize = 48;

/// The names that QEMU 10 writes into a new image: which field (0 incompatible, 1 compatible, 2 autoclear), which bit, the name.
const NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The feature name table of a new image.
pub(crate) fn name_table() -> Vec<u8> {
    let mut table = Vec::with_capacity(NAMES.len() * ENTRY);
    for (field, bit, name) in NAMES {
        table.extend([field, bit]);
        table.extend(name.bytes());
        table.resize(table.len().next_multiple_of(ENTRY), 0);
    }
    table
}

/// Each bit of `bits`, which are incompatible features, with the name that the image's `table` gives it.
pub(crate) fn name_each(bits: u64, table: &[u8]) -> Vec<Feature> {
    (0..64)
        .filter(|bit| bits >> bit & 1 != 0)
        .map(|bit| Feature {
            bit,
            name: name_of(bit, table),
        })
        .collect()
}

/// What `table` calls the incompatible feature `bit`.
fn name_of(bit: u32, table: &[u8]) -> Option<String> {
    table.chunks_exact(ENTRY).find_map(|entry| {
        let (place, name) = entry.split_at(2);
        if place != [0, bit as u8] {
            return None;
        }
        let name = name.split(|byte| *byte == 0).next()?;
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    })
}
