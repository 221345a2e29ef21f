//! The header extensions: what may follow the header's fields in the first cluster.
//!
//! ```text
//!   header_length   | type u32 | length u32 | data, padded to 8 | type | length | data ... | 0 | 0 | backing file name |
//!                                                                                                  ^ or the cluster's end
//! ```

use crate::qcow2::format::big_endian::{be32, be64, put};
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::Geometry;
use crate::qcow2::format::name::Name;
use crate::qcow2::format::offset::HostOffset;
use crate::qcow2::format::position::check_table;

/// Types of header extensions.
pub(crate) mod magic {
    pub(crate) const END: u32 = 0;
    pub(crate) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(crate) const FEATURE_NAMES: u32 = 0x6803_f857;
    pub(crate) const BITMAPS: u32 = 0x2385_2875;
    pub(crate) const ENCRYPTION: u32 = 0x0537_be77;
    pub(crate) const DATA_FILE: u32 = 0x4441_5441;
}

/// Longest name of a backing file's format, as QEMU opens it.
const MAX_FORMAT_NAME: usize = 15;
/// Most persistent bitmaps (QEMU's `QCOW2_MAX_BITMAPS`).
const MAX_BITMAPS: u32 = 65535;
/// Longest bitmap directory in bytes (QEMU's `QCOW2_MAX_BITMAP_DIRECTORY_SIZE`).
const MAX_BITMAP_DIRECTORY: u64 = 1024 * MAX_BITMAPS as u64;

/// The extensions of one image. Padding aside, what is not understood here is kept byte for byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// The format of the backing file.
    pub(crate) backing_format: Option<Name>,
    /// The external data file's name.
    pub(crate) data_file: Option<Name>,
    /// The persistent bitmaps, whether or not the autoclear bit says that they are up to date.
    pub(crate) bitmaps: Option<BitmapsExtension>,
    /// The feature name table as it is.
    pub(crate) feature_names: Option<Vec<u8>>,
    /// Those of other types, in their order.
    pub(crate) unknown: Vec<(u32, Vec<u8>)>,
}

/// Where the persistent bitmaps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BitmapsExtension {
    /// How many there are, 1..=65535.
    pub(crate) bitmaps: u32,
    /// Bytes of their directory, at most 64 MiB.
    pub(crate) directory_size: u64,
    /// Its first byte: the start of a cluster.
    pub(crate) directory_offset: HostOffset,
}

impl Extensions {
    /// Reads the extensions in `area`: what follows the header's fields, up to the backing file name or the cluster's end (QEMU's
    /// `qcow2_read_extensions`). Of two of one type the last one counts, as there. `bitmaps`: the autoclear bit says that the bitmaps are up to date; where not, theirs is skipped.
    pub(crate) fn parse(
        area: &[u8],
        geometry: &Geometry,
        bitmaps: bool,
    ) -> Result<Self, Qcow2Error> {
        let mut all = Self::default();
        for extension in Walk(area) {
            let (magic, data) = extension?;
            match magic {
                magic::BACKING_FORMAT => {
                    if data.len() > MAX_FORMAT_NAME {
                        return Err(Qcow2Error::NameLength {
                            what: "backing file's format",
                            bytes: data.len() as u64,
                            max: MAX_FORMAT_NAME as u64,
                        });
                    }
                    // An empty one is none, as in QEMU.
                    all.backing_format = (!data.is_empty()).then(|| Name::new(data));
                }
                magic::DATA_FILE => all.data_file = Some(Name::new(data)),
                magic::FEATURE_NAMES => all.feature_names = Some(data.to_vec()),
                magic::ENCRYPTION => {
                    return Err(Qcow2Error::Extension {
                        magic,
                        reason: "an encryption header in an image that is not encrypted",
                    });
                }
                magic::BITMAPS => {
                    let fields = BitmapsExtension::fields(data)?;
                    // Bitmaps that are out of date may say anything: they are dropped with the next header.
                    if bitmaps {
                        all.bitmaps = Some(BitmapsExtension::parse(fields, geometry)?);
                    }
                }
                _ => all.unknown.push((magic, data.to_vec())),
            }
        }
        Ok(all)
    }

