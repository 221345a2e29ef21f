//! What O_DIRECT means for this file: it is asked, then tried.
//!
//! ```text
//!   STATX_DIOALIGN tells two non-zero numbers ......... direct, with these alignments
//!   else a 1-byte read is refused with EINVAL ......... direct; the smallest block that is not refused is the alignment
//!   else .............................................. the file system accepts the flag and does as it likes (tmpfs)
//! ```
//!
//! An empty file answers every read with "end of file" before it looks at alignments, so there a 1-byte write is tried, where the
//! caller may resize the file, and cut off again.

use super::direct_io::DirectIo;
use super::opened::Opened;
use block_core::IoBuf;
use rustix::io::Errno;
use std::io::{IoSlice, IoSliceMut};

/// Block sizes to try, and the largest one: what an empty file that cannot be written is taken for.
const BLOCKS: [u32; 4] = [512, 1024, 2048, 4096];
const LARGEST: u32 = 4096;

/// Finds out what the file demands. O_DIRECT is set on it already. `resizable`: its length may be changed for a moment while it is empty.
pub(super) fn probe(file: &Opened, resizable: bool) -> Result<DirectIo, Errno> {
    if let Some(told) = file.sys.dio_align(&file.file)
        && told.offset.is_power_of_two()
        && told.memory.is_power_of_two()
    {
        return Ok(direct(told.memory, told.offset));
    }
    let Ok(mut memory) = IoBuf::zeroed(LARGEST as usize, LARGEST as usize) else {
        return Err(Errno::NOMEM);
    };
    let size = file.sys.seek(&file.file, rustix::fs::SeekFrom::End(0))?;
    if size == 0 {
        return probe_empty(file, resizable, &memory);
    }
    if !refuses(|| {
        file.sys
            .preadv(&file.file, &mut [IoSliceMut::new(&mut memory[..1])], 0)
    })? {
        return Ok(DirectIo::AcceptedNotDirect);
    }
    for block in BLOCKS {
        let part = &mut memory[..block as usize];
        if !refuses(|| file.sys.preadv(&file.file, &mut [IoSliceMut::new(part)], 0))? {
            // What is good enough for a length has been good enough for memory everywhere; and no read of an address can tell
            // whether less would do for a write.
            return Ok(direct(block, block));
        }
    }
    Err(Errno::INVAL)
}

/// The file is empty: tries with writes, and leaves it empty.
fn probe_empty(file: &Opened, resizable: bool, memory: &IoBuf) -> Result<DirectIo, Errno> {
    if !resizable {
        // Nothing can be told, and nothing can be read but the end. Larger than needed is never wrong.
        return Ok(direct(LARGEST, LARGEST));
    }
    let attempt = |len: u32| {
        refuses(|| {
            file.sys
                .pwritev(&file.file, &[IoSlice::new(&memory[..len as usize])], 0)
        })
    };
    let found = (|| {
        if !attempt(1)? {
            return Ok(DirectIo::AcceptedNotDirect);
        }
        for block in BLOCKS {
            if !attempt(block)? {
                return Ok(direct(block, block));
            }
        }
        Err(Errno::INVAL)
    })();
    let emptied = loop {
        match file.sys.ftruncate(&file.file, 0) {
            Err(Errno::INTR) => (),
            result => break result,
        }
    };
    emptied.and(found)
}

fn direct(memory_alignment: u32, request_alignment: u32) -> DirectIo {
    DirectIo::Direct {
        memory_alignment,
        request_alignment,
    }
}

/// True if the call was refused because of an alignment.
fn refuses(mut call: impl FnMut() -> Result<usize, Errno>) -> Result<bool, Errno> {
    loop {
        match call() {
            Ok(_) => return Ok(false),
            Err(Errno::INVAL) => return Ok(true),
            Err(Errno::INTR) => (),
            Err(errno) => return Err(errno),
        }
    }
}
