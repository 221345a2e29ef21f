//! `vmstate demo`: a real guest's recorded savevm and loadvm, each way, beside the disk's own limit.
use crate::args::{DemoArgs, Engine, Format, StepKind, Storage};
use crate::context::Cx;
use crate::failure::Failure;
use crate::measure;
use crate::progress::Steps;
use crate::report;
use crate::runner::{Patterns, Runner};
use crate::say;
use crate::series::Series;
use crate::target::Temporary;
use serde_json::json;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const TRACE: &str = "builtin:qemu72-savevm-guest-2g";
const LOAD_TRACE: &str = "builtin:qemu72-loadvm-guest-2g";

/// How much of the patterns a quick demo uses.
const QUICK: u64 = 64 << 20;

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let threads = vmstate::DEFAULT_WORKERS;
    Cx::run(threads, async |cx| {
        let shown = args.dir.display().to_string();
        let work = demo(cx, args);
        let demo = cx
            .unless_stopped(&shown, "demo", work)
            .await
            .map_err(|e| e.leaving("the demo's files were removed"))?;
        demo.print(args)
    })
}

/// One way to save and load.
struct Way {
    engine: Engine,
    storage: Storage,
    save: Series,
    load: Series,
}

struct Demo {
    ways: Vec<Way>,
    write: Series,
    read: Series,
    place: Place,
    runs: u32,
    len: u64,
}

async fn demo(cx: &Cx, args: &DemoArgs) -> Result<Demo, Failure> {
    let trace = args.trace.clone().unwrap_or_else(|| TRACE.into());
    let loads = args.load_trace.clone().unwrap_or_else(|| LOAD_TRACE.into());
    let (take, runs) = match args.quick {
        true => (Some(QUICK), 1),
        false => (args.take, args.runs.get()),
    };
    let place = Place::look(&args.dir)?;
    let say = |text: String| match args.output.json {
        true => Ok(()),
        false => say::on_stdout(text),
    };
    say(format!(
        "{}: {}, {:.1} GB free",
        args.dir.display(),
        place.file_system,
        place.free as f64 / 1e9
    ))?;
    let patterns = Patterns::prepare(cx, &trace, Some(&loads), 1, take).await?;
    let warm_bytes = warming(patterns.len);
    let needed = patterns.len.max(warm_bytes) + (64 << 20);
    if place.free < needed {
        let why = format!("{} bytes are free, {needed} are needed", place.free);
        return Err(Failure::new(args.dir.display(), "demo", why));
    }
    say(format!(
        "one state of {} bytes at a time, {} runs of each way; every state is verified",
        patterns.len, runs
    ))?;
    let mut demo = Demo {
        ways: ways(),
        write: Series::new("disk, 1 MiB writes"),
        read: Series::new("disk, 1 MiB reads"),
        place,
        runs,
        len: patterns.len,
    };
    // For each run the disk's two limits, and for each way: save, verify, load; and once more a load that is checked.
    let count = demo.ways.len() as u64;
    let steps = u64::from(runs) * (2 + 3 * count) + count;
    let runner = Runner {
        cx,
        patterns,
        steps: Steps::new("demo", steps, args.output.json),
    };
    let files = Files::new(&args.dir);
    for run in 0..runs {
        // There, then back again: no way always follows the same other.
        let count = demo.ways.len() + 1;
        for step in 0..count {
            let index = if run % 2 == 0 { step } else { count - 1 - step };
            match index.checked_sub(1) {
                None => demo.measure_limit(&runner, &files).await?,
                Some(way) => {
                    demo.measure_way(&runner, way, &files, warm_bytes, run == 0)
                        .await?;
                }
            }
        }
    }
    Ok(demo)
}

/// Into a file and into a snapshot; slowest first: cached and O_DIRECT, unbuffered and buffered.
fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for format in [Format::RawState] {
        for direct in [false, true] {
            for unbuffered in [true, false] {
                ways.push(Way::new(format, direct, unbuffered));
            }
        }
    }
    ways
}

impl Way {
    fn new(format: Format, direct: bool, unbuffered: bool) -> Self {
        let place = match format {
            Format::RawState => "",
            Format::Qcow2 => "qcow2 ",
        };
        let cache = if direct { "O_DIRECT" } else { "cached" };
        let (save, load) = match unbuffered {
            true => ("unbuffered", "unbuffered"),
            false => ("buffered", "read-ahead"),
        };
        Self {
            engine: Engine {
                direct,
                unbuffered,
                workers: vmstate::DEFAULT_WORKERS,
                buffer: vmstate::DEFAULT_BUFFER_SIZE,
            },
            storage: Storage {
                format,
                options: None,
            },
            save: Series::new(format!("save {place}{cache} {save}")),
            load: Series::new(format!("load {place}{cache} {load}")),
        }
    }
}

/// The files of a demo, all of which go with it.
struct Files {
    state: Temporary,
    limit: Temporary,
    warm: Temporary,
}

impl Files {
    fn new(dir: &Path) -> Self {
        let pid = std::process::id();
        let file = |what| Temporary::new(dir.join(format!(".vmstate-demo.{pid}.{what}.tmp")));
        Self {
            state: file("state"),
            limit: file("limit"),
            warm: file("warm"),
        }
    }
}

impl Demo {
    async fn measure_limit(&mut self, runner: &Runner<'_>, files: &Files) -> Result<(), Failure> {
        let (file, engine) = (files.limit.path(), &self.ways[0].engine);
        let seconds = runner.limit(StepKind::DiskWrite, file, engine).await?;
        self.write.push_limit(runner.patterns.bytes, seconds);
        let seconds = runner.limit(StepKind::DiskRead, file, engine).await?;
        self.read.push_limit(runner.patterns.bytes, seconds);
        remove(runner.cx, &files.limit).await
    }

