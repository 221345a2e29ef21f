//! `vmstate load`: a file to stdout.
use crate::args::LoadArgs;
use crate::context::Cx;
use crate::failure::Failure;
use crate::graph::{Graph, Purpose};
use crate::progress::Progress;
use crate::report::{self, Transfer};
use crate::stdio::{Done, Stdio, lost};
use crate::streams::{STREAM_PIECE, Source};
use aio_task::Job;
use std::cell::Cell;
use std::time::Instant;

/// Bytes handed to stdout at a time, where they are read ahead.
const WRITE: usize = 1 << 20;

pub(crate) fn run(args: &LoadArgs) -> Result<(), Failure> {
    let threads = args.engine.workers.saturating_add(1);
    Cx::run(threads, async |cx| {
        let shown = args.file.display().to_string();
        let work = async {
            let (graph, mut source) = open(cx, args).await?;
            let progress = Progress::new("load", Some(source.len()), args.output.json);
            let counter = progress.counter();
            let work = load(args, &graph, &mut source, &counter);
            cx.beside(work, progress.run(&cx.handle)).await
        };
        let transfer = cx
            .unless_stopped(&shown, "load", work)
            .await
            .map_err(|e| e.leaving("no file was changed"))?;
        report::transfer("loaded", &shown, &transfer, args.output);
        Ok(())
    })
}

async fn open(cx: &Cx, args: &LoadArgs) -> Result<(Graph, Source), Failure> {
    let purpose = match args.force_share {
        true => Purpose::ReadShared,
        false => Purpose::Read,
    };
    let graph = Graph::open(cx, &args.file, &args.file, &args.engine, purpose).await?;
    let source = Source::open(&graph.state, &args.engine, args.length)
        .await
        .map_err(|e| Failure::block(args.file.display(), &e))?;
    Ok((graph, source))
}

async fn load(
    args: &LoadArgs,
    graph: &Graph,
    source: &mut Source,
    counter: &Cell<u64>,
) -> Result<Transfer, Failure> {
    let start = Instant::now();
    let (bytes, pieces) = pump(args, source, counter).await?;
    let seconds = start.elapsed().as_secs_f64();
    graph.close().await?;
    Ok(Transfer::new(graph, bytes, pieces, seconds))
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
