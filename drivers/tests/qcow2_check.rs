//! The check and repair of qcow2 images by themselves; against QEMU's they are held in the workspace's tests.

use aio_task::AioContext;
use block_core::test_disk::{TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{BlockChild, DiskOffset, Errno, NewSnapshot, NodeBuilder, Op, Permissions};
use block_core::{WriteFlags, ZeroFlags};
use block_drivers::qcow2::{self, CheckReport, CreateOptions, Finding, MAX_FINDINGS};
use block_drivers::qcow2::{Qcow2Driver, Qcow2Error, Qcow2Options, RepairLevel, Table};
use std::collections::BTreeMap;

const SIZE: u64 = 2 << 20;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}

/// Runs `job` on a file with these bytes, and hands back what is in it afterwards.
fn with<T>(
    bytes: &[u8],
    job: impl AsyncFnOnce(&BlockChild, &TestDiskControl) -> T,
) -> (T, Vec<u8>) {
    let (disk, control) = TestDisk::new(TestDiskOptions {
        grows: true,
        ..TestDiskOptions::default()
    });
    control.set_contents(bytes);
    let context = AioContext::new().expect("a context");
    let handle = context.handle();
    let result = context.block_on(async {
        let node = NodeBuilder::new("file").open(&handle, disk);
        let node = node.await.expect("a node");
        let child = node.attach("qcow2", Permissions::writer());
        job(&child.expect("the only user"), &control).await
    });
    (result, control.contents())
}

fn check(bytes: &[u8]) -> Result<CheckReport, Qcow2Error> {
    let (report, after) = with(bytes, async |file, control| {
        let report = qcow2::check(file).await;
        let writes = control.records().into_iter().filter(|r| r.op != Op::Read);
        assert_eq!(writes.count(), 0, "a check only reads");
        report
    });
    assert!(after == bytes, "a check changes nothing");
    report
}

fn repair(bytes: &[u8], level: RepairLevel) -> (Result<CheckReport, Qcow2Error>, Vec<u8>) {
    with(bytes, async |file, _| qcow2::repair(file, level).await)
}

/// An image with data and `snapshots` snapshots, and changes between them.
fn image(options: &str, snapshots: u32) -> Vec<u8> {
    let (disk, control) = TestDisk::new(TestDiskOptions {
        grows: true,
        ..TestDiskOptions::default()
    });
    let context = AioContext::new().expect("a context");
    let handle = context.handle();
    context.block_on(async {
        let file = NodeBuilder::new("file").open(&handle, disk);
        let file = file.await.expect("a node");
        let attach = || file.attach("qcow2", Permissions::writer()).expect("alone");
        let mut create = CreateOptions::from_pairs(options).expect("options");
        create.size = Some(SIZE);
        qcow2::create(&attach(), None, &create)
            .await
            .expect("created");
        let driver = Qcow2Driver::open(attach(), Qcow2Options::default());
        let driver = driver.await.expect("open");
        let image = NodeBuilder::new("image").open(&handle, driver);
        let image = image.await.expect("a node");
        for i in 0..=u64::from(snapshots) {
            for at in (0..SIZE).step_by(200_000) {
                let bytes = vec![1 + i as u8; 9000];
                let at = DiskOffset((at + 3000 * i) % (SIZE - 9000));
                let written = image.pwrite(at, &bytes, WriteFlags::default());
                written.await.expect("written");
            }
            let zeroes = image.pwrite_zeroes(DiskOffset(600_000), 40_000, ZeroFlags::default());
            zeroes.await.expect("zeroed");
            if i < u64::from(snapshots) {
                let snapshot = NewSnapshot::new(format!("s{i}"));
                image.snapshot_create(snapshot).await.expect("a snapshot");
            }
        }
        image.close().await.expect("closed");
    });
    control.contents()
}

const KINDS: [(&str, u32); 7] = [
    ("", 2),
    ("cluster_size=512", 1),
    ("cluster_size=4k,refcount_bits=1", 0),
    ("cluster_size=1k,refcount_bits=64", 2),
    ("compat=0.10,cluster_size=4k", 2),
    ("extended_l2=on,cluster_size=16k", 1),
    ("preallocation=metadata,cluster_size=2M", 0),
];

#[test]
fn an_image_of_ours_is_clean_and_a_repair_leaves_every_byte() {
    for (options, snapshots) in KINDS {
        let bytes = image(options, snapshots);
        let report = check(&bytes).expect("checked");
        assert!(report.is_clean(), "{options}: {report:?}");
        assert!(report.findings.is_empty(), "{options}: {report:?}");
        assert!(report.image_end_offset <= bytes.len() as u64 + (2 << 20));
        for level in [RepairLevel::Leaks, RepairLevel::All] {
            let (repaired, after) = repair(&bytes, level);
            assert_eq!(repaired.as_ref(), Ok(&report), "{options}");
            assert!(after == bytes, "{options}: {level:?} has changed it");
        }
    }
}

