//! The locks that a process has on a file, as the kernel lists them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The bytes of `file` that the process has read-locked, of whatever descriptor.
///
/// Read from `/proc/PID/fdinfo`, whose lines are those of `/proc/locks`. That list itself comes in pieces, and skips entries while other
/// processes unlock.
///
/// # Panics
/// When a lock is of another kind than QEMU's: open file description, read.
pub fn of_process(process: u32, file: &Path) -> BTreeSet<u64> {
    let inode = file.metadata().expect("the file").ino().to_string();
    let folder = format!("/proc/{process}/fdinfo");
    let mut bytes = BTreeSet::new();
    for descriptor in fs::read_dir(&folder).expect("the process") {
        let descriptor = descriptor.expect("a descriptor").path();
        // Other threads close theirs meanwhile.
        let Ok(info) = fs::read_to_string(&descriptor) else {
            continue;
        };
        for line in info.lines() {
            // lock: 1: OFDLCK  ADVISORY  READ -1 fe:00:1234 100 101
            let words: Vec<&str> = line.split_whitespace().collect();
            let ["lock:", _, kind, _, access, _, file, first, last] = words[..] else {
                continue;
            };
            if file.rsplit(':').next() == Some(&inode) {
                assert_eq!((kind, access), ("OFDLCK", "READ"), "{line}");
                let byte = |word: &str| word.parse::<u64>().expect("not to the end of the file");
                bytes.extend(byte(first)..=byte(last));
            }
        }
    }
    bytes
}
