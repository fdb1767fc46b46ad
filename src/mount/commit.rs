//! `commit` on a live mount: freeze, upload and publish, and the view on its new base.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use super::Mount;
use super::kept::Kept;
use super::live::{Exclusive, ProgressSink};
use super::local::{count_changes, local_tree};
use super::memory::give_back_after;
use super::patience::Waiting;
use super::unattended::{check_deletions, is_same_tree};
use crate::answer::{
    CommitAnswer, CommitRequest, Failure, FailureKind, check_message, commit_answer, telling,
};
use crate::cache::Adoption;
use crate::commit::{
    Attempt, Commit, CommitDone, CommitError, CommitJournal, CommitOptions, FileSource, Frozen, NoHints,
    UploadLimits,
};
use crate::model::{Content, ITEM_BYTES_MAX};
use crate::overlay::{FreedBody, NodeBody, NodeId, Op, Overlay};
use crate::store::StoreError;
use crate::tree::TreeError;
use crate::view::{FrozenView, View, ViewError};
use crate::volume::VolumeError;

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Failed, error.to_string())
}

/// How long a commit waits for a store that is away.
fn patience(request: &CommitRequest) -> Duration {
    request
        .timeout_secs
        .map_or(crate::answer::STORE_TIME, Duration::from_secs)
}

/// The store does not answer, and nothing is wrong that waiting would not mend.
fn is_store_away(error: &CommitError) -> bool {
    matches!(
        error,
        CommitError::Tree(TreeError::Unreachable { .. })
            | CommitError::Volume(VolumeError::Store(StoreError::Unreachable { .. }))
    )
}

/// Frozen bytes, from the view.
struct FrozenFiles {
    view: Arc<View>,
    frozen: FrozenView,
}

fn tree_error(error: ViewError) -> TreeError {
    match error {
        ViewError::Tree(error) => error,
        other => TreeError::Local {
            path: "state directory".into(),
            reason: other.to_string(),
            errno: other.errno(),
        },
    }
}

#[async_trait]
impl FileSource for FrozenFiles {
    async fn size(&self, node: NodeId) -> Result<u64, TreeError> {
        self.view.frozen_size(&self.frozen, node).map_err(tree_error)
    }

    async fn is_still_written(&self, node: NodeId) -> Result<bool, TreeError> {
        Ok(self.frozen.open_for_write.iter().any(|open| open.node == node))
    }

    async fn next_data(&self, node: NodeId, offset: u64) -> Result<Option<u64>, TreeError> {
        self.view
            .next_frozen_data(&self.frozen, node, offset)
            .map_err(tree_error)
    }

    async fn read(&self, node: NodeId, offset: u64, len: u64) -> Result<Bytes, TreeError> {
        let limit = TreeError::Limit {
            what: "bytes read at once",
            limit: u64::from(u32::MAX),
        };
        let len = usize::try_from(len).map_err(|_| limit)?;
        self.view
            .read_frozen(&self.frozen, node, offset, len)
            .await
            .map_err(tree_error)
    }
}

/// Attempts go into the overlay's journal, their trees beside it.
#[derive(Debug)]
struct AttemptJournal {
    kept: Arc<Kept>,
    commit: u64,
}

#[async_trait]
impl CommitJournal for AttemptJournal {
    async fn publishing(&self, attempt: &Attempt) -> io::Result<()> {
        let (kept, commit, attempt) = (self.kept.clone(), self.commit, attempt.clone());
        let written = tokio::task::spawn_blocking(move || {
            kept.keep_attempt(&attempt, |overlay| {
                let ops = [
                    Op::Uploaded {
                        commit,
                        contents: attempt.contents.clone(),
                    },
                    Op::Prepared {
                        commit,
                        txn: attempt.txn,
                        after: attempt.since,
                        tree: attempt.prepared.as_ref().map(|tree| tree.hash),
                    },
                ];
                overlay.write().apply_all(&ops).map_err(io::Error::other)?;
                overlay.sync().map_err(io::Error::other)
            })
        });
        written.await.map_err(io::Error::other)?
    }
}

impl Mount {
    /// Publishes local changes.
    ///
    /// # Errors
    /// [`FailureKind::OutcomeUnknown`] when it may have been published or not; after all others nothing was, and all
    /// changes are where they were.
    pub async fn commit(
        &self,
        request: CommitRequest,
        progress: ProgressSink,
    ) -> Result<CommitAnswer, Failure> {
        check_message(&request.message)?;
        self.writable()?;
        let turn = self
            .exclusive("a commit", request.no_wait, request.timeout_secs)
            .await?;
        let done = self.commit_in_turn(turn, &request, progress, None).await;
        match &done {
            Ok(_) if request.dry_run => {}
            Ok(answer) => self.tell_committed(answer, false),
            Err(failure) => self.tell_failed("commit", failure, false),
        }
        done
    }

