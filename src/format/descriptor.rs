//! The volume descriptor, features, and the names index (SPEC.md 5).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::limits::{DESCRIPTOR_BYTES_MAX, NAME_OBJECT_BYTES_MAX, NODE_RAW_BYTES_MAX};
use super::tables::{EncodeError, ensure, limit};
use super::time_text;
use super::wire::Corrupt;
use crate::model::{ITEM_BYTES_MAX, TINY_BYTES_MAX, Timestamp, VolumeId};

/// Version of the format that this codec reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// Longest name of a volume, bytes.
pub const VOLUME_NAME_BYTES_MAX: usize = 100;

/// Features without which a volume must not even be read. All that this version knows.
const KNOWN_INCOMPAT: &[&str] = &["nested-v1"];
/// A collector has run here, or may at any time, so writers must keep the rules of LOG.md, which this version does: R1 to R4, and
/// leases for all that is drawn from, of open files and of what an unmount leaves too. (`collected-v1` was the name that programs
/// know which do not yet keep all of these: it is never set.)
const COLLECTED: &str = "collected-v2";
/// Features without which a volume must not be written.
const KNOWN_RO_COMPAT: &[&str] = &[COLLECTED];

/// Why an object of the volume cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It breaks a rule of the format.
    #[error("damaged: {0}")]
    Corrupt(#[from] Corrupt),
    /// It needs a newer program.
    #[error("{object} needs a newer version of sailvol: {what}")]
    Unsupported {
        /// Key of the object.
        object: String,
        /// What this version does not know.
        what: String,
    },
}

/// Names of features, by what a program that does not know one may still do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Must know to read.
    #[serde(default)]
    pub incompat: BTreeSet<String>,
    /// Must know to write.
    #[serde(default)]
    pub ro_compat: BTreeSet<String>,
    /// Need not know.
    #[serde(default)]
    pub compat: BTreeSet<String>,
}

/// What this program may do with a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// Reading only, because of these features.
    ReadOnly(Vec<String>),
    /// Nothing, because of these features.
    None(Vec<String>),
}

impl Features {
    /// What a volume made by this version starts with.
    pub fn initial() -> Features {
        Features {
            incompat: KNOWN_INCOMPAT.iter().map(|name| name.to_string()).collect(),
            ..Features::default()
        }
    }

    /// What the first record of a collector adds.
    pub fn collected() -> Features {
        Features {
            ro_compat: [COLLECTED.to_owned()].into(),
            ..Features::default()
        }
    }

    /// Those of both: what counts is the union of descriptor and head record.
    pub fn union(&self, other: &Features) -> Features {
        let both = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.union(b).cloned().collect();
        Features {
            incompat: both(&self.incompat, &other.incompat),
            ro_compat: both(&self.ro_compat, &other.ro_compat),
            compat: both(&self.compat, &other.compat),
        }
    }

    /// What this program may do.
    pub fn access(&self) -> Access {
        let unknown = |set: &BTreeSet<String>, known: &[&str]| -> Vec<String> {
            set.iter()
                .filter(|name| !known.contains(&name.as_str()))
                .cloned()
                .collect()
        };
        let incompat = unknown(&self.incompat, KNOWN_INCOMPAT);
        let ro_compat = unknown(&self.ro_compat, KNOWN_RO_COMPAT);
        if !incompat.is_empty() {
            Access::None(incompat)
        } else if !ro_compat.is_empty() {
            Access::ReadOnly(ro_compat)
        } else {
            Access::ReadWrite
        }
    }
}

/// Sizes that the partition rule goes by, bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSizes {
    /// A directory up to this stands in its parent's node.
    pub inline_max: u32,
    /// A page up to this is not split.
    pub page_max: u32,
    /// Contents up to this stand in the entry.
    pub tiny_max: u32,
}

impl Default for NodeSizes {
    /// Those of version 1.
    fn default() -> NodeSizes {
        NodeSizes {
            inline_max: 8 << 10,
            page_max: 64 << 10,
            tiny_max: TINY_BYTES_MAX as u32,
        }
    }
}

