//! What a disk should contain, byte by byte, and the sentence for the first range that differs.

use std::ops::Range;

/// The bytes from offset 0 to the end. `None`: unspecified.
#[derive(Clone, Default)]
pub(super) struct Content(Vec<Option<u8>>);

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Changes the length; what is added is zero.
    pub(super) fn resize(&mut self, len: u64) {
        self.0.resize(len as usize, Some(0));
    }

    /// A write, past the end too.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        self.resize(self.len().max(at + bytes.len() as u64));
        for (i, byte) in bytes.iter().enumerate() {
            self.0[at as usize + i] = Some(*byte);
        }
    }

    pub(super) fn zero(&mut self, range: Range<u64>) {
        self.0[range.start as usize..range.end as usize].fill(Some(0));
    }

    /// Makes the part of `range` that exists unspecified.
    pub(super) fn forget(&mut self, range: Range<u64>) {
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        self.0[start as usize..end as usize].fill(None);
    }

    /// Compares `found`, which was read at `at`. Bytes past the end are expected to be zero.
    pub(super) fn compare(&self, at: u64, found: &[u8]) -> Result<(), String> {
        let wrong = |i: usize| {
            let expected = self.0.get(at as usize + i).copied().unwrap_or(Some(0));
            expected.filter(|byte| *byte != found[i])
        };
        let Some(first) = (0..found.len()).find(|i| wrong(*i).is_some()) else {
            return Ok(());
        };
        let same_kind =
            |i: &usize| wrong(*i).is_some_and(|b| (b == 0) == (wrong(first) == Some(0)));
        let run = (first..found.len()).take_while(same_kind).count();
        let (from, to) = (at + first as u64, at + (first + run) as u64);
        Err(match wrong(first) {
            Some(0) => format!(
                "bytes other than zero at {from}..{to} ({:#04x} first)",
                found[first]
            ),
            expected => format!(
                "other bytes than were written at {from}..{to} (found {:#04x} first, expected {:#04x})",
                found[first],
                expected.unwrap_or(0)
            ),
        })
    }
}
