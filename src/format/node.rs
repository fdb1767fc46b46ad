//! Nodes: the stored pieces of the tree (SPEC.md 7).

use std::sync::Arc;

use super::codec;
use super::content::{NODE_CONTEXT, decode_chunk_ref, decode_ptr, encode_chunk_ref, encode_ptr};
use super::entry::{decode_dir_body, decode_entry_at, encode_dir_body, encode_entry_at};
use super::limits::{DIR_ENTRIES_MAX, INDEX_KEY_BYTES_MAX, LEVELS_MAX, NODE_ENTRIES_MAX, NODE_RAW_BYTES_MAX};
use super::tables::{DecodeTables, EncodeError, EncodeTables, ensure, limit};
use super::wire::{Corrupt, Reader, Writer};
use crate::model::{
    ChunkRef, DirPage, EXTENT_PAGE_CHUNKS, Entry, EntryBody, Hash, LinkId, LinkInode, PackRef, Ptr,
};

/// A decoded node. Pointers in it are absolute: slot 0 has been replaced by the pack that the node came from.
#[derive(Clone, Debug)]
pub enum Node {
    /// Entries of a directory, with inlined child directories.
    Dir(Arc<DirPage>),
    /// Children of a large directory, extent list or links tree.
    Index(Arc<IndexPage>),
    /// Chunk references of a large file.
    Extent(Arc<ExtentPage>),
    /// Inodes with several names.
    Links(Arc<LinkPage>),
}

/// An index page.
#[derive(Clone, Debug)]
pub struct IndexPage {
    /// 1 above leaves; at most 7, so that there are 8 levels with the leaves.
    pub level: u8,
    /// Children by first key; the first one's key is empty.
    pub slots: Vec<IndexSlot>,
}

/// One child of an index page.
#[derive(Clone, Debug)]
pub struct IndexSlot {
    /// No key below this one is in the child (first child: empty). Names, link ids, or for extents the number of the
    /// first chunk in 8 bytes, big-endian.
    pub first_key: Box<[u8]>,
    /// The child node.
    pub ptr: Ptr,
    /// Entries in it and below.
    pub count: u64,
    /// For extents: hash over the page's chunk ids.
    pub page_cid: Option<Hash>,
}

/// Chunk references `1024 i ..` of a file.
#[derive(Clone, Debug)]
pub struct ExtentPage {
    /// In order.
    pub chunks: Vec<ChunkRef>,
}

/// A leaf of the links tree, sorted by id.
#[derive(Clone, Debug)]
pub struct LinkPage {
    /// The inodes.
    pub inodes: Vec<(LinkId, LinkInode)>,
}

/// A node as it goes into a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedNode {
    /// Codec byte and payload.
    pub stored: Vec<u8>,
    /// Length of the raw form, bytes.
    pub raw_len: u32,
    /// Hash of the stored bytes.
    pub hash: Hash,
}

/// First bytes of a raw node.
pub(super) const MAGIC: [u8; 4] = *b"SVN1";

/// Types of nodes, the byte after the magic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum NodeType {
    Dir = 1,
    Index = 2,
    Extent = 3,
    Super = 4,
    Links = 5,
}

/// Hash of a node's stored bytes.
pub fn node_hash(stored: &[u8]) -> Hash {
    Hash(
        *blake3::Hasher::new_derive_key(NODE_CONTEXT)
            .update(stored)
            .finalize()
            .as_bytes(),
    )
}

// ---- encoding ----

/// Encodes entries of a directory. `local_allowed`: the node stays in the state directory and may name packs there.
pub fn encode_dir_page(page: &DirPage, local_allowed: bool) -> Result<EncodedNode, EncodeError> {
    let mut bases = Bases::default();
    page.entries.iter().for_each(|(_, entry)| bases.see(entry));
    let mut tables = bases.tables(local_allowed, true);
    let mut body = Writer::new();
    encode_dir_body(&mut body, &mut tables, page, 1)?;
    assemble(NodeType::Dir, &bases, &tables, body)
}

