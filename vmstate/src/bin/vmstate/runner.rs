//! Runs steps in child processes, one at a time.
use crate::args::{Engine, Format, StepKind, Storage};
use crate::content::Content;
use crate::context::Cx;
use crate::failure::Failure;
use crate::measure;
use crate::pieces;
use crate::progress::Steps;
use crate::report::Transfer;
use crate::trace::{Piece, Trace};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The patterns of a replay, and the content that its saves write.
pub(crate) struct Patterns {
    pub(crate) trace: PathBuf,
    pub(crate) load_trace: Option<PathBuf>,
    pub(crate) seed: u64,
    pub(crate) take: Option<u64>,
    /// Bytes of all writes, and the length of the state.
    pub(crate) bytes: u64,
    pub(crate) len: u64,
    pub(crate) content: File,
}

impl Patterns {
    /// Reads the traces and makes the content.
    pub(crate) async fn prepare(
        cx: &Cx,
        trace: &Path,
        load_trace: Option<&Path>,
        seed: u64,
        take: Option<u64>,
    ) -> Result<Self, Failure> {
        let (saves, loads) = (trace.to_path_buf(), load_trace.map(Path::to_path_buf));
        cx.blocking(move || {
            let pattern = crate::step::pattern(&saves, take)?;
            if let Some(loads) = &loads {
                crate::step::pattern(loads, take)?;
            }
            let covered = pattern.covered();
            room_in_memory(&saves, &covered)?;
            let content = pieces::make(Content { seed }, &covered)
                .map_err(|e| Failure::io("memory", "make content", &e))?;
            Ok(Self {
                bytes: Trace::bytes(&pattern),
                len: pattern.end(),
                trace: saves,
                load_trace: loads,
                seed,
                take,
                content,
            })
        })
        .await?
    }
}

/// The content must fit: to find out by running out of memory is no way to find out.
fn room_in_memory(trace: &Path, covered: &[Piece]) -> Result<(), Failure> {
    let needed: u64 = covered.iter().map(|range| range.len).sum();
    match measure::available_memory() {
        Some(available) if available < needed + (256 << 20) => {
            let why = format!(
                "its content needs {needed} bytes of memory, {available} are available; --take uses a part of it"
            );
            Err(Failure::new(trace.display(), "make content", why))
        }
        _ => Ok(()),
    }
}

/// Runs the steps of one command.
pub(crate) struct Runner<'a> {
    pub(crate) cx: &'a Cx,
    pub(crate) patterns: Patterns,
    pub(crate) steps: Steps,
}

