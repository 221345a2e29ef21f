//! What a process has used, and how to begin from cold.
use rustix::fs::Advice;
use rustix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// CPU seconds of this process so far, all threads, user and system.
pub(crate) fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The most memory that this process has had resident, in bytes. From `VmHWM`: the resource usage of a process counts what its parent had
/// when it was forked.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Makes the next reads of `path` come from the disk: for root by dropping the page cache, else by dropping this file's clean pages.
pub(crate) fn make_cold(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    // Only root may; the advice above is the other way.
    if let Err(error) = fs::write("/proc/sys/vm/drop_caches", "3") {
        match error.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotFound
            | io::ErrorKind::ReadOnlyFilesystem => {}
            _ => return Err(error),
        }
    }
    Ok(())
}

/// Bytes of memory that could be had without swapping.
pub(crate) fn available_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_known_and_grows_with_what_is_touched() {
        let before = peak_memory().expect("VmHWM");
        let touched = vec![1u8; 64 << 20];
        assert!(touched.iter().map(|b| u64::from(*b)).sum::<u64>() == 64 << 20);
        assert!(peak_memory().expect("VmHWM") >= before.max(64 << 20));
    }
}
