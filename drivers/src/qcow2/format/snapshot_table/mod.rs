//! The snapshot table: one entry of variable length for each snapshot, each at a multiple of 8 bytes from the table's start.
//!
//! ```text
//!    0  l1_table_offset u64                24  vm_clock_nsec u64
//!    8  l1_size u32                        32  vm_state_size u32 (0 where it needs more)
//!   12  id_str_size u16                    36  extra_data_size u32
//!   14  name_size u16                      40  extra data: vm_state_size u64, disk_size u64, icount u64, unknown ...
//!   16  date_sec u32, date_nsec u32            id, name
//! ```

use crate::qcow2::format::big_endian::{be16, be32, be64, put};
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::{
    Geometry, MAX_SNAPSHOTS, SNAPSHOT_ENTRY_SIZE, TABLE_ENTRY_SIZE,
};
use crate::qcow2::format::header::{Header, Purpose};
use crate::qcow2::format::name::Name;
use crate::qcow2::format::offset::{GuestOffset, HostOffset};
use crate::qcow2::format::position::check_table;
use crate::qcow2::format::read_at::ReadAt;

/// Longest table in bytes (QEMU's `QCOW_MAX_SNAPSHOTS_SIZE`).
pub(crate) const MAX_TABLE_BYTES: u64 = 64 << 20;
/// Most extra data of an entry in bytes (QEMU's `QCOW_MAX_SNAPSHOT_EXTRA_DATA`).
pub(crate) const MAX_EXTRA: usize = 1024;
/// Bytes of the extra data that is known.
pub(crate) const KNOWN_EXTRA: usize = 24;
/// Bytes of the table that are in memory at once: as many as the longest part of an entry that is read.
const WINDOW: usize = 64 << 10;

/// A snapshot as the table has it (QEMU's `QCowSnapshot`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Where its L1 table starts. Unchecked: [`Snapshot::check_l1`].
    pub(crate) l1_offset: HostOffset,
    /// How many entries its L1 table has. Unchecked.
    pub(crate) l1_entries: u32,
    /// Unique in the image; a decimal number where QEMU or this driver gave it.
    pub(crate) id: Name,
    /// The user's name for it.
    pub(crate) name: Name,
    /// When it was made, in seconds since 1970.
    pub(crate) date_sec: u32,
    /// Nanoseconds of the second.
    pub(crate) date_nsec: u32,
    /// How long the guest had run, in nanoseconds.
    pub(crate) vm_clock_nsec: u64,
    /// Bytes of the saved machine; 0 where there is none.
    pub(crate) vmstate_size: u64,
    /// The disk's size in bytes when it was made; the image's where the entry does not say.
    pub(crate) disk_size: u64,
    /// Instructions that the guest had executed.
    pub(crate) icount: Option<u64>,
    /// Bytes of extra data in the entry that was read. Version 3 wants 16 at least; what is written has [`KNOWN_EXTRA`] at least.
    pub(crate) extra_len: u32,
    /// Extra data after what is known, kept.
    pub(crate) unknown_extra: Vec<u8>,
}

/// The snapshots of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SnapshotTable {
    /// In the order of the table.
    pub(crate) snapshots: Vec<Snapshot>,
    /// Bytes of the table as it was read, up to the end of the last entry (QEMU's `snapshots_size`).
    pub(crate) bytes: u64,
    /// Only for a check: the entries whose extra data was more than allowed, and has been cut off.
    pub(crate) extra_dropped: Vec<u32>,
    /// Only for a check: the entries at the end that made the table too long, and have been left out.
    pub(crate) left_out: u32,
}

impl SnapshotTable {
    /// Reads the table that `header` names, entry by entry. What lies past the file's end reads as zeroes, as in QEMU. Extra data that is
    /// not kept is passed over and not read. Memory: [`WINDOW`] bytes and what is kept, at most [`MAX_TABLE_BYTES`] and the list.
    ///
    /// For [`Purpose::Check`] too much extra data and a table that is too long are mended in what is returned, and told there
    /// (QEMU's `qcow2_do_read_snapshots` with `repair`).
    ///
    /// # Errors
    ///
    /// [`Qcow2Error::TableTooLarge`], [`Qcow2Error::SnapshotEntry`], [`Qcow2Error::Io`].
    pub(crate) async fn read(
        source: &impl ReadAt,
        header: &Header,
        purpose: Purpose,
    ) -> Result<Self, Qcow2Error> {
        let place = (header.snapshots_offset.0, header.snapshots);
        Self::parse(source, place, header.disk_size(), purpose).await
    }

