//! Making the next record: the one step of a commit that others can see.
//!
//! The record of number n is created once, by put-if-absent, in a single request that nobody repeats blindly. Whatever
//! the answer is, what counts is what the slot holds (LOG.md 4, step 8) and that the slot was really the log's
//! next one (R4).

use super::rules;
use super::{Head, LoggedRecord, Volume, VolumeError};
use crate::format::{
    EncodeError, Features, GcState, Key, Record, RecordKind, SuperNode, Usage, VolumeConfig,
};
use crate::model::{Seq, Timestamp, TxnId, VolPath};
use crate::store::{PutMode, StoreError};
use crate::tree::NodeSource;

/// The same bytes are sent again this often when the answer was lost and the slot is still empty.
const SENDS_MAX: usize = 4;

/// What the next record says, besides what follows from its parent. `None`: as in the parent.
#[derive(Clone, Debug)]
pub struct NextRecord {
    /// What kind of change it is.
    pub kind: RecordKind,
    /// Its identity, the same through all attempts.
    pub txn: TxnId,
    /// The record that the view was last loaded from; for people only.
    pub base: Seq,
    /// Who commits.
    pub by: String,
    /// What the user says about it.
    pub message: String,
    /// The super node.
    pub root: SuperNode,
    /// What the volume then holds.
    pub usage: Usage,
    /// For records of a collector.
    pub gc: Option<GcState>,
    /// For records that change the configuration.
    pub config: Option<VolumeConfig>,
    /// For records that add features, which stay in all later ones.
    pub features: Option<Features>,
    /// Moves that the commit made.
    pub renames: Vec<(VolPath, VolPath)>,
}

/// A record that is ready to be published at one place of the log.
#[derive(Clone, Debug)]
#[must_use = "a prepared record is not published yet"]
pub struct PreparedRecord {
    /// As it will stand in the log.
    pub logged: LoggedRecord,
    /// The store's clock when the head below it was read.
    head_read_at: Option<Timestamp>,
    /// The own steady clock then.
    head_looked_at: Timestamp,
}

/// How an attempt to publish ended.
#[derive(Clone, Debug)]
#[must_use = "a commit is only done when it was published"]
pub enum PublishOutcome {
    /// The record is in the log for good.
    Published {
        /// The record, ours.
        record: LoggedRecord,
        /// The newest record that is known now: ours or a later one.
        head: Head,
    },
    /// Another record has the number: look at the log and merge again.
    Lost,
    /// Nobody can say yet: only a search for the transaction can (see [`Volume::find_txn`]). Never publish anything
    /// else before that is settled.
    Unknown {
        /// What the store said last.
        reason: String,
    },
}

impl Volume {
    /// Makes the record that follows `head` (R3: its parent is that record, whose features we know and which is no
    /// deletion).
    ///
    /// # Errors
    /// [`VolumeError::ReadOnly`], [`VolumeError::Deleted`]; a record over the limits of the format.
    pub fn prepare(&self, head: &Head, next: NextRecord) -> Result<PreparedRecord, VolumeError> {
        self.check_writable(head)?;
        let parent = head.record();
        let seq = parent.seq + 1;
        let key = Key::Record(self.id, seq).to_string();
        let record = Record {
            descriptor: parent.descriptor.clone(),
            seq,
            parent: Some(head.hash()),
            kind: next.kind,
            txn: next.txn,
            base: Some(next.base),
            merged: Vec::new(),
            time: rules::record_time(self.clock.now(), head.read_at, parent.time),
            server_time: head.read_at,
            by: next.by,
            message: next.message,
            features: match &next.features {
                Some(more) => parent.features.union(more),
                None => parent.features.clone(),
            },
            usage: next.usage,
            gc: next.gc.unwrap_or_else(|| parent.gc.clone()),
            config: next.config.unwrap_or_else(|| parent.config.clone()),
            renames: next.renames,
            root: next.root,
        };
        let encoded = record.encode().map_err(|error| match error {
            // Nothing is damaged: what is to be stored is too much.
            EncodeError::Limit { .. } => VolumeError::Limit {
                reason: error.to_string(),
            },
            error => VolumeError::damaged(&key, error),
        })?;
        // Read back: what is published is what a reader will see, down to rounded times.
        let logged = self.read_record(&key, seq, encoded.bytes)?;
        Ok(PreparedRecord {
            logged,
            head_read_at: head.read_at,
            head_looked_at: head.looked_at,
        })
    }

    /// The same record once more, for the number that it was made for. `None` when that is not the one after `head`: it is
    /// another's then, and what was sent can never create it any more.
    pub fn send_again(&self, head: &Head, sent: &LoggedRecord) -> Option<PreparedRecord> {
        let follows =
            sent.seq() == head.seq() + 1 && sent.record.parent == Some(head.hash()) && !head.is_end();
        follows.then(|| PreparedRecord {
            logged: sent.clone(),
            head_read_at: head.read_at,
            head_looked_at: head.looked_at,
        })
    }

