//! Recorded patterns: one `POSITION LENGTH` per line, as text or gzip'd.
use crate::failure::Failure;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

/// The longest call that a trace may hold: one piece is kept in memory while it is written or read.
const MAX_PIECE: u64 = 64 << 20;

/// The most calls that a trace may hold, so that a small compressed file does not fill the memory: a guest of 64 GiB, page by page.
const MAX_PIECES: usize = 16 << 20;

/// The recordings of the demo, so that the program needs no file beside it.
const BUILT_IN: [(&str, &[u8]); 4] = [
    (
        "builtin:qemu72-savevm-guest-2g",
        include_bytes!("../../../traces/qemu72-savevm-guest-2g.txt.gz"),
    ),
    (
        "builtin:qemu72-loadvm-guest-2g",
        include_bytes!("../../../traces/qemu72-loadvm-guest-2g.txt.gz"),
    ),
    (
        "builtin:qemu72-savevm-seabios-64m",
        include_bytes!("../../../traces/qemu72-savevm-seabios-64m.txt.gz"),
    ),
    (
        "builtin:qemu72-loadvm-seabios-64m",
        include_bytes!("../../../traces/qemu72-loadvm-seabios-64m.txt.gz"),
    ),
];

/// Patterns that are made, not recorded: `builtin:gaps:DATA:GAP:LENGTH`.
const GAPS: &str = "builtin:gaps:";

/// A guest's page, which is one call of a made pattern.
const PAGE: u64 = 4096;

/// One recorded call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First byte, from the start of the state.
    pub(crate) at: u64,
    /// Bytes, at most [`MAX_PIECE`].
    pub(crate) len: u64,
}

impl Piece {
    /// First byte past it; at most `i64::MAX`, which the parser has checked.
    pub(crate) fn end(&self) -> u64 {
        self.at + self.len
    }
}

/// A recorded pattern, in the order of its calls.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) pieces: Vec<Piece>,
}