    /// Reads `count` entries from byte `at` of the file on. `disk_size` is the image's, for entries that have none of their own.
    async fn parse(
        bytes: &impl ReadAt,
        (at, count): (u64, u32),
        disk_size: u64,
        purpose: Purpose,
    ) -> Result<Self, Qcow2Error> {
        let mut window = Window::new(bytes, at);
        let mut table = Self::default();
        // What QEMU would write: extra data that was cut off does not count.
        let mut kept = 0_u64;
        for index in 0..count {
            let start = table.bytes.next_multiple_of(8);
            let fixed_end = start.saturating_add(SNAPSHOT_ENTRY_SIZE);
            let end = match fixed_end > MAX_READ {
                true => fixed_end,
                false => Lengths::of(window.get(start, SNAPSHOT_ENTRY_SIZE).await?).end(start),
            };
            if end > MAX_READ {
                match purpose {
                    Purpose::Use => return Err(too_large(end)),
                    Purpose::Check => table.left_out = count - index,
                }
                break;
            }
            let (mut snapshot, extra_len) = Snapshot::read(&mut window, start, disk_size).await?;
            let too_much = extra_len > MAX_EXTRA as u64;
            if too_much && purpose == Purpose::Use {
                return Err(Qcow2Error::SnapshotEntry {
                    index,
                    reason: "more than 1024 bytes of extra data",
                    value: extra_len,
                });
            }
            if too_much {
                snapshot.extra_len = MAX_EXTRA as u32;
            }
            kept = kept.next_multiple_of(8) + snapshot.kept_len();
            if kept > MAX_TABLE_BYTES {
                match purpose {
                    Purpose::Use => return Err(too_large(end)),
                    Purpose::Check => table.left_out = count - index,
                }
                break;
            }
            if too_much {
                table.extra_dropped.push(index);
            }
            table.bytes = end;
            table.snapshots.push(snapshot);
        }
        Ok(table)
    }

    /// The snapshot with this id, else the first with this name (QEMU's `find_snapshot_by_id_or_name`); its index.
    pub(crate) fn find(&self, id_or_name: &str) -> Option<usize> {
        let by_id = self.snapshots.iter().position(|s| s.id == *id_or_name);
        by_id.or_else(|| self.find_name(id_or_name))
    }

    /// The first snapshot with this name; its index.
    pub(crate) fn find_name(&self, name: &str) -> Option<usize> {
        self.snapshots.iter().position(|s| s.name == *name)
    }

    /// An id that no snapshot has: one more than the highest number that an id begins with (QEMU's `find_new_snapshot_id`). `None`
    /// where that is `u64::MAX`.
    pub(crate) fn new_id(&self) -> Option<Name> {
        let highest = self.snapshots.iter().map(|s| leading_number(&s.id)).max();
        let next = highest.unwrap_or(0).checked_add(1)?;
        Some(Name::new(next.to_string()))
    }
}

/// Furthest that the table may reach as it is on disk, extra data to be cut off included: QEMU's `INT_MAX`.
const MAX_READ: u64 = i32::MAX as u64;

fn too_large(bytes: u64) -> Qcow2Error {
    Qcow2Error::TableTooLarge {
        what: Table::SnapshotTable,
        entries: bytes,
        max: MAX_TABLE_BYTES,
    }
}

/// The number that `id` begins with, as `strtoul` reads it.
fn leading_number(id: &Name) -> u64 {
    let digits = id
        .as_bytes()
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u64, |n, digit| {
        n.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    })
}

/// A piece of the table in memory.
struct Window<'a, B> {
    bytes: &'a B,
    /// Where the table starts.
    table_at: u64,
    /// Its piece, and where in the table that starts.
    piece: Vec<u8>,
    start: u64,
}

