//! `vmstate demo`: a real guest's recorded savevm and loadvm, each way, beside the disk's own limit.
use crate::args::{DemoArgs, Engine, Format, StepKind, Storage};
use crate::context::Cx;
use crate::create;
use crate::failure::Failure;
use crate::graph::{HostFile, Purpose, image_failure};
use crate::measure;
use crate::progress::Steps;
use crate::real::RealQemu;
use crate::report;
use crate::runner::{Patterns, Runner};
use crate::say;
use crate::series::Series;
use crate::step;
use crate::target::Temporary;
use block_drivers::qcow2;
use serde_json::json;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const TRACE: &str = "builtin:qemu72-savevm-guest-2g";
const LOAD_TRACE: &str = "builtin:qemu72-loadvm-guest-2g";

/// Under the table.
const LEGEND: &str = "All states verified byte for byte, except QEMU's own. Saves include making them durable; loads begin from cold. 'x limit': speed over the disk's own, one 1 MiB O_DIRECT request at a time.
'metadata': requests that are not the state's own bytes, and their part of all requests and of all bytes.";

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

/// A real QEMU beside them.
struct Real {
    /// `None` where it cannot be run, or could not.
    qemu: Option<RealQemu>,
    save: Series,
    load: Series,
}

struct Demo {
    ways: Vec<Way>,
    real: Real,
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
        ways: ways(args.options.as_deref()),
        real: Real::find(cx, patterns.len).await?,
        write: Series::new("disk, 1 MiB writes"),
        read: Series::new("disk, 1 MiB reads"),
        place,
        runs,
        len: patterns.len,
    };
    // For each run the disk's two limits, QEMU's two, and for each way: save, verify, load; and once more a load that is checked.
    let count = demo.ways.len() as u64;
    let qemu = if demo.real.qemu.is_some() { 2 } else { 0 };
    let steps = u64::from(runs) * (2 + qemu + 3 * count) + count;
    let runner = Runner {
        cx,
        patterns,
        steps: Steps::new("demo", steps, args.output.json),
    };
    let files = Files::new(&args.dir);
    for run in 0..runs {
        // There, then back again: no way always follows the same other.
        let count = demo.ways.len() + 2;
        for step in 0..count {
            let index = if run % 2 == 0 { step } else { count - 1 - step };
            match index.checked_sub(1) {
                None => demo.measure_limit(&runner, &files).await?,
                Some(way) if way < demo.ways.len() => {
                    demo.measure_way(&runner, way, &files, warm_bytes, run == 0)
                        .await?;
                }
                Some(_) => {
                    let options = args.options.as_deref();
                    demo.real.measure(&runner, &files, options).await?;
                }
            }
        }
    }
    Ok(demo)
}

/// Into a file: cached and O_DIRECT, unbuffered and buffered, the slower first. Into a snapshot: buffered; unbuffered is QEMU's own way, and
/// that one stands beside it.
fn ways(options: Option<&str>) -> Vec<Way> {
    let mut ways = Vec::new();
    for direct in [false, true] {
        for unbuffered in [true, false] {
            ways.push(Way::new(Storage::default(), direct, unbuffered));
        }
    }
    for direct in [false, true] {
        let storage = Storage {
            format: Format::Qcow2,
            options: options.map(str::to_owned),
            fill_gaps: Vec::new(),
        };
        ways.push(Way::new(storage, direct, false));
    }
    ways
}

