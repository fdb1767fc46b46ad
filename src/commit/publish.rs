//! The second half of a commit: merging with what others published, storing the nodes, and making the next record
//! (LOG.md 4, steps 3 to 9).
//!
//! The letters are those of LOG.md 3: H is the newest record's tree, M the tree that this mount's changes make, R the merge of both,
//! which is published.
//!
//! 1. All attempts have one transaction id. Before anything that may publish it is sent, the journal holds that id, and the
//!    record number up to which the log certainly does not contain it.
//! 2. While the outcome of an attempt is unknown, every error is reported as [`CommitError::Unknown`].
//! 3. After a lost race only the merge and the upload of nodes are repeated: chunks and data packs stay in the store.
//!
//! Committers do not combine their work (LOG.md 7 allows for it): under contention each one retries by itself, at once after the
//! first loss, then after growing random waits.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::build::Contents;
use super::error::CommitError;
use super::frozen::{Counted, Uploaded};
use super::journal::Attempt;
use super::prepared::{PreparedTree, stored_locally, tree_hash};
use super::rehome::rehome;
use super::settle::{Settled, settle};
use super::sink::Uploads;
use super::sources::held_contents;
use super::surroundings::{Commit, node_params};
use crate::format::{PackBuilder, RecordKind, SuperNode, Usage, txn_id};
use crate::model::{Seq, TreeRoot, TxnId, VolPath};
use crate::overlay::{BaseRef, PublishedContent};
use crate::tree::{self, Hint, NodeWriter, Overwritten, PackIds};
use crate::volume::{FoundTxn, Head, LoggedRecord, NextRecord, PublishOutcome, VolumeError, rules};

/// A commit that is in the log.
#[derive(Clone, Debug)]
pub struct CommitDone {
    /// The record that was published.
    pub record: LoggedRecord,
    /// The newest known record.
    pub head: Head,
    /// Its identity.
    pub txn: TxnId,
    /// What the commit changed, for people.
    pub counted: Counted,
    /// Bytes sent to the store: chunks, packs and the record.
    pub sent: u64,
    /// Attempts that lost the race for their record number.
    pub lost: u32,
    /// Records by others, not shown by this view, that were merged with.
    pub merged_with: Vec<Seq>,
    /// Changes in them that this commit overwrote.
    pub overwrote: Vec<Overwritten>,
    /// Files that could still be written: published as they were read, and still dirty.
    pub still_written: Vec<VolPath>,
    /// The base of the view from now on.
    pub base: NewBase,
    /// Published contents by node, for the overlay.
    pub contents: Vec<PublishedContent>,
}

/// The base after a commit: M (LOG.md 3).
#[derive(Clone, Debug)]
pub struct NewBase {
    /// The base if nothing was written since the freeze.
    pub clean: BaseRef,
    /// The base if something was: the sources of those writes stay among its sources.
    pub dirty: BaseRef,
    /// The tree itself.
    pub tree: TreeRoot,
    /// Those of its nodes that exist only on this machine; `None` if it is the published tree.
    pub prepared: Option<PreparedTree>,
}

/// R, merged for one head, and what is needed to publish it.
struct Merge {
    result: TreeRoot,
    /// Blobs and extent pages that go with the nodes.
    open: PackBuilder,
    overwrote: Vec<Overwritten>,
    used: Vec<Hint>,
    /// True if R is M, because nobody else has published.
    plain: bool,
}

/// The outcome of an attempt that did not fail.
enum Step {
    Done(Box<CommitDone>),
    Lost,
    Unknown(String),
}

/// An attempt of unknown outcome, with the answer to give if it turns out to have been published.
struct Sent {
    attempt: Attempt,
    merged_with: Vec<Seq>,
    overwrote: Vec<Overwritten>,
}

/// State that is kept from attempt to attempt.
struct Publishing<'a> {
    commit: &'a Commit<'a>,
    uploaded: Uploaded,
    txn: TxnId,
    /// The log does not contain the transaction up to this record number.
    since: Seq,
    /// Set while the last attempt may have been published: why its outcome is unknown.
    pending: Option<String>,
    /// Attempts of which the outcome was not known, the pending one among them.
    sent_attempts: Vec<Sent>,
    lost: u32,
    /// Bytes sent, without those of files.
    sent: u64,
}

