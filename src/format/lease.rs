//! Leases: what keeps the records that a mount stands on from being collected (SPEC.md 12).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::descriptor::{FORMAT_VERSION, FormatError, decode_json, encode_json};
use super::limits::{BY_BYTES_MAX, LEASE_BYTES_MAX, LEASE_SEQS_MAX};
use super::tables::{EncodeError, ensure, limit};
use super::time_text;
use super::wire::Corrupt;
use crate::model::{LeaseId, Seq, Timestamp, VolumeId};

/// A lease expires this long after the store last wrote it, by the store's clock, unless it says otherwise, seconds.
pub const LEASE_TTL_SECS: u64 = 24 * 3600;

/// A lease that says it lasts longer counts as lasting this long, seconds: one that nobody renews must not keep a record for
/// ever. It is longer than local changes are kept aside.
pub const LEASE_TTL_SECS_MAX: u64 = 30 * 24 * 3600;

/// One lease, as its owner puts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Version of the format.
    pub sailvol: u32,
    /// The volume.
    pub volume: VolumeId,
    /// Its identity, which is its key.
    pub lease: LeaseId,
    /// Every record that is kept, ascending. A lease that replaces another names what it continues.
    pub seqs: Vec<Seq>,
    /// Who holds it, for people.
    pub by: String,
    /// When it was written, by its owner's clock, for people: expiry goes by the store's.
    #[serde(with = "time_text")]
    pub time: Timestamp,
    /// It expires this long after the store's time of its last PUT, seconds.
    pub ttl_secs: u64,
}

impl Lease {
    /// A lease of the usual length. `seqs` may be in any order, and name a record twice.
    pub fn new(volume: VolumeId, lease: LeaseId, mut seqs: Vec<Seq>, by: &str, time: Timestamp) -> Lease {
        seqs.sort_unstable();
        seqs.dedup();
        Lease {
            sailvol: FORMAT_VERSION,
            volume,
            lease,
            seqs,
            by: by.to_owned(),
            time,
            ttl_secs: LEASE_TTL_SECS,
        }
    }

    /// True if it keeps its records at `now`; it was last written at `modified`. Both by the store's clock.
    pub fn counts(&self, modified: Timestamp, now: Timestamp) -> bool {
        let age = now.secs.saturating_sub(modified.secs);
        let ttl = self.ttl_secs.min(LEASE_TTL_SECS_MAX);
        // Negative where the clocks of the store's servers differ.
        u64::try_from(age).is_ok_and(|age| age < ttl) || age < 0
    }

    /// Its bytes.
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        limit(
            self.seqs.len() as u64,
            LEASE_SEQS_MAX as u64,
            "records in a lease",
        )?;
        limit(
            self.by.len() as u64,
            BY_BYTES_MAX as u64,
            "bytes of the holder's name",
        )?;
        ensure(self.seqs.is_sorted_by(|a, b| a < b), "records of a lease ascend")?;
        encode_json(self)
    }

    /// Reads the lease found under the key of `lease`.
    pub fn decode(
        bytes: &[u8],
        volume: &VolumeId,
        lease: &LeaseId,
        object: &str,
    ) -> Result<Lease, FormatError> {
        let found: Lease = decode_json(bytes, LEASE_BYTES_MAX, object)?;
        let corrupt = |rule| Err(Corrupt::new(object, 0, rule).into());
        if found.volume != *volume || found.lease != *lease {
            return corrupt("a lease of another volume, or under another's key");
        }
        if found.seqs.len() > LEASE_SEQS_MAX || found.by.len() > BY_BYTES_MAX {
            return corrupt("a lease is over its limits");
        }
        if !found.seqs.is_sorted_by(|a, b| a < b) {
            return corrupt("records of a lease do not ascend");
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_come_back_sorted_and_are_bound_to_their_key() {
        let (volume, id) = (VolumeId([1; 16]), LeaseId([2; 16]));
        let time = Timestamp { secs: 5, nanos: 6 };
        let lease = Lease::new(volume, id, vec![9, 3, 9], "pod-17", time);
        assert_eq!(lease.seqs, [3, 9]);
        let bytes = lease.encode().unwrap();
        assert_eq!(Lease::decode(&bytes, &volume, &id, "t").unwrap(), lease);
        assert!(Lease::decode(&bytes, &volume, &LeaseId([3; 16]), "t").is_err());
        assert!(Lease::decode(&bytes, &VolumeId([3; 16]), &id, "t").is_err());
    }

    #[test]
    fn a_lease_counts_for_as_long_as_it_says_and_never_for_ever() {
        let at = |secs| Timestamp { secs, nanos: 0 };
        let mut lease = Lease::new(VolumeId([1; 16]), LeaseId([2; 16]), vec![1], "x", at(0));
        let day = 24 * 3600;
        assert!(lease.counts(at(100), at(100 + day - 1)) && !lease.counts(at(100), at(100 + day)));
        assert!(lease.counts(at(100), at(90)), "servers' clocks differ");
        lease.ttl_secs = u64::MAX;
        assert!(lease.counts(at(0), at(30 * day - 1)) && !lease.counts(at(0), at(30 * day)));
    }

    #[test]
    fn leases_are_bounded() {
        let seqs: Vec<Seq> = (0..=LEASE_SEQS_MAX as u64).map(|n| u64::MAX - n).collect();
        let mut lease = Lease::new(
            VolumeId([1; 16]),
            LeaseId([2; 16]),
            seqs,
            "x",
            Timestamp::default(),
        );
        assert!(lease.encode().is_err());
        lease.seqs.pop();
        assert!(lease.encode().unwrap().len() <= LEASE_BYTES_MAX);
        lease.seqs.reverse();
        assert!(lease.encode().is_err());
    }
}