impl<'a, B: ReadAt> Window<'a, B> {
    fn new(bytes: &'a B, table_at: u64) -> Self {
        Self {
            bytes,
            table_at,
            piece: Vec::new(),
            start: 0,
        }
    }

    /// `len` bytes of the table from `at` on, at most [`WINDOW`].
    async fn get(&mut self, at: u64, len: u64) -> Result<&[u8], Qcow2Error> {
        let end = self.start + self.piece.len() as u64;
        if at < self.start || at + len > end {
            self.piece.resize(WINDOW, 0);
            self.start = at;
            let place = self.table_at.saturating_add(at);
            let what = Table::SnapshotTable;
            self.bytes.read(what, place, &mut self.piece).await?;
        }
        let first = (at - self.start) as usize; // inside the window
        let piece = self.piece.get(first..).unwrap_or_default();
        Ok(piece.get(..len as usize).unwrap_or(piece))
    }
}

/// How long the parts of an entry are that follow its fixed fields, in their order.
#[derive(Clone, Copy)]
struct Lengths {
    extra: u64,
    id: u64,
    name: u64,
}

impl Lengths {
    fn of(fixed: &[u8]) -> Self {
        Self {
            extra: be32(fixed, 36).into(),
            id: be16(fixed, 12).into(),
            name: be16(fixed, 14).into(),
        }
    }

    /// The end of the entry that begins at `start`.
    fn end(self, start: u64) -> u64 {
        [SNAPSHOT_ENTRY_SIZE, self.extra, self.id, self.name]
            .into_iter()
            .fold(start, u64::saturating_add)
    }
}

impl Snapshot {
    /// The entry at `start` of the table, with its extra data up to [`MAX_EXTRA`], and how much extra data it has.
    async fn read(
        window: &mut Window<'_, impl ReadAt>,
        start: u64,
        disk_size: u64,
    ) -> Result<(Self, u64), Qcow2Error> {
        let mut fixed = [0; SNAPSHOT_ENTRY_SIZE as usize];
        fixed.copy_from_slice(window.get(start, SNAPSHOT_ENTRY_SIZE).await?);
        let lengths = Lengths::of(&fixed);
        let extra_at = start + SNAPSHOT_ENTRY_SIZE;
        let extra = lengths.extra.min(MAX_EXTRA as u64);
        let extra = window.get(extra_at, extra).await?.to_vec();
        let id_at = extra_at + lengths.extra;
        let id = Name::new(window.get(id_at, lengths.id).await?);
        let name = Name::new(window.get(id_at + lengths.id, lengths.name).await?);
        let field = |at: usize| (extra.len() >= at + 8).then(|| be64(&extra, at));
        let snapshot = Self {
            l1_offset: HostOffset(be64(&fixed, 0)),
            l1_entries: be32(&fixed, 8),
            id,
            name,
            date_sec: be32(&fixed, 16),
            date_nsec: be32(&fixed, 20),
            vm_clock_nsec: be64(&fixed, 24),
            vmstate_size: field(0).unwrap_or(be32(&fixed, 32).into()),
            disk_size: field(8).unwrap_or(disk_size),
            icount: field(16).filter(|count| *count != u64::MAX),
            extra_len: be32(&fixed, 36),
            unknown_extra: extra.get(KNOWN_EXTRA..).unwrap_or(&[]).to_vec(),
        };
        Ok((snapshot, lengths.extra))
    }

    /// Whether the entry that was read had the disk's size.
    pub(crate) fn has_disk_size(&self) -> bool {
        self.extra_len >= 16
    }

    /// Bytes of the entry with the extra data that it had.
    fn kept_len(&self) -> u64 {
        SNAPSHOT_ENTRY_SIZE + u64::from(self.extra_len) + self.names_len()
    }

    fn names_len(&self) -> u64 {
        (self.id.as_bytes().len() + self.name.as_bytes().len()) as u64
    }

