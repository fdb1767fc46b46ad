//! Leases: what keeps the records that a view draws from (LOG.md 6).
//!
//! 1. One object names all of them; it is only ever replaced by its owner.
//! 2. A record is *held* only after a head was read that protects it, after the PUT that first named it was answered.
//! 3. It stays held while later PUTs name it and none came late; after a late one nothing is held until confirmed.
//!
//! When to lease and when to renew is the mount's decision; nothing here reads a clock.

use std::collections::BTreeSet;

use super::rules::{self, secs_between};
use super::{Head, Volume, VolumeError};
use crate::format::{Key, LEASE_TTL_SECS, LEASE_TTL_SECS_MAX, Lease};
use crate::model::{LeaseId, Seq, Timestamp};
use crate::store::PutMode;

/// It is renewed when it is this old, seconds.
pub const LEASE_RENEW_SECS: i64 = 8 * 3600;

/// The lease of one mount.
#[derive(Clone, Debug)]
pub struct LeaseHolder {
    id: LeaseId,
    by: String,
    named: BTreeSet<Seq>,
    held: BTreeSet<Seq>,
    /// By the store's clock.
    written_at: Option<Timestamp>,
    /// By the own steady clock, before it was sent.
    sent_at: Option<Timestamp>,
}

impl LeaseHolder {
    /// A lease that is not written yet. `id` is drawn at random, once for each session of a mount.
    pub fn new(id: LeaseId, by: String) -> LeaseHolder {
        LeaseHolder {
            id,
            by,
            named: BTreeSet::new(),
            held: BTreeSet::new(),
            written_at: None,
            sent_at: None,
        }
    }

    /// Its identity.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Records that are held at `now`, by the store's clock.
    pub fn held(&self, now: Timestamp) -> BTreeSet<Seq> {
        if self.is_late(now) {
            BTreeSet::new()
        } else {
            self.held.clone()
        }
    }

    /// Records that the object in the store names.
    pub fn named(&self) -> &BTreeSet<Seq> {
        &self.named
    }

    /// The lease should be written again: it is old at `now`, by the own steady clock, or does not name `wanted`.
    pub fn is_due(&self, now: Timestamp, wanted: &BTreeSet<Seq>) -> bool {
        self.sent_at
            .is_none_or(|at| !(0..LEASE_RENEW_SECS).contains(&secs_between(at, now)))
            || *wanted != self.named
    }

    fn is_late(&self, now: Timestamp) -> bool {
        let ttl = i64::try_from(LEASE_TTL_SECS).unwrap_or(i64::MAX);
        self.written_at
            .is_none_or(|at| !(0..ttl).contains(&secs_between(at, now)))
    }

    /// The object was written at `at`, naming `wanted`: what was not named before is not held yet.
    fn written(&mut self, wanted: BTreeSet<Seq>, at: Timestamp) {
        if self.is_late(at) {
            self.held.clear();
        }
        self.held.retain(|seq| wanted.contains(seq));
        self.named = wanted;
        self.written_at = Some(at);
    }

    /// A head that was read after the last PUT was answered.
    fn confirm(&mut self, head: &Head, read_at: Timestamp) {
        if self.is_late(read_at) {
            self.held.clear();
            return;
        }
        let kept = self
            .named
            .iter()
            .filter(|seq| rules::is_protected(&head.record().gc, **seq));
        self.held = kept.copied().collect();
    }
}

impl Volume {
    /// Writes the lease so that it names `wanted`, then reads the head, which says what of it is held. Three requests.
    /// For a change of sources: call with the old and the new ones, move the view if the new ones are held, then call
    /// again without the old.
    ///
    /// # Errors
    /// What the store says; a PUT that went through and a head that could not be read leave nothing more held than
    /// before.
    pub async fn write_lease(
        &self,
        lease: &mut LeaseHolder,
        wanted: BTreeSet<Seq>,
    ) -> Result<Head, VolumeError> {
        let seqs = wanted.iter().copied().collect();
        let object = Lease::new(self.id, lease.id, seqs, &lease.by, self.clock.now());
        let key = Key::Lease(self.id, lease.id).to_string();
        let bytes = object.encode().map_err(|e| VolumeError::damaged(&key, e))?;
        let sent_at = self.clock.steady();
        let done = self.store.put(&key, bytes, PutMode::Overwrite).await?;
        lease.sent_at = Some(sent_at);
        let written_at = done.server_time.unwrap_or_else(|| self.clock.now());
        lease.written(wanted, written_at);
        let head = self.head().await?;
        let read_at = head.read_at.unwrap_or_else(|| self.clock.now());
        lease.confirm(&head, read_at);
        Ok(head)
    }

    /// Writes the lease for the last time, to last `ttl_secs`: whoever holds it goes, and what it names is needed by the next
    /// session, which leases it anew before it deletes this one. One request; nothing is confirmed.
    ///
    /// # Errors
    /// What the store says.
    pub async fn leave_lease(
        &self,
        lease: &LeaseHolder,
        wanted: &BTreeSet<Seq>,
        ttl_secs: u64,
    ) -> Result<(), VolumeError> {
        let seqs = wanted.iter().copied().collect();
        let mut object = Lease::new(self.id, lease.id, seqs, &lease.by, self.clock.now());
        object.ttl_secs = ttl_secs.clamp(LEASE_TTL_SECS, LEASE_TTL_SECS_MAX);
        let key = Key::Lease(self.id, lease.id).to_string();
        let bytes = object.encode().map_err(|e| VolumeError::damaged(&key, e))?;
        self.store.put(&key, bytes, PutMode::Overwrite).await?;
        Ok(())
    }

    /// Deletes leases by their identity.
    ///
    /// # Errors
    /// What the store says; a lease that stays expires by itself.
    pub async fn delete_leases(&self, ids: &[LeaseId]) -> Result<(), VolumeError> {
        let keys: Vec<String> = ids
            .iter()
            .map(|id| Key::Lease(self.id, *id).to_string())
            .collect();
        Ok(self.store.delete(&keys).await?)
    }

    /// Deletes the lease: the mount ends.
    ///
    /// # Errors
    /// What the store says; a lease that stays expires by itself.
    pub async fn drop_lease(&self, lease: LeaseHolder) -> Result<(), VolumeError> {
        self.store
            .delete(&[Key::Lease(self.id, lease.id).to_string()])
            .await?;
        Ok(())
    }
}