    async fn measure_way(
        &mut self,
        runner: &Runner<'_>,
        way: usize,
        files: &Files,
        warm_bytes: u64,
        check_load: bool,
    ) -> Result<(), Failure> {
        let way = &mut self.ways[way];
        let (state, engine, storage) = (files.state.path(), &way.engine, &way.storage);
        if !engine.direct {
            // A virtual machine's host takes free memory back: let it be given before the clock starts, not in it.
            populate(runner.cx, files.warm.path(), warm_bytes).await?;
        }
        let saved = runner
            .transfer(StepKind::Save, state, engine, storage)
            .await?;
        way.save.push(&saved);
        runner
            .step(StepKind::Verify, state, engine, storage)
            .await?;
        let loaded = runner
            .transfer(StepKind::Load, state, engine, storage)
            .await?;
        way.load.push(&loaded);
        if check_load {
            runner
                .step(StepKind::CheckLoad, state, engine, storage)
                .await?;
        }
        remove(runner.cx, &files.state).await
    }

    fn print(&self, args: &DemoArgs) -> Result<(), Failure> {
        // The unbuffered way with the same cache stands before each buffered one.
        let unbuffered = |way: usize| (way % 2 == 1).then(|| &self.ways[way - 1]);
        let direct = |way: usize| self.ways[way].engine.direct;
        let write = |way| direct(way).then_some(&self.write);
        let read = |way| direct(way).then_some(&self.read);
        let numbers = 0..self.ways.len();
        if args.output.json {
            let saves = numbers.clone().map(|n| {
                self.ways[n]
                    .save
                    .json(unbuffered(n).map(|w| &w.save), write(n))
            });
            let loads = numbers.map(|n| {
                self.ways[n]
                    .load
                    .json(unbuffered(n).map(|w| &w.load), read(n))
            });
            let value = json!({
                "directory": args.dir.display().to_string(),
                "file_system": self.place.file_system,
                "length": self.len,
                "runs": self.runs,
                "verified": true,
                "ways": saves.chain(loads).collect::<Vec<_>>(),
                "disk_write": self.write.json(None, None),
                "disk_read": self.read.json(None, None),
            });
            return say::on_stdout(json!({ "demo": value }));
        }
        let saves = numbers.clone().map(|n| {
            self.ways[n]
                .save
                .row(unbuffered(n).map(|w| &w.save), write(n))
        });
        let loads = numbers.map(|n| {
            self.ways[n]
                .load
                .row(unbuffered(n).map(|w| &w.load), read(n))
        });
        let mut rows = vec![Series::head(), self.write.row(None, None)];
        rows.extend(saves);
        rows.push(self.read.row(None, None));
        rows.extend(loads);
        say::on_stdout(format_args!(
            "\n{}\nAll states verified byte for byte. Saves include making them durable; loads begin from cold. 'x limit': speed over the disk's own, one 1 MiB O_DIRECT request at a time.",
            report::table(&rows)
        ))
    }
}

/// Where the demo runs.
struct Place {
    file_system: String,
    free: u64,
}

impl Place {
    fn look(dir: &Path) -> Result<Self, Failure> {
        let failed = |error: rustix::io::Errno| Failure::io(dir.display(), "open", &error.into());
        let found = rustix::fs::statfs(dir).map_err(failed)?;
        let free = rustix::fs::statvfs(dir).map_err(failed)?;
        let kind = std::fs::metadata(dir).map_err(|e| Failure::io(dir.display(), "open", &e))?;
        if !kind.is_dir() {
            let error = io::Error::from(io::ErrorKind::NotADirectory);
            return Err(Failure::io(dir.display(), "open", &error));
        }
        Ok(Self {
            file_system: file_system(found.f_type as u64),
            free: free.f_bavail.saturating_mul(free.f_frsize),
        })
    }
}

/// The usual ones, by the numbers in statfs(2).
fn file_system(magic: u64) -> String {
    let name = match magic & 0xffff_ffff {
        0xef53 => "ext4",
        0x5846_5342 => "XFS",
        0x9123_683e => "Btrfs",
        0xf2f5_2010 => "F2FS",
        0x2fc1_2fc1 => "ZFS",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlay",
        0x6573_5546 => "FUSE",
        0x6969 => "NFS",
        0x0102_1997 => "9p",
        other => return format!("file system {other:#x}"),
    };
    name.to_owned()
}

/// More than the state, and not so much that the machine swaps.
fn warming(len: u64) -> u64 {
    let room = measure::available_memory().map_or(0, |bytes| bytes / 2);
    (len + len / 4 + (64 << 20)).min(room)
}

/// Fills `bytes` of the page cache and lets go of them again.
async fn populate(cx: &Cx, path: &Path, bytes: u64) -> Result<(), Failure> {
    let path: PathBuf = path.to_path_buf();
    let shown = path.display().to_string();
    cx.blocking(move || -> io::Result<()> {
        let mut file = File::create_new(&path)?;
        let zeroes = vec![0; 1 << 20];
        for _ in 0..bytes >> 20 {
            file.write_all(&zeroes)?;
        }
        drop(file);
        std::fs::remove_file(&path)
    })
    .await?
    .map_err(|e| Failure::io(shown, "populate the page cache", &e))
}

async fn remove(cx: &Cx, file: &Temporary) -> Result<(), Failure> {
    let path = file.path().to_path_buf();
    let shown = path.display().to_string();
    cx.blocking(move || std::fs::remove_file(path))
        .await?
        .map_err(|e| Failure::io(shown, "remove", &e))
}
