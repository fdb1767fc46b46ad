//! Identifiers: hashes, volumes, transactions, pack references and node pointers.

use std::fmt;
use std::str::FromStr;

/// Number of a record in the log; 0 is the record that created the volume.
pub type Seq = u64;

/// Number of the collector's fence under which an object was uploaded; part of every object key (FORMAT.md 4.1).
pub type Epoch = u32;

/// The epoch of packs that exist only in the local state directory (nodes of a tree that was prepared but never
/// published as it stands). It never appears in the remote format.
pub const LOCAL_EPOCH: Epoch = u32::MAX;

/// The text is not the lower-case hexadecimal form of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier of {expected} hexadecimal digits: {text:?}")]
pub struct ParseIdError {
    /// Digits that were expected.
    pub expected: usize,
    /// What was found.
    pub text: String,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &hex::encode(self.0)[..12])
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let err = || ParseIdError { expected: 2 * $bytes, text: text.chars().take(80).collect() };
                if text.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(err());
                }
                let mut out = [0u8; $bytes];
                hex::decode_to_slice(text, &mut out).map_err(|_| err())?;
                Ok(Self(out))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id!(
    /// A blake3 hash of 32 bytes.
    Hash,
    32
);
hex_id!(
    /// Identity of a volume.
    VolumeId,
    16
);
hex_id!(
    /// Identity of one commit attempt, the same through all retries.
    TxnId,
    16
);
hex_id!(
    /// Identity of a lease, drawn at random by its owner.
    LeaseId,
    16
);
hex_id!(
    /// Identity of an inode that has (or had) several names, drawn at random at the first link(2).
    LinkId,
    16
);

/// A file's identity for `st_ino`, allocated as a random prefix per mount session plus a counter. Unique with high
/// probability only: nothing but `st_ino` may rest on it. 1 is the root directory; 0 and 2..=255 are never allocated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct FileId(pub u64);

impl FileId {
    /// The root directory of every volume.
    pub const ROOT: FileId = FileId(1);
}

/// A pack object: `p/<epoch>/<2 hex>/<id>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PackRef {
    /// Epoch under which it was uploaded.
    pub epoch: Epoch,
    /// blake3 of the whole object.
    pub id: Hash,
}

impl PackRef {
    /// Stands for "the pack that is being written": its id is not known until it is complete. Encoders turn it into
    /// slot 0 (FORMAT.md 4.5); it must not outlive the pack's writer.
    pub const fn open(epoch: Epoch) -> PackRef {
        PackRef {
            epoch,
            id: Hash([0; 32]),
        }
    }

    /// True for the placeholder of [`PackRef::open`].
    pub fn is_open(&self) -> bool {
        self.id.0 == [0; 32]
    }

    /// True for a pack that exists only in the local state directory.
    pub fn is_local(&self) -> bool {
        self.epoch == LOCAL_EPOCH
    }
}

/// Where a stored node is, and the hash that its stored bytes must have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ptr {
    /// Pack that holds it.
    pub pack: PackRef,
    /// Offset in the pack, bytes.
    pub offset: u64,
    /// Length of the stored form, bytes.
    pub stored_len: u32,
    /// Length after decompression, bytes.
    pub raw_len: u32,
    /// Hash of the stored bytes (context `sailvol 2026 node v1`).
    pub hash: Hash,
}
