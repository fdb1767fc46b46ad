//! The newest end of the log: finding it, and looking for what is new.

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use std::sync::Arc;

use super::objects::get_whole;
use super::rules::{self, secs_between};
use super::{Volume, VolumeError};
use crate::format::limits::RECORD_BYTES_MAX;
use crate::format::{Access, Key, Record, RecordKind, UnverifiedRecord, log_prefix};
use crate::model::{Hash, Seq, Timestamp};
use crate::store::{LIST_LIMIT_MAX, StoreError};

/// A record as it stands in the log.
#[derive(Clone, Debug)]
pub struct LoggedRecord {
    /// What it says, checked.
    pub record: Arc<Record>,
    /// Its hash.
    pub hash: Hash,
    /// Its bytes.
    pub bytes: Bytes,
}

impl LoggedRecord {
    /// Its number.
    pub fn seq(&self) -> Seq {
        self.record.seq
    }
}

/// The newest record, as far as somebody looked.
#[derive(Clone, Debug)]
pub struct Head {
    /// The record.
    pub newest: LoggedRecord,
    /// The store's clock when the record was seen to be the newest one; `None` when the store does not tell the time.
    pub read_at: Option<Timestamp>,
    /// The own steady clock at that moment, or before: only for deciding which request to make next, and when.
    pub(super) looked_at: Timestamp,
}

impl Head {
    /// Number of the record.
    pub fn seq(&self) -> Seq {
        self.newest.record.seq
    }

    /// Hash of the record.
    pub fn hash(&self) -> Hash {
        self.newest.hash
    }

    /// The own steady clock ([`super::Clock::steady`]) when it was seen to be the newest, or a little before.
    pub fn looked_at(&self) -> Timestamp {
        self.looked_at
    }

    /// It says that the volume was deleted.
    pub fn is_end(&self) -> bool {
        self.record().kind == RecordKind::Delete
    }

    /// What the record says.
    pub fn record(&self) -> &Arc<Record> {
        &self.newest.record
    }
}

/// What a look at the log found.
#[derive(Clone, Debug)]
pub struct Refreshed {
    /// The head now.
    pub head: Head,
    /// Records after the one known before, oldest first, as far as the look read them one by one. Complete exactly
    /// when `complete`.
    pub newer: Vec<LoggedRecord>,
    /// `newer` holds every record between the old head and the new one, that one included.
    pub complete: bool,
}

/// LISTs and GETs of a head that do not fit together are repeated this often.
const HEAD_TRIES: usize = 8;
/// Records read at the same time when the log is listed or searched.
const RECORDS_AT_ONCE: usize = 16;

impl Volume {
    /// The newest record by LIST and GET: two requests (LOG.md 2.1), and one more when it is old (2.7).
    ///
    /// # Errors
    /// [`VolumeError::Deleted`], [`VolumeError::Purged`], [`VolumeError::Features`]; damage; what the store says.
    pub async fn head(&self) -> Result<Head, VolumeError> {
        let head = self.last_head().await?;
        match head.is_end() {
            true => Err(self.deleted(&head)),
            false => Ok(head),
        }
    }

    /// As [`Volume::head`], also when that says that the volume was deleted: it is a head like others for whoever asks what
    /// was published.
    ///
    /// # Errors
    /// As [`Volume::head`], but for the first.
    pub async fn last_head(&self) -> Result<Head, VolumeError> {
        let prefix = log_prefix(&self.id);
        for _ in 0..HEAD_TRIES {
            let looked_at = self.clock.steady();
            let (newest, listed_at) = self.newest_listed().await?;
            let Some(seq) = newest else {
                return Err(self.not_found());
            };
            let Some((newest, answered_at)) = self.fetch_record(seq).await? else {
                continue; // trimmed between the two requests
            };
            let apart = match (listed_at, answered_at) {
                (Some(listed), Some(answered)) => secs_between(listed, answered),
                _ => secs_between(looked_at, self.clock.steady()),
            };
            if !(0..=rules::HEAD_SECS_MAX).contains(&apart) {
                continue;
            }
            self.check_readable(&newest.record)?;
            self.check_there(&newest, listed_at).await?;
            return Ok(Head {
                newest,
                read_at: listed_at,
                looked_at,
            });
        }
        Err(VolumeError::Busy { object: prefix })
    }

