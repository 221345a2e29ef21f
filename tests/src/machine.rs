//! The machine that is saved and loaded: 80 MiB of memory, firmware, nothing to boot, 48 MiB of random bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::json;

use crate::files::{build_folder, first_difference};
use crate::qemu::{Gone, Qemu};
use crate::random::Random;

/// How many of the memory's bytes are random.
pub const RANDOM_LEN: u64 = 48 << 20;
/// The firmware works at the memory's start, at its end, and just below 16 MiB before its end.
const RANDOM_AT: u64 = 8 << 20;
const MEMORY: u64 = 80 << 20;
const SEED: u64 = 0x5eed;
const OPTIONS: &str = "-machine pc -accel tcg -m 80 -nodefaults -display none";

/// The machine's disk: a virtio block device, which the monitor's `qemu-io` calls `disk`.
#[derive(Clone, Copy, Debug)]
pub struct Disk<'a> {
    /// A qcow2 image. QEMU writes to it and locks it.
    pub image: &'a Path,
    /// `cache=none`, else `cache=writeback`.
    pub direct: bool,
}

/// A machine with the random bytes in its memory, started and then stopped.
///
/// # Panics
/// If QEMU does not start.
pub fn stopped() -> Qemu {
    stopped_with(&[])
}

/// The same machine with a disk.
///
/// # Panics
/// If QEMU does not start.
pub fn stopped_with_disk(disk: Disk<'_>) -> Qemu {
    stopped_with(&disk.options())
}

/// The same machine without the bytes, which takes its state from `uri`.
///
/// # Errors
/// [`Gone`] if QEMU ends first: the state was refused at once.
pub fn that_loads(uri: &str) -> Result<Qemu, Gone> {
    start(&["-incoming", uri])
}

/// The machine with a disk, without the bytes, which takes its state from `uri`.
///
/// # Errors
/// [`Gone`] if QEMU ends first: the state was refused at once.
pub fn with_disk_that_loads(disk: Disk<'_>, uri: &str) -> Result<Qemu, Gone> {
    let disk = disk.options();
    let args = [
        &disk.each_ref().map(String::as_str)[..],
        &["-incoming", uri],
    ];
    start(&args.concat())
}

/// The machine with a disk, without the bytes, which starts from a snapshot in its disk's image, and does not run.
///
/// # Errors
/// [`Gone`] if QEMU ends first: there is no such snapshot, or it was refused.
pub fn that_starts_from(disk: Disk<'_>, snapshot: &str) -> Result<Qemu, Gone> {
    let disk = disk.options();
    let args = [
        &disk.each_ref().map(String::as_str)[..],
        &["-S", "-loadvm", snapshot],
    ];
    start(&args.concat())
}

impl Disk<'_> {
    fn options(&self) -> [String; 4] {
        let image = self.image.display();
        let cache = if self.direct { "none" } else { "writeback" };
        let drive = format!("if=none,id=disk,file={image},format=qcow2,cache={cache}");
        let device = "virtio-blk-pci,drive=disk".to_owned();
        ["-drive".to_owned(), drive, "-device".to_owned(), device]
    }
}

fn stopped_with(options: &[String]) -> Qemu {
    let random = random_file().display();
    let loader = format!("loader,file={random},addr={RANDOM_AT:#x},force-raw=on");
    let mut args = vec!["-device", &loader];
    args.extend(options.iter().map(String::as_str));
    let mut qemu = start(&args).unwrap_or_else(|gone| panic!("{gone}"));
    stop(&mut qemu);
    qemu
}

/// Stops a machine that runs.
///
/// # Panics
/// If QEMU has ended.
pub fn stop(qemu: &mut Qemu) {
    qemu.qmp("stop", json!({}))
        .unwrap_or_else(|gone| panic!("{gone}"));
}

fn start(options: &[&str]) -> Result<Qemu, Gone> {
    let args: Vec<&str> = OPTIONS.split(' ').chain(options.iter().copied()).collect();
    Qemu::start(&args)
}

