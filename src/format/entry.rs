//! Entries, attributes and contents (SPEC.md, "Entries").
//!
//! One encoding serves two places. In a node (*slots*), packs and owners are numbers in the node's tables, times and
//! file ids are differences. In a local file (*absolute*, the overlay's journal) every value stands for itself.

use std::collections::HashMap;
use std::sync::Arc;

use super::content::chunks_cid;
use super::limits::{
    NESTING_MAX, NODE_ENTRIES_MAX, NODE_RAW_BYTES_MAX, PACK_BYTES_MAX, TOTAL_BYTES_MAX, TOTAL_COUNT_MAX,
    XATTR_BLOB_BYTES_MAX, XATTR_NAME_BYTES_MAX,
};
use super::wire::{Corrupt, Reader, Writer};
use crate::model::{
    Attrs, BlobRef, CHUNKS_INLINE_MAX, ChunkRef, Content, DirPage, DirTree, Entry, EntryBody, Epoch,
    FILE_BYTES_MAX, FileId, ITEM_BYTES_MAX, Kind, LOCAL_EPOCH, LinkId, MODE_MASK, NAME_BYTES_MAX, Name,
    PackRef, Ptr, SYMLINK_BYTES_MAX, TINY_BYTES_MAX, Timestamp, Totals, XATTR_BYTES_MAX,
    XATTR_INLINE_BYTES_MAX, XattrMap, Xattrs, chunk_count, chunk_len,
};

pub(super) const MODE: u64 = 1 << 0;
pub(super) const OWNER: u64 = 1 << 1;
pub(super) const MTIME: u64 = 1 << 2;
pub(super) const MTIME_NANOS: u64 = 1 << 3;
pub(super) const XATTRS: u64 = 1 << 4;
pub(super) const XATTRS_OUT: u64 = 1 << 5;
pub(super) const CTIME: u64 = 1 << 6;
pub(super) const CTIME_FAR: u64 = 1 << 7;
/// From this bit on a reader that does not know the bit must not guess.
const MUST_UNDERSTAND: u64 = !0xffff;

/// Why a value cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A limit of the format would be exceeded.
    #[error("{what}: over the limit of {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The most there may be.
        limit: u64,
    },
    /// A pack of the state directory is named where only the remote volume may be.
    #[error("a node would name a pack that exists only on this machine")]
    LocalPack,
    /// The pack being written is named where it has no slot.
    #[error("an unfinished pack is named outside its own nodes")]
    OpenPack,
    /// A content that is not uploaded yet.
    #[error("a content that is not uploaded yet cannot be stored")]
    LocalContent,
    /// A directory that was not stored or partitioned before.
    #[error("an edited directory must be stored before what is above it")]
    NotStored,
    /// The value breaks a rule of the format.
    #[error("not a value of the format: {0}")]
    Invalid(&'static str),
}

pub(super) fn ensure(holds: bool, rule: &'static str) -> Result<(), EncodeError> {
    if holds {
        Ok(())
    } else {
        Err(EncodeError::Invalid(rule))
    }
}

pub(super) fn limit(count: u64, limit: u64, what: &'static str) -> Result<(), EncodeError> {
    if count <= limit {
        Ok(())
    } else {
        Err(EncodeError::Limit { what, limit })
    }
}

/// How an encoder names packs, owners, times and file ids.
#[derive(Debug)]
pub struct EncodeTables {
    slots: Option<Slots>,
    local_allowed: bool,
    open_allowed: bool,
    base_mtime: i64,
    previous: u64,
    entries: usize,
}

#[derive(Debug, Default)]
struct Slots {
    packs: Vec<PackRef>,
    pack_of: HashMap<PackRef, u64>,
    owners: Vec<(u32, u32)>,
    owner_of: HashMap<(u32, u32), u64>,
}

impl EncodeTables {
    /// Every value stands for itself: for local files. Unfinished packs are refused, packs of the state directory too
    /// unless `local_allowed`.
    pub fn absolute(local_allowed: bool) -> EncodeTables {
        EncodeTables {
            slots: None,
            local_allowed,
            open_allowed: false,
            base_mtime: 0,
            previous: 0,
            entries: 0,
        }
    }

    /// Numbers in tables that are written in front of the body.
    pub(super) fn slots(local_allowed: bool, open_allowed: bool, base_mtime: i64, base_file_id: u64) -> Self {
        EncodeTables {
            slots: Some(Slots::default()),
            local_allowed,
            open_allowed,
            base_mtime,
            previous: base_file_id,
            entries: 0,
        }
    }

