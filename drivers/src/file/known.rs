//! The length that the file is known to have, so that a file that another process makes shorter is an error and not zeroes.
//!
//! The length at open is raised when a write or a truncate of this driver has made the file longer, and lowered when a truncate of this
//! driver is submitted. What overlaps a truncate in time proves nothing in either direction: an epoch detects that.

use block_core::Cause;
use std::cell::Cell;

/// The length that the file has unless another process makes it shorter.
pub(super) struct KnownLength {
    length: Cell<u64>,
    /// Counts the begins and ends of truncates.
    epoch: Cell<u64>,
}

/// The known length at one moment: when a request was submitted.
#[derive(Clone, Copy)]
pub(super) struct Look {
    length: u64,
    epoch: u64,
}

impl KnownLength {
    pub(super) fn new(length: u64) -> Self {
        Self {
            length: Cell::new(length),
            epoch: Cell::new(0),
        }
    }

    /// Taken when a request is submitted, for its end.
    pub(super) fn look(&self) -> Look {
        Look {
            length: self.length.get(),
            epoch: self.epoch.get(),
        }
    }

    /// Fails if a request for `wanted` bytes at `at`, submitted at `look`, found that the file ends at `end`, before its known length.
    pub(super) fn check(&self, look: Look, at: u64, wanted: u64, end: u64) -> Result<(), Cause> {
        let length = look.length;
        let must_reach = length.min(at.saturating_add(wanted));
        if look.epoch != self.epoch.get() || at >= length || end >= must_reach {
            return Ok(());
        }
        Err(Cause::Shrunk {
            at,
            wanted: must_reach - at,
            got: end.saturating_sub(at),
            length,
        })
    }

    /// A write that was submitted at `look` has succeeded and ends at `end`.
    pub(super) fn grew_to(&self, look: Look, end: u64) {
        if look.epoch == self.epoch.get() {
            self.length.set(self.length.get().max(end));
        }
    }

    /// A truncate to `len` is about to be submitted.
    pub(super) fn begin_truncate(&self, len: u64) -> Look {
        self.turn_page();
        self.length.set(self.length.get().min(len));
        self.look()
    }

    /// The truncate to `len` that began at `look` is over.
    pub(super) fn end_truncate(&self, look: Look, len: u64, succeeded: bool) {
        let alone = look.epoch == self.epoch.get();
        self.turn_page();
        let length = self.length.get();
        self.length.set(match succeeded && alone {
            true => len,
            // Another truncate overlapped it, or it failed: the lower length is sure.
            false => length.min(len),
        });
    }

    fn turn_page(&self) {
        self.epoch.set(self.epoch.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_inside_the_known_length_is_an_error_with_its_numbers() {
        let known = KnownLength::new(1000);
        let look = known.look();
        assert_eq!(known.check(look, 900, 500, 1000), Ok(()));
        assert_eq!(known.check(look, 2000, 5, 1000), Ok(()));
        assert_eq!(known.check(look, 0, 500, 500), Ok(()));
        assert_eq!(known.check(look, 1000, 5, 0), Ok(()));
        let shrunk = |at, wanted, got| {
            Err(Cause::Shrunk {
                at,
                wanted,
                got,
                length: 1000,
            })
        };
        assert_eq!(known.check(look, 900, 500, 999), shrunk(900, 100, 99));
        assert_eq!(known.check(look, 700, 200, 10), shrunk(700, 200, 0));
        assert_eq!(known.check(look, 0, u64::MAX, 10), shrunk(0, 1000, 10));
    }

    #[test]
    fn own_growth_raises_the_length_and_own_truncates_lower_it() {
        let known = KnownLength::new(1000);
        known.grew_to(known.look(), 3000);
        assert!(known.check(known.look(), 2000, 1000, 2000).is_err());
        let cut = known.begin_truncate(500);
        assert_eq!(known.check(known.look(), 0, 1000, 500), Ok(()));
        known.end_truncate(cut, 500, true);
        assert_eq!(known.check(known.look(), 0, 1000, 500), Ok(()));
        assert!(known.check(known.look(), 0, 1000, 499).is_err());
        let longer = known.begin_truncate(2000);
        known.end_truncate(longer, 2000, true);
        assert!(known.check(known.look(), 0, 2000, 1999).is_err());
    }

    #[test]
    fn what_overlaps_a_truncate_proves_nothing() {
        let known = KnownLength::new(1000);
        let before = known.look();
        let cut = known.begin_truncate(500);
        let during = known.look();
        assert_eq!(known.check(before, 0, 1000, 500), Ok(()));
        known.grew_to(before, 2000);
        known.end_truncate(cut, 500, true);
        assert_eq!(known.check(during, 0, 1000, 400), Ok(()));
        known.grew_to(during, 2000);
        assert_eq!(known.look().length, 500);
    }

    #[test]
    fn a_truncate_that_failed_or_was_not_alone_leaves_the_lower_length() {
        let known = KnownLength::new(1000);
        let cut = known.begin_truncate(500);
        known.end_truncate(cut, 500, false);
        assert_eq!(known.look().length, 500);
        let longer = known.begin_truncate(5000);
        let shorter = known.begin_truncate(100);
        known.end_truncate(longer, 5000, true);
        known.end_truncate(shorter, 100, true);
        assert_eq!(known.look().length, 100);
    }
}