/// Sizes of packs, bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackSizes {
    /// Writers fill packs up to this.
    pub target: u32,
    /// Contents below this are one blob in a pack.
    pub item_max: u32,
}

/// Where the log is and how it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlace {
    /// `bucket`: beside the data.
    pub kind: String,
    /// How put-if-absent was found to work when the volume was made: `if-none-match`, or `exclusive-create` in a
    /// directory.
    pub conditional: String,
}

/// `vol.json`: what never changes about a volume. A copy is in every record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Version of the format.
    pub sailvol: u32,
    /// Identity.
    pub volume: VolumeId,
    /// Name at creation.
    pub name: String,
    /// When it was made, by the clock of whoever made it.
    #[serde(with = "time_text")]
    pub created: Timestamp,
    /// Features from the start.
    pub features: Features,
    /// Hash function of everything: `blake3`.
    pub hash: String,
    /// Node sizes.
    pub node: NodeSizes,
    /// Pack sizes.
    pub pack: PackSizes,
    /// Pairs of offset in the file and size of the chunks from there on, bytes.
    pub chunk_tiers: Vec<(u64, u64)>,
    /// Where the log is.
    pub log: LogPlace,
    /// What happens to owners of files: `keep`.
    pub owner: String,
    /// Encryption: none in this version.
    pub crypt: Option<serde_json::Value>,
    /// Fields of later versions, carried along into records.
    #[serde(flatten)]
    pub later: BTreeMap<String, serde_json::Value>,
}

/// The tier table number 0.
const CHUNK_TIERS: [(u64, u64); 3] = [(0, 8 << 20), (1 << 30, 32 << 20), (16 << 30, 64 << 20)];

impl Descriptor {
    /// The descriptor of a new volume. `conditional` says how its store does put-if-absent.
    pub fn new(volume: VolumeId, name: &str, created: Timestamp, conditional: &str) -> Descriptor {
        Descriptor {
            sailvol: FORMAT_VERSION,
            volume,
            name: name.to_owned(),
            created,
            features: Features::initial(),
            hash: "blake3".to_owned(),
            node: NodeSizes::default(),
            pack: PackSizes {
                target: 16 << 20,
                item_max: ITEM_BYTES_MAX as u32,
            },
            chunk_tiers: CHUNK_TIERS.to_vec(),
            log: LogPlace {
                kind: "bucket".to_owned(),
                conditional: conditional.to_owned(),
            },
            owner: "keep".to_owned(),
            crypt: None,
            later: BTreeMap::new(),
        }
    }

    /// The bytes of `vol.json`.
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        check_volume_name(&self.name).map_err(EncodeError::Invalid)?;
        let bytes = encode_json(self)?;
        limit(
            bytes.len() as u64,
            DESCRIPTOR_BYTES_MAX as u64,
            "bytes of a descriptor",
        )?;
        Ok(bytes)
    }

    /// Reads `vol.json` and refuses what this version cannot read. Whether it may also write is
    /// [`Features::access`]'s to say, together with the head's features.
    pub fn decode(bytes: &[u8], object: &str) -> Result<Descriptor, FormatError> {
        let descriptor: Descriptor = decode_json(bytes, DESCRIPTOR_BYTES_MAX, object)?;
        descriptor.check(object)?;
        Ok(descriptor)
    }

    /// Refuses to write what this version could not read.
    pub(super) fn check_writable(&self) -> Result<(), EncodeError> {
        ensure(self.check("").is_ok(), "a descriptor that this version can read")
    }

    /// Refuses what this version cannot read.
    pub(super) fn check(&self, object: &str) -> Result<(), FormatError> {
        let unsupported = |what: String| FormatError::Unsupported {
            object: object.to_owned(),
            what,
        };
        if let Access::None(features) = self.features.access() {
            return Err(unsupported(format!("features {}", features.join(", "))));
        }
        for (known, what) in [
            (self.sailvol == FORMAT_VERSION, "another version of the format"),
            (self.hash == "blake3", "hash function"),
            (self.node.tiny_max == TINY_BYTES_MAX as u32, "node.tiny_max"),
            (self.pack.item_max == ITEM_BYTES_MAX as u32, "pack.item_max"),
            (self.chunk_tiers == CHUNK_TIERS, "chunk_tiers"),
            (self.log.kind == "bucket", "log.kind"),
            (self.crypt.is_none(), "encryption"),
        ] {
            if !known {
                return Err(unsupported(what.to_owned()));
            }
        }
        let corrupt = |rule| FormatError::Corrupt(Corrupt::new(object, 0, rule));
        let NodeSizes {
            inline_max, page_max, ..
        } = self.node;
        if !(1024..=NODE_RAW_BYTES_MAX / 4).contains(&page_max) || inline_max > page_max {
            return Err(corrupt(
                "node sizes are not 1 KiB to 256 KiB, the inline size at most the page size",
            ));
        }
        if !((1 << 20)..=(32 << 20)).contains(&self.pack.target) {
            return Err(corrupt("a pack target that is not 1 to 32 MiB"));
        }
        check_volume_name(&self.name).map_err(corrupt)
    }
}

