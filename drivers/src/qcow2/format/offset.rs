//! A byte of the guest's disk and a byte of the image file are different types, so that mixing them is a compile error.

use std::fmt;

macro_rules! offset {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(pub(crate) u64);

        impl $name {
            /// The offset `len` bytes further on, or `None` past `i64::MAX`, which no file offset can exceed.
            pub(crate) const fn checked_add(self, len: u64) -> Option<Self> {
                match self.0.checked_add(len) {
                    Some(end) if end <= i64::MAX as u64 => Some(Self(end)),
                    _ => None,
                }
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
    /// A byte of the image file, or of the external data file where the image has one.
    HostOffset
}
offset! {
    /// A byte of what the L1 table maps: the guest's disk, and the vmstate area past it.
    GuestOffset
}