    /// The tables, as they stand in front of the body.
    pub(super) fn write(&self, w: &mut Writer) {
        let Some(slots) = &self.slots else { return };
        w.uv(slots.packs.len() as u64);
        for pack in &slots.packs {
            w.uv(u64::from(pack.epoch));
            w.hash(&pack.id);
        }
        w.uv(slots.owners.len() as u64);
        for (uid, gid) in &slots.owners {
            w.uv(u64::from(*uid));
            w.uv(u64::from(*gid));
        }
    }

    fn pack(&mut self, w: &mut Writer, pack: &PackRef) -> Result<(), EncodeError> {
        if pack.is_open() {
            // Slot 0 is "the pack that this node is in": only a node can say that.
            if !self.open_allowed {
                return Err(EncodeError::OpenPack);
            }
            w.uv(0);
            return Ok(());
        }
        if pack.is_local() && !self.local_allowed {
            return Err(EncodeError::LocalPack);
        }
        match &mut self.slots {
            None => {
                w.uv(u64::from(pack.epoch));
                w.hash(&pack.id);
            }
            Some(slots) => {
                let slot = *slots.pack_of.entry(*pack).or_insert_with(|| {
                    slots.packs.push(*pack);
                    slots.packs.len() as u64
                });
                w.uv(slot);
            }
        }
        Ok(())
    }

    fn owner(&mut self, w: &mut Writer, uid: u32, gid: u32) {
        match &mut self.slots {
            None => {
                w.uv(u64::from(uid));
                w.uv(u64::from(gid));
            }
            Some(slots) => {
                let slot = *slots.owner_of.entry((uid, gid)).or_insert_with(|| {
                    slots.owners.push((uid, gid));
                    slots.owners.len() as u64 - 1
                });
                w.uv(slot);
            }
        }
    }
}

/// How a decoder finds packs, owners, times and file ids; the counterpart of [`EncodeTables`].
#[derive(Debug)]
pub struct DecodeTables {
    slots: Option<(Vec<PackRef>, Vec<(u32, u32)>)>,
    own: Option<PackRef>,
    local_allowed: bool,
    base_mtime: i64,
    previous: u64,
    entries: usize,
}

impl DecodeTables {
    /// What [`EncodeTables::absolute`] wrote.
    pub fn absolute(local_allowed: bool) -> DecodeTables {
        DecodeTables {
            slots: None,
            own: None,
            local_allowed,
            base_mtime: 0,
            previous: 0,
            entries: 0,
        }
    }

    /// Reads the tables and the two base values in front of a node's body. `own` is what slot 0 means, `None` where
    /// slot 0 is illegal.
    pub(super) fn read(
        r: &mut Reader<'_>,
        own: Option<PackRef>,
        local_allowed: bool,
    ) -> Result<DecodeTables, Corrupt> {
        let mut packs = Vec::with_capacity(r.count(33)?);
        for _ in 0..packs.capacity() {
            packs.push(read_pack(r, local_allowed)?);
        }
        let mut owners = Vec::with_capacity(r.count(2)?);
        for _ in 0..owners.capacity() {
            owners.push((r.uv32()?, r.uv32()?));
        }
        Ok(DecodeTables {
            slots: Some((packs, owners)),
            own,
            local_allowed,
            base_mtime: r.zz()?,
            previous: r.uv()?,
            entries: 0,
        })
    }

    fn pack(&self, r: &mut Reader<'_>) -> Result<PackRef, Corrupt> {
        let Some((packs, _)) = &self.slots else {
            return read_pack(r, self.local_allowed);
        };
        match r.uv()? {
            0 => self
                .own
                .ok_or_else(|| r.corrupt("slot 0 where there is no own pack")),
            slot => usize::try_from(slot - 1)
                .ok()
                .and_then(|slot| packs.get(slot).copied())
                .ok_or_else(|| r.corrupt("a pack slot is not in the table")),
        }
    }

    fn owner(&self, r: &mut Reader<'_>) -> Result<(u32, u32), Corrupt> {
        let Some((_, owners)) = &self.slots else {
            return Ok((r.uv32()?, r.uv32()?));
        };
        let slot = r.uv32()?;
        owners
            .get(slot as usize)
            .copied()
            .ok_or_else(|| r.corrupt("an owner slot is not in the table"))
    }

