//! The snapshot table: one entry of variable length for each snapshot, each at a multiple of 8 bytes from the table's start.
//!
//! ```text
//!    0  l1_table_offset u64                24  vm_clock_nsec u64
//!    8  l1_size u32                        32  vm_state_size u32 (0 where it needs more)
//!   12  id_str_size u16                    36  extra_data_size u32
//!   14  name_size u16                      40  extra data: vm_state_size u64, disk_size u64, icount u64, unknown ...
//!   16  date_sec u32, date_nsec u32            id, name
//! ```

use crate::qcow2::check::Source;
use crate::qcow2::error::{Qcow2Error, Table};
use crate::qcow2::geometry::{Geometry, TABLE_ENTRY_SIZE};
use crate::qcow2::header::{Header, Purpose, be16, be32, be64, check_table, put};
use crate::qcow2::name::Name;
use crate::qcow2::offset::{GuestOffset, HostOffset};

/// Bytes of an entry without extra data, id and name.
pub(crate) const ENTRY_SIZE: u64 = 40;
/// Most snapshots (QEMU's `QCOW_MAX_SNAPSHOTS`).
pub(crate) const MAX_SNAPSHOTS: u32 = 65536;
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
    /// Extra data behind what is known, kept.
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
        source: &Source<'_>,
        header: &Header,
        purpose: Purpose,
    ) -> Result<Self, Qcow2Error> {
        let place = (header.snapshots_offset.0, header.snapshots);
        Self::parse(source, place, header.disk_size(), purpose).await
    }

    /// Reads `count` entries from byte `at` of the file on. `disk_size` is the image's, for entries that have none of their own.
    async fn parse(
        bytes: &impl Bytes,
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
            let fixed_end = start.saturating_add(ENTRY_SIZE);
            let end = match fixed_end > MAX_READ {
                true => fixed_end,
                false => Lengths::of(window.get(start, ENTRY_SIZE).await?).end(start),
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

/// Something whose bytes can be read from anywhere; past its end there are zeroes.
trait Bytes {
    async fn read(&self, at: u64, dst: &mut [u8]) -> Result<(), Qcow2Error>;
}

impl Bytes for Source<'_> {
    async fn read(&self, at: u64, dst: &mut [u8]) -> Result<(), Qcow2Error> {
        Source::read(self, Table::SnapshotTable, at, dst).await
    }
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

impl<'a, B: Bytes> Window<'a, B> {
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
            self.bytes.read(place, &mut self.piece).await?;
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
        [ENTRY_SIZE, self.extra, self.id, self.name]
            .into_iter()
            .fold(start, u64::saturating_add)
    }
}

impl Snapshot {
    /// The entry at `start` of the table, with its extra data up to [`MAX_EXTRA`], and how much extra data it has.
    async fn read(
        window: &mut Window<'_, impl Bytes>,
        start: u64,
        disk_size: u64,
    ) -> Result<(Self, u64), Qcow2Error> {
        let mut fixed = [0; ENTRY_SIZE as usize];
        fixed.copy_from_slice(window.get(start, ENTRY_SIZE).await?);
        let lengths = Lengths::of(&fixed);
        let extra_at = start + ENTRY_SIZE;
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
        ENTRY_SIZE + u64::from(self.extra_len) + self.names_len()
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

    /// Where the saved machine starts in what its L1 table maps: behind the disk as it was then.
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
        let mut bytes = vec![0; ENTRY_SIZE as usize + KNOWN_EXTRA];
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
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    const DISK: u64 = 7 << 20;

    /// What a file has from its start on.
    struct Memory<'a>(&'a [u8]);

    impl Bytes for Memory<'_> {
        async fn read(&self, at: u64, dst: &mut [u8]) -> Result<(), Qcow2Error> {
            let rest = self.0.get(at as usize..).unwrap_or_default();
            let there = rest.len().min(dst.len());
            dst[..there].copy_from_slice(&rest[..there]);
            dst[there..].fill(0);
            Ok(())
        }
    }

    fn parse(bytes: &[u8], count: u32, purpose: Purpose) -> Result<SnapshotTable, Qcow2Error> {
        let memory = Memory(bytes);
        let parsed = pin!(SnapshotTable::parse(&memory, (0, count), DISK, purpose));
        match parsed.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(parsed) => parsed,
            Poll::Pending => panic!("memory is there at once"),
        }
    }

    fn read(bytes: &[u8], count: u32) -> SnapshotTable {
        parse(bytes, count, Purpose::Use).expect("read")
    }

    fn snapshot(id: &str, name: &str) -> Snapshot {
        Snapshot {
            l1_offset: HostOffset(3 << 16),
            l1_entries: 5,
            id: Name::new(id),
            name: Name::new(name),
            date_sec: 1_700_000_000,
            date_nsec: 999_999_999,
            vm_clock_nsec: u64::MAX - 3,
            vmstate_size: 1 << 33,
            disk_size: DISK + 512,
            icount: Some(17),
            extra_len: KNOWN_EXTRA as u32,
            unknown_extra: Vec::new(),
        }
    }

    /// An entry with any extra data, as others may have written it.
    fn entry(extra: &[u8], id: &str, name: &str) -> Vec<u8> {
        let mut bytes = vec![0; ENTRY_SIZE as usize];
        put(&mut bytes, 12, &(id.len() as u16).to_be_bytes());
        put(&mut bytes, 14, &(name.len() as u16).to_be_bytes());
        put(&mut bytes, 32, &77_u32.to_be_bytes());
        put(&mut bytes, 36, &(extra.len() as u32).to_be_bytes());
        bytes.extend(extra);
        bytes.extend(id.bytes());
        bytes.extend(name.bytes());
        bytes
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut all = vec![
            snapshot("1", "first"),
            snapshot("2", ""),
            snapshot("10", "ein längerer Name"),
        ];
        all[1].icount = None;
        all[2].unknown_extra = vec![1, 2, 3, 4, 5];
        all[2].extra_len += 5;
        let bytes = serialise(&all).expect("small");
        let table = read(&bytes, 3);
        assert_eq!(table.snapshots, all);
        assert_eq!(table.bytes, bytes.len() as u64);
    }

    #[test]
    fn the_32_bit_size_is_there_only_when_it_fits() {
        for (size, short) in [(0, 0), (u32::MAX.into(), u32::MAX), (1 << 32, 0)] {
            let mut one = snapshot("1", "a");
            one.vmstate_size = size;
            let bytes = serialise(&[one]).expect("small");
            assert_eq!(be32(&bytes, 32), short);
            assert_eq!(be64(&bytes, 40), size);
        }
    }

    #[test]
    fn shorter_extra_data_leaves_the_rest_to_the_header() {
        let mut extra = Vec::new();
        for value in [1_u64 << 40, 512, 3] {
            extra.extend(value.to_be_bytes());
        }
        for (len, vmstate, disk, icount) in [
            (0, 77, DISK, None),
            (7, 77, DISK, None),
            (8, 1 << 40, DISK, None),
            (15, 1 << 40, DISK, None),
            (16, 1 << 40, 512, None),
            (24, 1 << 40, 512, Some(3)),
        ] {
            let table = read(&entry(&extra[..len], "1", "a"), 1);
            let one = &table.snapshots[0];
            assert_eq!(
                (one.vmstate_size, one.disk_size, one.icount),
                (vmstate, disk, icount),
                "{len} bytes of extra data"
            );
            assert_eq!(one.extra_len as usize, len);
        }
    }

    #[test]
    fn an_icount_of_all_ones_is_none() {
        let mut extra = vec![0; 16];
        extra.extend(u64::MAX.to_be_bytes());
        assert_eq!(read(&entry(&extra, "1", "a"), 1).snapshots[0].icount, None);
    }

    #[test]
    fn too_much_extra_data_is_refused_and_for_a_check_cut_off() {
        let bytes = entry(&[9; MAX_EXTRA + 8], "1", "a");
        let error = Qcow2Error::SnapshotEntry {
            index: 0,
            reason: "more than 1024 bytes of extra data",
            value: 1032,
        };
        assert_eq!(parse(&bytes, 1, Purpose::Use), Err(error));
        let table = parse(&bytes, 1, Purpose::Check).expect("a check reads it");
        assert_eq!(table.extra_dropped, [0]);
        assert_eq!(table.bytes, bytes.len() as u64);
        assert_eq!(table.snapshots[0].unknown_extra.len(), 1000);
        assert_eq!(table.snapshots[0].id, *"1", "what follows is found");
        let most = entry(&[9; MAX_EXTRA], "1", "a");
        assert_eq!(read(&most, 1).snapshots[0].unknown_extra.len(), 1000);
    }

    #[test]
    fn a_table_that_is_cut_off_goes_on_with_zeroes() {
        let whole = serialise(&[snapshot("1", "first"), snapshot("2", "second")]).expect("small");
        for len in 0..whole.len() {
            let mut filled = whole[..len].to_vec();
            filled.resize(whole.len(), 0);
            let cut = parse(&whole[..len], 2, Purpose::Use);
            assert_eq!(cut, parse(&filled, 2, Purpose::Use), "{len} bytes");
        }
    }

    #[test]
    fn of_extra_data_that_is_not_kept_nothing_is_read() {
        struct Far(std::cell::Cell<u64>);
        impl Bytes for Far {
            async fn read(&self, at: u64, dst: &mut [u8]) -> Result<(), Qcow2Error> {
                self.0.set(self.0.get() + dst.len() as u64);
                let entry = {
                    let mut bytes = entry(&[], "1", "a");
                    put(&mut bytes, 36, &0x6000_0000_u32.to_be_bytes());
                    bytes
                };
                Memory(&entry).read(at, dst).await
            }
        }
        let far = Far(std::cell::Cell::new(0));
        let parsed = pin!(SnapshotTable::parse(&far, (0, 1), DISK, Purpose::Check));
        let Poll::Ready(table) = parsed.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("memory is there at once")
        };
        assert_eq!(table.expect("a check reads it").extra_dropped, [0]);
        assert!(
            far.0.get() <= 4 * WINDOW as u64,
            "{} bytes read",
            far.0.get()
        );
    }

    #[test]
    fn a_table_of_more_than_64_mib_is_refused_and_for_a_check_cut() {
        let long = "x".repeat(65535);
        let one = entry(&[], &long, &long);
        let mut bytes = Vec::new();
        let count = (MAX_TABLE_BYTES as usize / one.len()) as u32 + 2;
        for _ in 0..count {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes.extend(&one);
        }
        assert!(matches!(
            parse(&bytes, count, Purpose::Use),
            Err(Qcow2Error::TableTooLarge {
                what: Table::SnapshotTable,
                ..
            })
        ));
        let table = parse(&bytes, count, Purpose::Check).expect("a check reads it");
        assert_eq!(table.left_out + table.snapshots.len() as u32, count);
        assert!(table.left_out > 0 && table.bytes <= MAX_TABLE_BYTES);
    }

    #[test]
    fn extra_data_of_4_gib_is_refused_before_it_is_read_and_left_out_of_a_check() {
        let mut bytes = entry(&[], "1", "a");
        put(&mut bytes, 36, &u32::MAX.to_be_bytes());
        let result = parse(&bytes, 1, Purpose::Use);
        assert!(matches!(result, Err(Qcow2Error::TableTooLarge { .. })));
        let table = parse(&bytes, 1, Purpose::Check).expect("a check reads it");
        assert_eq!((table.left_out, table.snapshots.len()), (1, 0));
    }

    #[test]
    fn a_table_that_would_not_be_read_again_is_not_written() {
        let many = vec![Snapshot::default(); MAX_SNAPSHOTS as usize + 1];
        assert!(matches!(
            serialise(&many),
            Err(Qcow2Error::TableTooLarge { entries: 65537, .. })
        ));
        let mut long = snapshot("1", "");
        long.name = Name::new(vec![b'x'; 65536]);
        assert!(matches!(
            serialise(std::slice::from_ref(&long)),
            Err(Qcow2Error::NameLength { bytes: 65536, .. })
        ));
        long.name = Name::new(vec![b'x'; 65535]);
        assert!(matches!(
            serialise(&vec![long; 1100]),
            Err(Qcow2Error::TableTooLarge { .. })
        ));
    }

    #[test]
    fn an_l1_table_that_points_anywhere_is_refused_by_name() {
        let g = Geometry::new(3, 16, 4, false, false).expect("in range");
        let check = |change: fn(&mut Snapshot)| {
            let mut one = snapshot("1", "a");
            change(&mut one);
            one.check_l1(&g)
        };
        assert_eq!(check(|_| ()), Ok(()));
        let what = Table::SnapshotL1;
        assert_eq!(
            check(|s| s.l1_offset.0 += 512),
            Err(Qcow2Error::NotAligned {
                what,
                offset: 3 << 16 | 512
            })
        );
        assert_eq!(
            check(|s| s.l1_entries = u32::MAX),
            Err(Qcow2Error::TableTooLarge {
                what,
                entries: u32::MAX.into(),
                max: 4 << 20
            })
        );
        let far = check(|s| s.l1_offset.0 = u64::MAX << 16);
        assert!(matches!(far, Err(Qcow2Error::Outside { .. })));
        for size in [u64::MAX, i64::MAX as u64, 1 << 62] {
            let mut one = snapshot("1", "a");
            one.disk_size = size;
            let error = one.check_l1(&g);
            assert!(matches!(error, Err(Qcow2Error::SizeTooLarge { .. })));
        }
    }

    #[test]
    fn a_snapshot_is_found_by_id_before_name_and_a_new_id_is_one_more_than_the_highest() {
        let mut table = SnapshotTable::default();
        assert_eq!(table.new_id(), Some(Name::new("1")));
        table.snapshots = vec![snapshot("1", "2"), snapshot("2", "b"), snapshot("07x", "b")];
        assert_eq!(table.find("2"), Some(1));
        assert_eq!(table.find("b"), Some(1));
        assert_eq!(table.find_name("2"), Some(0));
        assert_eq!(table.find("c"), None);
        assert_eq!(table.new_id(), Some(Name::new("8")));
        table
            .snapshots
            .push(snapshot("99999999999999999999999", ""));
        assert_eq!(table.new_id(), None);
    }

    #[test]
    fn random_tables_are_read_or_refused_and_never_panic() {
        let good = serialise(&[snapshot("1", "first"), snapshot("2", "second")]).expect("small");
        let mut random = 7_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut read = 0;
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..next() % 4 {
                let at = next() as usize % bytes.len();
                bytes[at] = next() as u8;
            }
            bytes.truncate(next() as usize % 400);
            for purpose in [Purpose::Use, Purpose::Check] {
                let count = (next() % 4) as u32;
                if let Ok(table) = parse(&bytes, count, purpose) {
                    read += 1;
                    let _ = serialise(&table.snapshots);
                    let _ = table.new_id();
                    let g = Geometry::new(3, 9, 0, false, false).expect("in range");
                    for one in &table.snapshots {
                        let _ = one.check_l1(&g);
                    }
                }
            }
        }
        assert!(read > 1000, "only {read} tables were good enough to read");
    }
}
