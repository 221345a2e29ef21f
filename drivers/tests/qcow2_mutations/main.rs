//! Images with a wrong field, by the thousand: what can be read before a repair is read after it, also when new clusters have been written,
//! and what a check calls sound can be opened, read and written.
//!
//! Each image follows from its seed. A sample runs with every test; more, or one again:
//!
//! ```console
//! QCOW2_MUTATIONS=0..20000 cargo test -p block-drivers --test qcow2_mutations -- --nocapture
//! ```

mod images; // sound ones, and what is changed in them
mod readable; // all that can be read of one
mod shared; // which clusters are metadata too

use crate::images::{KINDS, damaged, image};
use crate::readable::{Disk, Readable};
use crate::shared::Metadata;
use block_core::Errno;
use block_drivers::qcow2::{self, CheckReport, Finding, RepairLevel};
use std::ops::Range;

/// How many seeds run with every test.
const SAMPLE: u64 = 700;

fn seeds() -> Range<u64> {
    let Ok(asked) = std::env::var("QCOW2_MUTATIONS") else {
        return 0..SAMPLE;
    };
    let number = |text: &str| {
        text.parse()
            .expect("QCOW2_MUTATIONS: a number, or two as in 0..9")
    };
    match asked.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&asked)..number(&asked) + 1,
    }
}

/// What has been seen, so that the test cannot pass by looking at nothing.
#[derive(Debug, Default)]
struct Counts {
    images: u64,
    readable: u64,
    repaired: u64,
    clean_and_opened: u64,
    opened_dirty: u64,
    /// Clusters that changed, and that are metadata of the damaged image too.
    shared: u64,
    pieces_compared: u64,
}

#[test]
fn what_is_read_before_a_repair_is_read_after_it_and_what_is_sound_can_be_used() {
    let sound: Vec<Vec<u8>> = KINDS
        .iter()
        .map(|(_, options, n)| image(options, *n))
        .collect();
    let mut counts = Counts::default();
    let seeds = seeds();
    let whole_sample = seeds.end - seeds.start >= SAMPLE;
    for seed in seeds {
        let kind = seed as usize % KINDS.len();
        let bytes = damaged(&sound[kind], seed);
        let what = format!("seed {seed}, {}", KINDS[kind].0);
        let mut one = One {
            what: &what,
            bytes: &bytes,
            counts: &mut counts,
        };
        one.check_and_open_agree();
        one.repairs_keep_what_is_read();
        counts.images += 1;
    }
    println!("{counts:?}");
    if whole_sample {
        assert!(counts.readable > counts.images / 3, "{counts:?}");
        assert!(counts.repaired > counts.images / 2, "{counts:?}");
        assert!(counts.clean_and_opened > counts.images / 20, "{counts:?}");
        assert!(counts.opened_dirty > counts.images / 10, "{counts:?}");
        assert!(counts.shared < counts.pieces_compared / 100, "{counts:?}");
    }
}

/// One damaged image.
struct One<'a> {
    what: &'a str,
    bytes: &'a [u8],
    counts: &'a mut Counts,
}

impl One<'_> {
    fn check(&self, bytes: &[u8]) -> Option<CheckReport> {
        Disk::new(bytes).with(async |file| qcow2::check(file).await.ok())
    }

    /// Nothing wrong, as a check says: then every byte can be read, and new ones written.
    fn check_and_open_agree(&mut self) {
        let what = self.what;
        let harmless = |f: &Finding| matches!(f, Finding::Leaked { .. } | Finding::Copied { .. });
        let sound = self.check(self.bytes).is_some_and(|report| {
            let nothing = report.corruptions == 0 && report.check_errors == 0;
            nothing && report.findings.iter().all(harmless)
        });
        if !sound || is_marked_corrupt(self.bytes) {
            return;
        }
        let read = Readable::of(self.bytes).unwrap_or_else(|e| panic!("{what}: not opened: {e}"));
        read.assert_whole(what);
        let mut disk = Disk::new(self.bytes);
        let written = disk.write_new_clusters();
        written.unwrap_or_else(|e| panic!("{what}: not written: {e}"));
        let after = disk.contents();
        self.assert_kept(&read, &after, "written to");
        self.counts.clean_and_opened += 1;
    }

    fn repairs_keep_what_is_read(&mut self) {
        let Ok(before) = Readable::of(self.bytes) else {
            return; // nothing was readable
        };
        self.counts.readable += 1;
        for level in [RepairLevel::Leaks, RepairLevel::All] {
            let mut disk = Disk::new(self.bytes);
            let Ok(report) = disk.with(async |file| qcow2::repair(file, level).await) else {
                continue;
            };
            self.counts.repaired += 1;
            let repaired = disk.contents();
            self.assert_kept(&before, &repaired, &format!("repaired ({level:?})"));
            // Clusters with too few references stay so if leaks alone are repaired, and the report says it.
            if level == RepairLevel::All || report.corruptions == 0 {
                self.goes_on(&before, &repaired, &format!("written to after {level:?}"));
            }
        }
        if let Some(dirty) = marked_dirty(self.bytes) {
            self.counts.opened_dirty += 1;
            self.goes_on(&before, &dirty, "opened dirty and written to");
        }
    }

    /// New clusters are written, if it can be opened for that, and what was read before is there still.
    fn goes_on(&mut self, before: &Readable, image: &[u8], how: &str) {
        let mut disk = Disk::new(image);
        match disk.write_new_clusters() {
            Ok(()) => {}
            Err(error) => assert_ne!(error.errno(), Errno::NOMEM, "{}: {how}", self.what),
        }
        let after = disk.contents();
        self.assert_kept(before, &after, how);
    }

    /// Puts the image where `QCOW2_MUTATIONS_KEEP` says, to be looked at.
    fn keep(&self, after: &[u8]) {
        if let Some(folder) = std::env::var_os("QCOW2_MUTATIONS_KEEP") {
            let folder = std::path::PathBuf::from(folder);
            for (name, bytes) in [("damaged", self.bytes), ("after", after)] {
                std::fs::write(folder.join(name), bytes).expect("written");
            }
        }
    }

    /// All that was read is read from `after` too, but for clusters that are metadata as well.
    fn assert_kept(&mut self, before: &Readable, after: &[u8], how: &str) {
        let what = self.what;
        let now = Readable::of(after).unwrap_or_else(|e| panic!("{what}: {how}: not opened: {e}"));
        self.counts.pieces_compared += before.pieces();
        let lost = before.lost_in(&now);
        if lost.is_empty() {
            return;
        }
        self.keep(after);
        let metadata = Metadata::of(self.bytes);
        for piece in lost {
            let hosts = metadata.hosts(&piece);
            let shared = hosts.iter().any(|host| metadata.is_metadata(*host));
            assert!(
                shared,
                "{what}: {how}: {piece:?} is lost; it was at {hosts:x?}"
            );
            self.counts.shared += 1;
        }
    }
}

fn is_marked_corrupt(bytes: &[u8]) -> bool {
    bytes[7] == 3 && bytes[79] & 2 != 0
}

/// The same, as its last user left it who did not come to close it; version 2 images cannot say so.
fn marked_dirty(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut dirty = bytes.to_vec();
    dirty[79] |= 1;
    (bytes[7] == 3).then_some(dirty)
}
