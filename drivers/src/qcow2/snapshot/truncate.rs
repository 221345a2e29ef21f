//! Changes of the disk's length, in an image that may have snapshots: QEMU's `qcow2_co_truncate`.

use super::Image;
use crate::qcow2::format::error::Result;
use block_core::Truncate;

impl Image {
    /// Makes the disk longer or shorter. What is added reads as zeroes. Stable when it returns.
    ///
    /// # Errors
    ///
    /// Before anything is written: [`Qcow2Error::Resize`](crate::qcow2::Qcow2Error::Resize),
    /// [`Qcow2Error::SizeTooLarge`](crate::qcow2::Qcow2Error::SizeTooLarge). On any error of a growth the length is the old one. A disk that
    /// was to become shorter may be so although what was after its new end could not be dropped.
    pub(crate) async fn truncate(&self, to: Truncate) -> Result<()> {
        let guest = &self.guest;
        let all = &guest.locks().all().await;
        guest.check_writable()?;
        let old = self.meta().size();
        guest.check_length(old, &to)?;
        if to.len == old {
            return Ok(());
        }
        guest.before_guest_change().await?;
        self.note_disk_sizes(all).await?;
        // The state that a snapshot left after the end of the disk, when the disk was reverted to it, is dropped.
        self.vmstate.show(None);
        guest.resize(all, to).await
    }
}
