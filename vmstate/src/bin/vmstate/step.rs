//! One step of a replay in a process of its own, so that its CPU time and memory are its own. The result is a line of JSON on stdout.
use crate::args::{Engine, Format, StepArgs, StepKind, Storage};
use crate::baseline;
use crate::content::Content;
use crate::context::Cx;
use crate::create;
use crate::failure::Failure;
use crate::graph::{Graph, HostFile, Purpose, image_failure};
use crate::measure;
use crate::pieces::Pieces;
use crate::report::Transfer;
use crate::say;
use crate::streams::{Sink, Source};
use crate::target::Temporary;
use crate::trace::{self, Piece, Trace};
use crate::verify::{Expected, first_wrong, verify};
use crate::walker;
use block_core::{BlockNode, NewSnapshot};
use block_drivers::qcow2;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// The snapshot that a state is recorded in, and the length of its image's disk unless the options say another.
const SNAPSHOT: &str = "replay";
pub(crate) const DISK_SIZE: u64 = 1 << 30;

pub(crate) fn run(args: &StepArgs) -> Result<(), Failure> {
    // A parent that is killed cannot stop its children.
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|e| Failure::io("vmstate", "ask for a death signal", &e.into()))?;
    let threads = args.engine.workers.saturating_add(1);
    let result = Cx::run(threads, async |cx| {
        let shown = args.file.display().to_string();
        cx.unless_stopped(&shown, "replay", step(cx, args)).await
    })?;
    say::on_stdout(result)
}

async fn step(cx: &Cx, args: &StepArgs) -> Result<Value, Failure> {
    let (path, bytes) = (args.file.clone(), args.bytes);
    match args.step {
        StepKind::Save => {
            // If it fails, its parent may be gone.
            let temporary = Temporary::new(path);
            let result = save(cx, args).await;
            match &result {
                Err(failure) if !failure.found_existing() => drop(temporary),
                _ => temporary.keep(),
            }
            result
        }
        StepKind::Load => load(cx, args, None).await,
        StepKind::CheckLoad => {
            let covered = pattern(&args.trace, args.take)?.covered();
            load(cx, args, Some(&covered)).await
        }
        StepKind::Verify => {
            let content = Content { seed: args.seed };
            let (trace, direct) = (pattern(&args.trace, args.take)?, args.engine.direct);
            let (covered, len) = (trace.covered(), trace.end());
            let filled_below = match args.engine.unbuffered {
                true => 0,
                false => args.storage.gap_threshold(),
            };
            let expected = Expected {
                content,
                written: trace::joined(&covered, filled_below),
                covered,
                len,
            };
            let format = args.storage.format;
            let work = move || match format {
                Format::RawState => verify(&path, &expected, direct),
                Format::Qcow2 => walker::verify(&path, SNAPSHOT, &expected),
            };
            cx.blocking(work).await??;
            if format == Format::Qcow2 {
                check(cx, &args.file).await?;
            }
            Ok(json!({}))
        }
        StepKind::DiskWrite => {
            let temporary = Temporary::new(path.clone());
            let took = cx.blocking(move || baseline::write(&path, bytes)).await??;
            temporary.keep();
            Ok(seconds(took))
        }
        StepKind::DiskRead => {
            let took = cx
                .blocking(move || {
                    measure::make_cold(&path)
                        .map_err(|e| Failure::io(path.display(), "drop pages", &e))?;
                    baseline::read(&path, bytes)
                })
                .await??;
            Ok(seconds(took))
        }
    }
}

/// The writes of a trace. The clock runs from the open file to the durable state.
async fn save(cx: &Cx, args: &StepArgs) -> Result<Value, Failure> {
    let trace = pattern(&args.trace, args.take)?;
    let content = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| Failure::io("stdin", "duplicate", &e))?;
    let (bytes, calls) = (trace.bytes(), trace.pieces.len() as u64);
    let mut pieces = Pieces::new(File::from(content), trace);
    let failed = |error| Failure::block(args.file.display(), &error);
    let (file, engine) = (&args.file, &args.engine);
    let graph = match args.storage.format {
        Format::RawState => Graph::open_state(cx, file, file, engine, Purpose::Create).await?,
        Format::Qcow2 => {
            // An image is made once for many savevm: outside of the clock.
            let options = args.storage.options.as_deref();
            let options = create::options_or_default(options, DISK_SIZE)
                .map_err(|why| Failure::new(file.display(), "create", why))?;
            create::image(cx, (file, file), None, &options).await?;
            Graph::open_image(cx, file, file, engine.direct, Purpose::Change).await?
        }
    };
    let (start, cpu) = (Instant::now(), measure::cpu_seconds());
    let mut sink = begin(&graph.state, engine, &args.storage)
        .await
        .map_err(failed)?;
    let mut used = None;
    while let Some(batch) = pieces.next(used).await? {
        for (piece, bytes) in batch.iter() {
            sink.write(piece.at, bytes).await.map_err(failed)?;
        }
        used = Some(batch);
    }
    let len = sink.finish().await.map_err(failed)?;
    if args.storage.format == Format::RawState {
        graph.flush().await?; // a snapshot is stable already
    }
    let (seconds, cpu) = (start.elapsed(), measure::cpu_seconds() - cpu);
    graph.close().await?;
    let mut result = Transfer::new(&graph, bytes, calls, seconds.as_secs_f64());
    result.cpu_seconds = cpu;
    let mut value = result.json();
    value["length"] = json!(len);
    Ok(value)
}

