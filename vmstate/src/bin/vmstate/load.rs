//! `vmstate load`: a file, or the state in a snapshot of an image, to stdout.
use crate::args::LoadArgs;
use crate::context::Cx;
use crate::failure::Failure;
use crate::graph::{Graph, Purpose};
use crate::magic;
use crate::progress::Progress;
use crate::report::{self, Transfer};
use crate::stdio::{self, Done, Stdio, lost};
use crate::streams::{STREAM_PIECE, Source};
use aio_task::Job;
use block_core::BlockNode;
use std::cell::Cell;
use std::time::Instant;

/// Bytes handed to stdout at a time, where they are read ahead.
const WRITE: usize = 1 << 20;

/// A state that can be read.
struct Open {
    graph: Graph,
    /// The snapshot, where it is in one.
    view: Option<BlockNode>,
    source: Source,
}

pub(crate) fn run(args: &LoadArgs) -> Result<(), Failure> {
    stdio::stdout_is_open()?;
    let threads = args.engine.workers.saturating_add(1);
    Cx::run(threads, async |cx| {
        let shown = args.file.display().to_string();
        let work = async {
            let open = open(cx, args).await?;
            let progress = Progress::new("load", Some(open.source.len()), args.output.json);
            let counter = progress.counter();
            let work = load(args, open, &counter);
            cx.beside(work, progress.run(&cx.handle)).await
        };
        let transfer = cx
            .unless_stopped(&shown, "load", work)
            .await
            .map_err(|e| e.leaving("no file was changed"))?;
        report::transfer(
            "loaded",
            &shown,
            args.name.as_deref(),
            &transfer,
            args.output,
        );
        Ok(())
    })
}

async fn open(cx: &Cx, args: &LoadArgs) -> Result<Open, Failure> {
    let (file, engine) = (&args.file, &args.engine);
    let failed = |error| Failure::block(file.display(), &error);
    let purpose = Purpose::reading(args.force_share);
    let Some(name) = &args.name else {
        let graph = Graph::open_state(cx, file, file, engine, purpose).await?;
        if args.format.is_none() {
            refuse_image(cx, args, &graph).await?;
        }
        let source = Source::open(&graph.state, engine, args.length).await;
        let source = source.map_err(failed)?;
        if source.len() == 0 && args.length.is_none() {
            // No save makes such a file.
            return Err(Failure::new(
                file.display(),
                "load",
                "it is empty: there is no state",
            ));
        }
        return Ok(Open {
            graph,
            view: None,
            source,
        });
    };
    let anywhere = args.any_backing_file;
    let graph = Graph::open_image_to_load(cx, file, engine.direct, purpose, anywhere).await?;
    let view = graph.state.snapshot_load_tmp(name).await.map_err(failed)?;
    if view.vmstate_length().await.map_err(failed)? == Some(0) {
        let why = format!("the snapshot {name:?} holds a disk only, no state");
        return Err(Failure::new(file.display(), "load", why));
    }
    let source = Source::open(&view, engine, args.length).await;
    let source = source.map_err(failed)?;
    Ok(Open {
        graph,
        view: Some(view),
        source,
    })
}

/// A qcow2 image is no stream; who wants its bytes says so.
async fn refuse_image(cx: &Cx, args: &LoadArgs, graph: &Graph) -> Result<(), Failure> {
    let format = graph.file.image_format(cx).await?;
    if format == Some(magic::QCOW2) {
        let why = "it is a qcow2 image: --name says which snapshot's state; --format raw-state reads it as it is";
        return Err(Failure::new(args.file.display(), "load", why));
    }
    Ok(())
}

async fn load(args: &LoadArgs, open: Open, counter: &Cell<u64>) -> Result<Transfer, Failure> {
    let Open {
        graph,
        view,
        mut source,
    } = open;
    let start = Instant::now();
    let (bytes, pieces) = pump(args, &mut source, counter).await?;
    let seconds = start.elapsed().as_secs_f64();
    if view.is_none() {
        check_length(args, &graph, &source).await?;
    }
    drop(source);
    let closed = close(args, &graph, view).await;
    closed.map_err(|e| {
        e.leaving(format!(
            "no file was changed; all {bytes} bytes of the state were written to stdout"
        ))
    })?;
    Ok(Transfer::new(&graph, bytes, pieces, seconds))
}

/// A file that was written meanwhile is no state that was complete when it was opened.
async fn check_length(args: &LoadArgs, graph: &Graph, source: &Source) -> Result<(), Failure> {
    // A file that has become shorter is an error of its own.
    let length = graph.state.vmstate_length().await;
    let length = length.map_err(|e| Failure::block(args.file.display(), &e))?;
    let grew = length.is_some_and(|length| length > source.len());
    if grew && args.length.is_none() && !args.force_share {
        let why = format!(
            "the file has become longer: it had {} bytes, and what was loaded is not all of it",
            source.len()
        );
        return Err(Failure::new(args.file.display(), "load", why));
    }
    Ok(())
}

async fn close(args: &LoadArgs, graph: &Graph, view: Option<BlockNode>) -> Result<(), Failure> {
    if let Some(view) = view {
        let closed = view.close().await;
        closed.map_err(|e| Failure::block(args.file.display(), &e))?;
    }
    graph.close().await
}

/// Writes the whole state to stdout; bytes and pieces. The next piece is read while one is being written.
async fn pump(
    args: &LoadArgs,
    source: &mut Source,
    counter: &Cell<u64>,
) -> Result<(u64, u64), Failure> {
    let size = match args.engine.unbuffered {
        true => STREAM_PIECE,
        false => WRITE,
    };
    let stdio = Stdio::new();
    let end = source.len();
    let mut spare = vec![0; size];
    let mut writing = None;
    let (mut at, mut written, mut pieces) = (0, 0, 0);
    loop {
        let wanted = (end - at).min(size as u64) as usize;
        let read = source
            .read(at, &mut spare[..wanted])
            .await
            .map_err(|e| Failure::block(args.file.display(), &e))?;
        if read < wanted {
            let why = format!(
                "the file has become shorter: it ends at {}",
                at + read as u64
            );
            return Err(Failure::new(args.file.display(), "load", why).at(at, wanted as u64));
        }
        at += read as u64;
        if let Some((job, len)) = writing.take() {
            let job: Job<Done> = job;
            let (buffer, result) = job.await.map_err(|e| lost("stdout", &e))?;
            result.map_err(|e| Failure::io("stdout", "write", &e).at(written, len as u64))?;
            written += len as u64;
            counter.set(written);
            spare = match read {
                0 => return Ok((written, pieces)),
                _ => {
                    writing = Some((stdio.write(spare, read), read));
                    buffer
                }
            };
        } else if read == 0 {
            return Ok((written, pieces));
        } else {
            writing = Some((stdio.write(spare, read), read));
            spare = vec![0; size];
        }
        pieces += 1;
    }
}
