//! Choices that follow from a seed.

use std::ops::RangeInclusive;

/// xorshift64*: the same seed, the same choices.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number in `range`.
    pub(super) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let choices = range.end() - range.start() + 1;
        range.start() + (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % choices
    }

    /// Bytes other than zero.
    pub(super) fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.within(1..=255) as u8).collect()
    }
}
