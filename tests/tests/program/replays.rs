//! Recorded patterns: performed as recorded, counted, and verified by something that notices.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tests::files::disk_folder;

use crate::{failure, json_line, names, run, success};

const SAVE: &str = "builtin:qemu72-savevm-seabios-64m";
const LOAD: &str = "builtin:qemu72-loadvm-seabios-64m";

fn replay(folder: &Path, args: &[&str]) -> Output {
    run(folder, &[&["replay", "f", "--json"], args].concat(), b"")
}

fn report(output: &Output) -> Value {
    success(output);
    json_line(&output.stdout, "replay").expect("a report")
}

/// Plain reads of the saved file by another process, as the replay does them.
fn verify(folder: &Path, trace: &str) -> Output {
    run(folder, &["step", "verify", "f", "--trace", trace], b"")
}

#[test]
fn a_recorded_savevm_and_its_loadvm_are_replayed_each_way() {
    for way in [
        &[][..],
        &["--direct"],
        &["--unbuffered"],
        &["--direct", "--unbuffered"],
    ] {
        let folder = disk_folder();
        let args = ["--trace", SAVE, "--load-trace", LOAD, "--runs", "3"];
        let report = report(&replay(folder.path(), &[&args[..], way].concat()));
        assert_eq!(report["length"], 778_036);
        assert_eq!(report["verified"], true);
        assert_eq!(report["save"]["pieces"], 14);
        assert_eq!(report["load"]["pieces"], 26);
        // QEMU's reader asks for bytes that are not there.
        assert_eq!(report["past_end"]["bytes"], 793_132 - 778_036);
        assert_eq!(names(folder.path()), ["f"]);
        success(&verify(folder.path(), SAVE));
        let part = run(folder.path(), &["load", "f"], b"");
        assert_eq!(part.stdout.len(), 778_036);
    }
}

/// The blocks of `align` bytes that a piece covers only in part: what a read-modify-write reads. Blocks past `end` do not exist.
fn partly_covered(at: u64, len: u64, align: u64) -> Vec<u64> {
    let (first, last) = (at / align, (at + len - 1) / align);
    let whole = |block: u64| at <= block * align && (block + 1) * align <= at + len;
    let mut blocks: Vec<u64> = [first, last].into_iter().filter(|b| !whole(*b)).collect();
    blocks.dedup();
    blocks
}

#[test]
fn unbuffered_replay_costs_exactly_what_a_request_per_piece_costs() {
    let folder = disk_folder();
    let pieces: [(u64, u64); 7] = [
        (0, 191),
        (191, 133_208),
        (133_399, 131_904),
        (265_303, 40),
        (265_343, 131_328),
        (400_000, 0x1000), // 400,000 is no multiple of 512
        (409_600, 8192),
    ];
    let text: String = pieces
        .iter()
        .map(|(at, len)| format!("{at} {len}\n"))
        .collect();
    fs::write(folder.path().join("trace"), text).expect("written");
    let output = replay(
        folder.path(),
        &["--trace", "trace", "--unbuffered", "--direct"],
    );
    let report = report(&output);
    let requests = &report["save"]["requests"];
    assert_eq!(requests["writes"], pieces.len());
    let access = report["save"]["access"].as_str().expect("a word");
    let Some(align) = access
        .strip_prefix("direct, ")
        .and_then(|rest| rest.strip_suffix(" B"))
        .and_then(|number| number.parse::<u64>().ok())
    else {
        // This file system does no direct I/O: any length is taken as it is.
        assert_eq!(requests["reads"], 0);
        return;
    };
    let padded = |(at, len): (u64, u64)| (at + len).next_multiple_of(align) - at / align * align;
    let reads: usize = pieces
        .iter()
        .map(|(at, len)| partly_covered(*at, *len, align).len())
        .sum();
    let written: u64 = pieces.iter().map(|piece| padded(*piece)).sum();
    assert_eq!(requests["written_bytes"], written);
    assert_eq!(
        requests["reads"], reads,
        "the first and the last block, where partly covered"
    );
    assert_eq!(requests["read_bytes"], reads as u64 * align);
}

