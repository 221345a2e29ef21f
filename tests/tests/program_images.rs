//! The program `vmstate` and qemu-img on the same images: they tell the same of them, and each goes on with what the other made.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::files::disk_folder;
use tests::images::same_bytes;
use tests::program::vmstate;
use tests::qemu_img::{check_is_clean, dumped_bytes, qemu_img, qemu_io};
use tests::qemu_img::{same_as_raw, snapshots, try_qemu_img};
use tests::tools::{self, Need};

const IMG: Need = Need::Tool("qemu-img");
const IO: Need = Need::Tool("qemu-io");
const SIZE: u64 = 8 << 20;

fn main() -> ExitCode {
    tools::main(vec![
        tools::trial("a_list_is_qemu_imgs_for_snapshots_of_both", &[IMG], lists),
        tools::trial("an_info_is_qemu_imgs_for_images_of_both", &[IMG], infos),
        tools::trial(
            "a_check_is_qemu_imgs_for_damaged_images",
            &[IMG, IO],
            checks,
        ),
        tools::trial(
            "their_snapshots_are_applied_and_deleted",
            &[IMG, IO],
            theirs,
        ),
        tools::trial("our_snapshots_are_applied_and_deleted", &[IMG, IO], ours),
        tools::trial(
            "data_files_and_backing_files_are_not_needed",
            &[IMG, IO],
            others,
        ),
        tools::trial(
            "a_state_with_gaps_over_a_backing_file_is_loaded_as_qemu_reads_it",
            &[IMG, IO],
            gaps,
        ),
        tools::trial(
            "of_two_snapshots_of_a_name_the_first_is_deleted_as_by_qemu_img",
            &[IMG, IO],
            twins,
        ),
    ])
}

/// Runs the program; what it printed.
fn vmstate_says(folder: &Path, args: &[&str]) -> String {
    let output = try_vmstate(folder, args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

fn try_vmstate(folder: &Path, args: &[&str]) -> Output {
    // Dates are local: a zone that is not the other tests'.
    let mut command = Command::new(vmstate());
    command.args(args).current_dir(folder).env("TZ", ZONE);
    command.output().expect("the program runs")
}

/// East of UTC by five hours and a half: a `TZ` that needs no file.
const ZONE: &str = "XST-5:30";

/// Saves `state` into the image `i` in a folder.
fn save(folder: &Path, name: &str, state: &[u8]) {
    let file = folder.join("stream");
    fs::write(&file, state).expect("written");
    let saved = Command::new(vmstate())
        .args(["save", "i", "--name", name])
        .current_dir(folder)
        .stdin(fs::File::open(&file).expect("written"))
        .output()
        .expect("the program runs");
    let error = String::from_utf8_lossy(&saved.stderr).into_owned();
    assert!(saved.status.success(), "{error}");
    fs::remove_file(file).expect("removed");
}

/// An image `i` of 8 MiB, made by one or the other.
fn image(by_us: bool, options: &str) -> TempDir {
    let folder = disk_folder();
    let path = folder.path().join("i");
    if by_us {
        vmstate_says(
            folder.path(),
            &["create", "i", "--size", "8M", "-o", options],
        );
    } else {
        let path = path.to_str().expect("text");
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, path, "8M"]);
    }
    folder
}

fn state(len: usize, seed: u8) -> Vec<u8> {
    let byte = |n: usize| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed;
    (0..len).map(byte).collect()
}

fn path(folder: &TempDir) -> String {
    let path = folder.path().join("i");
    path.to_str().expect("text").to_owned()
}

const OPTIONS: [&str; 4] = [
    "cluster_size=64k",
    "cluster_size=512,refcount_bits=64",
    "compat=0.10,cluster_size=4k",
    "extended_l2=on,compression_type=zstd",
];

