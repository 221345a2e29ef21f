//! Several runs of the same thing, and the line of a table that they make.
use crate::report::{Requests, Transfer, mib, rate};
use crate::statistics::Samples;
use serde_json::{Value, json};

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
    access: String,
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
            access: String::new(),
        }
    }

    pub(crate) fn push(&mut self, run: &Transfer) {
        self.seconds.push(run.seconds);
        self.cpu_seconds.push(run.cpu_seconds);
        self.peak_memory = self.peak_memory.max(run.peak_memory);
        self.bytes = run.bytes;
        self.pieces = run.pieces;
        self.requests = run.requests;
        self.access = run.access.clone();
    }

    /// A run of the disk's limit: only its time is known.
    pub(crate) fn push_limit(&mut self, bytes: u64, seconds: f64) {
        self.bytes = bytes;
        self.seconds.push(seconds);
    }

    fn median(&self) -> f64 {
        self.seconds.median().unwrap_or(f64::NAN)
    }

    /// How many times as fast as `other` this is.
    pub(crate) fn speed_over(&self, other: &Series) -> f64 {
        other.median() / self.median()
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
            "requests": {
                "reads": self.requests.reads,
                "read_bytes": self.requests.read_bytes,
                "writes": self.requests.writes,
                "written_bytes": self.requests.written_bytes,
            },
            "cpu_seconds": self.cpu_seconds.median(),
            "peak_memory": self.peak_memory,
            "access": self.access,
            "times_unbuffered": unbuffered.map(|other| self.speed_over(other)),
            "times_limit": limit.map(|other| self.speed_over(other)),
        })
    }

    /// Of the table.
    pub(crate) fn head() -> Vec<String> {
        [
            "",
            "seconds",
            "(min",
            "max)",
            "MB/s",
            "x unbuffered",
            "x limit",
            "writes",
            "reads",
            "CPU s",
            "peak MiB",
            "access",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// A line of the table.
    pub(crate) fn row(&self, unbuffered: Option<&Series>, limit: Option<&Series>) -> Vec<String> {
        let times = |other: Option<&Series>| match other {
            Some(other) => format!("{:.2}", self.speed_over(other)),
            None => "-".to_owned(),
        };
        let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |s| format!("{s:.3}"));
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
            row.extend(["-", "-", "-", "-", "direct"].map(str::to_owned));
        } else {
            row.extend([
                self.requests.writes.to_string(),
                self.requests.reads.to_string(),
                seconds(self.cpu_seconds.median()),
                format!("{:.1}", mib(self.peak_memory)),
                self.access.clone(),
            ]);
        }
        row
    }
}