/// Two ascending streams of which one has gaps, as mapped-ram writes them.
fn interleaved() -> String {
    let mut text = String::new();
    let mut header = 24 << 20;
    for page in 0..4096u64 {
        // Zero pages are left out: a hole of 64 pages every 256.
        if page % 256 < 192 {
            text += &format!("{} 4096\n", (1 << 20) + page * 4096);
        }
        if page % 50 == 0 {
            text += &format!("{header} 18\n{} 10\n", header + 18);
            header += 28;
        }
    }
    text
}

#[test]
fn interleaved_streams_with_gaps_are_exact_and_their_holes_stay() {
    for way in [&[][..], &["--direct"], &["--direct", "--workers", "1"]] {
        let folder = disk_folder();
        fs::write(folder.path().join("trace"), interleaved()).expect("written");
        let args = ["--trace", "trace", "--load-trace", "trace"];
        let report = report(&replay(folder.path(), &[&args[..], way].concat()));
        assert_eq!(report["verified"], true);
        let writes = report["save"]["requests"]["writes"]
            .as_u64()
            .expect("a number");
        let pieces = report["save"]["pieces"].as_u64().expect("a number");
        assert!(
            writes * 20 < pieces,
            "{writes} requests for {pieces} pieces"
        );
        let saved = fs::metadata(folder.path().join("f")).expect("saved");
        assert!(
            saved.blocks() * 512 < 14 << 20,
            "3,072 pages are 12 MiB, of 24"
        );
    }
}

/// Writes of a save, and reads of a load, for each size of `--fill-gaps`.
fn requests(report: &Value) -> Vec<(u64, u64)> {
    let number = |series: &Value, name: &str| series["requests"][name].as_u64().expect("a number");
    let ways = report["fill_gaps"].as_array().expect("a list");
    ways.iter()
        .map(|way| {
            (
                number(&way["save"], "writes"),
                number(&way["load"], "reads"),
            )
        })
        .collect()
}

#[test]
fn a_state_without_every_third_page_costs_a_request_for_each_mebibyte() {
    let (folder, images) = (disk_folder(), disk_folder());
    let trace = "builtin:gaps:8K:4K:8M";
    let args = ["--trace", trace, "--load-trace", trace, "--force"];
    let sizes = ["--fill-gaps", "0,4K,4097,64K"];
    for way in [&[][..], &["--direct"]] {
        let each = [&args[..], &sizes, way].concat();
        let found = requests(&report(&replay(folder.path(), &each)));
        assert_eq!(found, [(686, 8), (686, 8), (8, 8), (8, 8)], "{way:?}");
        let default = [&args[..], way].concat();
        let found = requests(&report(&replay(folder.path(), &default)));
        assert_eq!(found, [(8, 8)], "{way:?}");
        // In an image each gap is a cluster. Some requests are for tables.
        let image = ["--format", "qcow2", "-o", "cluster_size=4k"];
        let each = [&each[..], &image].concat();
        let found = requests(&report(&replay(images.path(), &each)));
        for (n, (writes, reads)) in found.into_iter().enumerate() {
            match n {
                0 | 1 => assert!(writes > 680, "{writes} and {reads} requests"),
                _ => assert!(writes < 60 && reads < 60, "{writes} and {reads} requests"),
            }
        }
    }
}

#[test]
fn gaps_of_64_kib_stay_holes_in_a_file_and_in_an_image() {
    let trace = "builtin:gaps:64K:64K:8M";
    for way in [&[][..], &["--format", "qcow2"]] {
        let folder = disk_folder();
        let args = ["--trace", trace, "--load-trace", trace, "--force"];
        let report = report(&replay(folder.path(), &[&args[..], way].concat()));
        assert_eq!(report["verified"], true, "the verification looks for holes");
        let saved = fs::metadata(folder.path().join("f")).expect("saved");
        let allocated = saved.blocks() * 512;
        assert!(allocated < 5 << 20, "{allocated} bytes for 4 MiB");
    }
}