    /// Counts one more entry of the node.
    pub(super) fn count_entry(&mut self, r: &Reader<'_>) -> Result<(), Corrupt> {
        self.entries += 1;
        r.require(
            self.entries <= NODE_ENTRIES_MAX,
            "a node has more than 65,536 entries",
        )
    }
}

fn read_pack(r: &mut Reader<'_>, local_allowed: bool) -> Result<PackRef, Corrupt> {
    let epoch: Epoch = r.uv32()?;
    r.require(
        epoch != LOCAL_EPOCH || local_allowed,
        "a pack of some machine's state directory is named",
    )?;
    let pack = PackRef { epoch, id: r.hash()? };
    r.require(!pack.is_open(), "a pack id of zeros")?;
    Ok(pack)
}

// ---- pointers ----

/// Writes a node pointer.
pub fn encode_ptr(w: &mut Writer, tables: &mut EncodeTables, ptr: &Ptr) -> Result<(), EncodeError> {
    limit(
        u64::from(ptr.raw_len),
        u64::from(NODE_RAW_BYTES_MAX),
        "raw bytes of a node",
    )?;
    limit(
        ptr.offset.saturating_add(u64::from(ptr.stored_len)),
        PACK_BYTES_MAX,
        "end of an item in its pack",
    )?;
    tables.pack(w, &ptr.pack)?;
    w.uv(ptr.offset);
    w.uv(u64::from(ptr.stored_len));
    w.uv(u64::from(ptr.raw_len));
    w.hash(&ptr.hash);
    Ok(())
}

/// Reads a node pointer.
pub fn decode_ptr(r: &mut Reader<'_>, tables: &DecodeTables) -> Result<Ptr, Corrupt> {
    let pack = tables.pack(r)?;
    let offset = r.uv()?;
    let stored_len = r.uv32()?;
    let raw_len = r.uv32()?;
    r.require(
        raw_len <= NODE_RAW_BYTES_MAX,
        "a pointer's raw length is over 1 MiB",
    )?;
    check_place(r, offset, stored_len, u64::from(raw_len))?;
    Ok(Ptr {
        pack,
        offset,
        stored_len,
        raw_len,
        hash: r.hash()?,
    })
}

fn check_place(r: &Reader<'_>, offset: u64, stored_len: u32, raw_len: u64) -> Result<(), Corrupt> {
    let end = offset.saturating_add(u64::from(stored_len));
    r.require(end <= PACK_BYTES_MAX, "an item ends behind the largest pack")?;
    r.require(stored_len > 0, "an item has no codec byte")?;
    r.require(
        u64::from(stored_len) <= raw_len + 1,
        "an item is stored longer than raw",
    )
}

/// Writes where a blob is. Its raw length stands elsewhere.
pub fn encode_blob_ref(w: &mut Writer, tables: &mut EncodeTables, blob: &BlobRef) -> Result<(), EncodeError> {
    limit(
        blob.offset.saturating_add(u64::from(blob.stored_len)),
        PACK_BYTES_MAX,
        "end of an item in its pack",
    )?;
    tables.pack(w, &blob.pack)?;
    w.uv(blob.offset);
    w.uv(u64::from(blob.stored_len));
    w.hash(&blob.id);
    Ok(())
}

/// Reads where a blob of `raw_len` bytes is.
pub fn decode_blob_ref(r: &mut Reader<'_>, tables: &DecodeTables, raw_len: u64) -> Result<BlobRef, Corrupt> {
    let pack = tables.pack(r)?;
    let offset = r.uv()?;
    let stored_len = r.uv32()?;
    check_place(r, offset, stored_len, raw_len)?;
    Ok(BlobRef {
        pack,
        offset,
        stored_len,
        id: r.hash()?,
    })
}

/// Writes a chunk reference.
pub fn encode_chunk_ref(
    w: &mut Writer,
    tables: &mut EncodeTables,
    chunk: &ChunkRef,
) -> Result<(), EncodeError> {
    match chunk {
        ChunkRef::Hole => w.u8(0),
        ChunkRef::Object { epoch, id } => {
            ensure(*epoch != LOCAL_EPOCH, "a chunk object has an epoch of its own")?;
            w.u8(1);
            w.uv(u64::from(*epoch));
            w.hash(id);
        }
        ChunkRef::Packed(blob) => {
            w.u8(2);
            encode_blob_ref(w, tables, blob)?;
        }
    }
    Ok(())
}

