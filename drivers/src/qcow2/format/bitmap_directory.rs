//! The directory of the persistent bitmaps, read entry by entry: QEMU's `bitmap_list_load`.
//!
//! ```text
//!   an entry, at a multiple of 8 bytes from the directory's start:
//!     0  bitmap_table_offset u64                 16  type u8, granularity_bits u8, name_size u16
//!     8  bitmap_table_size u32, flags u32        20  extra_data_size u32
//!                                                24  extra data, name
//! ```

use super::big_endian::{be16, be32, be64};
use super::error::{Qcow2Error, Table};
use super::geometry::Geometry;
use super::header::Header;
use super::header::extensions::BitmapsExtension;
use super::read_at::ReadAt;

/// Bytes of an entry without extra data and name.
const ENTRY_SIZE: u64 = 24;
/// Bytes of the directory that are in memory at once. Larger than any entry.
const WINDOW: u64 = 64 << 10;
/// Longest bitmap table in entries (`BME_MAX_TABLE_SIZE`).
const MAX_TABLE: u32 = 0x800_0000;
/// Largest bitmap in bytes (`BME_MAX_PHYS_SIZE`).
const MAX_BYTES: u64 = 512 << 20;
/// Longest name in bytes (`BME_MAX_NAME_SIZE`).
const MAX_NAME: u16 = 1023;
/// The bitmap's content means nothing: it was not closed by who changed it, or the disk was changed without it.
pub(crate) const IN_USE: u32 = 1;
/// The flags that are known: in use, automatic.
const FLAGS: u32 = 3;
/// Where the flags are in an entry.
pub(crate) const FLAGS_AT: u64 = 12;
/// The only type: a bitmap of what has been written since some point in time.
const DIRTY_TRACKING: u8 = 1;

/// Reads the directory from its start to its end, [`WINDOW`] bytes at a time.
pub(crate) struct Directory<'a, R> {
    source: &'a R,
    place: BitmapsExtension,
    geometry: &'a Geometry,
    disk_size: u64,
    /// The next entry's number, and its first byte in the directory.
    index: u32,
    next: u64,
    /// Part of the directory, and its first byte.
    window: Vec<u8>,
    window_at: u64,
}

/// What this program needs of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BitmapEntry {
    /// Its first byte in the image file.
    pub(crate) at: u64,
    /// First byte and entries of the bitmap's table.
    pub(crate) table_at: u64,
    pub(crate) table_entries: u64,
    pub(crate) flags: u32,
}

impl<'a, R: ReadAt> Directory<'a, R> {
    /// The directory that `place` names in the image of `header`.
    pub(crate) fn new(source: &'a R, place: BitmapsExtension, header: &'a Header) -> Self {
        Self {
            source,
            place,
            geometry: &header.geometry,
            disk_size: header.disk_size(),
            index: 0,
            next: 0,
            window: Vec::new(),
            window_at: 0,
        }
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    ///
    /// [`Qcow2Error::BitmapEntry`] for an entry that QEMU refuses too, and for a directory that is shorter or longer than its entries;
    /// what the disk says.
    pub(crate) async fn next(&mut self) -> Result<Option<BitmapEntry>, Qcow2Error> {
        let rest = self.place.directory_size.saturating_sub(self.next);
        if self.index == self.place.bitmaps {
            return match rest {
                0 => Ok(None),
                rest => Err(self.wrong("the directory is longer than its entries", rest)),
            };
        }
        if rest < ENTRY_SIZE {
            return Err(self.wrong("the directory ends inside it", self.place.directory_size));
        }
        self.load().await?;
        let start = (self.next - self.window_at) as usize; // inside the window
        let fields = self.window.get(start..).unwrap_or_default();
        let (entry, size) = self.parse(fields)?;
        if size > rest {
            return Err(self.wrong("the directory ends inside it", self.place.directory_size));
        }
        self.index += 1;
        self.next += size;
        Ok(Some(entry))
    }

    /// Sees to it that the fixed fields of the next entry are in the window. The caller has checked that they are in the directory.
    async fn load(&mut self) -> Result<(), Qcow2Error> {
        let end = self.window_at + self.window.len() as u64;
        if self.next >= self.window_at && self.next + ENTRY_SIZE <= end {
            return Ok(());
        }
        let len = (self.place.directory_size - self.next).min(WINDOW);
        self.window.resize(len as usize, 0);
        self.window_at = self.next;
        let at = self.place.directory_offset.0 + self.next; // checked with the header
        let read = self
            .source
            .read(Table::BitmapDirectory, at, &mut self.window);
        read.await
    }

    /// The entry that begins with `fields`, and its bytes in the directory.
    fn parse(&self, fields: &[u8]) -> Result<(BitmapEntry, u64), Qcow2Error> {
        let extra = be32(fields, 20);
        if extra != 0 {
            return Err(self.wrong("it has extra data", extra.into()));
        }
        let (table_at, entries) = (be64(fields, 0), be32(fields, 8));
        let flags = be32(fields, FLAGS_AT as usize);
        let (kind, granularity) = (fields.get(16).copied(), fields.get(17).copied());
        let granularity = u32::from(granularity.unwrap_or(0));
        let name = be16(fields, 18);
        let bytes = u64::from(entries) * self.geometry.cluster_size();
        if entries == 0 || entries > MAX_TABLE || bytes > MAX_BYTES {
            return Err(self.wrong("the size of its table", entries.into()));
        }
        if table_at == 0 || !self.geometry.is_aligned(table_at) {
            return Err(self.wrong("the offset of its table", table_at));
        }
        if !(9..=31).contains(&granularity) {
            return Err(self.wrong("its granularity", granularity.into()));
        }
        if flags & !FLAGS != 0 {
            return Err(self.wrong("its flags", flags.into()));
        }
        if name > MAX_NAME {
            return Err(self.wrong("the length of its name", name.into()));
        }
        if kind != Some(DIRTY_TRACKING) {
            return Err(self.wrong("its type", kind.unwrap_or(0).into()));
        }
        // 512 MiB of bits of 2 GiB each fit.
        if flags & IN_USE == 0 && self.disk_size > (bytes * 8) << granularity {
            return Err(self.wrong("too small for the disk", bytes));
        }
        let entry = BitmapEntry {
            at: self.place.directory_offset.0 + self.next,
            table_at,
            table_entries: entries.into(),
            flags,
        };
        Ok((entry, (ENTRY_SIZE + u64::from(name)).next_multiple_of(8)))
    }

    fn wrong(&self, reason: &'static str, value: u64) -> Qcow2Error {
        Qcow2Error::BitmapEntry {
            index: self.index,
            reason,
            value,
        }
    }
}
