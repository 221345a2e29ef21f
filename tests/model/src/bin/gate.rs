//! `cargo loom`: builds the models and runs them, and is red unless every one explored what it should.
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use model::bugs;
use model::build::{self, build, folder};
use model::faults::idle_models;
use model::properties::PROPERTIES;
use model::self_test;
use model::suite::{End, Job, Outcome, PARALLEL, list, run, run_all, show};
use model::table::{self, Counts, DEEP_BOUND, DEEP_SECONDS, GATE_BOUND, GATE_SECONDS, floor};

const USAGE: &str = "\
cargo loom               every model with at most 2 preemptions, small ones exhaustively too
cargo loom deep          every model with at most 3 preemptions, those that end within a minute exhaustively too
cargo loom NAME...       the models whose names contain one of these
cargo loom list          the models and the properties they cover
cargo loom measure [NAME...]   counts anew and writes models.txt; new models only, unless named
cargo loom replay NAME   finds the failing execution of one model and prints its every operation";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dropped = build::dropped();
    if !dropped.is_empty() {
        println!("not passed on: {}", dropped.join(", "));
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(true)
        }
        ["list"] => show_list(),
        ["measure", ref names @ ..] => measure(names),
        ["replay", name] => replay(name),
        ["deep", ref names @ ..] => check(DEEP_BOUND, DEEP_SECONDS, names),
        ref names => check(GATE_BOUND, GATE_SECONDS, names),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

/// A model with more interleavings than this at bound 3 has too many in all.
const HOPELESS: u64 = 2500;

type Result<T> = std::result::Result<T, String>;

fn runner() -> Result<std::path::PathBuf> {
    build(&folder(), &folder().join("target").join("loom"), "disk")
}

/// Explores, prints the table, compares.
fn check(bound: usize, seconds: f64, names: &[&str]) -> Result<bool> {
    let start = Instant::now();
    let table = table::read(&folder())?;
    let runner = runner()?;
    let models = list(&runner)?;
    let mut failed = build::outdated(&folder());
    failed.extend(complaints(&models, &table));
    failed.extend(self_test::blind(&runner)?);
    if names.is_empty() {
        failed.extend(uncovered(&models));
        let all: Vec<&str> = models.iter().map(|(name, _)| name.as_str()).collect();
        failed.extend(idle_models(&all));
        failed.extend(bugs::uncaught(&runner)?);
    }
    for complaint in &failed {
        println!("red: {complaint}");
    }
    let chosen = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part));
    let jobs: Vec<Job> = models
        .iter()
        .filter(|(name, _)| chosen(name))
        .map(|(name, _)| {
            let mut bounds = vec![Some(bound)];
            if table.get(name).is_some_and(|c| c.ends_within(seconds)) {
                bounds.push(None);
            }
            // A machine may be ten times slower than the one that measured; a model that never ends is red all the same.
            let limit = Duration::from_secs_f64(120.0 + 10.0 * seconds);
            Job {
                name: name.clone(),
                bounds,
                limit,
            }
        })
        .collect();
    if jobs.is_empty() {
        println!("red: no model was run");
        failed.push("no model".into());
    }
    let width = jobs.iter().map(|job| job.name.len()).max().unwrap_or(0);
    println!("{:width$} bound interleavings  seconds", "model");
    let outcomes = run_all(&runner, jobs, |outcome| show_outcome(outcome, width));
    let mut passed = 0;
    for outcome in &outcomes {
        let counts = table.get(&outcome.name).copied().unwrap_or_default();
        match verdict(outcome, &counts) {
            None => passed += 1,
            Some(why) => {
                println!("\nred: {}: {why}", outcome.name);
                println!("{}", indent(&outcome.output));
                failed.push(why);
            }
        }
    }
    summary(&outcomes, start);
    println!("{passed} passed, {} failed", failed.len());
    Ok(failed.is_empty())
}

/// What is wrong before anything is run.
fn complaints(models: &[(String, Vec<u8>)], table: &BTreeMap<String, Counts>) -> Vec<String> {
    let mut all = Vec::new();
    let names: BTreeSet<&str> = models.iter().map(|(name, _)| name.as_str()).collect();
    if names.len() != models.len() {
        all.push("two models have one name".into());
    }
    for name in names.iter().filter(|name| !table.contains_key(**name)) {
        all.push(format!("{name} is not in models.txt: `cargo loom measure`"));
    }
    for name in table.keys().filter(|name| !names.contains(name.as_str())) {
        all.push(format!(
            "{name} is in models.txt, and there is no such model"
        ));
    }
    all
}

/// The properties that no model is about.
fn uncovered(models: &[(String, Vec<u8>)]) -> Vec<String> {
    PROPERTIES
        .iter()
        .filter(|(number, _)| !models.iter().any(|(_, covered)| covered.contains(number)))
        .map(|(number, property)| format!("no model for property {number}: {property}"))
        .collect()
}

