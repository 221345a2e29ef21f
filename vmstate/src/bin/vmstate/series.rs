//! Several runs of the same thing, and the line of a table that they make.
use crate::human;
use crate::report::{Requests, Transfer, mib, rate};
use crate::statistics::Samples;
use serde_json::{Value, json};

/// Of the table.
const COLUMNS: usize = 15;

/// Runs of one way to save or to load.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) seconds: Samples,
    bytes: u64,
    pieces: u64,
    cpu_seconds: Samples,
    peak_memory: u64,
    requests: Requests,
    metadata: Option<Requests>,
    access: String,
    /// Why there are no runs.
    missing: Option<String>,
}

impl Series {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            seconds: Samples::default(),
            bytes: 0,
            pieces: 0,
            cpu_seconds: Samples::default(),
            peak_memory: 0,
            requests: Requests::default(),
            metadata: None,
            access: String::new(),
            missing: None,
        }
    }

    pub(crate) fn push(&mut self, run: &Transfer) {
        self.seconds.push(run.seconds);
        self.cpu_seconds.push(run.cpu_seconds);
        self.peak_memory = self.peak_memory.max(run.peak_memory);
        self.bytes = run.bytes;
        self.pieces = run.pieces;
        self.requests = run.requests;
        self.metadata = run.metadata;
        self.access = run.access.clone();
    }

    /// A run of something else, the disk's limit or another program: only its time is known.
    pub(crate) fn push_limit(&mut self, bytes: u64, seconds: f64) {
        self.bytes = bytes;
        self.seconds.push(seconds);
    }

    /// There are no runs, because of this.
    pub(crate) fn set_missing(&mut self, why: String) {
        self.missing = Some(human::line(&why));
    }

    fn median(&self) -> f64 {
        self.seconds.median().unwrap_or(f64::NAN)
    }

    /// How many times as fast as `other` this is, byte for byte.
    pub(crate) fn speed_over(&self, other: &Series) -> f64 {
        rate(self.bytes, self.median()) / rate(other.bytes, other.median())
    }

    /// For `--json`. The ratios are to a slower way and to the disk's limit.
    pub(crate) fn json(&self, unbuffered: Option<&Series>, limit: Option<&Series>) -> Value {
        json!({
            "name": self.name,
            "seconds": {
                "median": self.median(),
                "min": self.seconds.min(),
                "max": self.seconds.max(),
            },
            "bytes": self.bytes,
            "pieces": self.pieces,
            "mb_per_second": rate(self.bytes, self.median()),
            "requests": self.requests.json(),
            "metadata": self.metadata.map(|metadata| json!({
                "requests": metadata.count(),
                "bytes": metadata.bytes(),
                "share_of_requests": share(metadata.count(), self.requests.count()),
                "share_of_bytes": share(metadata.bytes(), self.requests.bytes()),
            })),
            "cpu_seconds": self.cpu_seconds.median(),
            "peak_memory": self.peak_memory,
            "access": self.access,
            "missing": self.missing,
            "times_unbuffered": unbuffered.map(|other| self.speed_over(other)),
            "times_limit": limit.map(|other| self.speed_over(other)),
        })
    }

    /// Of the table.
    pub(crate) fn head() -> Vec<String> {
        let head: [&str; COLUMNS] = [
            "",
            "seconds",
            "(min",
            "max)",
            "MB/s",
            "x unbuffered",
            "x limit",
            "writes",
            "reads",
            "metadata",
            "% requests",
            "% bytes",
            "CPU s",
            "peak MiB",
            "access",
        ];
        head.map(str::to_owned).to_vec()
    }

    /// A line of the table.
    pub(crate) fn row(&self, unbuffered: Option<&Series>, limit: Option<&Series>) -> Vec<String> {
        let times = |other: Option<&Series>| match other {
            Some(other) => format!("{:.2}", self.speed_over(other)),
            None => "-".to_owned(),
        };
        let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |s| format!("{s:.3}"));
        let dash = || "-".to_owned();
        if let Some(why) = &self.missing {
            let mut row = vec![self.name.clone()];
            row.resize_with(COLUMNS - 1, dash);
            row.push(why.clone());
            return row;
        }
        let mut row = vec![
            self.name.clone(),
            seconds(self.seconds.median()),
            seconds(self.seconds.min()),
            seconds(self.seconds.max()),
            format!("{:.0}", rate(self.bytes, self.median())),
            times(unbuffered),
            times(limit),
        ];
        if self.access.is_empty() {
            row.resize_with(COLUMNS - 1, dash);
            row.push("direct".to_owned());
        } else {
            row.push(self.requests.writes.to_string());
            row.push(self.requests.reads.to_string());
            row.extend(self.metadata_cells());
            row.push(seconds(self.cpu_seconds.median()));
            row.push(format!("{:.1}", mib(self.peak_memory)));
            row.push(self.access.clone());
        }
        row
    }

    /// Requests that are not the state's own bytes, and their shares.
    fn metadata_cells(&self) -> [String; 3] {
        let Some(metadata) = self.metadata else {
            return ["-", "-", "-"].map(str::to_owned);
        };
        let percent = |part, whole| format!("{:.2}", 100.0 * share(part, whole));
        [
            metadata.count().to_string(),
            percent(metadata.count(), self.requests.count()),
            percent(metadata.bytes(), self.requests.bytes()),
        ]
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