    /// A record that somebody sent before he slept through the end of the volume is no head.
    async fn check_there(
        &self,
        newest: &LoggedRecord,
        read_at: Option<Timestamp>,
    ) -> Result<(), VolumeError> {
        if rules::is_volume_sure(newest.record.server_time, read_at) {
            return Ok(());
        }
        match self.store.head(&Key::Descriptor(self.id).to_string()).await? {
            Some(_) => Ok(()),
            None => Err(VolumeError::Purged {
                name: self.name().to_owned(),
                seq: newest.seq(),
            }),
        }
    }

    /// The volume was deleted by that record.
    pub fn deleted(&self, head: &Head) -> VolumeError {
        VolumeError::Deleted {
            name: self.name().to_owned(),
            seq: head.seq(),
            by: head.record().by.clone(),
        }
    }

    /// Number of the newest record in the listing of the log, and the store's clock when that began to be listed. One
    /// request; more where other things stand in the log, which are passed over (fsck tells of them).
    pub(super) async fn newest_listed(&self) -> Result<(Option<Seq>, Option<Timestamp>), VolumeError> {
        let prefix = log_prefix(&self.id);
        let (mut after, mut limit) = (None::<String>, 1);
        let mut began = None;
        loop {
            let page = self.store.list(&prefix, after.as_deref(), limit).await?;
            let listed_at = *began.get_or_insert(page.server_time);
            let newest = page
                .objects
                .iter()
                .find_map(|object| match Key::parse(&object.key) {
                    Some(Key::Record(_, seq)) => Some(seq),
                    _ => None,
                });
            match page.objects.last() {
                _ if newest.is_some() => return Ok((newest, listed_at)),
                Some(last) if page.truncated => {
                    after = Some(last.key.clone());
                    limit = LIST_LIMIT_MAX;
                }
                _ => return Ok((None, listed_at)),
            }
        }
    }

    /// What is new since `known`: one GET that finds nothing when there is nothing (LOG.md 2.2), and beside it
    /// a HEAD of `known` when that was looked at a while ago.
    ///
    /// # Errors
    /// As [`Volume::head`]; [`VolumeError::RolledBack`] when the log ends before `known`.
    pub async fn refresh(&self, known: &Head) -> Result<Refreshed, VolumeError> {
        let age = secs_between(known.looked_at, self.clock.steady());
        if !(0..rules::LOOK_SECS_MAX).contains(&age) {
            return self.refresh_by_list(known, Vec::new()).await;
        }
        let mut head = known.clone();
        let mut newer = Vec::new();
        let mut looked_at = self.clock.steady();
        let first = self.fetch_record(known.seq() + 1);
        let (mut fetched, is_there) = futures::join!(first, self.is_still_there(known, age));
        if !is_there? {
            return self.refresh_by_list(known, Vec::new()).await;
        }
        for step in 0..rules::STEPS_MAX {
            if step > 0 {
                looked_at = self.clock.steady();
                fetched = self.fetch_record(head.seq() + 1).await;
            }
            let found = std::mem::replace(&mut fetched, Ok(None))?;
            // Between two requests a machine may have slept: only what is answered soon after a confirmed look says that
            // a number is free, not trimmed.
            let answered_at = found.as_ref().and_then(|(_, at)| *at);
            if !rules::is_walk_sure(
                (known.looked_at, self.clock.steady()),
                (known.read_at, answered_at),
            ) {
                return self.refresh_by_list(known, newer).await;
            }
            let Some((next, _)) = found else {
                // Only now: somebody may have brought the volume back since.
                if head.is_end() {
                    return Err(self.deleted(&head));
                }
                return Ok(Refreshed {
                    head,
                    newer,
                    complete: true,
                });
            };
            if next.record.parent != Some(head.hash()) {
                // Not our line any more: the list decides.
                return self.refresh_by_list(known, Vec::new()).await;
            }
            self.check_readable(&next.record)?;
            newer.push(next.clone());
            head = Head {
                newest: next,
                read_at: answered_at,
                looked_at,
            };
        }
        self.refresh_by_list(known, newer).await
    }

    /// The record of a head that was looked at `age` seconds ago. Without it (a bucket put back to an earlier state) the
    /// next number is free too, and what is published there would build on bytes that may be gone.
    async fn is_still_there(&self, known: &Head, age: i64) -> Result<bool, VolumeError> {
        if age < rules::RECHECK_SECS {
            return Ok(true);
        }
        let key = Key::Record(self.id, known.seq()).to_string();
        let len = self.store.head(&key).await?;
        Ok(len == Some(known.newest.bytes.len() as u64))
    }

