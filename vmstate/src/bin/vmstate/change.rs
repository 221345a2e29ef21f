//! `vmstate apply` and `vmstate delete`: what is done to an image at once.
use crate::args::ChangeArgs;
use crate::context::Cx;
use crate::failure::Failure;
use crate::graph::{AS_IT_WAS, Graph, LEAKS, Purpose, left};
use crate::human;
use crate::say;
use block_core::{BlockError, BlockNode, Cause, Op, Result, SnapshotInfo};
use block_drivers::qcow2::{ImageInfo, Qcow2Error};
use serde_json::json;
use std::num::NonZeroUsize;

/// Requests to the file at once: tables are copied one after the other.
const THREADS: NonZeroUsize = NonZeroUsize::new(4).expect("not 0");

pub(crate) fn apply(args: &ChangeArgs) -> std::result::Result<(), Failure> {
    change(
        args,
        ("apply", "applied"),
        no_bitmaps,
        async |image, name| image.snapshot_goto(name).await,
    )
}

pub(crate) fn delete(args: &ChangeArgs) -> std::result::Result<(), Failure> {
    let always = |_: &ImageInfo| Ok(());
    change(args, ("delete", "deleted"), always, async |image, name| {
        image.snapshot_delete(name).await
    })
}

/// `act` on the image. Not stopped by a signal: it is over soon, and half of it is not wanted. `may` refuses what `act` would refuse, of an
/// image that opening it would repair.
fn change(
    args: &ChangeArgs,
    (operation, verb): (&'static str, &'static str),
    may: impl Fn(&ImageInfo) -> std::result::Result<(), Cause>,
    act: impl AsyncFnOnce(&BlockNode, &str) -> Result<()>,
) -> std::result::Result<(), Failure> {
    let (path, shown) = (&args.file, args.file.display().to_string());
    let is_done = format!("the snapshot is {verb}");
    Cx::run(THREADS, async |cx| {
        let there = async |info: &ImageInfo| {
            let found = has_snapshot(info, &args.name).and_then(|()| may(info));
            found.map_err(|cause| {
                let errno = BlockError::new(Op::Open, 0, 0, cause.clone()).errno();
                Failure::new(&shown, operation, &cause).with_errno(errno.0)
            })
        };
        let graph = Graph::open_image_if(cx, path, path, false, Purpose::Change, there)
            .await
            .map_err(|e| e.leaving("nothing was written"))?;
        let placed = graph.file.check_place(cx, operation).await;
        let done = match placed {
            Ok(()) => {
                let done = act(&graph.state, &args.name).await;
                done.map_err(|e| Failure::block(&shown, &e).leaving(left(&e.cause, verb)))
            }
            Err(failure) => Err(failure.leaving(AS_IT_WAS)),
        };
        let place = graph.file.check_place(cx, operation).await;
        let closed = graph.close().await;
        let changed = match (done, closed) {
            (Ok(()), Ok(())) => {
                place.map_err(|e| e.leaving(format!("{is_done} in the file that was opened")))
            }
            (Ok(()), Err(failure)) => Err(failure.leaving(format!("{is_done}; {LEAKS}"))),
            (Err(failure), Ok(())) => Err(failure),
            (Err(failure), Err(_)) => Err(failure.mentioning(LEAKS)),
        };
        changed.map_err(|failure| graph.failed(failure))
    })?;
    if args.output.json {
        let done = json!({"file": shown, "name": args.name});
        return say::done_on_stdout(json!({ verb: done }), is_done);
    }
    let line = format!("{verb} {}: snapshot {:?}", human::line(&shown), args.name);
    say::done_on_stdout(line, is_done)
}

/// The disk cannot be replaced under persistent bitmaps.
fn no_bitmaps(info: &ImageInfo) -> std::result::Result<(), Cause> {
    match info.bitmaps {
        0 => Ok(()),
        bitmaps => Err(Qcow2Error::ActiveBitmaps { bitmaps }.into()),
    }
}

/// Asked before the image is opened for writing, which may repair it: a command that is refused changes nothing.
fn has_snapshot(info: &ImageInfo, name: &str) -> std::result::Result<(), Cause> {
    let named = |snapshot: &SnapshotInfo| snapshot.id == name || snapshot.name == name;
    match info.snapshots.iter().any(named) {
        true => Ok(()),
        false => Err(Cause::NoSuchSnapshot { name: name.into() }),
    }
}
