//! The same filter as it is written without the contract: it passes the child's zeroes through. The conformance suite finds it.

use super::filter::XorFilter;
use block_core::{
    BlockDriver, BlockError, BlockLimits, Children, DiskOffset, IoVector, Op, ReadVector, Result,
    Truncate, WriteFlags,
};

/// An [`XorFilter`] whose growth is wrong.
pub(crate) struct NaiveXorFilter(pub(crate) XorFilter);

impl BlockDriver for NaiveXorFilter {
    fn format_name(&self) -> &'static str {
        "naive-xor"
    }
    fn limits(&self) -> BlockLimits {
        self.0.limits()
    }
    fn children(&self) -> Children<'_> {
        self.0.children()
    }
    fn supports_fua(&self) -> bool {
        true
    }
    fn grows(&self) -> bool {
        true
    }
    async fn length(&self) -> Result<u64> {
        self.0.length().await
    }
    async fn preadv(&self, at: DiskOffset, dst: ReadVector) -> (ReadVector, Result<()>) {
        self.0.preadv(at, dst).await
    }
    /// Wrong: the gap keeps the child's zeroes, which read as the key.
    async fn pwritev(&self, at: DiskOffset, src: IoVector, flags: WriteFlags) -> Result<()> {
        self.0.store(Op::Write, at.0, &src, flags).await
    }
    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
    /// Wrong: the child adds zeroes, which read as the key.
    async fn truncate(&self, to: Truncate) -> Result<()> {
        let result = self.0.file.truncate(to).await;
        result.map_err(|error| BlockError::new(Op::Truncate, to.len, 0, error.cause))
    }
    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}
