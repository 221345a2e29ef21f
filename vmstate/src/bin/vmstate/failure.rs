//! Why the program ends with 1: one line that names the file, the operation, where, how long, why, and what is on disk.
use block_core::{BlockError, Op};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;
use std::io;

/// An error for the user. Boxed: results are returned more often than errors.
#[derive(Clone, Debug)]
pub(crate) struct Failure(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    /// The file, or `stdin`, `stdout`.
    file: String,
    /// What was being done.
    operation: Cow<'static, str>,
    /// Offset and length, where the operation has them.
    range: Option<(u64, u64)>,
    /// Why it failed.
    cause: String,
    /// The system's number for it, where there is one.
    errno: Option<i32>,
    /// What the failed command leaves.
    on_disk: Option<String>,
}

impl Failure {
    /// A failure in words.
    pub(crate) fn new(
        file: impl fmt::Display,
        operation: impl Into<Cow<'static, str>>,
        cause: impl fmt::Display,
    ) -> Self {
        Self(Box::new(Parts {
            file: file.to_string(),
            operation: operation.into(),
            range: None,
            cause: cause.to_string(),
            errno: None,
            on_disk: None,
        }))
    }

    /// A failure of a system call.
    pub(crate) fn io(
        file: impl fmt::Display,
        operation: impl Into<Cow<'static, str>>,
        error: &io::Error,
    ) -> Self {
        let mut failure = Self::new(file, operation, error);
        failure.0.errno = error.raw_os_error();
        failure
    }

    /// A failure of the block layer.
    pub(crate) fn block(file: impl fmt::Display, error: &BlockError) -> Self {
        let failure = Self::new(file, error.op.to_string(), &error.cause);
        let failure = failure.with_errno(error.errno().0);
        match error.op {
            // Of the whole image: their numbers say nothing.
            Op::SnapshotCreate
            | Op::SnapshotGoto
            | Op::SnapshotDelete
            | Op::SnapshotList
            | Op::SnapshotLoad
            | Op::DiscardVmstate => failure,
            _ => failure.at(error.offset, error.len),
        }
    }

    /// The same, with the system's number for it.
    pub(crate) fn with_errno(mut self, errno: i32) -> Self {
        self.0.errno = Some(errno);
        self
    }

    /// The same at `offset`, for `len` bytes.
    pub(crate) fn at(mut self, offset: u64, len: u64) -> Self {
        self.0.range = Some((offset, len));
        self
    }

    /// The same, with a sentence about what is on disk; the first one given stays.
    pub(crate) fn leaving(mut self, on_disk: impl Into<String>) -> Self {
        self.0.on_disk.get_or_insert(on_disk.into());
        self
    }

    /// The same, with another sentence about what is on disk.
    pub(crate) fn also_leaving(mut self, more: impl AsRef<str>) -> Self {
        let more = more.as_ref();
        self.0.on_disk = Some(match self.0.on_disk.take() {
            Some(first) => format!("{first}; {more}"),
            None => more.to_owned(),
        });
        self
    }

    /// The same, with `more` about what is on disk, unless it says so already.
    pub(crate) fn mentioning(self, more: &str) -> Self {
        let known = self.0.on_disk.as_deref();
        match known.is_some_and(|known| known.contains(more)) {
            true => self,
            false => self.also_leaving(more),
        }
    }

    /// What it leaves on disk of `file`, in words.
    pub(crate) fn left(&self, file: &str) -> String {
        let left = self.0.on_disk.as_deref();
        format!("{file}: {}", left.unwrap_or("unknown"))
    }

    /// True where a file that was to be made was there already: then it is another's.
    pub(crate) fn found_existing(&self) -> bool {
        self.0.errno == Some(rustix::io::Errno::EXIST.raw_os_error())
    }

    /// For `--json`.
    pub(crate) fn json(&self) -> Value {
        let parts = &self.0;
        json!({ "error": {
            "file": parts.file,
            "operation": parts.operation,
            "offset": parts.range.map(|(offset, _)| offset),
            "length": parts.range.map(|(_, len)| len),
            "cause": parts.cause,
            "errno": parts.errno,
            "on_disk": parts.on_disk,
        }})
    }

    /// A failure that a child process printed with [`Failure::json`].
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let error = value.get("error")?;
        let text = |name| error.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = |name| error.get(name).and_then(Value::as_u64);
        let errno = error.get("errno").and_then(Value::as_i64);
        Some(Self(Box::new(Parts {
            file: text("file")?,
            operation: text("operation")?.into(),
            range: number("offset").zip(number("length")),
            cause: text("cause")?,
            errno: errno.and_then(|n| n.try_into().ok()),
            on_disk: text("on_disk"),
        })))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever a path or a cause holds.
        let line = |text: &str| text.replace(|c: char| c.is_control(), "?");
        write!(f, "{}: {}", line(&self.0.file), line(&self.0.operation))?;
        if let Some((offset, len)) = self.0.range {
            write!(f, " at offset {offset}, length {len}")?;
        }
        write!(f, ": {}", line(&self.0.cause))?;
        match &self.0.on_disk {
            Some(text) => write!(f, "; {}", line(text)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_numbers() {
        let failure = Failure::io("a\nb", "write", &io::Error::from_raw_os_error(28))
            .at(5, 7)
            .leaving("nothing is left");
        let line = failure.to_string();
        assert!(line.starts_with("a?b: write at offset 5, length 7: No space left"));
        assert!(line.ends_with("; nothing is left"));
    }

    #[test]
    fn a_failure_of_a_child_arrives_unchanged() {
        let failure = Failure::new("f", "verify", "byte 3 is wrong").at(3, 1);
        let back = Failure::from_json(&failure.json()).unwrap();
        assert_eq!(back.to_string(), failure.to_string());
    }
}
