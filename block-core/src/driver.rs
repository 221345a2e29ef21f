//! The trait that drivers implement, and its boxed twin for a graph of mixed drivers.

use crate::{
    BlockChild, BlockError, BlockLimits, BlockStatus, Cause, DiskOffset, IoVector, Op, ReadVector,
    Result,
};
use crate::{NewSnapshot, SnapshotInfo, VmstateLimits, VmstateOffset, WriteFlags, ZeroFlags};
use futures::future::LocalBoxFuture;

/// How new space is backed when a node grows, QEMU's `PreallocMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing is allocated.
    #[default]
    Off,
    /// The format's metadata is.
    Metadata,
    /// Space is reserved without writing it.
    Falloc,
    /// Every byte is written.
    Full,
}

/// A change of length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// The new length in bytes.
    pub len: u64,
    /// Fail unless the length becomes exactly this.
    pub exact: bool,
    /// How new space is backed.
    pub preallocation: Preallocation,
}

/// The children of a driver, for those who walk the graph.
#[derive(Debug, Default)]
pub struct Children<'a> {
    /// Where this driver's bytes are: the primary child.
    pub file: Option<&'a BlockChild>,
    /// What shows through where this driver has nothing.
    pub backing: Option<&'a BlockChild>,
}

/// A format, protocol or filter: how the bytes of one disk are stored. QEMU's `BlockDriver`.
///
/// A driver is called by its [`BlockNode`](crate::BlockNode) and calls the nodes of its children. This is the whole contract between them.
/// The clauses have names, which the checks of debug builds and `test_disk::conformance` (feature `test-disk`) use.
///
/// # What a driver may rely on
///
/// *Requests.* Every request obeys [`BlockDriver::limits`]: its offset and length are aligned, it has at least one byte and at most the
/// announced maximum, its memory is aligned, and no segment is empty. `offset + length` is at most `i64::MAX`. A write is never passed
/// to a driver whose node is read-only, and nothing is called after [`BlockDriver::close`].
///
/// *Bounds.* A read, discard or status request ends at or before the length, rounded up to the request alignment. So does a write unless
/// the driver [grows](BlockDriver::grows). The node refuses everything else with [`Cause::OutOfBounds`]. The length that the node compares
/// with may be out of date if something else changes the driver's storage.
///
/// *Truncates.* While [`BlockDriver::truncate`] is running, no read, write, write of zeroes or discard of this node is in flight. A flush, a
/// length or a status request may be.
///
/// *One thread.* All calls come from the thread of the node's context. Several may be in flight at once, in any number, and overlapping
/// ones too. The node serialises only unaligned changes and truncates.
///
/// # What a driver must do
///
/// 1. *Content.* A read returns the bytes of the last write, write of zeroes or truncate that completed before the read was started.
/// 2. *Order.* Of two overlapping writes in flight at once, each common byte ends up as one of the two. A request changes no byte
///    outside its own range: a driver that stores bytes in units larger than its request alignment must serialise its own
///    read-modify-write cycles.
/// 3. *Length.* [`BlockDriver::length`] is exact after every completed change. A truncate with `exact` makes it the requested length, one
///    without makes it at least that. A driver may refuse a length that it cannot store, and then changes nothing.
/// 4. *Growth.* Bytes that a truncate adds read as zeroes, even where the disk had other bytes before it was made shorter. The child's
///    truncate adds zeroes *to the child*: a filter that stores bytes in another form must write the stored form of zeroes there.
/// 5. *Gaps.* If the driver grows, a write that begins past the end leaves zeroes between the old end and its first byte, in the same
///    sense. The length becomes the end of the write, if that is longer.
/// 6. *Serialising growth.* The node does not serialise aligned writes past the end. The driver serialises its own growth as far as it
///    needs that: filling the gap of one write must not overwrite another write that is in flight or has completed.
/// 7. *End.* A length need not be a multiple of the request alignment. A read of the last block returns zeroes past the end. A write of the
///    last block carries padding past the end: a driver that does not grow leaves the padding out, and one that grows stores it (the node
///    then truncates). No read ever returns that padding as content.
/// 8. *Memory.* A read returns the segments it was lent, the same memory in the same order, also with an error (it may return an empty
///    vector only if the memory is lost with a worker). A write has dropped every reference to its [`IoVector`] when it returns. Memory that
///    the kernel or a worker may still use belongs to that I/O, not to the future.
/// 9. *Errors.* A failed operation returns one error, with the child's cause unchanged, so that the errno survives. No failure is left out,
///    and none is returned by a later operation that succeeded, with two exceptions: a discard may ignore errors, and after a failed flush
///    every later flush may fail. `Ok` means that every byte was moved; if fewer could be, the error is [`Cause::Short`] with the number of
///    bytes from the start of the request, less than its length. [`Cause::NotSupported`] means that nothing was changed.
/// 10. *After an error.* A failed write, write of zeroes or discard may have changed its own range and nothing else. After a failed truncate or a
///     failed write past the end, the length is between the old and the new one, and added bytes outside the write are zeroes. The driver
///     stays usable: the same request succeeds if the child's next answers are good.
/// 11. *Cancellation.* A node drops a driver's future only when its context ends, but the future must allow it at every await, with the effect
///     of clause 10. I/O that was already started may still take effect. A dropped future must not leave a lock held.
/// 12. *Stability.* [`BlockDriver::flush`] makes every change stable that completed before the call: it writes back what the driver caches and
///     then flushes each child that was written. With `fua` a write does so for its own bytes before it returns.
/// 13. *Zeroes.* [`BlockDriver::pwrite_zeroes`] makes the range read as zeroes or answers [`Cause::NotSupported`]. A discard may change the range to
///     anything, and nothing else.
/// 14. *Status.* [`BlockDriver::block_status`] answers for 1 byte or more and not more than were asked. A range reported as `zero` reads as zeroes.
/// 15. *Close.* [`BlockDriver::close`] writes back what the driver caches and [releases](BlockChild::release) every child, also after an error.
/// 16. *Read-only.* A driver that was opened read-only refuses every change and leaves its children's bytes as they are.
///
/// A driver that stores nothing (`null`) does not follow the clauses on content, growth and gaps, and says so in its documentation.
///
/// The caller sees only the cause of a driver's error; operation, offset and length are replaced by those of the caller's request. A
/// driver that panics ends its request with [`Cause::Panicked`], and the node stays usable.
///
/// # Checks
///
/// The node checks that a read returns the memory it was lent. Debug builds also check the lengths after a truncate, the numbers of a status
/// and of a short transfer; a violation is a [`Cause::Driver`] that names the clause. `test_disk::conformance` checks the whole list:
///
/// ```
/// # #[cfg(feature = "test-disk")] {
/// use block_core::test_disk::{TestDisk, TestDiskOptions, conformance::{Conformance, Subject}};
///
/// let report = Conformance::new(async |_handle| {
///     let options = TestDiskOptions { len: 1 << 18, grows: true, ..Default::default() };
///     let (driver, _) = TestDisk::new(options);
///     Subject::new(driver) // for a driver with a child: `.over(control)` for each test disk below it
/// })
/// .run();
/// report.assert_clean();
/// # }
/// ```
#[allow(
    async_fn_in_trait,
    reason = "single-threaded by design: no Send bound is wanted"
)]
pub trait BlockDriver: 'static {
    /// QEMU's name of the format or protocol: `file`, `raw`, `qcow2`.
    fn format_name(&self) -> &'static str;

    /// What one request may be. Asked once, when the node is built.
    fn limits(&self) -> BlockLimits;

    /// The children, so that calls can be passed down. A driver that is closed lets go of them ([`BlockChild::release`]), which closes
    /// those that nothing else uses.
    fn children(&self) -> Children<'_> {
        Children::default()
    }

    /// True where FUA writes are done by the driver itself.
    fn supports_fua(&self) -> bool {
        false
    }

    /// True if a write, or a write of zeroes, past the end makes the disk longer (clauses 5 and 6). False by default: the node then
    /// refuses such a write. A driver that grows and whose request alignment is not 1 must support truncate as well, because the node
    /// truncates padding that was written past the end.
    fn grows(&self) -> bool {
        false
    }

    /// Returns the length in bytes, which need not be a multiple of the request alignment (clause 3). The node asks when it is opened,
    /// after truncates and failed writes, and if a request ends past the length that it knows.
    async fn length(&self) -> Result<u64>;

    /// Fills `dst` from `at`; QEMU's `bdrv_co_preadv`. Bytes past the end read as zeroes (clause 7). The memory is returned with the
    /// result (clause 8).
    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>);

    /// Writes `src` at `at`; QEMU's `bdrv_co_pwritev`. `flags.fua` is set only if [`BlockDriver::supports_fua`]. Past the end, clauses
    /// 5 to 7 apply: a driver that grows leaves zeroes in the gap, one that does not leaves out the padding of the last block.
    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()>;

    /// Makes all changes stable that completed before the call; QEMU's `bdrv_co_flush` (clause 12).
    async fn flush(&self) -> Result<()>;

    /// Writes zeroes without data; QEMU's `bdrv_co_pwrite_zeroes`. "Not supported" makes the node write explicit zeroes; it is an answer
    /// for the driver or its state, not for one range, and nothing has been changed. `flags.fua` as in [`BlockDriver::pwritev`].
    async fn pwrite_zeroes(&self, at: DiskOffset, len: u64, flags: ZeroFlags) -> Result<()> {
        let _ = flags;
        Err(BlockError::new(
            Op::WriteZeroes,
            at.0,
            len,
            Cause::NotSupported,
        ))
    }

    /// The content of the range no longer matters; QEMU's `bdrv_co_pdiscard` (clause 13). "Not supported" is ignored by the node.
    async fn pdiscard(&self, at: DiskOffset, len: u64) -> Result<()> {
        Err(BlockError::new(Op::Discard, at.0, len, Cause::NotSupported))
    }

    /// Returns what is known of the range; QEMU's `bdrv_co_block_status` (clause 14). The default knows nothing: all is data.
    async fn block_status(&self, at: DiskOffset, len: u64) -> Result<BlockStatus> {
        let _ = at;
        Ok(BlockStatus {
            len,
            data: true,
            zero: false,
            allocated: true,
            map: None,
        })
    }

    /// Changes the length; QEMU's `bdrv_co_truncate`. Bytes that are added read as zeroes (clauses 3 and 4). The node calls it while no
    /// request that reads or changes bytes is in flight.
    async fn truncate(&self, to: Truncate) -> Result<()> {
        Err(BlockError::new(
            Op::Truncate,
            to.len,
            0,
            Cause::NotSupported,
        ))
    }

    /// `Some` where this driver has a vmstate area of its own (QEMU's `bdrv_save_vmstate` is set); `None` passes vmstate calls to `file`.
    fn vmstate(&self) -> Option<VmstateLimits> {
        None
    }

    /// Writes to the vmstate area at any position and length; QEMU's `bdrv_co_save_vmstate`.
    async fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> Result<()> {
        Err(BlockError::new(
            Op::SaveVmstate,
            at.0,
            src.len(),
            Cause::NotSupported,
        ))
    }

    /// Reads from the vmstate area; QEMU's `bdrv_co_load_vmstate`. Bytes of a state that is being saved read as zeroes until they are written.
    /// What else was never written may show a backing file, as in QEMU.
    async fn load_vmstate(&self, at: VmstateOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        let len = dst.len();
        (
            dst,
            Err(BlockError::new(
                Op::LoadVmstate,
                at.0,
                len,
                Cause::NotSupported,
            )),
        )
    }

    /// The length of the state that is stored, where the driver knows it.
    async fn vmstate_length(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// All of the state is written and its true length is `len`: a driver that padded cuts the padding off. No QEMU counterpart.
    async fn finish_vmstate(&self, len: u64) -> Result<()> {
        let _ = len;
        Ok(())
    }

    /// Drops what [`BlockDriver::save_vmstate`] wrote and no snapshot recorded: the next state begins on an empty area. A driver without
    /// snapshots, whose state is overwritten in place, has nothing to drop. No QEMU counterpart.
    async fn discard_vmstate(&self) -> Result<()> {
        Ok(())
    }

    /// True where this driver has internal snapshots, whether or not this image can take another one now; false passes snapshot calls to
    /// `file`. Such a driver has a vmstate area, too.
    fn supports_snapshots(&self) -> bool {
        false
    }

    /// Records the disk as it is, and the state that [`BlockDriver::finish_vmstate`] completed and no snapshot recorded yet, if there is
    /// one: that state is then the snapshot's, and the area is empty. A state that is not complete stays. QEMU's `bdrv_snapshot_create`.
    ///
    /// Atomic, a replaced snapshot included: after an error, and after a crash at any moment before it returns, the list of snapshots is
    /// the old or the new one, and after an error it is the old one, and the state is still there to be discarded. What it returned is
    /// stable. The node sees to it that no other request on the disk is under way; vmstate calls may be.
    async fn snapshot_create(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        let _ = new;
        Err(unsupported(Op::SnapshotCreate))
    }

    /// Makes the disk, its length and the state in the vmstate area those of a snapshot; QEMU's `bdrv_snapshot_goto`. The snapshot stays.
    /// A state that no snapshot recorded is dropped. Atomic, stable and alone as [`BlockDriver::snapshot_create`] is.
    ///
    /// `id_or_name` here and below: the snapshot with this id, else the first with this name; [`Cause::NoSuchSnapshot`] if there is none.
    async fn snapshot_goto(&self, id_or_name: String) -> Result<()> {
        let _ = id_or_name;
        Err(unsupported(Op::SnapshotGoto))
    }

    /// Drops a snapshot; QEMU's `bdrv_snapshot_delete`. Atomic and stable. Other requests may be under way.
    async fn snapshot_delete(&self, id_or_name: String) -> Result<()> {
        let _ = id_or_name;
        Err(unsupported(Op::SnapshotDelete))
    }

    /// The snapshots in the image's order; QEMU's `bdrv_snapshot_list`.
    async fn snapshot_list(&self) -> Result<Vec<SnapshotInfo>> {
        Err(unsupported(Op::SnapshotList))
    }

    /// A view of a snapshot: a driver whose disk and vmstate area are the snapshot's, to be opened read-only; QEMU's
    /// `bdrv_snapshot_load_tmp`, except that this image works on.
    ///
    /// A view shows the snapshot's bytes or fails (with [`Cause::Closed`] once this driver is closed), whatever becomes of the snapshot.
    /// Its requests are not this node's: they are not in flight here, and a drained section does not keep them out. Closing a view, or
    /// dropping it, lets go of the snapshot.
    async fn snapshot_load_tmp(&self, id_or_name: String) -> Result<Box<dyn DynBlockDriver>> {
        let _ = id_or_name;
        Err(unsupported(Op::SnapshotLoad))
    }

    /// Writes back what the driver keeps, and lets go of its resources and its children. A state that no snapshot recorded is dropped where
    /// the driver has snapshots. Nothing is called after it.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

fn unsupported(op: Op) -> BlockError {
    BlockError::new(op, 0, 0, Cause::NotSupported)
}

/// [`BlockDriver`] behind a pointer. Implemented for every driver; one box per request.
#[allow(missing_docs, reason = "each method is its BlockDriver twin")]
pub trait DynBlockDriver: 'static {
    fn format_name(&self) -> &'static str;
    fn limits(&self) -> BlockLimits;
    fn children(&self) -> Children<'_>;
    fn supports_fua(&self) -> bool;
    fn grows(&self) -> bool;
    fn length(&self) -> LocalBoxFuture<'_, Result<u64>>;
    fn preadv(
        &self,
        at: DiskOffset,
        dst: ReadVector,
    ) -> LocalBoxFuture<'_, (ReadVector, Result<()>)>;
    fn pwritev(
        &self,
        at: DiskOffset,
        src: IoVector,
        flags: WriteFlags,
    ) -> LocalBoxFuture<'_, Result<()>>;
    fn flush(&self) -> LocalBoxFuture<'_, Result<()>>;
    fn pwrite_zeroes(
        &self,
        at: DiskOffset,
        len: u64,
        flags: ZeroFlags,
    ) -> LocalBoxFuture<'_, Result<()>>;
    fn pdiscard(&self, at: DiskOffset, len: u64) -> LocalBoxFuture<'_, Result<()>>;
    fn block_status(&self, at: DiskOffset, len: u64) -> LocalBoxFuture<'_, Result<BlockStatus>>;
    fn truncate(&self, to: Truncate) -> LocalBoxFuture<'_, Result<()>>;
    fn vmstate(&self) -> Option<VmstateLimits>;
    fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> LocalBoxFuture<'_, Result<()>>;
    fn load_vmstate(
        &self,
        at: VmstateOffset,
        dst: ReadVector,
    ) -> LocalBoxFuture<'_, (ReadVector, Result<()>)>;
    fn vmstate_length(&self) -> LocalBoxFuture<'_, Result<Option<u64>>>;
    fn finish_vmstate(&self, len: u64) -> LocalBoxFuture<'_, Result<()>>;
    fn discard_vmstate(&self) -> LocalBoxFuture<'_, Result<()>>;
    fn supports_snapshots(&self) -> bool;
    fn snapshot_create(&self, new: NewSnapshot) -> LocalBoxFuture<'_, Result<SnapshotInfo>>;
    fn snapshot_goto(&self, id_or_name: String) -> LocalBoxFuture<'_, Result<()>>;
    fn snapshot_delete(&self, id_or_name: String) -> LocalBoxFuture<'_, Result<()>>;
    fn snapshot_list(&self) -> LocalBoxFuture<'_, Result<Vec<SnapshotInfo>>>;
    fn snapshot_load_tmp(
        &self,
        id_or_name: String,
    ) -> LocalBoxFuture<'_, Result<Box<dyn DynBlockDriver>>>;
    fn close(&self) -> LocalBoxFuture<'_, Result<()>>;
}

