//! Our locks against QEMU's own, in both directions: who gets an image that the other one has open.
//!
//! Each pair of users is a trial, on a qcow2 and on a raw image. What must come of it follows from the permissions alone: two users get
//! along unless one does what the other does not share. The table of QEMU's permissions is checked too, against the kernel's list of locks
//! while the tool runs. (`qemu-img info` is over too quickly for that, so it is only tried against our locks.)

use aio_task::{AioContext, WorkerPool};
use block_core::{Permissions, Perms};
use block_drivers::{FileDriver, FileOptions, Locking, OpenError};
use libtest_mimic::Trial;
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::BTreeSet;
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use tempfile::TempDir;
use tests::tools::{self, Need};

const IMG: Need = Need::Tool("qemu-img");
const IO: Need = Need::Tool("qemu-io");

fn main() -> ExitCode {
    let mut trials = vec![tools::trial(
        "the bytes that our writer locks are those of a running qemu-io on qcow2",
        &[IMG, IO],
        our_writer_locks_what_qemu_io_locks,
    )];
    for format in [Format::Qcow2, Format::Raw] {
        for tool in TOOLS {
            let Some(theirs) = (tool.permissions)(format) else {
                continue;
            };
            for ours in OURS {
                let pair = Pair {
                    format,
                    tool,
                    theirs,
                    ours,
                };
                trials.extend(pair.trials());
            }
        }
    }
    tools::main(trials)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Qcow2,
    Raw,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Qcow2 => "qcow2",
            Format::Raw => "raw",
        }
    }
}

/// One way to use the file driver.
#[derive(Clone, Copy)]
struct Ours {
    name: &'static str,
    permissions: fn() -> Permissions,
}

const OURS: [Ours; 3] = [
    Ours {
        name: "our writer",
        permissions: Permissions::writer,
    },
    Ours {
        name: "our reader",
        permissions: Permissions::reader,
    },
    Ours {
        name: "our force-share",
        permissions: Permissions::force_share,
    },
];

/// One way to use a tool of QEMU.
#[derive(Clone, Copy)]
struct Tool {
    name: &'static str,
    program: Need,
    run: &'static [&'static str],
    /// What it does with the image's file; `None`: nothing can be done with this format.
    permissions: fn(Format) -> Option<Permissions>,
    hold: Hold,
}

/// How a tool is made to keep the image open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// It waits for commands.
    Prompt,
    /// It writes to an NBD server that accepts and then says nothing.
    SilentTarget,
    /// The image's data file is on such a server.
    SilentDataFile,
    /// Not at all.
    Never,
}

const TOOLS: [Tool; 9] = [
    Tool {
        name: "qemu-io",
        program: IO,
        run: &[],
        permissions: |format| {
            Some(match format {
                Format::Qcow2 => Permissions::writer(),
                Format::Raw => shares_all(Perms::CONSISTENT_READ | Perms::WRITE),
            })
        },
        hold: Hold::Prompt,
    },
    Tool {
        name: "qemu-io -r",
        program: IO,
        run: &["-r"],
        permissions: |format| {
            Some(match format {
                Format::Qcow2 => Permissions::reader(),
                Format::Raw => shares_all(Perms::CONSISTENT_READ),
            })
        },
        hold: Hold::Prompt,
    },
    Tool {
        name: "qemu-io -r -U",
        program: IO,
        run: &["-r", "-U"],
        permissions: |_| Some(shares_all(Perms::CONSISTENT_READ)),
        hold: Hold::Prompt,
    },
    Tool {
        name: "qemu-img info",
        program: IMG,
        run: &["info"],
        permissions: |format| {
            Some(match format {
                Format::Qcow2 => Permissions {
                    perm: Perms::NONE,
                    ..Permissions::reader()
                },
                Format::Raw => shares_all(Perms::NONE),
            })
        },
        hold: Hold::Never,
    },
    Tool {
        name: "qemu-img info -U",
        program: IMG,
        run: &["info", "-U"],
        permissions: |_| Some(shares_all(Perms::NONE)),
        hold: Hold::Never,
    },
    Tool {
        name: "qemu-img check",
        program: IMG,
        run: &["check"],
        permissions: |format| (format == Format::Qcow2).then(Permissions::reader),
        hold: Hold::SilentDataFile,
    },
    Tool {
        name: "qemu-img check -U",
        program: IMG,
        run: &["check", "-U"],
        permissions: |format| {
            (format == Format::Qcow2).then_some(shares_all(Perms::CONSISTENT_READ))
        },
        hold: Hold::SilentDataFile,
    },
    Tool {
        name: "qemu-img convert",
        program: IMG,
        run: &["convert"],
        permissions: |_| Some(Permissions::reader()),
        hold: Hold::SilentTarget,
    },
    Tool {
        name: "qemu-img convert -U",
        program: IMG,
        run: &["convert", "-U"],
        permissions: |_| Some(shares_all(Perms::CONSISTENT_READ)),
        hold: Hold::SilentTarget,
    },
];

