//! `cargo mutate`: applies one deliberate fault after the other to a copy of the sources, and runs the models that must notice.
//!
//! `cargo mutate [PART...]`: all faults, or those whose name contains one of the parts. A fault that no named model notices is red, and
//! so is one whose place in the source is not found.
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use model::build::{build_quickly, clean, folder};
use model::faults::{Fault, Killer, all};
use model::suite::{End, Job, list, run};
use model::table::GATE_BOUND;

/// Two copies of the sources, two builds.
const PARALLEL: usize = 2;

fn main() -> ExitCode {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let chosen = |fault: &Fault| {
        parts.is_empty() || parts.iter().any(|part| fault.name.contains(part.as_str()))
    };
    let faults: VecDeque<&Fault> = all().filter(|fault| chosen(fault)).collect();
    let start = Instant::now();
    let total = faults.len();
    let width = faults
        .iter()
        .map(|fault| fault.name.len())
        .max()
        .unwrap_or(0);
    let faults = Mutex::new(faults);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..PARALLEL {
            let (faults, results) = (&faults, &results);
            scope.spawn(move || {
                let workshop = Workshop::new(number);
                loop {
                    let next = faults.lock().unwrap().pop_front();
                    let Some(fault) = next else { return };
                    let began = Instant::now();
                    let result = workshop
                        .as_ref()
                        .map_err(Clone::clone)
                        .and_then(|w| w.try_fault(fault));
                    let line = match &result {
                        Ok(Fate::Killed(by)) => format!("killed    by {by}"),
                        Ok(Fate::Equivalent) => "survived  as it should: it changes nothing".into(),
                        Ok(Fate::Survived(why)) => format!("SURVIVED  {why}"),
                        Err(e) => format!("RED       {e}"),
                    };
                    println!(
                        "{:width$} {:>4.0} s  {line}",
                        fault.name,
                        began.elapsed().as_secs_f64()
                    );
                    results.lock().unwrap().push((fault, result));
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    let count = |wanted: fn(&Fate) -> bool| {
        results
            .iter()
            .filter(|(_, fate)| fate.as_ref().is_ok_and(wanted))
            .count()
    };
    let killed = count(|fate| matches!(fate, Fate::Killed(_)));
    let equivalent = count(|fate| matches!(fate, Fate::Equivalent));
    let red = total - killed - equivalent;
    println!("\nequivalent faults, and why no model can notice them:");
    for (fault, _) in &results {
        if let Killer::Nobody { why, .. } = fault.killer {
            println!("  {}: {why}", fault.name);
        }
    }
    println!(
        "\n{total} faults: {killed} killed, {equivalent} equivalent, {red} survived or could not be applied, in {:.0} s",
        start.elapsed().as_secs_f64()
    );
    println!("{} passed, {red} failed", total - red);
    if red == 0 && total > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What is copied: the models, and the crates they need.
const PARTS: [&str; 5] = [
    "tests/model",
    "aio-task",
    "block-core",
    "drivers",
    "vmstate",
];

/// What became of one fault.
enum Fate {
    /// The first model that failed.
    Killed(String),
    /// Nobody should notice, and nobody did.
    Equivalent,
    /// A model that should have noticed passed.
    Survived(String),
}

/// A copy of the sources to break. Its target folder stays from one run to the next, so that only what a fault changes is built anew.
struct Workshop {
    tree: PathBuf,
}

impl Workshop {
    fn new(number: usize) -> Result<Self, String> {
        let this = Self {
            tree: folder()
                .join("target")
                .join("mutants")
                .join(number.to_string()),
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
            // What the gate has built of other crates serves here too. Times must stay as they are, else all is built anew.
            fs::create_dir_all(self.target())?;
            let _ = std::process::Command::new("cp")
                .args(["-a", "-T"])
                .arg(folder().join("target").join("loom"))
                .arg(self.target())
                .status();
        }
        Ok(())
    }

    /// Where the copy's own gate builds as well.
    fn target(&self) -> PathBuf {
        self.tree.join("tests/model/target/loom")
    }

    /// Applies the fault, has it noticed, and mends the copy.
    fn try_fault(&self, fault: &Fault) -> Result<Fate, String> {
        let path = self.tree.join(fault.file);
        let sound = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", fault.file))?;
        let found = sound.matches(fault.search).count();
        if found != 1 {
            return Err(format!("its text is {found} times in {}", fault.file));
        }
        fs::write(&path, sound.replacen(fault.search, fault.replacement, 1))
            .map_err(|e| e.to_string())?;
        let fate = self.judge(fault);
        fs::write(&path, sound).map_err(|e| e.to_string())?;
        fate
    }

    fn judge(&self, fault: &Fault) -> Result<Fate, String> {
        match fault.killer {
            Killer::Models(models) => {
                // Each named model must notice: one that does not is named in vain.
                let runner = self.build(models)?;
                let mut first = None;
                for name in models {
                    match self.fails(&runner, name)? {
                        Ok(()) => {
                            first.get_or_insert(*name);
                        }
                        Err(why) => return Ok(Fate::Survived(format!("{name} {why}"))),
                    }
                }
                Ok(
                    first.map_or(Fate::Survived("no model is named".into()), |name| {
                        Fate::Killed(name.into())
                    }),
                )
            }
            Killer::Nobody { watched, .. } => {
                let runner = self.build(watched)?;
                for name in watched {
                    if self.fails(&runner, name)?.is_ok() {
                        return Err(format!("{name} notices it: it is not equivalent"));
                    }
                }
                Ok(Fate::Equivalent)
            }
            Killer::Gate { model, says } => self.ask_gate(model, says),
        }
    }

    /// A runner that has these models, built without the disk's where that is enough.
    fn build(&self, models: &[&str]) -> Result<PathBuf, String> {
        let models_folder = self.tree.join("tests/model");
        for features in ["", "disk"] {
            let runner = build_quickly(&models_folder, &self.target(), features)
                .map_err(|e| format!("does not compile:\n{e}"))?;
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

    /// `Ok(Ok(()))` if the model fails, `Ok(Err(..))` if it does not.
    fn fails(&self, runner: &Path, name: &str) -> Result<Result<(), String>, String> {
        let job = Job {
            name: name.into(),
            bounds: vec![Some(GATE_BOUND)],
            limit: Duration::from_secs(60),
        };
        Ok(match run(runner, &job).end {
            End::Failed => Ok(()),
            End::Passed => Err("passes".into()),
            End::OutOfTime => Err("does not end, which is no verdict".into()),
        })
    }

    /// Runs the broken gate itself, with one model that the sound one passes.
    fn ask_gate(&self, model: &str, says: &str) -> Result<Fate, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let gate = clean(cargo)
            .args(["run", "--release", "--quiet", "--locked", "--bin", "gate"])
            .arg("--manifest-path")
            .arg(self.tree.join("tests/model/Cargo.toml"))
            .arg("--target-dir")
            .arg(self.tree.join("tests/model/target"))
            .args(["--", model])
            .current_dir(&self.tree)
            .output()
            .map_err(|e| e.to_string())?;
        let said = [gate.stdout, gate.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        if gate.status.success() {
            return Ok(Fate::Survived("the gate is green".into()));
        }
        if !said.contains(says) {
            return Err(format!("the gate is red for another reason:\n{said}"));
        }
        Ok(Fate::Killed(format!("the gate: ..{says}..")))
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
