//! `cargo mutate`: applies one deliberate fault after the other to a copy of the sources, and runs the models that must notice.
//!
//! The copy is built as the gate builds it. Before the first fault, every model that a fault names is run on the sources as they are,
//! and must pass. A model notices a fault by a report of loom or by a panic of its own; any other end is no verdict, and red.
//!
//! `cargo mutate [PART...]`: all faults, or those whose name contains one of the parts. A fault that no named model notices is red, and
//! so is one whose place in the source is not found, and a model that no fault names and nothing excuses.
//! `cargo mutate [PART...] --models NAME...`: which of these faults the models of these names notice. It
//! shows what a new model is good for.
mod workshop; // a copy of the sources to break

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use model::build::folder;
use model::faults::{Fault, Killer, all, idle_models};
use model::suite::{End, list, run_all};
use model::table::{self, Counts, floor};

use workshop::{Workshop, job};

/// Two copies of the sources, two builds.
const PARALLEL: usize = 2;

fn main() -> ExitCode {
    let mut parts: Vec<String> = std::env::args().skip(1).collect();
    let models = parts.iter().position(|part| part == "--models");
    let models = models.map(|at| parts.split_off(at).split_off(1));
    let table = match table::read(&folder()) {
        Ok(table) => table,
        Err(e) => {
            eprintln!("{e}\n0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    let known: Vec<&str> = table.keys().map(String::as_str).collect();
    let chosen = |name: &str, parts: &[String]| {
        parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()))
    };
    let faults: Vec<&Fault> = all().filter(|fault| chosen(fault.name, &parts)).collect();
    let named: Vec<&str> = match &models {
        Some(names) => known
            .iter()
            .copied()
            .filter(|name| chosen(name, names))
            .collect(),
        None => named_by(&faults),
    };
    let failing = match unmutated(&named, &table) {
        Ok(failing) => failing,
        Err(e) => vec![e],
    };
    for complaint in &failing {
        println!("red: {complaint}");
    }
    let good = match models {
        _ if !failing.is_empty() => {
            println!("0 passed, {} failed", failing.len());
            false
        }
        Some(_) => survey(faults, &named),
        None => check(faults, &known),
    };
    match good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

type Result<T> = std::result::Result<T, String>;

/// The models that these faults name, each once.
fn named_by(faults: &[&Fault]) -> Vec<&'static str> {
    let named: BTreeSet<&str> = faults
        .iter()
        .flat_map(|fault| match fault.killer {
            Killer::Models(models)
            | Killer::Equivalent {
                watched: models, ..
            } => models,
            Killer::Gate { .. } => &[],
        })
        .copied()
        .collect();
    named.into_iter().collect()
}

/// Runs models on the sources as they are, in the binaries that the faults are put into, and tells which of them do not pass.
fn unmutated(names: &[&str], table: &BTreeMap<String, Counts>) -> Result<Vec<String>> {
    let start = Instant::now();
    let workshop = Workshop::new(0)?;
    let mut left: Vec<&str> = names.to_vec();
    let mut complaints = Vec::new();
    for features in ["", "disk"] {
        let runner = workshop.build_with(features)?;
        let list = list(&runner)?;
        let (here, later) = left
            .into_iter()
            .partition(|name| list.iter().any(|(model, _)| model == name));
        left = later;
        let here: Vec<&str> = here;
        let outcomes = run_all(&runner, here.into_iter().map(job).collect(), |_| {});
        for outcome in outcomes {
            let least = floor(table.get(&outcome.name).map_or(0, |counts| counts.gate));
            match (&outcome.end, &outcome.explored[..]) {
                (End::Passed, [(_, explored, _)]) if *explored >= least => {}
                (End::Passed, explored) => complaints.push(format!(
                    "{} explored {explored:?} without a fault, its floor is {least}",
                    outcome.name
                )),
                (end, _) => complaints.push(format!(
                    "{} does not pass without a fault: {end:?}\n{}",
                    outcome.name, outcome.output
                )),
            }
        }
    }
    complaints.extend(left.iter().map(|name| format!("{name} is no model")));
    println!(
        "{} models were run without a fault, {} failed, in {:.0} s",
        names.len(),
        complaints.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(complaints)
}

/// What became of one fault.
enum Fate {
    /// All named models failed, each with its report.
    Killed(String),
    /// No model should notice it, and none did.
    Equivalent,
    /// A model that should have noticed passed.
    Survived(String),
}

/// Has each fault noticed by those it names. `models` are all there are.
fn check(faults: Vec<&'static Fault>, models: &[&str]) -> bool {
    let start = Instant::now();
    let complaints = idle_models(models);
    for complaint in &complaints {
        println!("red: {complaint}");
    }
    let results = for_each(
        faults,
        |workshop, fault| workshop.with(fault, || judge(workshop, fault)),
        |result| match result {
            Ok(Fate::Killed(by)) => format!("killed    by {by}"),
            Ok(Fate::Equivalent) => "survived  as it should: it changes nothing".into(),
            Ok(Fate::Survived(why)) => format!("SURVIVED  {why}"),
            Err(e) => format!("RED       {e}"),
        },
    );
    let count = |wanted: fn(&Fate) -> bool| {
        results
            .iter()
            .filter(|(_, fate)| fate.as_ref().is_ok_and(wanted))
            .count()
    };
    let total = results.len();
    let killed = count(|fate| matches!(fate, Fate::Killed(_)));
    let equivalent = count(|fate| matches!(fate, Fate::Equivalent));
    let red = total - killed - equivalent;
    if equivalent > 0 {
        println!("\nequivalent faults, and why no model can notice them:");
    }
    for (fault, _) in &results {
        if let Killer::Equivalent { why, .. } = fault.killer {
            println!("  {}: {why}", fault.name);
        }
    }
    println!(
        "\n{total} faults: {killed} killed, {equivalent} equivalent, {red} survived or could not be applied, in {:.0} s",
        start.elapsed().as_secs_f64()
    );
    let red = red + complaints.len();
    println!("{} passed, {red} failed", killed + equivalent);
    red == 0 && total > 0
}

fn judge(workshop: &Workshop, fault: &Fault) -> Result<Fate> {
    match fault.killer {
        Killer::Models(models) => {
            // Each named model must notice: one that does not is named in vain.
            let runner = workshop.build(models)?;
            let mut by = Vec::new();
            for name in models {
                match workshop.fails(&runner, name) {
                    Ok(report) => by.push(format!("{name} ({report})")),
                    Err(why) => return Ok(Fate::Survived(format!("{name} {why}"))),
                }
            }
            Ok(match by.is_empty() {
                false => Fate::Killed(by.join(", ")),
                true => Fate::Survived("no model is named".into()),
            })
        }
        Killer::Equivalent { watched, .. } => {
            let runner = workshop.build(watched)?;
            for name in watched {
                match workshop.fails(&runner, name) {
                    Err(passes) if passes == "passes" => {}
                    Err(why) => return Err(format!("{name} {why}")),
                    Ok(report) => {
                        return Err(format!("{name} notices it ({report}): not equivalent"));
                    }
                }
            }
            Ok(Fate::Equivalent)
        }
        Killer::Gate { model, says } => {
            let said = workshop.ask_gate(model)?;
            match said {
                None => Ok(Fate::Survived("the gate is green".into())),
                Some(said) if said.contains(says) => {
                    Ok(Fate::Killed(format!("the gate: ..{says}..")))
                }
                Some(said) => Err(format!("the gate is red for another reason:\n{said}")),
            }
        }
    }
}

/// Runs `models` on each fault, and tells which of them notice. Faults that are the gate's to notice are left out.
fn survey(mut faults: Vec<&'static Fault>, models: &[&str]) -> bool {
    faults.retain(|fault| !matches!(fault.killer, Killer::Gate { .. }));
    let results = for_each(
        faults,
        |workshop, fault| {
            workshop.with(fault, || {
                let runner = workshop.build(models)?;
                let notice = |name: &&&str| workshop.fails(&runner, name).is_ok();
                Ok(models.iter().filter(notice).copied().collect::<Vec<_>>())
            })
        },
        |result| match result {
            Ok(models) => models.join(", "),
            Err(e) => format!("RED {e}"),
        },
    );
    let mut noticed: BTreeMap<&str, Vec<&str>> =
        models.iter().map(|name| (*name, vec![])).collect();
    for (fault, result) in &results {
        for name in result.iter().flatten() {
            noticed.entry(name).or_default().push(fault.name);
        }
    }
    for (model, faults) in noticed {
        println!("\n{model} notices {} faults", faults.len());
        for name in faults {
            println!("  {name}");
        }
    }
    results.iter().all(|(_, result)| result.is_ok())
}

/// Does something with each fault, in [`PARALLEL`] workshops, and shows a line of each result as it comes.
fn for_each<T: Send>(
    faults: Vec<&'static Fault>,
    work: impl Fn(&Workshop, &Fault) -> Result<T> + Sync,
    line: impl Fn(&Result<T>) -> String + Sync,
) -> Vec<(&'static Fault, Result<T>)> {
    let width = faults
        .iter()
        .map(|fault| fault.name.len())
        .max()
        .unwrap_or(0);
    let faults = Mutex::new(VecDeque::from(faults));
    let results = Mutex::new(Vec::new());
    // All before anything is built: one may be filled from another.
    let workshops: Vec<_> = (0..PARALLEL).map(Workshop::new).collect();
    thread::scope(|scope| {
        for workshop in workshops {
            let (faults, results, work, line) = (&faults, &results, &work, &line);
            scope.spawn(move || {
                loop {
                    let next = faults.lock().unwrap().pop_front();
                    let Some(fault) = next else { return };
                    let began = Instant::now();
                    let result = match &workshop {
                        Ok(workshop) => work(workshop, fault),
                        Err(e) => Err(e.clone()),
                    };
                    println!(
                        "{:width$} {:>4.0} s  {}",
                        fault.name,
                        began.elapsed().as_secs_f64(),
                        line(&result)
                    );
                    results.lock().unwrap().push((fault, result));
                }
            });
        }
    });
    results.into_inner().unwrap()
}
