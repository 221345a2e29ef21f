//! Raw deflate with a window of 12 bits: no header, no checksum. `qcow2_zlib_compress` and `qcow2_zlib_decompress`.

use super::{CodecError, CompressionType};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

const KIND: CompressionType = CompressionType::Zlib;

/// QEMU inflates with this window, so no distance may reach further back than 4 KiB.
const WINDOW_BITS: u8 = 12;

/// A raw stream: neither a zlib nor a gzip header.
const HEADER: bool = false;

/// QEMU takes "the stream has ended" and "there is no room for more of it" alike, as long as the cluster is full.
pub(crate) fn decompress(src: &[u8], dst: &mut [u8]) -> Result<(), CodecError> {
    let wanted = dst.len();
    let mut inflate = Decompress::new_with_window_bits(HEADER, WINDOW_BITS);
    let ended = inflate.decompress(src, dst, FlushDecompress::Finish);
    let got = usize::try_from(inflate.total_out()).unwrap_or(0);
    match ended {
        Ok(Status::Ok | Status::StreamEnd | Status::BufError) if got == wanted => Ok(()),
        _ => Err(CodecError::Corrupt {
            kind: KIND,
            bytes: src.len(),
            wanted,
            got,
        }),
    }
}

/// The room for the stream is one byte less than the cluster: what does not fit is not worth it.
pub(crate) fn compress(src: &[u8]) -> Result<Option<Vec<u8>>, CodecError> {
    let mut stream = vec![0; src.len().saturating_sub(1)];
    let mut deflate = Compress::new_with_window_bits(Compression::default(), HEADER, WINDOW_BITS);
    match deflate.compress(src, &mut stream, FlushCompress::Finish) {
        Ok(Status::StreamEnd) => {
            let len = usize::try_from(deflate.total_out()).unwrap_or(0);
            stream.truncate(len);
            Ok(Some(stream))
        }
        Ok(Status::Ok | Status::BufError) => Ok(None),
        Err(_) => Err(CodecError::Refused {
            kind: KIND,
            bytes: src.len(),
        }),
    }
}
