//! What is known of an internal snapshot, QEMU's `QEMUSnapshotInfo`.

use crate::Cause;
use std::time::{SystemTime, UNIX_EPOCH};

/// Most bytes of a snapshot's name: what QEMU keeps of one.
const MAX_NAME: usize = 255;

/// A snapshot of an image, as its driver tells it (`QEMUSnapshotInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The driver's own name for it, unique in the image (`id_str`); in qcow2 a decimal number, given by the driver.
    pub id: String,
    /// The user's name for it. Drivers give no two snapshots the same name; images made elsewhere may have them.
    pub name: String,
    /// Length of the machine's state in bytes; 0 where only the disk was recorded.
    pub vmstate_size: u64,
    /// Length of the disk in bytes when the snapshot was made, which [`crate::BlockNode::snapshot_goto`] brings back.
    pub disk_size: u64,
    /// When it was made: seconds since 1970, UTC.
    pub date_sec: u32,
    /// Nanoseconds of the second, below 1,000,000,000 in what drivers of this crate write.
    pub date_nsec: u32,
    /// The guest's clock in nanoseconds since its start.
    pub vm_clock_nsec: u64,
    /// Instructions that the guest had executed, where it is run deterministically.
    pub icount: Option<u64>,
}

/// A snapshot to be made. [`NewSnapshot::new`] makes one of a name, without date and clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSnapshot {
    /// At most 255 bytes, none of them 0.
    pub name: String,
    /// As [`SnapshotInfo::date_sec`].
    pub date_sec: u32,
    /// As [`SnapshotInfo::date_nsec`].
    pub date_nsec: u32,
    /// As [`SnapshotInfo::vm_clock_nsec`].
    pub vm_clock_nsec: u64,
    /// As [`SnapshotInfo::icount`].
    pub icount: Option<u64>,
    /// A snapshot of the same name is dropped in the atomic step that records the new one: whatever happens, one of the two is there.
    /// Without it a name that is taken is an error, [`Cause::SnapshotExists`].
    pub replace: bool,
}

impl NewSnapshot {
    /// A snapshot called `name`, which must not be taken.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// With this date. What the format cannot hold (before 1970, after 2106) becomes the nearest date that it can.
    pub fn taken_at(self, time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            date_sec: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
            date_nsec: since.subsec_nanos(),
            ..self
        }
    }

    /// The name is one that drivers can be given: what [`crate::BlockNode::snapshot_create`] asks first.
    pub fn check(&self) -> Result<(), Cause> {
        let len = self.name.len();
        if len > MAX_NAME {
            let text = format!("the snapshot's name has {len} bytes, more than {MAX_NAME}");
            return Err(Cause::Driver(text.into()));
        }
        if let Some(at) = self.name.bytes().position(|byte| byte == 0) {
            let text = format!("byte {at} of the snapshot's name is 0");
            return Err(Cause::Driver(text.into()));
        }
        Ok(())
    }
}
