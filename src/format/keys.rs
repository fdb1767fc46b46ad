//! Keys of the objects of a volume, relative to the root of the store (SPEC.md 4).

use std::fmt;

use super::descriptor::check_volume_name;
use crate::model::{Epoch, Hash, LOCAL_EPOCH, LeaseId, PackRef, Seq, TxnId, VolumeId};

/// What a key names.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Key {
    /// Entry of the names index.
    Name(String),
    /// Descriptor of a volume.
    Descriptor(VolumeId),
    /// Record of the log.
    Record(VolumeId, Seq),
    /// Chunk object.
    Chunk(VolumeId, Epoch, Hash),
    /// Pack.
    Pack(VolumeId, PackRef),
    /// Prepared commit that waits to be combined: posted at that record, by that transaction.
    Draft(VolumeId, Seq, TxnId),
    /// Lease.
    Lease(VolumeId, LeaseId),
    /// Progress note of the collector of that fence.
    CollectorNote(VolumeId, Seq),
}

/// Prefix of the names index.
pub const NAMES_PREFIX: &str = "names/";
/// Ending of a key of the names index.
const NAME_ENDING: &str = ".json";

/// Prefix of everything that belongs to a volume.
pub fn volume_prefix(volume: &VolumeId) -> String {
    format!("{volume}/")
}

/// Prefix of the log: a listing of it begins with the newest record.
pub fn log_prefix(volume: &VolumeId) -> String {
    format!("{volume}/log/")
}

/// Prefix of the leases.
pub fn lease_prefix(volume: &VolumeId) -> String {
    format!("{volume}/lease/")
}

/// Prefix of the drafts.
pub fn draft_prefix(volume: &VolumeId) -> String {
    format!("{volume}/draft/")
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Name(name) => write!(f, "{NAMES_PREFIX}{name}{NAME_ENDING}"),
            Key::Descriptor(volume) => write!(f, "{volume}/vol.json"),
            Key::Record(volume, seq) => write!(f, "{volume}/log/{:016x}", u64::MAX - seq),
            Key::Chunk(volume, epoch, id) => write!(f, "{volume}/d/{epoch:08x}/{:02x}/{id}", id.0[0]),
            Key::Pack(volume, PackRef { epoch, id }) => {
                write!(f, "{volume}/p/{epoch:08x}/{:02x}/{id}", id.0[0])
            }
            Key::Draft(volume, posted_at, txn) => write!(f, "{volume}/draft/{posted_at:016x}-{txn}"),
            Key::Lease(volume, id) => write!(f, "{volume}/lease/{id}"),
            Key::CollectorNote(volume, fence) => write!(f, "{volume}/gcrun/{fence:016x}"),
        }
    }
}

impl Key {
    /// What `key` names; `None` for anything that is not exactly a key of this format.
    pub fn parse(key: &str) -> Option<Key> {
        if let Some(rest) = key.strip_prefix(NAMES_PREFIX) {
            let name = rest.strip_suffix(NAME_ENDING)?;
            check_volume_name(name).ok()?;
            return Some(Key::Name(name.to_owned()));
        }
        let mut parts = key.split('/');
        let volume: VolumeId = parts.next()?.parse().ok()?;
        let mut next = || parts.next();
        let found = match (next()?, next(), next(), next(), next()) {
            ("vol.json", None, ..) => Key::Descriptor(volume),
            ("log", Some(number), None, ..) => Key::Record(volume, u64::MAX - hex16(number)?),
            ("d", Some(epoch), Some(fan), Some(id), None) => {
                let (epoch, id) = epoch_and_id(epoch, fan, id)?;
                Key::Chunk(volume, epoch, id)
            }
            ("p", Some(epoch), Some(fan), Some(id), None) => {
                let (epoch, id) = epoch_and_id(epoch, fan, id)?;
                Key::Pack(volume, PackRef { epoch, id })
            }
            ("draft", Some(name), None, ..) => {
                let (posted_at, txn) = name.split_once('-')?;
                Key::Draft(volume, hex16(posted_at)?, txn.parse().ok()?)
            }
            ("lease", Some(id), None, ..) => Key::Lease(volume, id.parse().ok()?),
            ("gcrun", Some(fence), None, ..) => Key::CollectorNote(volume, hex16(fence)?),
            _ => return None,
        };
        Some(found)
    }
}

fn lower_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn hex16(text: &str) -> Option<u64> {
    if lower_hex(text, 16) {
        u64::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

fn epoch_and_id(epoch: &str, fan: &str, id: &str) -> Option<(Epoch, Hash)> {
    if !lower_hex(epoch, 8) || !id.starts_with(fan) || fan.len() != 2 {
        return None;
    }
    let epoch = Epoch::from_str_radix(epoch, 16)
        .ok()
        .filter(|epoch| *epoch != LOCAL_EPOCH)?;
    Some((epoch, id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Key> {
        let volume = VolumeId([0x9f; 16]);
        let id = Hash([0xab; 32]);
        vec![
            Key::Name("data-sets.v1".into()),
            Key::Descriptor(volume),
            Key::Record(volume, 0),
            Key::Record(volume, 4711),
            Key::Record(volume, u64::MAX),
            Key::Chunk(volume, 7, id),
            Key::Pack(
                volume,
                PackRef {
                    epoch: 0xffff_fffe,
                    id,
                },
            ),
            Key::Draft(volume, 12, TxnId([1; 16])),
            Key::Lease(volume, LeaseId([2; 16])),
            Key::CollectorNote(volume, 99),
        ]
    }

    #[test]
    fn keys_come_back() {
        for key in examples() {
            assert_eq!(Key::parse(&key.to_string()), Some(key));
        }
    }

    #[test]
    fn newer_records_are_listed_first() {
        let volume = VolumeId([0; 16]);
        let key = |seq| Key::Record(volume, seq).to_string();
        assert!(key(1) < key(0) && key(256) < key(255));
        assert!(key(5).starts_with(&log_prefix(&volume)));
    }

    #[test]
    fn what_is_almost_a_key_is_none() {
        for key in examples() {
            let text = key.to_string();
            for bad in [
                format!("{text}x"),
                format!("{text}/"),
                format!("/{text}"),
                text.to_uppercase(),
            ] {
                assert_eq!(Key::parse(&bad), None, "{bad}");
            }
        }
        let id = Hash([0xab; 32]);
        let volume = VolumeId([1; 16]);
        for bad in [
            format!("{volume}/p/00000001/ac/{id}"),
            format!("{volume}/p/ffffffff/ab/{id}"),
            String::new(),
        ] {
            assert_eq!(Key::parse(&bad), None, "{bad}");
        }
    }
}
