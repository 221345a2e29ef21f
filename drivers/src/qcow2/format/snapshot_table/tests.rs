use super::*;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

const DISK: u64 = 7 << 20;

/// What a file has from its start on.
struct Memory<'a>(&'a [u8]);

impl ReadAt for Memory<'_> {
    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read(&self, _: Table, at: u64, dst: &mut [u8]) -> Result<(), Qcow2Error> {
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
    let mut bytes = vec![0; SNAPSHOT_ENTRY_SIZE as usize];
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
    impl ReadAt for Far {
        fn length(&self) -> u64 {
            u64::MAX
        }

        async fn read(&self, what: Table, at: u64, dst: &mut [u8]) -> Result<(), Qcow2Error> {
            self.0.set(self.0.get() + dst.len() as u64);
            let entry = {
                let mut bytes = entry(&[], "1", "a");
                put(&mut bytes, 36, &0x6000_0000_u32.to_be_bytes());
                bytes
            };
            Memory(&entry).read(what, at, dst).await
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