impl<D: BlockDriver> DynBlockDriver for D {
    fn format_name(&self) -> &'static str {
        BlockDriver::format_name(self)
    }
    fn limits(&self) -> BlockLimits {
        BlockDriver::limits(self)
    }
    fn children(&self) -> Children<'_> {
        BlockDriver::children(self)
    }
    fn supports_fua(&self) -> bool {
        BlockDriver::supports_fua(self)
    }
    fn grows(&self) -> bool {
        BlockDriver::grows(self)
    }
    fn length(&self) -> LocalBoxFuture<'_, Result<u64>> {
        Box::pin(BlockDriver::length(self))
    }
    fn preadv(
        &self,
        at: DiskOffset,
        dst: ReadVector,
    ) -> LocalBoxFuture<'_, (ReadVector, Result<()>)> {
        Box::pin(BlockDriver::preadv(self, at, dst))
    }
    fn pwritev(
        &self,
        at: DiskOffset,
        src: IoVector,
        flags: WriteFlags,
    ) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::pwritev(self, at, src, flags))
    }
    fn flush(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::flush(self))
    }
    fn pwrite_zeroes(
        &self,
        at: DiskOffset,
        len: u64,
        flags: ZeroFlags,
    ) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::pwrite_zeroes(self, at, len, flags))
    }
    fn pdiscard(&self, at: DiskOffset, len: u64) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::pdiscard(self, at, len))
    }
    fn block_status(&self, at: DiskOffset, len: u64) -> LocalBoxFuture<'_, Result<BlockStatus>> {
        Box::pin(BlockDriver::block_status(self, at, len))
    }
    fn truncate(&self, to: Truncate) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::truncate(self, to))
    }
    fn vmstate(&self) -> Option<VmstateLimits> {
        BlockDriver::vmstate(self)
    }
    fn save_vmstate(&self, at: VmstateOffset, src: IoVector) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::save_vmstate(self, at, src))
    }
    fn load_vmstate(
        &self,
        at: VmstateOffset,
        dst: ReadVector,
    ) -> LocalBoxFuture<'_, (ReadVector, Result<()>)> {
        Box::pin(BlockDriver::load_vmstate(self, at, dst))
    }
    fn vmstate_length(&self) -> LocalBoxFuture<'_, Result<Option<u64>>> {
        Box::pin(BlockDriver::vmstate_length(self))
    }
    fn finish_vmstate(&self, len: u64) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::finish_vmstate(self, len))
    }
    fn discard_vmstate(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::discard_vmstate(self))
    }
    fn supports_snapshots(&self) -> bool {
        BlockDriver::supports_snapshots(self)
    }
    fn snapshot_create(&self, new: NewSnapshot) -> LocalBoxFuture<'_, Result<SnapshotInfo>> {
        Box::pin(BlockDriver::snapshot_create(self, new))
    }
    fn snapshot_goto(&self, id_or_name: String) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::snapshot_goto(self, id_or_name))
    }
    fn snapshot_delete(&self, id_or_name: String) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::snapshot_delete(self, id_or_name))
    }
    fn snapshot_list(&self) -> LocalBoxFuture<'_, Result<Vec<SnapshotInfo>>> {
        Box::pin(BlockDriver::snapshot_list(self))
    }
    fn snapshot_load_tmp(
        &self,
        id_or_name: String,
    ) -> LocalBoxFuture<'_, Result<Box<dyn DynBlockDriver>>> {
        Box::pin(BlockDriver::snapshot_load_tmp(self, id_or_name))
    }
    fn close(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(BlockDriver::close(self))
    }
}
