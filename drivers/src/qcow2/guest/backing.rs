//! What shows through where the image has nothing.

use crate::qcow2::format::error::Result;
use crate::qcow2::format::offset::GuestOffset;
use crate::qcow2::metadata::ImageFile;
use block_core::{Cause, ReadVector};

/// The backing file, as far as the caller permitted it.
pub(crate) enum Backing {
    /// The image has none.
    None,
    /// Its node. What lies past its end reads as zeroes.
    Open(ImageFile),
    /// The image names one that was not opened: what would show through cannot be read.
    NotOpened { path: String, why: Option<String> },
}

impl Backing {
    /// Whether something may show through.
    pub(crate) fn is_there(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Where it is open.
    pub(crate) fn file(&self) -> Option<&ImageFile> {
        match self {
            Self::Open(file) => Some(file),
            Self::None | Self::NotOpened { .. } => None,
        }
    }

    pub(crate) async fn read(
        &self,
        at: GuestOffset,
        mut dst: ReadVector,
    ) -> (ReadVector, Result<()>) {
        match self {
            Self::None => {
                let len = dst.len();
                dst.fill_zero(0, len);
                (dst, Ok(()))
            }
            Self::Open(file) => file.read(at.0, dst).await,
            Self::NotOpened { path, why } => {
                let mut text = format!("the backing file {path:?} was not opened");
                if let Some(why) = why {
                    text += &format!(": {why}");
                }
                (dst, Err(Cause::Driver(text.into())))
            }
        }
    }
}
