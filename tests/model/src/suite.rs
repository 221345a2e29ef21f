//! Runs models, each in a process of its own: a loom report inside async-task aborts, and must not take the other models along.
use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::build::clean;

/// How many processes at once.
pub const PARALLEL: usize = 2;

/// One process to run.
#[derive(Clone, Debug)]
pub struct Job {
    /// The model.
    pub name: String,
    /// How far to explore, one after the other; `None` is everything.
    pub bounds: Vec<Option<usize>>,
    /// The process is killed after so much processor time.
    pub limit: Duration,
}

impl Outcome {
    /// Whether the model itself failed, and not what its process looks at before.
    pub fn failed(&self) -> bool {
        self.end == End::Failed && self.output.lines().any(|line| line == "begins")
    }
}

/// What one process did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The model.
    pub name: String,
    /// What was explored: bound, interleavings, seconds.
    pub explored: Vec<(Option<usize>, u64, f64)>,
    /// How it ended.
    pub end: End,
    /// Everything it printed.
    pub output: String,
}

/// How a model's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It explored what it was asked to.
    Passed,
    /// An assertion failed, or loom reported something.
    Failed,
    /// It was still exploring when its time was up.
    OutOfTime,
}

/// The names of all models in `runner` with their properties.
pub fn list(runner: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
    let output = clean(runner)
        .arg("--list")
        .output()
        .map_err(|e| format!("{}: {e}", runner.display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .map(|line| {
            let (name, properties) = line.split_once('\t').ok_or("not a list of models")?;
            let properties = properties
                .split(|c: char| !c.is_ascii_digit())
                .filter(|number| !number.is_empty())
                .map(|number| number.parse().map_err(|e| format!("{number}: {e}")))
                .collect::<Result<_, _>>()?;
            Ok((name.to_owned(), properties))
        })
        .collect()
}

/// Runs all jobs, [`PARALLEL`] at once, and tells `report` of each as it ends.
pub fn run_all(runner: &Path, jobs: Vec<Job>, report: impl Fn(&Outcome) + Sync) -> Vec<Outcome> {
    let jobs = Mutex::new(VecDeque::from(jobs));
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let next = jobs.lock().unwrap().pop_front();
                    let Some(job) = next else { return };
                    let outcome = run(runner, &job);
                    let mut outcomes = outcomes.lock().unwrap();
                    report(&outcome);
                    outcomes.push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap()
}

/// Runs one.
pub fn run(runner: &Path, job: &Job) -> Outcome {
    let log = runner.with_file_name(format!("{}.log", job.name));
    let (end, output) = match finish(runner, job, &log) {
        Ok(end) => (end, std::fs::read(&log).unwrap_or_default()),
        Err(e) => (End::Failed, format!("{}: {e}", runner.display()).into()),
    };
    let output = String::from_utf8_lossy(&output).into_owned();
    let explored: Vec<_> = output.lines().filter_map(explored).collect();
    let end = match end {
        End::Passed if explored.len() != job.bounds.len() => End::Failed,
        end => end,
    };
    Outcome {
        name: job.name.clone(),
        explored,
        end,
        output,
    }
}

fn finish(runner: &Path, job: &Job, log: &Path) -> std::io::Result<End> {
    let log = File::create(log)?;
    let mut child = clean(runner)
        .arg(&job.name)
        .args(job.bounds.iter().map(|bound| show(*bound)))
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() {
                End::Passed
            } else {
                End::Failed
            });
        }
        if spent(child.id()).unwrap_or_else(|| start.elapsed()) > job.limit {
            child.kill()?;
            child.wait()?;
            return Ok(End::OutOfTime);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The processor time that a process has used, where the system tells: a busy machine makes nothing slower.
fn spent(process: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{process}/schedstat")).ok()?;
    let nanos = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

fn explored(line: &str) -> Option<(Option<usize>, u64, f64)> {
    let fields: Vec<&str> = line.split('\t').collect();
    let ["explored", bound, interleavings, seconds] = *fields else {
        return None;
    };
    let bound = match bound {
        "all" => None,
        bound => Some(bound.parse().ok()?),
    };
    Some((bound, interleavings.parse().ok()?, seconds.parse().ok()?))
}

/// A bound as the runner reads it and the table shows it.
pub fn show(bound: Option<usize>) -> String {
    bound.map_or("all".into(), |bound| bound.to_string())
}