impl Trace {
    /// Reads `path`, or a recording that comes with the program where `path` is `builtin:NAME`.
    pub(crate) fn open(path: &Path) -> Result<Trace, Failure> {
        if let Some(shape) = path.to_str().and_then(|name| name.strip_prefix(GAPS)) {
            return Trace::with_gaps(shape)
                .map_err(|why| Failure::new(path.display(), "make the trace", why));
        }
        if let Some(name) = path.to_str().filter(|name| name.starts_with("builtin:")) {
            return match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
                Some((_, bytes)) => Trace::read(path, Cursor::new(bytes), MAX_PIECES),
                None => Err(Failure::new(
                    path.display(),
                    "find the trace",
                    format!(
                        "there is {}, {GAPS}DATA:GAP:LENGTH",
                        BUILT_IN.map(|(name, _)| name).join(", ")
                    ),
                )),
            };
        }
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.is_file(), file)));
        let (is_file, file) = opened.map_err(|e| Failure::io(path.display(), "open", &e))?;
        if !is_file {
            // What comes out of a pipe would be gone when the children read it.
            let why = "each run reads the trace again: it must be a file";
            return Err(Failure::new(path.display(), "open", why));
        }
        Trace::read(path, BufReader::new(file), MAX_PIECES)
    }

    /// `DATA:GAP:LENGTH`: runs of DATA bytes, page by page, with GAP bytes left out after each, up to LENGTH. Memory that is saved without
    /// its zero pages looks like this: 8K:4K lacks every third page.
    fn with_gaps(shape: &str) -> Result<Trace, String> {
        let words: Vec<&str> = shape.split(':').collect();
        let [data, gap, len] = words[..] else {
            return Err(format!("'{shape}' is not DATA:GAP:LENGTH"));
        };
        let size = |word: &str| crate::args::size(word).map_err(|why| format!("'{word}': {why}"));
        let (data, gap, len) = (size(data)?, size(gap)?, size(len)?);
        let round = data.saturating_add(gap);
        let calls = (len / round + 1).checked_mul(data.div_ceil(PAGE));
        if calls.is_none_or(|calls| calls > MAX_PIECES as u64) {
            return Err(format!("it would hold more than {MAX_PIECES} calls"));
        }
        let mut pieces = Vec::new();
        for start in (0..len).step_by(usize::try_from(round).unwrap_or(usize::MAX)) {
            let end = start.saturating_add(data).min(len);
            let pages = (start..end).step_by(PAGE as usize);
            pieces.extend(pages.map(|at| Piece {
                at,
                len: PAGE.min(end - at),
            }));
        }
        Ok(Trace { pieces })
    }

    /// Parses a trace of at most `most` calls; `name` is for errors.
    fn read(name: &Path, mut source: impl BufRead, most: usize) -> Result<Trace, Failure> {
        let start = source
            .fill_buf()
            .map_err(|e| Failure::io(name.display(), "read", &e))?;
        // By content, not by name.
        let gzipped = start.starts_with(&[0x1f, 0x8b]);
        let text: Box<dyn Read + '_> = if gzipped {
            Box::new(MultiGzDecoder::new(source))
        } else {
            Box::new(source)
        };
        let mut lines = BufReader::new(text);
        let mut pieces = Vec::new();
        let mut line = String::new();
        for number in 1.. {
            line.clear();
            // A line is short: a file without line ends must not fill the memory.
            let read = (&mut lines)
                .take(256)
                .read_line(&mut line)
                .map_err(|e| Failure::io(name.display(), format!("read line {number}"), &e))?;
            if read == 0 {
                break;
            }
            let text = line.split('#').next().unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            let piece = parse(text)
                .map_err(|why| Failure::new(name.display(), format!("parse line {number}"), why))?;
            if pieces.len() == most {
                let why = format!("it holds more than {most} calls");
                return Err(Failure::new(name.display(), "read", why));
            }
            pieces.push(piece);
        }
        if pieces.is_empty() {
            return Err(Failure::new(name.display(), "read", "the trace is empty"));
        }
        pieces.shrink_to_fit();
        Ok(Trace { pieces })
    }

    /// Leaves out what lies past `end`; a call across it is cut.
    pub(crate) fn cut(&mut self, end: u64) {
        self.pieces.retain_mut(|piece| {
            piece.len = piece.len.min(end.saturating_sub(piece.at));
            piece.len > 0
        });
    }

    /// Bytes of all calls, those that overlap counted each time.
    pub(crate) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len).sum()
    }

    /// First byte past the last: the length of the state that this pattern writes.
    pub(crate) fn end(&self) -> u64 {
        self.pieces.iter().map(Piece::end).max().unwrap_or(0)
    }

    /// What the calls cover, as ascending ranges with gaps between them.
    pub(crate) fn covered(&self) -> Vec<Piece> {
        let mut sorted = self.pieces.clone();
        sorted.sort_unstable_by_key(|piece| piece.at);
        let mut merged: Vec<Piece> = Vec::new();
        for piece in sorted {
            match merged.last_mut() {
                Some(last) if piece.at <= last.end() => {
                    last.len = last.len.max(piece.end() - last.at);
                }
                _ => merged.push(piece),
            }
        }
        merged
    }
}

/// Ascending ranges, with those joined between which fewer than `below` bytes lie.
pub(crate) fn joined(ranges: &[Piece], below: u64) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.at.saturating_sub(last.end()) < below => {
                last.len = range.end() - last.at;
            }
            _ => joined.push(*range),
        }
    }
    joined
}

