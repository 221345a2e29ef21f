//! A running QEMU and its monitor (QMP over its stdin and stdout).

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use serde_json::{Value, json};

use crate::lines::Lines;

/// One `qemu-system-x86_64`, killed when dropped.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    to_monitor: ChildStdin,
    from_monitor: Lines<ChildStdout>,
    /// What QEMU and its `exec:` children said on stderr.
    stderr: File,
    /// Events that came while an answer was waited for, oldest first.
    events: VecDeque<Value>,
}

/// QEMU has ended although something was still wanted of it.
#[derive(Debug)]
pub struct Gone {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it said on stderr.
    pub stderr: String,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU ended ({}): {}", self.status, self.stderr.trim())
    }
}

impl Qemu {
    /// Starts QEMU with `args` and a monitor, and waits until the monitor answers. Migration events are switched on.
    ///
    /// # Errors
    /// [`Gone`] if QEMU ends first, as it does when an incoming migration fails early.
    pub fn start<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Result<Qemu, Gone> {
        let stderr = tempfile::tempfile().expect("a file for QEMU's messages");
        let mut child = Command::new("qemu-system-x86_64")
            .args(args)
            .args(["-qmp", "stdio", "-global", "migration.x-events=on"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone().expect("a second descriptor"))
            .spawn()
            .expect("QEMU starts");
        let to_monitor = child.stdin.take().expect("a pipe was asked for");
        let from_monitor = Lines::new(child.stdout.take().expect("a pipe was asked for"));
        let mut qemu = Qemu {
            child,
            to_monitor,
            from_monitor,
            stderr,
            events: VecDeque::new(),
        };
        qemu.qmp("qmp_capabilities", json!({}))?;
        Ok(qemu)
    }

    /// One QMP command and what it returns.
    ///
    /// # Errors
    /// [`Gone`] if QEMU ends before it answers.
    ///
    /// # Panics
    /// If QEMU refuses the command: the test asked for something wrong.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value, Gone> {
        let line = json!({ "execute": command, "arguments": arguments });
        if writeln!(self.to_monitor, "{line}").is_err() {
            return Err(self.gone());
        }
        loop {
            let mut message = self.message()?;
            if !message["event"].is_null() {
                self.events.push_back(message);
            } else if !message["return"].is_null() {
                return Ok(message["return"].take());
            } else {
                // Neither an answer nor an event: the greeting, or a refusal.
                assert!(message["error"].is_null(), "{command}: {message}");
            }
        }
    }

    /// One command of the human monitor and what it prints.
    ///
    /// # Errors
    /// [`Gone`] if QEMU ends before it answers.
    pub fn hmp(&mut self, line: &str) -> Result<String, Gone> {
        let printed = self.qmp("human-monitor-command", json!({ "command-line": line }))?;
        Ok(printed.as_str().unwrap_or_default().to_owned())
    }

    /// Waits for the end of the migration that is going on, in or out: `completed`, `failed` or `cancelled`.
    ///
    /// # Errors
    /// [`Gone`] if QEMU ends first, as it does when an incoming migration fails.
    pub fn migration_ends(&mut self) -> Result<String, Gone> {
        let now = self.qmp("query-migrate", json!({}))?;
        let mut status = now["status"].as_str().unwrap_or("none").to_owned();
        while !matches!(status.as_str(), "completed" | "failed" | "cancelled") {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.message()?,
            };
            if event["event"] == "MIGRATION" {
                status = event["data"]["status"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
            }
        }
        Ok(status)
    }

    /// One command of the monitor's `qemu-io` on a drive. Reads and writes must be told to say nothing (`-q`): what the command has to say
    /// does not come in the answer, but between QMP's lines, and at QEMU's end at the latest. Whatever is found there is a failure.
    ///
    /// # Errors
    /// [`Gone`] if QEMU ends before it answers.
    pub fn qemu_io(&mut self, drive: &str, command: &str) -> Result<(), Gone> {
        let said = self.hmp(&format!("qemu-io {drive} \"{command}\""))?;
        assert_eq!(said, "", "{command}");
        Ok(())
    }

    /// Ends QEMU in the ordinary way and waits for it.
    ///
    /// # Panics
    /// If it has said anything that is no QMP: a `qemu-io` has failed.
    pub fn quit(mut self) {
        let _already_gone = self.qmp("quit", json!({}));
        while self.message().is_ok() {}
        let _ = self.child.wait();
    }

    fn message(&mut self) -> Result<Value, Gone> {
        match self
            .from_monitor
            .next_line()
            .expect("QEMU's monitor speaks")
        {
            Some(line) => Ok(serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("QMP is one JSON value a line: {error}: {line}"))),
            None => Err(self.gone()),
        }
    }

    /// What is left of a QEMU whose monitor is closed.
    fn gone(&mut self) -> Gone {
        let status = self.child.wait().expect("QEMU is our child");
        let mut stderr = String::new();
        self.stderr.rewind().expect("stderr is a file");
        self.stderr
            .read_to_string(&mut stderr)
            .expect("QEMU's messages are text");
        Gone { status, stderr }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
