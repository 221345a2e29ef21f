//! What a command tells when it is done.
use crate::args::Output;
use crate::counting::Moved;
use crate::graph::Graph;
use crate::human;
use crate::measure;
use crate::say;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// One state moved, and what it took.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) bytes: u64,
    /// Calls that wrote or read the state.
    pub(crate) pieces: u64,
    pub(crate) seconds: f64,
    /// CPU seconds of the process.
    pub(crate) cpu_seconds: f64,
    /// Most memory of the process, in bytes; 0 where the system does not tell.
    pub(crate) peak_memory: u64,
    /// What reached the file's driver.
    pub(crate) requests: Requests,
    /// The part of it that is not the state's own bytes; `None` where there is nothing else.
    pub(crate) metadata: Option<Requests>,
    /// How the file was accessed.
    pub(crate) access: String,
}

/// Driver requests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Requests {
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) writes: u64,
    pub(crate) written_bytes: u64,
}

impl Requests {
    fn of(moved: &Moved) -> Self {
        Self {
            reads: moved.reads.get(),
            read_bytes: moved.read_bytes.get(),
            writes: moved.writes.get(),
            written_bytes: moved.written_bytes.get(),
        }
    }

    /// Without those of `other`.
    fn without(self, other: Self) -> Self {
        Self {
            reads: self.reads.saturating_sub(other.reads),
            read_bytes: self.read_bytes.saturating_sub(other.read_bytes),
            writes: self.writes.saturating_sub(other.writes),
            written_bytes: self.written_bytes.saturating_sub(other.written_bytes),
        }
    }

    /// Reads and writes.
    pub(crate) fn count(&self) -> u64 {
        self.reads.saturating_add(self.writes)
    }

    /// Of both.
    pub(crate) fn bytes(&self) -> u64 {
        self.read_bytes.saturating_add(self.written_bytes)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "reads": self.reads,
            "read_bytes": self.read_bytes,
            "writes": self.writes,
            "written_bytes": self.written_bytes,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        Some(Self {
            reads: number("reads")?,
            read_bytes: number("read_bytes")?,
            writes: number("writes")?,
            written_bytes: number("written_bytes")?,
        })
    }
}

impl Transfer {
    /// Of what this process has done so far.
    pub(crate) fn new(graph: &Graph, bytes: u64, pieces: u64, seconds: f64) -> Self {
        let requests = Requests::of(&graph.file.counts.data);
        let image = graph.image.as_ref();
        Self {
            bytes,
            pieces,
            seconds,
            cpu_seconds: measure::cpu_seconds(),
            peak_memory: measure::peak_memory().unwrap_or(0),
            requests,
            metadata: image.map(|counts| requests.without(Requests::of(&counts.state))),
            access: graph.file.access(),
        }
    }

    /// Decimal megabytes a second.
    pub(crate) fn rate(&self) -> f64 {
        rate(self.bytes, self.seconds)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "bytes": self.bytes,
            "pieces": self.pieces,
            "seconds": self.seconds,
            "mb_per_second": self.rate(),
            "cpu_seconds": self.cpu_seconds,
            "peak_memory": self.peak_memory,
            "requests": self.requests.json(),
            "metadata": self.metadata.as_ref().map(Requests::json),
            "access": self.access,
        })
    }

    /// What [`Transfer::json`] of a child process said.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let number = |name: &str| value.pointer(name).and_then(Value::as_u64);
        let float = |name: &str| value.pointer(name).and_then(Value::as_f64);
        Some(Self {
            bytes: number("/bytes")?,
            pieces: number("/pieces")?,
            seconds: float("/seconds")?,
            cpu_seconds: float("/cpu_seconds")?,
            peak_memory: number("/peak_memory")?,
            requests: Requests::from_json(value.get("requests")?)?,
            metadata: value.get("metadata").and_then(Requests::from_json),
            access: value.get("access")?.as_str()?.to_owned(),
        })
    }
}

/// Decimal megabytes a second.
pub(crate) fn rate(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / 1e6 / seconds.max(1e-9)
}

/// Tells on stderr of a save or load that is done: stdout may be the stream. `name` is the snapshot's, where there is one.
pub(crate) fn transfer(
    verb: &'static str,
    file: &str,
    name: Option<&str>,
    transfer: &Transfer,
    output: Output,
) {
    if output.json {
        let mut value = transfer.json();
        value["file"] = json!(file);
        value["name"] = json!(name);
        return say::on_stderr(json!({ verb: value }));
    }
    let r = &transfer.requests;
    let metadata = transfer.metadata.map(|metadata| {
        let (count, bytes) = (metadata.count(), metadata.bytes());
        format!(", of which metadata: {count} requests ({bytes} bytes)")
    });
    // One line, whatever the name holds.
    let file = match name {
        Some(name) => human::line(&format!("{file}, snapshot {name:?}")),
        None => human::line(file),
    };
    say::on_stderr(format_args!(
        "{verb} {file}: {} bytes in {:.3} s, {:.0} MB/s, {}; {} pieces; driver: {} writes ({} bytes), {} reads ({} bytes){}; CPU {:.2} s; peak memory {:.1} MiB",
        transfer.bytes,
        transfer.seconds,
        transfer.rate(),
        transfer.access,
        transfer.pieces,
        r.writes,
        r.written_bytes,
        r.reads,
        r.read_bytes,
        metadata.unwrap_or_default(),
        transfer.cpu_seconds,
        mib(transfer.peak_memory),
    ));
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Lines of cells, the first column left-aligned, the others right-aligned.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["a".to_owned(), "10".to_owned()],
            vec!["bcd".to_owned(), "2".to_owned()],
        ];
        assert_eq!(table(&rows), "a    10\nbcd   2\n");
    }
}
