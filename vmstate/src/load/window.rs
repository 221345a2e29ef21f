//! The chunks around the reader, and their buffers.

use block_core::{BlockError, IoBuf};

/// A cell of the grid that is read, or was.
pub(crate) struct Chunk {
    /// Tells this attempt from an earlier one at the same place.
    pub(crate) id: u64,
    /// Which cell of the grid.
    pub(crate) index: u64,
    pub(crate) content: Content,
}

/// What is known of a chunk.
pub(crate) enum Content {
    /// A task is reading it.
    Loading,
    /// Its bytes.
    Ready(IoBuf),
    /// Why it has none. Dropped when it was told.
    Failed(BlockError),
}

/// The reader's chunk and those ahead of it.
#[derive(Default)]
pub(crate) struct Window {
    /// In no order; few.
    chunks: Vec<Chunk>,
    /// Buffers that nothing uses.
    spare: Vec<IoBuf>,
    /// Buffers in existence: in chunks, in tasks, spare.
    pub(crate) buffers: usize,
    next_id: u64,
}

impl Window {
    pub(crate) fn get(&self, index: u64) -> Option<&Chunk> {
        self.chunks.iter().find(|chunk| chunk.index == index)
    }

    /// Forgets all chunks outside `from..=to`. A task that is reading one gives its buffer back when it ends.
    pub(crate) fn keep_only(&mut self, from: u64, to: u64) {
        for gone in self
            .chunks
            .extract_if(.., |chunk| chunk.index < from || chunk.index > to)
        {
            if let Content::Ready(buffer) = gone.content {
                self.spare.push(buffer);
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.keep_only(1, 0);
    }

    /// A chunk begins to be read. There is none of this index.
    pub(crate) fn begin(&mut self, index: u64) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.chunks.push(Chunk {
            id,
            index,
            content: Content::Loading,
        });
        id
    }

    /// An attempt has ended. If no caller wants it any more, its buffer is spare.
    pub(crate) fn end(&mut self, id: u64, buffer: Option<IoBuf>, result: Result<(), BlockError>) {
        let chunk = self.chunks.iter_mut().find(|chunk| chunk.id == id);
        match (chunk, result, buffer) {
            (Some(chunk), Ok(()), Some(buffer)) => chunk.content = Content::Ready(buffer),
            (chunk, result, buffer) => {
                if let (Some(chunk), Err(error)) = (chunk, result) {
                    chunk.content = Content::Failed(error);
                }
                match buffer {
                    Some(buffer) => self.spare.push(buffer),
                    None => self.buffers -= 1,
                }
            }
        }
    }

    /// The error of a failed chunk, which is forgotten: reading there again asks the driver again.
    pub(crate) fn take_error(&mut self, index: u64) -> Option<BlockError> {
        let failed =
            |chunk: &Chunk| chunk.index == index && matches!(chunk.content, Content::Failed(_));
        let place = self.chunks.iter().position(failed)?;
        match self.chunks.swap_remove(place).content {
            Content::Failed(error) => Some(error),
            _ => None,
        }
    }

    pub(crate) fn take_spare(&mut self) -> Option<IoBuf> {
        self.spare.pop()
    }
}
