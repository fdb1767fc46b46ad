//! Records of the log (SPEC.md 6): one JSON line, then binary sections.
//!
//! Reading has two steps. [`UnverifiedRecord::parse`] gives what the bytes say; [`UnverifiedRecord::verify`] compares
//! it with the place where it was found and with the hashes in it, and gives a [`Record`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::content::{RECORD_CONTEXT, TXN_CONTEXT, content_id};
use super::descriptor::{Access, Descriptor, FORMAT_VERSION, Features, FormatError, decode_json};
use super::limits::{
    BY_BYTES_MAX, MERGED_MAX, MESSAGE_BYTES_MAX, RECORD_BYTES_MAX, RECORD_JSON_BYTES_MAX, RENAMES_MAX,
};
use super::retained::Retained;
use super::super_node::{SuperNode, decode_super, encode_super};
use super::tables::{EncodeError, ensure, limit};
use super::time_text;
use super::wire::{Corrupt, Reader, Writer};
use crate::model::{
    Epoch, Hash, LOCAL_EPOCH, NAME_BYTES_MAX, Name, PATH_DEPTH_MAX, Seq, Timestamp, TxnId, VolPath, VolumeId,
};

/// Why a record was made. Every kind carries the full state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordKind {
    /// The first record.
    Init,
    /// Changes of a mount or command.
    Commit,
    /// An older tree, or a part of one, is current again.
    Restore,
    /// A name for a record was put or deleted.
    Checkpoint,
    /// The configuration changed.
    Config,
    /// A collector's fence.
    Gc,
    /// Objects moved, nothing else.
    Repack,
    /// The volume is deleted; nothing may follow.
    Delete,
}

/// How large the volume is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Entries that are no directories.
    pub files: u64,
    /// Directories, `/` not counted.
    pub dirs: u64,
    /// Logical bytes.
    pub bytes: u64,
    /// Bytes known to be stored: the parent's value and what was uploaded for this record; a collector measures.
    pub stored: u64,
}

/// What the newest fence decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GcState {
    /// Number of fences so far, plus 1: uploads go under it.
    pub epoch: Epoch,
    /// The newest fence. Records after it are all there.
    pub fence: Seq,
    /// Records up to the fence that are kept.
    pub retained: Retained,
}

impl GcState {
    /// Of a new volume: its first record counts as a fence that keeps itself.
    pub fn initial() -> GcState {
        GcState {
            epoch: 1,
            fence: 0,
            retained: [0].into_iter().collect(),
        }
    }

    /// True if record `seq` is kept under this state.
    pub fn protects(&self, seq: Seq) -> bool {
        seq > self.fence || self.retained.contains(seq)
    }

    /// The records below `end` that are kept under this state, newest first. Costs nothing for those between them.
    pub fn kept_below(&self, end: Seq) -> impl Iterator<Item = Seq> {
        self.kept_runs(end).flat_map(|(first, last)| (first..=last).rev())
    }

    /// The same as closed intervals, newest first.
    pub fn kept_runs(&self, end: Seq) -> impl Iterator<Item = (Seq, Seq)> {
        let newest = (self.fence.saturating_add(1), Seq::MAX);
        let fenced = self.fence;
        let older = self.retained.intervals().iter().rev();
        let older = older.map(move |(first, last)| (*first, (*last).min(fenced)));
        std::iter::once(newest)
            .chain(older)
            .filter_map(move |(first, last)| {
                let last = last.min(end.checked_sub(1)?);
                (first <= last).then_some((first, last))
            })
    }
}

/// Which records a collector keeps.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Retain {
    /// All of this many days.
    pub all_days: u32,
    /// This many newest.
    pub last: u32,
    /// One a day for this many days.
    pub daily_days: u32,
    /// Fields of later versions, carried along.
    #[serde(flatten)]
    pub later: std::collections::BTreeMap<String, serde_json::Value>,
}

/// What may be changed about a volume, by a record.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VolumeConfig {
    /// Most logical bytes; 0: no limit.
    pub quota_bytes: u64,
    /// Which records a collector keeps.
    pub retain: Retain,
    /// Fields of later versions, carried along.
    #[serde(flatten)]
    pub later: std::collections::BTreeMap<String, serde_json::Value>,
}

impl Default for VolumeConfig {
    fn default() -> Self {
        VolumeConfig {
            quota_bytes: 0,
            retain: Retain {
                all_days: 7,
                last: 100,
                daily_days: 30,
                later: Default::default(),
            },
            later: Default::default(),
        }
    }
}

