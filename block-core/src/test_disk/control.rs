//! The test's end of the disk.

use super::Record;
use super::crash::{CrashLog, Keep};
use super::fault::Failure;
use super::state::State;
use super::store::Store;
use crate::{Errno, Op, SnapshotInfo};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// The knobs; they stay usable after the driver has gone into a node, and after it is gone. Clones turn the same knobs.
///
/// A range is bytes of the disk, or of the vmstate area for vmstate operations; flush, truncate, length, finish, discard of the vmstate,
/// snapshot operations and close touch every range.
#[derive(Clone)]
pub struct TestDiskControl {
    state: Rc<RefCell<State>>,
}

impl std::fmt::Debug for TestDiskControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestDiskControl")
            .field("in_flight", &self.in_flight())
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

/// Holding and releasing.
impl TestDiskControl {
    pub(super) fn new(state: Rc<RefCell<State>>) -> Self {
        Self { state }
    }

    /// From now on driver calls of `op` that touch `range` wait until released.
    pub fn hold(&self, op: Op, range: Range<u64>) {
        self.state.borrow_mut().holds.push((Some(op), range));
    }

    /// Every call waits, close included; but not those that ask for the length, which say nothing of the order of I/O.
    pub fn hold_all(&self) {
        self.state.borrow_mut().holds.push((None, 0..u64::MAX));
    }

    /// No new call waits; those held stay held.
    pub fn stop_holding(&self) {
        self.state.borrow_mut().holds.clear();
    }

    /// Held calls in the order they came.
    pub fn held(&self) -> Vec<Record> {
        self.state.borrow().held().cloned().collect()
    }

    /// Lets one go on (its effect happens at this moment: releasing in another order reorders). False if no such call is held.
    pub fn release(&self, id: u64) -> bool {
        self.end(id, None)
    }

    /// As [`TestDiskControl::release`], but the call fails with `errno`, without effect.
    pub fn fail_held(&self, id: u64, errno: Errno) -> bool {
        self.end(id, Some(Failure { errno, after: 0 }))
    }

    /// Releases those that are held now, in the order they came; how many.
    pub fn release_all(&self) -> usize {
        let held = self.held();
        held.iter().filter(|record| self.release(record.id)).count()
    }

    fn end(&self, id: u64, failure: Option<Failure>) -> bool {
        let released = self.state.borrow_mut().release(id, failure);
        let found = released.is_some();
        if let Some(waker) = released.flatten() {
            waker.wake();
        }
        found
    }

    /// Calls that are held: whether or not their futures still live.
    pub fn in_flight(&self) -> usize {
        self.state.borrow().held().count()
    }
}

/// Failing.
impl TestDiskControl {
    /// The `nth` (0 = next) call of `op` from now on fails with `errno`, without effect.
    pub fn fail_nth(&self, op: Op, nth: u64, errno: Errno) {
        self.short_nth(op, nth, 0, errno);
    }

    /// Every call of `op` that touches `range` and arrives from now on fails until cleared, without effect.
    pub fn fail_range(&self, op: Op, range: Range<u64>, errno: Errno) {
        self.state.borrow_mut().faults.range(op, range, errno);
    }

    /// The nth call of `op` moves only its first `bytes` bytes and then fails with `errno` (a torn write, a partial read).
    pub fn short_nth(&self, op: Op, nth: u64, bytes: u64, errno: Errno) {
        let failure = Failure {
            errno,
            after: bytes,
        };
        self.state.borrow_mut().faults.nth(op, nth, failure);
    }

    /// No fault is left for calls that arrive from now on; those chosen for held calls stay.
    pub fn clear_faults(&self) {
        self.state.borrow_mut().faults = Default::default();
    }

    /// Calls that failed because a test said so.
    pub fn faults_fired(&self) -> u64 {
        self.state.borrow().faults_fired
    }

    /// From now on the driver answers `op` with "not supported" (`yes` false) or does it (the default). Such an answer is no fault.
    pub fn support(&self, op: Op, yes: bool) {
        let unsupported = &mut self.state.borrow_mut().unsupported;
        unsupported.retain(|o| *o != op);
        if !yes {
            unsupported.push(op);
        }
    }
}

/// Looking.
impl TestDiskControl {
    /// The calls so far, in the order of arrival, without those that asked for the length.
    pub fn records(&self) -> Vec<Record> {
        self.state.borrow().records.clone()
    }

    /// As [`TestDiskControl::records`]; also empties the list.
    pub fn take_records(&self) -> Vec<Record> {
        std::mem::take(&mut self.state.borrow_mut().records)
    }

    /// The calls of `op` so far, in the order of arrival.
    pub fn records_of(&self, op: Op) -> Vec<Record> {
        let state = self.state.borrow();
        state
            .records
            .iter()
            .filter(|r| r.op == op)
            .cloned()
            .collect()
    }

