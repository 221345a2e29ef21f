//! What may be on the disk after a crash: everything of the last flush, and any part of what came later.

use super::Record;
use super::request::Work;
use super::store::Store;
use std::ops::Range;

/// What of a write has reached the medium when the machine stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Not a byte.
    Nothing,
    /// All of it.
    All,
    /// A torn write: only these bytes of it, counted from its first one.
    Part(Range<u64>),
}

impl From<bool> for Keep {
    fn from(all: bool) -> Self {
        if all { Self::All } else { Self::Nothing }
    }
}

/// What a call changes on the disk.
#[derive(Clone)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    Truncate(u64),
}

impl Change {
    /// The first `moved` bytes of what the call does; `None` if it changes nothing.
    pub(super) fn of(record: &Record, work: &Work, moved: u64) -> Option<Self> {
        match work {
            Work::Write(src) => Some(Self::Write(record.offset, src.slice(0..moved).to_vec())),
            Work::Zero => Some(Self::Zero(record.offset, moved)),
            Work::Truncate => Some(Self::Truncate(record.len)),
            _ => None,
        }
    }

    /// Does the bytes `part` of it.
    pub(super) fn apply(&self, store: &mut Store, grows: bool, part: Range<u64>) {
        match self {
            Self::Write(at, bytes) => {
                let end = part.end.min(bytes.len() as u64);
                let from = part.start.min(end);
                if grows && from < end {
                    store.grow_to(at + end);
                }
                store.write(at + from, &bytes[from as usize..end as usize]);
            }
            Self::Zero(at, len) => {
                let end = part.end.min(*len);
                let from = part.start.min(end);
                if grows && from < end {
                    store.grow_to(at + end);
                }
                store.zero(at + from, end - from);
            }
            // A length changes at once or not at all.
            Self::Truncate(len) if part.start < part.end => store.set_len(*len),
            Self::Truncate(_) => {}
        }
    }
}

/// The disk as of the last flush, and every change that took effect since, in order.
pub(super) struct CrashLog {
    stable: Store,
    changes: Vec<(u64, Record, Change)>,
    /// The number of the next change.
    next: u64,
}

impl CrashLog {
    pub(super) fn new(stable: Store) -> Self {
        Self {
            stable,
            changes: Vec::new(),
            next: 0,
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.next
    }

    pub(super) fn push(&mut self, record: Record, change: Change) {
        self.changes.push((self.next, record, change));
        self.next += 1;
    }

    /// A flush that arrived at `position` has ended: what had taken effect before it arrived is stable. What came while it was in flight
    /// is not promised by it.
    pub(super) fn flush(&mut self, position: u64, grows: bool) {
        let later = self.changes.partition_point(|(n, ..)| *n < position);
        for (.., change) in self.changes.drain(..later) {
            change.apply(&mut self.stable, grows, 0..u64::MAX);
        }
    }

    /// The disk has other bytes now, all of them stable.
    pub(super) fn replace(&mut self, stable: Store) {
        self.stable = stable;
        self.changes.clear();
    }

    pub(super) fn stable(&self) -> Store {
        self.stable.clone()
    }

    /// Without those that are stable by themselves (FUA).
    pub(super) fn unflushed(&self) -> impl Iterator<Item = &Record> {
        self.changes.iter().map(|(_, r, _)| r).filter(|r| !r.fua)
    }

    pub(super) fn changes(&self) -> Vec<(Record, Change)> {
        self.changes
            .iter()
            .map(|(_, r, c)| (r.clone(), c.clone()))
            .collect()
    }
}