/// One record of the log, verified.
#[derive(Clone, Debug)]
pub struct Record {
    /// Copy of the volume's descriptor; the volume's identity is there.
    pub descriptor: Descriptor,
    /// Its number.
    pub seq: Seq,
    /// Hash of the record before it; `None` for the first only.
    pub parent: Option<Hash>,
    /// Why it was made.
    pub kind: RecordKind,
    /// The commit attempt that it is.
    pub txn: TxnId,
    /// Record that the committing view was last loaded from; for people.
    pub base: Option<Seq>,
    /// Other attempts' drafts that it contains.
    pub merged: Vec<TxnId>,
    /// The publisher's clock, or 1 ms after the parent's time if that is later: order only, never safety.
    pub time: Timestamp,
    /// The store's clock shortly before it was published, if the store told.
    pub server_time: Option<Timestamp>,
    /// Who published it.
    pub by: String,
    /// What they said.
    pub message: String,
    /// Features in use; those of the descriptor count as well.
    pub features: Features,
    /// The tree.
    pub root: SuperNode,
    /// How large it is.
    pub usage: Usage,
    /// What is kept.
    pub gc: GcState,
    /// Settings.
    pub config: VolumeConfig,
    /// Moves that the commit made: path in its base, path in its tree.
    pub renames: Vec<(VolPath, VolPath)>,
}

/// A record as it goes into the log.
#[derive(Clone, Debug)]
pub struct EncodedRecord {
    /// The object.
    pub bytes: Bytes,
    /// Hash of the object: what the next record names as its parent.
    pub hash: Hash,
    /// Hash of the super node in it.
    pub root: Hash,
}

/// The JSON line.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    sailvol: u32,
    volume: VolumeId,
    seq: Seq,
    parent: Option<Hash>,
    kind: RecordKind,
    txn: TxnId,
    base: Option<Seq>,
    merged: Vec<TxnId>,
    #[serde(with = "time_text")]
    time: Timestamp,
    #[serde(with = "time_text::optional")]
    server_time: Option<Timestamp>,
    by: String,
    msg: String,
    features: Features,
    root: RootSection,
    usage: Usage,
    gc: GcLine,
    renames: Option<Section>,
    config: VolumeConfig,
    descriptor: Descriptor,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct GcLine {
    epoch: Epoch,
    fence: Seq,
    retained: Option<Section>,
}

/// A binary section, counted from the byte after the newline. The hash is plain blake3 of its bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Section {
    off: u64,
    len: u64,
    hash: Hash,
}

/// The section of the super node; its hash is that of a node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct RootSection {
    off: u64,
    len: u64,
    raw: u32,
    hash: Hash,
}

/// Hash of a record: what its successor names as parent.
pub fn record_hash(bytes: &[u8]) -> Hash {
    Hash(
        *blake3::Hasher::new_derive_key(RECORD_CONTEXT)
            .update(bytes)
            .finalize()
            .as_bytes(),
    )
}

/// Identity of a commit attempt. `random` is fresh; the rest keeps two copies of one machine, whose random numbers
/// may be the same, apart unless they commit the same: who commits, the record that the view stands on, and a hash of
/// what is committed.
pub fn txn_id(random: &[u8; 32], by: &str, base: &Hash, root: &Hash) -> TxnId {
    let mut w = Writer::new();
    w.raw(random);
    w.bytes(by.as_bytes());
    w.hash(base);
    w.hash(root);
    let mut hasher = blake3::Hasher::new_derive_key(TXN_CONTEXT);
    hasher.update(w.as_slice());
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    TxnId(id)
}

impl Record {
    /// Identity of the volume.
    pub fn volume(&self) -> VolumeId {
        self.descriptor.volume
    }

    /// What this program may do with the volume under this record.
    pub fn access(&self) -> Access {
        self.descriptor.features.union(&self.features).access()
    }