/// Reads a reference to a chunk of `raw_len` bytes; `None` where the length is not known yet (extent pages).
pub fn decode_chunk_ref(
    r: &mut Reader<'_>,
    tables: &DecodeTables,
    raw_len: Option<u64>,
) -> Result<ChunkRef, Corrupt> {
    match r.u8()? {
        0 => Ok(ChunkRef::Hole),
        1 => {
            let epoch = r.uv32()?;
            r.require(epoch != LOCAL_EPOCH, "a chunk object has a local epoch")?;
            Ok(ChunkRef::Object { epoch, id: r.hash()? })
        }
        2 => {
            let raw_len = raw_len.unwrap_or(ITEM_BYTES_MAX);
            r.require(raw_len <= ITEM_BYTES_MAX, "a chunk in a pack is over 4 MiB")?;
            Ok(ChunkRef::Packed(decode_blob_ref(r, tables, raw_len)?))
        }
        _ => Err(r.corrupt("a chunk reference of unknown form")),
    }
}

// ---- contents ----

/// Writes what describes the bytes of a file of `size` bytes. The size itself stands elsewhere.
pub fn encode_content(
    w: &mut Writer,
    tables: &mut EncodeTables,
    size: u64,
    content: &Content,
) -> Result<(), EncodeError> {
    limit(size, FILE_BYTES_MAX, "bytes of a file")?;
    match content {
        Content::Tiny(data) => {
            ensure(
                data.len() as u64 == size,
                "a tiny content has the size of its file",
            )?;
            limit(size, TINY_BYTES_MAX, "bytes of a tiny content")?;
            w.u8(0);
            w.bytes(data);
        }
        Content::Blob(blob) => {
            ensure(
                size > 0 && size < ITEM_BYTES_MAX,
                "a blob content has 1 byte to below 4 MiB",
            )?;
            w.u8(1);
            encode_blob_ref(w, tables, blob)?;
        }
        Content::Chunks { tier, chunks, cid } => {
            ensure(*tier == 0, "the tier table is number 0")?;
            ensure(
                chunks.len() as u64 == chunk_count(size),
                "there is one chunk for each of the size",
            )?;
            limit(chunks.len() as u64, CHUNKS_INLINE_MAX, "chunks in an entry")?;
            ensure(
                *cid == chunks_cid(size, *tier, chunks),
                "the content id is that of the chunks",
            )?;
            w.u8(2);
            w.uv(u64::from(*tier));
            w.uv(chunks.len() as u64);
            for chunk in chunks.iter() {
                encode_chunk_ref(w, tables, chunk)?;
            }
        }
        Content::Paged { tier, root, cid } => {
            ensure(*tier == 0, "the tier table is number 0")?;
            w.u8(3);
            w.uv(u64::from(*tier));
            encode_ptr(w, tables, root)?;
            w.hash(cid);
        }
        Content::Local(_) => return Err(EncodeError::LocalContent),
    }
    Ok(())
}

/// Reads what describes the bytes of a file of `size` bytes.
pub fn decode_content(r: &mut Reader<'_>, tables: &DecodeTables, size: u64) -> Result<Content, Corrupt> {
    r.require(size <= FILE_BYTES_MAX, "a file is larger than the format allows")?;
    match r.u8()? {
        0 => {
            let data = r.bytes(TINY_BYTES_MAX as usize)?;
            r.require(
                data.len() as u64 == size,
                "a tiny content has not the size of its file",
            )?;
            Ok(Content::Tiny(data.into()))
        }
        1 => {
            r.require(
                size > 0 && size < ITEM_BYTES_MAX,
                "a blob content of 0 bytes, or of 4 MiB and more",
            )?;
            Ok(Content::Blob(decode_blob_ref(r, tables, size)?))
        }
        2 => {
            let tier = decode_tier(r)?;
            let count = r.uv_max(CHUNKS_INLINE_MAX, "an entry has more than 32 chunks")?;
            r.require(
                count == chunk_count(size),
                "the number of chunks does not fit the size",
            )?;
            let chunks = (0..count)
                .map(|index| decode_chunk_ref(r, tables, Some(chunk_len(index, size))))
                .collect::<Result<Arc<[ChunkRef]>, Corrupt>>()?;
            let cid = chunks_cid(size, tier, &chunks);
            Ok(Content::Chunks { tier, chunks, cid })
        }
        3 => {
            let tier = decode_tier(r)?;
            r.require(size > 0, "a paged content of an empty file")?;
            Ok(Content::Paged {
                tier,
                root: decode_ptr(r, tables)?,
                cid: r.hash()?,
            })
        }
        _ => Err(r.corrupt("a content of unknown form")),
    }
}

