//! A disk in memory with knobs, for tests: hold, fail the nth, short transfers, reorder, record, crash. Deterministic; no threads.
//!
//! 1. [`TestDisk::new`] makes the driver, which goes into a node, and its [`TestDiskControl`], which stays with the test.
//! 2. Every driver call is checked against the limits (a violation panics: that is the node's bug), recorded as a [`Record`], and then
//!    takes effect at once and completely, unless a knob says otherwise.
//! 3. A held call is in flight until the test releases it. Its effect happens at that moment: releasing in another order reorders.
//!    Its memory is read and written then, whether or not its future still lives, as a kernel would.
//! 4. A fault is chosen when the call arrives and fires when the call takes effect.
//! 5. [`TestDiskControl::track_crashes`] makes the disk volatile: what is not flushed may or may not be there after a crash, and the test
//!    decides write by write.
//!
//! Snapshots ([`TestDiskOptions::snapshots`]) are copies of the disk and its vmstate area. Each is stable when it was made, and so is the
//! disk, then and when a snapshot is gone to.
//!
//! The content is sparse, so that a disk of nearly 2^63 bytes costs nothing; bytes never written read as zeroes.

mod check;
pub mod conformance;
mod control;
mod crash;
mod fault;
mod request;
mod snapshot_list;
mod snapshots;
mod state;
mod store;
#[cfg(test)]
mod tests;

pub use control::TestDiskControl;
pub use crash::Keep;

use crate::{
    BlockChild, BlockDriver, BlockError, BlockLimits, BlockStatus, Cause, Children, DiskOffset,
    IoVector, NewSnapshot, Op, ReadVector, Result, SnapshotInfo, Truncate, VmstateLimits,
    VmstateOffset, WriteFlags, ZeroFlags,
};
use request::{Request, Work};
use state::{Arrived, State};
use std::cell::RefCell;
use std::rc::Rc;

/// How the disk is made. The default is an empty disk without limits, growth, FUA or vmstate area.
#[derive(Clone, Debug, Default)]
pub struct TestDiskOptions {
    /// Length in bytes; need not be a multiple of the request alignment.
    pub len: u64,
    /// What a request may be. A request outside panics.
    pub limits: BlockLimits,
    /// A write past the end grows it, as a file does.
    pub grows: bool,
    /// FUA writes are done by the disk; without this a request with the flag panics.
    pub supports_fua: bool,
    /// `Some`: it has a vmstate area of its own (a second byte array). `None`: vmstate calls go to a child, or nowhere.
    pub vmstate: Option<VmstateLimits>,
    /// It has internal snapshots. Needs a vmstate area.
    pub snapshots: bool,
}

/// One driver call as it came, in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Counts up from 0 over all calls of this disk.
    pub id: u64,
    /// The operation. `finish_vmstate` is [`Op::FinalizeVmstate`], `snapshot_load_tmp` [`Op::SnapshotLoad`].
    pub op: Op,
    /// Its offset, in the vmstate area for vmstate operations; 0 where there is none.
    pub offset: u64,
    /// Its length in bytes: the new one for truncate and `finish_vmstate`; 0 where there is none.
    pub len: u64,
    /// Write and write-zeroes: the FUA flag.
    pub fua: bool,
    /// Write-zeroes: the MAY_UNMAP flag.
    pub may_unmap: bool,
    /// Write-zeroes: the NO_FALLBACK flag.
    pub no_fallback: bool,
    /// Pieces of the I/O vector; 0 where there is none.
    pub pieces: usize,
}

/// The driver. Panics (a test's failure) if a request violates the limits: that is the node's bug.
pub struct TestDisk {
    state: Rc<RefCell<State>>,
    /// The primary child: vmstate calls are passed to it if this disk has no area of its own. Data stays here.
    file: Option<BlockChild>,
    backing: Option<BlockChild>,
}

impl std::fmt::Debug for TestDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestDisk")
            .field("file", &self.file)
            .field("backing", &self.backing)
            .finish_non_exhaustive()
    }
}

impl TestDisk {
    /// The driver and its knobs.
    pub fn new(options: TestDiskOptions) -> (TestDisk, TestDiskControl) {
        let state = Rc::new(RefCell::new(State::new(options)));
        let control = TestDiskControl::new(Rc::clone(&state));
        let disk = TestDisk {
            state,
            file: None,
            backing: None,
        };
        (disk, control)
    }

    /// The same disk with a primary child, which vmstate calls are passed to if this disk has no area of its own. Data is kept here.
    pub fn with_file(mut self, child: BlockChild) -> Self {
        self.file = Some(child);
        self
    }

    /// The same disk with a backing child, which nothing is passed to.
    pub fn with_backing(mut self, child: BlockChild) -> Self {
        self.backing = Some(child);
        self
    }

    /// One driver call, from its arrival to its end.
    async fn call(&self, request: Request, work: Work) -> state::Outcome {
        let arrived = self.state.borrow_mut().arrive(request, work);
        match arrived {
            Arrived::Done(outcome) => outcome,
            Arrived::Held(id) => state::Held::new(Rc::clone(&self.state), id).await,
        }
    }

    async fn transfer_in(
        &self,
        op: Op,
        at: u64,
        dst: ReadVector,
        work: fn(ReadVector) -> Work,
    ) -> (ReadVector, Result<()>) {
        let request = Request::new(op, at, dst.len()).pieces(dst.parts().len());
        let outcome = self.call(request, work(dst)).await;
        (outcome.dst, outcome.result.map(|_| ()))
    }
}

