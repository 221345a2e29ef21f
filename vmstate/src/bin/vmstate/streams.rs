//! The two ways to write and to read a state: through buffers, or one request for each piece. A state is a whole file, or goes into a
//! snapshot.
use crate::args::Engine;
use block_core::{
    AllocError, BlockError, BlockNode, Cause, IoBuf, IoVector, NewSnapshot, Op, ReadVector, Result,
};
use vmstate::{CancelHandle, LoadOptions, SaveOptions, SnapshotSave, VmstateLoad, VmstateSave};

/// The largest piece of a stream that is one request where nothing is buffered: that of QEMU's migration channel.
pub(crate) const STREAM_PIECE: usize = 32_768;

/// Takes a state.
pub(crate) enum Sink {
    Buffered(VmstateSave),
    Unbuffered(Unbuffered),
    /// The state of a snapshot that [`Sink::finish`] makes.
    Named(SnapshotSave),
    NamedUnbuffered(Unbuffered, NewSnapshot),
}

/// The vmstate area of a node that is written piece by piece.
pub(crate) struct Unbuffered {
    node: BlockNode,
    /// The first byte after the last that was written.
    end: u64,
}

impl Sink {
    /// Of a state that is a whole file, which was just created. Gaps of fewer bytes than `gap_threshold` are filled where bytes are
    /// buffered.
    pub(crate) fn begin(node: &BlockNode, engine: &Engine, gap_threshold: u64) -> Result<Self> {
        if engine.unbuffered {
            return Ok(Self::Unbuffered(Unbuffered::new(node)));
        }
        VmstateSave::begin(node, save_options(engine, gap_threshold)).map(Self::Buffered)
    }

    /// Of the state of a snapshot that is to be made. It is to be finished or cancelled. Refuses what could not be recorded before anything is
    /// written.
    pub(crate) async fn begin_named(
        node: &BlockNode,
        new: NewSnapshot,
        engine: &Engine,
        gap_threshold: u64,
    ) -> Result<Self> {
        let options = save_options(engine, gap_threshold);
        let save = SnapshotSave::begin(node, new.clone(), options).await?;
        if !engine.unbuffered {
            return Ok(Self::Named(save));
        }
        // It has looked at the name and emptied the area: so far both ways are one.
        save.cancel().await?;
        Ok(Self::NamedUnbuffered(Unbuffered::new(node), new))
    }

    /// Writes one piece.
    pub(crate) async fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Buffered(save) => save.write(at, bytes).await,
            Self::Named(save) => save.save().write(at, bytes).await,
            Self::Unbuffered(area) | Self::NamedUnbuffered(area, _) => area.write(at, bytes).await,
        }
    }

    /// Ends the state; its length. A snapshot is stable then; a file is not flushed. The error of a snapshot says if what was written could
    /// not be dropped.
    pub(crate) async fn finish(self) -> Result<u64> {
        match self {
            Self::Buffered(save) => save.finalize().await,
            Self::Unbuffered(area) => area.finish().await,
            Self::Named(save) => save.commit().await.map(|info| info.vmstate_size),
            Self::NamedUnbuffered(area, new) => {
                let error = match area.record(new).await {
                    Ok(len) => return Ok(len),
                    Err(error) => error,
                };
                let Err(kept) = area.node.discard_vmstate().await else {
                    return Err(error);
                };
                let cause = Cause::Leaked {
                    cause: Box::new(error.cause.clone()),
                    freeing: Box::new(kept.cause),
                };
                Err(error.with_cause(cause))
            }
        }
    }

    /// Drops what was written, of a state that was to go into a snapshot. The error is why it could not be dropped.
    pub(crate) async fn cancel(self) -> Result<()> {
        match self {
            Self::Named(save) => save.cancel().await,
            Self::NamedUnbuffered(area, _) => area.node.discard_vmstate().await,
            Self::Buffered(_) | Self::Unbuffered(_) => Ok(()),
        }
    }

    /// What makes [`Sink::finish`] fail as long as there is no snapshot yet.
    pub(crate) fn cancel_handle(&self) -> Option<CancelHandle> {
        match self {
            Self::Named(save) => Some(save.save().cancel_handle()),
            _ => None,
        }
    }
}

