//! The small types: offsets, permissions, errors, cache modes, limits.

use block_core::{
    BlockError, BlockLimits, CacheMode, Cause, DiskOffset, Errno, Op, Permissions, Perms,
    VmstateOffset,
};
use std::error::Error;
use std::io;

#[test]
fn an_offset_never_passes_what_a_file_can_have() {
    let last = i64::MAX as u64;
    assert_eq!(DiskOffset(5).checked_add(7), Some(DiskOffset(12)));
    assert_eq!(DiskOffset(last - 1).checked_add(1), Some(DiskOffset(last)));
    assert_eq!(DiskOffset(last).checked_add(0), Some(DiskOffset(last)));
    assert_eq!(DiskOffset(last).checked_add(1), None);
    assert_eq!(DiskOffset(last + 1).checked_add(0), None);
    assert_eq!(VmstateOffset(u64::MAX).checked_add(u64::MAX), None);
    assert_eq!(
        format!("{} {}", DiskOffset::from(3), VmstateOffset(4)),
        "3 4"
    );
}

/// The pairs that qemu-img and a running QEMU try on one file.
#[test]
fn a_writer_keeps_writers_and_readers_out_and_readers_share() {
    let (writer, reader, force) = (
        Permissions::writer(),
        Permissions::reader(),
        Permissions::force_share(),
    );
    assert_eq!(writer.conflict(&writer), Some("write"));
    assert_eq!(writer.conflict(&reader), Some("write"));
    assert_eq!(reader.conflict(&writer), Some("write"));
    assert_eq!(reader.conflict(&reader), None);
    for other in [writer, reader, force] {
        assert_eq!(
            (force.conflict(&other), other.conflict(&force)),
            (None, None)
        );
    }
}

#[test]
fn each_permission_is_named_when_it_alone_conflicts() {
    for (bit, perm, name) in Perms::EACH {
        let takes = Permissions {
            perm,
            shared: Perms::ALL,
        };
        let refuses = Permissions {
            perm: Perms::NONE,
            shared: !perm,
        };
        assert_eq!(
            (takes.conflict(&refuses), refuses.conflict(&takes)),
            (Some(name), Some(name))
        );
        assert_eq!(takes.conflict(&takes), None);
        assert_eq!(Perms::EACH[bit as usize].1, perm);
        assert!(Perms::ALL.contains(perm) && !(!perm).contains(perm));
    }
    let two = Perms::WRITE | Perms::RESIZE;
    assert_eq!(format!("{two:?}"), r#"{"write", "resize"}"#);
    assert!((two & Perms::CONSISTENT_READ).is_empty() && two.contains(Perms::NONE));
}

#[test]
fn every_cause_has_the_errno_that_qemus_caller_would_see() {
    let table = [
        (Cause::Os(Errno(95)), 95),
        (Cause::NotSupported, 95),
        (Cause::OutOfBounds { end: 9, size: 8 }, 5),
        (Cause::Overflow, 22),
        (Cause::ReadOnly, 13),
        (
            Cause::NoPermission {
                permission: "write",
            },
            1,
        ),
        (
            Cause::Conflict {
                permission: "write",
            },
            11,
        ),
        (Cause::Short { moved: 1 }, 5),
        (Cause::Closed, 19),
        (Cause::Unfinalized, 5),
        (Cause::Cancelled, 125),
        (Cause::OutOfMemory { bytes: 1 }, 12),
        (Cause::NotDriven, 19),
        (Cause::Panicked, 5),
        (Cause::Driver("a reason".into()), 22),
    ];
    for (cause, errno) in table {
        let error = BlockError::new(Op::Write, 512, 4096, cause.clone());
        assert_eq!(error.errno(), Errno(errno), "{cause}");
        let text = error.to_string();
        assert!(
            text.starts_with("write at offset 512, length 4096: "),
            "{text}"
        );
        assert!(
            text.len() > "write at offset 512, length 4096: ".len(),
            "{text}"
        );
    }
}

#[test]
fn an_error_becomes_an_io_error_and_loses_nothing() {
    let error = BlockError::new(Op::Write, 1, 2, Cause::Os(Errno::NOSPC));
    let io = io::Error::from(error.clone());
    assert_eq!(io.kind(), io::ErrorKind::StorageFull);
    let inner = io.get_ref().and_then(|e| e.downcast_ref::<BlockError>());
    assert_eq!(inner, Some(&error));
    assert!(io.to_string().contains("offset 1, length 2"), "{io}");
    assert!(error.source().is_none());

    let back = BlockError::from_io(Op::Read, 3, 4, &io::Error::from_raw_os_error(28));
    assert_eq!(
        back,
        BlockError::new(Op::Read, 3, 4, Cause::Os(Errno::NOSPC))
    );
    let unknown = BlockError::from_io(Op::Read, 3, 4, &io::Error::other("no number"));
    assert_eq!(unknown.errno(), Errno::IO);
}

#[test]
fn cache_modes_say_what_qemus_do() {
    let modes = [
        CacheMode::None,
        CacheMode::Writeback,
        CacheMode::Writethrough,
        CacheMode::Unsafe,
    ];
    let table = modes.map(|m| (m.direct(), m.writethrough(), m.no_flush()));
    let expected = [
        (true, false, false),
        (false, false, false),
        (false, true, false),
        (false, false, true),
    ];
    assert_eq!(table, expected);
    assert_eq!(CacheMode::default(), CacheMode::Writeback);
}

#[test]
fn the_default_limits_allow_everything_that_linux_does() {
    let limits = BlockLimits::default();
    assert_eq!(
        (
            limits.request_alignment,
            limits.memory_alignment,
            limits.transfer_alignment
        ),
        (1, 1, 1)
    );
    assert_eq!((limits.max_iov.get(), limits.max_transfer), (1024, None));
    assert_eq!(
        (limits.discard.alignment, limits.write_zeroes.max),
        (1, None)
    );
}