    /// The commit itself. With `belt`, percent, it is refused when it deletes a larger share of the volume's files.
    pub(super) async fn commit_in_turn(
        &self,
        turn: Exclusive<'_>,
        request: &CommitRequest,
        progress: ProgressSink,
        belt: Option<u8>,
    ) -> Result<CommitAnswer, Failure> {
        let overlay = self.writable()?.clone();
        let started = Instant::now();
        if request.dry_run {
            self.catch_up().await;
            return self.preview(&overlay);
        }
        let settled = self.settle_commit(patience(request)).await?;
        let nothing_else = || match &settled {
            Some(settled) => CommitAnswer {
                seq: Some(settled.seq),
                record: Some(settled.record),
                settled: Some(settled.seq),
                seconds: started.elapsed().as_secs_f64(),
                ..CommitAnswer::default()
            },
            None => CommitAnswer::default(),
        };
        self.catch_up().await;
        self.view.settle().map_err(failed)?;
        if overlay.read().is_clean() {
            return Ok(nothing_else());
        }
        let frozen = self.view.freeze().map_err(failed)?;
        if let Some(percent) = belt
            && let Err(failure) = self.check_belt(&overlay, &frozen, percent).await
        {
            // Before anything is sent: what is held back is looked at again and again.
            self.unfreeze(&frozen)?;
            return Err(failure);
        }
        let begun = self.volume.clock().steady();
        let done = match self
            .upload_and_publish_patiently(&overlay, &frozen, request, &progress)
            .await
        {
            Ok(Some(done)) => done,
            Ok(None) => {
                self.unfreeze(&frozen)?;
                return Ok(nothing_else());
            }
            Err(error @ CommitError::Unknown { .. }) => return Err(error.into()),
            Err(error) => {
                self.unfreeze(&frozen)?;
                return Err(error.into());
            }
        };
        // Nobody had superseded it before it was there.
        self.heads.saw(done.record.seq(), begun);
        self.stand_on(&overlay, &frozen, &done).await?;
        self.bound_sources(&turn).await;
        let mut answer = commit_answer(&done, count_changes(&frozen.state), started.elapsed());
        answer.settled = settled.map(|settled| settled.seq);
        let nodes = frozen.state.nodes.len();
        drop((frozen, done));
        give_back_after(nodes, answer.bytes_sent);
        tracing::info!(
            seq = answer.seq,
            record = answer.record.map(|hash| hash.to_string()),
            files = answer.files,
            changed = answer.changed,
            bytes = answer.bytes_changed,
            sent = answer.bytes_sent,
            merged = answer.merged_with.len(),
            seconds = format_args!("{:.3}", answer.seconds),
            "committed"
        );
        Ok(answer)
    }

    /// The commit was given up, and so is what was kept for its attempts.
    fn unfreeze(&self, frozen: &FrozenView) -> Result<(), Failure> {
        drop(self.view.unfreeze(frozen.commit).map_err(failed)?);
        if let Err(error) = self.drop_unneeded() {
            tracing::warn!(%error, "tidying up after a commit that was given up");
        }
        Ok(())
    }

    /// Uploads and publishes, again and again while the store is away, as long as the caller will wait. What arrived is
    /// in the ledger, so that trying again sends only what is missing.
    async fn upload_and_publish_patiently(
        &self,
        overlay: &Arc<Overlay>,
        frozen: &FrozenView,
        request: &CommitRequest,
        progress: &ProgressSink,
    ) -> Result<Option<CommitDone>, CommitError> {
        let limit = patience(request);
        let may_be_published = || {
            overlay
                .read()
                .frozen
                .as_ref()
                .is_some_and(|f| f.prepared.is_some())
        };
        let waiting = Waiting {
            limit,
            is_away: |error: &CommitError| is_store_away(error) && !may_be_published(),
            cut_off: || self.cut_off(overlay, limit),
        };
        let attempt = || self.upload_and_publish(frozen, request, progress.clone());
        self.wait_for_store(&waiting, attempt).await
    }

    /// What came of a commit that was given up in the middle. What it sent last is in the journal before it is sent.
    fn cut_off(&self, overlay: &Overlay, patience: Duration) -> CommitError {
        let reason = format!("{}: no answer for {patience:?}", self.store_description());
        let prepared = overlay
            .read()
            .frozen
            .as_ref()
            .and_then(|frozen| frozen.prepared.clone());
        match prepared {
            Some(prepared) => CommitError::Unknown {
                txn: prepared.txn,
                since: prepared.after,
                reason,
            },
            None => CommitError::Tree(TreeError::Unreachable { reason }),
        }
    }