impl Unbuffered {
    fn new(node: &BlockNode) -> Self {
        let node = node.clone();
        Self { node, end: 0 }
    }

    async fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        // The copy into aligned memory that QEMU calls bouncing is the node's, where the alignment demands it.
        let piece = IoVector::copy_of(bytes, 1).map_err(|e| no_memory(Op::SaveVmstate, at, e))?;
        self.node.save_vmstate_unbuffered(at.into(), piece).await?;
        self.end = self.end.max(at.saturating_add(bytes.len() as u64));
        Ok(())
    }

    async fn finish(&self) -> Result<u64> {
        self.node.finish_vmstate(self.end).await?;
        Ok(self.end)
    }

    async fn record(&self, new: NewSnapshot) -> Result<u64> {
        self.finish().await?;
        self.node.flush().await?;
        let info = self.node.snapshot_create(new).await?;
        Ok(info.vmstate_size)
    }
}

/// Each state goes into a new file, or an area that the save empties.
fn save_options(engine: &Engine, gap_threshold: u64) -> SaveOptions {
    SaveOptions {
        workers: engine.workers,
        buffer_size: engine.buffer,
        fresh: true,
        gap_threshold,
        ..SaveOptions::default()
    }
}

/// Gives a state.
pub(crate) enum Source {
    ReadAhead(VmstateLoad),
    Unbuffered {
        node: BlockNode,
        len: u64,
        memory: Option<IoBuf>,
    },
}

impl Source {
    /// Of the whole state, or of its first `length` bytes, which must exist.
    pub(crate) async fn open(
        node: &BlockNode,
        engine: &Engine,
        length: Option<u64>,
    ) -> Result<Self> {
        let stored = node.vmstate_length().await?;
        let len = match (length, stored) {
            (Some(length), Some(stored)) if length > stored => {
                let why = format!("the state has only {stored} bytes");
                return Err(BlockError::new(
                    Op::LoadVmstate,
                    0,
                    length,
                    Cause::Driver(why.into()),
                ));
            }
            (Some(length), _) => length,
            (None, Some(stored)) => stored,
            (None, None) => {
                return Err(BlockError::new(Op::LoadVmstate, 0, 0, Cause::NotSupported));
            }
        };
        if engine.unbuffered {
            let node = node.clone();
            return Ok(Self::Unbuffered {
                node,
                len,
                memory: None,
            });
        }
        let options = LoadOptions {
            length: Some(len),
            workers: engine.workers,
            buffer_size: engine.buffer,
        };
        VmstateLoad::open(node, options).await.map(Self::ReadAhead)
    }

    /// Bytes of the state.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::ReadAhead(load) => load.length(),
            Self::Unbuffered { len, .. } => *len,
        }
    }

    /// Reads one piece; fewer bytes than asked only at the end.
    pub(crate) async fn read(&mut self, at: u64, dst: &mut [u8]) -> Result<usize> {
        match self {
            Self::ReadAhead(load) => load.read(at, dst).await,
            Self::Unbuffered { node, len, memory } => {
                let wanted = len.saturating_sub(at).min(dst.len() as u64) as usize;
                if wanted == 0 {
                    return Ok(0);
                }
                let mut buffer = match memory.take() {
                    Some(buffer) if buffer.len() == wanted => buffer,
                    _ => IoBuf::zeroed(wanted, 1).map_err(|e| no_memory(Op::LoadVmstate, at, e))?,
                };
                let vector = ReadVector::from(buffer);
                let (vector, result) = node.load_vmstate_unbuffered(at.into(), vector).await;
                result?;
                let Some(filled) = vector.into_parts().into_iter().next() else {
                    let short = Cause::Short { moved: 0 };
                    return Err(BlockError::new(Op::LoadVmstate, at, wanted as u64, short));
                };
                buffer = filled;
                dst[..wanted].copy_from_slice(&buffer);
                *memory = Some(buffer);
                Ok(wanted)
            }
        }
    }
}

fn no_memory(op: Op, at: u64, error: AllocError) -> BlockError {
    let bytes = error.bytes as u64;
    BlockError::new(op, at, bytes, Cause::OutOfMemory { bytes })
}
