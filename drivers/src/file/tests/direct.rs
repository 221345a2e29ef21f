//! Finding out what direct I/O demands, and keeping to it.

use super::*;
use rustix::io::Errno as Raw;

fn direct(bench: &Bench, script: Script) -> std::result::Result<DirectIo, OpenError> {
    bench
        .try_open(bench.direct_options(), &script.share())
        .map(|file| file.direct())
}

/// Hides what the file system tells about itself.
fn silent(script: Script) -> Script {
    script.at(Call::DioAlign, 0, Fault::Nothing)
}

fn blocks(memory_alignment: u32, request_alignment: u32) -> DirectIo {
    DirectIo::Direct {
        memory_alignment,
        request_alignment,
    }
}

#[test]
fn what_the_file_system_tells_is_believed() {
    let bench = Bench::new().with(&pattern(5000));
    assert_eq!(
        direct(&bench, Script::new().strict(512)),
        Ok(blocks(512, 512))
    );
    assert_eq!(
        direct(&bench, Script::new().strict(4096)),
        Ok(blocks(4096, 4096))
    );
}

#[test]
fn a_silent_file_system_that_refuses_a_misaligned_length_is_direct() {
    let bench = Bench::new().with(&pattern(5000));
    assert_eq!(
        direct(&bench, silent(Script::new().strict(512))),
        Ok(blocks(512, 512))
    );
    assert_eq!(
        direct(&bench, silent(Script::new().strict(2048))),
        Ok(blocks(2048, 2048))
    );
    assert_eq!(
        direct(&bench, silent(Script::new().strict(4096))),
        Ok(blocks(4096, 4096))
    );
    assert_eq!(bench.bytes(), pattern(5000), "the probe only reads");
}

#[test]
fn a_file_system_that_takes_any_length_accepts_the_flag_but_is_not_called_direct() {
    let lax = || silent(Script::new().at(Call::SetDirect, 0, Fault::Nothing));
    let full = Bench::new().with(&pattern(5000));
    assert_eq!(direct(&full, lax()), Ok(DirectIo::AcceptedNotDirect));
    assert_eq!(full.bytes(), pattern(5000));
    let empty = Bench::new().with(b"");
    assert_eq!(direct(&empty, lax()), Ok(DirectIo::AcceptedNotDirect));
    assert_eq!(empty.bytes(), b"", "the byte of the probe is gone");
}

#[test]
fn an_empty_file_is_probed_with_writes_and_left_empty() {
    let bench = Bench::new().with(b"");
    assert_eq!(
        direct(&bench, silent(Script::new().strict(512))),
        Ok(blocks(512, 512))
    );
    assert_eq!(
        direct(&bench, silent(Script::new().strict(4096))),
        Ok(blocks(4096, 4096))
    );
    assert_eq!(bench.bytes(), b"");
}

#[test]
fn an_empty_file_that_must_not_be_written_is_given_the_largest_alignment() {
    let bench = Bench::new().with(b"");
    let script = silent(Script::new().strict(512)).share();
    let reader = FileOptions {
        cache: CacheMode::None,
        ..FileOptions::reader(bench.workers.clone())
    };
    let file = bench.try_open(reader, &script).expect("open");
    assert_eq!(file.direct(), blocks(4096, 4096));
    assert_eq!(script.count(Call::Write), 0);
}

