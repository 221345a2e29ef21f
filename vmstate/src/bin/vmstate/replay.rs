//! `vmstate replay`: a recorded pattern, performed, verified and measured.
use crate::args::{Format, ReplayArgs, StepKind, Storage};
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
    /// At least one.
    ways: Vec<Way>,
    disk: Option<(Series, Series)>,
    /// Calls of the load trace that ask for bytes after the state's end, and those bytes.
    past_end: Value,
    len: u64,
}

/// One size of `--fill-gaps`.
struct Way {
    storage: Storage,
    saves: Series,
    loads: Option<Series>,
}

impl Way {
    /// Each size of `--fill-gaps`, in the order given.
    fn all(args: &ReplayArgs) -> Vec<Self> {
        let each = args.storage.each_gap_threshold();
        let many = each.len() > 1;
        let way = |storage: Storage| {
            let mut name = match args.engine.unbuffered {
                true => "unbuffered".to_owned(),
                false => "buffered".to_owned(),
            };
            if many {
                name += &format!(", gaps < {} filled", storage.gap_threshold());
            }
            let load = |_| Series::new(format!("load, {name}"));
            Self {
                saves: Series::new(format!("save, {name}")),
                loads: args.load_trace.as_ref().map(load),
                storage,
            }
        };
        each.into_iter().map(way).collect()
    }

    fn json(&self, write: Option<&Series>, read: Option<&Series>) -> Value {
        json!({
            "below": self.storage.gap_threshold(),
            "save": self.saves.json(None, write),
            "load": self.load_json(read),
        })
    }

    fn load_json(&self, read: Option<&Series>) -> Value {
        let loads = self.loads.as_ref().map(|loads| loads.json(None, read));
        loads.unwrap_or_default()
    }
}

async fn replay(cx: &Cx, args: &ReplayArgs, target: &Target) -> Result<Results, Failure> {
    let (loads, take) = (args.load_trace.as_deref(), args.take);
    let patterns = Patterns::prepare(cx, &args.trace, loads, args.seed, take).await?;
    let runner = Runner {
        cx,
        patterns,
        steps: Steps::new("replay", steps(args), args.output.json),
    };
    let mut results = Results {
        ways: Way::all(args),
        disk: args
            .limit
            .then(|| (Series::new("disk write"), Series::new("disk read"))),
        past_end: Value::Null,
        len: runner.patterns.len,
    };
    let ways = results.ways.len();
    for run in 0..args.runs.get() {
        // A B, B A, ...: none of them always finds the disk as the same other one left it.
        let forwards = run % 2 == 0;
        if forwards {
            measure_limit(&runner, args, &mut results, target).await?;
        }
        for way in 0..ways {
            if run > 0 || way > 0 {
                remove(target.temporary())?;
            }
            let way = if forwards { way } else { ways - 1 - way };
            measure(&runner, args, &mut results, (way, run), target).await?;
        }
        if !forwards {
            measure_limit(&runner, args, &mut results, target).await?;
        }
    }
    Ok(results)
}

/// Saves once, and loads what was saved, in one of the ways.
async fn measure(
    runner: &Runner<'_>,
    args: &ReplayArgs,
    results: &mut Results,
    (way, run): (usize, u32),
    target: &Target,
) -> Result<(), Failure> {
    let (state, engine) = (target.temporary(), &args.engine);
    let Way {
        storage,
        saves,
        loads,
    } = &mut results.ways[way];
    let saved = runner.transfer(StepKind::Save, state, engine, storage);
    saves.push(&saved.await?);
    runner
        .step(StepKind::Verify, state, engine, storage)
        .await?;
    let Some(series) = loads else {
        return Ok(());
    };
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
    Ok(())
}

/// How many steps [`replay`] takes.
fn steps(args: &ReplayArgs) -> u64 {
    let loads = u64::from(args.load_trace.is_some());
    let ways = args.storage.each_gap_threshold().len() as u64;
    let each = ways * (2 + loads) + 2 * u64::from(args.limit);
    u64::from(args.runs.get()) * each + ways * loads
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
            let fill_gaps: Vec<Value> = self.ways.iter().map(|way| way.json(write, read)).collect();
            let value = json!({
                "file": args.file.display().to_string(),
                "length": self.len,
                "runs": args.runs,
                "verified": true,
                "save": self.ways.first().map(|way| way.saves.json(None, write)),
                "load": self.ways.first().map(|way| way.load_json(read)),
                "fill_gaps": fill_gaps,
                "past_end": self.past_end,
                "disk_write": write.map(|write| write.json(None, None)),
                "disk_read": read.map(|read| read.json(None, None)),
            });
            return say::on_stdout(json!({ "replay": value }));
        }
        let mut rows = vec![Series::head()];
        rows.extend(self.ways.iter().map(|way| way.saves.row(None, write)));
        let loads = self.ways.iter().filter_map(|way| way.loads.as_ref());
        rows.extend(loads.map(|loads| loads.row(None, read)));
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
