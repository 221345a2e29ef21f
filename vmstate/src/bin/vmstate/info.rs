//! `vmstate info`: what an image says of itself.
use crate::args::ListArgs;
use crate::failure::Failure;
use crate::human;
use crate::list::{look, snapshot_json};
use crate::say;
use crate::stdio;
use block_drivers::qcow2::{ImageInfo, Version};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;

pub(crate) fn run(args: &ListArgs) -> Result<(), Failure> {
    stdio::stdout_is_open()?;
    let info = look(args, "info")?;
    let file = args.file.display().to_string();
    let used = fs::metadata(&args.file).map(|found| found.blocks() * 512);
    let used = used.map_err(|e| Failure::io(&file, "stat", &e))?;
    let done = "no file was changed";
    match args.output.json {
        true => say::done_on_stdout(json!({ "info": to_json(&file, used, &info) }), done),
        false => say::done_on_stdout(text(&file, used, &info).trim_end(), done),
    }
}

fn compat(info: &ImageInfo) -> &'static str {
    match info.version {
        Version::V2 => "0.10",
        Version::V3 => "1.1",
    }
}

/// With the names of QEMU's `ImageInfo`.
fn to_json(file: &str, used: u64, info: &ImageInfo) -> Value {
    let name = |name: &OsStr| name.to_string_lossy().into_owned();
    let snapshots: Vec<Value> = info.snapshots.iter().map(snapshot_json).collect();
    json!({
        "filename": file,
        "format": "qcow2",
        "virtual-size": info.disk_size,
        "actual-size": used,
        "cluster-size": info.cluster_size,
        "backing-filename": info.backing_file.as_deref().map(name),
        "backing-filename-format": info.backing_format,
        "dirty-flag": info.dirty,
        "snapshots": snapshots,
        "format-specific": {
            "type": "qcow2",
            "data": {
                "compat": compat(info),
                "compression-type": info.compression_type.name(),
                "lazy-refcounts": info.lazy_refcounts,
                "refcount-bits": info.refcount_bits,
                "corrupt": info.corrupt,
                "extended-l2": info.extended_l2,
                "data-file": info.data_file.as_deref().map(name),
                "data-file-raw": info.external_data.then_some(info.data_file_raw),
                "bitmaps": info.bitmaps,
            },
        },
    })
}

/// As `qemu-img info` has it.
fn text(file: &str, used: u64, info: &ImageInfo) -> String {
    let mut text = String::new();
    let mut say = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {}", human::line(value));
    };
    let size = |bytes| format!("{} ({bytes} bytes)", human::size(bytes));
    say("image", file);
    say("file format", "qcow2");
    say("virtual size", &size(info.disk_size));
    say("disk size", &human::size(used));
    say("cluster_size", &info.cluster_size.to_string());
    if let Some(name) = &info.backing_file {
        say("backing file", &name.to_string_lossy());
    }
    if let Some(format) = &info.backing_format {
        say("backing file format", format);
    }
    if info.dirty {
        say("cleanly shut down", "no");
    }
    let snapshots = human::snapshots(&info.snapshots);
    text.push_str(&snapshots);
    text.push_str("Format specific information:\n");
    let mut say = |name: &str, value: &str| {
        let _ = writeln!(text, "    {name}: {}", human::line(value));
    };
    say("compat", compat(info));
    say("compression type", info.compression_type.name());
    say("lazy refcounts", &info.lazy_refcounts.to_string());
    say("refcount bits", &info.refcount_bits.to_string());
    if let Some(name) = &info.data_file {
        say("data file", &name.to_string_lossy());
    }
    if info.external_data {
        say("data file raw", &info.data_file_raw.to_string());
    }
    if info.bitmaps > 0 {
        say("bitmaps", &info.bitmaps.to_string());
    }
    say("corrupt", &info.corrupt.to_string());
    say("extended l2", &info.extended_l2.to_string());
    text
}