fn decode_tier(r: &mut Reader<'_>) -> Result<u8, Corrupt> {
    r.uv_max(0, "a tier table that this version does not know")?;
    Ok(0)
}

// ---- attributes ----

/// Nanoseconds from `mtime` to `ctime`, when 64 bits hold them.
pub(super) fn ctime_nanos_after(mtime: Timestamp, ctime: Timestamp) -> Option<i64> {
    i64::try_from(ctime.as_nanos() - mtime.as_nanos()).ok()
}

/// Writes attributes: the present bits, then what they announce.
pub fn encode_attrs(w: &mut Writer, tables: &mut EncodeTables, attrs: &Attrs) -> Result<(), EncodeError> {
    ensure(attrs.mode & !MODE_MASK == 0, "a mode has 12 bits")?;
    for time in [attrs.mtime, attrs.ctime] {
        ensure(time.nanos < 1_000_000_000, "nanoseconds are below 10^9")?;
    }
    let mtime_diff = attrs.mtime.secs.wrapping_sub(tables.base_mtime);
    let ctime_diff = ctime_nanos_after(attrs.mtime, attrs.ctime);
    let mut present = 0;
    let mut set = |bit, wanted: bool| present |= if wanted { bit } else { 0 };
    set(MODE, attrs.mode != 0);
    set(OWNER, (attrs.uid, attrs.gid) != (0, 0));
    set(MTIME, mtime_diff != 0);
    set(MTIME_NANOS, attrs.mtime.nanos != 0);
    set(XATTRS, matches!(attrs.xattrs, Xattrs::Inline(_)));
    set(XATTRS_OUT, matches!(attrs.xattrs, Xattrs::OutOfLine { .. }));
    set(CTIME, ctime_diff.is_some_and(|diff| diff != 0));
    set(CTIME_FAR, ctime_diff.is_none());
    w.uv(present);
    if present & MODE != 0 {
        w.uv(u64::from(attrs.mode));
    }
    if present & OWNER != 0 {
        tables.owner(w, attrs.uid, attrs.gid);
    }
    if present & MTIME != 0 {
        w.zz(mtime_diff);
    }
    if present & MTIME_NANOS != 0 {
        w.uv(u64::from(attrs.mtime.nanos));
    }
    w.zz(attrs.file_id.0.wrapping_sub(tables.previous).cast_signed());
    if tables.slots.is_some() {
        tables.previous = attrs.file_id.0;
    }
    match ctime_diff {
        Some(0) => {}
        Some(diff) => w.zz(diff),
        None => {
            w.zz(attrs.ctime.secs);
            w.uv(u64::from(attrs.ctime.nanos));
        }
    }
    match &attrs.xattrs {
        Xattrs::None => Ok(()),
        Xattrs::Inline(map) => {
            if tables.slots.is_some() {
                limit(
                    Xattrs::map_bytes(map) as u64,
                    XATTR_INLINE_BYTES_MAX as u64,
                    "bytes of inline xattrs",
                )?;
            }
            encode_xattr_map(w, map)
        }
        Xattrs::OutOfLine { blob, raw_len } => {
            limit(
                u64::from(*raw_len),
                XATTR_BLOB_BYTES_MAX as u64,
                "bytes of xattrs",
            )?;
            w.uv(u64::from(*raw_len));
            encode_blob_ref(w, tables, blob)
        }
    }
}

