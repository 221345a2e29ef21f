//! Folders and small disks for tests, and comparing files.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A folder that is deleted when dropped, on the disk that holds the build: a tmpfs, as `/tmp` may be, would take O_DIRECT without
/// meaning it.
pub fn disk_folder() -> TempDir {
    let place = build_folder();
    fs::create_dir_all(&place).expect("the build's folder takes another one");
    tempfile::tempdir_in(place).expect("a folder beside the build")
}

/// Where files lie that are kept from run to run.
pub(crate) fn build_folder() -> PathBuf {
    // Test programs lie in `<target>/<profile>/deps`.
    let program = std::env::current_exe().expect("a test knows its own path");
    let target = program.ancestors().nth(3).expect("three folders up");
    target.join("tmp")
}

/// The names and lengths of what lies in `folder`.
pub fn entries(folder: &Path) -> Vec<(String, u64)> {
    fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let len = entry.metadata().expect("it exists").len();
            (entry.file_name().to_string_lossy().into_owned(), len)
        })
        .collect()
}

/// The position of the first byte in which two streams differ; `None` if they are equal, their lengths included. It says more than two
/// different hashes do.
pub fn first_difference(a: &mut impl Read, b: &mut impl Read) -> Option<u64> {
    let mut at = 0;
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let n = fill(a, &mut left);
        let m = fill(b, &mut right);
        let common = n.min(m);
        if left[..common] != right[..common] {
            let i = left.iter().zip(&right).position(|(x, y)| x != y)?;
            return Some(at + i as u64);
        }
        if n != m {
            return Some(at + common as u64);
        }
        if n == 0 {
            return None;
        }
        at += n as u64;
    }
}

/// Reads as many bytes as there are, up to the buffer's length.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]).expect("readable") {
            0 => break,
            n => filled += n,
        }
    }
    filled
}

/// A tmpfs of a fixed size, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `size` bytes in a new folder of `folder`.
    ///
    /// # Errors
    /// Where mounting is not allowed.
    pub fn mount(folder: &Path, size: u64) -> io::Result<SmallDisk> {
        let path = folder.join("small");
        fs::create_dir(&path)?;
        let data = CString::new(format!("size={size}"))?;
        let flags = MountFlags::empty();
        mount("tmpfs", &path, "tmpfs", flags, Some(data.as_c_str()))?;
        Ok(SmallDisk { path })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A reader that died with a file open does not keep the test's folder from being deleted.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_in_content_and_in_length() {
        let found = |a: &[u8], b: &[u8]| first_difference(&mut &a[..], &mut &b[..]);
        let long = vec![7; (1 << 20) + 9];
        let mut other = long.clone();
        other[1 << 20] = 8;
        assert_eq!(found(&long, &long.clone()), None);
        assert_eq!(found(&long, &other), Some(1 << 20));
        assert_eq!(found(&long, &long[..(1 << 20) + 4]), Some((1 << 20) + 4));
        assert_eq!(found(b"", b"x"), Some(0));
    }
}
