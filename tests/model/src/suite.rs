//! Runs models, each in a process of its own: a loom report inside async-task aborts, and must not take the other models along.
//!
//! A process that fails has noticed a fault only if it says how: [`report`] reads that from what it printed. A stack overflow, a
//! signal, a process that ends without a word, or a model that explored less than before is red, and says nothing about the code.
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It explored what it was asked to.
    Passed,
    /// The model failed.
    Failed(Report),
    /// The process ended otherwise, and this is why that says nothing about the code.
    NoVerdict(String),
    /// It was still exploring when its time was up.
    OutOfTime,
}

/// What a model can find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// loom: two accesses without an order between them.
    Causality,
    /// loom: every thread waits.
    Deadlock,
    /// loom: something was not dropped.
    Leak,
    /// An assertion or another panic, in the model or in the sources under test.
    Panic,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Report::Causality => "Causality violation",
            Report::Deadlock => "deadlock",
            Report::Leak => "leaked",
            Report::Panic => "panicked",
        })
    }
}

/// What a process that failed has found, or why that cannot be told. `check` prints a panic with the number of its execution and ends
/// the process with the code 101; nothing else counts.
pub fn report(status: ExitStatus, output: &str) -> Result<Report, String> {
    if let Some(signal) = status.signal() {
        return Err(format!("ended by signal {signal}"));
    }
    if status.code() != Some(101) || output.contains("has overflowed its stack") {
        let last = output.lines().last().unwrap_or("it printed nothing");
        return Err(format!("{status} without a report: {last}"));
    }
    let panic = output
        .split_once("\nexecution ")
        .or_else(|| output.split_once("execution "))
        .and_then(|(_, panic)| panic.split_once(": panicked at "));
    let Some((_, panic)) = panic else {
        return Err("no execution failed".into());
    };
    let (place, message) = panic.split_once('\n').unwrap_or((panic, ""));
    if place.contains("/loom-") {
        let message = message.trim_start();
        let reports = [Report::Causality, Report::Deadlock, Report::Leak];
        // loom also panics where a model asks too much of it: too many branches, too many threads.
        let found = reports.into_iter().find(|report| {
            let first = message.lines().next().unwrap_or_default();
            first.contains(&report.to_string())
        });
        return found.ok_or_else(|| format!("loom gave up: {message}"));
    }
    if place.contains("/registry/") || place.contains("/rustc/") {
        return Err(format!(
            "a panic in other code than ours: {place} {message}"
        ));
    }
    Ok(Report::Panic)
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
        Ok(status) => (status, std::fs::read(&log).unwrap_or_default()),
        Err(e) => (None, format!("{}: {e}", runner.display()).into()),
    };
    let output = String::from_utf8_lossy(&output).into_owned();
    let explored: Vec<_> = output.lines().filter_map(explored).collect();
    let begun = output.lines().any(|line| line == "begins");
    let end = match end {
        None if begun => End::OutOfTime,
        None => End::NoVerdict("does not begin".into()),
        Some(status) if !status.success() => match report(status, &output) {
            _ if !begun => End::NoVerdict("does not begin".into()),
            Ok(report) => End::Failed(report),
            Err(why) => End::NoVerdict(why),
        },
        Some(_) if explored.len() != job.bounds.len() => {
            End::NoVerdict("ends before it has explored everything".into())
        }
        Some(_) => End::Passed,
    };
    Outcome {
        name: job.name.clone(),
        explored,
        end,
        output,
    }
}

/// Runs the process to its end; `None` if its time was up.
fn finish(runner: &Path, job: &Job, log: &Path) -> std::io::Result<Option<ExitStatus>> {
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
            return Ok(Some(status));
        }
        if spent(child.id()).unwrap_or_else(|| start.elapsed()) > job.limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
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

#[cfg(test)]
mod tests {
    use super::{Report, report};
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const FAILED: i32 = 101 << 8;

    fn found(status: i32, output: &str) -> Result<Report, String> {
        report(ExitStatus::from_raw(status), output)
    }

    #[test]
    fn a_report_of_loom_and_a_panic_of_ours_are_verdicts() {
        let by_loom = |message| {
            let place = "/registry/src/index/loom-0.7.2/src/rt/execution.rs:216:13";
            found(
                FAILED,
                &format!("begins\nexecution 7: panicked at {place}:\n{message}\n"),
            )
        };
        assert_eq!(by_loom("deadlock; threads = [..]"), Ok(Report::Deadlock));
        assert_eq!(
            by_loom("\nCausality violation: Concurrent write accesses to `UnsafeCell`."),
            Ok(Report::Causality)
        );
        assert_eq!(by_loom("Arc leaked.\n  Index: 3"), Ok(Report::Leak));
        assert!(by_loom("Model exceeded maximum number of branches.").is_err());
        let ours = "begins\nexecution 1: panicked at src/models/pool.rs:5:9:\nassertion failed\n";
        assert_eq!(found(FAILED, ours), Ok(Report::Panic));
    }

    #[test]
    fn an_end_without_a_report_is_no_verdict() {
        let overflow = "begins\n\ncoroutine in thread 'main' has overflowed its stack\n";
        for (status, output) in [
            (6, "begins\n"),
            (11, "begins\n"),
            (FAILED, overflow),
            (FAILED, "begins\n"),
            (1 << 8, "begins\nno interleaving came to this: first\n"),
            (
                6,
                "begins\nexecution 1: panicked at src/models/pool.rs:5:9:\nassertion failed\n",
            ),
        ] {
            assert!(found(status, output).is_err(), "{status} {output}");
        }
        let elsewhere = "begins\nexecution 1: panicked at /x/registry/src/y/slab-0.4/src/lib.rs:1:1:\ninvalid key\n";
        assert!(found(FAILED, elsewhere).is_err());
    }
}
