//! Which bytes of a buffer are valid.

use std::ops::Range;

/// A set of byte positions inside one buffer, as sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges(Vec<Range<u32>>);

impl Ranges {
    /// Adds `new`, which is not empty. Costs nothing where it continues the last range, as in a stream.
    pub(crate) fn insert(&mut self, new: Range<u32>) {
        debug_assert!(new.start < new.end);
        match self.0.last_mut() {
            Some(last) if last.end == new.start => last.end = new.end,
            Some(last) if last.end > new.start => self.merge(new),
            _ => self.0.push(new),
        }
    }

    /// Anywhere: joins all ranges that `new` overlaps or touches.
    fn merge(&mut self, new: Range<u32>) {
        let first = self.0.partition_point(|r| r.end < new.start);
        let after = self.0.partition_point(|r| r.start <= new.end);
        let Some(joined) = self.0[first..after].first().map(|r| r.start.min(new.start)) else {
            self.0.insert(first, new);
            return;
        };
        let end = self.0[after - 1].end.max(new.end);
        self.0[first] = joined..end;
        self.0.drain(first + 1..after);
    }

    /// True if every byte of `range` is in the set.
    pub(crate) fn covers(&self, range: Range<u32>) -> bool {
        let at = self.0.partition_point(|r| r.end < range.end);
        self.0.get(at).is_some_and(|r| r.start <= range.start)
    }

    /// The parts of the set inside `range`, in order.
    pub(crate) fn within(&self, range: Range<u32>) -> impl Iterator<Item = Range<u32>> + '_ {
        let first = self.0.partition_point(|r| r.end <= range.start);
        self.0[first..]
            .iter()
            .take_while({
                let end = range.end;
                move |r| r.start < end
            })
            .map(move |r| r.start.max(range.start)..r.end.min(range.end))
    }

    /// The parts of `range` that are not in the set, in order.
    pub(crate) fn gaps(&self, range: Range<u32>) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut from = range.start;
        let end = range.end;
        self.within(range)
            .map(Some)
            .chain([None])
            .filter_map(move |part| {
                let gap = from..part.as_ref().map_or(end, |part| part.start);
                from = part.map_or(end, |part| part.end);
                (!gap.is_empty()).then_some(gap)
            })
    }

    /// The ranges, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.0.iter().cloned()
    }

    /// Joins neighbours where `fill` returns true for the gap between them; it is called once for each gap, in order.
    pub(crate) fn join(&mut self, mut fill: impl FnMut(Range<u32>) -> bool) {
        self.0.dedup_by(|next, last| {
            let joined = fill(last.end..next.start);
            if joined {
                last.end = next.end;
            }
            joined
        });
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Empties the set; its memory is kept.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_over_the_gaps_that_are_filled() {
        let mut ranges = Ranges::default();
        for range in [0..1, 3..5, 9..10, 11..12, 20..30] {
            ranges.insert(range);
        }
        let mut asked = Vec::new();
        ranges.join(|gap| {
            let short = gap.len() < 4;
            asked.push(gap);
            short
        });
        assert_eq!(asked, [1..3, 5..9, 10..11, 12..20]);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [0..5, 9..12, 20..30]);
        Ranges::default().join(|_| unreachable!("there is no gap"));
    }

    /// Against a plain array of booleans: thousands of random insertions, and each question asked.
    #[test]
    fn ranges_answer_as_an_array_of_booleans_does() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u32| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % u64::from(below)) as u32
        };
        for _ in 0..300 {
            let mut ranges = Ranges::default();
            let mut array = [false; 64];
            for _ in 0..12 {
                let start = next(63);
                let end = start + 1 + next(64 - start).min(next(20));
                ranges.insert(start..end);
                array[start as usize..end as usize].fill(true);
                let list: Vec<_> = ranges.iter().collect();
                assert!(list.windows(2).all(|w| w[0].end < w[1].start), "{list:?}");
                let (from, to) = (next(32), 33 + next(31));
                let mut seen = [false; 64];
                for part in ranges.within(from..to) {
                    assert!(!part.is_empty());
                    seen[part.start as usize..part.end as usize].fill(true);
                }
                for gap in ranges.gaps(from..to) {
                    assert!(!gap.is_empty());
                    for at in gap {
                        assert!(!array[at as usize]);
                        seen[at as usize] = true;
                    }
                }
                assert!(
                    seen[from as usize..to as usize].iter().all(|s| *s),
                    "every byte is a part or a gap"
                );
                for at in from..to {
                    assert_eq!(ranges.covers(at..at + 1), array[at as usize]);
                }
                assert_eq!(
                    ranges.covers(from..to),
                    array[from as usize..to as usize].iter().all(|b| *b)
                );
            }
        }
    }
}