/// Encodes an index page.
pub fn encode_index_page(page: &IndexPage, local_allowed: bool) -> Result<EncodedNode, EncodeError> {
    ensure(
        (1..LEVELS_MAX).contains(&page.level),
        "an index page is 1 to 7 levels above the leaves",
    )?;
    let with_cids = page.slots.first().is_some_and(|slot| slot.page_cid.is_some());
    let bases = Bases::default();
    let mut tables = bases.tables(local_allowed, true);
    let mut body = Writer::new();
    body.u8(page.level);
    body.u8(u8::from(with_cids));
    body.uv(page.slots.len() as u64);
    let mut entries = 0u64;
    let mut last: Option<&[u8]> = None;
    for slot in &page.slots {
        limit(
            slot.first_key.len() as u64,
            INDEX_KEY_BYTES_MAX as u64,
            "bytes of an index key",
        )?;
        ensure(
            last.is_some() || slot.first_key.is_empty(),
            "the first child's key is empty",
        )?;
        ensure(
            last.is_none_or(|last| *last < *slot.first_key),
            "children are sorted by first key",
        )?;
        ensure(
            slot.page_cid.is_some() == with_cids,
            "all children have page cids, or none",
        )?;
        last = Some(&slot.first_key);
        entries = entries.saturating_add(slot.count);
        body.bytes(&slot.first_key);
        encode_ptr(&mut body, &mut tables, &slot.ptr)?;
        body.uv(slot.count);
        if let Some(cid) = &slot.page_cid {
            body.hash(cid);
        }
    }
    ensure(last.is_some(), "an index page has children")?;
    limit(entries, DIR_ENTRIES_MAX, "entries of a directory")?;
    assemble(NodeType::Index, &bases, &tables, body)
}

/// Encodes chunk references of a large file.
pub fn encode_extent_page(page: &ExtentPage, local_allowed: bool) -> Result<EncodedNode, EncodeError> {
    ensure(!page.chunks.is_empty(), "an extent page has chunks")?;
    limit(
        page.chunks.len() as u64,
        EXTENT_PAGE_CHUNKS,
        "chunks of an extent page",
    )?;
    let bases = Bases::default();
    let mut tables = bases.tables(local_allowed, true);
    let mut body = Writer::new();
    body.uv(page.chunks.len() as u64);
    for chunk in &page.chunks {
        encode_chunk_ref(&mut body, &mut tables, chunk, None)?;
    }
    assemble(NodeType::Extent, &bases, &tables, body)
}

/// Encodes a leaf of the links tree.
pub fn encode_link_page(page: &LinkPage, local_allowed: bool) -> Result<EncodedNode, EncodeError> {
    let mut bases = Bases::default();
    page.inodes.iter().for_each(|(_, inode)| bases.see(&inode.entry));
    let mut tables = bases.tables(local_allowed, true);
    let mut body = Writer::new();
    body.uv(page.inodes.len() as u64);
    let mut last: Option<&LinkId> = None;
    let mut one = Writer::new();
    for (id, inode) in &page.inodes {
        ensure(
            last.is_none_or(|last| last < id),
            "inodes are sorted by link id, each once",
        )?;
        last = Some(id);
        body.raw(&id.0);
        one.clear();
        encode_link_inode(&mut one, &mut tables, inode)?;
        body.bytes(one.as_slice());
        limit(
            body.len() as u64,
            u64::from(NODE_RAW_BYTES_MAX),
            "raw bytes of a node",
        )?;
    }
    assemble(NodeType::Links, &bases, &tables, body)
}

/// Writes an inode with several names: link count, then its entry.
pub fn encode_link_inode(
    w: &mut Writer,
    tables: &mut EncodeTables,
    inode: &LinkInode,
) -> Result<(), EncodeError> {
    let fits = !matches!(inode.entry.body, EntryBody::Dir { .. } | EntryBody::HardLink(_));
    ensure(
        fits,
        "an inode with several names is no directory and no name of another one",
    )?;
    w.uv(inode.nlink);
    encode_entry_at(w, tables, &inode.entry, 1)
}

