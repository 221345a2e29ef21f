//! A shell script around a program that QEMU starts by `exec:`, which records what QEMU ignores: the exit status.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use crate::lines::Lines;

/// A command that can be given to `exec:`, and its ending once it has run.
#[derive(Debug)]
pub struct Wrapper {
    folder: TempDir,
    /// The script's last line writes the exit status here.
    status: Lines<File>,
    /// Where [`Feed::HalfThenWait`] says what it has reached: the program's process id, then `half`.
    steps: Lines<File>,
    /// What the script waits for in [`Feed::HalfThenWait`]. Closing it lets the script go on to its end, so none outlives a failed test.
    go: File,
}

/// How the program's stdin is fed from the script's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// It is the script's.
    Direct,
    /// This many bytes, then nothing until [`Wrapper::go_on`].
    HalfThenWait(u64),
}

/// How the wrapped program ended.
#[derive(Debug)]
pub struct Outcome {
    /// The shell's `$?`: the exit status, or 128 + the signal that killed it.
    pub status: i32,
    /// What it wrote to stdout, if that was recorded.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Wrapper {
    /// Wraps `program args...`, whose stdin is fed by the script's and whose stdout is recorded: a saver.
    pub fn saver<S: AsRef<OsStr>>(program: &Path, args: &[S], feed: Feed) -> Wrapper {
        let wrapper = Wrapper::new();
        let run = format!("{} >stdout 2>stderr", command_line(program, args));
        wrapper.write_script(&match feed {
            Feed::Direct => run,
            Feed::HalfThenWait(bytes) => format!(
                "(head -c {bytes}; echo half >steps; read go <go; exec cat) |\n\
                 sh -c 'echo $$ >steps; exec \"$0\" \"$@\"' {run}"
            ),
        });
        wrapper
    }

    /// The same with a limit on the size of any file that the program writes (`ulimit -f`, in bytes; a multiple of 512).
    pub fn saver_with_file_limit<S: AsRef<OsStr>>(
        program: &Path,
        args: &[S],
        limit: u64,
    ) -> Wrapper {
        let wrapper = Wrapper::new();
        wrapper.write_script(&format!(
            "(ulimit -f {}; exec {}) >stdout 2>stderr",
            limit / 512, // the unit that POSIX gives to `ulimit -f`
            command_line(program, args),
        ));
        wrapper
    }

    /// Wraps `program args...`, whose stdout is the script's: a loader.
    pub fn loader<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> Wrapper {
        let wrapper = Wrapper::new();
        wrapper.write_script(&format!("{} 2>stderr", command_line(program, args)));
        wrapper
    }

    /// What to give to QEMU: `exec:...`.
    pub fn uri(&self) -> String {
        // Through sh: a script that was just written may not be executable yet, while a fork elsewhere still holds it open.
        format!("exec:/bin/sh {}", quoted(self.folder.path().join("script")))
    }

    /// With [`Feed::HalfThenWait`]: the program's process id, once it was given its half and has read all of that but a pipe's content.
    pub fn half_way(&mut self) -> i32 {
        let mut pid = None;
        let mut half = false;
        while pid.is_none() || !half {
            let step = self.steps.next_line().expect("the script goes on");
            match step.expect("we hold the FIFO open").as_str() {
                "half" => half = true,
                number => pid = Some(number.parse().expect("the shell's process id")),
            }
        }
        pid.expect("the loop ends with one")
    }

    /// With [`Feed::HalfThenWait`]: feeds the rest.
    pub fn go_on(&self) {
        (&self.go).write_all(b"go\n").expect("a FIFO has room");
    }

    /// Waits until the program has ended.
    pub fn outcome(mut self) -> Outcome {
        let status = self.status.next_line().expect("the program ends");
        let status = status.expect("we hold the FIFO open");
        let said = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        Outcome {
            status: status.parse().expect("a number"),
            stdout: said("stdout"),
            stderr: said("stderr"),
        }
    }

    fn new() -> Wrapper {
        let folder = tempfile::tempdir().expect("a folder for the script");
        let fifo = |name| make_fifo(&folder.path().join(name));
        Wrapper {
            go: fifo("go"),
            status: Lines::new(fifo("status")),
            steps: Lines::new(fifo("steps")),
            folder,
        }
    }

    fn write_script(&self, body: &str) {
        let script = format!(
            "cd {}\n{body}\necho $? >status\n",
            quoted(self.folder.path())
        );
        fs::write(self.folder.path().join("script"), script).expect("the script is written");
    }
}

/// A FIFO, open in both directions: neither opening it nor writing a line to it ever waits for the other side.
fn make_fifo(path: &Path) -> File {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO is made");
    let mut both_ways = OpenOptions::new();
    both_ways.read(true).write(true);
    both_ways.open(path).expect("a FIFO is opened")
}

fn command_line<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> String {
    let words: Vec<String> = std::iter::once(quoted(program))
        .chain(args.iter().map(|arg| quoted(PathBuf::from(arg.as_ref()))))
        .collect();
    words.join(" ")
}

/// One word of a shell's command line.
fn quoted(word: impl AsRef<Path>) -> String {
    let word = word.as_ref().to_str().expect("the test's paths are text");
    format!("'{}'", word.replace('\'', r"'\''"))
}
