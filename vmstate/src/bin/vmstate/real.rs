//! A real QEMU's savevm and loadvm of as much state, for the demo: a machine that never runs, with the content in its memory.
//!
//! ```text
//!   qemu-system-x86_64 -S, the loader device puts the content into its memory
//!      `savevm` on its monitor       the clock is ours: from the command to the answer
//!   another one, empty: `loadvm`     the same
//! ```
use crate::args::BecomeArgs;
use crate::context::Cx;
use crate::failure::Failure;
use crate::measure;
use crate::runner::Running;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

const PROGRAM: &str = "qemu-system-x86_64";
const SNAPSHOT: &str = "demo";

/// Where the content lies in the machine's memory: after what the firmware uses.
const CONTENT_AT: u64 = 8 << 20;

/// The most that the loader device takes: it reads its file at once, and Linux gives no more.
const MAX_CONTENT: u64 = 0x7fff_f000;

/// A QEMU that is installed here.
pub(crate) struct RealQemu {
    /// As it tells it: `7.2.22`.
    pub(crate) version: String,
    /// What `-m` is given, in MiB.
    memory: u64,
}

impl RealQemu {
    /// Looks whether there is one, and room for a machine with `len` bytes of content; if not, why.
    pub(crate) async fn find(cx: &Cx, len: u64) -> Result<Result<Self, String>, Failure> {
        let version = cx.blocking(version).await?;
        Ok(version.and_then(|version| {
            if len > MAX_CONTENT {
                return Err(format!("{len} bytes are too many for its loader"));
            }
            // The machine's memory, and the loader's copy.
            let needed = 2 * len + (512 << 20);
            match measure::available_memory() {
                Some(available) if available < needed => {
                    Err(format!("it needs {needed} bytes of memory"))
                }
                _ => Ok(Self {
                    version,
                    memory: (CONTENT_AT + len).div_ceil(1 << 20) + 16,
                }),
            }
        }))
    }

    /// Saves a machine with `content` into the image; seconds. Dropping the future kills QEMU.
    pub(crate) async fn savevm(
        &self,
        cx: &Cx,
        image: &Path,
        content: &File,
    ) -> Result<f64, Failure> {
        // Not a name of its own: the content is in memory, and ours.
        let content = format!("/proc/{}/fd/{}", std::process::id(), content.as_raw_fd());
        let loader = format!("loader,file={content},addr={CONTENT_AT:#x},force-raw=on");
        let args = ["-device".into(), loader.into()];
        self.perform(cx, "savevm", image, &args).await
    }

    /// Loads it into another machine, from cold; seconds.
    pub(crate) async fn loadvm(&self, cx: &Cx, image: &Path) -> Result<f64, Failure> {
        let path = image.to_path_buf();
        cx.blocking(move || measure::make_cold(&path))
            .await?
            .map_err(|e| Failure::io(image.display(), "drop pages", &e))?;
        self.perform(cx, "loadvm", image, &[]).await
    }

    async fn perform(
        &self,
        cx: &Cx,
        command: &'static str,
        image: &Path,
        args: &[OsString],
    ) -> Result<f64, Failure> {
        let failed = |why: String| Failure::new(PROGRAM, command, why);
        let Some(file) = image.to_str() else {
            return Err(failed("the image's name is not text".to_owned()));
        };
        let direct = json!({"direct": true});
        let disk = json!({
            "driver": "qcow2", "node-name": "disk", "cache": direct,
            "file": {"driver": "file", "filename": file, "aio": "threads", "cache": direct},
        });
        let us = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
        let mut qemu = Command::new(us);
        qemu.args(["become", PROGRAM])
            .args(["-machine", "pc", "-accel", "tcg", "-S", "-nodefaults"])
            .args(["-display", "none", "-qmp", "stdio"])
            .args(["-m", &format!("{}M", self.memory)])
            .args([
                "-blockdev",
                &disk.to_string(),
                "-device",
                "ide-hd,drive=disk",
            ])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // On this thread: QEMU dies with the thread that started it.
        let child = qemu.spawn().map_err(|e| failed(e.to_string()))?;
        let running = Running::new(&child);
        let line = format!("{command} {SNAPSHOT}");
        let result = cx.blocking(move || monitor(child, &line)).await?;
        running.ended();
        result.map_err(failed)
    }
}

/// Becomes another program that does not outlive its parent: a QEMU whose monitor is closed runs on. Returns if that does not work.
pub(crate) fn become_another(args: &BecomeArgs) -> Failure {
    let Some((program, args)) = args.command.split_first() else {
        return Failure::new("vmstate", "become", "nothing");
    };
    let name = program.display().to_string();
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return Failure::io(name, "ask for a death signal", &error.into());
    }
    Failure::io(name, "start", &Command::new(program).args(args).exec())
}

/// The version of the QEMU on the `PATH`, or why there is none.
fn version() -> Result<String, String> {
    let output = Command::new(PROGRAM)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => format!("{PROGRAM} is not installed"),
            _ => format!("{PROGRAM}: {e}"),
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "version");
    let version = words.nth(1).map(str::to_owned);
    version.ok_or_else(|| format!("{PROGRAM} does not tell its version"))
}

/// Performs one command of the human monitor, and ends QEMU; seconds that the command took.
fn monitor(mut child: Child, line: &str) -> Result<f64, String> {
    let result = match (child.stdin.take(), child.stdout.take()) {
        (Some(to), Some(from)) => Monitor {
            to,
            from: BufReader::new(from),
        }
        .perform(line),
        _ => Err("no pipes".to_owned()),
    };
    // Its pipes are closed; it has nothing left to do.
    let _ = child.kill();
    let mut said = String::new();
    if let (Err(_), Some(mut stderr)) = (&result, child.stderr.take()) {
        let _ = stderr.read_to_string(&mut said);
    }
    let _ = child.wait();
    result.map_err(|why| match said.trim() {
        "" => why,
        said => format!("{why}: {said}"),
    })
}

/// QMP on a QEMU's stdin and stdout.
struct Monitor {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Monitor {
    fn perform(mut self, line: &str) -> Result<f64, String> {
        self.call("qmp_capabilities", json!({}))?;
        let start = Instant::now();
        let said = self.call("human-monitor-command", json!({"command-line": line}))?;
        let seconds = start.elapsed().as_secs_f64();
        match said.as_str().unwrap_or_default().trim() {
            "" => Ok(seconds),
            said => Err(said.to_owned()), // an error of the human monitor
        }
    }

    fn call(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let call = json!({"execute": command, "arguments": arguments});
        writeln!(self.to, "{call}").map_err(|e| e.to_string())?;
        let mut line = String::new();
        loop {
            line.clear();
            match self.from.read_line(&mut line) {
                Ok(0) => return Err("it has ended".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
            // The greeting and events have neither.
            let mut message: Value = serde_json::from_str(&line).map_err(|e| e.to_string())?;
            if let Some(error) = message.get("error") {
                return Err(error["desc"].as_str().unwrap_or("refused").to_owned());
            }
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}