    /// Encodes the record.
    pub fn encode(&self) -> Result<EncodedRecord, EncodeError> {
        ensure(
            self.parent.is_none() == (self.seq == 0),
            "all records but the first have a parent",
        )?;
        ensure(
            self.gc.epoch != LOCAL_EPOCH,
            "the local epoch is no epoch of a volume",
        )?;
        self.descriptor.check_writable()?;
        ensure(
            self.access() == Access::ReadWrite,
            "features that this version may write",
        )?;
        ensure(self.gc.fence <= self.seq, "a fence is not after the record")?;
        limit(self.merged.len() as u64, MERGED_MAX as u64, "drafts in a record")?;
        limit(
            self.by.len() as u64,
            BY_BYTES_MAX as u64,
            "bytes of the publisher's name",
        )?;
        limit(
            self.message.len() as u64,
            MESSAGE_BYTES_MAX as u64,
            "bytes of a message",
        )?;
        let root = encode_super(&self.root, false)?;
        let mut sections = root.stored;
        let root_section = RootSection {
            off: 0,
            len: sections.len() as u64,
            raw: root.raw_len,
            hash: root.hash,
        };
        let mut append = |bytes: Vec<u8>| {
            let section = Section {
                off: sections.len() as u64,
                len: bytes.len() as u64,
                hash: content_id(&bytes),
            };
            sections.extend_from_slice(&bytes);
            section
        };
        let retained = append(self.gc.retained.encode()?);
        let renames = match self.renames.is_empty() {
            true => None,
            false => Some(append(encode_renames(&self.renames)?)),
        };
        let line = Line {
            sailvol: FORMAT_VERSION,
            volume: self.descriptor.volume,
            seq: self.seq,
            parent: self.parent,
            kind: self.kind,
            txn: self.txn,
            base: self.base,
            merged: self.merged.clone(),
            time: self.time,
            server_time: self.server_time,
            by: self.by.clone(),
            msg: self.message.clone(),
            features: self.features.clone(),
            root: root_section,
            usage: self.usage,
            gc: GcLine {
                epoch: self.gc.epoch,
                fence: self.gc.fence,
                retained: Some(retained),
            },
            renames,
            config: self.config.clone(),
            descriptor: self.descriptor.clone(),
        };
        let mut bytes =
            serde_json::to_vec(&line).map_err(|_| EncodeError::Invalid("a time that JSON can hold"))?;
        limit(
            bytes.len() as u64,
            RECORD_JSON_BYTES_MAX as u64,
            "bytes of a record's JSON line",
        )?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&sections);
        limit(bytes.len() as u64, RECORD_BYTES_MAX as u64, "bytes of a record")?;
        Ok(EncodedRecord {
            hash: record_hash(&bytes),
            bytes: Bytes::from(bytes),
            root: root_section.hash,
        })
    }
}

/// What the bytes of a record say, before anything of it was compared.
#[derive(Clone, Debug)]
pub struct UnverifiedRecord {
    line: Line,
    sections: Bytes,
    /// Where the sections begin in the object.
    sections_at: u64,
    hash: Hash,
    object: String,
}

