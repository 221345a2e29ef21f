//! Tests that need an outside program, or a right that not every user has.
//!
//! Such a test is a libtest-mimic trial in a file with `harness = false`. Where its tool is missing it is listed as ignored, with the
//! tool's name, so that a run without QEMU does not look like a run with it. With `CI=true` in the environment a missing tool is a
//! failure instead: a machine that is there to run the tests has no excuse.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use crate::files::SmallDisk;

/// Something outside of this workspace that a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A program on the `PATH`. Missing: ignored, or a failure where `CI=true`.
    Tool(&'static str),
    /// The right to mount a file system. Missing: ignored, also in CI, which may well run as another user or in a container.
    Mount,
}

impl Need {
    /// What is missing, in words; `None` where the need is met.
    fn missing(self) -> Option<String> {
        match self {
            Need::Tool(name) if find(name).is_none() => Some(name.to_owned()),
            Need::Mount if !may_mount() => Some("the right to mount".to_owned()),
            Need::Tool(_) | Need::Mount => None,
        }
    }

    fn must_be_there(self, in_ci: bool) -> bool {
        in_ci && matches!(self, Need::Tool(_))
    }
}

/// A test called `name` that runs where every one of `needs` is there, and says which one is missing where not.
///
/// `run` fails by panicking, as every test does.
pub fn trial(
    name: impl Into<String>,
    needs: &[Need],
    run: impl FnOnce() + Send + 'static,
) -> Trial {
    match verdict(in_ci(), needs) {
        Verdict::Run => Trial::test(name, || {
            run();
            Ok(())
        }),
        Verdict::Ignore(missing) => not_run(name, &missing).with_ignored_flag(true),
        Verdict::Fail(missing) => not_run(name, &missing),
    }
}

/// Runs the trials with the usual arguments of a test program (`--list`, `--ignored`, a filter, ...).
///
/// An ignored trial that is asked for by `--ignored` fails with the name of what it misses.
pub fn main(trials: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The full path of the program `name`, if the `PATH` has it.
pub fn find(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| is_executable(path))
}

/// Whether `CI=true` is set: missing tools are failures then.
pub fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}

fn not_run(name: impl Into<String>, missing: &str) -> Trial {
    let message = format!("not run: {missing} is missing here");
    Trial::test(name, move || Err(message.into())).with_kind(format!("needs {missing}"))
}

/// What becomes of a test with certain needs.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Run,
    /// The names of what is missing.
    Ignore(String),
    /// The names of what is missing.
    Fail(String),
}

fn verdict(in_ci: bool, needs: &[Need]) -> Verdict {
    let missing: Vec<(Need, String)> = needs
        .iter()
        .filter_map(|need| need.missing().map(|what| (*need, what)))
        .collect();
    if missing.is_empty() {
        return Verdict::Run;
    }
    let fails = missing.iter().any(|(need, _)| need.must_be_there(in_ci));
    let names: Vec<String> = missing.into_iter().map(|(_, what)| what).collect();
    if fails {
        Verdict::Fail(names.join(", "))
    } else {
        Verdict::Ignore(names.join(", "))
    }
}

/// Found out by doing it: root in a container often has not got it.
fn may_mount() -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    SmallDisk::mount(folder.path(), 1 << 16).is_ok()
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT_NAME: &str = "no-such-program-anywhere";
    const ABSENT: Need = Need::Tool(ABSENT_NAME);

    #[test]
    fn a_missing_tool_makes_the_test_ignored_and_is_named() {
        let needs = [Need::Tool("sh"), ABSENT];
        assert_eq!(verdict(false, &needs), Verdict::Ignore(ABSENT_NAME.into()));
        let trial = trial("t", &[ABSENT], || {});
        assert_eq!(trial.kind(), format!("needs {ABSENT_NAME}"));
    }

    #[test]
    fn in_ci_a_missing_tool_is_a_failure_and_not_an_ignored_test() {
        assert_eq!(verdict(true, &[ABSENT]), Verdict::Fail(ABSENT_NAME.into()));
    }

    #[test]
    fn a_test_whose_tools_are_there_runs_in_ci_and_elsewhere() {
        for in_ci in [false, true] {
            assert_eq!(verdict(in_ci, &[Need::Tool("sh")]), Verdict::Run);
        }
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_no_tool() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tool");
        std::fs::write(&file, "").expect("a file");
        assert!(!is_executable(&file), "no x bit is set");
        assert!(!is_executable(folder.path()), "a folder is no program");
    }
}
