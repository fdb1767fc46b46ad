//! "Published, not shown yet": what others changed and a commit of this mount was merged with, until a reload brings it.
//!
//! The record of such a commit holds both sides, the view only its own: a commit never changes what programs see. So the
//! mount stands on the newest record, and still there is something to reload.

use std::time::Duration;

use futures::stream::StreamExt;

use super::Mount;
use super::report::{list_changes, log_entry};
use crate::answer::{Brought, Unshown};
use crate::model::Seq;
use crate::overlay::BaseRef;
use crate::view::HeldBase;
use crate::volume::LoggedRecord;

/// Records that a reload names.
const RECORDS_NAMED: usize = 20;
/// Paths that it names.
const PATHS_NAMED: usize = 100;
/// Time to find out their names, before the view moves: moving is what was asked for.
const NAMING_TIME: Duration = Duration::from_millis(500);

/// Where a view stood before a reload.
pub(super) struct Stood {
    base: BaseRef,
    /// Held: the reload may tidy up before the names are known.
    tree: HeldBase,
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

    /// Where the view stands; for [`Mount::brought`].
    pub(super) fn stood(&self) -> Stood {
        Stood {
            unshown: self.unshown(),
            base: self.base_ref(),
            tree: self.view.base(),
        }
    }

    /// What a reload to `target` brings, as far as the store tells that at once.
    pub(super) async fn brought(&self, before: Option<&Stood>, target: &LoggedRecord) -> Brought {
        let Some(before) = before else {
            return Brought::default();
        };
        if before.base.record == target.hash && before.unshown.is_none() {
            return Brought::default();
        }
        let named = tokio::time::timeout(NAMING_TIME, self.name_brought(before, target)).await;
        named.unwrap_or_default()
    }

    async fn name_brought(&self, before: &Stood, target: &LoggedRecord) -> Brought {
        let to = target.seq();
        let unshown = before
            .unshown
            .iter()
            .flat_map(|unshown| unshown.others.iter().copied());
        let mut seqs: Vec<Seq> = unshown.filter(|seq| *seq <= to).collect();
        seqs.extend(before.base.seq.saturating_add(1)..=to);
        seqs.sort_unstable_by(|a, b| b.cmp(a));
        let more = seqs.len().saturating_sub(RECORDS_NAMED) as u64;
        let (head, _) = self.known_head();
        let asking = seqs
            .into_iter()
            .take(RECORDS_NAMED)
            .map(|seq| self.volume.record(&head, seq));
        let records = futures::stream::iter(asking)
            .buffered(RECORDS_NAMED)
            .collect::<Vec<_>>();
        let trees = (&*before.tree, &target.record.root.root);
        let changes = list_changes(&*self.source, trees, &[], None, PATHS_NAMED);
        let (records, changes) = futures::join!(records, changes);
        // What was trimmed meanwhile is not named, and counted.
        let trimmed = records.iter().filter(|record| record.is_err()).count() as u64;
        let changes = changes.unwrap_or_default();
        Brought {
            records: records.iter().flatten().map(log_entry).collect(),
            records_more: more + trimmed,
            changes: changes.changes,
            truncated: changes.truncated,
        }
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