impl UnverifiedRecord {
    /// Reads the JSON line. `object` is the record's key, for errors.
    pub fn parse(bytes: &Bytes, object: &str) -> Result<UnverifiedRecord, FormatError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(Corrupt::new(object, 0, "a record is over 4 MiB").into());
        }
        let start = &bytes[..bytes.len().min(RECORD_JSON_BYTES_MAX + 1)];
        let Some(end) = start.iter().position(|b| *b == b'\n') else {
            return Err(Corrupt::new(object, 0, "a record has no JSON line of at most 256 KiB").into());
        };
        let line: Line = decode_json(&bytes[..end], RECORD_JSON_BYTES_MAX, object)?;
        Ok(UnverifiedRecord {
            line,
            sections: bytes.slice(end + 1..),
            sections_at: end as u64 + 1,
            hash: record_hash(bytes),
            object: object.to_owned(),
        })
    }

    /// Hash of the whole object.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The number that it claims to have.
    pub fn claimed_seq(&self) -> Seq {
        self.line.seq
    }

    /// The commit attempt that it claims to be, and those it contains: enough to learn whose record took a slot.
    pub fn txns(&self) -> impl Iterator<Item = TxnId> + '_ {
        std::iter::once(self.line.txn).chain(self.line.merged.iter().copied())
    }

    /// Compares the record with the place where it was found and decodes its sections. Features come first: a later
    /// version's record is [`FormatError::Unsupported`], not damage.
    pub fn verify(self, volume: &VolumeId, seq: Seq) -> Result<Record, FormatError> {
        let object = self.object.as_str();
        let corrupt = |rule| FormatError::Corrupt(Corrupt::new(object, 0, rule));
        let line = &self.line;
        let require = |holds: bool, rule| if holds { Ok(()) } else { Err(corrupt(rule)) };
        require(line.volume == *volume, "a record of another volume")?;
        require(line.seq == seq, "a record under another number's key")?;
        if let Access::None(features) = line.features.access() {
            let what = format!("features {}", features.join(", "));
            return Err(FormatError::Unsupported {
                object: object.to_owned(),
                what,
            });
        }
        line.descriptor.check(object)?;
        require(
            line.descriptor.volume == line.volume,
            "a record with another volume's descriptor",
        )?;
        require(
            line.parent.is_none() == (seq == 0),
            "a record without parent, or a first one with a parent",
        )?;
        require(line.gc.epoch != LOCAL_EPOCH, "a record with the local epoch")?;
        require(line.gc.fence <= seq, "a record with a fence after itself")?;
        require(
            line.merged.len() <= MERGED_MAX,
            "a record with more than 128 drafts",
        )?;
        require(
            line.by.len() <= BY_BYTES_MAX,
            "a record whose publisher's name is too long",
        )?;
        require(
            line.msg.len() <= MESSAGE_BYTES_MAX,
            "a record whose message is too long",
        )?;
        let RootSection { off, len, raw, hash } = line.root;
        let root = decode_super(self.slice(off, len)?, raw, &hash, false, object)?;
        let retained = match &line.gc.retained {
            None => Retained::default(),
            Some(section) => Retained::decode(&mut Reader::new(self.section(section)?, object))?,
        };
        let renames = match &line.renames {
            None => Vec::new(),
            Some(section) => decode_renames(&mut Reader::new(self.section(section)?, object))?,
        };
        let line = self.line;
        Ok(Record {
            descriptor: line.descriptor,
            seq,
            parent: line.parent,
            kind: line.kind,
            txn: line.txn,
            base: line.base,
            merged: line.merged,
            time: line.time,
            server_time: line.server_time,
            by: line.by,
            message: line.msg,
            features: line.features,
            root,
            usage: line.usage,
            gc: GcState {
                epoch: line.gc.epoch,
                fence: line.gc.fence,
                retained,
            },
            config: line.config,
            renames,
        })
    }

    fn slice(&self, off: u64, len: u64) -> Result<&[u8], Corrupt> {
        let range = usize::try_from(off).ok().zip(usize::try_from(len).ok());
        range
            .and_then(|(off, len)| self.sections.get(off..off.checked_add(len)?))
            .ok_or_else(|| Corrupt::new(&self.object, self.sections_at, "a section is outside its record"))
    }

    fn section(&self, section: &Section) -> Result<&[u8], Corrupt> {
        let bytes = self.slice(section.off, section.len)?;
        if content_id(bytes) != section.hash {
            let at = self.sections_at + section.off;
            return Err(Corrupt::new(
                &self.object,
                at,
                "a section has not the hash that the JSON line says",
            ));
        }
        Ok(bytes)
    }
}

fn encode_renames(renames: &[(VolPath, VolPath)]) -> Result<Vec<u8>, EncodeError> {
    limit(renames.len() as u64, RENAMES_MAX as u64, "moves in a record")?;
    let mut w = Writer::new();
    w.uv(renames.len() as u64);
    for path in renames.iter().flat_map(|(from, to)| [from, to]) {
        limit(
            path.0.len() as u64,
            PATH_DEPTH_MAX as u64,
            "directories of a path",
        )?;
        w.uv(path.0.len() as u64);
        path.0.iter().for_each(|name| w.bytes(name.as_bytes()));
    }
    Ok(w.into_vec())
}

fn decode_renames(r: &mut Reader<'_>) -> Result<Vec<(VolPath, VolPath)>, Corrupt> {
    let count = r.count(2)?;
    r.require(count <= RENAMES_MAX, "a record with more than 100,000 moves")?;
    let mut renames = Vec::new();
    for _ in 0..count {
        renames.push((decode_path(r)?, decode_path(r)?));
    }
    r.finish()?;
    Ok(renames)
}

fn decode_path(r: &mut Reader<'_>) -> Result<VolPath, Corrupt> {
    let count = r.count(2)?;
    r.require(count <= PATH_DEPTH_MAX, "a path is deeper than 1,024 directories")?;
    (0..count)
        .map(|_| {
            let name = r.bytes(NAME_BYTES_MAX)?;
            Name::new(name).map_err(|_| r.corrupt("not a name of an entry"))
        })
        .collect::<Result<_, _>>()
        .map(VolPath)
}
