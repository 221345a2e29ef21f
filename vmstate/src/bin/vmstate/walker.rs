//! Is the state in a snapshot what a replay was to write? A reader of qcow2 of its own, after the format's specification: it shares no line
//! with the driver that is being tested, and needs no more than what a replay's images can be.
//!
//! ```text
//!   header -> snapshot table -> the snapshot's L1 table, after the entries of its disk -> L2 tables -> clusters
//! ```
use crate::failure::Failure;
use crate::trace::Piece;
use crate::verify::{Expected, first_wrong};
use rustix::fs::Advice;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where an entry of an L1 or L2 table leads to.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// In an L2 entry: the cluster is compressed; it reads as zeroes.
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Incompatible features that change what is read here: an external data file, extended L2 entries.
const DATA_FILE: u64 = 1 << 2;
const EXTENDED_L2: u64 = 1 << 4;

/// Compares the state of the snapshot called `name` in the image at `path` with what is expected: content, zeroes between it, and length.
/// Outside of what was written no space may be allocated, except that version 2 needs it to hide a backing file, which must not show through
/// anywhere. The image's pages are dropped from the cache first.
pub(crate) fn verify(path: &Path, name: &str, expected: &Expected) -> Result<(), Failure> {
    let (content, covered, len) = (expected.content, &expected.covered, expected.len);
    let wrong = |why: String| Failure::new(path.display(), "verify", why);
    let failed = |error: io::Error| Failure::io(path.display(), "read to verify", &error);
    let file = File::open(path).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(|e| failed(e.into()))?;
    let image = Image::open(&file).map_err(failed)?;
    let state = image.state(name).map_err(failed)?;
    if state.len != len {
        let found = state.len;
        return Err(wrong(format!(
            "the snapshot's state is {found} bytes long, not {len}"
        )));
    }
    let mut at = 0;
    let mut piece = vec![0; image.piece as usize];
    while at < len {
        let table = state.table(&image, at).map_err(failed)?;
        for index in 0..image.pieces_of_table() {
            if at >= len {
                break;
            }
            let wanted = (len - at).min(image.piece) as usize;
            let place = table.place(&image, index).map_err(failed)?;
            match place {
                Place::At(place) => {
                    if !image.fills_gaps() && !touches(&expected.written, at, wanted as u64) {
                        let why =
                            format!("space is allocated for {wanted} bytes at {at}, in a gap");
                        return Err(wrong(why));
                    }
                    file.read_exact_at(&mut piece[..wanted], place)
                        .map_err(failed)?;
                }
                Place::Nowhere if image.is_backed => {
                    let why = format!("the backing file shows through in {wanted} bytes at {at}");
                    return Err(wrong(why));
                }
                Place::Zero | Place::Nowhere => piece[..wanted].fill(0),
            }
            if let Some(wrong_at) = first_wrong(content, covered, at, &piece[..wanted]) {
                let why = format!("the byte at {wrong_at} is not what was written there");
                return Err(wrong(why).at(wrong_at, 1));
            }
            at += wanted as u64;
        }
    }
    Ok(())
}

/// Whether one of the ascending ranges has a byte in these.
fn touches(covered: &[Piece], at: u64, len: u64) -> bool {
    let next = covered.partition_point(|range| range.end() <= at);
    covered
        .get(next)
        .is_some_and(|range| range.at < at.saturating_add(len))
}

/// What the header says.
struct Image<'a> {
    file: &'a File,
    version: u64,
    /// It names a backing file.
    is_backed: bool,
    cluster: u64,
    /// What an L2 entry, or a bit of an extended one, is for.
    piece: u64,
    l2_entry: u64,
    snapshots: u64,
    snapshots_at: u64,
    disk_size: u64,
}

/// The vmstate area of a snapshot.
struct State {
    len: u64,
    /// The entries of its L1 table from the first one of the area on.
    l1: Vec<u64>,
}

/// Where a piece is.
enum Place {
    /// In the file, from this byte on.
    At(u64),
    /// It reads as zeroes.
    Zero,
    /// Not allocated: a backing file shows through.
    Nowhere,
}

/// The bytes of an L2 table; `None` where there is none.
struct L2(Option<Vec<u8>>);

impl<'a> Image<'a> {
    fn open(file: &'a File) -> io::Result<Self> {
        let mut header = [0; 104];
        let there = file.metadata()?.len().min(104) as usize;
        file.read_exact_at(&mut header[..there], 0)?;
        let version = be32(&header, 4)?;
        if be32(&header, 0)? != 0x5146_49fb || !(2..=3).contains(&version) {
            return Err(bad("not a qcow2 image"));
        }
        let cluster_bits = be32(&header, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(bad("its cluster size is out of range"));
        }
        let features = match version {
            2 => 0,
            _ => be64(&header, 72)?,
        };
        if features & DATA_FILE != 0 {
            return Err(bad("its data is in another file"));
        }
        let cluster = 1 << cluster_bits;
        let extended = features & EXTENDED_L2 != 0;
        Ok(Self {
            file,
            version,
            is_backed: be64(&header, 8)? != 0,
            cluster,
            piece: if extended { cluster / 32 } else { cluster },
            l2_entry: if extended { 16 } else { 8 },
            snapshots: be32(&header, 60)?,
            snapshots_at: be64(&header, 64)?,
            disk_size: be64(&header, 24)?,
        })
    }

