//! The two ways to write and to read a state: through buffers, or one request for each piece.
use crate::args::Engine;
use block_core::{
    AllocError, BlockError, BlockNode, Cause, IoBuf, IoVector, Op, ReadVector, Result,
};
use vmstate::{LoadOptions, SaveOptions, VmstateLoad, VmstateSave};

/// The largest piece of a stream that is one request where nothing is buffered: that of QEMU's migration channel.
pub(crate) const STREAM_PIECE: usize = 32_768;

/// Takes a state.
pub(crate) enum Sink {
    Buffered(VmstateSave),
    Unbuffered { node: BlockNode, end: u64 },
}

impl Sink {
    pub(crate) fn begin(node: &BlockNode, engine: &Engine) -> Result<Self> {
        if engine.unbuffered {
            let node = node.clone();
            return Ok(Self::Unbuffered { node, end: 0 });
        }
        let options = SaveOptions {
            workers: engine.workers,
            buffer_size: engine.buffer,
            ..SaveOptions::default()
        };
        VmstateSave::begin(node, options).map(Self::Buffered)
    }

    /// Writes one piece.
    pub(crate) async fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Buffered(save) => save.write(at, bytes).await,
            Self::Unbuffered { node, end } => {
                // The copy into aligned memory that QEMU calls bouncing is the node's, where the alignment demands it.
                let piece =
                    IoVector::copy_of(bytes, 1).map_err(|e| no_memory(Op::SaveVmstate, at, e))?;
                node.save_vmstate_unbuffered(at.into(), piece).await?;
                *end = (*end).max(at.saturating_add(bytes.len() as u64));
                Ok(())
            }
        }
    }

    /// Ends the state; its length.
    pub(crate) async fn finish(self) -> Result<u64> {
        match self {
            Self::Buffered(save) => save.finalize().await,
            Self::Unbuffered { node, end } => node.finish_vmstate(end).await.map(|()| end),
        }
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