impl Way {
    fn new(storage: Storage, direct: bool, unbuffered: bool) -> Self {
        let place = match storage.format {
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
            storage,
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

impl Real {
    async fn find(cx: &Cx, len: u64) -> Result<Self, Failure> {
        let found = RealQemu::find(cx, len).await?;
        let name = match &found {
            Ok(qemu) => format!("QEMU {}", qemu.version),
            Err(_) => "QEMU".to_owned(),
        };
        let mut real = Self {
            qemu: None,
            save: Series::new(format!("save qcow2 O_DIRECT {name}")),
            load: Series::new(format!("load qcow2 O_DIRECT {name}")),
        };
        match found {
            Ok(qemu) => real.qemu = Some(qemu),
            Err(why) => real.give_up(&why),
        }
        Ok(real)
    }

    fn give_up(&mut self, why: &str) {
        self.qemu = None;
        self.save.set_missing(why.to_owned());
        self.load.set_missing(why.to_owned());
    }

    /// Once each. What QEMU does not do is told in its rows, and is no failure of ours.
    async fn measure(
        &mut self,
        runner: &Runner<'_>,
        files: &Files,
        options: Option<&str>,
    ) -> Result<(), Failure> {
        let Some(qemu) = &self.qemu else {
            return Ok(());
        };
        let cx = runner.cx;
        let image = files.state.path();
        let options = create::options_or_default(options, step::DISK_SIZE)
            .map_err(|why| Failure::new(image.display(), "create", why))?;
        create::image(cx, (image, image), None, &options).await?;
        runner.begin("savevm of QEMU").await?;
        let done = async {
            let saved = qemu.savevm(cx, image, &runner.patterns.content).await?;
            let len = state_len(cx, image).await?;
            runner.begin("loadvm of QEMU").await?;
            let loaded = qemu.loadvm(cx, image).await?;
            Ok::<_, Failure>((len, saved, loaded))
        };
        match done.await {
            Ok((len, saved, loaded)) => {
                self.save.push_limit(len, saved);
                self.load.push_limit(len, loaded);
            }
            Err(failure) => self.give_up(&failure.to_string()),
        }
        remove(cx, &files.state).await
    }
}

/// The length of the state that QEMU has saved.
async fn state_len(cx: &Cx, image: &Path) -> Result<u64, Failure> {
    let file = HostFile::open(cx, image, image, false, Purpose::Read).await?;
    let info = match qcow2::info(&file.attach("image")?).await {
        Ok(info) => info,
        Err(error) => return Err(image_failure(cx, image, image, &error).await),
    };
    file.close().await?;
    let snapshot = info.snapshots.first();
    let len = snapshot.map(|snapshot| snapshot.vmstate_size);
    len.ok_or_else(|| Failure::new(image.display(), "savevm", "there is no snapshot"))
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

    /// The unbuffered way that goes with a buffered one.
    fn unbuffered(&self, way: usize) -> Option<&Way> {
        let way = &self.ways[way];
        self.ways.iter().find(|other| {
            let same = (&other.storage, other.engine.direct) == (&way.storage, way.engine.direct);
            same && other.engine.unbuffered && !way.engine.unbuffered
        })
    }

    /// How many times as fast as QEMU's savevm and loadvm ours are, with O_DIRECT and qcow2 too.
    fn times_qemu(&self) -> Option<(f64, f64)> {
        self.real.qemu.as_ref()?;
        let ours = self
            .ways
            .iter()
            .find(|way| way.storage.format == Format::Qcow2 && way.engine.direct)?;
        let save = ours.save.speed_over(&self.real.save);
        Some((save, ours.load.speed_over(&self.real.load)))
    }

    fn print(&self, args: &DemoArgs) -> Result<(), Failure> {
        let unbuffered = |way: usize| self.unbuffered(way);
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
                "qemu": {
                    "version": self.real.qemu.as_ref().map(|qemu| &qemu.version),
                    "save": self.real.save.json(None, Some(&self.write)),
                    "load": self.real.load.json(None, Some(&self.read)),
                    "ours_times_as_fast": self.times_qemu().map(|(save, load)| {
                        json!({"save": save, "load": load})
                    }),
                },
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
        rows.push(self.real.save.row(None, Some(&self.write)));
        rows.push(self.read.row(None, None));
        rows.extend(loads);
        rows.push(self.real.load.row(None, Some(&self.read)));
        let beside = match (self.times_qemu(), &self.real.qemu) {
            (Some((save, load)), Some(qemu)) => format!(
                "\nqcow2 with O_DIRECT, beside QEMU {}: savevm {save:.1} times as fast, loadvm {load:.1} times.",
                qemu.version
            ),
            _ => String::new(),
        };
        say::on_stdout(format_args!("\n{}\n{LEGEND}{beside}", report::table(&rows)))
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