#[test]
fn overlapping_and_backward_pieces_are_exact() {
    let folder = disk_folder();
    let text = "5000000 3000000\n0 100\n50 4000\n1048570 20\n4999990 20\n100 2000000\n7999999 2\n";
    fs::write(folder.path().join("trace"), text).expect("written");
    for way in [&[][..], &["--direct"], &["--direct", "--unbuffered"]] {
        let args = ["--trace", "trace", "--load-trace", "trace", "--force"];
        let report = report(&replay(folder.path(), &[&args[..], way].concat()));
        assert_eq!(report["length"], 8_000_001);
    }
}

#[test]
fn the_verification_sees_swapped_buffers_a_flipped_byte_and_a_wrong_length() {
    let trace = "builtin:qemu72-savevm-guest-2g";
    let folder = disk_folder();
    let args = ["--trace", trace, "--take", "5000001", "--direct"];
    success(&replay(folder.path(), &args));
    let verdict = || {
        let args = ["step", "verify", "f", "--take", "5000001", "--trace", trace];
        run(folder.path(), &args, b"")
    };
    success(&verdict());
    let path = folder.path().join("f");
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .expect("open");
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).expect("read");
        bytes
    };
    let write = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).expect("written");
    let assert_seen = |what: &str| {
        let output = verdict();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert!(text.contains(what), "{text}");
    };

    let (first, second) = (read(1 << 20, 1 << 20), read(2 << 20, 1 << 20));
    write(1 << 20, &second);
    write(2 << 20, &first);
    assert_seen("the byte at 1048576");
    write(1 << 20, &first);
    write(2 << 20, &second);
    success(&verdict());

    let byte = read(4_321_234, 1);
    write(4_321_234, &[byte[0] ^ 4]);
    assert_seen("the byte at 4321234");
    write(4_321_234, &byte);
    success(&verdict());

    file.set_len(5_000_000).expect("cut");
    assert_seen("5000000 bytes long");
    file.set_len(5_000_002).expect("grown");
    assert_seen("5000002 bytes long");
}

#[test]
fn the_longest_name_is_enough_for_the_disks_limit_too() {
    let folder = disk_folder();
    let name = "x".repeat(255);
    let args = ["replay", &name, "--trace", SAVE, "--take", "1M", "--limit"];
    success(&run(folder.path(), &args, b""));
    assert_eq!(names(folder.path()), [name]);
}

#[test]
fn a_trace_from_a_pipe_is_refused_by_name() {
    let folder = disk_folder();
    let args = ["replay", "f", "--trace", "/dev/stdin"];
    let line = failure(&run(folder.path(), &args, b"0 10\n"));
    assert!(
        line.contains("/dev/stdin: open") && line.contains("must be a file"),
        "{line}"
    );
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_gzipped_trace_is_read_directly_and_a_broken_one_is_an_error() {
    let folder = disk_folder();
    let path = folder.path().join("trace.gz");
    let plain = folder.path().join("plain");
    let mut file = File::create(&plain).expect("made");
    writeln!(file, "0 10\nten 5").expect("written");
    let output = run(folder.path(), &["replay", "f", "--trace", "plain"], b"");
    let line = failure(&output);
    assert!(line.contains("plain") && line.contains("line 2"), "{line}");
    fs::write(&path, b"\x1f\x8b\x08\0\0").expect("written");
    failure(&run(
        folder.path(),
        &["replay", "f", "--trace", "trace.gz"],
        b"",
    ));
    failure(&run(
        folder.path(),
        &["replay", "f", "--trace", "missing"],
        b"",
    ));
    assert_eq!(names(folder.path()), ["plain", "trace.gz"]);
    let recorded = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../vmstate/traces/qemu72-savevm-seabios-64m.txt.gz"
    );
    success(&replay(folder.path(), &["--trace", recorded]));
    success(&verify(folder.path(), SAVE));
}

