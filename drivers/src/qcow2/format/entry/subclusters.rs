//! The subclusters of a cluster, as extended L2 entries have them.

use crate::qcow2::format::geometry::Geometry;
use std::ops::Range;

/// What is known of one subcluster, or of the cluster where there are no subclusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subcluster {
    /// Nothing here: the backing file shows through.
    Unallocated,
    /// Reads as zeroes, whatever is in the host cluster.
    Zero,
    /// The host cluster has the data.
    Data,
}

/// The state of each subcluster of a standard cluster, in the form of an extended L2 entry's second half. An image without extended
/// L2 has one subcluster, number 0. No subcluster is both allocated and zero, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subclusters(pub(super) u64);

impl Subclusters {
    /// All of them unallocated.
    pub(crate) const UNALLOCATED: Self = Self(0);
    pub(super) const HALF: u64 = u32::MAX as u64;

    /// One bit for each subcluster there is.
    pub(super) const fn all(geometry: &Geometry) -> u64 {
        if geometry.extended_l2() {
            Self::HALF
        } else {
            1
        }
    }

    /// A bit for each that is [`Subcluster::Data`].
    pub(crate) const fn data(self) -> u64 {
        self.0 & Self::HALF
    }

    /// A bit for each that is [`Subcluster::Zero`].
    pub(crate) const fn zero(self) -> u64 {
        self.0 >> 32
    }

    /// Subcluster `index`, 0..=31.
    pub(crate) const fn get(self, index: u32) -> Subcluster {
        let bit = 1_u64 << (index & 31);
        if self.data() & bit != 0 {
            Subcluster::Data
        } else if self.zero() & bit != 0 {
            Subcluster::Zero
        } else {
            Subcluster::Unallocated
        }
    }

    /// The same with those of `range`, inside 0..32, set to `to`.
    pub(crate) fn with(self, range: Range<u32>, to: Subcluster) -> Self {
        let below = |index: u32| (1_u64 << index.min(32)) - 1;
        let bits = below(range.end) & !below(range.start);
        let kept = self.0 & !(bits | bits << 32);
        Self(match to {
            Subcluster::Unallocated => kept,
            Subcluster::Zero => kept | bits << 32,
            Subcluster::Data => kept | bits,
        })
    }

    /// What subcluster `from` is, and how many from it on, up to and without `to`, are the same. At least 1 where `from < to`.
    pub(crate) fn run(self, from: u32, to: u32) -> (Subcluster, u32) {
        let kind = self.get(from);
        let same = (from..to.min(32)).take_while(|i| self.get(*i) == kind);
        (kind, same.count() as u32)
    }
}
