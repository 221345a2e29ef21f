//! The command line.
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Saves a machine's state from a stream into a file or a qcow2 image and loads it back, through QEMU's AioTaskPool and block layer in Rust.
///
/// Exit status: 0 done; 1 failed, cancelled or verified wrong, with one line on stderr that says what is on disk; 2 wrong usage. That of
/// `check` is qemu-img's: 1 could not be checked, wrong usage included; 2 corruptions; 3 leaked clusters only.
#[derive(Debug, Parser)]
#[command(name = "vmstate", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a qcow2 image.
    ///
    /// It is written to `.IMAGE.vmstate-save.PID.tmp` beside it, made durable, then renamed. Only its owner may read it: it is to hold the
    /// state of a machine. A backing file is not looked at; an external data file is made too.
    Create(CreateArgs),
    /// Save the stream on stdin into FILE, or as a snapshot of a qcow2 image.
    ///
    /// Without --name FILE becomes exactly the stream. It is written to `.FILE.vmstate-save.PID.tmp` beside it, made durable, then renamed:
    /// under its final name a state is complete. A file of that temporary name that nothing holds locked is what a crash left, and may be
    /// deleted. QEMU: migrate "exec:vmstate save FILE".
    ///
    /// A pipe does not report whether its writer ended or was killed, or how much it meant to write. An empty stream and a closed stdin are
    /// errors. A stream that begins as a QEMU migration stream must end as one: with the end of its sections and, as QEMU writes by default,
    /// a whole description; without a description a warning is printed. Of other streams only --length can find out that they were cut.
    ///
    /// With --name FILE is a qcow2 image, and the stream becomes the state of a new snapshot of it, as savevm's does: stream, flush,
    /// record, and until the record is there the image is as it was. The machine's disk must stand still from the last byte on.
    Save(SaveArgs),
    /// Write the state in FILE, or in a snapshot of a qcow2 image, to stdout.
    ///
    /// The image is only read: nothing is applied. What was never written of a state in a snapshot reads as QEMU reads it: it shows the image's
    /// backing file, if that is long enough. If the backing file cannot be opened, only such a state is an error. A file that becomes shorter or
    /// longer meanwhile is an error (with -U only if it becomes shorter). A closed stdout is an error. QEMU: -incoming "exec:vmstate load FILE".
    Load(LoadArgs),
    /// List the snapshots of a qcow2 image.
    ///
    /// The columns are qemu-img 10's. With --json: {"list": {"file": .., "snapshots": [..]}}, with qemu-img's names.
    List(ListArgs),
    /// Make a qcow2 image's disk that of a snapshot: its content and its length, as loadvm does.
    ///
    /// The state stays in the snapshot. All or nothing; a signal is answered when it is over.
    Apply(ChangeArgs),
    /// Delete a snapshot of a qcow2 image.
    ///
    /// All or nothing; a signal is answered when it is over.
    Delete(ChangeArgs),
    /// Check a qcow2 image, and repair it.
    ///
    /// Exit status, qemu-img's: 0 in order, 1 could not be checked, 2 corruptions are left, 3 only leaked clusters are.
    Check(CheckArgs),
    /// Show what a qcow2 image says of itself. No other file is opened.
    Info(ListArgs),
    /// Perform a recorded pattern of writes (and of reads), verify it, and print what it cost.
    ///
    /// The content is made before any clock starts: each 8-byte word is a hash of the seed and its position. Each run is a process of
    /// its own. The state is verified by a new open and plain reads, byte for byte, gaps and length included. FILE is kept.
    Replay(ReplayArgs),
    /// Save and load a real 2 GiB guest's recorded pattern in each way, verified, beside the disk's own limit and a real QEMU.
    ///
    /// Into plain files, buffered and with a request for each piece, and into snapshots of qcow2 images; cached and O_DIRECT. Where
    /// qemu-system-x86_64 is installed, its savevm and loadvm of as much, of a machine that never runs, stand beside them.
    Demo(DemoArgs),
    /// One step of a replay or demo, in a process of its own. Not for people.
    #[command(hide = true)]
    Step(StepArgs),
    /// Become another program, which is killed when its parent dies. Not for people.
    #[command(hide = true)]
    Become(BecomeArgs),
}

