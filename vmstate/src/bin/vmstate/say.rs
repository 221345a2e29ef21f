//! Lines on stdout and stderr, where printing may fail and must not panic.
use crate::failure::Failure;
use std::fmt::Display;
use std::io::Write;

/// A line on stderr. There is nothing left to do if that fails.
pub(crate) fn on_stderr(line: impl Display) {
    // In one piece, so that lines of parent and child do not mix.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// A line on stdout of a command that has done its work: if it cannot be printed, the failure says what is `done`.
pub(crate) fn done_on_stdout(line: impl Display, done: impl Into<String>) -> Result<(), Failure> {
    on_stdout(line).map_err(|e| e.leaving(done))
}

/// A warning on stderr: about `file`, in words.
pub(crate) fn warning(file: &str, text: &str, json: bool) {
    match json {
        true => on_stderr(serde_json::json!({ "warning": { "file": file, "cause": text } })),
        false => on_stderr(format_args!("vmstate: warning: {file}: {text}")),
    }
}

/// A line on stdout.
pub(crate) fn on_stdout(line: impl Display) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    stdout
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|e| Failure::io("stdout", "write", &e))
}
