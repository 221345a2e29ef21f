//! `vmstate replay`: a recorded pattern, performed, verified and measured.
use crate::args::{Format, ReplayArgs, StepKind};
use crate::context::Cx;
use crate::failure::Failure;
use crate::progress::Steps;
use crate::report;
use crate::runner::{Patterns, Runner};
use crate::say;
use crate::series::Series;
use crate::target::{Making, Target, Temporary};
use serde_json::{Value, json};
use std::path::Path;

pub(crate) fn run(args: &ReplayArgs) -> Result<(), Failure> {
    Cx::run(args.engine.workers, async |cx| {
        let shown = args.file.display().to_string();
        let making = match args.storage.format {
            Format::RawState => Making::State,
            Format::Qcow2 => Making::Image,
        };
        let prepare = Target::prepare(cx, &args.file, making, args.force);
        let mut target = cx.unless_stopped(&shown, "replay", prepare).await?;
        let outcome = cx
            .unless_stopped(&shown, "replay", replay(cx, args, &target))
            .await;
        let results = outcome.map_err(|e| target.failed(e))?;
        target.commit(cx).await?;
        results
            .print(args)
            .map_err(|e| e.leaving("the state is complete and verified"))
    })
}

/// What was measured.
struct Results {
    saves: Series,
    loads: Option<Series>,
    disk: Option<(Series, Series)>,
    /// Calls of the load trace that ask for bytes behind the state's end, and those bytes.
    past_end: Value,
    len: u64,
}

async fn replay(cx: &Cx, args: &ReplayArgs, target: &Target) -> Result<Results, Failure> {
    let (loads, take) = (args.load_trace.as_deref(), args.take);
    let patterns = Patterns::prepare(cx, &args.trace, loads, args.seed, take).await?;
    let runner = Runner {
        cx,
        patterns,
        steps: Steps::new("replay", steps(args), args.output.json),
    };
    let way = match args.engine.unbuffered {
        true => "unbuffered",
        false => "buffered",
    };
    let mut results = Results {
        saves: Series::new(format!("save, {way}")),
        loads: loads.map(|_| Series::new(format!("load, {way}"))),
        disk: args
            .limit
            .then(|| (Series::new("disk write"), Series::new("disk read"))),
        past_end: Value::Null,
        len: runner.patterns.len,
    };
    let state = target.temporary();
    for run in 0..args.runs.get() {
        // A B, B A, ...: neither of the two always finds the disk as the other left it.
        let limit_first = run % 2 == 0;
        if limit_first {
            measure_limit(&runner, args, &mut results, target).await?;
        }
        if run > 0 {
            remove(state)?;
        }
        let (engine, storage) = (&args.engine, &args.storage);
        let saved = runner.transfer(StepKind::Save, state, engine, storage);
        results.saves.push(&saved.await?);
        runner
            .step(StepKind::Verify, state, engine, storage)
            .await?;
        if let Some(series) = &mut results.loads {
            let value = runner.step(StepKind::Load, state, engine, storage).await?;
            results.past_end = value["past_end"].clone();
            if let Some(loaded) = report::Transfer::from_json(&value) {
                series.push(&loaded);
            }
            if run == 0 {
                // Once, and outside of the clock: each byte that a load returns.
                runner
                    .step(StepKind::CheckLoad, state, engine, storage)
                    .await?;
            }
        }
        if !limit_first {
            measure_limit(&runner, args, &mut results, target).await?;
        }
    }
    Ok(results)
}

/// How many steps [`replay`] takes.
fn steps(args: &ReplayArgs) -> u64 {
    let loads = u64::from(args.load_trace.is_some());
    let each = 2 + loads + 2 * u64::from(args.limit);
    u64::from(args.runs.get()) * each + loads
}

/// Writes and reads as many bytes as the state has, in a file beside it.
async fn measure_limit(
    runner: &Runner<'_>,
    args: &ReplayArgs,
    results: &mut Results,
    target: &Target,
) -> Result<(), Failure> {
    let Some((write, read)) = &mut results.disk else {
        return Ok(());
    };
    let file = Temporary::new(target.scratch().to_path_buf());
    let engine = &args.engine;
    let seconds = runner
        .limit(StepKind::DiskWrite, file.path(), engine)
        .await?;
    write.push_limit(runner.patterns.bytes, seconds);
    let seconds = runner
        .limit(StepKind::DiskRead, file.path(), engine)
        .await?;
    read.push_limit(runner.patterns.bytes, seconds);
    Ok(())
}

fn remove(path: &Path) -> Result<(), Failure> {
    std::fs::remove_file(path).map_err(|e| Failure::io(path.display(), "remove", &e))
}

impl Results {
    fn print(&self, args: &ReplayArgs) -> Result<(), Failure> {
        let (write, read) = match &self.disk {
            Some((write, read)) => (Some(write), Some(read)),
            None => (None, None),
        };
        if args.output.json {
            let value = json!({
                "file": args.file.display().to_string(),
                "length": self.len,
                "runs": args.runs,
                "verified": true,
                "save": self.saves.json(None, write),
                "load": self.loads.as_ref().map(|loads| loads.json(None, read)),
                "past_end": self.past_end,
                "disk_write": write.map(|write| write.json(None, None)),
                "disk_read": read.map(|read| read.json(None, None)),
            });
            return say::on_stdout(json!({ "replay": value }));
        }
        let mut rows = vec![Series::head(), self.saves.row(None, write)];
        rows.extend(self.loads.iter().map(|loads| loads.row(None, read)));
        rows.extend(write.iter().chain(&read).map(|disk| disk.row(None, None)));
        say::on_stdout(format_args!(
            "{}{}: {} bytes, verified byte for byte, gaps and length included; {} runs",
            report::table(&rows),
            args.file.display(),
            self.len,
            args.runs
        ))?;
        if let Some(calls) = self.past_end["calls"].as_u64().filter(|calls| *calls > 0) {
            let bytes = &self.past_end["bytes"];
            say::on_stdout(format_args!(
                "reads past the end of the state: {calls} calls, {bytes} bytes, as recorded"
            ))?;
        }
        Ok(())
    }
}
