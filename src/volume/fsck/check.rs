//! The check, stage by stage.

use std::collections::{BTreeSet, HashMap};

use super::paths::{name_damaged, name_inodes, name_lost};
use super::referred::{Collector, Content, Referred};
use super::report::{FsckOptions, FsckProgress, FsckReport};
use crate::format::limits::LEASE_SEQS_MAX;
use crate::model::{DirTree, LeaseId, Seq};
use crate::tree::{self, Place, TreeError};
use crate::volume::create::random;
use crate::volume::{Head, LeaseHolder, LoggedRecord, RemoteSource, Volume, VolumeError};

/// Collectors may come in the way of a check this often.
const TRIES: usize = 3;

impl Volume {
    /// Checks the volume. `head` is the newest record. A collector may run meanwhile: all records are leased before they are
    /// checked, and what is missing is believed only if no collector was there since.
    ///
    /// # Errors
    /// The store does not answer, or does not let us; damage is no error but the result.
    pub async fn fsck(
        &self,
        head: &Head,
        options: FsckOptions,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<FsckReport, VolumeError> {
        let mut lease = None;
        let mut told = Vec::new();
        let mut head = head.clone();
        if options.all_records {
            match self.lease_checked(&head, &mut lease).await {
                Ok(now) => head = now,
                Err(error) => told.push(format!(
                    "records that a collector trims while they are checked are looked at again: no lease could be written: {error}"
                )),
            }
        }
        let mut checked = self.check(&head, options, progress).await;
        for _ in 0..TRIES {
            let is_damaged = checked.as_ref().is_ok_and(|report| report.damaged > 0);
            if !is_damaged {
                break;
            }
            // What was trimmed and collected meanwhile is no damage.
            let now = self.head().await?;
            if now.record().gc.fence == head.record().gc.fence {
                break;
            }
            head = now;
            checked = self.check(&head, options, progress).await;
        }
        if let Some(lease) = lease
            && let Err(error) = self.drop_lease(lease).await
        {
            tracing::info!(%error, "the lease of the check stays until it lapses");
        }
        let mut report = checked?;
        told.into_iter().for_each(|text| report.warn(|| text));
        Ok(report)
    }

    /// Names the records that are to be checked, and gives the head that says which of them are kept.
    async fn lease_checked(&self, head: &Head, lease: &mut Option<LeaseHolder>) -> Result<Head, VolumeError> {
        let older = head.record().gc.kept_below(head.seq());
        let seqs: BTreeSet<Seq> = std::iter::once(head.seq())
            .chain(older)
            .take(LEASE_SEQS_MAX)
            .collect();
        let id = LeaseId(random()?);
        let lease = lease.insert(LeaseHolder::new(id, "sailvol fsck".to_owned()));
        self.write_lease(lease, seqs).await
    }

    /// One look at everything, under one head.
    async fn check(
        &self,
        head: &Head,
        options: FsckOptions,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<FsckReport, VolumeError> {
        let mut report = FsckReport::default();
        let seqs = self.check_log(head, options, &mut report, progress).await?;
        let nodes = RemoteSource::new(self.clone());
        let mut referred = Referred::default();
        for seq in &seqs {
            let Some(record) = self.tree_record(head, *seq).await? else {
                continue;
            };
            report.trees += 1;
            self.check_usage(&record, &mut report);
            self.check_trees(&nodes, &record, &mut referred, &mut report, progress)
                .await?;
        }
        self.check_listing(&mut referred, &mut report, progress).await?;
        report.packs = referred.packs.len() as u64;
        report.chunks = referred.chunks.len() as u64;
        report.blobs = referred.packs.values().map(|pack| pack.blobs.len() as u64).sum();
        let damaged = self
            .check_contents(referred, options, &mut report, progress)
            .await?;
        self.name_paths(&nodes, head, &seqs, &damaged, &mut report, progress)
            .await?;
        Ok(report)
    }

    async fn tree_record(&self, head: &Head, seq: Seq) -> Result<Option<LoggedRecord>, VolumeError> {
        if seq == head.seq() {
            return Ok(Some(head.newest.clone()));
        }
        match self.fetch_record(seq).await {
            Ok(found) => Ok(found.map(|(record, _)| record)),
            // Told when the log was checked.
            Err(VolumeError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The tree of files of one record, and those that go with it.
    async fn check_trees(
        &self,
        nodes: &RemoteSource,
        record: &LoggedRecord,
        referred: &mut Referred,
        report: &mut FsckReport,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<(), VolumeError> {
        let root = &record.record.root;
        let mut collector = Collector {
            referred,
            report,
            progress,
            aside: None,
            stopped: None,
        };
        let mut complete = tree::visit(nodes, &root.root, &mut collector).await;
        for (what, stored) in [("checkpoints", root.refs), ("history", root.history)] {
            let Some((ptr, index)) = stored.filter(|_| complete) else {
                continue;
            };
            collector.aside = Some(what);
            complete = tree::visit_dir(nodes, &DirTree::stored(ptr, index), &mut collector).await;
        }
        match collector.stopped {
            Some(error) => Err(stopped(error)),
            None => Ok(()),
        }
    }

    /// Names the paths of what is damaged, as far as the trees can be walked.
    async fn name_paths(
        &self,
        nodes: &RemoteSource,
        head: &Head,
        seqs: &[Seq],
        damaged: &HashMap<Content, usize>,
        report: &mut FsckReport,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<(), VolumeError> {
        let links = Place::Links.to_string();
        let told = |report: &FsckReport, begins: &str| {
            let mut paths = report.damage.iter().flat_map(|damage| &damage.paths);
            paths.any(|path| path.starts_with(begins))
        };
        let (lost_links, inodes) = (told(report, &links), told(report, "inode "));
        if damaged.is_empty() && !lost_links && !inodes {
            return Ok(());
        }
        progress(FsckProgress {
            stage: "paths",
            ..FsckProgress::default()
        });
        for seq in seqs {
            let Some(record) = self.tree_record(head, *seq).await? else {
                continue;
            };
            let root = &record.record.root.root;
            if !damaged.is_empty() {
                name_damaged(nodes, root, damaged, report).await;
            }
            if lost_links {
                name_lost(nodes, root, &links, report).await;
            }
            if inodes {
                name_inodes(nodes, root, report).await;
            }
        }
        Ok(())
    }
}

/// An error that ends the check.
pub(super) fn stopped(error: TreeError) -> VolumeError {
    use crate::store::StoreError;
    match error {
        TreeError::Denied { reason } => StoreError::Denied { reason }.into(),
        TreeError::Damaged { object, rule } => VolumeError::Damaged { object, rule },
        other => StoreError::Unreachable {
            reason: other.to_string(),
        }
        .into(),
    }
}