fn lists() {
    for by_us in [true, false] {
        for options in OPTIONS {
            let folder = image(by_us, options);
            let image = path(&folder);
            for (name, len) in [("one", 1), ("a name with spaces", 596_244), ("1", 3 << 20)] {
                save(folder.path(), name, &state(len, 0));
            }
            for name in ["theirs", "ein längerer Name", "2"] {
                qemu_img(&["snapshot", "-c", name, &image]);
            }
            let said = Command::new("qemu-img")
                .args(["snapshot", "-l", &image])
                .env("TZ", ZONE)
                .output();
            let theirs = String::from_utf8(said.expect("it runs").stdout).expect("text");
            let ours = vmstate_says(folder.path(), &["list", "i"]);
            // Up to QEMU 8 other widths, other words for two columns, shorter hours, and nothing for no instruction count.
            match theirs.contains("VM_SIZE") {
                true => assert_eq!(ours, theirs),
                false => assert_eq!(as_before_qemu_9(&ours), words(&theirs)),
            }
            let list = vmstate_says(folder.path(), &["list", "i", "--json"]);
            let list: Value = serde_json::from_str(&list).expect("JSON");
            let sizes: Vec<(String, u64)> = list["list"]["snapshots"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|snapshot| {
                    let name = snapshot["name"].as_str().expect("text").to_owned();
                    (name, snapshot["vm-state-size"].as_u64().expect("a number"))
                })
                .collect();
            assert_eq!(sizes, snapshots(Path::new(&image)));
        }
    }
}

fn words(text: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    text.lines().map(words).collect()
}

fn as_before_qemu_9(text: &str) -> Vec<Vec<String>> {
    let text = text
        .replace("VM_SIZE", "VM SIZE")
        .replace("VM_CLOCK", "VM CLOCK")
        .replace("0000:00:00.000", "00:00:00.000")
        .replace(" --\n", "\n");
    words(&text)
}

fn infos() {
    for by_us in [true, false] {
        for options in OPTIONS.into_iter().chain([
            "lazy_refcounts=on,refcount_bits=1,cluster_size=2M",
            "backing_file=/dev/zero,backing_fmt=raw",
        ]) {
            // They look at the backing file.
            if !by_us && options.contains("backing_file") {
                continue;
            }
            let folder = image(by_us, options);
            let image = path(&folder);
            let theirs = tests::qemu_img::json(&["info", "--output=json", "-f", "qcow2", &image]);
            let ours = vmstate_says(folder.path(), &["info", "i", "--json"]);
            let ours: Value = serde_json::from_str(&ours).expect("JSON");
            let ours = &ours["info"];
            for name in [
                "format",
                "virtual-size",
                "actual-size",
                "cluster-size",
                "backing-filename",
                "backing-filename-format",
                "dirty-flag",
            ] {
                assert_eq!(ours[name], theirs[name], "{options}: {name}");
            }
            let data = |info: &Value, name: &str| info["format-specific"]["data"][name].clone();
            for name in [
                "compat",
                "compression-type",
                "lazy-refcounts",
                "refcount-bits",
                "corrupt",
                "extended-l2",
            ] {
                // They say less of version 2.
                if !data(&theirs, name).is_null() {
                    let both = (data(ours, name), data(&theirs, name));
                    assert_eq!(both.0, both.1, "{options}: {name}");
                }
            }
        }
    }
}

/// The numbers of a check, those that are 0 included.
fn numbers(report: &Value) -> Value {
    let names = [
        "check-errors",
        "corruptions",
        "leaks",
        "image-end-offset",
        "total-clusters",
        "allocated-clusters",
        "fragmented-clusters",
        "compressed-clusters",
    ];
    names
        .map(|name| (name, report[name].as_u64().unwrap_or(0)))
        .into_iter()
        .map(|(name, number)| (name.to_owned(), json!(number)))
        .collect::<serde_json::Map<String, Value>>()
        .into()
}

