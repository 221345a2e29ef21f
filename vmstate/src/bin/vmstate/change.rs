//! `vmstate apply` and `vmstate delete`: what is done to an image at once.
use crate::args::ChangeArgs;
use crate::context::Cx;
use crate::failure::Failure;
use crate::graph::{AS_IT_WAS, Graph, Purpose};
use crate::human;
use crate::say;
use block_core::{BlockNode, Result};
use serde_json::json;
use std::num::NonZeroUsize;

/// Requests to the file at once: tables are copied one after the other.
const THREADS: NonZeroUsize = NonZeroUsize::new(4).expect("not 0");

pub(crate) fn apply(args: &ChangeArgs) -> std::result::Result<(), Failure> {
    change(args, "applied", async |image, name| {
        image.snapshot_goto(name).await
    })
}

pub(crate) fn delete(args: &ChangeArgs) -> std::result::Result<(), Failure> {
    change(args, "deleted", async |image, name| {
        image.snapshot_delete(name).await
    })
}

/// `act` on the image. Not stopped by a signal: it is over soon, and half of it is not wanted.
fn change(
    args: &ChangeArgs,
    verb: &'static str,
    act: impl AsyncFnOnce(&BlockNode, &str) -> Result<()>,
) -> std::result::Result<(), Failure> {
    let (path, shown) = (&args.file, args.file.display().to_string());
    Cx::run(THREADS, async |cx| {
        let graph = Graph::open_image(cx, path, path, false, Purpose::Change)
            .await
            .map_err(|e| e.leaving("nothing was written"))?;
        let done = act(&graph.state, &args.name).await;
        let closed = graph.close().await;
        done.map_err(|e| Failure::block(&shown, &e).leaving(AS_IT_WAS))?;
        closed.map_err(|e| {
            let left = format!("the snapshot is {verb}; clusters that nothing uses may be left, which check --repair leaks frees");
            e.leaving(left)
        })
    })?;
    if args.output.json {
        let done = json!({"file": shown, "name": args.name});
        return say::on_stdout(json!({ verb: done }));
    }
    say::on_stdout(format_args!(
        "{verb} {}: snapshot {:?}",
        human::line(&shown),
        args.name
    ))
}