    /// Whether what reads as zeroes has to be allocated.
    fn fills_gaps(&self) -> bool {
        self.is_backed && self.version == 2
    }

    fn is_extended(&self) -> bool {
        self.l2_entry == 16
    }

    /// Bytes that one L2 table maps.
    fn span(&self) -> u64 {
        self.cluster / self.l2_entry * self.cluster
    }

    fn pieces_of_table(&self) -> u64 {
        self.span() / self.piece
    }

    fn read(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        if len > 64 << 20 {
            return Err(bad("a table of it is too large"));
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// The state of the snapshot that is called `name`.
    fn state(&self, name: &str) -> io::Result<State> {
        let mut at = self.snapshots_at;
        for _ in 0..self.snapshots {
            let fixed = self.read(at, 40)?;
            let (id, named) = (be16(&fixed, 12)?, be16(&fixed, 14)?);
            let extra = be32(&fixed, 36)?;
            let rest = self.read(at.saturating_add(40), extra + id + named)?;
            let found = rest.get((extra + id) as usize..).unwrap_or_default();
            if found == name.as_bytes() {
                return self.state_of(&fixed, &rest, extra);
            }
            at = at.saturating_add((40 + extra + id + named).next_multiple_of(8));
        }
        Err(bad("it has no such snapshot"))
    }

    fn state_of(&self, fixed: &[u8], rest: &[u8], extra: u64) -> io::Result<State> {
        let len = match extra {
            8.. => be64(rest, 0)?,
            _ => be32(fixed, 32)?,
        };
        let disk_size = match extra {
            16.. => be64(rest, 8)?,
            _ => self.disk_size,
        };
        let entries = be32(fixed, 8)?;
        let l1 = self.read(be64(fixed, 0)?, entries * 8)?;
        let first = disk_size.div_ceil(self.span());
        let area = first..entries.max(first);
        let l1: io::Result<Vec<u64>> = area.map(|index| be64(&l1, index * 8)).collect();
        Ok(State { len, l1: l1? })
    }
}

impl State {
    /// The table for the byte at `at` of the state.
    fn table(&self, image: &Image<'_>, at: u64) -> io::Result<L2> {
        let entry = self.l1.get((at / image.span()) as usize).copied();
        match entry.unwrap_or(0) & OFFSET {
            0 => Ok(L2(None)),
            place => image
                .read(place, image.cluster)
                .map(|bytes| L2(Some(bytes))),
        }
    }
}

impl L2 {
    /// Where piece `index` of the table is.
    fn place(&self, image: &Image<'_>, index: u64) -> io::Result<Place> {
        let Some(bytes) = &self.0 else {
            return Ok(Place::Nowhere);
        };
        let per_entry = image.cluster / image.piece;
        let (number, part) = (index / per_entry, index % per_entry);
        let entry = be64(bytes, number * image.l2_entry)?;
        if entry & COMPRESSED != 0 {
            return Err(bad("a cluster of the state is compressed"));
        }
        let (is_there, is_zero) = match image.is_extended() {
            true => {
                let bitmap = be64(bytes, number * 16 + 8)?;
                (bitmap >> part & 1 == 1, bitmap >> (32 + part) & 1 == 1)
            }
            false => (entry & ZERO == 0, entry & ZERO != 0),
        };
        Ok(match entry & OFFSET {
            place if is_there && place != 0 => Place::At(place + part * image.piece),
            _ if is_zero => Place::Zero,
            _ => Place::Nowhere,
        })
    }
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn field<const N: usize>(bytes: &[u8], at: u64) -> io::Result<[u8; N]> {
    let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
    let found = rest.and_then(|rest| rest.first_chunk());
    found
        .copied()
        .ok_or_else(|| bad("a table of it is too short"))
}

fn be16(bytes: &[u8], at: u64) -> io::Result<u64> {
    Ok(u16::from_be_bytes(field(bytes, at)?).into())
}

fn be32(bytes: &[u8], at: u64) -> io::Result<u64> {
    Ok(u32::from_be_bytes(field(bytes, at)?).into())
}

fn be64(bytes: &[u8], at: u64) -> io::Result<u64> {
    Ok(u64::from_be_bytes(field(bytes, at)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Content;
    use std::fs;

    const CONTENT: Content = Content { seed: 3 };
    const CLUSTER: usize = 512;

    /// An image by hand, clusters of 512 bytes: a snapshot `s` with a state of five clusters past a disk that one L1 entry maps. The
    /// second cluster and the third of the state are a gap.
    fn image() -> (Vec<u8>, Vec<Piece>) {
        let mut image = vec![0; 8 * CLUSTER];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"QFI\xfb\0\0\0\x02");
        put(20, &9u32.to_be_bytes());
        put(24, &512u64.to_be_bytes());
        put(60, &1u32.to_be_bytes());
        put(64, &512u64.to_be_bytes());
        let (table, l1, l2) = (CLUSTER, 2 * CLUSTER, 3 * CLUSTER);
        put(table, &(l1 as u64).to_be_bytes());
        put(table + 8, &2u32.to_be_bytes());
        put(table + 12, &[0, 1, 0, 1]);
        put(table + 36, &16u32.to_be_bytes());
        put(table + 40, &2300u64.to_be_bytes());
        put(table + 48, &512u64.to_be_bytes());
        put(table + 56, b"1s");
        put(l1 + 8, &(l2 as u64 | 1 << 63).to_be_bytes());
        let covered = vec![Piece { at: 0, len: 100 }, Piece { at: 1600, len: 700 }];
        for (cluster, place) in [(0, 4), (3, 5), (4, 7)] {
            let place = place * CLUSTER;
            put(l2 + 8 * cluster, &(place as u64).to_be_bytes());
            for range in &covered {
                for at in range.at..range.end() {
                    let mut byte = [0];
                    CONTENT.fill(at, &mut byte);
                    if at as usize / CLUSTER == cluster {
                        put(place + at as usize % CLUSTER, &byte);
                    }
                }
            }
        }
        (image, covered)
    }

    fn verdict(name: &str, harm: impl FnOnce(&mut Vec<u8>)) -> Result<(), String> {
        let path =
            std::env::temp_dir().join(format!("vmstate-walker-{}-{name}", std::process::id()));
        let (mut image, covered) = image();
        harm(&mut image);
        fs::write(&path, image).unwrap();
        let expected = Expected {
            content: CONTENT,
            written: covered.clone(),
            covered,
            len: 2300,
        };
        let result = verify(&path, "s", &expected);
        fs::remove_file(&path).unwrap();
        result.map_err(|e| e.to_string())
    }

    #[test]
    fn a_state_as_written_is_accepted() {
        verdict("good", |_| {}).unwrap();
    }

    #[test]
    fn gaps_over_a_backing_file_are_zeroes_allocated_in_version_2_only() {
        let backed = |image: &mut Vec<u8>| image[15] = 200;
        verdict("allocated", |image| {
            backed(image);
            image[3 * CLUSTER + 14] = 12; // the second and the third cluster of the state
            image[3 * CLUSTER + 22] = 16;
            image.resize(9 * CLUSTER, 0);
        })
        .unwrap();
        verdict("zero", |image| {
            backed(image);
            image[7] = 3;
            image[3 * CLUSTER + 15] = 1;
            image[3 * CLUSTER + 23] = 1;
        })
        .unwrap();
    }

    #[test]
    fn what_is_wrong_is_found() {
        type Harm = fn(&mut Vec<u8>);
        let harms: [(&str, Harm); 9] = [
            ("the byte at 5 ", |image| image[4 * CLUSTER + 5] ^= 1),
            ("the byte at 2299 ", |image| image[7 * CLUSTER + 251] ^= 1),
            ("the byte at 300 ", |image| image[4 * CLUSTER + 300] = 1),
            // The entry of the fourth cluster is lost; those of the fourth and the fifth are exchanged.
            ("the byte at 1600 ", |image| {
                image[3 * CLUSTER + 24..][..8].fill(0);
            }),
            ("the byte at 1536 ", |image| {
                let (fourth, fifth) = (3 * CLUSTER + 30, 3 * CLUSTER + 38);
                image.swap(fourth, fifth);
            }),
            ("in a gap", |image| image[3 * CLUSTER + 14] = 8),
            (
                "the backing file shows through in 512 bytes at 512",
                |image| {
                    image[15] = 200;
                },
            ),
            ("is 2301 bytes long", |image| {
                image[CLUSTER + 47] += 1;
            }),
            ("no such snapshot", |image| image[CLUSTER + 57] = b't'),
        ];
        for (index, (words, harm)) in harms.into_iter().enumerate() {
            let error = verdict(&index.to_string(), harm).unwrap_err();
            assert!(error.contains(words), "{error:?} should say {words:?}");
        }
    }

    #[test]
    fn a_truncated_image_is_an_error() {
        for len in (0..8 * CLUSTER).step_by(100) {
            let result = verdict("short", |image| image.truncate(len));
            // The last cluster is not read to its end.
            assert!(result.is_err() || len >= 7 * CLUSTER + 252, "{len}");
        }
    }
}