    /// Publishes it: PUT, and whatever reading it takes to know the outcome. One request when all is well.
    ///
    /// # Errors
    /// Only when the record was certainly not published, or is damaged in the store.
    pub async fn publish(
        &self,
        src: &dyn NodeSource,
        prepared: &PreparedRecord,
    ) -> Result<PublishOutcome, VolumeError> {
        let mine = &prepared.logged;
        let key = Key::Record(self.id, mine.seq()).to_string();
        let mut reason = String::new();
        for _ in 0..SENDS_MAX {
            let sent_at = self.clock.steady();
            let sent = self.store.put(&key, mine.bytes.clone(), PutMode::IfAbsent).await;
            let said = match sent {
                Ok(done) => {
                    let at = (done.server_time, sent_at);
                    return self.confirm(src, prepared, mine.clone(), at).await;
                }
                Err(
                    e @ (StoreError::AlreadyExists { .. }
                    | StoreError::Unknown { .. }
                    | StoreError::Unreachable { .. }),
                ) => e,
                Err(error) if reason.is_empty() => return Err(error.into()),
                // What was sent before may arrive yet.
                Err(error) => {
                    return Ok(PublishOutcome::Unknown {
                        reason: format!("{reason}; then {error}"),
                    });
                }
            };
            reason = said.to_string();
            match self.fetch_record(mine.seq()).await {
                // It may have been there for as long as the head below it is known.
                Ok(Some((found, at))) if found.record.txn == mine.record.txn => {
                    let at = (at, prepared.head_looked_at);
                    return self.confirm(src, prepared, found, at).await;
                }
                Ok(Some(_)) => return Ok(PublishOutcome::Lost),
                // Empty: the PUT did not arrive, or will yet; it can only ever create the same record.
                Ok(None) => {}
                Err(VolumeError::Store(e)) => {
                    return Ok(PublishOutcome::Unknown {
                        reason: format!("{reason}; then {e}"),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(PublishOutcome::Unknown { reason })
    }

    /// R4: the slot that we created was the log's next one, and not one that was trimmed and is re-used by us after a
    /// long sleep. `answered_at`, by the store's clock: when it was seen there; `looked_at`, by the own: no record after
    /// it is older.
    async fn confirm(
        &self,
        src: &dyn NodeSource,
        prepared: &PreparedRecord,
        mine: LoggedRecord,
        (answered_at, looked_at): (Option<Timestamp>, Timestamp),
    ) -> Result<PublishOutcome, VolumeError> {
        let published = |head: Head| {
            Ok(PublishOutcome::Published {
                record: mine.clone(),
                head,
            })
        };
        if rules::confirmed_by_time(prepared.head_read_at, answered_at) {
            let head = Head {
                newest: mine.clone(),
                read_at: answered_at,
                looked_at,
            };
            return published(head);
        }
        let head = match self.last_head().await {
            Ok(head) => head,
            // A commit into nothing: nobody must take it for the head of a volume.
            Err(gone @ VolumeError::Purged { .. }) => {
                self.delete_slot(&mine).await?;
                return Err(gone);
            }
            Err(error) => {
                return Ok(PublishOutcome::Unknown {
                    reason: format!("created, but not confirmed: {error}"),
                });
            }
        };
        match self.is_in_chain(src, &head, &mine).await {
            Ok(true) => published(head),
            Ok(false) => {
                self.delete_slot(&mine).await?;
                match head.is_end() {
                    true => Err(self.deleted(&head)),
                    false => Ok(PublishOutcome::Lost),
                }
            }
            Err(error) => Ok(PublishOutcome::Unknown {
                reason: format!("created, but not confirmed: {error}"),
            }),
        }
    }

    /// The record is one of those that lead to the head.
    async fn is_in_chain(
        &self,
        src: &dyn NodeSource,
        head: &Head,
        mine: &LoggedRecord,
    ) -> Result<bool, VolumeError> {
        let gc = &head.record().gc;
        if head.hash() == mine.hash {
            return Ok(true);
        }
        if !rules::is_untrimmed(gc, mine.seq()) {
            return match self.history_entry(src, head, mine.seq()).await {
                Ok(entry) => Ok(entry.hash == mine.hash),
                // The volume's objects are going.
                Err(_) if head.is_end() => Ok(false),
                Err(error) => Err(error),
            };
        }
        match head.is_end() {
            true => self.leads_to(head, mine).await,
            false => Ok(true),
        }
    }

    /// As [`Volume::is_in_chain`] under a head that says that the volume was deleted. Records are deleted then, and no fence says
    /// which: a free number proves nothing, the chain does as far as it is there.
    async fn leads_to(&self, head: &Head, mine: &LoggedRecord) -> Result<bool, VolumeError> {
        let mut at = head.newest.clone();
        while at.seq() > mine.seq() + 1 {
            match self.fetch_record(at.seq() - 1).await? {
                Some((before, _)) if at.record.parent == Some(before.hash) => at = before,
                _ => return Ok(false),
            }
        }
        Ok(at.seq() == mine.seq() + 1 && at.record.parent == Some(mine.hash))
    }

    /// Takes back a record in a slot that was not the log's next one.
    async fn delete_slot(&self, mine: &LoggedRecord) -> Result<(), VolumeError> {
        let stale = self.fetch_record(mine.seq()).await?;
        if stale.is_some_and(|(found, _)| found.hash == mine.hash) {
            self.store
                .delete(&[Key::Record(self.id, mine.seq()).to_string()])
                .await?;
        }
        Ok(())
    }
}
