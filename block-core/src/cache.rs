//! Cache modes, QEMU's `cache=` option.

/// How a node treats the host's page cache and flushes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// `cache=none`: O_DIRECT; flushes are passed on.
    None,
    /// `cache=writeback`: the page cache; flushes are passed on.
    #[default]
    Writeback,
    /// `cache=writethrough`: the page cache, and every write ends with a flush (or FUA).
    Writethrough,
    /// `cache=unsafe`: the page cache, and flushes are ignored.
    Unsafe,
}

impl CacheMode {
    /// True where files are to be opened with O_DIRECT.
    pub const fn direct(self) -> bool {
        matches!(self, Self::None)
    }
    /// True where every write must be stable when it returns.
    pub const fn writethrough(self) -> bool {
        matches!(self, Self::Writethrough)
    }
    /// True where flushes are ignored.
    pub const fn no_flush(self) -> bool {
        matches!(self, Self::Unsafe)
    }
}