    /// `None` when there is nothing to publish after all.
    async fn upload_and_publish(
        &self,
        frozen: &FrozenView,
        request: &CommitRequest,
        progress: ProgressSink,
    ) -> Result<Option<CommitDone>, CommitError> {
        let telling = telling(progress);
        let files = FrozenFiles {
            view: self.view.clone(),
            frozen: frozen.clone(),
        };
        let kept = self.kept.clone().ok_or(CommitError::Stopped)?;
        let gathers = kept.is_scattered();
        let journal = AttemptJournal {
            kept,
            commit: frozen.commit,
        };
        let commit = Commit {
            volume: &self.volume,
            nodes: &*self.source,
            files: &files,
            ledger: &self.ledger,
            hints: &NoHints,
            journal: &journal,
            progress: &telling,
            limits: UploadLimits::default(),
            options: CommitOptions {
                by: self.options.by.clone(),
                message: request.message.clone(),
                deadline: patience(request),
                gathers,
            },
        };
        let (head, _) = self.known_head();
        let only_open = frozen.state.nodes.iter().all(|(id, node)| {
            !frozen.state.differs(*id, node) || frozen.open_for_write.iter().any(|open| open.node == *id)
        });
        let base = frozen.base.clone();
        let uploaded = Frozen::overlay(frozen.state.clone(), base.clone())
            .upload(&commit, head.record().gc.epoch)
            .await?;
        // A file that something has open for writing counts as dirty whether or not anything was written since the last
        // commit: a record that changes nothing is not made.
        if only_open && is_same_tree(&*self.source, &base, uploaded.tree()).await? {
            return Ok(None);
        }
        Ok(Some(uploaded.publish(&commit, head).await?))
    }

    async fn check_belt(&self, overlay: &Overlay, frozen: &FrozenView, percent: u8) -> Result<(), Failure> {
        let mine = local_tree(
            &*self.source,
            overlay,
            &frozen.base,
            &frozen.state,
            overlay.number(),
        )
        .await?;
        check_deletions(&*self.source, &frozen.base, &mine.tree, &mine.moves, percent).await
    }

    /// After the record is in the log: the view stands on what was published, local bytes become clean ones.
    async fn stand_on(
        &self,
        overlay: &Arc<Overlay>,
        frozen: &FrozenView,
        done: &CommitDone,
    ) -> Result<(), Failure> {
        let untouched = overlay.read().generation == frozen.state.generation;
        let base = if untouched {
            done.base.clean.clone()
        } else {
            done.base.dirty.clone()
        };
        let tree = done.base.tree.clone();
        let freed = self
            .view
            .published(frozen.commit, base, tree, done.contents.clone())
            .map_err(|e| failed(e).context("published, but the local state could not follow"))?;
        if untouched && !overlay.read().is_clean() {
            // Something was written in between after all: what it was made of stays among the sources.
            let sources = done.base.dirty.sources.clone();
            overlay.apply(&Op::SetSources { sources }).map_err(failed)?;
        }
        self.stands_anew();
        self.note_merged(&done.merged_with);
        self.learn_head(&done.head);
        self.ledger.clear();
        self.keep_bodies(frozen, done, freed).await;
        let (overlay, kept, source) = (overlay.clone(), self.kept.clone(), self.source.clone());
        let tidied = tokio::task::spawn_blocking(move || {
            if let Some(kept) = kept {
                source.forget_local(&kept.drop_unneeded()?);
            }
            overlay.maintain().map_err(failed)
        });
        match tidied.await {
            Ok(Ok(())) => {}
            // The commit is done; tidying up is tried again after the next one.
            Ok(Err(error)) => tracing::warn!(%error, "tidying up after a commit"),
            Err(error) => tracing::warn!(%error, "tidying up after a commit"),
        }
        Ok(())
    }

    /// Bodies of large files become cache files where both are on one file system; small ones are in the packs that
    /// went through the cache. What is dropped here is deleted.
    async fn keep_bodies(&self, frozen: &FrozenView, done: &CommitDone, freed: Vec<FreedBody>) {
        let chunked: HashMap<NodeId, (u64, &Content)> = done
            .contents
            .iter()
            .filter(|(_, size, content)| {
                *size >= ITEM_BYTES_MAX && matches!(content, Content::Chunks { .. } | Content::Paged { .. })
            })
            .map(|(node, size, content)| (*node, (*size, content)))
            .collect();
        for body in freed {
            let node = body.node();
            let Some((size, content)) = chunked.get(&node).copied() else {
                continue;
            };
            let whole = frozen.state.node(node).is_some_and(|n| match &n.body {
                NodeBody::File(file) => file.present.is_none() && file.body == Some(body.id()),
                _ => false,
            });
            let open = frozen.open_for_write.iter().any(|open| open.node == node);
            if !whole || open {
                continue;
            }
            // Hashed as it was frozen, and written by nobody since: a writer would have got a copy.
            let adopted = self
                .source
                .cache()
                .adopt_file(content, size, &body.path(), Adoption::Checked)
                .await;
            tracing::debug!(node, ?adopted, "body offered to the cache");
        }
    }

    fn preview(&self, overlay: &Overlay) -> Result<CommitAnswer, Failure> {
        self.view.settle().map_err(failed)?;
        let state = overlay.read();
        let mut answer = CommitAnswer {
            dry_run: true,
            changed: count_changes(&state),
            ..CommitAnswer::default()
        };
        for node in state.nodes.values() {
            if let NodeBody::File(file) = &node.body
                && file.dirty
                && let Some(body) = file.body
            {
                answer.files += 1;
                answer.bytes_changed += overlay.body_stat(body).map_err(failed)?.len;
            }
        }
        drop(state);
        answer.still_written = self
            .view
            .open_for_write()
            .iter()
            .filter_map(|o| Some(o.path.as_ref()?.to_string()))
            .collect();
        Ok(answer)
    }
}
