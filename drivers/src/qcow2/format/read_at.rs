//! How a parser gets at the bytes of a structure that it does not read whole.

use super::error::{Qcow2Error, Table};

/// A file whose bytes can be read at any offset. Bytes past its end read as zeroes.
pub(crate) trait ReadAt {
    /// The length of the file in bytes.
    fn length(&self) -> u64;

    /// Fills `dst` from byte `at` on. `what` names the structure in an error.
    async fn read(&self, what: Table, at: u64, dst: &mut [u8]) -> Result<(), Qcow2Error>;
}
