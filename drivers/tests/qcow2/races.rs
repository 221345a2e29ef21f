//! Races that image formats are known for, one at a time: each test holds the calls that make it happen.

use crate::rig::*;
use crate::walker::host_of;
use block_core::Op;
use block_core::test_disk::Record;
use block_drivers::qcow2::CreateOptions;
use block_drivers::qcow2::codec::CompressionType;

const KIB: u64 = 1024;

fn image(size: u64, cluster_size: u64) -> Setup {
    Setup {
        options: CreateOptions {
            size: Some(size),
            cluster_size,
            ..CreateOptions::default()
        },
        ..Setup::default()
    }
}

fn backed(size: u64, cluster_size: u64, backing: Vec<u8>) -> Setup {
    Setup {
        backing: Some(backing),
        ..image(size, cluster_size)
    }
}

/// The writes that are held now.
fn held_writes(rig: &Rig) -> Vec<Record> {
    let held = rig.disk.held().into_iter();
    held.filter(|record| record.op == Op::Write).collect()
}

fn release(rig: &Rig, record: &Record) {
    assert!(rig.disk.release(record.id));
    rig.go_on();
}

/// A guest that discards a cluster and flushes has not lost the old one before the flush is over: until then a crash may bring the old
/// mapping back, and it must not lead to another cluster's data.
#[test]
fn a_discarded_cluster_is_not_written_again_before_a_flush_has_made_the_discard_stable() {
    let rig = Rig::new(image(1 << 20, 64 * KIB));
    let (old, new) = (pattern(64 * KIB, 1), pattern(64 * KIB, 2));
    rig.write(0, &old);
    rig.flush();
    let place = host_of(&rig.disk.contents(), 0).expect("it is allocated");
    rig.disk.track_crashes();

    rig.discard(0, 64 * KIB);
    rig.disk.hold(Op::Flush, 0..u64::MAX);
    let flush = rig.start_flush();
    assert!(flush.is_pending());
    rig.disk.take_records();
    rig.write(512 * KIB, &new);
    let touched =
        |record: &Record| record.offset < place + 64 * KIB && place < record.offset + record.len;
    let writes = rig.disk.records_of(Op::Write);
    assert!(
        !writes.is_empty() && !writes.iter().any(touched),
        "{writes:?}"
    );

    // The new data is there, and the discard is not: the old mapping with the old bytes.
    let crashed = rig
        .disk
        .contents_after_crash(|record| record.len == 64 * KIB);
    let walker = crate::walker::Walker::new(&crashed, None);
    walker.check().assert_leaks_at_most("the flush is held");
    assert!(walker.read(&[])[..64 * 1024] == old);

    rig.let_all_go();
    flush.result().expect("it has ended").expect("flush");
    rig.write(256 * KIB, &new);
    assert_eq!(
        rig.disk.records_of(Op::Write).last().map(|r| r.offset),
        Some(place),
        "now it may be used again"
    );
    let stored = rig.close_and_check();
    assert!(stored[..64 * 1024].iter().all(|byte| *byte == 0));
    assert!(stored[512 * 1024..][..64 * 1024] == new && stored[256 * 1024..][..64 * 1024] == new);
}

/// Both read the backing cluster before either has written.
#[test]
fn two_writers_that_copy_one_backing_cluster_both_leave_their_bytes() {
    for order in [[0, 1], [1, 0]] {
        let backing = pattern(1 << 20, 3);
        let rig = Rig::new(backed(1 << 20, 64 * KIB, backing.clone()));
        rig.hold_all();
        let writes = [
            rig.start_write(10 * KIB, &[0xaa; 1000]),
            rig.start_write(40 * KIB, &[0xbb; 1000]),
        ];
        assert!(writes.iter().all(Started::is_pending));
        let mut pick = 0;
        while rig.release_any(order[pick % 2] + pick as u64 / 2) {
            pick += 1;
        }
        writes
            .iter()
            .for_each(|w| w.result().expect("it has ended").expect("write"));
        rig.let_all_go();
        let mut expected = backing;
        expected[10 * 1024..][..1000].fill(0xaa);
        expected[40 * 1024..][..1000].fill(0xbb);
        assert!(rig.read(0, 1 << 20) == expected);
        assert!(
            rig.close_and_check() == expected,
            "and one cluster was allocated, not two"
        );
    }
}