/// Reads attributes.
pub fn decode_attrs(r: &mut Reader<'_>, tables: &mut DecodeTables) -> Result<Attrs, Corrupt> {
    let present = r.uv()?;
    r.require(
        present & MUST_UNDERSTAND == 0,
        "an extension that a reader must understand, and this one does not",
    )?;
    let has = |bit| present & bit != 0;
    let mut attrs = Attrs::default();
    if has(MODE) {
        attrs.mode = r.uv_max(u64::from(MODE_MASK), "a mode has more than 12 bits")? as u16;
    }
    if has(OWNER) {
        (attrs.uid, attrs.gid) = tables.owner(r)?;
    }
    let diff = if has(MTIME) { r.zz()? } else { 0 };
    attrs.mtime.secs = tables.base_mtime.wrapping_add(diff);
    if has(MTIME_NANOS) {
        attrs.mtime.nanos = decode_nanos(r)?;
    }
    attrs.file_id = FileId(tables.previous.wrapping_add(r.zz()?.cast_unsigned()));
    if tables.slots.is_some() {
        tables.previous = attrs.file_id.0;
    }
    attrs.ctime = match (has(CTIME), has(CTIME_FAR)) {
        (false, false) => attrs.mtime,
        (true, false) => {
            let nanos = attrs.mtime.as_nanos() + i128::from(r.zz()?);
            let secs = i64::try_from(nanos.div_euclid(1_000_000_000))
                .map_err(|_| r.corrupt("a ctime beyond 64 bits of seconds"))?;
            Timestamp {
                secs,
                nanos: nanos.rem_euclid(1_000_000_000) as u32,
            }
        }
        (false, true) => Timestamp {
            secs: r.zz()?,
            nanos: decode_nanos(r)?,
        },
        (true, true) => return Err(r.corrupt("a ctime in two forms")),
    };
    attrs.xattrs = match (has(XATTRS), has(XATTRS_OUT)) {
        (false, false) => Xattrs::None,
        (true, false) => {
            let map = decode_xattr_map(r)?;
            r.require(!map.is_empty(), "xattrs are announced but empty")?;
            Xattrs::from_map(map)
        }
        (false, true) => {
            let raw_len = r.uv_max(XATTR_BLOB_BYTES_MAX as u64, "xattrs are over their limit")?;
            Xattrs::OutOfLine {
                blob: decode_blob_ref(r, tables, raw_len)?,
                raw_len: raw_len as u32,
            }
        }
        (true, true) => return Err(r.corrupt("xattrs in two forms")),
    };
    Ok(attrs)
}

fn decode_nanos(r: &mut Reader<'_>) -> Result<u32, Corrupt> {
    Ok(r.uv_max(999_999_999, "nanoseconds of 10^9 or more")? as u32)
}

/// Writes extended attributes, sorted by name. This is also the raw form of the blob of those out of line.
pub fn encode_xattr_map(w: &mut Writer, map: &XattrMap) -> Result<(), EncodeError> {
    limit(
        Xattrs::map_bytes(map) as u64,
        XATTR_BYTES_MAX as u64,
        "bytes of xattrs",
    )?;
    w.uv(map.len() as u64);
    for (name, value) in map {
        ensure(
            !name.is_empty() && !name.contains(&0),
            "an xattr name has bytes, none of them NUL",
        )?;
        limit(
            name.len() as u64,
            XATTR_NAME_BYTES_MAX as u64,
            "bytes of an xattr name",
        )?;
        w.bytes(name);
        w.bytes(value);
    }
    Ok(())
}

/// Reads extended attributes.
pub fn decode_xattr_map(r: &mut Reader<'_>) -> Result<XattrMap, Corrupt> {
    let count = r.count(3)?;
    let mut map = XattrMap::new();
    let mut left = XATTR_BYTES_MAX;
    for _ in 0..count {
        let name = r.bytes(XATTR_NAME_BYTES_MAX.min(left))?;
        r.require(
            !name.is_empty() && !name.contains(&0),
            "an xattr name is empty or has a NUL",
        )?;
        left -= name.len();
        let value = r.bytes(left)?;
        left -= value.len();
        let sorted = map
            .last_key_value()
            .is_none_or(|(last, _): (&Box<[u8]>, _)| **last < *name);
        r.require(sorted, "xattrs are not sorted by name")?;
        map.insert(name.into(), value.into());
    }
    Ok(map)
}

// ---- entries and directories ----

/// Writes kind, attributes and body of an entry, without its name.
pub fn encode_entry(w: &mut Writer, tables: &mut EncodeTables, entry: &Entry) -> Result<(), EncodeError> {
    encode_entry_at(w, tables, entry, 1)
}