    /// How often the length was asked for.
    pub fn length_calls(&self) -> u64 {
        self.state.borrow().length_calls
    }

    /// Writes (zeroes and discards included) that arrived while another that touches the same bytes was held: their order is undefined.
    pub fn overlapping_writes(&self) -> u64 {
        self.state.borrow().overlapping_writes
    }

    /// The driver's close has taken effect.
    pub fn is_closed(&self) -> bool {
        self.state.borrow().closed
    }

    /// The driver itself is gone, and with it the node.
    pub fn is_dropped(&self) -> bool {
        self.state.borrow().driver_dropped
    }
}

/// Contents.
impl TestDiskControl {
    /// The disk's bytes. Panics above 4 GiB: read through a node there.
    pub fn contents(&self) -> Vec<u8> {
        self.state.borrow().disk.to_vec()
    }

    /// The disk's length in bytes.
    pub fn len(&self) -> u64 {
        self.state.borrow().disk.len()
    }

    /// True if the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes these the disk's bytes, and their number its length. Stable, where crashes are tracked.
    pub fn set_contents(&self, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        state.disk = Store::from_bytes(bytes);
        if state.crash.is_some() {
            state.crash = Some(CrashLog::new(state.disk.clone()));
        }
    }

    /// The vmstate area's bytes.
    pub fn vmstate_contents(&self) -> Vec<u8> {
        self.state.borrow().vmstate.to_vec()
    }

    /// Makes these the bytes of the vmstate area, and their number the length that is stored.
    pub fn set_vmstate_contents(&self, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        state.vmstate = Store::from_bytes(bytes);
        state.vmstate_length = Some(bytes.len() as u64);
    }

    /// What `finish_vmstate` was told last, if the state is not a snapshot's now.
    pub fn vmstate_length(&self) -> Option<u64> {
        self.state.borrow().vmstate_length
    }
}

/// Snapshots.
impl TestDiskControl {
    /// The snapshots there are, in the order they were made.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.state.borrow().snapshots.infos()
    }

    /// The knobs of the views that were made, in that order.
    pub fn views(&self) -> Vec<Self> {
        let state = self.state.borrow();
        let views = state.views.iter();
        views.map(|view| Self::new(Rc::clone(view))).collect()
    }
}

/// Crashing. The disk's bytes only: the vmstate area is not tracked.
impl TestDiskControl {
    /// From now on what is not flushed may get lost in a crash; what is on the disk now is stable. Keeps a copy of every later write until
    /// it is flushed.
    pub fn track_crashes(&self) {
        let mut state = self.state.borrow_mut();
        state.crash = Some(CrashLog::new(state.disk.clone()));
    }

    /// The changes that a crash now could lose, in the order in which they took effect, and after them the held ones, which could already
    /// have taken effect. FUA writes that ended are not among them. Empty where crashes are not tracked.
    pub fn unflushed(&self) -> Vec<Record> {
        let state = self.state.borrow();
        let Some(crash) = &state.crash else {
            return Vec::new();
        };
        let held = state.held_changes().into_iter().map(|(record, _)| record);
        crash.unflushed().cloned().chain(held).collect()
    }

    /// The disk's bytes after a crash at this moment: those of the last flush, then what `keep` says of each of
    /// [`TestDiskControl::unflushed`], in that order. The disk itself goes on as if nothing had happened. Without
    /// [`TestDiskControl::track_crashes`] nothing can be lost, and `keep` is asked about held changes only.
    ///
    /// A flush promises what had taken effect when it arrived at the disk; a write that ended while it was held may still be lost.
    pub fn contents_after_crash<K: Into<Keep>>(
        &self,
        mut keep: impl FnMut(&Record) -> K,
    ) -> Vec<u8> {
        // The borrow is over before the test's closure runs.
        let (mut image, changes, held, grows) = {
            let state = self.state.borrow();
            let (stable, changes) = match &state.crash {
                Some(crash) => (crash.stable(), crash.changes()),
                None => (state.disk.clone(), Vec::new()),
            };
            (stable, changes, state.held_changes(), state.options.grows)
        };
        let ended = changes
            .into_iter()
            .map(|(record, change)| (record.fua, record, change));
        let held = held
            .into_iter()
            .map(|(record, change)| (false, record, change));
        for (stable, record, change) in ended.chain(held) {
            let part = match if stable {
                Keep::All
            } else {
                keep(&record).into()
            } {
                Keep::Nothing => 0..0,
                Keep::All => 0..u64::MAX,
                Keep::Part(part) => part,
            };
            change.apply(&mut image, grows, part);
        }
        image.to_vec()
    }
}