    /// Its L1 table may be read: it starts at the start of a cluster, is not longer than 32 MiB, does not reach past `i64::MAX`, and its
    /// vmstate area is inside what can be addressed (QEMU's `qcow2_validate_table` on it).
    pub(crate) fn check_l1(&self, geometry: &Geometry) -> Result<(), Qcow2Error> {
        let what = Table::SnapshotL1;
        let entries = u64::from(self.l1_entries);
        let max = geometry.max_l1_entries();
        if entries > max {
            return Err(Qcow2Error::TableTooLarge { what, entries, max });
        }
        check_table(geometry, what, self.l1_offset.0, entries * TABLE_ENTRY_SIZE)?;
        self.vmstate_start(geometry).map(drop)
    }

    /// Where the saved machine starts in what its L1 table maps: past the disk as it was then.
    pub(crate) fn vmstate_start(&self, geometry: &Geometry) -> Result<GuestOffset, Qcow2Error> {
        let fits = geometry.l1_entries_for(self.disk_size) <= geometry.max_l1_entries();
        let start = geometry.vmstate_start(self.disk_size).filter(|_| fits);
        start.ok_or(Qcow2Error::SizeTooLarge {
            size: self.disk_size,
            max: geometry.max_l1_entries().saturating_mul(geometry.l2_span()),
        })
    }
}

/// The table of `snapshots` as it is on disk (QEMU's `qcow2_write_snapshots`). It ends with its last entry, without padding.
///
/// Errors: [`Qcow2Error::TableTooLarge`] for more than 65536 of them or 64 MiB; [`Qcow2Error::NameLength`] above 65535 bytes.
pub(crate) fn serialise(snapshots: &[Snapshot]) -> Result<Vec<u8>, Qcow2Error> {
    if snapshots.len() > MAX_SNAPSHOTS as usize {
        return Err(Qcow2Error::TableTooLarge {
            what: Table::SnapshotTable,
            entries: snapshots.len() as u64,
            max: MAX_SNAPSHOTS.into(),
        });
    }
    let mut table = Vec::new();
    for snapshot in snapshots {
        let entry = snapshot.to_bytes()?;
        table.resize(table.len().next_multiple_of(8), 0);
        table.extend(entry);
        if table.len() as u64 > MAX_TABLE_BYTES {
            return Err(too_large(table.len() as u64));
        }
    }
    Ok(table)
}

impl Snapshot {
    fn to_bytes(&self) -> Result<Vec<u8>, Qcow2Error> {
        let len = |name: &Name, what| {
            let bytes = name.as_bytes().len();
            u16::try_from(bytes).map_err(|_| Qcow2Error::NameLength {
                what,
                bytes: bytes as u64,
                max: u16::MAX.into(),
            })
        };
        let (id, name) = (self.id.as_bytes(), self.name.as_bytes());
        let extra = KNOWN_EXTRA + self.unknown_extra.len();
        // An older reader takes a state that it cannot measure for none.
        let short_size = u32::try_from(self.vmstate_size).unwrap_or(0);
        let mut bytes = vec![0; SNAPSHOT_ENTRY_SIZE as usize + KNOWN_EXTRA];
        put(&mut bytes, 0, &self.l1_offset.0.to_be_bytes());
        put(&mut bytes, 8, &self.l1_entries.to_be_bytes());
        put(
            &mut bytes,
            12,
            &len(&self.id, "snapshot (its id)")?.to_be_bytes(),
        );
        put(&mut bytes, 14, &len(&self.name, "snapshot")?.to_be_bytes());
        put(&mut bytes, 16, &self.date_sec.to_be_bytes());
        put(&mut bytes, 20, &self.date_nsec.to_be_bytes());
        put(&mut bytes, 24, &self.vm_clock_nsec.to_be_bytes());
        put(&mut bytes, 32, &short_size.to_be_bytes());
        put(&mut bytes, 36, &(extra as u32).to_be_bytes()); // the table's limit is far below
        put(&mut bytes, 40, &self.vmstate_size.to_be_bytes());
        put(&mut bytes, 48, &self.disk_size.to_be_bytes());
        put(
            &mut bytes,
            56,
            &self.icount.unwrap_or(u64::MAX).to_be_bytes(),
        );
        bytes.extend(&self.unknown_extra);
        bytes.extend(id);
        bytes.extend(name);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
