//! `qemu-img` and `qemu-io`, the judges of images.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs `qemu-img` and returns what it printed.
///
/// # Panics
/// If it fails.
pub fn qemu_img<S: AsRef<OsStr>>(args: &[S]) -> String {
    succeeded("qemu-img", args, &output("qemu-img", args))
}

/// Runs `qemu-img`, whatever comes of it.
pub fn try_qemu_img<S: AsRef<OsStr>>(args: &[S]) -> Output {
    output("qemu-img", args)
}

/// `qemu-img check` finds nothing: no error and no leak.
///
/// # Panics
/// If it finds something; with what it is.
pub fn check_is_clean(image: &Path, what: &str) {
    let args = [
        OsStr::new("check"),
        OsStr::new("-fqcow2"),
        image.as_os_str(),
    ];
    let found = output("qemu-img", &args);
    assert!(
        found.status.success(),
        "{what}: check of {image:?}: {}",
        said(&found)
    );
}

/// The image reads as the bytes of `raw`, and is as long, for `qemu-img compare`.
///
/// # Panics
/// If not; with where.
pub fn same_as_raw(image: &Path, raw: &Path, what: &str) {
    let args = ["compare", "-f", "raw", "-F", "qcow2"].map(OsStr::new);
    let args = [&args[..], &[raw.as_os_str(), image.as_os_str()]].concat();
    let found = output("qemu-img", &args);
    // Another length is a warning only, where the rest is zeroes.
    assert!(
        found.status.success() && found.stdout.starts_with(b"Images are identical"),
        "{what}: compare of {image:?}: {}",
        said(&found)
    );
}

/// Name and size of the state in bytes of each snapshot in an image, in the image's order.
///
/// # Panics
/// If the image cannot be read.
pub fn snapshots(image: &Path) -> Vec<(String, u64)> {
    let args = ["info", "-U", "--output=json", "-f", "qcow2"].map(OsStr::new);
    let info = json(&[&args[..], &[image.as_os_str()]].concat());
    let Some(list) = info["snapshots"].as_array() else {
        return Vec::new();
    };
    list.iter()
        .map(|snapshot| {
            let name = snapshot["name"].as_str().expect("a name").to_owned();
            (name, snapshot["vm-state-size"].as_u64().expect("a size"))
        })
        .collect()
}

/// What a JSON-printing command of `qemu-img` says.
///
/// # Panics
/// If it fails.
pub fn json<S: AsRef<OsStr>>(args: &[S]) -> Value {
    serde_json::from_str(&qemu_img(args)).expect("qemu-img prints JSON")
}

/// Runs commands of `qemu-io` on an image, in their order; discards are passed on.
///
/// # Panics
/// If one of them fails.
pub fn qemu_io(image: &Path, commands: &[String]) -> String {
    let mut args: Vec<&OsStr> = ["-f", "qcow2", "-d", "unmap"].map(OsStr::new).into();
    for command in commands {
        args.extend([OsStr::new("-c"), OsStr::new(command)]);
    }
    args.push(image.as_os_str());
    let done = output("qemu-io", &args);
    let printed = succeeded("qemu-io", &args, &done);
    // Some failures of a command are only told.
    for bad in ["failed", "rror", "invalid", "verification"] {
        assert!(!printed.contains(bad), "qemu-io {args:?}: {printed}");
    }
    printed
}

/// The bytes that `qemu-io` dumped: lines of an offset, 16 bytes in hex, and text.
///
/// # Panics
/// If there is another line with two spaces after a colon.
pub fn dumped_bytes(dump: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in dump.lines() {
        let Some((offset, rest)) = line.split_once(":  ") else {
            continue;
        };
        assert!(u64::from_str_radix(offset, 16).is_ok(), "{line}");
        let hex = rest.split_whitespace().take(16);
        bytes.extend(hex.map(|byte| u8::from_str_radix(byte, 16).expect("hex")));
    }
    bytes
}

fn output<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Output {
    let run = Command::new(program).args(args).output();
    run.unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn succeeded<S: AsRef<OsStr>>(program: &str, args: &[S], output: &Output) -> String {
    let args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        said(output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    format!(
        "{}: {} {}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}