fn checks() {
    for by_us in [true, false] {
        let folder = image(by_us, "cluster_size=4k");
        let image = path(&folder);
        let write = [
            "write -P 7 1M 1M".to_owned(),
            "write -P 8 5M 64k".to_owned(),
        ];
        qemu_io(Path::new(&image), &write);
        save(folder.path(), "n", &state(100_000, 1));
        let good = fs::read(&image).expect("the image");
        let block = u64::from_be_bytes(good[4096..4104].try_into().expect("8 bytes"));
        let put = |at: u64, bytes: &[u8]| {
            let file = fs::File::options().write(true).open(&image);
            file.expect("it")
                .write_all_at(bytes, at)
                .expect("it is written");
        };
        type Harm<'a> = &'a dyn Fn();
        let harms: [(i32, Harm<'_>); 4] = [
            (0, &|| {}),
            (3, &|| put(block + 2 * 300, &[0, 5])),
            (2, &|| put(block + 2 * 20, &[0, 0])),
            (2, &|| {
                put(block + 2 * 20, &[0, 0]);
                put(block + 2 * 300, &[0, 5]);
            }),
        ];
        for (status, harm) in harms {
            fs::write(&image, &good).expect("written");
            harm();
            let theirs = try_qemu_img(&["check", "--output=json", "-f", "qcow2", &image]);
            let ours = try_vmstate(folder.path(), &["check", "i", "--json"]);
            assert_eq!(theirs.status.code(), Some(status), "the harm was done");
            assert_eq!(ours.status.code(), Some(status));
            let report = |output: &Output| -> Value {
                serde_json::from_slice(&output.stdout).expect("JSON")
            };
            assert_eq!(
                numbers(&report(&ours)["check"]),
                numbers(&report(&theirs)),
                "{status}"
            );
            vmstate_says(folder.path(), &["check", "i", "--repair", "all"]);
            check_is_clean(Path::new(&image), "after our repair");
            let loaded = try_vmstate(folder.path(), &["load", "i", "--name", "n"]);
            assert!(loaded.stdout == state(100_000, 1));
        }
    }
}

/// Writes a pattern to the whole disk.
fn fill(image: &str, pattern: u8) {
    let command = format!("write -P {pattern} 0 {SIZE}");
    qemu_io(Path::new(image), &[command]);
}

/// The disk has this pattern everywhere.
fn holds(folder: &TempDir, pattern: u8) {
    let raw = folder.path().join("raw");
    fs::write(&raw, vec![pattern; SIZE as usize]).expect("written");
    let image = path(folder);
    same_as_raw(Path::new(&image), &raw, "the disk");
    check_is_clean(Path::new(&image), "the image");
}

fn theirs() {
    for options in OPTIONS {
        let folder = image(false, options);
        let image = path(&folder);
        for (pattern, name) in [(1, "one"), (2, "two"), (3, "three")] {
            fill(&image, pattern);
            qemu_img(&["snapshot", "-c", name, &image]);
        }
        fill(&image, 4);
        for (pattern, name) in [(2, "two"), (1, "1"), (3, "three")] {
            vmstate_says(folder.path(), &["apply", "i", name]);
            holds(&folder, pattern);
        }
        let line = try_vmstate(folder.path(), &["load", "i", "--name", "one"]);
        assert!(String::from_utf8_lossy(&line.stderr).contains("holds a disk only"));
        vmstate_says(folder.path(), &["delete", "i", "two"]);
        holds(&folder, 3);
        qemu_img(&["snapshot", "-a", "one", &image]);
        holds(&folder, 1);
        vmstate_says(folder.path(), &["delete", "i", "1"]);
        qemu_img(&["snapshot", "-d", "three", &image]);
        holds(&folder, 1);
    }
}

fn ours() {
    for options in OPTIONS {
        let folder = image(true, options);
        let image = path(&folder);
        for (pattern, name) in [(1, "one"), (2, "two"), (3, "three")] {
            fill(&image, pattern);
            save(folder.path(), name, &state(300_001, pattern));
            holds(&folder, pattern);
        }
        fill(&image, 4);
        for (pattern, name) in [(2, "two"), (1, "one")] {
            qemu_img(&["snapshot", "-a", name, &image]);
            holds(&folder, pattern);
        }
        qemu_img(&["snapshot", "-d", "one", &image]);
        vmstate_says(folder.path(), &["apply", "i", "three"]);
        holds(&folder, 3);
        for (pattern, name) in [(2, "two"), (3, "three")] {
            let loaded = try_vmstate(folder.path(), &["load", "i", "--name", name]);
            assert!(loaded.stdout == state(300_001, pattern), "{name}");
        }
        // Over theirs.
        qemu_img(&["snapshot", "-c", "theirs", &image]);
        vmstate_says(folder.path(), &["delete", "i", "two"]);
        qemu_img(&["snapshot", "-d", "three", &image]);
        holds(&folder, 3);
        assert_eq!(
            snapshots(Path::new(&image)),
            [("theirs".to_owned(), 0)],
            "{options}"
        );
    }
}

/// Images that stand on another file, which is taken away.
fn others() {
    let folder = disk_folder();
    let file = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    fs::write(file("base"), vec![9; SIZE as usize]).expect("written");
    let backing = "backing_file=base,backing_fmt=raw";
    let args = ["create", "i", "--size", "8M", "-o", backing];
    vmstate_says(folder.path(), &args);
    qemu_io(Path::new(&file("i")), &["write -P 1 1M 64k".to_owned()]);
    qemu_img(&["snapshot", "-c", "theirs", &file("i")]);
    qemu_io(Path::new(&file("i")), &["write -P 2 1M 64k".to_owned()]);
    fs::rename(file("base"), file("away")).expect("renamed");
    save(folder.path(), "ours", &state(100_000, 5));
    vmstate_says(folder.path(), &["apply", "i", "theirs"]);
    vmstate_says(folder.path(), &["delete", "i", "theirs"]);
    assert_eq!(
        vmstate_says(folder.path(), &["list", "i"]).lines().count(),
        3
    );
    vmstate_says(folder.path(), &["check", "i"]);
    let loaded = try_vmstate(folder.path(), &["load", "i", "--name", "ours"]);
    assert!(loaded.stdout == state(100_000, 5));
    fs::rename(file("away"), file("base")).expect("renamed");
    let mut disk = vec![9; SIZE as usize];
    disk[1 << 20..][..64 << 10].fill(1);
    fs::write(file("raw"), disk).expect("written");
    same_as_raw(Path::new(&file("i")), Path::new(&file("raw")), "the disk");
    check_is_clean(Path::new(&file("i")), "the image");

    let data_file = format!("data_file={}", file("d"));
    let args = ["create", "j", "--size", "8M", "-o", &data_file];
    vmstate_says(folder.path(), &args);
    qemu_io(Path::new(&file("j")), &["write -P 1 0 8M".to_owned()]);
    check_is_clean(Path::new(&file("j")), "the image");
    assert_eq!(fs::read(file("d")).expect("the data"), vec![1; 8 << 20]);
}

/// A replay of these writes leaves gaps inside a cluster, and of many.
const WRITES: &str = "100 300\n65536 65536\n1048576 65537\n";

fn gaps() {
    for options in [
        "compat=0.10",
        "compat=1.1",
        "extended_l2=on,cluster_size=16k",
    ] {
        let folder = disk_folder();
        let file = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
        let image = file("i");
        fs::write(file("trace"), WRITES).expect("written");
        // Longer than the overlays, with content wherever their vmstate area begins.
        qemu_img(&["create", "-q", "-f", "raw", &file("base"), "1G"]);
        for area in ["16M", "512M"] {
            let fill = format!("write -P 5 {area} 4M");
            let args = ["-f", "raw", "-c", &fill, &file("base")];
            let filled = Command::new("qemu-io").args(args).output();
            assert!(filled.expect("qemu-io runs").status.success());
        }
        let replay = |name: &str, options: &str| {
            let args = ["replay", name, "--format", "qcow2", "--trace", "trace"];
            let options = format!("size=8M,{options}");
            vmstate_says(folder.path(), &[&args[..], &["-o", &options]].concat());
        };
        let read_by_qemu = |image: &str, len: usize| {
            let read = format!("read -b -v 0 {}", len / 512 * 512);
            dumped_bytes(&qemu_io(Path::new(image), &[read]))
        };

        // Its gaps are not allocated: it gets its backing file afterwards.
        replay("i", options);
        let rebase = |to: &str| {
            let args = ["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", to, &image];
            qemu_img(&args);
        };
        rebase("base");
        let load = ["load", "i", "--name", "replay"];
        let loaded = try_vmstate(folder.path(), &load);
        let state = loaded.stdout;
        assert!(loaded.status.success(), "{options}");
        assert_eq!(state.len(), (1 << 20) + 65_537, "{options}");
        assert!(state[131_072..1 << 20] == vec![5; (1 << 20) - 131_072]);
        let before = fs::read(&image).expect("readable");
        let refused = |word: &str| {
            let loaded = try_vmstate(folder.path(), &load);
            let line = String::from_utf8_lossy(&loaded.stderr).into_owned();
            assert!(!loaded.status.success(), "{options}: {word}");
            assert!(
                line.contains("was not opened") && line.contains(word),
                "{line}"
            );
        };
        fs::rename(file("base"), file("away")).expect("renamed");
        refused("No such file");
        fs::create_dir(file("other")).expect("made");
        fs::rename(file("away"), file("other/base")).expect("renamed");
        assert!(fs::read(&image).expect("readable") == before, "only read");
        rebase("other/base");
        refused("--any-backing-file");
        let anywhere = [&load[..], &["--any-backing-file"]].concat();
        let loaded = try_vmstate(folder.path(), &anywhere);
        same_bytes(&loaded.stdout, &state, options);
        qemu_img(&["snapshot", "-a", "replay", &image]);
        let read = read_by_qemu(&image, state.len());
        same_bytes(&read, &state[..read.len()], options);

        // One that is saved over it has zeroes there, for QEMU too.
        let over = format!("{options},backing_file=other/base,backing_fmt=raw");
        replay("j", &over);
        let loaded = try_vmstate(folder.path(), &["load", "j", "--name", "replay"]);
        let state = loaded.stdout;
        assert!(state[131_072..1 << 20] == vec![0; (1 << 20) - 131_072]);
        qemu_img(&["snapshot", "-a", "replay", &file("j")]);
        let read = read_by_qemu(&file("j"), state.len());
        same_bytes(&read, &state[..read.len()], &over);
        check_is_clean(Path::new(&file("j")), &over);
    }
}

fn twins() {
    let folder = disk_folder();
    let file = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    qemu_img(&["create", "-q", "-f", "qcow2", &file("theirs"), "1M"]);
    for byte in 1..4 {
        let write = format!("write -P {byte} 0 64k");
        qemu_io(Path::new(&file("theirs")), &[write]);
        qemu_img(&["snapshot", "-c", "a", &file("theirs")]);
    }
    fs::copy(file("theirs"), file("ours")).expect("a copy");
    for left in [2, 1, 0] {
        qemu_img(&["snapshot", "-d", "a", &file("theirs")]);
        vmstate_says(folder.path(), &["delete", "ours", "a"]);
        assert_eq!(snapshots(Path::new(&file("ours"))).len(), left);
        for (snapshot, byte) in ["2", "3"][2 - left..].iter().zip(4 - left..) {
            for image in ["ours", "theirs"] {
                let copy = file("copy");
                fs::copy(file(image), &copy).expect("a copy");
                qemu_img(&["snapshot", "-a", snapshot, &copy]);
                qemu_io(Path::new(&copy), &[format!("read -P {byte} 0 64k")]);
            }
        }
        check_is_clean(Path::new(&file("ours")), "after a delete");
    }
    let none = try_vmstate(folder.path(), &["delete", "ours", "a"]);
    assert!(!none.status.success());
}
