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