/// A reader of its own looks through the image that a replay has left.
fn verify_image(folder: &Path, trace: &str, take: &str) -> Output {
    let args = ["step", "verify", "f", "--format", "qcow2", "--trace", trace];
    run(folder, &[&args[..], &["--take", take]].concat(), b"")
}

#[test]
fn a_savevm_and_its_loadvm_are_replayed_in_images_of_many_kinds() {
    let folder = disk_folder();
    for (way, options) in [
        (&[][..], &[][..]),
        (&["--direct"], &["-o", "cluster_size=512,size=1M"]),
        (&["--unbuffered"], &["-o", "extended_l2=on"]),
        (&["--direct"], &["-o", "compat=0.10,cluster_size=4k"]),
        (
            &["--direct", "--unbuffered"],
            &["-o", "cluster_size=2M,refcount_bits=1"],
        ),
        (
            &["--workers", "1"],
            &["-o", "preallocation=metadata,size=64M"],
        ),
    ] {
        let args = ["--trace", SAVE, "--load-trace", LOAD, "--force"];
        let args = [&args[..], &["--format", "qcow2"], way, options].concat();
        let report = report(&replay(folder.path(), &args));
        assert_eq!(report["length"], 778_036);
        assert_eq!(report["verified"], true);
        assert_eq!(names(folder.path()), ["f"]);
        success(&verify_image(folder.path(), SAVE, "1000000"));
        let loaded = run(folder.path(), &["load", "f", "--name", "replay"], b"");
        assert_eq!(loaded.stdout.len(), 778_036);
    }
    let args = ["--trace", SAVE, "--format", "qcow2", "-o", "data_file=d"];
    let line = failure(&run(
        folder.path(),
        &[&["replay", "g"], &args[..]].concat(),
        b"",
    ));
    assert!(line.contains("external data file"), "{line}");
    assert_eq!(names(folder.path()), ["f"]);
}

#[test]
fn streams_with_gaps_are_exact_in_an_image_and_take_no_space_there() {
    let folder = disk_folder();
    fs::write(folder.path().join("trace"), interleaved()).expect("written");
    let text = "5000000 3000000\n0 100\n50 4000\n1048570 20\n4999990 20\n100 2000000\n7999999 2\n";
    fs::write(folder.path().join("backward"), text).expect("written");
    for way in [
        &["--trace", "trace", "--load-trace", "trace", "--direct"][..],
        &["--trace", "backward", "--load-trace", "backward"],
        &["--trace", "backward", "--direct", "--unbuffered"],
    ] {
        let args = [way, &["--format", "qcow2", "--force"]].concat();
        let report = report(&replay(folder.path(), &args));
        assert_eq!(report["verified"], true);
    }
}

#[test]
fn the_tables_of_a_large_state_cost_little() {
    let folder = disk_folder();
    let trace = "builtin:qemu72-savevm-guest-2g";
    let args = ["--trace", trace, "--take", "64M", "--format", "qcow2"];
    let report = report(&replay(folder.path(), &args));
    let metadata = &report["save"]["metadata"];
    let requests = metadata["requests"].as_u64().expect("a number");
    assert!(requests < 20, "{metadata}");
    let share = metadata["share_of_bytes"].as_f64().expect("a number");
    assert!(share < 0.01, "{metadata}");
    let writes = report["save"]["requests"]["writes"].as_u64();
    assert!(writes > Some(64) && writes < Some(64 + requests));
}