#[test]
fn errors_of_the_probe_are_told() {
    let bench = Bench::new().with(&pattern(5000));
    let io = silent(Script::new().strict(512)).at(Call::Read, 0, Fault::Fails(Raw::INTR));
    assert_eq!(
        direct(&bench, io),
        Ok(blocks(512, 512)),
        "an interruption is none"
    );
    let failed = |errno| {
        Err(OpenError::Os {
            path: bench.path(),
            step: OpenStep::Probe,
            errno,
        })
    };
    let io = silent(Script::new().strict(512)).at(Call::Read, 1, Fault::Fails(Raw::IO));
    assert_eq!(direct(&bench, io), failed(Errno::IO));
    let coarse = silent(Script::new().strict(8192));
    assert_eq!(
        direct(&bench, coarse),
        failed(Errno::INVAL),
        "no block size that we know"
    );

    let bench = Bench::new().with(b"");
    let full = silent(Script::new()).at(Call::SetDirect, 0, Fault::Nothing);
    let full = full.at(Call::Write, 0, Fault::Fails(Raw::NOSPC));
    let errno = Errno::NOSPC;
    let failed = OpenError::Os {
        path: bench.path(),
        step: OpenStep::Probe,
        errno,
    };
    assert_eq!(direct(&bench, full), Err(failed));
    // A byte of the probe that cannot be taken back is no success.
    let stuck = silent(Script::new()).at(Call::SetDirect, 0, Fault::Nothing);
    let stuck = stuck.at(Call::Truncate, 0, Fault::Fails(Raw::IO));
    direct(&bench, stuck).expect_err("not empty any more");
}

#[test]
fn without_o_direct_nothing_is_probed() {
    let bench = Bench::new().with(&pattern(5000));
    let script = Script::new().share();
    let file = bench.open(&script);
    assert_eq!(file.direct(), DirectIo::Off);
    let limits = file.limits();
    assert_eq!((limits.request_alignment, limits.memory_alignment), (1, 1));
    assert_eq!(
        script.count(Call::SetDirect) + script.count(Call::DioAlign),
        0
    );
}

#[test]
fn the_limits_are_the_alignments() {
    let bench = Bench::new().with(&pattern(5000));
    let script = Script::new().strict(1024).share();
    let file = bench
        .try_open(bench.direct_options(), &script)
        .expect("open");
    let limits = file.limits();
    assert_eq!(limits.request_alignment, 1024);
    assert_eq!(limits.transfer_alignment, 1024);
    assert_eq!(limits.memory_alignment, 1024);
    assert_eq!(
        (limits.write_zeroes.alignment, limits.discard.alignment),
        (1024, 1024)
    );
}

#[test]
fn an_end_inside_a_block_is_read_and_filled_with_zeroes() {
    let bench = Bench::new().with(&pattern(1000));
    let script = Script::new().strict(512).share();
    let file = bench
        .try_open(bench.direct_options(), &script)
        .expect("open");
    let mut expected = pattern(1000);
    expected.resize(4096, 0);
    assert_eq!(bench.run(read(&file, 0, 4096)).expect("read"), expected);
    assert_eq!(
        bench.run(read(&file, 512, 512)).expect("read"),
        expected[512..1024]
    );
    assert_eq!(
        bench.run(read(&file, 1024, 512)).expect("read"),
        vec![0; 512]
    );
}

/// Real O_DIRECT where the folder for temporary files has it; the same bytes either way.
#[test]
fn the_file_system_of_this_machine_is_one_of_the_three_and_keeps_the_bytes() {
    let bench = Bench::new().with(&pattern(1000));
    let file = match bench.try_open(bench.direct_options(), &Script::new().share()) {
        Ok(file) => file,
        Err(OpenError::DirectRefused { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let bytes = pattern(8192);
    let mut expected = bytes.clone();
    expected.extend(vec![0; 4096]);
    bench.run(async {
        assert_eq!(
            read(&file, 0, 4096).await.expect("read")[..1000],
            pattern(1000)
        );
        write(&file, 0, &bytes).await.expect("write");
        assert_eq!(read(&file, 0, 12288).await.expect("read"), expected);
        if let DirectIo::Direct {
            request_alignment, ..
        } = file.direct()
        {
            let misaligned = write(&file, 0, &bytes[..request_alignment as usize - 1]).await;
            assert_eq!(misaligned.expect_err("refused").cause, errno(Raw::INVAL));
        }
    });
    assert_eq!(bench.bytes(), bytes);
}
