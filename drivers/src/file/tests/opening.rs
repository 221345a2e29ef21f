//! What is opened, created, cut and refused.

use super::*;
use block_core::{Permissions, Preallocation};
use rustix::io::Errno as Raw;
use std::os::unix::net::UnixListener;

fn open(bench: &Bench, path: &Path, options: FileOptions) -> std::result::Result<(), OpenError> {
    bench.run(FileDriver::open(path, options)).map(drop)
}

#[test]
fn what_is_no_file_is_refused_by_name_and_never_waited_for() {
    let bench = Bench::new();
    let fifo = bench.folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .expect("a FIFO");
    let socket = bench.folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let cases = [
        (bench.folder.path().to_path_buf(), FileKind::Directory),
        (fifo, FileKind::Fifo),
        (socket, FileKind::Socket),
        ("/dev/null".into(), FileKind::CharDevice),
    ];
    let creates = [Create::Existing, Create::IfMissing, Create::Truncate];
    for (path, kind) in cases {
        let readers = [FileOptions::reader(bench.workers.clone())];
        let writers = creates.map(|create| FileOptions {
            create,
            ..bench.options()
        });
        for options in readers.into_iter().chain(writers) {
            let refused = Err(OpenError::Refused {
                path: path.clone(),
                kind,
            });
            assert_eq!(open(&bench, &path, options), refused);
        }
    }
    let error = open(&bench, bench.folder.path(), bench.options()).expect_err("a directory");
    assert!(error.to_string().ends_with("is a directory"), "{error}");
    assert_eq!(error.errno(), Errno(Raw::ISDIR.raw_os_error()));
}