#[test]
fn the_memory_of_a_save_does_not_grow_with_the_image() {
    let folder = disk_folder();
    let peak = |options: &str| {
        let args = ["--trace", SAVE, "--load-trace", LOAD, "--force"];
        let args = [&args[..], &["--format", "qcow2", "-o", options]].concat();
        let report = report(&replay(folder.path(), &args));
        let part = |name: &str| report[name]["peak_memory"].as_u64().expect("a number");
        part("save").max(part("load"))
    };
    let (small, large) = (peak("size=1M"), peak("size=16T"));
    // The L1 table of the larger one has 256 KiB.
    assert!(large < small + (4 << 20), "{small}, {large}");
}

#[test]
fn the_verification_of_an_image_sees_a_flipped_byte_and_a_leaked_cluster() {
    let trace = "builtin:qemu72-savevm-guest-2g";
    let folder = disk_folder();
    let args = ["--trace", trace, "--take", "5000001", "--format", "qcow2"];
    success(&replay(folder.path(), &args));
    let verdict = || verify_image(folder.path(), trace, "5000001");
    success(&verdict());
    let path = folder.path().join("f");
    let good = fs::read(&path).expect("the image");
    let seen = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        let output = verdict();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // The state's bytes are random: no table looks like them.
    let loaded = run(folder.path(), &["load", "f", "--name", "replay"], b"").stdout;
    let part = &loaded[4_321_234..][..32];
    let place = good.windows(32).position(|window| window == part);
    let mut bad = good.clone();
    bad[place.expect("stored as it is")] ^= 4;
    assert!(seen(&bad).contains("the byte at 4321234 "));
    let mut bad = good.clone();
    bad[2 * 65536 + 1] = 2; // the header's refcount
    let text = seen(&bad);
    assert!(text.contains("not in order"), "{text}");
    fs::write(&path, &good).expect("written");
    success(&verdict());
}

#[test]
fn a_short_demo_shows_each_way_and_leaves_nothing() {
    let folder = disk_folder();
    let dir = folder.path().to_str().expect("text");
    let output = run(
        folder.path(),
        &["demo", "--quick", "--json", "--dir", dir],
        b"",
    );
    success(&output);
    let demo = json_line(&output.stdout, "demo").expect("a report");
    let ways = demo["ways"].as_array().expect("a list");
    assert_eq!(
        ways.len(),
        12,
        "saves and loads, cached and not, buffered and not; in images, buffered"
    );
    for way in ways {
        assert!(way["seconds"]["median"].as_f64().expect("a number") > 0.0);
        let peak = way["peak_memory"].as_u64().expect("a number");
        assert!(peak > 0 && peak < 32 << 20, "{}: {peak}", way["name"]);
        let in_image = way["name"].as_str().expect("text").contains("qcow2");
        assert_eq!(way["metadata"].is_null(), !in_image, "{}", way["name"]);
    }
    let qemu = &demo["qemu"];
    match tests::tools::find("qemu-system-x86_64") {
        Some(_) => {
            assert!(qemu["version"].is_string(), "{qemu}");
            let bytes = qemu["save"]["bytes"].as_u64().expect("a number");
            assert!((64 << 20..72 << 20).contains(&bytes), "as much: {bytes}");
            assert!(qemu["ours_times_as_fast"]["load"].as_f64() > Some(0.0));
        }
        None => assert!(qemu["load"]["missing"].is_string(), "{qemu}"),
    }
    assert!(
        demo["disk_write"]["seconds"]["median"]
            .as_f64()
            .expect("a number")
            > 0.0
    );
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_demo_without_qemu_says_so_in_its_rows() {
    let folder = disk_folder();
    let args = ["demo", "--take", "1M", "--runs", "1"];
    let output = crate::command(folder.path(), &args)
        .env("PATH", "/nonexistent")
        .output()
        .expect("the program starts");
    success(&output);
    let text = String::from_utf8(output.stdout).expect("text");
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(" QEMU "))
        .collect();
    assert_eq!(rows.len(), 2, "{text}");
    for row in rows {
        assert!(
            row.ends_with("qemu-system-x86_64 is not installed"),
            "{row}"
        );
    }
    assert!(names(folder.path()).is_empty());
}
