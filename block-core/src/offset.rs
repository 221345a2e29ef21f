//! Offsets of different spaces are different types, so that mixing them is a compile error.

use std::fmt;

macro_rules! offset {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The offset `len` bytes further on, or `None` past `i64::MAX`, which no file offset can exceed.
            pub const fn checked_add(self, len: u64) -> Option<Self> {
                match self.0.checked_add(len) {
                    Some(end) if end <= i64::MAX as u64 => Some(Self(end)),
                    _ => None,
                }
            }
        }

        impl From<u64> for $name {
            fn from(at: u64) -> Self {
                Self(at)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

offset! {
    /// A byte of a node, as the user of that node sees it (the guest's disk for the top node).
    DiskOffset
}
offset! {
    /// A byte of the saved machine state, which lies outside what the guest sees. 0 is its first byte.
    VmstateOffset
}
