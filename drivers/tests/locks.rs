//! The bytes that are locked, as the kernel lists them, and who keeps whom out inside one process.
#![cfg(target_os = "linux")]

use aio_task::{AioContext, WorkerPool};
use block_core::{BlockDriver, BlockError, Cause, Op, Permissions, Perms};
use block_drivers::{FileDriver, FileOptions, LockConflict, LockReason, Locking, OpenError};
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Bench {
    context: AioContext,
    workers: WorkerPool,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            context: AioContext::new().expect("a context"),
            workers: WorkerPool::new(NonZeroUsize::MIN),
            folder: tempfile::tempdir().expect("a folder"),
        };
        std::fs::write(bench.path(), b"guest").expect("a file");
        bench
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn options(&self, permissions: Permissions) -> FileOptions {
        let writes =
            permissions.perm.contains(Perms::WRITE) || permissions.perm.contains(Perms::RESIZE);
        FileOptions {
            read_only: !writes,
            permissions,
            locking: Locking::On,
            ..FileOptions::writer(self.workers.clone())
        }
    }

    fn open(&self, options: FileOptions) -> Result<FileDriver, OpenError> {
        self.context
            .block_on(FileDriver::open(self.path(), options))
    }
}

/// The bytes of a file that this process has locked, as the kernel lists them.
///
/// From `/proc/self/fdinfo`, whose lines are those of `/proc/locks`; that list itself skips entries while other tests unlock.
fn locked(path: &Path) -> BTreeSet<u64> {
    let inode = path.metadata().expect("the file").ino().to_string();
    let mut bytes = BTreeSet::new();
    for descriptor in std::fs::read_dir("/proc/self/fdinfo").expect("/proc") {
        // Other tests close theirs meanwhile.
        let descriptor = descriptor.expect("a descriptor").path();
        let Ok(info) = std::fs::read_to_string(descriptor) else {
            continue;
        };
        for line in info.lines() {
            // lock: 1: OFDLCK ADVISORY  READ -1 fe:00:1234 100 101
            let words: Vec<&str> = line.split_whitespace().collect();
            let ["lock:", _, kind, _, access, _, file, first, last] = words[..] else {
                continue;
            };
            if file.rsplit(':').next() == Some(&inode) {
                assert_eq!((kind, access), ("OFDLCK", "READ"), "{line}");
                let byte = |word: &str| word.parse::<u64>().expect("not to the end");
                bytes.extend(byte(first)..=byte(last));
            }
        }
    }
    bytes
}

/// Every pair of permission sets.
fn all_permissions() -> Vec<Permissions> {
    let sets: Vec<Perms> = (0..16)
        .map(|bits| {
            let held = Perms::EACH.iter().filter(|(bit, ..)| bits >> bit & 1 == 1);
            held.fold(Perms::NONE, |set, (_, perm, _)| set | *perm)
        })
        .collect();
    let pairs = sets
        .iter()
        .flat_map(|perm| sets.iter().map(move |shared| (*perm, *shared)));
    pairs
        .map(|(perm, shared)| Permissions { perm, shared })
        .collect()
}

#[test]
fn the_locked_bytes_are_100_for_what_is_held_and_200_for_what_is_not_shared() {
    let bench = Bench::new();
    for permissions in all_permissions() {
        let file = bench
            .open(bench.options(permissions))
            .expect("nothing else is here");
        assert!(file.is_locked());
        let mut expected = BTreeSet::new();
        for (bit, perm, _) in Perms::EACH {
            if permissions.perm.contains(perm) {
                expected.insert(100 + u64::from(bit));
            }
            if !permissions.shared.contains(perm) {
                expected.insert(200 + u64::from(bit));
            }
        }
        assert_eq!(locked(&bench.path()), expected, "{permissions:?}");
        bench.context.block_on(file.close()).expect("close");
        assert_eq!(
            locked(&bench.path()),
            BTreeSet::new(),
            "closed: {permissions:?}"
        );
    }
}

#[test]
fn the_writer_the_reader_and_the_sharer_hold_what_qemu_holds() {
    let bench = Bench::new();
    let cases = [
        (Permissions::writer(), vec![100, 101, 103, 201, 203]),
        (Permissions::reader(), vec![100, 201, 203]),
        (Permissions::force_share(), vec![100]),
    ];
    for (permissions, bytes) in cases {
        let file = bench.open(bench.options(permissions)).expect("open");
        assert_eq!(locked(&bench.path()), bytes.into_iter().collect());
        drop(file);
    }
}

