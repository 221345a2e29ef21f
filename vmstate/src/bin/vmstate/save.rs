//! `vmstate save`: stdin into a file, or into a snapshot of an image.
use crate::args::SaveArgs;
use crate::context::Cx;
use crate::failure::Failure;
use crate::graph::{AS_IT_WAS, Graph, LEAKS, Purpose, left};
use crate::progress::Progress;
use crate::qemu_stream::{Ending, StreamEnd};
use crate::report::{self, Transfer};
use crate::say;
use crate::stdio::{self, DoneReading, Filled, Stdio, Until, lost};
use crate::streams::{STREAM_PIECE, Sink};
use crate::target::{Making, Target};
use aio_task::Job;
use block_core::{BlockError, Cause, NewSnapshot};
use block_drivers::qcow2::ImageInfo;
use serde_json::json;
use std::cell::Cell;
use std::time::{Instant, SystemTime};
use vmstate::DEFAULT_GAP_THRESHOLD;

/// Bytes asked of stdin at a time, where they are buffered.
const READ: usize = 1 << 20;

pub(crate) fn run(args: &SaveArgs) -> Result<(), Failure> {
    stdio::stdin_is_open().map_err(|e| e.leaving("nothing was written"))?;
    // A worker more than requests in flight: closing and renaming wait for nothing.
    let threads = args.engine.workers.saturating_add(1);
    Cx::run(threads, async |cx| match &args.name {
        Some(name) => into_snapshot(cx, args, name).await,
        None => into_file(cx, args).await,
    })
}

