//! Clusters that are in use as far as a reader can see, but that are not counted.

use std::ops::Range;

/// Clusters that are not counted, and not freed either. Sorted; no two ranges touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept(Vec<Range<u64>>);

impl Kept {
    pub(crate) fn contains(&self, cluster: u64) -> bool {
        let after = self.0.partition_point(|range| range.start <= cluster);
        let before = after.checked_sub(1).and_then(|index| self.0.get(index));
        before.is_some_and(|range| cluster < range.end)
    }

    /// The end of the first run that has one of these clusters.
    pub(crate) fn end_in(&self, clusters: Range<u64>) -> Option<u64> {
        let before = self.0.partition_point(|range| range.end <= clusters.start);
        let range = self.0.get(before)?;
        (range.start < clusters.end).then_some(range.end)
    }

    /// Those below `end`.
    pub(crate) fn clusters_to(&self, end: u64) -> impl Iterator<Item = u64> + '_ {
        let below = self.0.iter().take_while(move |range| range.start < end);
        below.flat_map(move |range| range.start..range.end.min(end))
    }
}

impl FromIterator<Range<u64>> for Kept {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, before| {
            let joined = next.start <= before.end;
            if joined {
                before.end = before.end.max(next.end);
            }
            joined
        });
        Self(ranges)
    }
}
