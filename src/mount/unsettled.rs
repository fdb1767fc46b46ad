//! A commit whose outcome is not known is settled before anything else.

use std::sync::Arc;
use std::time::Duration;

use super::Mount;
use super::kept::{keep_record, sent_records};
use super::patience::Waiting;
use crate::answer::{Failure, FailureKind};
use crate::commit::{Settled, finish};
use crate::model::TreeRoot;
use crate::overlay::{BaseRef, Op, Overlay};
use crate::tree::NodeSource;
use crate::volume::{Head, Volume};

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Failed, error.to_string())
}

/// What became of a commit that was interrupted.
enum Outcome {
    /// There was none.
    Nothing,
    /// It is in the log; this is the base now, and its tree if that is a record's.
    Published {
        commit: u64,
        base: BaseRef,
        tree: Option<Box<TreeRoot>>,
        /// The newest record.
        head: Box<Head>,
    },
    /// It is not in the log.
    GivenUp { commit: u64 },
}

async fn look(volume: &Volume, nodes: &dyn NodeSource, overlay: &Overlay) -> Result<Outcome, Failure> {
    let (commit, prepared, before) = {
        let state = overlay.read();
        let Some(frozen) = &state.frozen else {
            return Ok(Outcome::Nothing);
        };
        (
            state.last_commit,
            frozen.prepared.clone(),
            frozen.state.base.clone(),
        )
    };
    let Some(prepared) = prepared else {
        return Ok(Outcome::GivenUp { commit });
    };
    let sent = sent_records(overlay, volume.id(), prepared.txn)?;
    match finish(volume, nodes, (prepared.txn, prepared.after), &sent)
        .await
        .map_err(Failure::from)?
    {
        Settled::NotPublished { .. } => Ok(Outcome::GivenUp { commit }),
        Settled::Published { found, head } => {
            tracing::info!(seq = found.seq, "an interrupted commit had been published");
            let mut sources = before.sources;
            sources.push(found.seq);
            sources.sort_unstable();
            sources.dedup();
            let tree = match (&prepared.tree, &found.record) {
                (None, Some(logged)) => {
                    keep_record(overlay, logged).map_err(failed)?;
                    Some(Box::new(logged.record.root.root.clone()))
                }
                _ => None,
            };
            let base = BaseRef {
                seq: found.seq,
                record: found.hash,
                prepared: prepared.tree,
                sources,
            };
            let head = Box::new(head);
            Ok(Outcome::Published {
                commit,
                base,
                tree,
                head,
            })
        }
    }
}

/// For an overlay that no view stands on yet. Gives the newest record, if that was looked for.
pub(super) async fn settle_overlay(
    volume: &Volume,
    nodes: &dyn NodeSource,
    overlay: &Arc<Overlay>,
) -> Result<Option<Head>, Failure> {
    // Bodies that are freed here are deleted: their bytes are in the store.
    match look(volume, nodes, overlay).await? {
        Outcome::Nothing => {}
        Outcome::Published {
            commit, base, head, ..
        } => {
            let op = Op::Published {
                commit,
                base,
                contents: Vec::new(),
            };
            drop(overlay.apply_freeing(&op).map_err(failed)?);
            overlay.drop_clean_bodies().map_err(failed)?;
            return Ok(Some(*head));
        }
        Outcome::GivenUp { commit } => drop(overlay.apply_freeing(&Op::Unfrozen { commit }).map_err(failed)?),
    }
    Ok(None)
}

impl Mount {
    /// For a live mount, before each command that changes what it stands on. The caller has its turn. Gives the base that the
    /// mount stands on then, if an interrupted commit is in the log.
    pub(super) async fn settle_commit(&self, patience: Duration) -> Result<Option<BaseRef>, Failure> {
        let Some(overlay) = &self.overlay else {
            return Ok(None);
        };
        let waiting = Waiting {
            limit: patience,
            is_away: |failure: &Failure| failure.kind == FailureKind::StoreUnreachable,
            cut_off: || {
                let store = self.store_description();
                let message =
                    format!("{store}: no answer for {patience:?}; a commit has to be settled first");
                Failure::new(FailureKind::StoreUnreachable, message)
            },
        };
        let looked = || look(&self.volume, &*self.source, overlay);
        match self.wait_for_store(&waiting, looked).await? {
            Outcome::Nothing => {}
            Outcome::GivenUp { commit } => drop(self.view.unfreeze(commit).map_err(failed)?),
            Outcome::Published {
                commit,
                base,
                tree,
                head,
            } => {
                let tree = match tree {
                    Some(tree) => *tree,
                    None => super::kept::load_base(overlay, &self.volume, &head, &base).await?,
                };
                drop(
                    self.view
                        .published(commit, base.clone(), tree, Vec::new())
                        .map_err(failed)?,
                );
                self.stands_anew();
                self.learn_head(&head);
                self.ledger.clear();
                self.drop_unneeded()?;
                return Ok(Some(base));
            }
        }
        Ok(None)
    }
}