/// The second finds what the first has allocated.
#[test]
fn two_writers_in_one_new_cluster_share_it() {
    let rig = Rig::new(image(1 << 20, 64 * KIB));
    rig.write(512 * KIB, &[1]); // the tables are there
    rig.flush();
    rig.hold_all();
    let first = rig.start_write(4 * KIB, &[0xaa; 4096]);
    let second = rig.start_write(16 * KIB, &[0xbb; 4096]);
    let held = held_writes(&rig);
    assert_eq!(held.len(), 1, "the second waits for the first: {held:?}");
    assert_eq!(
        held[0].len,
        64 * KIB,
        "the whole cluster, with zeroes around it"
    );
    release(&rig, &held[0]);
    first.result().expect("it has ended").expect("write");
    let held = held_writes(&rig);
    assert_eq!(
        held.iter().map(|r| r.len).collect::<Vec<_>>(),
        [4096],
        "in place"
    );
    rig.let_all_go();
    second.result().expect("it has ended").expect("write");
    let stored = rig.close_and_check();
    assert!(stored[4096..8192].iter().all(|b| *b == 0xaa));
    assert!(stored[16 * 1024..][..4096].iter().all(|b| *b == 0xbb));
}

/// The cluster would be free, and another's, before the disk has read it.
#[test]
fn a_discard_waits_for_a_read_of_the_same_cluster() {
    let rig = Rig::new(image(1 << 20, 64 * KIB));
    let old = pattern(64 * KIB, 5);
    rig.write(0, &old);
    rig.flush();
    let place = host_of(&rig.disk.contents(), 0).expect("it is allocated");
    rig.disk.hold(Op::Read, place..place + 64 * KIB);
    let read = rig.start_read(0, 64 * KIB);
    let discard = rig.start_discard(0, 64 * KIB);
    let flush = rig.start_flush();
    flush
        .result()
        .expect("a flush waits for neither")
        .expect("flush");
    rig.write(512 * KIB, &[0xcc; 65_536]);
    assert!(read.is_pending() && discard.is_pending());
    rig.let_all_go();
    assert!(read.result().expect("it has ended").expect("read") == old);
    discard.result().expect("it has ended").expect("discard");
    rig.close_and_check();
}

/// An L2 table that has no COPIED flag (a crash leaves such) is copied by the first write, and its old cluster used for data, all of
/// it while a reader of another cluster waits for the old place to be read.
#[test]
fn a_reader_that_waits_for_a_table_which_is_moved_meanwhile_does_not_take_data_for_it() {
    const SPAN: u64 = 32 * KIB; // of an L2 table of 64 entries
    let mut rig = Rig::new(Setup {
        l2_cache: 1, // 8 slices
        ..image(20 * SPAN, 512)
    });
    let bytes = pattern(20 * SPAN, 6);
    rig.write(1024, &bytes[1024..]); // the second cluster is still to be allocated
    rig.close().expect("close");
    let mut image = rig.disk.contents();
    let l1_at = u64::from_be_bytes(image[40..48].try_into().expect("8 bytes")) as usize;
    image[l1_at] &= 0x7f;
    let table = u64::from_be_bytes(image[l1_at..l1_at + 8].try_into().expect("8 bytes"));
    rig.disk.set_contents(&image);
    rig.open();

    // The writer has read the old table and is about to write the new one.
    rig.disk.hold(Op::Write, 0..u64::MAX);
    let write = rig.start_write(512, &[0xaa; 512]);
    assert_eq!(held_writes(&rig).len(), 1);
    // The old one leaves the cache.
    for span in 1..12 {
        rig.read(span * SPAN, 512);
    }
    // A reader has looked up its place, and waits for the disk.
    rig.disk.hold(Op::Read, table..table + 512);
    let read = rig.start_read(10 * 512, 512);
    assert!(read.is_pending());
    assert_eq!(rig.disk.held().len(), 2, "a table written, a table read");
    // The table moves, the old place becomes free, and others use it.
    let reading = rig
        .disk
        .held()
        .into_iter()
        .find(|r| r.op == Op::Read)
        .expect("the read");
    rig.disk.stop_holding();
    release(&rig, &held_writes(&rig)[0]);
    write.result().expect("it has ended").expect("write");
    rig.flush();
    rig.disk.take_records();
    rig.zero(2 * SPAN, SPAN);
    rig.discard(2 * SPAN, SPAN);
    rig.write(2 * SPAN, &[0xdd; 512 * 8]);
    let reused = rig.disk.records_of(Op::Write);
    assert!(
        reused
            .iter()
            .any(|r| r.offset <= table && table < r.offset + r.len),
        "{table}: {reused:?}"
    );
    assert!(read.is_pending());
    release(&rig, &reading);
    assert!(read.result().expect("it has ended").expect("read") == bytes[5120..5632]);
}