/// A snapshot is begun in the clock, as savevm begins it.
async fn begin(
    node: &BlockNode,
    engine: &Engine,
    storage: &Storage,
) -> Result<Sink, block_core::BlockError> {
    let gap_threshold = storage.gap_threshold();
    match storage.format {
        Format::RawState => Sink::begin(node, engine, gap_threshold),
        Format::Qcow2 => {
            let new = NewSnapshot::new(SNAPSHOT).taken_at(SystemTime::now());
            Sink::begin_named(node, new, engine, gap_threshold).await
        }
    }
}

/// The image must be in order, with nothing leaked.
async fn check(cx: &Cx, path: &Path) -> Result<(), Failure> {
    let file = HostFile::open(cx, path, path, false, Purpose::Read).await?;
    let report = match qcow2::check(&file.attach("check")?).await {
        Ok(report) => report,
        Err(error) => return Err(image_failure(cx, path, path, &error).await),
    };
    file.close().await?;
    match report.findings.first() {
        None if report.is_clean() => Ok(()),
        found => {
            let found = found.map(ToString::to_string).unwrap_or_default();
            let why = format!("the image is not in order: {found}");
            Err(Failure::new(path.display(), "verify", why))
        }
    }
}

/// The reads of a trace, from cold. With `check` each byte is compared with the content of these ranges.
async fn load(cx: &Cx, args: &StepArgs, check: Option<&[Piece]>) -> Result<Value, Failure> {
    let path = args.load_trace.as_deref().unwrap_or(&args.trace);
    let trace = pattern(path, args.take)?;
    let longest = trace.pieces.iter().map(|piece| piece.len).max();
    let mut memory = vec![0; longest.unwrap_or(0) as usize];
    let content = Content { seed: args.seed };
    let failed = |error| Failure::block(args.file.display(), &error);
    {
        let path = args.file.clone();
        cx.blocking(move || measure::make_cold(&path))
            .await?
            .map_err(|e| Failure::io(args.file.display(), "drop pages", &e))?;
    }
    let (file, engine) = (&args.file, &args.engine);
    let graph = match args.storage.format {
        Format::RawState => Graph::open_state(cx, file, file, engine, Purpose::Read).await?,
        Format::Qcow2 => Graph::open_image(cx, file, file, engine.direct, Purpose::Read).await?,
    };
    let (start, cpu) = (Instant::now(), measure::cpu_seconds());
    let node = match args.storage.format {
        Format::RawState => graph.state.clone(),
        Format::Qcow2 => {
            let view = graph.state.snapshot_load_tmp(SNAPSHOT).await;
            view.map_err(failed)?
        }
    };
    let mut source = Source::open(&node, &args.engine, None)
        .await
        .map_err(failed)?;
    let (mut bytes, mut past_end_calls, mut past_end_bytes) = (0, 0u64, 0);
    for piece in &trace.pieces {
        let found = &mut memory[..piece.len as usize];
        let read = source.read(piece.at, found).await.map_err(failed)?;
        let exist = source.len().saturating_sub(piece.at).min(piece.len);
        if read as u64 != exist {
            let why = format!("{read} bytes were read where {exist} are");
            return Err(Failure::new(args.file.display(), "load", why).at(piece.at, piece.len));
        }
        if exist < piece.len {
            past_end_calls += 1;
            past_end_bytes += piece.len - exist;
        }
        bytes += exist;
        let wrong =
            check.and_then(|covered| first_wrong(content, covered, piece.at, &found[..read]));
        if let Some(wrong) = wrong {
            let why = format!("the byte at {wrong} is not what was written there");
            return Err(Failure::new(args.file.display(), "load", why).at(piece.at, piece.len));
        }
    }
    let (seconds, cpu) = (start.elapsed(), measure::cpu_seconds() - cpu);
    drop(source);
    if args.storage.format == Format::Qcow2 {
        node.close().await.map_err(failed)?;
    }
    graph.close().await?;
    let mut result = Transfer::new(
        &graph,
        bytes,
        trace.pieces.len() as u64,
        seconds.as_secs_f64(),
    );
    result.cpu_seconds = cpu;
    let mut value = result.json();
    value["past_end"] = json!({"calls": past_end_calls, "bytes": past_end_bytes});
    Ok(value)
}

/// A trace, as far as it is used.
pub(crate) fn pattern(path: &Path, take: Option<u64>) -> Result<Trace, Failure> {
    let mut trace = Trace::open(path)?;
    if let Some(end) = take {
        trace.cut(end);
    }
    Ok(trace)
}

fn seconds(took: Duration) -> Value {
    json!({"seconds": took.as_secs_f64()})
}
