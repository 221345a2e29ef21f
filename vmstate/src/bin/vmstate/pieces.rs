//! Content that was made before the clock starts, read piece by piece.
//!
//! It lies in a file in memory (sparse, of the state's shape), so that it is never part of the process that is measured. Small pieces come
//! from a few windows, as a mapped-ram stream goes up in two places at once.
use crate::content::Content;
use crate::trace::Piece;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a window, and how many there are.
const WINDOW: u64 = 256 << 10;
const WINDOWS: usize = 4;

/// Pieces from this size on are read by themselves.
const LARGE: u64 = 64 << 10;

/// Makes the file: `content` in the ranges `covered`, holes between them.
pub(crate) fn make(content: Content, covered: &[Piece]) -> io::Result<File> {
    let file = File::from(memfd_create("vmstate-content", MemfdFlags::CLOEXEC)?);
    let mut chunk = vec![0; 1 << 20];
    for range in covered {
        let mut at = range.at;
        while at < range.end() {
            let len = (range.end() - at).min(chunk.len() as u64) as usize;
            content.fill(at, &mut chunk[..len]);
            file.write_all_at(&chunk[..len], at)?;
            at += len as u64;
        }
    }
    Ok(file)
}

/// Reads pieces of such a file.
pub(crate) struct Pieces {
    file: File,
    windows: Vec<Window>,
    /// Counts uses of windows, for [`Window::used`].
    clock: u64,
    /// A piece that no window holds whole.
    scratch: Vec<u8>,
}

struct Window {
    /// A multiple of [`WINDOW`].
    start: u64,
    /// Shorter than [`WINDOW`] at the end of the file.
    bytes: Vec<u8>,
    /// When it was used last.
    used: u64,
}

impl Pieces {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            windows: Vec::new(),
            clock: 0,
            scratch: Vec::new(),
        }
    }

    /// The bytes of `piece`.
    pub(crate) fn get(&mut self, piece: Piece) -> io::Result<&[u8]> {
        let start = piece.at / WINDOW * WINDOW;
        if piece.len < LARGE && piece.end() <= start + WINDOW {
            let window = self.window(start)?;
            let from = (piece.at - start) as usize;
            let bytes = window.bytes.get(from..from + piece.len as usize);
            return bytes.ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        }
        self.scratch.resize(piece.len as usize, 0);
        self.file.read_exact_at(&mut self.scratch, piece.at)?;
        Ok(&self.scratch)
    }

    /// The window at `start`; it takes the place of the one that was not used for the longest time.
    fn window(&mut self, start: u64) -> io::Result<&Window> {
        self.clock += 1;
        let found = self.windows.iter().position(|w| w.start == start);
        let index = match found {
            Some(index) => index,
            None => {
                if self.windows.len() < WINDOWS {
                    self.windows.push(Window {
                        start,
                        bytes: Vec::new(),
                        used: 0,
                    });
                }
                let oldest = self.windows.iter().enumerate().min_by_key(|(_, w)| w.used);
                let index = oldest.map_or(0, |(index, _)| index);
                let window = &mut self.windows[index];
                // Not found under its old place if the read fails.
                window.start = u64::MAX;
                window.bytes.resize(WINDOW as usize, 0);
                let read = read_up_to(&self.file, start, &mut window.bytes)?;
                window.bytes.truncate(read);
                window.start = start;
                index
            }
        };
        let window = &mut self.windows[index];
        window.used = self.clock;
        Ok(window)
    }
}

fn read_up_to(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_is_the_content_at_its_place_in_whatever_order() {
        let content = Content { seed: 5 };
        let covered = [
            Piece {
                at: 0,
                len: 1_000_000,
            },
            Piece {
                at: 3_000_000,
                len: 700_001,
            },
        ];
        let mut pieces = Pieces::new(make(content, &covered).unwrap());
        let mut bytes = vec![0; 1 << 20];
        for step in 0..400u64 {
            // Two ascending streams, and every now and then a large piece.
            let at = if step % 2 == 0 {
                step * 2_000
            } else {
                3_000_000 + step * 1_700
            };
            let len = if step % 7 == 0 { 100_000 } else { 1 + step * 5 };
            let range = covered[(step % 2) as usize];
            let piece = Piece {
                at,
                len: len.min(range.end() - at),
            };
            let expected = &mut bytes[..piece.len as usize];
            content.fill(piece.at, expected);
            assert_eq!(pieces.get(piece).unwrap(), expected);
        }
        assert!(pieces.windows.len() <= WINDOWS);
        let behind = Piece {
            at: 3_700_000,
            len: 2,
        };
        assert!(pieces.get(behind).is_err(), "the content ends there");
    }
}