const fn shares_all(perm: Perms) -> Permissions {
    Permissions {
        perm,
        shared: Perms::ALL,
    }
}

/// Two users of one image.
#[derive(Clone, Copy)]
struct Pair {
    format: Format,
    tool: Tool,
    theirs: Permissions,
    ours: Ours,
}

impl Pair {
    fn trials(self) -> Vec<Trial> {
        let conflict = (self.ours.permissions)().conflict(&self.theirs).is_some();
        let outcome = if conflict { "refused" } else { "admitted" };
        let (format, ours, theirs) = (self.format.name(), self.ours.name, self.tool.name);
        let needs = [IMG, self.tool.program];
        let mut trials = vec![tools::trial(
            format!("{format}: {theirs} beside {ours} is {outcome}"),
            &needs,
            move || self.they_come_second(conflict),
        )];
        if self.tool.hold != Hold::Never {
            trials.push(tools::trial(
                format!("{format}: {ours} beside {theirs} is {outcome}"),
                &needs,
                move || self.we_come_second(conflict),
            ));
        }
        trials
    }

    fn they_come_second(self, conflict: bool) {
        let bench = Bench::new(self.format);
        let permissions = (self.ours.permissions)();
        let file = bench.open(permissions).expect("nothing else is here");
        assert_eq!(bench.locked_by_us(), bytes(permissions));
        let output = bench.run_once(self.tool);
        let words = String::from_utf8_lossy(&output.stderr);
        let admitted = output.status.success();
        assert_eq!(admitted, !conflict, "{words}");
        assert_eq!(
            words.contains("lock"),
            conflict,
            "the lock is the reason: {words}"
        );
        assert_eq!(
            bench.locked_by_us(),
            bytes(permissions),
            "our locks are as they were"
        );
        drop(file);
        // The set-up is right: without us the tool can do it.
        let output = bench.run_once(self.tool);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn we_come_second(self, conflict: bool) {
        let bench = Bench::new(self.format);
        let holder = Holder::start(&bench, self.tool);
        assert_eq!(
            bench.locked_by(holder.child.id()),
            bytes(self.theirs),
            "the table of QEMU's permissions"
        );
        match bench.open((self.ours.permissions)()) {
            Ok(_) => assert!(!conflict, "we were let in"),
            Err(OpenError::Locked {
                conflict: named, ..
            }) => {
                assert!(conflict, "{named}");
                let expected = (self.ours.permissions)().conflict(&self.theirs);
                assert!(
                    expected.is_some_and(|_| in_the_way(named.permission, self)),
                    "{named}"
                );
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(
            bench.locked_by(holder.child.id()),
            bytes(self.theirs),
            "their locks are as they were"
        );
        assert_eq!(bench.locked_by_us(), BTreeSet::new(), "we leave none");
        drop(holder);
        bench
            .open((self.ours.permissions)())
            .expect("the tool is gone");
    }
}

/// Whether this permission keeps the two apart, in either direction.
fn in_the_way(permission: &str, pair: Pair) -> bool {
    let (ours, theirs) = ((pair.ours.permissions)(), pair.theirs);
    let clash = (ours.perm & !theirs.shared) | (theirs.perm & !ours.shared);
    Perms::EACH
        .iter()
        .any(|(_, perm, name)| *name == permission && clash.contains(*perm))
}

fn our_writer_locks_what_qemu_io_locks() {
    let bench = Bench::new(Format::Qcow2);
    let holder = Holder::start(&bench, TOOLS[0]);
    let theirs = bench.locked_by(holder.child.id());
    assert_eq!(theirs, BTreeSet::from([100, 101, 103, 201, 203]));
    drop(holder);
    let _ours = bench.open(Permissions::writer()).expect("the tool is gone");
    assert_eq!(bench.locked_by_us(), theirs);
}

/// The bytes that say these permissions.
fn bytes(permissions: Permissions) -> BTreeSet<u64> {
    let held = Perms::EACH
        .iter()
        .filter(|(_, perm, _)| permissions.perm.contains(*perm));
    let unshared = Perms::EACH
        .iter()
        .filter(|(_, perm, _)| !permissions.shared.contains(*perm));
    let held = held.map(|(bit, ..)| 100 + u64::from(*bit));
    held.chain(unshared.map(|(bit, ..)| 200 + u64::from(*bit)))
        .collect()
}

/// An image in a folder of its own.
struct Bench {
    format: Format,
    folder: TempDir,
    context: AioContext,
    workers: WorkerPool,
}

impl Bench {
    fn new(format: Format) -> Self {
        let bench = Self {
            format,
            folder: tempfile::tempdir().expect("a folder"),
            context: AioContext::new().expect("a context"),
            workers: WorkerPool::new(NonZeroUsize::MIN),
        };
        bench.create(&["-f", format.name()], &bench.image());
        bench
    }

    fn create(&self, options: &[&str], path: &Path) {
        let mut create = Command::new("qemu-img");
        create
            .args(["create", "-q"])
            .args(options)
            .arg(path)
            .arg("1M");
        let output = create.output().expect("qemu-img starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn open(&self, permissions: Permissions) -> Result<FileDriver, OpenError> {
        let options = FileOptions {
            read_only: !permissions.perm.contains(Perms::WRITE),
            permissions,
            locking: Locking::On,
            ..FileOptions::writer(self.workers.clone())
        };
        self.context
            .block_on(FileDriver::open(self.image(), options))
    }

    /// Runs the tool on the image, to its end.
    fn run_once(&self, tool: Tool) -> Output {
        let mut command = self.command(tool);
        command.args(["-f", self.format.name()]);
        match (tool.program, tool.hold) {
            (IO, _) => command.args(["-c", "quit"]).arg(self.image()),
            (_, Hold::SilentTarget) => command
                .args(["-O", "raw"])
                .arg(self.image())
                .arg(self.folder.path().join("copy")),
            _ => command.arg(self.image()),
        };
        command
            .stdin(Stdio::null())
            .output()
            .expect("the tool starts")
    }

    fn command(&self, tool: Tool) -> Command {
        let Need::Tool(program) = tool.program else {
            panic!("{} is no program", tool.name)
        };
        let mut command = Command::new(program);
        command.args(tool.run).env("LC_ALL", "C");
        command
    }

    /// The bytes of the image that a process has locked, as the kernel lists them.
    fn locked_by(&self, process: u32) -> BTreeSet<u64> {
        tests::locks::of_process(process, &self.image())
    }

    /// The bytes that we have locked.
    fn locked_by_us(&self) -> BTreeSet<u64> {
        self.locked_by(std::process::id())
    }
}

/// A tool that has the image open until this is dropped.
struct Holder {
    child: Child,
    /// The connection that says nothing.
    _silence: Option<UnixStream>,
}

impl Holder {
    fn start(bench: &Bench, tool: Tool) -> Self {
        let socket = bench.folder.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let mut command = bench.command(tool);
        let image = bench.image();
        match tool.hold {
            Hold::Prompt => command.args(["-f", bench.format.name()]).arg(&image),
            Hold::SilentTarget => command
                .args(["-n", "-f", bench.format.name(), "-O", "raw"])
                .arg(&image)
                .arg(format!("nbd+unix:///?socket={}", socket.display())),
            Hold::SilentDataFile => {
                let data = bench.folder.path().join("data");
                let data = format!("data_file={}", data.display());
                bench.create(&["-f", "qcow2", "-o", &data], &image);
                command.arg("--image-opts").arg(format!(
                    "driver=qcow2,file.driver=file,file.filename={},\
                     data-file.driver=nbd,data-file.server.type=unix,data-file.server.path={}",
                    image.display(),
                    socket.display(),
                ))
            }
            Hold::Never => panic!("{} cannot be held", tool.name),
        };
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the tool starts");
        let silence = match tool.hold {
            Hold::Prompt => {
                wait_for_prompt(&mut child);
                None
            }
            _ => Some(wait_for_connection(&mut child, &listener)),
        };
        Self {
            child,
            _silence: silence,
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The image is open when the prompt is there.
fn wait_for_prompt(child: &mut Child) {
    let stdout = child.stdout.as_mut().expect("piped");
    let mut seen = Vec::new();
    while !seen.ends_with(b"qemu-io> ") {
        let mut byte = [0];
        if stdout.read(&mut byte).expect("a pipe") == 0 {
            panic!("no prompt: {}", last_words(child));
        }
        seen.push(byte[0]);
    }
}

/// The image is open when the tool turns to the server.
fn wait_for_connection(child: &mut Child, listener: &UnixListener) -> UnixStream {
    let stderr = child.stderr.as_ref().expect("piped");
    let mut ready = [
        PollFd::new(listener, PollFlags::IN),
        PollFd::new(stderr, PollFlags::IN),
    ];
    poll(&mut ready, None).expect("poll");
    if ready[0].revents().is_empty() {
        // It has something to say, or is gone.
        panic!("no connection: {}", last_words(child));
    }
    listener.accept().expect("a connection").0
}

fn last_words(child: &mut Child) -> String {
    let _ = child.kill();
    let mut words = String::new();
    let _ = child
        .stderr
        .as_mut()
        .expect("piped")
        .read_to_string(&mut words);
    words
}
