//! A file that another process makes shorter while it is open.

use super::*;

const LEN: u64 = 16_384;

/// Another process cuts the file.
fn cut(bench: &Bench, len: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(bench.path());
    file.expect("opens").set_len(len).expect("cut");
}

fn shrunk(at: u64, wanted: u64, got: u64, length: u64) -> Cause {
    Cause::Shrunk {
        at,
        wanted,
        got,
        length,
    }
}

/// The file, cached and by O_DIRECT where the rules of direct I/O are kept.
fn each(test: impl Fn(&Bench, FileDriver)) {
    for direct in [false, true] {
        let bench = Bench::new().with(&pattern(LEN as usize));
        let (options, script) = match direct {
            true => (bench.direct_options(), Script::new().strict(512)),
            false => (bench.options(), Script::new()),
        };
        let file = bench.try_open(options, &script.share()).expect("open");
        test(&bench, file);
    }
}

#[test]
fn a_read_that_is_short_inside_the_length_at_open_is_an_error_with_its_numbers() {
    each(|bench, file| {
        cut(bench, 5120);
        bench.run(async {
            assert_eq!(read(&file, 0, 5120).await, Ok(pattern(5120)));
            let across = read(&file, 4096, 4096).await.expect_err("shrunk");
            let cause = shrunk(4096, 4096, 1024, LEN);
            assert_eq!(across, BlockError::new(Op::Read, 4096, 4096, cause));
            assert_eq!(across.errno(), Errno::IO);
            let after = read(&file, 8192, 512).await.expect_err("shrunk");
            assert_eq!(after.cause, shrunk(8192, 512, 0, LEN));
        });
    });
}

#[test]
fn past_the_length_at_open_bytes_still_read_as_zeroes() {
    each(|bench, file| {
        cut(bench, 5120);
        bench.run(async {
            assert_eq!(read(&file, LEN, 512).await, Ok(vec![0; 512]));
            let across = read(&file, LEN - 512, 1024).await.expect_err("shrunk");
            assert_eq!(across.cause, shrunk(LEN - 512, 512, 0, LEN));
        });
    });
}

#[test]
fn the_length_and_the_status_of_a_file_that_became_shorter_are_errors() {
    each(|bench, file| {
        cut(bench, 5120);
        bench.run(async {
            let length = file.length().await.expect_err("shrunk");
            assert_eq!(length.cause, shrunk(0, LEN, 5120, LEN));
            let status = file.block_status(DiskOffset(8192), 4096).await;
            let cause = status.expect_err("shrunk").cause;
            assert_eq!(cause, shrunk(8192, 4096, 0, LEN));
        });
    });
}

#[test]
fn own_growth_raises_the_length_that_must_be_there() {
    let flags = ZeroFlags::default();
    for way in 0..3 {
        each(|bench, file| {
            let to = Truncate {
                len: LEN + 4096,
                exact: false,
                preallocation: Preallocation::Off,
            };
            bench.run(async {
                match way {
                    0 => write(&file, LEN, &pattern(4096)).await.expect("write"),
                    1 => file.truncate(to).await.expect("truncate"),
                    _ => {
                        let zeroed = file.pwrite_zeroes(DiskOffset(LEN), 4096, flags).await;
                        match zeroed.map_err(|e| e.cause) {
                            Err(Cause::NotSupported) => return,
                            result => result.expect("zeroes"),
                        }
                    }
                }
                cut(bench, LEN);
                let error = read(&file, LEN, 4096).await.expect_err("shrunk");
                assert_eq!(error.cause, shrunk(LEN, 4096, 0, LEN + 4096));
            });
        });
    }
}

#[test]
fn own_truncates_lower_the_length_that_must_be_there() {
    each(|bench, file| {
        let to = Truncate {
            len: 5120,
            exact: true,
            preallocation: Preallocation::Off,
        };
        bench.run(async {
            file.truncate(to).await.expect("truncate");
            assert_eq!(file.length().await, Ok(5120));
            let mut expected = pattern(5120)[4096..].to_vec();
            expected.resize(4096, 0);
            assert_eq!(read(&file, 4096, 4096).await, Ok(expected));
        });
    });
}

#[test]
fn a_file_that_others_make_longer_is_read_to_its_new_end() {
    each(|bench, file| {
        cut(bench, LEN + 512);
        bench.run(async {
            assert_eq!(file.length().await, Ok(LEN + 512));
            assert_eq!(read(&file, LEN, 1024).await, Ok(vec![0; 1024]));
        });
    });
}

#[test]
fn a_driver_names_the_file_that_it_holds_open() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new().with(b"old");
    let found = std::fs::metadata(bench.path()).expect("there");
    let file = bench.open(&Script::new().share());
    std::fs::rename(bench.path(), bench.folder.path().join("elsewhere")).expect("renamed");
    std::fs::write(bench.path(), b"new").expect("written");
    assert_eq!(file.identity(), (found.dev(), found.ino()));
    let other = std::fs::metadata(bench.path()).expect("there");
    assert_ne!(file.identity(), (other.dev(), other.ino()));
}
