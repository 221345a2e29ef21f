//! Is a file what a replay was to write? Asked by plain reads of a new open, none of which goes through the load that is being tested.
use crate::content::Content;
use crate::failure::Failure;
use crate::trace::Piece;
use block_core::IoBuf;
use rustix::fs::{Advice, OFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes read at a time, and what direct reads are aligned to.
const CHUNK: usize = 1 << 20;
const ALIGNMENT: usize = 4096;

/// What a state should be.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) content: Content,
    /// Ascending ranges that have this content. Between them are zeroes.
    pub(crate) covered: Vec<Piece>,
    /// Ascending ranges in which space may be allocated: the covered ones, and the gaps that the save fills.
    pub(crate) written: Vec<Piece>,
    pub(crate) len: u64,
}

/// Compares the file at `path` with what is expected: content, zeroes between it, and length. Outside of what was written no space may
/// be allocated.
///
/// The pages are dropped from the cache first, and with `direct` the reads go round it.
pub(crate) fn verify(path: &Path, expected: &Expected, direct: bool) -> Result<(), Failure> {
    let (content, covered, len) = (expected.content, &expected.covered, expected.len);
    let failed =
        |operation: &'static str, error: &io::Error| Failure::io(path.display(), operation, error);
    let file = open(path, direct).map_err(|e| failed("open to verify", &e))?;
    let found = file.metadata().map_err(|e| failed("verify", &e))?;
    if found.len() != len {
        let why = format!("the file is {} bytes long, the state {len}", found.len());
        return Err(Failure::new(path.display(), "verify", why));
    }
    file.sync_all()
        .and_then(|()| Ok(rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?))
        .map_err(|e| failed("drop pages to verify", &e))?;
    check_holes(path, &found, &expected.written)?;

    let mut chunk = IoBuf::zeroed(CHUNK, ALIGNMENT)
        .map_err(|e| Failure::new(path.display(), "verify", format!("no {} bytes", e.bytes)))?;
    let mut at = 0;
    while at < len {
        let read = read_full(&file, at, &mut chunk)
            .map_err(|e| failed("read to verify", &e).at(at, CHUNK as u64))?;
        let wanted = (len - at).min(CHUNK as u64);
        if (read as u64) < wanted {
            let why = format!("the file ends at {} while it is read", at + read as u64);
            return Err(Failure::new(path.display(), "verify", why).at(at, wanted));
        }
        if let Some(wrong) = first_wrong(content, covered, at, &chunk[..wanted as usize]) {
            let why = format!("the byte at {wrong} is not what was written there");
            return Err(Failure::new(path.display(), "verify", why).at(wrong, 1));
        }
        at += wanted;
    }
    Ok(())
}

fn open(path: &Path, direct: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    if direct {
        options.custom_flags(OFlags::DIRECT.bits() as i32);
    }
    options.open(path)
}

/// Reads until `buf` is full or the file ends. A direct read is short only at the end, so each next one starts aligned, or finds nothing.
fn read_full(file: &File, at: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) if n % ALIGNMENT != 0 => return Ok(done + n),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The first byte of `bytes`, which stand at `at`, that is neither `content` in one of the ascending ranges `covered` nor zero elsewhere.
pub(crate) fn first_wrong(
    content: Content,
    covered: &[Piece],
    at: u64,
    bytes: &[u8],
) -> Option<u64> {
    let end = at + bytes.len() as u64;
    let part = |from: u64, to: u64| &bytes[(from - at) as usize..(to - at) as usize];
    let zeroes = |from: u64, to: u64| {
        let wrong = part(from, to).iter().position(|byte| *byte != 0);
        wrong.map(|n| from + n as u64)
    };
    let mut next = at; // all before it is right
    let first = covered.partition_point(|range| range.end() <= at);
    for range in &covered[first..] {
        if range.at >= end {
            break;
        }
        let (from, to) = (range.at.max(next), range.end().min(end));
        let wrong = zeroes(next, from).or_else(|| content.mismatch(from, part(from, to)));
        if wrong.is_some() {
            return wrong;
        }
        next = to;
    }
    zeroes(next, end)
}