impl Drop for TestDisk {
    fn drop(&mut self) {
        self.state.borrow_mut().driver_dropped = true;
    }
}

impl BlockDriver for TestDisk {
    fn format_name(&self) -> &'static str {
        "test-disk"
    }

    fn limits(&self) -> BlockLimits {
        self.state.borrow().options.limits
    }

    fn children(&self) -> Children<'_> {
        Children {
            file: self.file.as_ref(),
            backing: self.backing.as_ref(),
        }
    }

    fn supports_fua(&self) -> bool {
        self.state.borrow().options.supports_fua
    }

    fn grows(&self) -> bool {
        self.state.borrow().options.grows
    }

    async fn length(&self) -> Result<u64> {
        let outcome = self.call(Request::new(Op::Length, 0, 0), Work::Length);
        outcome.await.result.map(|answer| answer.length)
    }

    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        self.transfer_in(Op::Read, at.0, dst, Work::Read).await
    }

    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        let request = Request::new(Op::Write, at.0, src.len()).pieces(src.parts().len());
        let outcome = self.call(request.fua(flags.fua), Work::Write(src));
        outcome.await.result.map(|_| ())
    }

    async fn flush(&self) -> Result<()> {
        let outcome = self.call(Request::new(Op::Flush, 0, 0), Work::Flush);
        outcome.await.result.map(|_| ())
    }

    async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        let request = Request::new(Op::WriteZeroes, at.0, len).zeroes(flags);
        self.call(request, Work::Zero).await.result.map(|_| ())
    }

    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        let outcome = self.call(Request::new(Op::Discard, at.0, len), Work::Zero);
        outcome.await.result.map(|_| ())
    }

    async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        let outcome = self.call(Request::new(Op::BlockStatus, at.0, len), Work::Status);
        let answer = outcome.await.result?;
        Ok(BlockStatus {
            len: answer.length,
            data: answer.data,
            zero: !answer.data,
            allocated: true,
            map: None,
        })
    }

    async fn truncate(&self, to: Truncate) -> Result<()> {
        let outcome = self.call(Request::new(Op::Truncate, 0, to.len), Work::Truncate);
        outcome.await.result.map(|_| ())
    }

    fn vmstate(&self) -> Option<VmstateLimits> {
        self.state.borrow().options.vmstate
    }

    async fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> Result<()> {
        let request = Request::new(Op::SaveVmstate, at.0, src.len()).pieces(src.parts().len());
        let outcome = self.call(request, Work::Write(src));
        outcome.await.result.map(|_| ())
    }

    async fn load_vmstate(&self, at: VmstateOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        self.transfer_in(Op::LoadVmstate, at.0, dst, Work::Read)
            .await
    }

    async fn vmstate_length(&self) -> Result<Option<u64>> {
        Ok(self.state.borrow().vmstate_length)
    }

    async fn finish_vmstate(&self, len: u64) -> Result<()> {
        let outcome = self.call(Request::new(Op::FinalizeVmstate, 0, len), Work::Truncate);
        outcome.await.result.map(|_| ())
    }

    async fn discard_vmstate(&self) -> Result<()> {
        let outcome = self.call(Request::new(Op::DiscardVmstate, 0, 0), Work::DiscardVmstate);
        outcome.await.result.map(|_| ())
    }

    fn supports_snapshots(&self) -> bool {
        self.state.borrow().options.snapshots
    }

    async fn snapshot_create(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        let request = Request::new(Op::SnapshotCreate, 0, 0);
        let outcome = self.call(request, Work::SnapshotCreate(new)).await;
        let made = outcome.result?.snapshots.pop();
        made.ok_or_else(|| BlockError::new(Op::SnapshotCreate, 0, 0, Cause::Panicked))
    }

    async fn snapshot_goto(&self, id_or_name: String) -> Result<()> {
        let request = Request::new(Op::SnapshotGoto, 0, 0);
        let outcome = self.call(request, Work::SnapshotGoto(id_or_name));
        outcome.await.result.map(|_| ())
    }

    async fn snapshot_delete(&self, id_or_name: String) -> Result<()> {
        let request = Request::new(Op::SnapshotDelete, 0, 0);
        let outcome = self.call(request, Work::SnapshotDelete(id_or_name));
        outcome.await.result.map(|_| ())
    }

    async fn snapshot_list(&self) -> Result<Vec<SnapshotInfo>> {
        let outcome = self.call(Request::new(Op::SnapshotList, 0, 0), Work::SnapshotList);
        outcome.await.result.map(|answer| answer.snapshots)
    }

    async fn snapshot_load_tmp(
        &self,
        id_or_name: String,
    ) -> Result<Box<dyn crate::DynBlockDriver>> {
        let request = Request::new(Op::SnapshotLoad, 0, 0);
        let outcome = self.call(request, Work::SnapshotLoad(id_or_name)).await;
        let view = outcome.result?.view;
        let view = view.ok_or_else(|| BlockError::new(Op::SnapshotLoad, 0, 0, Cause::Panicked))?;
        let state = Rc::new(RefCell::new(*view));
        let views = &mut self.state.borrow_mut().views;
        views.push(Rc::clone(&state));
        Ok(Box::new(TestDisk {
            state,
            file: None,
            backing: None,
        }))
    }

    async fn close(&self) -> Result<()> {
        let outcome = self.call(Request::new(Op::Close, 0, 0), Work::Close);
        outcome.await.result.map(|_| ())
    }
}
