//! The super node: the root of everything that one record says (SPEC.md 7.3).

use super::content::{decode_ptr, encode_ptr};
use super::entry::{decode_entry_at, encode_entry_at};
use super::limits::{TOTAL_BYTES_MAX, TOTAL_COUNT_MAX};
use super::node::{Bases, EncodedNode, NodeType, assemble, decode_type, verify_stored};
use super::tables::{DecodeTables, EncodeError, EncodeTables, ensure, limit};
use super::wire::{Corrupt, Reader, Writer};
use crate::model::{Entry, EntryBody, Hash, LinksTree, Ptr, TreeRoot};

/// Root of a stored tree: its pointer, and whether it is an index page. `None` is the empty tree.
pub type StoredRoot = Option<(Ptr, bool)>;

/// What a record's `root` section holds.
#[derive(Clone, Debug)]
pub struct SuperNode {
    /// The tree of files, and the inodes with several names.
    pub root: TreeRoot,
    /// Checkpoints. Carried along unchanged.
    pub refs: StoredRoot,
    /// Records below the fence. Carried along unchanged.
    pub history: StoredRoot,
}

/// Encodes a super node. `local_allowed`: it stays in the state directory and may name packs there. A pack that is
/// still being written cannot be named, and links must be stored.
pub fn encode_super(node: &SuperNode, local_allowed: bool) -> Result<EncodedNode, EncodeError> {
    let entry = node.root.as_entry();
    let links = &node.root.links;
    if !links.edits.is_empty() {
        return Err(EncodeError::NotStored);
    }
    ensure(
        links.stored.is_some() == (links.count > 0),
        "a links tree has a node if it has inodes",
    )?;
    limit(links.count, TOTAL_COUNT_MAX, "inodes with several names")?;
    limit(links.bytes, TOTAL_BYTES_MAX, "bytes of inodes with several names")?;
    let mut bases = Bases::default();
    bases.see(&entry);
    let mut tables = bases.tables(local_allowed, false);
    let mut body = Writer::new();
    encode_entry_at(&mut body, &mut tables, &entry, 0)?;
    body.uv(links.count);
    body.uv(links.bytes);
    for stored in [&links.stored, &node.refs, &node.history] {
        encode_stored_root(&mut body, &mut tables, stored)?;
    }
    assemble(NodeType::Super, &bases, &tables, body)
}

/// Decodes a super node of `raw_len` raw bytes whose stored bytes must have `hash`. `object` is the key of the record
/// or path of the file, for errors.
pub fn decode_super(
    stored: &[u8],
    raw_len: u32,
    hash: &Hash,
    local_allowed: bool,
    object: &str,
) -> Result<SuperNode, Corrupt> {
    let stored_len =
        u32::try_from(stored.len()).map_err(|_| Corrupt::new(object, 0, "a super node is too long"))?;
    let raw = verify_stored(stored, stored_len, raw_len, hash, object)?;
    decode_raw_super(&raw, local_allowed, object)
}

/// Decodes the raw form of a super node; the caller has verified it.
pub fn decode_raw_super(raw: &[u8], local_allowed: bool, object: &str) -> Result<SuperNode, Corrupt> {
    let mut r = Reader::new(raw, object);
    if decode_type(&mut r)? != NodeType::Super {
        return Err(r.corrupt("not a super node"));
    }
    let mut tables = DecodeTables::read(&mut r, None, local_allowed)?;
    let Entry {
        attrs,
        body: EntryBody::Dir { totals, tree },
    } = decode_entry_at(&mut r, &mut tables, 0)?
    else {
        return Err(r.corrupt("the root of a volume is no directory"));
    };
    let count = r.uv_max(TOTAL_COUNT_MAX, "too many inodes with several names")?;
    let bytes = r.uv_max(TOTAL_BYTES_MAX, "too many bytes in inodes with several names")?;
    let stored = decode_stored_root(&mut r, &tables)?;
    let refs = decode_stored_root(&mut r, &tables)?;
    let history = decode_stored_root(&mut r, &tables)?;
    r.require(
        stored.is_some() == (count > 0),
        "the count of inodes with several names does not fit their tree",
    )?;
    // What follows belongs to a later version that did not demand to be understood.
    let links = LinksTree {
        stored,
        edits: Default::default(),
        count,
        bytes,
    };
    Ok(SuperNode {
        root: TreeRoot {
            attrs,
            totals,
            tree,
            links,
        },
        refs,
        history,
    })
}

fn encode_stored_root(
    w: &mut Writer,
    tables: &mut EncodeTables,
    root: &StoredRoot,
) -> Result<(), EncodeError> {
    match root {
        None => w.u8(0),
        Some((ptr, index)) => {
            w.u8(if *index { 2 } else { 1 });
            encode_ptr(w, tables, ptr)?;
        }
    }
    Ok(())
}

fn decode_stored_root(r: &mut Reader<'_>, tables: &DecodeTables) -> Result<StoredRoot, Corrupt> {
    match r.u8()? {
        0 => Ok(None),
        form @ (1 | 2) => Ok(Some((decode_ptr(r, tables)?, form == 2))),
        _ => Err(r.corrupt("a tree of unknown form")),
    }
}
