//! Compressed clusters: read and decompressed whole.

use super::Result;
use super::image::Image;
use super::offset::HostOffset;
use block_core::Cause;

impl Image {
    /// The cluster whose compressed data is the first of `bytes` bytes at `at`.
    pub(super) async fn decompress(&self, at: HostOffset, bytes: u64) -> Result<Vec<u8>> {
        let text = format!("compressed cluster at {at} ({bytes} bytes)");
        Err(Cause::Driver(text.into()))
    }
}
