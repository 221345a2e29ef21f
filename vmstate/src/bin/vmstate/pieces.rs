//! Content that was made before the clock starts, and is there when its piece's turn comes.
//!
//! It lies in a file in memory (sparse, of the state's shape), so that it is never part of the process that is measured. A thread reads a few
//! batches of pieces ahead: where a machine's memory would simply be there, the context must not spend its time on fetching it.
use crate::content::Content;
use crate::failure::Failure;
use crate::stdio::lost;
use crate::trace::{Piece, Trace};
use aio_task::edge::Arc;
use aio_task::{Job, WorkerPool};
use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// A batch ends with the piece that makes it this long in bytes, or with this many pieces.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_PIECES: usize = 4096;

/// Batches that are read ahead of the one in use.
const AHEAD: usize = 2;

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

/// Reads the pieces of a trace from such a file, in the order of the trace.
pub(crate) struct Pieces {
    trace: Arc<Trace>,
    file: Arc<File>,
    reader: WorkerPool,
    /// The first piece that no job was started for.
    next: usize,
    /// Pieces that are being read, in the order of the trace.
    ahead: VecDeque<(Range<usize>, Job<Read>)>,
}

/// The bytes of some pieces, or why they could not be read.
type Read = (Vec<u8>, io::Result<()>);

/// Some pieces that follow one another in the trace, and their bytes.
pub(crate) struct Batch {
    trace: Arc<Trace>,
    pieces: Range<usize>,
    /// Those of all pieces, one after the other.
    bytes: Vec<u8>,
}

impl Pieces {
    /// Starts to read.
    pub(crate) fn new(file: File, trace: Trace) -> Self {
        let mut pieces = Self {
            trace: Arc::new(trace),
            file: Arc::new(file),
            reader: WorkerPool::new(NonZeroUsize::MIN),
            next: 0,
            ahead: VecDeque::new(),
        };
        for _ in 0..AHEAD {
            pieces.start(Vec::new());
        }
        pieces
    }

    /// The next batch; `None` at the end of the trace. `used` is the one before it, whose memory is used again.
    pub(crate) async fn next(&mut self, used: Option<Batch>) -> Result<Option<Batch>, Failure> {
        self.start(used.map(|batch| batch.bytes).unwrap_or_default());
        let Some((pieces, job)) = self.ahead.pop_front() else {
            return Ok(None);
        };
        let (bytes, result) = job.await.map_err(|e| lost("stdin", &e))?;
        result.map_err(|e| {
            let piece = &self.trace.pieces[pieces.start];
            Failure::io("stdin", "read content", &e).at(piece.at, piece.len)
        })?;
        let trace = self.trace.clone();
        Ok(Some(Batch {
            trace,
            pieces,
            bytes,
        }))
    }

    /// Has the next batch read into `memory`, if there is one.
    fn start(&mut self, mut memory: Vec<u8>) {
        let first = self.next;
        let mut len = 0;
        while let Some(piece) = self.trace.pieces.get(self.next)
            && len < BATCH_BYTES
            && self.next - first < BATCH_PIECES
        {
            len += piece.len;
            self.next += 1;
        }
        let pieces = first..self.next;
        if pieces.is_empty() {
            return;
        }
        let (trace, file, range) = (self.trace.clone(), self.file.clone(), pieces.clone());
        let job = self.reader.run(move || {
            memory.resize(len as usize, 0);
            let result = read(&file, &trace.pieces[range], &mut memory);
            (memory, result)
        });
        self.ahead.push_back((pieces, job));
    }
}

impl Batch {
    /// The pieces with their bytes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Piece, &[u8])> {
        let mut rest = self.bytes.as_slice();
        self.trace.pieces[self.pieces.clone()]
            .iter()
            .map(move |piece| {
                let (bytes, after) = rest.split_at(piece.len as usize);
                rest = after;
                (*piece, bytes)
            })
    }
}

/// Reads all `pieces`, those that touch each other at once.
fn read(file: &File, mut pieces: &[Piece], mut memory: &mut [u8]) -> io::Result<()> {
    while let Some(first) = pieces.first() {
        let touching = pieces
            .windows(2)
            .take_while(|pair| pair[0].end() == pair[1].at);
        let (run, rest) = pieces.split_at(1 + touching.count());
        let len: u64 = run.iter().map(|piece| piece.len).sum();
        let (now, later) = memory.split_at_mut(len as usize);
        file.read_exact_at(now, first.at)?;
        (pieces, memory) = (rest, later);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aio_task::AioContext;

    #[test]
    fn each_piece_comes_in_its_turn_with_the_content_of_its_place() {
        let content = Content { seed: 5 };
        // Two ascending streams with gaps, a piece longer than a batch, and more short ones than a batch takes.
        let mut pieces = vec![Piece {
            at: 9_000_000,
            len: 3 << 20,
        }];
        for n in 0..6_000u64 {
            let at = n * 17 + n / 100 * 50;
            pieces.push(Piece { at, len: 17 });
            pieces.extend((n % 9 == 0).then_some(Piece {
                at: 4_000_000 + n * 300,
                len: 2_700,
            }));
        }
        let trace = Trace { pieces };
        let expected = trace.pieces.clone();
        let file = make(content, &trace.covered()).unwrap();
        let mut reader = Pieces::new(file, trace);
        let context = AioContext::new().unwrap();
        let found = context.block_on(async {
            let (mut found, mut used) = (Vec::new(), None);
            while let Some(batch) = reader.next(used).await.unwrap() {
                for (piece, bytes) in batch.iter() {
                    assert_eq!(content.mismatch(piece.at, bytes), None);
                    assert_eq!(bytes.len() as u64, piece.len);
                    found.push(piece);
                }
                used = Some(batch);
            }
            found
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn content_that_ends_too_early_is_an_error() {
        let pieces = vec![Piece { at: 0, len: 100 }];
        let file = make(Content { seed: 5 }, &[Piece { at: 0, len: 99 }]).unwrap();
        let mut reader = Pieces::new(file, Trace { pieces });
        let context = AioContext::new().unwrap();
        assert!(context.block_on(reader.next(None)).is_err());
    }
}
