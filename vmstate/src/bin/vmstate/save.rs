//! `vmstate save`: stdin into a file.
use crate::args::SaveArgs;
use crate::context::Cx;
use crate::failure::Failure;
use crate::graph::{Graph, Purpose};
use crate::progress::Progress;
use crate::report::{self, Transfer};
use crate::say;
use crate::stdio::{Stdio, Until, lost};
use crate::streams::{STREAM_PIECE, Sink};
use crate::target::Target;
use serde_json::json;
use std::cell::Cell;
use std::time::Instant;

/// Bytes asked of stdin at a time, where they are buffered.
const READ: usize = 1 << 20;

pub(crate) fn run(args: &SaveArgs) -> Result<(), Failure> {
    // A worker more than requests in flight: closing and renaming wait for nobody.
    let threads = args.engine.workers.saturating_add(1);
    Cx::run(threads, async |cx| {
        let shown = args.file.display().to_string();
        let prepare = Target::prepare(cx, &args.file, args.force);
        let mut target = cx.unless_stopped(&shown, "save", prepare).await?;
        if args.output.json {
            let temporary = target.temporary().display().to_string();
            let started = json!({"file": shown, "temporary": temporary});
            say::on_stderr(json!({ "started": started }));
        }
        // Not stopped by a signal: it could make the file after it was removed.
        let graph = Graph::open(
            cx,
            target.temporary(),
            &args.file,
            &args.engine,
            Purpose::Create,
        )
        .await
        .map_err(|e| target.failed(e))?;
        let progress = Progress::new("save", None, args.output.json);
        let work = save(args, &graph, &progress);
        let work = cx.beside(work, progress.run(&cx.handle));
        let saved = cx.unless_stopped(&shown, "save", work).await;
        drop(progress);
        // From here on no signal stops it: the state is durable, and gets its name.
        let transfer = saved.map_err(|e| target.failed(e))?;
        target.commit(cx).await?;
        report::transfer("saved", &shown, &transfer, args.output);
        Ok(())
    })
}

async fn save(args: &SaveArgs, graph: &Graph, progress: &Progress) -> Result<Transfer, Failure> {
    let start = Instant::now();
    let failed = |error| Failure::block(args.file.display(), &error);
    let mut sink = Sink::begin(&graph.state, &args.engine).map_err(failed)?;
    let counter = progress.counter();
    let pieces = pump(args, &mut sink, &counter).await?;
    let bytes = sink.finish().await.map_err(failed)?;
    graph.flush().await?;
    let seconds = start.elapsed().as_secs_f64();
    graph.close().await?;
    Ok(Transfer::new(graph, bytes, pieces, seconds))
}

/// Writes stdin to `sink` until it ends; the number of pieces. The next piece is read while one is being written.
async fn pump(args: &SaveArgs, sink: &mut Sink, counter: &Cell<u64>) -> Result<u64, Failure> {
    let (size, until) = match args.engine.unbuffered {
        true => (STREAM_PIECE, Until::Full),
        false => (READ, Until::Idle),
    };
    let stdio = Stdio::new();
    let mut reading = stdio.read(vec![0; size], until);
    let mut spare = vec![0; size];
    let (mut at, mut pieces) = (0, 0);
    loop {
        let (buffer, result) = reading.await.map_err(|e| lost("stdin", &e))?;
        let filled = result.map_err(|e| Failure::io("stdin", "read", &e).at(at, size as u64))?;
        let next = (!filled.ended).then(|| stdio.read(spare, until));
        if filled.len > 0 {
            sink.write(at, &buffer[..filled.len])
                .await
                .map_err(|e| Failure::block(args.file.display(), &e))?;
            at += filled.len as u64;
            pieces += 1;
            counter.set(at);
        }
        match next {
            Some(next) => (reading, spare) = (next, buffer),
            None => return Ok(pieces),
        }
    }
}
