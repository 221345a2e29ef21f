//! Whole named saves: the machine's state and its disk as one snapshot of the image.
//!
//! QEMU's `save_snapshot()` (HMP `savevm`) streams the state, finalizes it, flushes the image and writes the record, in this order. So does
//! this; and whatever goes wrong before the record is there, what was written of the state is dropped again.

mod discard; // dropping what no snapshot holds
mod load;
mod save;
mod stream; // from a reader to a snapshot
mod task; // work that goes on when no task waits for it

pub(crate) use self::discard::discard;
pub use self::load::{SnapshotLoad, load_snapshot};
pub use self::save::SnapshotSave;
pub use self::stream::save_snapshot;
pub(crate) use self::task::on_its_own;
