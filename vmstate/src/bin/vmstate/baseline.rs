//! The disk's own limit: the bytes of a state by sequential 1 MiB O_DIRECT requests, one at a time.
use crate::content::Content;
use crate::failure::Failure;
use block_core::IoBuf;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

const REQUEST: usize = 1 << 20;
const ALIGNMENT: usize = 4096;

/// Writes at least `bytes` (rounded up to 4 KiB) to the new file `path`, fsync included; how long it took.
pub(crate) fn write(path: &Path, bytes: u64) -> Result<Duration, Failure> {
    let failed = |at: u64, error: &io::Error| {
        Failure::io(path.display(), "write for the disk's limit", error).at(at, REQUEST as u64)
    };
    let file = open(path, OpenOptions::new().write(true).create_new(true))
        .map_err(|e| Failure::io(path.display(), "create with O_DIRECT", &e))?;
    let mut buffer = buffer(path)?;
    // Neither compressible nor the same as the buffer before: a hash, and a number in each of its blocks.
    Content { seed: 0x11 }.fill(0, &mut buffer);
    let start = Instant::now();
    for (at, len) in requests(bytes) {
        for (block, number) in buffer
            .chunks_exact_mut(ALIGNMENT)
            .zip(at / ALIGNMENT as u64..)
        {
            block[..8].copy_from_slice(&number.to_le_bytes());
        }
        file.write_all_at(&buffer[..len], at)
            .map_err(|e| failed(at, &e))?;
    }
    file.sync_all().map_err(|e| failed(bytes, &e))?;
    Ok(start.elapsed())
}

/// Reads what [`write`] wrote; how long it took.
pub(crate) fn read(path: &Path, bytes: u64) -> Result<Duration, Failure> {
    let file = open(path, OpenOptions::new().read(true))
        .map_err(|e| Failure::io(path.display(), "open with O_DIRECT", &e))?;
    let mut buffer = buffer(path)?;
    let start = Instant::now();
    for (at, len) in requests(bytes) {
        file.read_exact_at(&mut buffer[..len], at).map_err(|e| {
            Failure::io(path.display(), "read for the disk's limit", &e).at(at, len as u64)
        })?;
    }
    Ok(start.elapsed())
}

/// Offsets and lengths that cover `bytes`.
fn requests(bytes: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = bytes.next_multiple_of(ALIGNMENT as u64);
    (0..end)
        .step_by(REQUEST)
        .map(move |at| (at, (end - at).min(REQUEST as u64) as usize))
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .mode(0o600)
        .open(path)
}

fn buffer(path: &Path) -> Result<IoBuf, Failure> {
    IoBuf::zeroed(REQUEST, ALIGNMENT)
        .map_err(|e| Failure::new(path.display(), "measure", format!("no {} bytes", e.bytes)))
}
