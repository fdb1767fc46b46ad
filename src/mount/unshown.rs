//! "Published, not shown yet": what others changed and a commit of this mount was merged with, until a reload brings it.
//!
//! The record of such a commit holds both sides, the view only its own: a commit never changes what programs see. So the
//! mount stands on the newest record, and still there is something to reload.

use std::time::Duration;

use super::report::{list_changes, log_entry};
use super::{Brought, Mount, ReloadAnswer, Unshown};
use crate::model::{Seq, TreeRoot};
use crate::overlay::BaseRef;

/// Records that a reload names.
const RECORDS_NAMED: usize = 20;
/// Paths that it names.
const PATHS_NAMED: usize = 100;
/// Time to find out their names when the view has moved already: that is what was asked for.
const NAMING_TIME: Duration = Duration::from_secs(1);

/// Where a view stood before a reload.
pub(super) struct Stood {
    base: BaseRef,
    tree: TreeRoot,
    unshown: Option<Unshown>,
}

impl Mount {
    /// What this mount has published and does not show.
    pub(super) fn unshown(&self) -> Option<Unshown> {
        let base = self.base_ref();
        let mut merged = self.merged.lock();
        if base.prepared.is_none() {
            merged.clear();
            return None;
        }
        Some(unshown(&base, &merged))
    }

    /// Remembers records by others that a commit was merged with.
    pub(super) fn note_merged(&self, others: &[Seq]) {
        self.merged.lock().extend_from_slice(others);
    }

    /// Where the view stands; for [`Mount::name_brought`].
    pub(super) fn stood(&self) -> Stood {
        Stood {
            unshown: self.unshown(),
            base: self.base_ref(),
            tree: self.base.lock().clone(),
        }
    }

    /// Adds to a reload's answer what it brought, as far as the store tells that at once.
    pub(super) async fn name_brought(&self, before: Stood, answer: &mut ReloadAnswer) {
        if before.base.record == answer.record && before.unshown.is_none() {
            return;
        }
        let named = tokio::time::timeout(NAMING_TIME, self.brought(&before, answer.to)).await;
        answer.brought = named.unwrap_or_default();
    }

    async fn brought(&self, before: &Stood, to: Seq) -> Brought {
        let mut seqs: Vec<Seq> = before
            .unshown
            .iter()
            .flat_map(|unshown| unshown.others.iter().copied())
            .collect();
        seqs.extend(before.base.seq.saturating_add(1)..=to);
        seqs.retain(|seq| *seq <= to);
        seqs.sort_unstable_by(|a, b| b.cmp(a));
        let mut brought = Brought {
            records_more: seqs.len().saturating_sub(RECORDS_NAMED) as u64,
            ..Brought::default()
        };
        let (head, _) = self.known_head();
        for seq in seqs.into_iter().take(RECORDS_NAMED) {
            match self.volume.record(&head, seq).await {
                Ok(record) => brought.records.push(log_entry(&record)),
                // Trimmed meanwhile, or the store is away: the view has moved in any case.
                Err(_) => brought.records_more += 1,
            }
        }
        let now = self.base.lock().clone();
        if let Ok(listed) = list_changes(&*self.source, (&before.tree, &now), &[], None, PATHS_NAMED).await {
            (brought.changes, brought.truncated) = (listed.changes, listed.truncated);
        }
        brought
    }
}

/// The records between the base and the source before it are certainly by others and not shown: had they been, they
/// would be among the sources. `merged` are those that are known besides.
fn unshown(base: &BaseRef, merged: &[Seq]) -> Unshown {
    let before = base.sources.iter().copied().filter(|seq| *seq < base.seq).max();
    let mut others: Vec<Seq> = merged.to_vec();
    others.extend(before.into_iter().flat_map(|seq| seq + 1..base.seq));
    others.sort_unstable();
    others.dedup();
    Unshown {
        shows: others.first().map(|first| first.saturating_sub(1)),
        record: base.seq,
        others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Hash;

    #[test]
    fn what_is_not_shown_is_what_lies_between_the_sources() {
        let base = |sources: &[Seq]| BaseRef {
            seq: *sources.last().unwrap(),
            record: Hash([1; 32]),
            prepared: Some(Hash([2; 32])),
            sources: sources.to_vec(),
        };
        // On 10, others published 11, and 12 is ours.
        let once = unshown(&base(&[10, 12]), &[11]);
        assert_eq!((once.shows, once.record, once.others), (Some(10), 12, vec![11]));
        // After a restart the sources still tell of the last merge.
        assert_eq!(unshown(&base(&[10, 12]), &[]).others, [11]);
        // Twice.
        let twice = unshown(&base(&[10, 12, 15]), &[11, 13, 14]);
        assert_eq!((twice.shows, twice.others), (Some(10), vec![11, 13, 14]));
        assert_eq!(unshown(&base(&[12]), &[]).shows, None);
    }
}
