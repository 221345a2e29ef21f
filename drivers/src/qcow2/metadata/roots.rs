//! The fields of the header that change while an image is open.

/// The size and the positions of the tables. They share one sector, so that they change together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Roots {
    /// The guest's disk in bytes.
    pub(super) size: u64,
    pub(super) l1_size: u32,
    pub(super) l1_at: u64,
    pub(super) reftable_at: u64,
    pub(super) reftable_clusters: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_at: u64,
}

/// What is known of the header on disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnDisk {
    /// The fields that were stable last.
    pub(super) roots: Roots,
    /// False from a write of other fields until that write is known to be stable: the disk may have either.
    pub(super) sure: bool,
}

impl Roots {
    /// The offset of these fields in the header.
    pub(super) const AT: u64 = 24;

    /// Bytes 24 to 71 of the header. The encryption method between them is 0: encrypted images are not opened.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let encryption = 0_u32.to_be_bytes();
        [
            &self.size.to_be_bytes()[..],
            &encryption,
            &self.l1_size.to_be_bytes(),
            &self.l1_at.to_be_bytes(),
            &self.reftable_at.to_be_bytes(),
            &self.reftable_clusters.to_be_bytes(),
            &self.snapshots.to_be_bytes(),
            &self.snapshots_at.to_be_bytes(),
        ]
        .concat()
    }
}
