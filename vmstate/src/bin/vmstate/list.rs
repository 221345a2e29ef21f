//! `vmstate list`: the snapshots of an image.
use crate::args::ListArgs;
use crate::context::Cx;
use crate::failure::Failure;
use crate::graph::{HostFile, Purpose, image_failure};
use crate::human;
use crate::say;
use crate::stdio;
use block_core::SnapshotInfo;
use block_drivers::qcow2::{self, ImageInfo};
use serde_json::{Value, json};
use std::num::NonZeroUsize;

pub(crate) fn run(args: &ListArgs) -> Result<(), Failure> {
    stdio::stdout_is_open()?;
    let info = look(args, "list")?;
    if args.output.json {
        let list: Vec<Value> = info.snapshots.iter().map(snapshot_json).collect();
        let file = args.file.display().to_string();
        let list = json!({ "list": { "file": file, "snapshots": list } });
        return say::done_on_stdout(list, "no file was changed");
    }
    let text = human::snapshots(&info.snapshots);
    match text.strip_suffix('\n') {
        Some(lines) => say::done_on_stdout(lines, "no file was changed"),
        None => Ok(()),
    }
}

/// What the image says of itself, for a command called `operation`.
pub(crate) fn look(args: &ListArgs, operation: &'static str) -> Result<ImageInfo, Failure> {
    Cx::run(NonZeroUsize::MIN, async |cx| {
        let path = &args.file;
        let work = async {
            let purpose = Purpose::reading(args.force_share);
            let file = HostFile::open(cx, path, path, false, purpose).await?;
            let child = file.attach("image")?;
            let info = match qcow2::info(&child).await {
                Ok(info) => info,
                Err(error) => return Err(image_failure(cx, path, path, &error).await),
            };
            drop(child);
            file.close().await?;
            Ok(info)
        };
        let shown = path.display().to_string();
        cx.unless_stopped(&shown, operation, work)
            .await
            .map_err(|e| e.leaving("no file was changed"))
    })
}

/// With the names of QEMU's `SnapshotInfo`; the disk's length is not among those.
pub(crate) fn snapshot_json(snapshot: &SnapshotInfo) -> Value {
    json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vmstate_size,
        "disk-size": snapshot.disk_size,
        "date-sec": snapshot.date_sec,
        "date-nsec": snapshot.date_nsec,
        "vm-clock-sec": snapshot.vm_clock_nsec / 1_000_000_000,
        "vm-clock-nsec": snapshot.vm_clock_nsec % 1_000_000_000,
        "icount": snapshot.icount,
    })
}