#[test]
fn a_repair_that_writes_clears_the_autoclear_features_that_are_not_known_first() {
    let mut bytes = image("cluster_size=4k", 0);
    bytes[88] = 0x80;
    let (repaired, after) = repair(&bytes, RepairLevel::All);
    assert!(repaired.expect("repaired").is_clean());
    assert!(after == bytes, "nothing was wrong, so nothing is written");
    // One cluster is leaked.
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8")) as usize;
    let clusters = bytes.len().div_ceil(4096);
    let count = number(number(48)) + clusters * 2;
    bytes.resize((clusters + 1) * 4096, 0);
    bytes[count + 1] = 1;
    let ((report, writes), after) = with(&bytes, async |file, control| {
        let report = qcow2::repair(file, RepairLevel::Leaks).await;
        (report, control.records_of(Op::Write))
    });
    assert_eq!(report.expect("repaired").leaks_fixed, 1);
    assert_eq!((writes[0].offset, writes[0].len), (88, 8), "the first");
    assert_eq!(after[88..96], [0; 8]);
}

/// The table seems to reach 16 MiB past the file's end. It was not counted, so nothing is to be counted back.
#[test]
fn a_snapshot_entry_with_one_wrong_length_is_repaired_and_costs_no_cluster() {
    for (options, snapshots) in KINDS.into_iter().filter(|kind| kind.1 > 0) {
        let mut bytes = image(options, snapshots);
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8"));
        let entry = number(64) as usize;
        bytes[entry + 36] = 1;
        let (repaired, after) = repair(&bytes, RepairLevel::All);
        let report = repaired.expect("repaired");
        assert!(report.is_clean(), "{options}: {report:?}");
        let again = check(&after).expect("checked");
        assert!(again.is_clean() && again.leaks == 0, "{options}: {again:?}");
    }
}

/// Snapshots share L2 tables: with many of them the same tables are not read over and over.
#[test]
fn a_table_that_many_snapshots_share_is_read_as_often_as_one_that_none_shares() {
    let reads = |bytes: &[u8]| {
        let (reads, _) = with(bytes, async |file, control| {
            let report = qcow2::check(file).await.expect("checked");
            assert!(report.is_clean(), "{report:?}");
            let mut reads = BTreeMap::<_, u32>::new();
            for record in control.records_of(Op::Read) {
                *reads.entry(record.offset).or_default() += 1;
            }
            reads
        });
        reads
    };
    let most = |reads: &BTreeMap<u64, u32>| reads.values().copied().max();
    let (few, many) = (reads(&image("", 1)), reads(&image("", 40)));
    assert!(most(&many) <= most(&few), "{few:?}\n{many:?}");
    assert!(many.len() > few.len(), "there are more tables, after all");
}

/// Byte 72 has the incompatible features: bit 0 is dirty, bit 1 corrupt.
#[test]
fn the_dirty_and_the_corrupt_bit_are_cleared_when_nothing_is_wrong_and_only_then() {
    let mut bytes = image("cluster_size=4k", 1);
    bytes[79] |= 3;
    for level in [RepairLevel::Leaks, RepairLevel::All] {
        let (report, after) = repair(&bytes, level);
        assert!(report.expect("repaired").is_clean());
        assert_eq!(after[79] & 3, 0);
    }
    // The first L1 entry has a reserved bit now, which no repair can mean to know better.
    let l1 = usize::from_be_bytes(bytes[40..48].try_into().expect("eight"));
    bytes[l1 + 7] |= 1;
    let (report, after) = repair(&bytes, RepairLevel::All);
    let report = report.expect("repaired");
    assert_eq!((report.corruptions, after[79] & 3), (1, 3));
    let reserved = Finding::ReservedBits {
        what: Table::L2,
        table: l1 as u64,
        index: 0,
        raw: u64::from_be_bytes(bytes[l1..l1 + 8].try_into().expect("eight")),
    };
    assert_eq!(report.findings, [reserved]);
}

#[test]
fn more_findings_than_are_kept_are_counted_all_the_same() {
    let mut bytes = image("cluster_size=512", 0);
    let clean = bytes.clone();
    let reftable = usize::from_be_bytes(bytes[48..56].try_into().expect("eight"));
    let block = u64::from_be_bytes(bytes[reftable..reftable + 8].try_into().expect("eight"));
    bytes[block as usize..block as usize + 512].fill(0);
    let report = check(&bytes).expect("checked");
    assert_eq!(report.findings.len(), MAX_FINDINGS);
    assert!(report.corruptions > MAX_FINDINGS as u64, "{report:?}");
    let (report, after) = repair(&bytes, RepairLevel::All);
    let report = report.expect("repaired");
    assert!(report.is_clean(), "{report:?}");
    assert!(after == clean, "it is as it was before the damage");
}