/// 512-byte clusters with refcounts of 64 bits: the table has room for 2 MiB, and grows while eight writers allocate.
#[test]
fn the_refcount_table_moves_while_writers_allocate() {
    let size = 4 << 20;
    let mut setup = image(size, 512);
    setup.options.refcount_bits = 64;
    let rig = Rig::new(setup);
    let table = |rig: &Rig| rig.disk.contents()[48..60].to_vec();
    let before = table(&rig);
    let bytes = pattern(size, 7);
    rig.hold_all();
    let mut random = Random(9);
    let mut writes: Vec<Started<_>> = Vec::new();
    let pieces: Vec<u64> = (0..size).step_by(96 * 1024).collect();
    for at in pieces {
        let end = (at + 96 * KIB).min(size);
        writes.push(rig.start_write(at, &bytes[at as usize..end as usize]));
        while writes.iter().filter(|w| w.is_pending()).count() >= 8 {
            assert!(rig.release_any(random.below(1 << 20)));
        }
    }
    rig.let_all_go();
    writes
        .iter()
        .for_each(|w| w.result().expect("it has ended").expect("write"));
    rig.flush();
    assert!(table(&rig) != before, "the table has moved");
    assert!(rig.close_and_check() == bytes);
}

/// Every request needs a table that is not in memory.
#[test]
fn forty_tables_go_through_a_cache_of_eight() {
    const SPAN: u64 = 32 * KIB;
    let mut setup = image(40 * SPAN, 512);
    (setup.l2_cache, setup.refcount_cache) = (1, 1);
    let rig = Rig::new(setup);
    let mut expected = vec![0; 40 * SPAN as usize];
    let mut random = Random(11);
    for round in 0..6 {
        rig.hold_all();
        let writes: Vec<_> = (0..40)
            .map(|span| {
                let at = span * SPAN + random.below(60) * 512;
                let bytes = pattern(700, round << 8 | span);
                expected[at as usize..][..700].copy_from_slice(&bytes);
                rig.start_write(at, &bytes)
            })
            .collect();
        while rig.release_any(random.below(1 << 20)) {}
        writes
            .iter()
            .for_each(|w| w.result().expect("it has ended").expect("write"));
        rig.let_all_go();
    }
    assert!(rig.read(0, 40 * SPAN) == expected);
    assert!(rig.close_and_check() == expected);
}

/// A flush that is called while another one runs must not be answered by that one: it may have begun before the write.
#[test]
fn a_flush_called_during_a_flush_covers_what_was_written_between_them() {
    let rig = Rig::new(image(1 << 20, 64 * KIB));
    rig.write(0, &[1; 512]);
    rig.disk.track_crashes();
    rig.disk.hold(Op::Flush, 0..u64::MAX);
    let first = rig.start_flush();
    rig.disk.stop_holding();
    rig.write(512 * KIB, &[2; 512]);
    let second = rig.start_flush();
    assert!(first.is_pending() && second.is_pending());
    rig.let_all_go();
    first.result().expect("it has ended").expect("flush");
    second.result().expect("it has ended").expect("flush");
    let crashed = rig.disk.contents_after_crash(|_| false);
    let disk = crate::walker::Walker::new(&crashed, None).read(&[]);
    assert_eq!((disk[0], disk[512 * 1024]), (1, 2));
}

/// Compressed clusters are appended one after the other. When all of a host cluster has become free, it is another's.
#[test]
fn compressed_data_is_not_appended_to_a_cluster_that_has_changed_hands() {
    if !CompressionType::Zlib.is_built() {
        return;
    }
    let rig = Rig::new(image(1 << 20, 64 * KIB));
    let first = rig.start_compressed(0, &soft(64 * KIB, 1));
    first
        .result()
        .expect("nothing is held")
        .expect("compressed");
    rig.flush();
    rig.discard(0, 64 * KIB);
    rig.flush();
    let bytes = pattern(64 * KIB, 2);
    rig.write(256 * KIB, &bytes);
    let packed = soft(64 * KIB, 3);
    let second = rig.start_compressed(512 * KIB, &packed);
    second
        .result()
        .expect("nothing is held")
        .expect("compressed");
    assert!(rig.read(256 * KIB, 64 * KIB) == bytes);
    let stored = rig.close_and_check();
    assert!(stored[256 * 1024..][..65_536] == bytes && stored[512 * 1024..][..65_536] == packed);
}

/// Compressed clusters lie together, over the ends of host clusters, too.
#[test]
fn compressed_clusters_written_at_once_share_host_clusters() {
    if !CompressionType::Zlib.is_built() {
        return;
    }
    let rig = Rig::new(image(2 << 20, 64 * KIB));
    rig.hold_all();
    let data: Vec<_> = (0..32).map(|i| soft(64 * KIB, 100 + i)).collect();
    let writes: Vec<_> = (0..32)
        .map(|i| rig.start_compressed(i * 64 * KIB, &data[i as usize]))
        .collect();
    let mut random = Random(13);
    while rig.release_any(random.below(1 << 20)) {}
    writes
        .iter()
        .for_each(|w| w.result().expect("it has ended").expect("compressed"));
    rig.let_all_go();
    rig.flush();
    let used = rig.check().used;
    assert!(
        used < 5 + 28,
        "{used} host clusters for 32 that were compressed"
    );
    assert!(rig.close_and_check() == data.concat());
}
