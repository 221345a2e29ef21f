//! Zstandard frames, one after the other until the cluster is full. `qcow2_zstd_compress` and `qcow2_zstd_decompress`.

use super::{CodecError, CompressionType};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::io::Read;

const KIND: CompressionType = CompressionType::Zstd;

/// The largest window that a frame may ask for, libzstd's own limit (`ZSTD_WINDOWLOG_LIMIT_DEFAULT`). No memory is set aside for it: a
/// frame is given up as soon as it gives more than the cluster has room for.
const MAX_WINDOW: u64 = 1 << 27;

/// Takes frames until the cluster is full, where the last one must end.
pub(crate) fn decompress(mut src: &[u8], dst: &mut [u8]) -> Result<(), CodecError> {
    let (bytes, wanted) = (src.len(), dst.len());
    let mut room = dst;
    while !room.is_empty() {
        let before = room.len();
        let taken = frame(&mut src, room).and_then(|len| room.split_off_mut(..len));
        if taken.is_none() {
            return Err(CodecError::Corrupt {
                kind: KIND,
                bytes,
                wanted,
                got: wanted - before,
            });
        }
    }
    Ok(())
}

/// Decompresses the frame at the front of `src` to the front of `dst` and returns its length there, 0 for a frame that is to be skipped;
/// `src` then starts past it. `None`: no frame, or one that does not fit.
fn frame(src: &mut &[u8], dst: &mut [u8]) -> Option<usize> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW);
    match decoder.init(&mut *src) {
        Ok(()) => {}
        Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
            length,
            ..
        })) => {
            *src = src.get(usize::try_from(length).ok()?..)?;
            return Some(0);
        }
        Err(_) => return None,
    }
    // Stops after the block that brings one byte too many. A block has 128 KiB at most, so this bounds the decoder's memory.
    let too_many = BlockDecodingStrategy::UptoBytes(dst.len().saturating_add(1));
    if !decoder.decode_blocks(&mut *src, too_many).ok()? {
        return None;
    }
    let len = decoder.can_collect();
    decoder.read_exact(dst.get_mut(..len)?).ok()?;
    let claimed = decoder.content_size(); // 0: the header does not say
    if claimed != 0 && claimed != len as u64 {
        return None;
    }
    match decoder.get_checksum_from_data() {
        Some(checksum) if decoder.get_calculated_checksum() != Some(checksum) => None,
        _ => Some(len),
    }
}

/// One frame, with a checksum of the content.
pub(crate) fn compress(src: &[u8]) -> Result<Option<Vec<u8>>, CodecError> {
    let stream = compress_to_vec(src, CompressionLevel::Fastest);
    Ok((stream.len() < src.len()).then_some(stream))
}