fn show_outcome(outcome: &Outcome, width: usize) {
    for (bound, interleavings, seconds) in &outcome.explored {
        let exhaustive = if bound.is_none() { "  exhaustive" } else { "" };
        println!(
            "{:width$} {:>5} {interleavings:>13} {seconds:>8.2}{exhaustive}",
            outcome.name,
            show(*bound)
        );
    }
    match outcome.end {
        End::Passed => {}
        End::Failed(_) | End::NoVerdict(_) => println!("{:width$} FAILED", outcome.name),
        End::OutOfTime => println!("{:width$} OUT OF TIME", outcome.name),
    }
}

/// Why a model is red.
fn verdict(outcome: &Outcome, counts: &Counts) -> Option<String> {
    match &outcome.end {
        End::Failed(report) => return Some(format!("failed: {report}")),
        End::NoVerdict(why) => return Some(format!("failed: {why}")),
        End::OutOfTime => return Some("did not end in time".into()),
        End::Passed => {}
    }
    let low = outcome
        .explored
        .iter()
        .find(|(bound, explored, _)| *explored < floor(counts.at(*bound)));
    low.map(|(bound, explored, _)| {
        format!(
            "explored {explored} interleavings at bound {}, its floor is {}",
            show(*bound),
            floor(counts.at(*bound))
        )
    })
}

fn summary(outcomes: &[Outcome], start: Instant) {
    let explored = || outcomes.iter().flat_map(|outcome| &outcome.explored);
    let interleavings: u64 = explored().map(|(_, interleavings, _)| interleavings).sum();
    let exhaustive = explored().filter(|(bound, ..)| bound.is_none()).count();
    println!(
        "\n{} models, {interleavings} interleavings, {exhaustive} exhaustive, {:.1} s on {PARALLEL} processes",
        outcomes.len(),
        start.elapsed().as_secs_f64()
    );
}

fn indent(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let from = lines.len().saturating_sub(20);
    lines[from..]
        .iter()
        .map(|line| format!("    {line}\n"))
        .collect()
}

fn show_list() -> Result<bool> {
    for (name, properties) in list(&runner()?)? {
        println!("{name} {properties:?}");
    }
    Ok(true)
}

/// Counts the models that are not in the table, or those named, and writes the table.
fn measure(names: &[&str]) -> Result<bool> {
    let mut table = table::read(&folder())?;
    let runner = runner()?;
    let models = list(&runner)?;
    table.retain(|name, _| models.iter().any(|(model, _)| model == name));
    let mut good = true;
    for (name, _) in &models {
        let wanted = names.iter().any(|part| name.contains(part));
        if !wanted && (!names.is_empty() || table.contains_key(name)) {
            continue;
        }
        let job = |bounds: &[Option<usize>], seconds| Job {
            name: name.clone(),
            bounds: bounds.to_vec(),
            limit: Duration::from_secs_f64(seconds),
        };
        let bounded = run(&runner, &job(&[Some(GATE_BOUND), Some(DEEP_BOUND)], 600.0));
        let &[(_, gate, _), (_, deep, _)] = &bounded.explored[..] else {
            println!("{name}: {:?}\n{}", bounded.end, indent(&bounded.output));
            good = false;
            continue;
        };
        // A third preemption tells whether there is hope that the minute is enough.
        let seconds = if deep <= HOPELESS { DEEP_SECONDS } else { 0.0 };
        let all = run(&runner, &job(&[None], seconds));
        let all = all
            .explored
            .first()
            .map(|(_, all, seconds)| (*all, *seconds));
        let counts = Counts { gate, deep, all };
        println!("{name}: {counts:?}");
        table.insert(name.clone(), counts);
        table::write(&folder(), &table)?;
    }
    Ok(good)
}

/// Finds the failing execution, stores its path, and runs it once more with every operation printed.
fn replay(name: &str) -> Result<bool> {
    let target = folder().join("target").join("replay");
    let runner = build(&folder(), &target, "disk,replay")?;
    let checkpoint = target.join(format!("{name}.json"));
    let bound = DEEP_BOUND.to_string();
    let run = |arguments: &[&str]| {
        build::clean(&runner)
            .args([name, bound.as_str()])
            .args(arguments)
            .env("LOOM_LOG", "trace")
            .output()
            .map_err(|e| e.to_string())
    };
    let first = run(&[])?;
    if first.status.success() {
        println!("{name} passes with at most {bound} preemptions: there is nothing to replay");
        return Ok(true);
    }
    let output = String::from_utf8_lossy(&first.stdout).into_owned();
    let at = output
        .lines()
        .find_map(|line| line.strip_prefix("execution ")?.split(':').next())
        .ok_or_else(|| format!("no execution failed:\n{output}"))?;
    // The file of an earlier replay would be resumed from.
    let _ = std::fs::remove_file(&checkpoint);
    let file = checkpoint.display().to_string();
    run(&["--store", &file, at])?;
    println!("execution {at} fails; its path is in {file}");
    let traced = run(&["--trace", &file])?;
    println!("{}", String::from_utf8_lossy(&traced.stdout));
    println!("{}", String::from_utf8_lossy(&traced.stderr));
    Ok(false)
}
