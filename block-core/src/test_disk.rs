//! A disk in memory with knobs, for tests: hold, fail the nth, short transfers, reorder, record. Deterministic; no threads.
#![allow(
    clippy::todo,
    unused_variables,
    missing_docs,
    reason = "shape first; bodies and docs follow"
)]

use crate::*;
use std::ops::Range;

/// How the disk is made.
#[derive(Clone, Debug)]
pub struct TestDiskOptions {
    pub len: u64,
    pub limits: BlockLimits,
    /// A write behind the end grows it, as a file does.
    pub grows: bool,
    pub supports_fua: bool,
    /// `Some`: it has a vmstate area of its own (a second byte array). `None`: vmstate calls go to a child, or nowhere.
    pub vmstate: Option<VmstateLimits>,
}

/// The driver. Panics (a test's failure) if a request violates the limits: that is the node's bug.
pub struct TestDisk {
    _todo: (),
}
/// The knobs; stays usable after the driver has gone into a node. Clone.
#[derive(Clone)]
pub struct TestDiskControl {
    _todo: (),
}

/// One driver call as it came, in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub id: u64,
    pub op: Op,
    pub offset: u64,
    pub len: u64,
    pub fua: bool,
}

impl TestDisk {
    pub fn new(options: TestDiskOptions) -> (TestDisk, TestDiskControl) {
        todo!()
    }
}

impl TestDiskControl {
    /// From now on driver calls of `op` that touch `range` wait until released.
    pub fn hold(&self, op: Op, range: Range<u64>) {
        todo!()
    }
    /// Every call waits.
    pub fn hold_all(&self) {
        todo!()
    }
    /// No new call waits; those held stay held.
    pub fn stop_holding(&self) {
        todo!()
    }
    /// Held calls in the order they came.
    pub fn held(&self) -> Vec<Record> {
        todo!()
    }
    /// Lets one go on (its effect happens at this moment: releasing in another order reorders).
    pub fn release(&self, id: u64) -> bool {
        todo!()
    }
    pub fn release_all(&self) -> usize {
        todo!()
    }
    /// The `nth` (0 = next) call of `op` from now on fails with `errno`, without effect.
    pub fn fail_nth(&self, op: Op, nth: u64, errno: Errno) {
        todo!()
    }
    /// Every call of `op` that touches `range` fails until cleared.
    pub fn fail_range(&self, op: Op, range: Range<u64>, errno: Errno) {
        todo!()
    }
    pub fn clear_faults(&self) {
        todo!()
    }
    /// The nth call of `op` moves only `bytes` bytes and then fails with errno (a torn write / partial read).
    pub fn short_nth(&self, op: Op, nth: u64, bytes: u64, errno: Errno) {
        todo!()
    }
    /// The calls so far; `take_records` also empties the list.
    pub fn records(&self) -> Vec<Record> {
        todo!()
    }
    pub fn take_records(&self) -> Vec<Record> {
        todo!()
    }
    pub fn faults_fired(&self) -> u64 {
        todo!()
    }
    pub fn in_flight(&self) -> usize {
        todo!()
    }
    pub fn contents(&self) -> Vec<u8> {
        todo!()
    }
    pub fn set_contents(&self, bytes: &[u8]) {
        todo!()
    }
    /// The vmstate area's bytes.
    pub fn vmstate_contents(&self) -> Vec<u8> {
        todo!()
    }
    /// What `finish_vmstate` was told last.
    pub fn vmstate_length(&self) -> Option<u64> {
        todo!()
    }
}

impl BlockDriver for TestDisk {
    fn format_name(&self) -> &'static str {
        "test-disk"
    }
    fn limits(&self) -> BlockLimits {
        todo!()
    }
    async fn length(&self) -> Result<u64> {
        todo!()
    }
    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        todo!()
    }
    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        todo!()
    }
    async fn flush(&self) -> Result<()> {
        todo!()
    }
}