#[test]
fn two_opens_of_one_process_conflict_exactly_where_their_permissions_do() {
    let bench = Bench::new();
    let all = all_permissions();
    // Every set against its neighbours in a fixed shuffle, and the three usual ones against everything.
    let usual = [
        Permissions::writer(),
        Permissions::reader(),
        Permissions::force_share(),
    ];
    let shuffled = (0..all.len()).map(|i| (all[i], all[(i * 101 + 37) % all.len()]));
    let with_usual = usual
        .iter()
        .flat_map(|one| all.iter().map(move |other| (*one, *other)));
    let (mut conflicts, mut pairs) = (0, 0);
    for (first, second) in shuffled.chain(with_usual) {
        let holder = bench
            .open(bench.options(first))
            .expect("nothing else is here");
        let before = locked(&bench.path());
        match (bench.open(bench.options(second)), first.conflict(&second)) {
            (Ok(_), None) => (),
            (Err(OpenError::Locked { path, conflict }), Some(_)) => {
                assert_eq!(path, bench.path());
                assert_conflict_is_true(conflict, second, first);
                assert_eq!(locked(&bench.path()), before, "the loser leaves no lock");
                conflicts += 1;
            }
            (got, want) => {
                panic!(
                    "{first:?} then {second:?}: {:?}, not {want:?}",
                    got.map(drop)
                );
            }
        }
        pairs += 1;
        bench.context.block_on(holder.close()).expect("close");
    }
    assert!(
        conflicts > pairs / 4 && conflicts < pairs,
        "{conflicts} of {pairs}"
    );
}

/// The named permission is one that keeps the two apart, in the named direction.
fn assert_conflict_is_true(conflict: LockConflict, ours: Permissions, theirs: Permissions) {
    let (_, perm, _) = Perms::EACH
        .into_iter()
        .find(|(.., name)| *name == conflict.permission)
        .expect("a permission's name");
    let (user, refuser) = match conflict.reason {
        LockReason::NotShared => (ours, theirs),
        LockReason::Held => (theirs, ours),
    };
    assert!(
        user.perm.contains(perm),
        "{conflict:?}: {ours:?} against {theirs:?}"
    );
    assert!(
        !refuser.shared.contains(perm),
        "{conflict:?}: {ours:?} against {theirs:?}"
    );
}

#[test]
fn a_conflict_is_told_with_the_file_and_the_permission() {
    let bench = Bench::new();
    let _writer = bench
        .open(bench.options(Permissions::writer()))
        .expect("open");
    let error = bench
        .open(bench.options(Permissions::writer()))
        .map(drop)
        .expect_err("in use");
    let text = error.to_string();
    assert!(text.contains("disk") && text.contains("'write'"), "{text}");
    let expected = BlockError::new(
        Op::Open,
        0,
        0,
        Cause::Conflict {
            permission: "write",
        },
    );
    assert_eq!(BlockError::from(error), expected);
}

#[test]
fn without_locking_nothing_is_locked_and_no_task_is_kept_out() {
    let bench = Bench::new();
    let _writer = bench
        .open(bench.options(Permissions::writer()))
        .expect("open");
    let before = locked(&bench.path());
    assert!(!before.is_empty());
    let off = FileOptions {
        locking: Locking::Off,
        ..bench.options(Permissions::writer())
    };
    let second = bench.open(off).expect("not asked");
    assert!(!second.is_locked());
    assert_eq!(locked(&bench.path()), before);
    drop(second);
    assert_eq!(
        locked(&bench.path()),
        before,
        "and it takes no other lock with it"
    );
}

#[test]
fn a_foreign_write_lock_on_a_byte_of_ours_is_a_conflict() {
    let bench = Bench::new();
    let stranger = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(bench.path())
        .expect("the file");
    let whole = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as _,
        l_whence: nix::libc::SEEK_SET as _,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&stranger, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole)).expect("lock");
    let refused = bench.open(bench.options(Permissions::reader())).map(drop);
    assert!(
        matches!(refused, Err(OpenError::Locked { .. })),
        "{refused:?}"
    );
    bench
        .open(bench.options(Permissions {
            perm: Perms::NONE,
            shared: Perms::ALL,
        }))
        .expect("asks for nothing");
}

/// A duplicate of the descriptor shares the locks: only unlocking ends them, closing does not.
#[test]
fn no_lock_stays_on_a_duplicate_of_the_descriptor() {
    let bench = Bench::new();
    let open = || {
        let mut options = std::fs::OpenOptions::new();
        options
            .read(true)
            .write(true)
            .open(bench.path())
            .expect("the file")
    };
    let adopt = |file: &std::fs::File| {
        let file = file.try_clone().expect("a duplicate");
        let options = bench.options(Permissions::writer());
        bench.context.block_on(FileDriver::from_file(file, options))
    };
    let ours = open();
    for close in [true, false] {
        let driver = adopt(&ours).expect("nothing else is here");
        let held = locked(&bench.path());
        assert_eq!(held.len(), 5);
        // One that is refused leaves none either.
        let other = open();
        adopt(&other).map(drop).expect_err("in use");
        assert_eq!(locked(&bench.path()), held);
        if close {
            bench.context.block_on(driver.close()).expect("close");
        }
        drop(driver);
        assert_eq!(locked(&bench.path()), BTreeSet::new());
    }
}
