//! The litmus set must be able to fail: each published bug, put into a small right implementation, is caught, and without it the model
//! passes. One process each, since a failing model ends its process.
use std::path::Path;
use std::process::Output;

use crate::build::clean;
use crate::suite;
use crate::table::GATE_BOUND;

/// Runs all, prints a line for each bug, and returns what was not as it must be.
pub fn uncaught(runner: &Path) -> Result<Vec<String>, String> {
    let list = run(runner, &[])?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let mut complaints = Vec::new();
    for line in list.lines() {
        let (bug, report) = line.split_once('\t').ok_or("not a list of bugs")?;
        match caught(runner, bug, report)? {
            Ok(execution) => println!("caught in interleaving {execution:>4}: {bug}"),
            Err(why) => complaints.push(format!("the litmus set, {bug}: {why}")),
        }
    }
    if list.lines().count() == 0 {
        complaints.push("the litmus set is empty".into());
    }
    Ok(complaints)
}

/// The number of the interleaving that showed the bug, or why that does not count.
fn caught(runner: &Path, bug: &str, report: &str) -> Result<Result<u64, String>, String> {
    let right = run(runner, &[bug, "right"])?;
    if !right.status.success() {
        return Ok(Err(format!("fails without the bug\n{}", text(&right))));
    }
    let wrong = run(runner, &[bug, "wrong"])?;
    let said = text(&wrong);
    if wrong.status.success() {
        return Ok(Err("not caught".into()));
    }
    let execution = said.lines().find_map(|line| {
        line.strip_prefix("execution ")?
            .split(':')
            .next()?
            .parse()
            .ok()
    });
    Ok(match (suite::report(wrong.status, &said), execution) {
        (Ok(found), Some(execution)) if found.to_string() == report => Ok(execution),
        (found, _) => Err(format!("fails by {found:?}, not by a {report:?}\n{said}")),
    })
}

fn run(runner: &Path, arguments: &[&str]) -> Result<Output, String> {
    let mut command = clean(runner);
    command.arg("--litmus").args(arguments);
    if !arguments.is_empty() {
        command.arg(GATE_BOUND.to_string());
    }
    command
        .output()
        .map_err(|e| format!("{}: {e}", runner.display()))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
