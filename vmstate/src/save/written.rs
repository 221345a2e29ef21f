//! Which parts of the area a save has handed to the driver already.

use std::ops::Range;

/// Most stretches that are told apart; bounds the memory, and the cost of an insertion.
const MAX_STRETCHES: usize = 256;

/// Stretches of the area outside of which the save has handed nothing to the driver, sorted, apart from each other.
///
/// A stretch may also cover bytes that were not written: they then stay gaps, which costs requests and nothing else.
#[derive(Debug, Default)]
pub(crate) struct Written(Vec<Range<u64>>);

impl Written {
    /// Adds `new`, which is not empty and lies in one cell of `cell` bytes.
    ///
    /// Joins stretches between which no whole cell fits, so that an ascending stream with gaps is one stretch.
    pub(crate) fn insert(&mut self, new: Range<u64>, cell: u64) {
        let near = cell - 1;
        let first = self
            .0
            .partition_point(|old| old.end.saturating_add(near) < new.start);
        let past = self
            .0
            .partition_point(|old| old.start <= new.end.saturating_add(near));
        let joined = self.0[first..past].iter().fold(new, |joined, old| {
            joined.start.min(old.start)..joined.end.max(old.end)
        });
        self.0.splice(first..past, [joined]);
        if self.0.len() > MAX_STRETCHES {
            self.join_nearest();
        }
    }

    /// True if a byte of `range` may have been handed to the driver.
    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        let first = self.0.partition_point(|old| old.end <= range.start);
        self.0.get(first).is_some_and(|old| old.start < range.end)
    }

    /// Makes one stretch of the two with the least distance.
    fn join_nearest(&mut self) {
        let distance = |at: &usize| self.0[*at + 1].start - self.0[*at].end;
        let nearest = (0..self.0.len().saturating_sub(1)).min_by_key(distance);
        if let Some(at) = nearest {
            self.0[at].end = self.0[at + 1].end;
            self.0.remove(at + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ascending_stream_is_one_stretch_and_a_whole_cell_between_two_is_not_covered() {
        let mut written = Written::default();
        for cell in 0..1000 {
            written.insert(cell * 100 + 10..cell * 100 + 60, 100);
        }
        assert_eq!(written.0.len(), 1);
        assert_eq!(written.0.first(), Some(&(10..99_960)));
        written.insert(100_100..100_200, 100);
        assert!(!written.overlaps(&(100_000..100_100)));
        assert!(written.overlaps(&(100_000..100_101)));
        assert!(written.overlaps(&(0..11)) && !written.overlaps(&(0..10)));
    }

    /// Whatever the order: each written byte is covered, and there are never more stretches than allowed.
    #[test]
    fn every_written_byte_is_covered_however_many_stretches_there_are() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let mut written = Written::default();
        let mut all = Vec::new();
        for _ in 0..2000 {
            let cell = next(1 << 20) * 64;
            let start = cell + next(60);
            let range = start..start + 1 + next(cell + 63 - start);
            written.insert(range.clone(), 64);
            all.push(range);
            assert!(written.0.len() <= MAX_STRETCHES);
            assert!(written.0.windows(2).all(|w| w[0].end < w[1].start));
        }
        for range in all {
            assert!(written.overlaps(&(range.start..range.start + 1)));
            assert!(written.overlaps(&(range.end - 1..range.end)));
        }
        assert!(!written.overlaps(&(u64::MAX - 1..u64::MAX)));
    }
}
