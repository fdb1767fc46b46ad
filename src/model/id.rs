//! Identifiers: hashes, volumes, transactions, pack references and node pointers.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of a record in the log; 0 is the record that created the volume.
pub type Seq = u64;

/// Number of the collector's fence under which an object was uploaded; part of every object key (SPEC.md 4).
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

/// A file's identity for `st_ino`: a random start for each session or command, plus a counter. Unique with high probability
/// only: nothing but `st_ino` may rest on it. 1 is the root directory; 0 and 2..=255 are never allocated.
///
/// Programs in JavaScript keep `st_ino` in a double and compare it: beyond 2^53 files that are different look like one. So
/// new ids stay below 2^52 (the numbers from there to 2^53 are reserved), and what larger ones, which earlier versions
/// made, are shown as is a function of the id alone ([`FileId::shown`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct FileId(pub u64);

impl FileId {
    /// The root directory of every volume.
    pub const ROOT: FileId = FileId(1);
    /// The first that is allocated.
    pub const FIRST: u64 = 256;
    /// Ids are allocated below, and shown below as what they are. From here to [`FileId::SHOWN_END`] are the numbers that a
    /// mount gives to what it cannot show by its id, because something else shows that already.
    pub const END: u64 = FileId::SHOWN_END - (1 << 48);
    /// No number that is shown is as large as this.
    pub const SHOWN_END: u64 = 1 << 52;

    /// The `st_ino` of a file of this id, the same in every mount (SPEC.md, "File ids"); `None` for what is never
    /// allocated. Ids of one session stay different: they have their upper bits in common.
    pub const fn shown(self) -> Option<u64> {
        let id = self.0;
        if id == FileId::ROOT.0 {
            return Some(id);
        }
        if id < FileId::FIRST {
            return None;
        }
        let mut shown = (id ^ (id >> 52)) & (FileId::SHOWN_END - 1);
        if shown >= FileId::END {
            shown ^= FileId::SHOWN_END >> 1;
        }
        if shown < FileId::FIRST {
            shown += FileId::FIRST;
        }
        Some(shown)
    }
}

/// Draws file ids: from a random start one after the other, round the whole range.
#[derive(Debug)]
pub struct FileIds {
    next: AtomicU64,
}

impl FileIds {
    /// From a number drawn at random.
    pub const fn new(random: u64) -> FileIds {
        FileIds {
            next: AtomicU64::new(random),
        }
    }

    /// The next one.
    pub fn draw(&self) -> FileId {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        FileId(FileId::FIRST + next % (FileId::END - FileId::FIRST))
    }
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
    /// slot 0 (SPEC.md 7); it must not outlive the pack's writer.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(number: u64) -> bool {
        // What a double keeps apart from its neighbours.
        number < 1 << 52 && number as f64 as u64 == number && number + 1 != (number as f64 as u64)
    }

    #[test]
    fn small_ids_are_shown_as_they_are_and_reserved_ones_are_not() {
        assert_eq!(FileId::ROOT.shown(), Some(1));
        for id in [256, 300, 1 << 32, 1 << 51, FileId::END - 1] {
            assert_eq!(FileId(id).shown(), Some(id));
        }
        for id in [0, 2, 255] {
            assert_eq!(FileId(id).shown(), None);
        }
    }

    /// Volumes that earlier versions wrote show these numbers for ever, in every mount.
    #[test]
    fn what_large_ids_are_shown_as_is_fixed() {
        for (id, shown) in [
            (1 << 52, 257),
            ((1 << 52) + 1, 256),
            (1 << 62, 1024),
            (0x3abc_def0_1234_5678, 0xc_def0_1234_55d3),
            (u64::MAX, 0x7_ffff_ffff_f000),
            ((1 << 52) - 1, 0x7_ffff_ffff_ffff),
            (0x0010_0000_0000_00ff, 0x1fe),
        ] {
            assert_eq!(FileId(id).shown(), Some(shown), "{id:#x}");
        }
    }

    proptest! {
        /// All makers draw by this: whatever the random start, ids are shown as they are and as no other.
        #[test]
        fn drawn_ids_fit_into_a_double(random: u64, near_the_end in 0..1000u64) {
            for start in [random, u64::MAX - near_the_end, FileId::END - near_the_end] {
                let ids = FileIds::new(start);
                let drawn: Vec<FileId> = (0..300).map(|_| ids.draw()).collect();
                let mut shown: Vec<u64> = drawn.iter().filter_map(|id| id.shown()).collect();
                prop_assert!(drawn.iter().zip(&shown).all(|(id, shown)| id.0 == *shown && fits(*shown)));
                shown.sort_unstable();
                shown.dedup();
                prop_assert_eq!(shown.len(), 300);
            }
        }

        /// Ids that earlier versions drew one after the other stay different, and in the range.
        #[test]
        fn folded_ids_of_one_session_stay_apart(start in 256..u64::MAX - 1000, step in 1..1000u64) {
            let both = [FileId(start), FileId(start + step)];
            // Both or none of the two carries into the upper bits, and no end of the range lies between.
            let same_upper = start >> 51 == (start + step) >> 51;
            let [a, b] = both.map(|id| id.shown().unwrap());
            prop_assert!(fits(a) && fits(b) && a >= 256 && b >= 256 && a < FileId::END && b < FileId::END);
            let edges = |shown: u64| shown < 1 << 13 || shown % (FileId::SHOWN_END >> 1) > (FileId::SHOWN_END >> 1) - (1 << 49);
            if same_upper && !edges(a) && !edges(b) {
                prop_assert_ne!(a, b);
            }
        }
    }
}