impl Runner<'_> {
    /// Performs `kind` on `file` in a child. Dropping the future kills the child and waits until it is gone.
    pub(crate) async fn step(
        &self,
        kind: StepKind,
        file: &Path,
        engine: &Engine,
        storage: &Storage,
    ) -> Result<Value, Failure> {
        self.begin(&what(kind, engine, storage)).await?;
        let failed = |error: io::Error| Failure::io("vmstate", "start a child process", &error);
        let command = self.command(kind, file, engine, storage);
        let mut command = command.map_err(failed)?;
        // On this thread: the child dies with the thread that started it.
        let child = command.spawn().map_err(failed)?;
        let running = Running::new(&child);
        let output = self.cx.blocking(move || child.wait_with_output()).await?;
        running.ended();
        result(&output.map_err(failed)?)
    }

    /// The next step begins; `what` it does.
    pub(crate) async fn begin(&self, what: &str) -> Result<(), Failure> {
        self.steps.begin(what);
        // What the step before has left to do (a removed file's blocks, dirty pages) is not to be paid inside this one's clock.
        self.cx.blocking(rustix::fs::sync).await
    }

    /// [`Runner::step`] of a save or load.
    pub(crate) async fn transfer(
        &self,
        kind: StepKind,
        file: &Path,
        engine: &Engine,
        storage: &Storage,
    ) -> Result<Transfer, Failure> {
        let value = self.step(kind, file, engine, storage).await?;
        Transfer::from_json(&value).ok_or_else(|| unreadable(&value.to_string()))
    }

    /// [`Runner::step`] of the disk's limit; seconds.
    pub(crate) async fn limit(
        &self,
        kind: StepKind,
        file: &Path,
        engine: &Engine,
    ) -> Result<f64, Failure> {
        let plain = Storage::default();
        let value = self.step(kind, file, engine, &plain).await?;
        let seconds = value.get("seconds").and_then(Value::as_f64);
        seconds.ok_or_else(|| unreadable(&value.to_string()))
    }

    fn command(
        &self,
        kind: StepKind,
        file: &Path,
        engine: &Engine,
        storage: &Storage,
    ) -> io::Result<Command> {
        let patterns = &self.patterns;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("step").arg(name(kind));
        command.arg("--trace").arg(&patterns.trace);
        if let Some(path) = &patterns.load_trace {
            command.arg("--load-trace").arg(path);
        }
        if let Some(bytes) = patterns.take {
            command.arg(format!("--take={bytes}"));
        }
        command.arg(format!("--seed={}", patterns.seed));
        command.arg(format!("--bytes={}", patterns.bytes));
        command.args(storage.to_args()).args(engine.to_args());
        command.arg("--").arg(file);
        command.stdin(match kind {
            StepKind::Save => Stdio::from(patterns.content.try_clone()?),
            _ => Stdio::null(),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }
}

/// A child that may have to be killed.
pub(crate) struct Running {
    /// A handle that cannot come to mean another process. `None` when the child has ended.
    child: Option<OwnedFd>,
}

impl Running {
    pub(crate) fn new(child: &Child) -> Self {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Self {
            child: pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
        }
    }

    /// The child has ended, and was waited for.
    pub(crate) fn ended(mut self) {
        self.child = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = &self.child else { return };
        if pidfd_send_signal(child, Signal::KILL).is_ok() {
            // Its file is removed next, and it must not make it again. A killed process is gone when the request it is in is over.
            let limit = Timespec {
                tv_sec: 5,
                tv_nsec: 0,
            };
            let _ = poll(&mut [PollFd::new(child, PollFlags::IN)], Some(&limit));
        }
    }
}

/// What a child printed: its result, or its failure.
fn result(output: &Output) -> Result<Value, Failure> {
    let text = String::from_utf8_lossy(match output.status.success() {
        true => &output.stdout,
        false => &output.stderr,
    });
    let value = text
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str::<Value>(line).ok());
    match value {
        Some(value) if output.status.success() => Ok(value),
        Some(value) => Err(Failure::from_json(&value).unwrap_or_else(|| unreadable(&text))),
        None => Err(unreadable(&format!("{}: {text}", output.status))),
    }
}

fn unreadable(text: &str) -> Failure {
    Failure::new("vmstate", "run a child process", text.trim())
}

/// For people.
fn what(kind: StepKind, engine: &Engine, storage: &Storage) -> String {
    let place = match storage.format {
        Format::RawState => "",
        Format::Qcow2 => "qcow2 ",
    };
    let cache = if engine.direct { "O_DIRECT" } else { "cached" };
    let way = if engine.unbuffered {
        "unbuffered"
    } else {
        "buffered"
    };
    match kind {
        StepKind::Save => format!("save {place}{cache} {way}"),
        StepKind::Load => format!("load {place}{cache} {way}"),
        StepKind::CheckLoad => format!("check load {place}{cache} {way}"),
        StepKind::Verify => format!("verify {place}").trim_end().to_owned(),
        StepKind::DiskWrite => "disk limit, write".to_owned(),
        StepKind::DiskRead => "disk limit, read".to_owned(),
    }
}

fn name(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Save => "save",
        StepKind::Verify => "verify",
        StepKind::Load => "load",
        StepKind::CheckLoad => "check-load",
        StepKind::DiskWrite => "disk-write",
        StepKind::DiskRead => "disk-read",
    }
}