#[test]
fn a_sparse_file_of_a_hundred_million_clusters_is_checked_by_what_is_in_it() {
    let (disk, control) = TestDisk::new(TestDiskOptions {
        grows: true,
        ..TestDiskOptions::default()
    });
    control.set_contents(&image("", 1));
    let context = AioContext::new().expect("a context");
    let handle = context.handle();
    context.block_on(async {
        let node = NodeBuilder::new("file").open(&handle, disk);
        let node = node.await.expect("a node");
        let file = node.attach("qcow2", Permissions::writer()).expect("alone");
        for (len, fits) in [(8_u64 << 40, true), (1 << 47, false), (1 << 60, false)] {
            let to = block_core::Truncate {
                len,
                exact: true,
                preallocation: Default::default(),
            };
            file.truncate(to).await.expect("longer");
            match qcow2::check(&file).await {
                Ok(report) => assert!(fits && report.is_clean(), "{len}: {report:?}"),
                Err(Qcow2Error::TableTooLarge { entries, .. }) => {
                    assert!(!fits && entries == len >> 16, "{len}");
                }
                Err(error) => panic!("{len}: {error}"),
            }
        }
    });
}

#[test]
fn a_file_that_cannot_be_read_or_written_is_an_error_of_the_file() {
    let mut leaky = image("cluster_size=4k", 1);
    let reftable = usize::from_be_bytes(leaky[48..56].try_into().expect("eight"));
    let block = u64::from_be_bytes(leaky[reftable..reftable + 8].try_into().expect("eight"));
    let last = leaky.len() / 4096 - 1;
    leaky[block as usize + 2 * last + 1] += 1; // of two bytes, big-endian: one reference too many
    let mut failed = 0;
    for op in [Op::Read, Op::Write, Op::Flush] {
        for nth in 0.. {
            let (fired, _) = with(&leaky, async |file, control| {
                control.fail_nth(op, nth, Errno::IO);
                let report = qcow2::repair(file, RepairLevel::Leaks).await;
                match (control.faults_fired(), report) {
                    (0, Ok(report)) => assert!(report.is_clean() && report.leaks_fixed == 1),
                    (_, Err(error)) => assert_eq!(error.errno(), Errno::IO, "{op:?} {nth}"),
                    (_, Ok(report)) => panic!("{op:?} {nth}: {report:?}"),
                }
                control.faults_fired()
            });
            if fired == 0 {
                break;
            }
            failed += 1;
        }
    }
    assert!(failed > 10, "only {failed} calls failed");
}

/// Puts something wrong into one or two fields, most of them in tables.
fn damage(image: &mut [u8], tables: &[u64], random: &mut Random) {
    let len = image.len() as u64;
    for _ in 0..1 + random.below(2) {
        let table = |random: &mut Random| tables[random.below(tables.len() as u64) as usize];
        let at = match random.below(4) {
            0 => 24 + random.below(48),
            _ => table(random) + 8 * random.below(64),
        };
        let at = at.min(len - 8) as usize;
        let value = match random.below(7) {
            0 => 0,
            1 => u64::MAX,
            2 => len.next_multiple_of(512),
            3 => 1 << random.below(64),
            4 => table(random),
            5 => (1 << 63) | table(random),
            _ => random.below(u64::MAX),
        };
        let value = value.to_be_bytes();
        match random.below(3) {
            0 => image[at] ^= 1 << random.below(8),
            1 => image[at..at + 4].copy_from_slice(&value[4..]),
            _ => image[at..at + 8].copy_from_slice(&value),
        }
    }
}

#[test]
fn whatever_is_in_the_tables_a_repair_ends_and_tells_what_is_left() {
    for (options, snapshots) in KINDS {
        let sound = image(options, snapshots);
        let cluster = 1_usize << sound[23];
        // Clusters with few bytes are tables, not the data that is written here.
        let table = |at: &usize| {
            let cluster = &sound[*at..(*at + cluster).min(sound.len())];
            let full = cluster.iter().filter(|byte| **byte != 0).count();
            full != 0 && full < cluster.len() / 2
        };
        let tables: Vec<u64> = (0..sound.len())
            .step_by(cluster)
            .filter(table)
            .map(|at| at as u64)
            .collect();
        let (mut clean, mut refused) = (0, 0);
        for seed in 0..100 {
            let mut random = Random(seed);
            let mut bytes = sound.clone();
            damage(&mut bytes, &tables, &mut random);
            let before = check(&bytes);
            let (Ok(report), after) = repair(&bytes, RepairLevel::All) else {
                refused += 1;
                continue;
            };
            let told =
                check(&after).unwrap_or_else(|e| panic!("{options} {seed}: {e:?} {report:?}"));
            let left = |r: &CheckReport| (r.corruptions, r.leaks, r.image_end_offset);
            assert_eq!(left(&told), left(&report), "{options} {seed}: {before:?}");
            if report.is_clean() {
                clean += 1;
                let (again, unchanged) = repair(&after, RepairLevel::All);
                let again = again.expect("repaired");
                assert_eq!((again.corruptions_fixed, again.leaks_fixed), (0, 0));
                assert!(
                    unchanged == after,
                    "{options} {seed}: there was nothing to do"
                );
            }
        }
        assert!(clean > 30, "{options}: only {clean} were repaired");
        assert!(refused < 50, "{options}: {refused} could not be read");
    }
}