/// One line: two decimal numbers.
fn parse(line: &str) -> Result<Piece, String> {
    let mut words = line.split_ascii_whitespace();
    let (Some(at), Some(len), None) = (words.next(), words.next(), words.next()) else {
        return Err(format!("'{line}' is not POSITION LENGTH"));
    };
    let number = |word: &str| {
        word.parse::<u64>()
            .map_err(|e| format!("'{word}' is not a number of bytes: {e}"))
    };
    let (at, len) = (number(at)?, number(len)?);
    if len == 0 || len > MAX_PIECE {
        return Err(format!("length {len} is not in 1..={MAX_PIECE}"));
    }
    match at.checked_add(len) {
        Some(end) if end <= i64::MAX as u64 => Ok(Piece { at, len }),
        _ => Err(format!("{at} + {len} exceeds 2^63 - 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(text: &[u8]) -> Result<Trace, String> {
        Trace::read(Path::new("t"), Cursor::new(text), 100).map_err(|e| e.to_string())
    }

    #[test]
    fn the_recorded_savevm_is_what_its_readme_says() {
        let trace = Trace::open(Path::new("builtin:qemu72-savevm-guest-2g")).unwrap();
        assert_eq!(trace.pieces.len(), 13_721);
        assert_eq!(trace.bytes(), 1_796_483_171);
        assert_eq!(trace.end(), 1_796_483_171);
        assert_eq!(trace.covered().len(), 1, "strictly sequential");
    }

    #[test]
    fn a_gzipped_trace_and_a_plain_one_are_told_apart_by_their_bytes() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"0 10\n10 5\n").unwrap();
        let plain = read(b"0 10\n10 5").unwrap();
        assert_eq!(plain, read(&gz.finish().unwrap()).unwrap());
        assert_eq!(plain.pieces[1], Piece { at: 10, len: 5 });
    }

    #[test]
    fn a_broken_line_is_an_error_that_names_it() {
        for (text, what) in [
            (&b"0 1\n5\n"[..], "line 2"),
            (b"0 -1\n", "not a number"),
            (b"0 0\n", "length 0"),
            (b"9223372036854775807 1\n", "exceeds"),
            (b"18446744073709551615 5\n", "exceeds"),
            (b"0 99999999999\n", "length 99999999999"),
            (b"1 2 3\n", "not POSITION LENGTH"),
            (b"", "empty"),
            (b"\x1f\x8b\x08garbage", "line 1"),
            (b"\xff\xfe\n", "line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(what), "{error:?} should say {what:?}");
        }
        assert!(read(&vec![b'1'; 1 << 20]).is_err());
    }

    #[test]
    fn a_small_file_that_unpacks_to_very_many_calls_is_refused_before_it_fills_the_memory() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&b"0 1\n".repeat(101)).unwrap();
        let error = read(&gz.finish().unwrap()).unwrap_err();
        assert!(error.contains("more than 100 calls"), "{error}");
        assert_eq!(read(&b"0 1\n".repeat(100)).unwrap().pieces.len(), 100);
        assert!(Trace::open(Path::new("/dev/null")).is_err(), "not a file");
    }

    #[test]
    fn coverage_merges_what_overlaps_or_touches_and_keeps_gaps() {
        let trace = read(b"100 10\n0 10\n10 5\n105 20\n3 2\n").unwrap();
        let covered = [Piece { at: 0, len: 15 }, Piece { at: 100, len: 25 }];
        assert_eq!(trace.covered(), covered);
        assert_eq!(trace.end(), 125);
    }

    #[test]
    fn a_made_pattern_has_the_gaps_that_its_name_says() {
        let made = |shape: &str| Trace::open(Path::new(&format!("builtin:gaps:{shape}")));
        let pieces = |shape| made(shape).unwrap().pieces;
        let page = |at| Piece { at, len: 4096 };
        let third = [page(0), page(4096), page(12_288), page(16_384)];
        assert_eq!(pieces("8K:4K:20K"), third);
        assert_eq!(pieces("8K:4K:24K"), third);
        let short = [Piece { at: 0, len: 100 }, Piece { at: 4096, len: 4 }];
        assert_eq!(pieces("100:3996:4100"), short);
        assert_eq!(made("8K:4K:256M").unwrap().covered().len(), 21_846);
        for wrong in [
            "",
            "8K:4K",
            "8K:4K:1M:1M",
            "0:4K:1M",
            "8K:x:1M",
            "1:1:8388607T",
            "8388607T:8388607T:8388607T",
        ] {
            assert!(made(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_are_joined_over_short_gaps_only() {
        let piece = |at, len| Piece { at, len };
        let ranges = [piece(0, 10), piece(14, 6), piece(25, 5), piece(40, 1)];
        assert_eq!(joined(&ranges, 0), ranges);
        let some = [piece(0, 20), piece(25, 5), piece(40, 1)];
        assert_eq!(joined(&ranges, 5), some);
        assert_eq!(joined(&ranges, 100), [piece(0, 41)]);
    }

    #[test]
    fn a_cut_trace_ends_where_it_was_cut() {
        let mut trace = read(b"0 10\n10 10\n20 10\n").unwrap();
        trace.cut(15);
        assert_eq!(
            trace.pieces,
            [Piece { at: 0, len: 10 }, Piece { at: 10, len: 5 }]
        );
    }
}
