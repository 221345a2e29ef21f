//! Which calls fail. Chosen at arrival, so that a test can count calls without knowing when they take effect.

use crate::{Errno, Op};
use std::ops::Range;

/// How a call fails.
#[derive(Clone, Copy)]
pub(super) struct Failure {
    pub(super) errno: Errno,
    /// How many bytes are moved before it does.
    pub(super) after: u64,
}

/// The faults that wait for their call.
#[derive(Default)]
pub(super) struct Faults {
    /// Each fires once.
    nth: Vec<Nth>,
    /// Each fires for every call that touches it.
    ranges: Vec<(Op, Range<u64>, Errno)>,
}

struct Nth {
    op: Op,
    /// Calls of `op` to let pass before.
    left: u64,
    failure: Failure,
}

impl Faults {
    pub(super) fn nth(&mut self, op: Op, left: u64, failure: Failure) {
        self.nth.push(Nth { op, left, failure });
    }

    pub(super) fn range(&mut self, op: Op, range: Range<u64>, errno: Errno) {
        self.ranges.push((op, range, errno));
    }

    /// The failure of a call that arrives now, if it has one. Two that wait for the same call fire one after the other.
    pub(super) fn choose(&mut self, op: Op, offset: u64, len: u64) -> Option<Failure> {
        let due = self.nth.iter().position(|f| f.op == op && f.left == 0);
        let fired = due.map(|i| self.nth.remove(i).failure);
        for fault in self.nth.iter_mut().filter(|f| f.op == op) {
            fault.left = fault.left.saturating_sub(1);
        }
        fired.or_else(|| {
            let hit = |(o, range, _): &&(Op, Range<u64>, Errno)| {
                *o == op && touches(op, range, offset, len)
            };
            self.ranges.iter().find(hit).map(|(.., errno)| Failure {
                errno: *errno,
                after: 0,
            })
        })
    }
}

/// True if the call touches `range`; calls without a range of their own touch every range.
pub(super) fn touches(op: Op, range: &Range<u64>, offset: u64, len: u64) -> bool {
    let ranged = !matches!(
        op,
        Op::Flush
            | Op::Length
            | Op::Truncate
            | Op::FinalizeVmstate
            | Op::DiscardVmstate
            | Op::SnapshotCreate
            | Op::SnapshotGoto
            | Op::SnapshotDelete
            | Op::SnapshotList
            | Op::SnapshotLoad
            | Op::Close
    );
    !ranged || offset < range.end && offset.saturating_add(len) > range.start
}
