//! Who may do what to a node, QEMU's `BLK_PERM_*`; the file driver's locks follow from it.

use std::fmt;
use std::ops::{BitAnd, BitOr, Not};

/// A set of permissions. Bit numbers are QEMU's, which its file locks use (byte 100 + bit, 200 + bit).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Perms(u8);

impl Perms {
    /// No permission.
    pub const NONE: Self = Self(0);
    /// `BLK_PERM_CONSISTENT_READ`, bit 0: what is read is a consistent view.
    pub const CONSISTENT_READ: Self = Self(1);
    /// `BLK_PERM_WRITE`, bit 1: content may change.
    pub const WRITE: Self = Self(1 << 1);
    /// `BLK_PERM_WRITE_UNCHANGED`, bit 2: writes that leave the content as it is.
    pub const WRITE_UNCHANGED: Self = Self(1 << 2);
    /// `BLK_PERM_RESIZE`, bit 3: the length may change.
    pub const RESIZE: Self = Self(1 << 3);
    /// All four.
    pub const ALL: Self = Self(0b1111);

    /// The four single permissions with their bit numbers and names, in bit order.
    pub const EACH: [(u8, Self, &'static str); 4] = [
        (0, Self::CONSISTENT_READ, "consistent read"),
        (1, Self::WRITE, "write"),
        (2, Self::WRITE_UNCHANGED, "write unchanged"),
        (3, Self::RESIZE, "resize"),
    ];

    /// True if every permission of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// True if nothing is in this set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Perms {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Perms {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Perms {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0 & Self::ALL.0)
    }
}

impl fmt::Debug for Perms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(
                Self::EACH
                    .iter()
                    .filter(|(_, p, _)| self.contains(*p))
                    .map(|(.., name)| name),
            )
            .finish()
    }
}

/// What one user of a node takes, and what it lets others do at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// What this user does.
    pub perm: Perms,
    /// What others may do meanwhile.
    pub shared: Perms,
}

impl Permissions {
    /// Reads, writes and resizes; others may read, and write unchanged bytes, but not write or resize.
    pub fn writer() -> Self {
        Self {
            perm: Perms::CONSISTENT_READ | Perms::WRITE | Perms::RESIZE,
            shared: Perms::CONSISTENT_READ | Perms::WRITE_UNCHANGED,
        }
    }
    /// Reads; no task may write or resize meanwhile.
    pub fn reader() -> Self {
        Self {
            perm: Perms::CONSISTENT_READ,
            shared: Perms::CONSISTENT_READ | Perms::WRITE_UNCHANGED,
        }
    }
    /// Reads whatever others do meanwhile, as `qemu-img check -U` and `qemu-io -r -U` do: shares everything. Only a user that does not
    /// share reading keeps it out.
    pub fn force_share() -> Self {
        Self {
            perm: Perms::CONSISTENT_READ,
            shared: Perms::ALL,
        }
    }
    /// The permission of the pair that keeps these two apart, if any: one takes what the other does not share.
    pub fn conflict(&self, other: &Self) -> Option<&'static str> {
        let clash = (self.perm & !other.shared) | (other.perm & !self.shared);
        Perms::EACH
            .iter()
            .find(|(_, p, _)| clash.contains(*p))
            .map(|(.., name)| *name)
    }
}
