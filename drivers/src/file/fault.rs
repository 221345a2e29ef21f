//! System calls that fail, fall short, wait or panic at a chosen moment, for tests. Everything else is the real call.

use super::sys::{DioAlign, Os, Sys};
use aio_task::edge::{Arc, Counter};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, PipeReader, PipeWriter, Read, Write};

/// Which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
    WriteDsync,
    Sync,
    Fallocate,
    Truncate,
    Size,
    Seek,
    DioAlign,
    SetDirect,
}

const CALLS: usize = 10;

/// What happens instead of the call, or before it.
pub(crate) enum Fault {
    /// It fails and has no effect.
    Fails(Errno),
    /// It moves this many bytes (at most as many as asked).
    Moves(usize),
    /// It answers this number and has no effect.
    Answers(u64),
    /// It succeeds and has no effect.
    Nothing,
    /// It panics.
    Panics,
    /// It tells that it has come, and waits until it is let go.
    Waits(Gate),
    /// The file is given this length first, as if another process did it.
    Resized(u64),
}

/// The side of a waiting call.
pub(crate) struct Gate {
    come: PipeWriter,
    go: PipeReader,
}

/// The test's side of a waiting call.
pub(crate) struct Held {
    come: PipeReader,
    go: PipeWriter,
}

pub(crate) fn gate() -> (Gate, Held) {
    let (come_here, come) = std::io::pipe().expect("pipe");
    let (go, go_there) = std::io::pipe().expect("pipe");
    (
        Gate { come, go },
        Held {
            come: come_here,
            go: go_there,
        },
    )
}

impl Held {
    /// Blocks until the call has come.
    pub(crate) fn wait(&mut self) {
        self.come.read_exact(&mut [0]).expect("the call comes");
    }

    /// Lets the call go on.
    pub(crate) fn release(mut self) {
        self.go.write_all(&[0]).expect("the call is there");
    }
}

/// The calls with their faults. Shared with the test, which looks at the counts.
pub(crate) struct Script {
    faults: Vec<(Call, u64, Fault)>,
    counts: [Counter; CALLS],
    /// O_DIRECT is not set, but its rules are kept: offsets, lengths and addresses must be multiples of this, else EINVAL.
    strict: Option<u32>,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self {
            faults: Vec::new(),
            counts: std::array::from_fn(|_| Counter::new()),
            strict: None,
        }
    }

    /// The `nth` call of this kind (0: the first) meets `fault`.
    pub(crate) fn at(mut self, call: Call, nth: u64, fault: Fault) -> Self {
        self.faults.push((call, nth, fault));
        self
    }

    /// As a file system that keeps the rules of direct I/O, whether or not this one does.
    pub(crate) fn strict(mut self, block: u32) -> Self {
        self.strict = Some(block);
        self
    }

    pub(crate) fn share(self) -> Arc<Self> {
        Arc::new(self)
    }

    /// Calls of this kind so far.
    pub(crate) fn count(&self, call: Call) -> u64 {
        self.counts[call as usize].get()
    }

    /// Counts the call, and finds its fault.
    fn meet(&self, call: Call, file: &File) -> Option<&Fault> {
        let nth = self.count(call);
        self.counts[call as usize].add(1);
        let fault = self
            .faults
            .iter()
            .find(|(c, n, _)| (*c, *n) == (call, nth))
            .map(|(.., f)| f);
        match fault {
            Some(Fault::Panics) => panic!("a fault of the test"),
            Some(Fault::Waits(gate)) => {
                (&gate.come).write_all(&[0]).expect("the test waits");
                // The test's side may also just go away.
                let _ = (&gate.go).read(&mut [0]);
                None
            }
            Some(Fault::Resized(len)) => {
                Os.ftruncate(file, *len).expect("resize");
                None
            }
            fault => fault,
        }
    }

    /// For calls that give nothing back.
    fn plain(
        &self,
        call: Call,
        file: &File,
        real: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        match self.meet(call, file) {
            Some(Fault::Fails(errno)) => Err(*errno),
            Some(Fault::Nothing) => Ok(()),
            Some(_) => panic!("this fault means nothing for {call:?}"),
            None => real(),
        }
    }

    fn strict_about(
        &self,
        at: u64,
        pieces: impl Iterator<Item = (usize, usize)>,
    ) -> Result<(), Errno> {
        let Some(block) = self.strict else {
            return Ok(());
        };
        let block = block as usize;
        let mut fits = at.is_multiple_of(block as u64);
        for (address, len) in pieces {
            fits &= address.is_multiple_of(block) && len.is_multiple_of(block);
        }
        if fits { Ok(()) } else { Err(Errno::INVAL) }
    }

    fn write(
        &self,
        call: Call,
        file: &File,
        from: &[IoSlice<'_>],
        at: u64,
        real: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let fault = self.meet(call, file);
        self.strict_about(at, from.iter().map(|p| (p.as_ptr() as usize, p.len())))?;
        match fault {
            Some(Fault::Fails(errno)) => Err(*errno),
            Some(Fault::Moves(0)) => Ok(0),
            Some(Fault::Moves(limit)) => {
                let mut left = *limit;
                let cut = from.iter().map(|piece| {
                    let len = piece.len().min(left);
                    left -= len;
                    IoSlice::new(&piece[..len])
                });
                real(&cut.collect::<Vec<_>>())
            }
            Some(_) => panic!("this fault means nothing for {call:?}"),
            None => real(from),
        }
    }
}