impl Uploaded {
    /// Publishes it. `head` is the newest known record.
    ///
    /// # Errors
    /// [`CommitError::Unknown`] when the outcome cannot be known; all others mean that nothing was published.
    pub async fn publish(self, commit: &Commit<'_>, head: Head) -> Result<CommitDone, CommitError> {
        let txn = txn_id(
            &random()?,
            &commit.options.by,
            &self.frozen.base_ref.record,
            &self.digest(),
        );
        let deadline = Instant::now() + commit.options.deadline;
        let mut publishing = Publishing {
            commit,
            since: head.seq(),
            uploaded: self,
            txn,
            pending: None,
            sent_attempts: Vec::new(),
            lost: 0,
            sent: 0,
        };
        let mut known = head;
        loop {
            let step = match publishing.step(&mut known).await {
                Ok(step) => step,
                Err(error) => match &publishing.pending {
                    // The store may answer again before the deadline.
                    Some(_) if error.is_transient() => Step::Unknown(error.to_string()),
                    Some(reason) => return Err(publishing.unknown(format!("{reason}; then {error}"))),
                    None => return Err(error),
                },
            };
            match step {
                Step::Done(done) => return Ok(*done),
                Step::Lost => publishing.lost += 1,
                Step::Unknown(reason) => publishing.pending = Some(reason),
            }
            let wait = pause(publishing.lost, publishing.pending.is_some())?;
            if Instant::now() + wait > deadline {
                return Err(match publishing.pending.take() {
                    Some(reason) => publishing.unknown(reason),
                    None => CommitError::Contended {
                        attempts: publishing.lost,
                    },
                });
            }
            tokio::time::sleep(wait).await;
        }
    }
}

