//! Buffered vmstate save and read-ahead load, after QEMU's savevm.
//!
//! 1. A save copies the machine's bytes into buffers of 1 MiB. Positions are free: interleaved streams fill a buffer each, later bytes
//!    win over earlier ones. Gaps are not written, except short ones in a fresh area ([`SaveOptions::fresh`]).
//! 2. Each full buffer becomes a task of an [`AioTaskPool`](aio_task::AioTaskPool): at most `workers` are in flight, and the caller waits
//!    only when all are.
//! 3. [`VmstateSave::finalize`] writes what is left, waits for all, and returns the first error of the save, if any.
//! 4. A load reads chunks ahead of the reader, from wherever it starts to the state's end.
//!
//! 5. A *named* save ([`SnapshotSave`]) is all or nothing: the state and the disk become one snapshot of the image, or nothing changes.
//!
//! The same save and load can be reached in four ways: [`VmstateSave`] and [`VmstateLoad`]; futures' `AsyncWrite` and `AsyncRead`
//! ([`VmstateWriter`], [`VmstateReader`]); `std::io`'s `Write` and `Read` ([`SyncWriter`], [`SyncReader`]); and free functions shaped
//! like QEMU's calls ([`save_vmstate`], [`load_vmstate`], [`finalize_vmstate`]).
//!
//! | QEMU (v8 of the series) | here | difference |
//! |---|---|---|
//! | `bdrv_save_vmstate` | [`save_vmstate`], [`VmstateSave::write`] | any position is buffered, not only the next one |
//! | `bdrv_finalize_vmstate`, `bdrv_flush_vmstate` | [`finalize_vmstate`], [`VmstateSave::finalize`] | returns the length; the first error again and again |
//! | `bdrv_load_vmstate` | [`load_vmstate`], [`VmstateLoad::read`] | reads ahead from any position, ends at the state's end |
//! | `save_snapshot` (HMP `savevm`) | [`SnapshotSave`], [`save_snapshot`] | of one image; what fails or is cancelled is dropped again |
//! | `load_snapshot` (HMP `loadvm`) | [`load_snapshot`] | reads the state of any snapshot; going to its disk is [`BlockNode::snapshot_goto`](block_core::BlockNode::snapshot_goto) |
//! | `BDRV_VMSTATE_WORKERS_MAX` | [`DEFAULT_WORKERS`] | an option |
//! | the buffer that slides with the stream | cells of a fixed grid, a few at once | order and overlaps need no thought |
#![forbid(unsafe_code)]

mod area_state;
mod call_lock;
mod calls;
mod extension;
mod geometry;
mod io;
mod load;
mod options;
mod progress;
mod ranges;
mod save;
mod snapshot;
mod sync;

pub use calls::{
    begin_save_vmstate, finalize_vmstate, load_vmstate, load_vmstate_vector, save_vmstate,
    save_vmstate_bytes, vmstate_position,
};
pub use io::{VmstateReader, VmstateWriter};
pub use load::VmstateLoad;
pub use options::{
    DEFAULT_BUFFER_SIZE, DEFAULT_CURSORS, DEFAULT_GAP_THRESHOLD, DEFAULT_WORKERS, LoadOptions,
    SaveOptions,
};
pub use progress::{CancelHandle, Progress};
pub use save::VmstateSave;
pub use snapshot::{SnapshotLoad, SnapshotSave, load_snapshot, save_snapshot};
pub use sync::{SyncReader, SyncWriter};

/// Another save is active.
pub(crate) const EBUSY: block_core::Errno = block_core::Errno(16);

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