/// Checks the name of a volume: 1 to 100 letters, digits, `.`, `_`, `-`, beginning with a letter or digit, and no
/// volume id, so that a name and an id are never confused.
pub fn check_volume_name(name: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !begins || name.len() > VOLUME_NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(
            "a volume's name has 1 to 100 letters, digits, '.', '_', '-' and begins with a letter or digit",
        );
    }
    if name.parse::<VolumeId>().is_ok() {
        return Err("a volume's name must not look like a volume id");
    }
    Ok(())
}

/// `names/<name>.json`: which volume has the name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameEntry {
    /// Version of the format.
    pub sailvol: u32,
    /// The name.
    pub name: String,
    /// The volume.
    pub volume: VolumeId,
}

impl NameEntry {
    /// The entry of a new volume.
    pub fn new(name: &str, volume: VolumeId) -> NameEntry {
        NameEntry {
            sailvol: FORMAT_VERSION,
            name: name.to_owned(),
            volume,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        check_volume_name(&self.name).map_err(EncodeError::Invalid)?;
        encode_json(self)
    }

    /// Reads the entry found under `name`.
    pub fn decode(bytes: &[u8], name: &str, object: &str) -> Result<NameEntry, FormatError> {
        let entry: NameEntry = decode_json(bytes, NAME_OBJECT_BYTES_MAX, object)?;
        if entry.name != name {
            return Err(Corrupt::new(object, 0, "an entry of the names index has another name").into());
        }
        Ok(entry)
    }
}

#[derive(Deserialize)]
struct Version {
    sailvol: u32,
}

/// Text that people read: indented, with a newline at the end.
pub(super) fn encode_json<T: Serialize>(value: &T) -> Result<Bytes, EncodeError> {
    let text = serde_json::to_vec_pretty(value);
    ensure(text.is_ok(), "a value of JSON")?;
    let mut text = text.unwrap_or_default();
    text.push(b'\n');
    Ok(Bytes::from(text))
}

/// Reads a JSON object of at most `max` bytes, its version first: a later one may have other fields.
pub(super) fn decode_json<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    max: usize,
    object: &str,
) -> Result<T, FormatError> {
    if bytes.len() > max {
        return Err(Corrupt::new(object, max as u64, "a JSON object is over its limit").into());
    }
    let at = |error: serde_json::Error, rule| {
        // serde_json counts from 1.
        let before: usize = bytes
            .split_inclusive(|b| *b == b'\n')
            .take(error.line().saturating_sub(1))
            .map(<[u8]>::len)
            .sum();
        Corrupt::new(object, (before + error.column().saturating_sub(1)) as u64, rule)
    };
    let version: Version =
        serde_json::from_slice(bytes).map_err(|error| at(error, "not a JSON object with a version"))?;
    if version.sailvol != FORMAT_VERSION {
        return Err(FormatError::Unsupported {
            object: object.to_owned(),
            what: format!("version {} of the format", version.sailvol),
        });
    }
    Ok(serde_json::from_slice(bytes)
        .map_err(|error| at(error, "a JSON object has not the fields of its kind"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Descriptor {
        let created = Timestamp {
            secs: 1_795_320_000,
            nanos: 0,
        };
        Descriptor::new(VolumeId([0x9f; 16]), "datasets", created, "if-none-match")
    }

    fn changed(change: impl Fn(&mut serde_json::Value)) -> Result<Descriptor, FormatError> {
        let mut value = serde_json::to_value(example()).unwrap();
        change(&mut value);
        Descriptor::decode(&serde_json::to_vec(&value).unwrap(), "vol.json")
    }

    #[test]
    fn descriptors_come_back_with_fields_of_later_versions() {
        let bytes = example().encode().unwrap();
        assert_eq!(Descriptor::decode(&bytes, "vol.json").unwrap(), example());
        let later = changed(|v| v["shiny"] = 7.into()).unwrap();
        let again = Descriptor::decode(&later.encode().unwrap(), "vol.json").unwrap();
        assert_eq!(again.later["shiny"], 7);
    }

    #[test]
    fn what_this_version_cannot_read_is_refused_as_unsupported() {
        for (pointer, value) in [
            ("/sailvol", serde_json::json!(2)),
            (
                "/features/incompat",
                serde_json::json!(["nested-v1", "sealed-v1"]),
            ),
            ("/hash", serde_json::json!("sha256")),
            ("/node/tiny_max", serde_json::json!(512)),
            ("/chunk_tiers", serde_json::json!([[0, 4096]])),
            ("/log/kind", serde_json::json!("http")),
            ("/crypt", serde_json::json!({"by": "key"})),
        ] {
            let result = changed(|v| *v.pointer_mut(pointer).unwrap() = value.clone());
            assert!(
                matches!(result, Err(FormatError::Unsupported { .. })),
                "{pointer}: {result:?}"
            );
        }
    }

    #[test]
    fn damage_is_refused_as_damage() {
        for (pointer, value) in [
            ("/node/page_max", serde_json::json!(1 << 20)),
            ("/node/inline_max", serde_json::json!(1 << 17)),
            ("/pack/target", serde_json::json!(7)),
            ("/name", serde_json::json!("../x")),
            ("/created", serde_json::json!("yesterday")),
            ("/volume", serde_json::json!("9F")),
        ] {
            let result = changed(|v| *v.pointer_mut(pointer).unwrap() = value.clone());
            assert!(
                matches!(result, Err(FormatError::Corrupt(_))),
                "{pointer}: {result:?}"
            );
        }
        assert!(Descriptor::decode(&vec![b' '; DESCRIPTOR_BYTES_MAX + 1], "t").is_err());
        assert!(Descriptor::decode(&[b'['; 60_000], "t").is_err());
    }

    #[test]
    fn unknown_features_decide_access() {
        let mut features = Features::initial();
        features.compat.insert("anything".into());
        let mut features = features.union(&Features::collected());
        assert_eq!(features.access(), Access::ReadWrite);
        let older = Features {
            ro_compat: ["collected-v1".to_owned()].into(),
            ..Features::default()
        };
        assert_eq!(older.access(), Access::ReadOnly(vec!["collected-v1".into()]));
        features.ro_compat.insert("newer".into());
        assert_eq!(features.access(), Access::ReadOnly(vec!["newer".into()]));
        let other = Features {
            incompat: ["x".to_owned()].into(),
            ..Features::default()
        };
        assert_eq!(features.union(&other).access(), Access::None(vec!["x".into()]));
    }

    #[test]
    fn names_are_safe_in_keys_and_never_ids() {
        for good in ["a", "Data_sets-1.2", "0"] {
            assert!(check_volume_name(good).is_ok());
        }
        let id = VolumeId([1; 16]).to_string();
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "a/b",
            "a b",
            "ä",
            &"x".repeat(101),
            &id,
        ] {
            assert!(check_volume_name(bad).is_err(), "{bad}");
        }
        let entry = NameEntry::new("a", VolumeId([1; 16]));
        let bytes = entry.encode().unwrap();
        assert_eq!(NameEntry::decode(&bytes, "a", "t").unwrap(), entry);
        assert!(NameEntry::decode(&bytes, "b", "t").is_err());
    }
}
