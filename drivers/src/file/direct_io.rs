//! How a file is accessed: through the page cache, or past it.

/// How a file is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectIo {
    /// Through the page cache, as asked.
    Off,
    /// Past the page cache.
    Direct {
        /// Addresses of memory are multiples of this.
        memory_alignment: u32,
        /// Offsets and lengths are multiples of this.
        request_alignment: u32,
    },
    /// O_DIRECT is set, and the file system takes any length: nothing says that the page cache is passed by.
    AcceptedNotDirect,
}

impl DirectIo {
    /// What memory addresses must be multiples of.
    pub fn memory_alignment(self) -> u32 {
        match self {
            Self::Direct {
                memory_alignment, ..
            } => memory_alignment,
            Self::Off | Self::AcceptedNotDirect => 1,
        }
    }

    /// What offsets and lengths must be multiples of.
    pub fn request_alignment(self) -> u32 {
        match self {
            Self::Direct {
                request_alignment, ..
            } => request_alignment,
            Self::Off | Self::AcceptedNotDirect => 1,
        }
    }
}