/// As [`encode_entry`], inside a page that is `depth` directories deep in its node.
pub(super) fn encode_entry_at(
    w: &mut Writer,
    tables: &mut EncodeTables,
    entry: &Entry,
    depth: usize,
) -> Result<(), EncodeError> {
    tables.entries += 1;
    limit(
        tables.entries as u64,
        NODE_ENTRIES_MAX as u64,
        "entries of a node",
    )?;
    w.u8(entry.kind() as u8);
    if let EntryBody::HardLink(id) = &entry.body {
        w.uv(0); // its attributes are those of the inode
        w.raw(&id.0);
        return Ok(());
    }
    encode_attrs(w, tables, &entry.attrs)?;
    match &entry.body {
        EntryBody::File { size, content } => {
            w.uv(*size);
            encode_content(w, tables, *size, content)
        }
        EntryBody::Symlink { target } => {
            check_target(target).map_err(EncodeError::Invalid)?;
            w.bytes(target);
            Ok(())
        }
        EntryBody::Dir { totals, tree } => {
            encode_totals(w, totals)?;
            encode_dir_tree(w, tables, tree, depth)
        }
        EntryBody::CharDev { major, minor } | EntryBody::BlockDev { major, minor } => {
            w.uv(u64::from(*major));
            w.uv(u64::from(*minor));
            Ok(())
        }
        EntryBody::Fifo | EntryBody::Socket | EntryBody::HardLink(_) => Ok(()),
    }
}

/// Reads kind, attributes and body of an entry. Bytes that follow in `r` are left there.
pub fn decode_entry(r: &mut Reader<'_>, tables: &mut DecodeTables) -> Result<Entry, Corrupt> {
    decode_entry_at(r, tables, 1)
}

/// As [`decode_entry`], inside a page that is `depth` directories deep in its node.
pub(super) fn decode_entry_at(
    r: &mut Reader<'_>,
    tables: &mut DecodeTables,
    depth: usize,
) -> Result<Entry, Corrupt> {
    tables.count_entry(r)?;
    let kind = decode_kind(r)?;
    if kind == Kind::HardLink {
        let present = r.uv()?;
        r.require(
            present & (MUST_UNDERSTAND | 0xff) == 0,
            "a name of a hard link has attributes",
        )?;
        return Ok(Entry {
            attrs: Attrs::default(),
            body: EntryBody::HardLink(LinkId(r.array()?)),
        });
    }
    let attrs = decode_attrs(r, tables)?;
    let body = match kind {
        Kind::File => {
            let size = r.uv()?;
            EntryBody::File {
                size,
                content: decode_content(r, tables, size)?,
            }
        }
        Kind::Symlink => {
            let target = r.bytes(SYMLINK_BYTES_MAX)?;
            check_target(target).map_err(|rule| r.corrupt(rule))?;
            EntryBody::Symlink {
                target: target.into(),
            }
        }
        Kind::Dir => EntryBody::Dir {
            totals: decode_totals(r)?,
            tree: decode_dir_tree(r, tables, depth)?,
        },
        Kind::Fifo => EntryBody::Fifo,
        Kind::Socket => EntryBody::Socket,
        Kind::CharDev => EntryBody::CharDev {
            major: r.uv32()?,
            minor: r.uv32()?,
        },
        Kind::BlockDev => EntryBody::BlockDev {
            major: r.uv32()?,
            minor: r.uv32()?,
        },
        Kind::HardLink => return Err(r.corrupt("a name of a hard link inside an inode")),
    };
    Ok(Entry { attrs, body })
}

fn decode_kind(r: &mut Reader<'_>) -> Result<Kind, Corrupt> {
    Ok(match r.u8()? {
        1 => Kind::File,
        2 => Kind::Symlink,
        3 => Kind::Dir,
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDev,
        7 => Kind::BlockDev,
        8 => Kind::HardLink,
        _ => return Err(r.corrupt("an entry of unknown kind")),
    })
}

fn check_target(target: &[u8]) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > SYMLINK_BYTES_MAX || target.contains(&0) {
        return Err("a symlink target has 1 to 4,095 bytes, none of them NUL");
    }
    Ok(())
}

/// Writes the totals of a directory.
pub(super) fn encode_totals(w: &mut Writer, totals: &Totals) -> Result<(), EncodeError> {
    let Totals {
        files,
        dirs,
        bytes,
        links,
        subdirs,
    } = *totals;
    for count in [files, dirs, links, subdirs] {
        limit(count, TOTAL_COUNT_MAX, "entries below a directory")?;
    }
    limit(bytes, TOTAL_BYTES_MAX, "bytes below a directory")?;
    for value in [files, dirs, bytes, links, subdirs] {
        w.uv(value);
    }
    Ok(())
}

