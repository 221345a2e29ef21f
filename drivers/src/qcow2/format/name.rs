//! A name in an image.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// A name in an image: a file's, a format's, a snapshot's. Bytes that need not be text, kept as they are.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// All bytes, as they are in the image.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as QEMU, whose strings end at a NUL, sees it.
    pub(crate) fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(self.0.split(|byte| *byte == 0).next().unwrap_or(&[]))
    }
}

/// Another's name is the same one if QEMU would say so.
impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_os_str() == other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_os_str().to_string_lossy().fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}