async fn into_file(cx: &Cx, args: &SaveArgs) -> Result<(), Failure> {
    let shown = args.file.display().to_string();
    let prepare = Target::prepare(cx, &args.file, Making::State, args.force);
    let prepared = cx.unless_stopped(&shown, "save", prepare).await;
    let mut target = prepared.map_err(|e| e.leaving("nothing was written"))?;
    if args.output.json {
        let temporary = target.temporary().display().to_string();
        let started = json!({"file": shown, "temporary": temporary});
        say::on_stderr(json!({ "started": started }));
    }
    // Not stopped by a signal: it could make the file after it was removed.
    let graph = Graph::open_state(
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
    let (transfer, doubt) = saved.map_err(|e| target.failed(e))?;
    target.commit(cx).await?;
    warn(args, doubt);
    report::transfer("saved", &shown, None, &transfer, args.output);
    Ok(())
}

async fn save(
    args: &SaveArgs,
    graph: &Graph,
    progress: &Progress,
) -> Result<(Transfer, Option<Doubt>), Failure> {
    let start = Instant::now();
    let failed = |error| Failure::block(args.file.display(), &error);
    let sink = Sink::begin(&graph.state, &args.engine, DEFAULT_GAP_THRESHOLD);
    let mut sink = sink.map_err(failed)?;
    let counter = progress.counter();
    let (pieces, doubt) = pump(&Input::new(args), &mut sink, &counter).await?;
    let bytes = sink.finish().await.map_err(failed)?;
    graph.flush().await?;
    let seconds = start.elapsed().as_secs_f64();
    graph.close().await?;
    Ok((Transfer::new(graph, bytes, pieces, seconds), doubt))
}

async fn into_snapshot(cx: &Cx, args: &SaveArgs, name: &str) -> Result<(), Failure> {
    let shown = args.file.display().to_string();
    let (file, direct) = (&args.file, args.engine.direct);
    let input = Input::new(args);
    let open = async {
        let free = async |info: &ImageInfo| match info.snapshots.iter().any(|s| s.name == name) {
            true if !args.force => Err(name_is_taken(&shown, name)),
            _ => input.look().await,
        };
        let opened = Graph::open_image_if(cx, file, file, direct, Purpose::Change, free).await;
        opened.map_err(|e| e.leaving("nothing was written"))
    };
    let opened = cx.unless_stopped(&shown, "save", open).await;
    let graph = opened.map_err(|e| e.leaving(AS_IT_WAS))?;
    if args.output.json {
        let started = json!({"file": shown, "name": name});
        say::on_stderr(json!({ "started": started }));
    }
    let saved = save_named(cx, args, name, &graph, &input).await;
    let place = graph.file.check_place(cx, "save").await;
    // Whatever happened: what the failed save has written is freed, at the latest now.
    let closed = graph.close().await;
    let saved = match (saved, closed) {
        (Ok(saved), Ok(())) => Ok(saved),
        (Ok(_), Err(failure)) => Err(failure.leaving(format!("the snapshot is complete; {LEAKS}"))),
        (Err(failure), Ok(())) => Err(failure.leaving(AS_IT_WAS)),
        (Err(failure), Err(_)) => Err(failure.leaving(AS_IT_WAS).mentioning(LEAKS)),
    };
    let saved = saved.map_err(|failure| graph.failed(failure));
    let (bytes, pieces, seconds, doubt) = saved?;
    // Once more: the record may have gone into a file that no longer has the name.
    place.map_err(|e| e.leaving("the snapshot is complete in the file that was opened"))?;
    let transfer = Transfer::new(&graph, bytes, pieces, seconds);
    warn(args, doubt);
    report::transfer("saved", &shown, Some(name), &transfer, args.output);
    Ok(())
}

fn name_is_taken(shown: &str, name: &str) -> Failure {
    let why = format!("there is a snapshot {name:?}; --force replaces it");
    Failure::new(shown, "save", why).with_errno(block_core::Errno::EXIST.0)
}

/// From the first byte to the record; bytes, pieces, seconds, and what is in doubt. A signal stops it as long as there is no record.
async fn save_named(
    cx: &Cx,
    args: &SaveArgs,
    name: &str,
    graph: &Graph,
    input: &Input<'_>,
) -> Result<(u64, u64, f64, Option<Doubt>), Failure> {
    let shown = args.file.display().to_string();
    let start = Instant::now();
    let failed = |error: BlockError| match &error.cause {
        Cause::Leaked { cause: first, .. } => {
            let left = left(&error.cause, "complete");
            let cause = (**first).clone();
            Failure::block(&shown, &error.with_cause(cause)).leaving(left)
        }
        Cause::SnapshotExists { name } => name_is_taken(&shown, name),
        cause => Failure::block(&shown, &error).leaving(left(cause, "complete")),
    };
    let new = NewSnapshot {
        replace: args.force,
        ..NewSnapshot::new(name).taken_at(SystemTime::now())
    };
    let begin = Sink::begin_named(&graph.state, new, &args.engine, DEFAULT_GAP_THRESHOLD);
    let mut sink = begin.await.map_err(failed)?;
    let progress = Progress::new("save", None, args.output.json);
    let counter = progress.counter();
    let pumped = {
        let work = pump(input, &mut sink, &counter);
        let work = cx.beside(work, progress.run(&cx.handle));
        cx.unless_stopped(&shown, "save", work).await
    };
    let pumped = match pumped {
        Ok(pumped) => {
            let place = graph.file.check_place(cx, "save").await;
            place.map(|()| pumped)
        }
        failed => failed,
    };
    let (pieces, doubt) = match pumped {
        Ok(pumped) => pumped,
        Err(failure) => {
            return Err(match sink.cancel().await {
                Ok(()) => failure,
                Err(_) => failure.leaving(format!("{AS_IT_WAS}, and {LEAKS}")),
            });
        }
    };
    let cancel = sink.cancel_handle();
    let commit = cx.until_stopped(sink.finish(), || {
        if let Some(cancel) = &cancel {
            cancel.cancel();
        }
    });
    let bytes = match commit.await {
        (Ok(bytes), _) => bytes,
        (Err(error), Some(signal)) => {
            let mut stopped = match signal {
                Ok(signal) => Failure::new(&shown, "save", format!("stopped by {signal}")),
                Err(failure) => failure,
            };
            if !matches!(error.cause, Cause::Cancelled) {
                stopped = stopped.leaving(left(&error.cause, "complete"));
            }
            return Err(stopped);
        }
        (Err(error), None) => return Err(failed(error)),
    };
    Ok((bytes, pieces, start.elapsed().as_secs_f64(), doubt))
}

/// What is not known of a stream that was saved.
#[derive(Clone, Copy, Debug)]
enum Doubt {
    /// A QEMU stream without a description.
    NoDescription,
    /// A QEMU stream without its end, which was to be saved all the same.
    Cut,
}

fn warn(args: &SaveArgs, doubt: Option<Doubt>) {
    let text = match doubt {
        None => return,
        Some(Doubt::NoDescription) => {
            "the QEMU migration stream ends without a description: only its last byte was checked, so it may be incomplete"
        }
        Some(Doubt::Cut) => "the QEMU migration stream has no end: it was cut off",
    };
    say::warning("stdin", text, args.output.json);
}

/// stdin, read in pieces.
struct Input<'a> {
    args: &'a SaveArgs,
    stdio: Stdio,
    /// Bytes of a piece, and when a piece that is not full is one.
    size: usize,
    until: Until,
    /// The first piece, if it was read before it was wanted.
    first: Cell<Option<Piece>>,
}