impl Publishing<'_> {
    fn unknown(&self, reason: String) -> CommitError {
        CommitError::Unknown {
            txn: self.txn,
            since: self.since,
            reason,
        }
    }

    /// One attempt: look at the log, merge, store, publish.
    async fn step(&mut self, known: &mut Head) -> Result<Step, CommitError> {
        let commit = self.commit;
        let refreshed = match commit.volume.refresh(known).await {
            Err(VolumeError::Deleted { .. }) if self.pending.is_some() => return self.at_the_end().await,
            other => other?,
        };
        let mine = refreshed
            .newer
            .iter()
            .find(|logged| logged.record.txn == self.txn || logged.record.merged.contains(&self.txn));
        *known = refreshed.head.clone();
        if self.pending.is_some() || mine.is_some() {
            let found = commit
                .volume
                .find_txn(commit.nodes, known, self.txn, self.since)
                .await?;
            if let Some(found) = found {
                return self.found(known, &found);
            }
            // A delayed request of an earlier attempt can still create its record as long as that record number is free, so
            // the outcome stays unknown until then. The next attempt takes the number, with the same transaction; once the
            // number is taken, the delayed request can no longer succeed.
            if self
                .sent_attempts
                .iter()
                .all(|sent| sent.attempt.record.seq() <= known.seq())
            {
                self.since = self.since.max(known.seq());
                self.pending = None;
            }
        }
        let gc = &known.record().gc;
        if !rules::are_uploads_young(gc, self.uploaded.files.epoch_min) {
            // Rule R1: fences have passed, so the objects may be collected. The bytes are still here, frozen.
            let frozen = self.uploaded.frozen.clone();
            self.uploaded = frozen.upload(commit, gc.epoch).await?;
        }
        let merge = self.merge(known).await?;
        self.check_quota(known, &merge.result)?;
        self.attempt(known, merge).await
    }

    /// The volume was deleted while the outcome of an attempt was unknown: it is known now.
    async fn at_the_end(&mut self) -> Result<Step, CommitError> {
        let commit = self.commit;
        match settle(commit.volume, commit.nodes, self.txn, self.since).await {
            Ok(Settled::Published { found, head }) => self.found(&head, &found),
            Err(error @ CommitError::Volume(VolumeError::Deleted { .. })) => {
                self.pending = None;
                Err(error)
            }
            // Brought back meanwhile.
            Ok(Settled::NotPublished { .. }) => Ok(Step::Lost),
            Err(error) => Err(error),
        }
    }

    /// Handles a transaction that a search has found in the log.
    fn found(&mut self, head: &Head, found: &FoundTxn) -> Result<Step, CommitError> {
        let at = self
            .sent_attempts
            .iter()
            .position(|sent| sent.attempt.record.hash == found.hash);
        let Some(at) = at else {
            return Err(self.unknown(format!(
                "record {} holds it, but is not as it was sent",
                found.seq
            )));
        };
        let sent = self.sent_attempts.swap_remove(at);
        Ok(self.done(sent, head.clone()))
    }

    fn done(&self, sent: Sent, head: Head) -> Step {
        let Sent {
            attempt,
            merged_with,
            overwrote,
        } = sent;
        Step::Done(Box::new(CommitDone {
            base: attempt.base_at(&attempt.record),
            sent: self.uploaded.files.sent + self.sent + attempt.record.bytes.len() as u64,
            record: attempt.record,
            head,
            txn: self.txn,
            counted: self.uploaded.counted,
            lost: self.lost,
            merged_with,
            overwrote,
            still_written: self.uploaded.still_written.clone(),
            contents: attempt.contents,
        }))
    }

    async fn merge(&self, head: &Head) -> Result<Merge, CommitError> {
        let commit = self.commit;
        let frozen = &self.uploaded.frozen;
        let mine = &self.uploaded.built;
        let theirs = &head.record().root.root;
        let known = frozen.base_ref.prepared.is_none() && frozen.base_ref.record == head.hash();
        let same = known || tree_hash(&frozen.base).is_some_and(|hash| Some(hash) == tree_hash(theirs));
        let open = self.uploaded.files.open.clone();
        let mut merge = if same {
            let (result, used) = (mine.tree.clone(), mine.moves.clone());
            Merge {
                result,
                open,
                overwrote: Vec::new(),
                used,
                plain: true,
            }
        } else {
            let merged = tree::merge(commit.nodes, &frozen.base, theirs, &mine.tree, &mine.moves).await?;
            let (result, used) = (merged.root, merged.used_hints);
            Merge {
                result,
                open,
                overwrote: merged.overwritten,
                used,
                plain: false,
            }
        };
        let sources: BTreeSet<Seq> = frozen.base_ref.sources.iter().copied().collect();
        if !rules::are_protected(&head.record().gc, &sources) {
            // Rule R2: objects that are not known to be kept are uploaded again.
            merge.result = rehome(commit, head, &merge.result, &mut merge.open).await?;
            merge.plain = false;
        }
        Ok(merge)
    }

    fn check_quota(&self, head: &Head, result: &TreeRoot) -> Result<(), CommitError> {
        let quota = head.record().config.quota_bytes;
        let bytes = result.bytes();
        if quota == 0 || bytes <= quota || bytes <= head.record().root.root.bytes() {
            return Ok(());
        }
        Err(CommitError::Quota { bytes, quota })
    }

    /// Stores the nodes of R and publishes it after `head`.
    async fn attempt(&mut self, head: &Head, merge: Merge) -> Result<Step, CommitError> {
        let commit = self.commit;
        let parent = head.record();
        let params = node_params(&parent.descriptor);
        let uploads = Uploads::new(commit.volume.clone());
        let writer = NodeWriter::with_open_pack(merge.open, self.uploaded.files.epoch, params)
            .with_sink(Box::new(uploads.clone()));
        let stored = tree::store(commit.nodes, &merge.result, writer).await;
        let stored = match uploads.take_error() {
            Some(error) => return Err(error.into()),
            None => stored?,
        };
        self.sent += uploads.sent();
        let uploaded = &self.uploaded.files.contents;
        let (prepared, contents) = match merge.plain {
            true => (None, resolved(uploaded, &stored.ids)),
            false => {
                let (base, built) = (&self.uploaded.frozen.base, &self.uploaded.built);
                let held = held_contents(commit.nodes, base, &merge.result, built, uploaded).await?;
                let mine = match &held {
                    Some(held) => &self.uploaded.frozen.build(commit.nodes, held).await?,
                    None => built,
                };
                let mine = tree::resolve_root(&mine.tree, &stored.ids);
                let writer = match commit.options.gathers {
                    true => NodeWriter::local_gathering(params),
                    false => NodeWriter::local(params),
                };
                // Only blobs that R refers to: a base that named any other would depend on what no record keeps.
                let writer = writer.with_xattrs(stored.xattrs);
                let prepared = stored_locally(commit.nodes, &mine, writer).await?;
                let contents = held.as_ref().unwrap_or(uploaded);
                (Some(prepared), resolved(contents, &stored.ids))
            }
        };
        let next = self.next_record(head, stored.root, merge.used);
        let record = commit.volume.prepare(head, next)?;
        let frozen = &self.uploaded.frozen;
        let seen = |seq: &Seq| frozen.base_ref.sources.binary_search(seq).is_ok();
        let sent = Sent {
            attempt: Attempt {
                txn: self.txn,
                since: self.since,
                record: record.logged.clone(),
                prepared,
                contents,
                sources: frozen.base_ref.sources.clone(),
            },
            merged_with: (frozen.base_ref.seq + 1..=head.seq())
                .filter(|seq| !seen(seq))
                .collect(),
            overwrote: merge.overwrote,
        };
        commit
            .journal
            .publishing(&sent.attempt)
            .await
            .map_err(CommitError::State)?;
        match commit.volume.publish(commit.nodes, &record).await? {
            PublishOutcome::Lost => Ok(Step::Lost),
            PublishOutcome::Unknown { reason } => {
                self.sent_attempts.push(sent);
                Ok(Step::Unknown(reason))
            }
            PublishOutcome::Published { record: found, head } if found.hash == record.logged.hash => {
                Ok(self.done(sent, head))
            }
            // An earlier attempt for the same number had arrived after all: the record is ours.
            PublishOutcome::Published { record: found, head } => {
                let found = FoundTxn {
                    seq: found.seq(),
                    hash: found.hash,
                    record: Some(found),
                };
                self.found(&head, &found)
            }
        }
    }

    fn next_record(&self, head: &Head, root: TreeRoot, renames: Vec<Hint>) -> NextRecord {
        let parent = head.record();
        let sent = self.uploaded.files.sent + self.sent;
        let usage = Usage {
            files: root.totals.files,
            dirs: root.totals.dirs,
            bytes: root.bytes(),
            stored: parent.usage.stored.saturating_add(sent),
        };
        NextRecord {
            kind: RecordKind::Commit,
            txn: self.txn,
            base: self.uploaded.frozen.base_ref.seq,
            by: self.commit.options.by.clone(),
            message: self.commit.options.message.clone(),
            root: SuperNode {
                root,
                refs: parent.root.refs,
                history: parent.root.history,
            },
            usage,
            gc: None,
            config: None,
            features: None,
            renames: if path_bytes(&renames) <= RENAMES_BYTES_MAX {
                renames
            } else {
                Vec::new()
            },
        }
    }
}