/// How a state is written or read.
#[derive(Args, Clone, Debug)]
pub(crate) struct Engine {
    /// Bypass the page cache (O_DIRECT).
    #[arg(long)]
    pub(crate) direct: bool,
    /// Requests in flight at most, 1 to 64.
    #[arg(long, value_name = "N", default_value = "8", value_parser = workers)]
    pub(crate) workers: NonZeroUsize,
    /// Size of one buffer, with K, M or G: 4K to 256M.
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = buffer_size)]
    pub(crate) buffer: u64,
    /// One request per piece, one at a time, as QEMU 7.2 does: read-modify-write of the first and last block, no buffers. A piece is a line of
    /// a trace, or at most 32768 bytes of a stream.
    #[arg(long, conflicts_with_all = ["workers", "buffer"])]
    pub(crate) unbuffered: bool,
}

/// How results are told.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Print JSON, one object a line: results on stdout (save and load: on stderr), progress and errors on stderr.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a state is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A file that is the stream.
    #[default]
    RawState,
    /// A snapshot of a qcow2 image.
    Qcow2,
}

/// `vmstate create`.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// The image.
    #[arg(value_parser = file, value_name = "IMAGE")]
    pub(crate) file: PathBuf,
    /// The disk's size in bytes, with K, M, G or T; whole sectors of 512.
    #[arg(long, value_name = "SIZE", value_parser = disk_size)]
    pub(crate) size: Option<u64>,
    /// Options as qemu-img create's, without spaces: compat, cluster_size, refcount_bits, lazy_refcounts, preallocation, compression_type,
    /// extended_l2, backing_file with backing_fmt, data_file, data_file_raw.
    #[arg(short, value_name = "NAME=VALUE,..")]
    pub(crate) options: Option<String>,
    /// Replace IMAGE if it exists, and the data file. One that is locked, or an image of another format, is refused even so.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `vmstate save`.
