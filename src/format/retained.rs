//! Sets of record numbers as sorted intervals (SPEC.md 6, section `retained`).

use super::limits::RETAINED_INTERVALS_MAX;
use super::tables::{EncodeError, limit};
use super::wire::{Corrupt, Reader, Writer};
use crate::model::Seq;

/// A set of record numbers: closed intervals, ascending, with at least one number missing between two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained(Vec<(Seq, Seq)>);

impl FromIterator<Seq> for Retained {
    fn from_iter<I: IntoIterator<Item = Seq>>(seqs: I) -> Retained {
        let mut seqs: Vec<Seq> = seqs.into_iter().collect();
        seqs.sort_unstable();
        let mut intervals: Vec<(Seq, Seq)> = Vec::new();
        for seq in seqs {
            match intervals.last_mut() {
                Some((_, end)) if seq <= end.saturating_add(1) => *end = seq,
                _ => intervals.push((seq, seq)),
            }
        }
        Retained(intervals)
    }
}

impl Retained {
    /// The intervals.
    pub fn intervals(&self) -> &[(Seq, Seq)] {
        &self.0
    }

    /// True if the set holds `seq`.
    pub fn contains(&self, seq: Seq) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= seq);
        after > 0 && seq <= self.0[after - 1].1
    }

    /// Writes it: number of intervals, then for each the distance of its start from the end before it, and its length
    /// less one.
    pub(super) fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        limit(
            self.0.len() as u64,
            RETAINED_INTERVALS_MAX as u64,
            "intervals of retained records",
        )?;
        let mut w = Writer::new();
        w.uv(self.0.len() as u64);
        let mut last = 0;
        for (start, end) in &self.0 {
            w.uv(start - last);
            w.uv(end - start);
            last = *end;
        }
        Ok(w.into_vec())
    }

    /// Reads it.
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Retained, Corrupt> {
        let count = r.count(2)?;
        r.require(
            count <= RETAINED_INTERVALS_MAX,
            "more than 100,000 intervals of retained records",
        )?;
        let mut intervals: Vec<(Seq, Seq)> = Vec::with_capacity(count);
        for index in 0..count {
            let last = intervals.last().map_or(0, |(_, end)| *end);
            let gap = r.uv()?;
            r.require(index == 0 || gap >= 2, "intervals of retained records touch")?;
            let start = last.checked_add(gap);
            let end = start
                .zip(Some(r.uv()?))
                .and_then(|(start, more)| start.checked_add(more));
            let (Some(start), Some(end)) = (start, end) else {
                return Err(r.corrupt("a retained record's number does not fit 64 bits"));
            };
            intervals.push((start, end));
        }
        r.finish()?;
        Ok(Retained(intervals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn intervals_are_the_set(seqs in proptest::collection::btree_set(0u64..60, 0..40)) {
            let retained: Retained = seqs.iter().copied().collect();
            for seq in 0..62 {
                prop_assert_eq!(retained.contains(seq), seqs.contains(&seq));
            }
            let bytes = retained.encode().unwrap();
            prop_assert_eq!(Retained::decode(&mut Reader::new(&bytes, "t")).unwrap(), retained);
        }

        #[test]
        fn garbage_never_panics_and_what_is_read_is_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(retained) = Retained::decode(&mut Reader::new(&bytes, "t")) {
                prop_assert_eq!(retained.encode().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn the_largest_numbers_fit() {
        let retained: Retained = [u64::MAX, u64::MAX - 1, 0].into_iter().collect();
        assert_eq!(retained.intervals(), [(0, 0), (u64::MAX - 1, u64::MAX)]);
        let bytes = retained.encode().unwrap();
        assert_eq!(Retained::decode(&mut Reader::new(&bytes, "t")).unwrap(), retained);
        let many: BTreeSet<Seq> = (0..=RETAINED_INTERVALS_MAX as u64).map(|n| 3 * n).collect();
        assert!(many.into_iter().collect::<Retained>().encode().is_err());
    }
}