/// The memory of a piece, and what was read into it.
type Piece = (Vec<u8>, Filled);

impl<'a> Input<'a> {
    fn new(args: &'a SaveArgs) -> Self {
        let (size, until) = match args.engine.unbuffered {
            true => (STREAM_PIECE, Until::Full),
            false => (READ, Until::Idle),
        };
        Self {
            args,
            stdio: Stdio::new(),
            size,
            until,
            first: Cell::new(None),
        }
    }

    /// Reads the first piece ahead, and refuses a stream that it shows to be incomplete or too long.
    async fn look(&self) -> Result<(), Failure> {
        let (buffer, filled) = self
            .piece(self.stdio.read(vec![0; self.size], self.until), 0)
            .await?;
        let (len, ended) = (filled.len as u64, filled.ended);
        let mut end = StreamEnd::default();
        end.see(&buffer[..filled.len]);
        self.first.set(Some((buffer, filled)));
        check_length(self.args, len)?;
        match ended {
            true => check_end(self.args, len, &end).map(drop),
            false => Ok(()),
        }
    }

    /// The piece at `at`, once it is read.
    async fn piece(&self, reading: Job<DoneReading>, at: u64) -> Result<Piece, Failure> {
        let (buffer, result) = reading.await.map_err(|e| lost("stdin", &e))?;
        let failed = |e| Failure::io("stdin", "read", &e).at(at, self.size as u64);
        Ok((buffer, result.map_err(failed)?))
    }
}

/// Writes stdin to `sink` until it ends; the number of pieces, and what is in doubt. The next piece is read while one is being written.
///
/// # Errors
///
/// Those of stdin and of the sink; and what shows that the stream is not complete.
async fn pump(
    input: &Input<'_>,
    sink: &mut Sink,
    counter: &Cell<u64>,
) -> Result<(u64, Option<Doubt>), Failure> {
    let Input {
        args,
        stdio,
        size,
        until,
        ..
    } = input;
    let mut piece = match input.first.take() {
        Some(first) => first,
        None => input.piece(stdio.read(vec![0; *size], *until), 0).await?,
    };
    let mut spare = vec![0; *size];
    let (mut at, mut pieces) = (0, 0);
    let mut end = StreamEnd::default();
    loop {
        let (buffer, filled) = piece;
        let next = (!filled.ended).then(|| stdio.read(spare, *until));
        if filled.len > 0 {
            let bytes = &buffer[..filled.len];
            end.see(bytes);
            sink.write(at, bytes)
                .await
                .map_err(|e| Failure::block(args.file.display(), &e))?;
            at += filled.len as u64;
            pieces += 1;
            counter.set(at);
        }
        check_length(args, at)?;
        let Some(next) = next else { break };
        piece = input.piece(next, at).await?;
        spare = buffer;
    }
    let doubt = check_end(args, at, &end)?;
    Ok((pieces, doubt))
}

/// `len` bytes of the stream were read: refuses more than `--length`.
fn check_length(args: &SaveArgs, len: u64) -> Result<(), Failure> {
    match args.length.filter(|length| len > *length) {
        None => Ok(()),
        Some(length) => {
            let why = format!("the stream is longer than the {length} bytes of --length");
            Err(Failure::new("stdin", "read", why))
        }
    }
}

/// A stream of `len` bytes has ended: whether it is complete, as far as that can be known.
fn check_end(args: &SaveArgs, len: u64, end: &StreamEnd) -> Result<Option<Doubt>, Failure> {
    let incomplete = |why: String| Err(Failure::new("stdin", "read", why));
    if len == 0 {
        // In an image it would be a snapshot of the disk alone.
        return incomplete("it is empty: there is no state".to_owned());
    }
    if let Some(length) = args.length.filter(|length| len < *length) {
        return incomplete(format!(
            "the stream ended after {len} of the {length} bytes of --length"
        ));
    }
    match end.ending() {
        Ending::Unknown | Ending::Complete => Ok(None),
        Ending::WithoutDescription => Ok(Some(Doubt::NoDescription)),
        Ending::Cut if args.accept_truncated => Ok(Some(Doubt::Cut)),
        Ending::Cut => incomplete(format!(
            "the QEMU migration stream was cut off: it ends after {len} bytes, without the end that QEMU writes; --accept-truncated saves it"
        )),
    }
}