#[derive(Args, Debug)]
pub(crate) struct SaveArgs {
    /// Where the state goes.
    #[arg(value_parser = file)]
    pub(crate) file: PathBuf,
    /// The snapshot that it becomes. Without --force a name that is taken is refused.
    #[arg(long, value_name = "NAME", value_parser = snapshot_name)]
    pub(crate) name: Option<String>,
    /// What FILE is. Else --name decides.
    #[arg(long)]
    pub(crate) format: Option<Format>,
    /// Where it comes from: `-`, which is stdin.
    #[arg(default_value = "-", value_parser = ["-"], hide_possible_values = true, value_name = "-")]
    pub(crate) from: String,
    /// Replace FILE if it exists; with --name, the snapshot of that name, in one step. A file that is locked, or that is a disk image, is
    /// refused even so.
    #[arg(long)]
    pub(crate) force: bool,
    /// The stream's length. A stream that is shorter or longer is an error, and FILE stays as it was.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) length: Option<u64>,
    /// Save a QEMU migration stream even if its end is missing. QEMU may refuse to load it.
    #[arg(long)]
    pub(crate) accept_truncated: bool,
    #[command(flatten)]
    pub(crate) engine: Engine,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `vmstate load`.
#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// Where the state is.
    #[arg(value_parser = file)]
    pub(crate) file: PathBuf,
    /// The snapshot that it is in, by id or else by name.
    #[arg(long, value_name = "NAME", value_parser = snapshot_name)]
    pub(crate) name: Option<String>,
    /// What FILE is. Else --name decides, and an image without --name is refused.
    #[arg(long)]
    pub(crate) format: Option<Format>,
    /// Where it goes: `-`, which is stdout.
    #[arg(default_value = "-", value_parser = ["-"], hide_possible_values = true, value_name = "-")]
    pub(crate) to: String,
    /// Load N bytes. A shorter state is an error, before any byte is written.
    #[arg(long, value_name = "N")]
    pub(crate) length: Option<u64>,
    /// Read even while another process writes FILE (qemu-img's -U).
    #[arg(long, short = 'U')]
    pub(crate) force_share: bool,
    /// With --name: open the image's backing file in whatever folder it is. Without this it must be in the image's folder.
    #[arg(long)]
    pub(crate) any_backing_file: bool,
    #[command(flatten)]
    pub(crate) engine: Engine,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `vmstate list` and `vmstate info`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// The image.
    #[arg(value_parser = file, value_name = "IMAGE")]
    pub(crate) file: PathBuf,
    /// Read even while another process writes IMAGE (qemu-img's -U).
    #[arg(long, short = 'U')]
    pub(crate) force_share: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `vmstate apply` and `vmstate delete`.
#[derive(Args, Debug)]
pub(crate) struct ChangeArgs {
    /// The image.
    #[arg(value_parser = file, value_name = "IMAGE")]
    pub(crate) file: PathBuf,
    /// The snapshot, by id or else by name.
    #[arg(value_parser = snapshot_name)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `vmstate check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The image.
    #[arg(value_parser = file, value_name = "IMAGE")]
    pub(crate) file: PathBuf,
    /// Repair it: only free what is counted and unused, which costs no data, or put right all that can be.
    #[arg(long, value_name = "WHAT")]
    pub(crate) repair: Option<Repair>,
    /// Read even while another process writes IMAGE (qemu-img's -U): what is found may then be wrong.
    #[arg(long, short = 'U', conflicts_with = "repair")]
    pub(crate) force_share: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Repair {
    /// Leaked clusters.
    Leaks,
    /// Everything.
    All,
}

/// What the states of a replay or demo are kept in.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Storage {
    /// What each state is kept in: a plain file, or the snapshot 'replay' of a new qcow2 image.
    #[arg(long, default_value = "raw-state")]
    pub(crate) format: Format,
    /// Options of these images, as for create. Without a size their disk has 1 GiB.
    #[arg(short, value_name = "NAME=VALUE,..")]
    pub(crate) options: Option<String>,
    /// Write gaps of fewer than SIZE bytes between the bytes of one buffer as zeroes instead of leaving them out; 0: none. Several sizes,
    /// with commas between them, are measured in turn. Default: 64K.
    #[arg(long, value_name = "SIZE,..", value_delimiter = ',', value_parser = disk_size)]
    pub(crate) fill_gaps: Vec<u64>,
}

/// `vmstate replay`.
#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// Where the state goes.
    #[arg(value_parser = file)]
    pub(crate) file: PathBuf,
    /// The recorded writes: a POSITION and a LENGTH a line, as text or gzip'd; or builtin:NAME; or builtin:gaps:DATA:GAP:LENGTH, which
    /// writes DATA bytes, page by page, leaves GAP bytes out, and goes on so up to LENGTH.
    #[arg(long, value_name = "T")]
    pub(crate) trace: PathBuf,
    /// The recorded reads, performed on the saved state from cold.
    #[arg(long, value_name = "T")]
    pub(crate) load_trace: Option<PathBuf>,
    /// How often.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) runs: std::num::NonZeroU32,
    /// What the content is made from.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) seed: u64,
    /// Measure also the disk's own limit, between the runs: the same number of bytes by sequential 1 MiB O_DIRECT requests.
    #[arg(long)]
    pub(crate) limit: bool,
    /// Replace FILE if it exists. One that is locked, or that is a disk image, is refused even so; only --format qcow2 replaces a qcow2
    /// image.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) storage: Storage,
    /// Use only what lies in the first SIZE bytes of the traces.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) take: Option<u64>,
    #[command(flatten)]
    pub(crate) engine: Engine,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `vmstate demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Where the files go, one at a time; all are deleted.
    #[arg(long, value_name = "D", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// How often each way is run.
    #[arg(long, value_name = "N", default_value = "3")]
    pub(crate) runs: std::num::NonZeroU32,
    /// Another pattern of writes than qemu72-savevm-guest-2g.
    #[arg(long, value_name = "T", requires = "load_trace")]
    pub(crate) trace: Option<PathBuf>,
    /// The pattern of reads that goes with it.
    #[arg(long, value_name = "T", requires = "trace")]
    pub(crate) load_trace: Option<PathBuf>,
    /// Only the first SIZE bytes of the patterns.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) take: Option<u64>,
    /// Options of the qcow2 images, as for create. Without a size their disk has 1 GiB.
    #[arg(short, value_name = "NAME=VALUE,..")]
    pub(crate) options: Option<String>,
    /// A short one: --take 64M --runs 1. It shows that all works; its figures mean little.
    #[arg(long, conflicts_with_all = ["take", "runs"])]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `vmstate step`: arguments as the parent process makes them.
#[derive(Args, Clone, Debug)]
pub(crate) struct StepArgs {
    /// What to do.
    #[arg(value_enum)]
    pub(crate) step: StepKind,
    /// The file to do it with.
    pub(crate) file: PathBuf,
    /// The pattern of writes.
    #[arg(long, default_value = "builtin:none")]
    pub(crate) trace: PathBuf,
    /// The pattern of reads.
    #[arg(long)]
    pub(crate) load_trace: Option<PathBuf>,
    /// As for replay.
    #[arg(long, default_value = "1")]
    pub(crate) seed: u64,
    /// As for replay.
    #[arg(long)]
    pub(crate) take: Option<u64>,
    /// Bytes to write or read, for the disk's limit.
    #[arg(long, default_value = "0")]
    pub(crate) bytes: u64,
    #[command(flatten)]
    pub(crate) storage: Storage,
    #[command(flatten)]
    pub(crate) engine: Engine,
}

/// `vmstate become`.
#[derive(Args, Clone, Debug)]
pub(crate) struct BecomeArgs {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StepKind {
    /// Perform the writes of a trace; the content comes through stdin, which is a file of the same shape.
    Save,
    /// Compare the file with the content, by plain reads.
    Verify,
    /// Perform the reads of a trace.
    Load,
    /// The same, and compare each byte.
    CheckLoad,
    /// Write the file by sequential 1 MiB O_DIRECT requests.
    DiskWrite,
    /// Read it so.
    DiskRead,
}

impl Cli {
    /// Options that clap cannot tell to contradict each other, in words.
    pub(crate) fn contradiction(&self) -> Option<&'static str> {
        let (name, format) = match &self.command {
            Command::Save(args) => (args.name.is_some(), args.format),
            Command::Load(args) => (args.name.is_some(), args.format),
            Command::Replay(ReplayArgs {
                storage, engine, ..
            }) => {
                if storage.options.is_some() && storage.format == Format::RawState {
                    return Some("-o is for --format qcow2");
                }
                let unused = !storage.fill_gaps.is_empty() && engine.unbuffered;
                return unused.then_some("--fill-gaps is for buffered saves");
            }
            _ => return None,
        };
        match (name, format) {
            (false, Some(Format::Qcow2)) => Some("--format qcow2 needs --name"),
            (true, Some(Format::RawState)) => Some("a file of --format raw-state has no --name"),
            _ => None,
        }
    }
}

impl Storage {
    /// The options that make a child do the same.
    pub(crate) fn to_args(&self) -> Vec<String> {
        let gaps = self.fill_gaps.iter();
        let gaps = gaps.map(|bytes| format!("--fill-gaps={bytes}"));
        if self.format == Format::RawState {
            return gaps.collect();
        }
        let options = self.options.iter().map(|text| format!("-o{text}"));
        std::iter::once("--format=qcow2".to_owned())
            .chain(options)
            .chain(gaps)
            .collect()
    }

    /// One storage for each size of `--fill-gaps`, which it has alone; this one where there are none.
    pub(crate) fn each_gap_threshold(&self) -> Vec<Self> {
        let one = |bytes: &u64| Self {
            fill_gaps: vec![*bytes],
            ..self.clone()
        };
        match self.fill_gaps.is_empty() {
            true => vec![self.clone()],
            false => self.fill_gaps.iter().map(one).collect(),
        }
    }

    /// Gaps of fewer bytes than this are filled by a buffered save.
    pub(crate) fn gap_threshold(&self) -> u64 {
        self.fill_gaps
            .first()
            .copied()
            .unwrap_or(vmstate::DEFAULT_GAP_THRESHOLD)
    }
}

impl Engine {
    /// The options that make a child do the same.
    pub(crate) fn to_args(&self) -> Vec<String> {
        let mut args = Vec::new();
        if self.direct {
            args.push("--direct".to_owned());
        }
        if self.unbuffered {
            args.push("--unbuffered".to_owned());
        } else {
            args.push(format!("--workers={}", self.workers));
            args.push(format!("--buffer={}", self.buffer));
        }
        args
    }
}

/// A path that is not `-`: a state cannot be read back from a pipe, so FILE is always a file.
fn file(text: &str) -> Result<PathBuf, String> {
    match text {
        "-" => Err("FILE is a file; './-' if it is called so".to_owned()),
        "" => Err("FILE is empty".to_owned()),
        _ => Ok(PathBuf::from(text)),
    }
}

/// What a snapshot can be called or found by; the image's own limits come later.
fn snapshot_name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a snapshot has a name".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

fn workers(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(n) if n.get() <= 64 => Ok(n),
        _ => Err("not in 1..=64".to_owned()),
    }
}

fn buffer_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes if !(4 << 10..=256 << 20).contains(&bytes) => Err("not in 4K..=256M".to_owned()),
        bytes => Ok(bytes),
    }
}

/// A number of bytes, with K, M, G or T for powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    match disk_size(text)? {
        0 => Err("out of range".to_owned()),
        bytes => Ok(bytes),
    }
}

/// The same; a disk may be empty.
fn disk_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'T') => (&text[..text.len() - 1], 40),
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|e| format!("{e}"))?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes <= i64::MAX as u64)
        .ok_or_else(|| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_format_and_a_name_belong_together() {
        let contradiction = |args: &[&str]| {
            let args = [&["vmstate"], args].concat();
            Cli::try_parse_from(args).unwrap().contradiction()
        };
        for fine in [
            &["save", "f"][..],
            &["save", "f", "--name", "n"],
            &["save", "f", "--name", "n", "--format", "qcow2"],
            &["load", "f", "--format", "raw-state"],
            &[
                "replay", "f", "--trace", "t", "--format", "qcow2", "-o", "a=b",
            ],
        ] {
            assert_eq!(contradiction(fine), None, "{fine:?}");
        }
        for wrong in [
            &["save", "f", "--format", "qcow2"][..],
            &["load", "f", "--name", "n", "--format", "raw-state"],
            &["replay", "f", "--trace", "t", "-o", "a=b"],
            &[
                "replay",
                "f",
                "--trace",
                "t",
                "--unbuffered",
                "--fill-gaps",
                "0",
            ],
        ] {
            assert!(contradiction(wrong).is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn a_storage_is_what_its_arguments_say() {
        for storage in [
            Storage::default(),
            Storage {
                format: Format::Qcow2,
                options: None,
                fill_gaps: Vec::new(),
            },
            Storage {
                format: Format::RawState,
                options: None,
                fill_gaps: vec![0],
            },
            Storage {
                format: Format::Qcow2,
                options: Some("cluster_size=4k,size=1M".to_owned()),
                fill_gaps: vec![4096, 1 << 20],
            },
        ] {
            let start = ["vmstate", "step", "save", "f"].map(str::to_owned);
            let args = start.into_iter().chain(storage.to_args());
            let Command::Step(step) = Cli::try_parse_from(args).unwrap().command else {
                panic!("a step");
            };
            assert_eq!(step.storage, storage);
        }
    }

    #[test]
    fn sizes_have_units_and_limits() {
        assert_eq!(size("1M"), Ok(1 << 20));
        assert_eq!(size("64k"), Ok(64 << 10));
        assert_eq!(size("512"), Ok(512));
        for wrong in ["", "K", "0", "-1", "1.5M", "99999999999G", "1µ"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert!(buffer_size("1K").is_err() && buffer_size("1G").is_err());
        assert_eq!((disk_size("0"), disk_size("2T")), (Ok(0), Ok(2 << 40)));
        assert!(disk_size("8388608T").is_err());
    }
}