/// A file with gaps must not be allocated in them: its blocks are at most those that its ranges touch, and what a file system needs to
/// list that many extents.
fn check_holes(path: &Path, found: &std::fs::Metadata, written: &[Piece]) -> Result<(), Failure> {
    let block = found.blksize().max(4096);
    let mut touched = 0;
    let mut counted_to = 0; // first block not counted yet
    for range in written {
        let (first, end) = (range.at / block, range.end().div_ceil(block));
        touched += end.saturating_sub(first.max(counted_to));
        counted_to = counted_to.max(end);
    }
    let (used, allowed) = (
        found.blocks() * 512,
        touched * block + (written.len() as u64 + 64) * 64,
    );
    // One range is no pattern with gaps, and file systems may allocate ahead of it.
    if written.len() > 1 && used > allowed + (64 << 10) {
        let why = format!(
            "{used} bytes are allocated where {} were written: the gaps were filled",
            touched * block
        );
        return Err(Failure::new(path.display(), "verify", why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const CONTENT: Content = Content { seed: 3 };

    /// A state of three ranges: one across a chunk boundary, one that ends within a block.
    fn state(name: &str) -> (std::path::PathBuf, Vec<Piece>, u64) {
        let path =
            std::env::temp_dir().join(format!("vmstate-verify-{}-{name}", std::process::id()));
        let covered = vec![
            Piece { at: 0, len: 4096 },
            Piece {
                at: 1 << 16,
                len: 3 << 20,
            },
            Piece {
                at: 4 << 20,
                len: 1001,
            },
        ];
        let file = File::create(&path).unwrap();
        for range in &covered {
            let mut bytes = vec![0; range.len as usize];
            CONTENT.fill(range.at, &mut bytes);
            file.write_all_at(&bytes, range.at).unwrap();
        }
        (path, covered, (4 << 20) + 1001)
    }

    fn expected(covered: Vec<Piece>, len: u64) -> Expected {
        Expected {
            content: CONTENT,
            written: covered.clone(),
            covered,
            len,
        }
    }

    fn verdict(name: &str, harm: impl FnOnce(&File)) -> Result<(), String> {
        let (path, covered, len) = state(name);
        harm(
            &OpenOptions::new()
                .write(true)
                .read(true)
                .open(&path)
                .unwrap(),
        );
        let result = verify(&path, &expected(covered, len), false);
        fs::remove_file(&path).unwrap();
        result.map_err(|e| e.to_string())
    }

    #[test]
    fn a_state_as_written_is_accepted() {
        verdict("good", |_| {}).unwrap();
    }

    #[test]
    fn a_flipped_byte_is_found_where_it_is() {
        for at in [0u64, 4095, 1 << 16, (1 << 20) + 7, (4 << 20) + 1000] {
            let error = verdict("flip", |file| {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            })
            .unwrap_err();
            assert!(error.contains(&format!("the byte at {at} ")), "{error}");
        }
    }

    #[test]
    fn two_swapped_buffers_are_found() {
        let error = verdict("swap", |file| {
            let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
            file.read_exact_at(&mut a, 1 << 20).unwrap();
            file.read_exact_at(&mut b, 2 << 20).unwrap();
            file.write_all_at(&b, 1 << 20).unwrap();
            file.write_all_at(&a, 2 << 20).unwrap();
        })
        .unwrap_err();
        assert!(
            error.contains(&format!("the byte at {} ", 1 << 20)),
            "{error}"
        );
    }

    #[test]
    fn another_length_is_found_both_ways() {
        for len in [4 << 20, (4 << 20) + 1000, (4 << 20) + 1002] {
            let error = verdict("length", |file| file.set_len(len).unwrap()).unwrap_err();
            assert!(error.contains(&format!("{len} bytes long")), "{error}");
        }
    }

    #[test]
    fn a_byte_in_a_gap_is_found() {
        let error = verdict("gap", |file| file.write_all_at(&[1], 5000).unwrap()).unwrap_err();
        assert!(error.contains("the byte at 5000 "), "{error}");
    }

    #[test]
    fn zeroes_written_into_gaps_are_found() {
        let covered = [
            Piece { at: 0, len: 4096 },
            Piece {
                at: 2 << 20,
                len: 4096,
            },
        ];
        let path =
            std::env::temp_dir().join(format!("vmstate-verify-{}-holes", std::process::id()));
        let mut bytes = vec![0; (2 << 20) + 4096];
        for range in &covered {
            let part = &mut bytes[range.at as usize..range.end() as usize];
            CONTENT.fill(range.at, part);
        }
        fs::write(&path, &bytes).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        let result = verify(
            &path,
            &expected(covered.to_vec(), bytes.len() as u64),
            false,
        );
        fs::remove_file(&path).unwrap();
        assert!(
            result
                .unwrap_err()
                .to_string()
                .contains("the gaps were filled")
        );
    }
}