    /// Appends all of them and the end mark to `header`, in the order in which QEMU writes them.
    pub(crate) fn append_to(&self, header: &mut Vec<u8>) -> Result<(), Qcow2Error> {
        if let Some(name) = &self.backing_format {
            append(header, magic::BACKING_FORMAT, name.as_bytes())?;
        }
        if let Some(name) = &self.data_file {
            append(header, magic::DATA_FILE, name.as_bytes())?;
        }
        if let Some(bitmaps) = &self.bitmaps {
            append(header, magic::BITMAPS, &bitmaps.to_bytes())?;
        }
        if let Some(table) = &self.feature_names {
            append(header, magic::FEATURE_NAMES, table)?;
        }
        for (magic, data) in &self.unknown {
            append(header, *magic, data)?;
        }
        append(header, magic::END, &[])
    }
}

/// The feature name table in `area`, however broken the rest is: it serves the message that the image cannot be opened.
pub(crate) fn feature_names(area: &[u8]) -> &[u8] {
    Walk(area)
        .map_while(Result::ok)
        .find(|(magic, _)| *magic == magic::FEATURE_NAMES)
        .map_or(&[], |(_, data)| data)
}

/// The extensions in an area one by one, up to the end mark, the area's end or the first that does not fit.
struct Walk<'a>(&'a [u8]);

impl<'a> Iterator for Walk<'a> {
    type Item = Result<(u32, &'a [u8]), Qcow2Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let area = std::mem::take(&mut self.0); // nothing comes after an error
        if area.is_empty() {
            return None;
        }
        let fits = |magic, len, max: usize| Qcow2Error::ExtensionLength {
            magic,
            len,
            max: max as u64,
        };
        let Some(([m0, m1, m2, m3, l0, l1, l2, l3], rest)) = area.split_first_chunk() else {
            return Some(Err(fits(0, 8, area.len()))); // no room for the fields of one more
        };
        let magic = u32::from_be_bytes([*m0, *m1, *m2, *m3]);
        let len = u32::from_be_bytes([*l0, *l1, *l2, *l3]);
        let data = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let Some(data) = data else {
            return Some(Err(fits(magic, len, rest.len())));
        };
        if magic == magic::END {
            return None;
        }
        self.0 = rest.get(data.len().next_multiple_of(8)..).unwrap_or(&[]);
        Some(Ok((magic, data)))
    }
}

fn append(header: &mut Vec<u8>, magic: u32, data: &[u8]) -> Result<(), Qcow2Error> {
    let len = u32::try_from(data.len()).map_err(|_| Qcow2Error::ExtensionLength {
        magic,
        len: u32::MAX,
        max: u64::from(u32::MAX),
    })?;
    header.extend(magic.to_be_bytes());
    header.extend(len.to_be_bytes());
    header.extend(data);
    // Extensions start at multiples of 8 of each other; the first follows the fields, whose length may be any.
    header.resize(
        header.len() + data.len().next_multiple_of(8) - data.len(),
        0,
    );
    Ok(())
}

impl BitmapsExtension {
    const SIZE: usize = 24;

    fn fields(data: &[u8]) -> Result<&[u8; Self::SIZE], Qcow2Error> {
        data.try_into().map_err(|_| Qcow2Error::Extension {
            magic: magic::BITMAPS,
            reason: "not 24 bytes long",
        })
    }

    fn parse(fields: &[u8; Self::SIZE], geometry: &Geometry) -> Result<Self, Qcow2Error> {
        let wrong = |reason| Qcow2Error::Extension {
            magic: magic::BITMAPS,
            reason,
        };
        let bitmaps = be32(fields, 0);
        let directory_size = be64(fields, 8);
        let directory_offset = be64(fields, 16);
        if be32(fields, 4) != 0 {
            return Err(wrong("its reserved field is not 0"));
        }
        if bitmaps == 0 {
            return Err(wrong("it says that there are no bitmaps"));
        }
        if bitmaps > MAX_BITMAPS || directory_size > MAX_BITMAP_DIRECTORY {
            return Err(Qcow2Error::TableTooLarge {
                what: Table::BitmapDirectory,
                entries: directory_size,
                max: MAX_BITMAP_DIRECTORY,
            });
        }
        check_table(
            geometry,
            Table::BitmapDirectory,
            directory_offset,
            directory_size,
        )?;
        Ok(Self {
            bitmaps,
            directory_size,
            directory_offset: HostOffset(directory_offset),
        })
    }

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        put(&mut bytes, 0, &self.bitmaps.to_be_bytes());
        put(&mut bytes, 8, &self.directory_size.to_be_bytes());
        put(&mut bytes, 16, &self.directory_offset.0.to_be_bytes());
        bytes
    }
}
