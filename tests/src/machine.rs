//! The machine that is saved and loaded: 64 MiB of memory, firmware, nothing to boot, 48 MiB of random bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::json;

use crate::files::{build_folder, first_difference};
use crate::qemu::{Gone, Qemu};

/// How many of the memory's bytes are random.
pub const RANDOM_LEN: u64 = 48 << 20;
const RANDOM_AT: u64 = 8 << 20;
const MEMORY: u64 = 64 << 20;
const SEED: u64 = 0x5eed;
const OPTIONS: &str = "-machine pc -accel tcg -m 64 -nodefaults -display none";

/// A machine with the random bytes in its memory, started and then stopped.
///
/// # Panics
/// If QEMU does not start.
pub fn stopped() -> Qemu {
    let random = random_file().display();
    let loader = format!("loader,file={random},addr={RANDOM_AT:#x},force-raw=on");
    let args: Vec<&str> = OPTIONS.split(' ').chain(["-device", &loader]).collect();
    let mut qemu = Qemu::start(&args).unwrap_or_else(|gone| panic!("{gone}"));
    qemu.qmp("stop", json!({}))
        .unwrap_or_else(|gone| panic!("{gone}"));
    qemu
}

/// The same machine without the bytes, which takes its state from `uri`.
///
/// # Errors
/// [`Gone`] if QEMU ends first: the state was refused at once.
pub fn that_loads(uri: &str) -> Result<Qemu, Gone> {
    let args: Vec<&str> = OPTIONS.split(' ').chain(["-incoming", uri]).collect();
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
        let mut state = SEED;
        for _ in 0..RANDOM_LEN / 8 {
            let word = split_mix(&mut state).to_le_bytes();
            out.write_all(&word).expect("48 MiB fit");
        }
        out.flush().expect("48 MiB fit");
        drop(out);
        file.persist(&path).expect("the file is renamed");
        path
    })
}

/// The next number of the SplitMix64 sequence.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