/// Contents with the true names of packs, by node.
fn resolved(contents: &Contents, ids: &PackIds) -> Vec<PublishedContent> {
    let mut resolved: Vec<PublishedContent> = contents
        .iter()
        .map(|(node, (size, content))| (*node, *size, tree::resolve_content(content, ids)))
        .collect();
    resolved.sort_by_key(|(node, _, _)| *node);
    resolved
}

/// Moves are written into the record up to this many bytes of paths: they serve those who combine commits later, and
/// must not fill the record.
const RENAMES_BYTES_MAX: usize = 64 << 10;

fn path_bytes(moves: &[Hint]) -> usize {
    let paths = moves.iter().flat_map(|(from, to)| [from, to]);
    paths
        .flat_map(|path| &path.0)
        .map(|name| name.as_bytes().len() + 1)
        .sum()
}

/// How long to wait before the next attempt: up to 30 ms after the first loss, then up to twice as long each time, at
/// most 3 s; at least 100 ms while an outcome is not known.
fn pause(lost: u32, pending: bool) -> Result<Duration, CommitError> {
    #[cfg(test)]
    if crate::store::IMPATIENT.get() {
        return Ok(Duration::ZERO); // a scheduler decides who waits
    }
    let most_ms: u64 = match lost {
        0 | 1 => 30,
        more => (30u64 << (more - 1).min(7)).min(3000),
    };
    let [a, b, ..] = random::<8>()?;
    let share = u64::from(u16::from_le_bytes([a, b]));
    let wait = Duration::from_millis(most_ms * share / u64::from(u16::MAX));
    Ok(if pending {
        wait + Duration::from_millis(100)
    } else {
        wait
    })
}

fn random<const N: usize>() -> Result<[u8; N], CommitError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| CommitError::State(std::io::Error::other(e)))?;
    Ok(bytes)
}