/// What is compared of two machines.
#[derive(Debug)]
pub struct Machine {
    /// Running, paused, ...: it travels in the state too.
    run_state: String,
    /// As `info registers -a` prints them.
    registers: String,
    /// The whole memory, as `pmemsave` writes it; its name is gone already.
    memory: File,
}

impl Machine {
    /// Takes the state out of a running QEMU; the memory goes through a file in `folder`.
    ///
    /// # Panics
    /// If QEMU has ended.
    pub fn look_at(qemu: &mut Qemu, folder: &Path) -> Machine {
        Machine::try_look_at(qemu, folder).unwrap_or_else(|gone| panic!("{gone}"))
    }

    fn try_look_at(qemu: &mut Qemu, folder: &Path) -> Result<Machine, Gone> {
        let dump = folder.join("memory.dump");
        let status = qemu.qmp("query-status", json!({}))?;
        let registers = qemu.hmp("info registers -a")?;
        let range = json!({ "val": 0, "size": MEMORY, "filename": dump.to_str() });
        qemu.qmp("pmemsave", range)?;
        let memory = File::open(&dump).expect("QEMU wrote the dump");
        fs::remove_file(&dump).expect("the dump is ours");
        Ok(Machine {
            run_state: status["status"].as_str().unwrap_or_default().to_owned(),
            registers,
            memory,
        })
    }

    /// The set-up worked: otherwise two empty memories would be equal as well.
    ///
    /// # Panics
    /// If the random bytes are not in the memory.
    pub fn check_that_it_holds_the_random_bytes(&self) {
        let mut random = File::open(random_file()).expect("the random bytes");
        let mut memory = &self.memory;
        memory.seek(SeekFrom::Start(RANDOM_AT)).expect("seekable");
        let difference = first_difference(&mut random, &mut memory.take(RANDOM_LEN));
        assert_eq!(difference, None, "the loader device did its work");
    }

    /// Compares run state, registers and each byte of memory.
    ///
    /// # Panics
    /// If there is any difference.
    pub fn check_equal(&self, other: &Machine) {
        assert_eq!(self.run_state, "paused");
        assert_eq!(self.run_state, other.run_state);
        self.check_same_guest(other);
    }

    /// Compares registers and each byte of memory: a QEMU that has not run yet says so, whatever it has loaded.
    ///
    /// # Panics
    /// If there is any difference.
    pub fn check_same_guest(&self, other: &Machine) {
        assert!(self.registers.contains("CPU#0"), "{}", self.registers);
        assert_eq!(self.registers, other.registers);
        let (mut a, mut b) = (&self.memory, &other.memory);
        for mut file in [a, b] {
            assert_eq!(file.metadata().expect("a file").len(), MEMORY);
            file.rewind().expect("seekable");
        }
        let difference = first_difference(&mut a, &mut b);
        assert_eq!(difference, None, "address of the first differing byte");
    }
}

/// 48 MiB of bytes from a seed. Kept beside the build, so that only the first run writes it.
fn random_file() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = build_folder().join(format!("random-{SEED:x}-{RANDOM_LEN}"));
        if fs::metadata(&path).is_ok_and(|m| m.len() == RANDOM_LEN) {
            return path;
        }
        fs::create_dir_all(build_folder()).expect("the build's folder takes another one");
        // Under another name first: two test processes, or one that is killed, never leave half a file under this one.
        let mut file = tempfile::NamedTempFile::new_in(build_folder()).expect("a file");
        let mut out = BufWriter::new(file.as_file_mut());
        let mut random = Random::new(SEED);
        for _ in 0..RANDOM_LEN / 8 {
            let word = random.word().to_le_bytes();
            out.write_all(&word).expect("48 MiB fit");
        }
        out.flush().expect("48 MiB fit");
        drop(out);
        file.persist(&path).expect("the file is renamed");
        path
    })
}
