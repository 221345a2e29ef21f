//! A copy of the sources to break. Its target folder stays from one run to the next, so that only what a fault changes is built anew.
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::build::{build, build_changed, cargo, folder, will_change};
use model::faults::Fault;
use model::suite::{End, Job, Report, list, run};
use model::table::GATE_BOUND;

/// What is copied: the models, and the crates they need.
const PARTS: [&str; 5] = [
    "tests/model",
    "aio-task",
    "block-core",
    "drivers",
    "vmstate",
];

/// Where a copy is built, by its own gate as well.
const TARGET: &str = "tests/model/target/loom";

/// Where the copy of that number is.
fn place(number: usize) -> PathBuf {
    folder()
        .join("target")
        .join("mutants")
        .join(number.to_string())
}

/// One copy.
pub(crate) struct Workshop {
    tree: PathBuf,
    /// It was built from what is in it now, or only what [`with`](Self::with) has changed since.
    known: Cell<bool>,
}

impl Workshop {
    /// The copy of that number, made the same as the sources are now.
    pub(crate) fn new(number: usize) -> Result<Self, String> {
        let this = Self {
            tree: place(number),
            known: Cell::new(false),
        };
        this.fill()
            .map_err(|e| format!("{}: {e}", this.tree.display()))?;
        Ok(this)
    }

    fn fill(&self) -> std::io::Result<()> {
        let root = folder().join("..").join("..");
        for part in PARTS {
            copy(&root.join(part), &self.tree.join(part))?;
        }
        // The crates take their metadata from the workspace; its other members are not needed.
        let manifest: String = fs::read_to_string(root.join("Cargo.toml"))?
            .lines()
            .map(|line| match line.starts_with("members") {
                true => format!("members = {:?}\n", &PARTS[1..]),
                false => format!("{line}\n"),
            })
            .collect();
        fs::write(self.tree.join("Cargo.toml"), manifest)?;
        if !self.target().exists() {
            // What the gate or the first workshop has built of other crates serves here too. Times must stay as they are, else all is
            // built anew.
            fs::create_dir_all(self.target())?;
            let gates = folder().join("target").join("loom");
            let built = [gates, place(0).join(TARGET)];
            if let Some(built) = built.iter().find(|built| built.join("release").is_dir()) {
                let _ = std::process::Command::new("cp")
                    .args(["-a", "-T"])
                    .args([built, &self.target()])
                    .status();
            }
        }
        Ok(())
    }

    /// See [`TARGET`].
    fn target(&self) -> PathBuf {
        self.tree.join(TARGET)
    }

    /// Applies the fault, does something with the broken copy, and mends it.
    pub(crate) fn with<T>(
        &self,
        fault: &Fault,
        then: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        let path = self.tree.join(fault.file);
        let sound = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", fault.file))?;
        will_change(&self.target());
        fs::write(&path, fault.applied_to(&sound)?).map_err(|e| e.to_string())?;
        let done = then();
        fs::write(&path, sound).map_err(|e| e.to_string())?;
        done
    }

    /// A runner that has these models, built without the disk's where that is enough.
    pub(crate) fn build(&self, models: &[&str]) -> Result<PathBuf, String> {
        for features in ["", "disk"] {
            let runner = self.build_with(features)?;
            let list = list(&runner)?;
            if models
                .iter()
                .all(|name| list.iter().any(|(model, _)| model == name))
            {
                return Ok(runner);
            }
        }
        Err(format!("not all of these are models: {models:?}"))
    }

    /// A runner with these features.
    pub(crate) fn build_with(&self, features: &str) -> Result<PathBuf, String> {
        let build = match self.known.replace(true) {
            true => build_changed,
            false => build,
        };
        build(&self.tree.join("tests/model"), &self.target(), features)
            .map_err(|e| format!("does not compile:\n{e}"))
    }

    /// What a model finds at the gate's bound; `Err` says how it did not fail.
    pub(crate) fn fails(&self, runner: &Path, name: &str) -> Result<Report, String> {
        match run(runner, &job(name)).end {
            End::Failed(report) => Ok(report),
            End::Passed => Err("passes".into()),
            End::NoVerdict(why) => Err(format!("gives no verdict: {why}")),
            End::OutOfTime => Err("does not end, which is no verdict".into()),
        }
    }

    /// Runs the copy's own gate with one model that the sound one passes. `None` if it is green, else what it said.
    pub(crate) fn ask_gate(&self, model: &str) -> Result<Option<String>, String> {
        let gate = cargo()?
            .args(["run", "--release", "--quiet", "--locked", "--bin", "gate"])
            .arg("--manifest-path")
            .arg(self.tree.join("tests/model/Cargo.toml"))
            .arg("--target-dir")
            .arg(self.tree.join("tests/model/target"))
            .args(["--", model])
            .output()
            .map_err(|e| e.to_string())?;
        let said = [gate.stdout, gate.stderr].concat();
        let red = !gate.status.success();
        Ok(red.then(|| String::from_utf8_lossy(&said).into_owned()))
    }
}

/// A run at the gate's bound.
pub(crate) fn job(name: &str) -> Job {
    Job {
        name: name.into(),
        bounds: vec![Some(GATE_BOUND)],
        limit: Duration::from_secs(60),
    }
}

/// Makes `to` a copy of the folder `from`, but for what was built in either. Files that are the same are not touched: what was built
/// from them stays good.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        let gone = !from.join(entry.file_name()).exists();
        if gone && entry.file_name() != "target" {
            let path = entry.path();
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(path)?,
                false => fs::remove_file(path)?,
            }
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == "target" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
        } else if fs::read(&to).ok() != Some(fs::read(&from)?) {
            // Not `fs::copy`, which may keep an old time.
            fs::write(&to, fs::read(&from)?)?;
        }
    }
    Ok(())
}