    async fn refresh_by_list(
        &self,
        known: &Head,
        newer: Vec<LoggedRecord>,
    ) -> Result<Refreshed, VolumeError> {
        let head = self.head().await?;
        check_not_back(&head, known.seq(), known.hash())?;
        let last = newer.last().map_or(known.seq(), LoggedRecord::seq);
        Ok(Refreshed {
            complete: head.seq() == last,
            newer,
            head,
        })
    }

    /// A record that the volume keeps (one request, none for the head itself).
    ///
    /// # Errors
    /// [`VolumeError::NotKept`].
    pub async fn record(&self, head: &Head, seq: Seq) -> Result<LoggedRecord, VolumeError> {
        let not_kept = || VolumeError::NotKept {
            seq,
            head: head.seq(),
        };
        if seq == head.seq() {
            return Ok(head.newest.clone());
        }
        if seq > head.seq() || !rules::is_protected(&head.record().gc, seq) {
            return Err(not_kept());
        }
        match self.fetch_record(seq).await? {
            Some((found, _)) => Ok(found),
            // A newer collector may have trimmed it since `head` was read.
            None => Err(not_kept()),
        }
    }

    /// The newest `limit` records that are still there, newest first. Records that were trimmed are left out.
    pub async fn log(&self, head: &Head, limit: usize) -> Result<Vec<LoggedRecord>, VolumeError> {
        let kept = head.record().gc.kept_below(head.seq());
        let older: Vec<Seq> = kept.take(limit.saturating_sub(1)).collect();
        let fetches = older.into_iter().map(|seq| self.fetch_record(seq));
        let found: Vec<_> = futures::stream::iter(fetches)
            .buffered(RECORDS_AT_ONCE)
            .try_collect()
            .await?;
        let mut log = Vec::with_capacity(found.len() + 1);
        if limit > 0 {
            log.push(head.newest.clone());
        }
        log.extend(found.into_iter().flatten().map(|(record, _)| record));
        Ok(log)
    }

    /// One slot of the log as it is now, with the store's clock at the answer; `None` when it is empty. A slot below the
    /// fence may be a re-used one: only what is protected counts.
    pub(super) async fn fetch_record(
        &self,
        seq: Seq,
    ) -> Result<Option<(LoggedRecord, Option<Timestamp>)>, VolumeError> {
        let key = Key::Record(self.id, seq).to_string();
        let fetched = match get_whole(&*self.store, &key, RECORD_BYTES_MAX as u64).await {
            Ok(fetched) => fetched,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(StoreError::Broken { key, reason }) => return Err(VolumeError::damaged(&key, reason)),
            Err(error) => return Err(error.into()),
        };
        let logged = self.read_record(&key, seq, fetched.bytes)?;
        Ok(Some((logged, fetched.server_time)))
    }

    /// Bytes of a record, checked as far as the record itself says what must hold.
    pub(super) fn read_record(&self, key: &str, seq: Seq, bytes: Bytes) -> Result<LoggedRecord, VolumeError> {
        let unverified = UnverifiedRecord::parse(&bytes, key)?;
        let hash = unverified.hash();
        let record = Arc::new(unverified.verify(&self.id, seq)?);
        Ok(LoggedRecord { record, hash, bytes })
    }

    /// This version may read what the record describes.
    fn check_readable(&self, record: &Record) -> Result<(), VolumeError> {
        match record.access() {
            Access::None(features) => Err(VolumeError::Features {
                object: Key::Record(self.id, record.seq).to_string(),
                what: format!("features {}", features.join(", ")),
            }),
            Access::ReadOnly(_) | Access::ReadWrite => Ok(()),
        }
    }

    /// This version may publish after that record (R3).
    pub(super) fn check_writable(&self, head: &Head) -> Result<(), VolumeError> {
        if head.is_end() {
            return Err(self.deleted(head));
        }
        let record = head.record();
        self.check_readable(record)?;
        match record.access() {
            Access::ReadOnly(features) => Err(VolumeError::ReadOnly {
                name: self.name().to_owned(),
                features,
            }),
            Access::None(_) | Access::ReadWrite => Ok(()),
        }
    }
}

/// The log still holds what was seen before, as far as the newest record tells.
///
/// # Errors
/// [`VolumeError::RolledBack`].
pub fn check_not_back(head: &Head, seen: Seq, seen_hash: Hash) -> Result<(), VolumeError> {
    let same = head.seq() != seen || head.hash() == seen_hash;
    if head.seq() >= seen && same {
        return Ok(());
    }
    Err(VolumeError::RolledBack {
        seen,
        seen_hash,
        found: head.seq(),
    })
}