/// The values that times and file ids of a node are differences to.
#[derive(Default)]
pub(super) struct Bases {
    mtime: Option<i64>,
    file_id: Option<u64>,
}

/// Seconds that a base may have, so that differences to it stay short: 1970 to 2514.
pub(super) const SANE_SECS: std::ops::Range<i64> = 0..1 << 34;

impl Bases {
    /// The first entry that has attributes decides.
    pub(super) fn see(&mut self, entry: &Entry) {
        if matches!(entry.body, EntryBody::HardLink(_)) {
            return;
        }
        self.file_id.get_or_insert(entry.attrs.file_id.0);
        if SANE_SECS.contains(&entry.attrs.mtime.secs) {
            self.mtime.get_or_insert(entry.attrs.mtime.secs);
        }
    }

    pub(super) fn tables(&self, local_allowed: bool, open_allowed: bool) -> EncodeTables {
        EncodeTables::slots(
            local_allowed,
            open_allowed,
            self.mtime.unwrap_or_default(),
            self.file_id.unwrap_or_default(),
        )
    }
}

/// Puts header, tables and body together and compresses them.
pub(super) fn assemble(
    kind: NodeType,
    bases: &Bases,
    tables: &EncodeTables,
    body: Writer,
) -> Result<EncodedNode, EncodeError> {
    let mut w = Writer::new();
    w.raw(&MAGIC);
    w.u8(kind as u8);
    w.u8(0);
    tables.write(&mut w);
    w.zz(bases.mtime.unwrap_or_default());
    w.uv(bases.file_id.unwrap_or_default());
    w.raw(body.as_slice());
    let raw = w.into_vec();
    limit(
        raw.len() as u64,
        u64::from(NODE_RAW_BYTES_MAX),
        "raw bytes of a node",
    )?;
    let stored = codec::seal(&raw);
    Ok(EncodedNode {
        raw_len: raw.len() as u32,
        hash: node_hash(&stored),
        stored,
    })
}

// ---- decoding ----

/// Decodes a node from the bytes that `ptr` names: length, hash, decompression within the stated length, then the
/// structure. `object` is the pack's key, for errors. Packs of the state directory may be named only by nodes there.
pub fn decode_node(stored: &[u8], ptr: &Ptr, object: &str) -> Result<Node, Corrupt> {
    let raw = verify_stored(stored, ptr.stored_len, ptr.raw_len, &ptr.hash, object)?;
    decode_raw_node(&raw, ptr.pack, object)
}

/// Length, hash and decompression of a stored node.
pub(super) fn verify_stored(
    stored: &[u8],
    stored_len: u32,
    raw_len: u32,
    hash: &Hash,
    object: &str,
) -> Result<Vec<u8>, Corrupt> {
    let corrupt = |rule| Corrupt::new(object, 0, rule);
    if stored.len() != stored_len as usize {
        return Err(corrupt("a node has not the stored length that its pointer says"));
    }
    if raw_len > NODE_RAW_BYTES_MAX {
        return Err(corrupt("a node's raw length is over 1 MiB"));
    }
    if node_hash(stored) != *hash {
        return Err(corrupt("a node has not the hash that its pointer says"));
    }
    codec::unseal(stored, raw_len as usize, object)
}

/// Decodes the raw form of a node that came from `pack`; the caller has verified it.
pub fn decode_raw_node(raw: &[u8], pack: PackRef, object: &str) -> Result<Node, Corrupt> {
    let mut r = Reader::new(raw, object);
    let kind = decode_type(&mut r)?;
    let mut tables = DecodeTables::read(&mut r, Some(pack), pack.is_local())?;
    let node = match kind {
        NodeType::Dir => Node::Dir(Arc::new(decode_dir_body(&mut r, &mut tables, 1)?)),
        NodeType::Index => Node::Index(Arc::new(decode_index(&mut r, &tables)?)),
        NodeType::Extent => Node::Extent(Arc::new(decode_extent(&mut r, &tables)?)),
        NodeType::Links => Node::Links(Arc::new(decode_links(&mut r, &mut tables)?)),
        NodeType::Super => return Err(r.corrupt("a super node inside a pack")),
    };
    r.finish()?;
    Ok(node)
}