impl Sys for Script {
    fn preadv(&self, file: &File, to: &mut [IoSliceMut<'_>], at: u64) -> Result<usize, Errno> {
        let fault = self.meet(Call::Read, file);
        if at >= Os.stat_size(file)? {
            return Ok(0); // before any look at alignments, as iomap does it
        }
        self.strict_about(at, to.iter().map(|p| (p.as_ptr() as usize, p.len())))?;
        match fault {
            Some(Fault::Fails(errno)) => Err(*errno),
            Some(Fault::Moves(limit)) => {
                let mut left = *limit;
                let cut = to.iter_mut().map(|piece| {
                    let len = piece.len().min(left);
                    left -= len;
                    IoSliceMut::new(&mut piece[..len])
                });
                let mut cut: Vec<_> = cut.collect();
                Os.preadv(file, &mut cut, at)
            }
            Some(_) => panic!("this fault means nothing for a read"),
            None => Os.preadv(file, to, at),
        }
    }

    fn pwritev(&self, file: &File, from: &[IoSlice<'_>], at: u64) -> Result<usize, Errno> {
        self.write(Call::Write, file, from, at, |from| {
            Os.pwritev(file, from, at)
        })
    }

    fn pwritev_dsync(&self, file: &File, from: &[IoSlice<'_>], at: u64) -> Result<usize, Errno> {
        self.write(Call::WriteDsync, file, from, at, |from| {
            Os.pwritev_dsync(file, from, at)
        })
    }

    fn fdatasync(&self, file: &File) -> Result<(), Errno> {
        self.plain(Call::Sync, file, || Os.fdatasync(file))
    }

    fn fallocate(&self, file: &File, mode: FallocateFlags, at: u64, len: u64) -> Result<(), Errno> {
        self.plain(Call::Fallocate, file, || Os.fallocate(file, mode, at, len))
    }

    fn ftruncate(&self, file: &File, len: u64) -> Result<(), Errno> {
        self.plain(Call::Truncate, file, || Os.ftruncate(file, len))
    }

    fn stat_size(&self, file: &File) -> Result<u64, Errno> {
        match self.meet(Call::Size, file) {
            Some(Fault::Fails(errno)) => Err(*errno),
            Some(Fault::Answers(size)) => Ok(*size),
            Some(_) => panic!("this fault means nothing for the size"),
            None => Os.stat_size(file),
        }
    }

    fn seek(&self, file: &File, to: SeekFrom) -> Result<u64, Errno> {
        match self.meet(Call::Seek, file) {
            Some(Fault::Fails(errno)) => Err(*errno),
            Some(Fault::Answers(to)) => Ok(*to),
            Some(_) => panic!("this fault means nothing for a seek"),
            None => Os.seek(file, to),
        }
    }

    fn dio_align(&self, file: &File) -> Option<DioAlign> {
        match (self.meet(Call::DioAlign, file), self.strict) {
            (Some(_), _) => None,
            (None, Some(block)) => Some(DioAlign {
                memory: block,
                offset: block,
            }),
            (None, None) => Os.dio_align(file),
        }
    }

    fn set_direct(&self, file: &File) -> Result<(), Errno> {
        self.plain(Call::SetDirect, file, || match self.strict {
            Some(_) => Ok(()),
            None => Os.set_direct(file),
        })
    }
}