#[test]
fn an_open_pipe_is_refused_by_name_too() {
    let bench = Bench::new();
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let file = File::from(std::os::fd::OwnedFd::from(reader));
    let options = FileOptions::reader(bench.workers.clone());
    let error = bench
        .run(FileDriver::from_file(file, options))
        .map(drop)
        .expect_err("a pipe");
    assert!(
        matches!(
            error,
            OpenError::Refused {
                kind: FileKind::Fifo,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_missing_file_is_an_error_unless_it_may_be_created() {
    let bench = Bench::new();
    let missing = open(&bench, &bench.path(), bench.options());
    let errno = Errno(Raw::NOENT.raw_os_error());
    let expected = OpenError::Os {
        path: bench.path(),
        step: OpenStep::Open,
        errno,
    };
    assert_eq!(missing, Err(expected.clone()));
    assert_eq!(
        BlockError::from(expected),
        BlockError::new(Op::Open, 0, 0, Cause::Os(errno))
    );
    assert!(!bench.path().exists());

    for create in [Create::IfMissing, Create::Truncate, Create::New] {
        open(
            &bench,
            &bench.path(),
            FileOptions {
                create,
                ..bench.options()
            },
        )
        .expect("created");
        assert_eq!(bench.bytes(), b"");
        std::fs::remove_file(bench.path()).expect("it is there");
    }
}

#[test]
fn an_existing_file_is_kept_cut_or_refused_as_asked() {
    let bench = Bench::new().with(b"abc");
    let options = |create| FileOptions {
        create,
        ..bench.options()
    };
    open(&bench, &bench.path(), options(Create::IfMissing)).expect("open");
    assert_eq!(bench.bytes(), b"abc");
    let errno = Errno(Raw::EXIST.raw_os_error());
    let exists = OpenError::Os {
        path: bench.path(),
        step: OpenStep::Open,
        errno,
    };
    assert_eq!(
        open(&bench, &bench.path(), options(Create::New)),
        Err(exists)
    );
    assert_eq!(bench.bytes(), b"abc");
    open(&bench, &bench.path(), options(Create::Truncate)).expect("open");
    assert_eq!(bench.bytes(), b"");
}

#[test]
fn a_file_that_is_in_use_is_not_cut() {
    let bench = Bench::new().with(b"abc");
    let user = bench.open(&Script::new().share());
    let options = FileOptions {
        create: Create::Truncate,
        ..bench.options()
    };
    let error = open(&bench, &bench.path(), options).expect_err("locked");
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    assert_eq!(bench.bytes(), b"abc");
    drop(user);
}

#[test]
fn a_new_file_that_cannot_be_used_after_all_is_removed_and_an_old_one_stays() {
    let bench = Bench::new();
    let refuses = || {
        Script::new()
            .at(Call::SetDirect, 0, Fault::Fails(Raw::INVAL))
            .share()
    };
    let direct = |create| FileOptions {
        create,
        ..bench.direct_options()
    };
    let error = bench.try_open(direct(Create::New), &refuses()).map(drop);
    assert_eq!(
        error,
        Err(OpenError::DirectRefused {
            path: bench.path(),
            errno: Errno::INVAL
        })
    );
    assert!(!bench.path().exists());

    std::fs::write(bench.path(), b"abc").expect("a file");
    bench
        .try_open(direct(Create::Existing), &refuses())
        .map(drop)
        .expect_err("refused");
    assert_eq!(bench.bytes(), b"abc");
}

#[test]
fn a_full_disk_at_the_cut_is_told() {
    let bench = Bench::new().with(b"abc");
    let script = Script::new()
        .at(Call::Truncate, 0, Fault::Fails(Raw::IO))
        .share();
    let options = FileOptions {
        create: Create::Truncate,
        ..bench.options()
    };
    let error = bench.try_open(options, &script).map(drop);
    let step = OpenStep::Truncate;
    assert_eq!(
        error,
        Err(OpenError::Os {
            path: bench.path(),
            step,
            errno: Errno::IO
        })
    );
}

#[test]
fn options_that_contradict_each_other_are_refused_before_the_file_is_touched() {
    let bench = Bench::new();
    let reader = || FileOptions::reader(bench.workers.clone());
    let contradictions = [
        FileOptions {
            read_only: true,
            ..bench.options()
        },
        FileOptions {
            create: Create::New,
            ..reader()
        },
        FileOptions {
            create: Create::Truncate,
            permissions: Permissions {
                perm: Perms::WRITE,
                shared: Perms::ALL,
            },
            ..bench.options()
        },
    ];
    for options in contradictions {
        let error = open(&bench, &bench.path(), options).expect_err("a contradiction");
        assert!(matches!(error, OpenError::Options { .. }), "{error:?}");
        assert!(!bench.path().exists());
    }
    let file = std::fs::File::create(bench.path()).expect("a file");
    let options = FileOptions {
        create: Create::Truncate,
        ..bench.options()
    };
    let error = bench.run(FileDriver::from_file(file, options)).map(drop);
    assert!(matches!(error, Err(OpenError::Options { .. })), "{error:?}");
}

#[test]
fn a_read_only_file_refuses_every_change_and_reads() {
    let bench = Bench::new().with(b"abc");
    let options = FileOptions::reader(bench.workers.clone());
    let file = bench
        .try_open(options, &Script::new().share())
        .expect("open");
    assert!(!file.grows());
    let refused = |op, at, len| Err(BlockError::new(op, at, len, Cause::ReadOnly));
    bench.run(async {
        assert_eq!(read(&file, 0, 3).await.expect("read"), b"abc");
        file.flush().await.expect("there is nothing to flush");
        assert_eq!(write(&file, 0, b"x").await, refused(Op::Write, 0, 1));
        let zeroes = file
            .pwrite_zeroes(DiskOffset(0), 3, ZeroFlags::default())
            .await;
        assert_eq!(zeroes, refused(Op::WriteZeroes, 0, 3));
        assert_eq!(
            file.pdiscard(DiskOffset(1), 2).await,
            refused(Op::Discard, 1, 2)
        );
        let to = Truncate {
            len: 1,
            exact: true,
            preallocation: Preallocation::Off,
        };
        assert_eq!(file.truncate(to).await, refused(Op::Truncate, 1, 0));
    });
    assert_eq!(bench.bytes(), b"abc");
}

#[test]
fn a_permission_that_was_not_taken_is_named_by_the_call_that_needs_it() {
    let bench = Bench::new().with(b"abc");
    let permissions = Permissions {
        perm: Perms::CONSISTENT_READ,
        shared: Perms::ALL,
    };
    let options = FileOptions {
        permissions,
        ..bench.options()
    };
    let file = bench
        .try_open(options, &Script::new().share())
        .expect("open");
    assert!(!file.grows());
    let missing = |op, at, len, permission| {
        Err(BlockError::new(
            op,
            at,
            len,
            Cause::NoPermission { permission },
        ))
    };
    bench.run(async {
        assert_eq!(
            write(&file, 0, b"x").await,
            missing(Op::Write, 0, 1, "write")
        );
        let to = Truncate {
            len: 1,
            exact: true,
            preallocation: Preallocation::Off,
        };
        assert_eq!(
            file.truncate(to).await,
            missing(Op::Truncate, 1, 0, "resize")
        );
    });
    assert_eq!(bench.bytes(), b"abc");
}

#[test]
fn an_open_file_is_taken_over_with_its_locks() {
    let bench = Bench::new().with(b"abc");
    let handle = || {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(bench.path())
            .expect("the file")
    };
    let file = bench
        .run(FileDriver::from_file(handle(), bench.options()))
        .expect("taken over");
    assert!(file.is_locked());
    assert!(file.grows());
    assert_eq!(
        (file.kind(), file.direct()),
        (FileKind::Regular, DirectIo::Off)
    );
    assert_eq!(bench.run(read(&file, 0, 3)).expect("read"), b"abc");
    let second = bench
        .run(FileDriver::from_file(handle(), bench.options()))
        .map(drop);
    assert!(
        matches!(second, Err(OpenError::Locked { .. })),
        "{second:?}"
    );
}

#[test]
fn a_created_file_has_the_mode_that_was_asked_for() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let options = FileOptions {
        create: Create::New,
        mode: 0o600,
        ..bench.options()
    };
    open(&bench, &bench.path(), options).expect("open");
    let mode = bench
        .path()
        .metadata()
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}
