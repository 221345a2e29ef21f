//! The image file as a check reads it: what lies past its end reads as zeroes, as it does in QEMU.

use crate::qcow2::format::error::{Qcow2Error, Table, io};
use crate::qcow2::format::read_at::ReadAt;
use block_core::{BlockChild, DiskOffset, WriteFlags};
use std::cell::Cell;

/// Bytes of one read of a table that is not needed whole.
pub(crate) const PIECE: u64 = 64 << 10;

/// Bytes of one write.
const WRITE: usize = 1 << 20;

/// The file of an image that nothing else changes.
pub(crate) struct Source<'a> {
    file: &'a BlockChild,
    /// Its length in bytes. Grows with our own writes.
    length: Cell<u64>,
    /// What has to be on disk before anything else is written.
    first: Cell<Option<First>>,
    /// A punch has failed: no more are tried.
    no_holes: Cell<bool>,
}

/// Where, and which bytes.
type First = (u64, [u8; 8]);

impl<'a> Source<'a> {
    pub(crate) async fn new(file: &'a BlockChild) -> Result<Self, Qcow2Error> {
        let length = file.length().await.map_err(io(Table::Header))?;
        Ok(Self {
            file,
            length: Cell::new(length),
            first: Cell::new(None),
            no_holes: Cell::new(false),
        })
    }

    /// Before anything else is written, `bytes` are written at `at` and made stable. Nothing is written for this alone.
    pub(crate) fn write_first(&self, at: u64, bytes: [u8; 8]) {
        self.first.set(Some((at, bytes)));
    }

    /// Nothing waits for a first write.
    pub(crate) fn first_is_written(&self) -> bool {
        self.first.get().is_none()
    }

    /// The file's end as QEMU sees it, which counts in sectors.
    pub(crate) fn end(&self) -> u64 {
        self.length.get().next_multiple_of(512)
    }

    /// Writes `src` at `at`. The file grows where it ends before that.
    pub(crate) async fn write(&self, what: Table, at: u64, src: &[u8]) -> Result<(), Qcow2Error> {
        if let Some((at, bytes)) = self.first.get() {
            let written = self
                .file
                .pwrite(DiskOffset(at), &bytes, WriteFlags::default());
            written.await.map_err(io(Table::Header))?;
            self.flush(Table::Header).await?;
            self.first.set(None);
        }
        let mut place = at;
        for piece in src.chunks(WRITE) {
            let written = self
                .file
                .pwrite(DiskOffset(place), piece, WriteFlags::default());
            written.await.map_err(io(what))?;
            place = place.saturating_add(piece.len() as u64);
            self.length.set(self.length.get().max(place));
        }
        Ok(())
    }

    /// Gives the space of bytes that nothing uses back to the host. A hint: a failure changes nothing, and ends later attempts. Block devices keep
    /// their content.
    pub(crate) async fn punch(&self, at: u64, len: u64) {
        let there = self.length.get().saturating_sub(at).min(len);
        if there == 0 || self.no_holes.get() || !self.file.grows() {
            return;
        }
        let punched = self.file.pdiscard(DiskOffset(at), there).await;
        self.no_holes.set(punched.is_err());
    }

    /// Makes what was written stable.
    pub(crate) async fn flush(&self, what: Table) -> Result<(), Qcow2Error> {
        self.file.flush().await.map_err(io(what))
    }
}

impl ReadAt for Source<'_> {
    fn length(&self) -> u64 {
        self.length.get()
    }

    async fn read(&self, what: Table, at: u64, dst: &mut [u8]) -> Result<(), Qcow2Error> {
        let there = self.length.get().saturating_sub(at).min(dst.len() as u64);
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(dst.len());
        let (head, tail) = dst.split_at_mut(there);
        tail.fill(0);
        if head.is_empty() {
            return Ok(());
        }
        let read = self.file.pread(DiskOffset(at), head).await;
        read.map_err(io(what))
    }
}

/// A buffer of `bytes` zeroes, or the error that says for what there is no memory.
pub(crate) fn buffer(what: Table, bytes: u64) -> Result<Vec<u8>, Qcow2Error> {
    let error = || Qcow2Error::OutOfMemory { what, bytes };
    let len = usize::try_from(bytes).map_err(|_| error())?;
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| error())?;
    buffer.resize(len, 0);
    Ok(buffer)
}

/// Reads the table of 8-byte entries at `at` piece by piece.
pub(crate) struct Entries<'a, 'b> {
    source: &'b Source<'a>,
    what: Table,
    at: u64,
    next: u64,
    count: u64,
    piece: Vec<u8>,
}

impl<'a, 'b> Entries<'a, 'b> {
    /// The `count` entries from `at` on.
    pub(crate) fn new(source: &'b Source<'a>, what: Table, at: u64, count: u64) -> Self {
        Self {
            source,
            what,
            at,
            next: 0,
            count,
            piece: Vec::new(),
        }
    }

    /// The index of the first of some more entries, and these; `None` past the last.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Vec<u64>)>, Qcow2Error> {
        let first = self.next;
        let entries = (self.count - first).min(PIECE / 8);
        if entries == 0 {
            return Ok(None);
        }
        self.piece.resize((entries * 8) as usize, 0); // at most PIECE
        let at = self.at.saturating_add(first * 8);
        self.source.read(self.what, at, &mut self.piece).await?;
        self.next += entries;
        let (numbers, _) = self.piece.as_chunks();
        let numbers = numbers.iter().map(|bytes| u64::from_be_bytes(*bytes));
        Ok(Some((first, numbers.collect())))
    }
}
