//! `models.txt`: what each model explored when it was written, and so what it must explore now.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The share of the recorded interleavings that a run must reach.
const FLOOR_PERCENT: u64 = 80;
/// No model explores fewer, however small it is.
const FLOOR_MIN: u64 = 10;

/// How far the gate and the deep run explore where they do not explore everything.
pub const GATE_BOUND: usize = 2;
/// See [`GATE_BOUND`].
pub const DEEP_BOUND: usize = 3;

/// Below this many seconds the gate explores everything.
pub const GATE_SECONDS: f64 = 3.0;
/// Below this many seconds the deep run explores everything.
pub const DEEP_SECONDS: f64 = 60.0;

/// One model's line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Interleavings with at most [`GATE_BOUND`] preemptions.
    pub gate: u64,
    /// Interleavings with at most [`DEEP_BOUND`] preemptions.
    pub deep: u64,
    /// All interleavings and the seconds they took, where that is known.
    pub all: Option<(u64, f64)>,
}

impl Counts {
    /// The count that goes with a bound; `None` is no bound.
    pub fn at(&self, bound: Option<usize>) -> u64 {
        match bound {
            None => self.all.map_or(0, |(all, _)| all),
            Some(bound) if bound <= GATE_BOUND => self.gate,
            Some(_) => self.deep,
        }
    }

    /// Whether every interleaving can be explored in that time.
    pub fn ends_within(&self, seconds: f64) -> bool {
        self.all.is_some_and(|(_, took)| took <= seconds)
    }
}

/// The least number of interleavings that counts as a pass.
pub fn floor(recorded: u64) -> u64 {
    (recorded * FLOOR_PERCENT / 100).max(FLOOR_MIN)
}

/// Where the table is.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("models.txt")
}

/// Reads the table: a name, a count at bound 2, one at bound 3, and all with the seconds that took, or two dashes.
pub fn read(folder: &Path) -> Result<BTreeMap<String, Counts>, String> {
    let path = path(folder);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut table = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.first().is_none_or(|first| first.starts_with('#')) {
            continue;
        }
        let (name, counts) = parse(&fields)
            .ok_or_else(|| format!("{}:{}: not a line of the table", path.display(), number + 1))?;
        if table.insert(name.to_owned(), counts).is_some() {
            return Err(format!("{}: {name} twice", path.display()));
        }
    }
    Ok(table)
}

fn parse<'a>(fields: &[&'a str]) -> Option<(&'a str, Counts)> {
    let [name, gate, deep, all, seconds] = *fields else {
        return None;
    };
    let all = match (all, seconds) {
        ("-", "-") => None,
        (all, seconds) => Some((all.parse().ok()?, seconds.parse().ok()?)),
    };
    let counts = Counts {
        gate: gate.parse().ok()?,
        deep: deep.parse().ok()?,
        all,
    };
    Some((name, counts))
}

/// Writes the table back, sorted by name.
pub fn write(folder: &Path, table: &BTreeMap<String, Counts>) -> Result<(), String> {
    let mut text = String::from(
        "# What each model explored when it was written: interleavings with at most 2 preemptions, with at most 3, all of them\n\
         # and the seconds that took (dashes: more than a minute). A run that explores less than 80 % of it is red, less than 10 too.\n\
         # Written by `cargo loom measure [NAME]`.\n",
    );
    let width = table.keys().map(String::len).max().unwrap_or(0);
    for (name, counts) in table {
        let (all, seconds) = match counts.all {
            Some((all, seconds)) => (all.to_string(), format!("{seconds:.1}")),
            None => ("-".into(), "-".into()),
        };
        writeln!(
            text,
            "{name:width$} {:>8} {:>8} {all:>9} {seconds:>6}",
            counts.gate, counts.deep
        )
        .expect("a string takes everything");
    }
    let path = path(folder);
    std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
}
