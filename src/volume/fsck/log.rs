//! The log: which records there are, and that each follows the one before it.

use std::collections::HashSet;

use futures::stream::{StreamExt, TryStreamExt};

use super::report::{FsckOptions, FsckProgress, FsckReport};
use crate::format::limits::RECORD_BYTES_MAX;
use crate::format::{Key, log_prefix};
use crate::model::{Hash, Seq};
use crate::store::{LIST_LIMIT_MAX, StoreError};
use crate::volume::{Head, LoggedRecord, Volume, VolumeError};

/// Records that are read at the same time.
const RECORDS_AT_ONCE: usize = 16;

/// Runs of numbers of `kept` (closed intervals, newest first) that are not in `there` (newest first).
fn missing_runs(kept: impl Iterator<Item = (Seq, Seq)>, there: &[Seq]) -> Vec<(Seq, Seq)> {
    let mut missing = Vec::new();
    let mut there = there.iter().copied().peekable();
    for (first, last) in kept {
        // The newest number of the run that was not looked at yet; `None` behind 0.
        let mut next = Some(last);
        while there.next_if(|seq| *seq > last).is_some() {}
        while let Some(seq) = there.next_if(|seq| *seq >= first) {
            if let Some(newest) = next.filter(|newest| seq < *newest) {
                missing.push((seq + 1, newest));
            }
            next = seq.checked_sub(1);
        }
        if let Some(newest) = next.filter(|newest| *newest >= first) {
            missing.push((first, newest));
        }
    }
    missing
}

impl Volume {
    /// The chain of records by their hashes, or for a quick look that they are there; says which trees to check.
    pub(super) async fn check_log(
        &self,
        head: &Head,
        options: FsckOptions,
        report: &mut FsckReport,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<Vec<Seq>, VolumeError> {
        let gc = &head.record().gc;
        let there = self.listed_records(head, report).await?;
        self.check_next(head, report).await?;
        for (first, last) in missing_runs(gc.kept_runs(head.seq()), &there) {
            let rule = match last - first {
                0 => "a record that is to be kept is missing".to_owned(),
                _ => format!("records {first} to {last} are to be kept and are missing"),
            };
            report.add(self.record_key(first), rule, None);
        }
        report.records = 1;
        let mut trees = vec![head.seq()];
        if options.quick && !options.all_records {
            report.records += there.len() as u64;
            return Ok(trees);
        }
        let total = there.len() as u64 + 1;
        let mut newer: Option<(Seq, Option<Hash>)> = Some((head.seq(), head.record().parent));
        let reads = there.into_iter().map(|seq| async move {
            let found = self.fetch_record(seq).await;
            Ok::<_, VolumeError>((seq, found))
        });
        let mut reads = futures::stream::iter(reads).buffered(RECORDS_AT_ONCE);
        while let Some((seq, found)) = reads.try_next().await? {
            report.records += 1;
            progress(FsckProgress {
                stage: "records",
                done: report.records,
                total,
                bytes: 0,
            });
            let parent_wanted = newer
                .take()
                .filter(|(after, _)| *after == seq + 1)
                .and_then(|(_, parent)| parent);
            match found {
                Ok(Some((record, _))) => {
                    if parent_wanted.is_some_and(|wanted| wanted != record.hash) {
                        let rule = format!("is not the record that record {} follows", seq + 1);
                        report.add(self.record_key(seq), rule, None);
                        continue;
                    }
                    newer = Some((seq, record.record.parent));
                    if options.all_records {
                        trees.push(seq);
                    }
                }
                Ok(None) => {
                    let rule = "was listed, and cannot be read: it is missing".to_owned();
                    report.add(self.record_key(seq), rule, None);
                }
                Err(VolumeError::Damaged { rule, .. }) => {
                    report.add(self.record_key(seq), rule, None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(trees)
    }

    /// Nothing but an object may stand where the next record is to be created: listings do not show it.
    async fn check_next(&self, head: &Head, report: &mut FsckReport) -> Result<(), VolumeError> {
        let key = self.record_key(head.seq() + 1);
        match self.store().head(&key).await {
            Err(StoreError::Broken { reason, .. }) => {
                let rule = format!("{reason}: nothing can be committed while it is there");
                report.add(key, rule, None);
                Ok(())
            }
            result => Ok(result.map(drop)?),
        }
    }

    /// The records below the head that are there and to be kept, newest first.
    async fn listed_records(&self, head: &Head, report: &mut FsckReport) -> Result<Vec<Seq>, VolumeError> {
        let prefix = log_prefix(&self.id());
        let gc = &head.record().gc;
        let mut there = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = self
                .store()
                .list(&prefix, after.as_deref(), LIST_LIMIT_MAX)
                .await?;
            for object in &page.objects {
                let Some(Key::Record(_, seq)) = Key::parse(&object.key) else {
                    report.warn(|| {
                        format!(
                            "{}: is no record, and stands in the log; it is passed over",
                            object.key
                        )
                    });
                    continue;
                };
                if seq >= head.seq() || !gc.protects(seq) {
                    continue;
                }
                if object.len == 0 || object.len > RECORD_BYTES_MAX as u64 {
                    let rule = format!("has {} bytes, which no record has", object.len);
                    report.add(object.key.clone(), rule, None);
                }
                there.insert(seq);
            }
            after = page.objects.last().map(|object| object.key.clone());
            if !page.truncated || after.is_none() {
                break;
            }
        }
        let mut there: Vec<Seq> = there.into_iter().collect();
        there.sort_unstable_by(|a, b| b.cmp(a));
        Ok(there)
    }

    /// What a record says of itself must be true of its tree.
    pub(super) fn check_usage(&self, record: &LoggedRecord, report: &mut FsckReport) {
        let (usage, root) = (&record.record.usage, &record.record.root.root);
        let told = (usage.files, usage.dirs, usage.bytes);
        let true_ones = (root.totals.files, root.totals.dirs, root.bytes());
        if told != true_ones {
            let rule = "its usage is not what its tree holds".to_owned();
            report.add(self.record_key(record.seq()), rule, None);
        }
    }

    fn record_key(&self, seq: Seq) -> String {
        Key::Record(self.id(), seq).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_missing_records_are_found_without_counting_through_them() {
        let missing = |kept: &[(Seq, Seq)], there: &[Seq]| missing_runs(kept.iter().copied(), there);
        assert_eq!(missing(&[(1, 4), (0, 0)], &[4, 3, 2, 1, 0]), []);
        assert_eq!(missing(&[(1, 4), (0, 0)], &[4, 2, 1]), [(3, 3), (0, 0)]);
        assert_eq!(missing(&[(1, 4)], &[]), [(1, 4)]);
        assert_eq!(
            missing(&[(6, 9), (0, 3)], &[9, 8, 5, 4, 1]),
            [(6, 7), (2, 3), (0, 0)]
        );
        assert_eq!(missing(&[(1, 1 << 62)], &[7]), [(8, 1 << 62), (1, 6)]);
    }
}