/// Reads the totals of a directory.
pub(super) fn decode_totals(r: &mut Reader<'_>) -> Result<Totals, Corrupt> {
    const RULE: &str = "totals of a directory are over their limit";
    Ok(Totals {
        files: r.uv_max(TOTAL_COUNT_MAX, RULE)?,
        dirs: r.uv_max(TOTAL_COUNT_MAX, RULE)?,
        bytes: r.uv_max(TOTAL_BYTES_MAX, RULE)?,
        links: r.uv_max(TOTAL_COUNT_MAX, RULE)?,
        subdirs: r.uv_max(TOTAL_COUNT_MAX, RULE)?,
    })
}

fn encode_dir_tree(
    w: &mut Writer,
    tables: &mut EncodeTables,
    tree: &DirTree,
    depth: usize,
) -> Result<(), EncodeError> {
    match tree {
        DirTree::Inline(page) => {
            limit(
                depth as u64 + 1,
                NESTING_MAX as u64,
                "directories inside one another in a node",
            )?;
            let mut body = Writer::new();
            let resume = tables.previous;
            encode_dir_body(&mut body, tables, page, depth + 1)?;
            tables.previous = resume;
            w.u8(0);
            w.bytes(body.as_slice());
            Ok(())
        }
        DirTree::Stored { ptr, index } => {
            w.u8(if *index { 2 } else { 1 });
            encode_ptr(w, tables, ptr)
        }
        DirTree::Pages(_) => Err(EncodeError::NotStored),
    }
}

fn decode_dir_tree(r: &mut Reader<'_>, tables: &mut DecodeTables, depth: usize) -> Result<DirTree, Corrupt> {
    match r.u8()? {
        0 => {
            r.require(
                depth < NESTING_MAX,
                "more than 64 directories inside one another in a node",
            )?;
            let len = r.uv()?;
            let mut body = r.part(len)?;
            let resume = tables.previous;
            let page = decode_dir_body(&mut body, tables, depth + 1)?;
            tables.previous = resume;
            body.finish()?;
            Ok(DirTree::Inline(Arc::new(page)))
        }
        form @ (1 | 2) => Ok(DirTree::Stored {
            ptr: decode_ptr(r, tables)?,
            index: form == 2,
        }),
        _ => Err(r.corrupt("a directory of unknown form")),
    }
}

/// Writes a dir page's body. The outermost page of a node has depth 1.
pub(super) fn encode_dir_body(
    w: &mut Writer,
    tables: &mut EncodeTables,
    page: &DirPage,
    depth: usize,
) -> Result<(), EncodeError> {
    w.uv(page.entries.len() as u64);
    let mut last: Option<&Name> = None;
    let mut one = Writer::new();
    for (name, entry) in &page.entries {
        ensure(
            last.is_none_or(|last| last < name),
            "entries are sorted by name, each name once",
        )?;
        last = Some(name);
        one.clear();
        one.bytes(name.as_bytes());
        encode_entry_at(&mut one, tables, entry, depth)?;
        w.bytes(one.as_slice());
        limit(
            w.len() as u64,
            u64::from(NODE_RAW_BYTES_MAX),
            "raw bytes of a node",
        )?;
    }
    Ok(())
}

/// Reads a dir page's body.
pub(super) fn decode_dir_body(
    r: &mut Reader<'_>,
    tables: &mut DecodeTables,
    depth: usize,
) -> Result<DirPage, Corrupt> {
    let count = r.count(6)?;
    r.require(count <= NODE_ENTRIES_MAX, "a node has more than 65,536 entries")?;
    let mut entries: Vec<(Name, Entry)> = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        let len = r.uv()?;
        let mut part = r.part(len)?;
        let bytes = part.bytes(NAME_BYTES_MAX)?;
        let name = Name::new(bytes).map_err(|_| part.corrupt("not a name of an entry"))?;
        let sorted = entries.last().is_none_or(|(last, _)| *last < name);
        part.require(sorted, "entries are not sorted by name, or a name is there twice")?;
        // What follows the known fields belongs to a later version that did not demand to be understood.
        entries.push((name, decode_entry_at(&mut part, tables, depth)?));
    }
    Ok(DirPage { entries })
}