/// Reads magic, type and flags.
pub(super) fn decode_type(r: &mut Reader<'_>) -> Result<NodeType, Corrupt> {
    r.require(r.clone().raw(4) == Ok(&MAGIC), "not a node: wrong magic")?;
    r.raw(4)?;
    let kind = match r.u8()? {
        1 => NodeType::Dir,
        2 => NodeType::Index,
        3 => NodeType::Extent,
        4 => NodeType::Super,
        5 => NodeType::Links,
        _ => return Err(r.corrupt("a node of unknown type")),
    };
    let flags = r.u8()?;
    r.require(flags == 0, "a node with flags that this version does not know")?;
    Ok(kind)
}

fn decode_index(r: &mut Reader<'_>, tables: &DecodeTables) -> Result<IndexPage, Corrupt> {
    let level = r.u8()?;
    r.require(
        (1..LEVELS_MAX).contains(&level),
        "an index page that is not 1 to 7 levels above the leaves",
    )?;
    let flags = r.u8()?;
    r.require(
        flags <= 1,
        "an index page with flags that this version does not know",
    )?;
    let count = r.count(38)?;
    r.require(count > 0, "an index page without children")?;
    let mut slots: Vec<IndexSlot> = Vec::with_capacity(count);
    let mut entries = 0u64;
    for index in 0..count {
        let first_key: Box<[u8]> = r.bytes(INDEX_KEY_BYTES_MAX)?.into();
        r.require(
            index > 0 || first_key.is_empty(),
            "the first child of an index page has a key",
        )?;
        let sorted = slots.last().is_none_or(|last| last.first_key < first_key);
        r.require(sorted, "children of an index page are not sorted")?;
        let ptr = decode_ptr(r, tables)?;
        let count = r.uv_max(DIR_ENTRIES_MAX, "a directory has more than 2^32 entries")?;
        entries += count;
        r.require(
            entries <= DIR_ENTRIES_MAX,
            "a directory has more than 2^32 entries",
        )?;
        let page_cid = if flags == 1 { Some(r.hash()?) } else { None };
        slots.push(IndexSlot {
            first_key,
            ptr,
            count,
            page_cid,
        });
    }
    Ok(IndexPage { level, slots })
}

fn decode_extent(r: &mut Reader<'_>, tables: &DecodeTables) -> Result<ExtentPage, Corrupt> {
    let count = r.count(1)?;
    r.require(
        count > 0 && count as u64 <= EXTENT_PAGE_CHUNKS,
        "an extent page has not 1 to 1,024 chunks",
    )?;
    let mut chunks = Vec::with_capacity(count);
    for _ in 0..count {
        chunks.push(decode_chunk_ref(r, tables, None)?);
    }
    Ok(ExtentPage { chunks })
}

fn decode_links(r: &mut Reader<'_>, tables: &mut DecodeTables) -> Result<LinkPage, Corrupt> {
    let count = r.count(20)?;
    r.require(count <= NODE_ENTRIES_MAX, "a node has more than 65,536 entries")?;
    let mut inodes: Vec<(LinkId, LinkInode)> = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        let id = LinkId(r.array()?);
        let sorted = inodes.last().is_none_or(|(last, _)| *last < id);
        r.require(sorted, "inodes are not sorted by link id, or one is there twice")?;
        let len = r.uv()?;
        let mut part = r.part(len)?;
        inodes.push((id, decode_link_inode(&mut part, tables)?));
    }
    Ok(LinkPage { inodes })
}

/// Reads an inode with several names. Bytes that follow in `r` are left there.
pub fn decode_link_inode(r: &mut Reader<'_>, tables: &mut DecodeTables) -> Result<LinkInode, Corrupt> {
    let nlink = r.uv()?;
    let entry = decode_entry_at(r, tables, 1)?;
    let fits = !matches!(entry.body, EntryBody::Dir { .. } | EntryBody::HardLink(_));
    r.require(
        fits,
        "an inode with several names is a directory, or a name of another one",
    )?;
    Ok(LinkInode { nlink, entry })
}
