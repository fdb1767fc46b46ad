//! Packs: objects that hold many nodes and blobs (SPEC.md 10).

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use super::blob::{EncodedBlob, encode_blob};
use super::content::content_id;
use super::limits::{NODE_RAW_BYTES_MAX, PACK_BYTES_MAX, PACK_ITEMS_MAX};
use super::node::EncodedNode;
use super::tables::{EncodeError, limit};
use super::wire::{Corrupt, Reader, Writer, uv_len};
use crate::model::{BlobRef, Epoch, Hash, ITEM_BYTES_MAX, PackRef, Ptr};

/// First bytes of a pack.
const MAGIC: [u8; 4] = *b"SVP1";
/// Last bytes of a pack.
const END_MAGIC: [u8; 4] = *b"1PVS";
/// Bytes behind the footer: its length, half of its hash, and the last magic.
pub const PACK_TRAILER_BYTES: u64 = 4 + 16 + 4;
/// Shortest footer entry.
const ITEM_BYTES_MIN: usize = 1 + 1 + 1 + 1 + 32;

/// What an item of a pack is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ItemKind {
    /// A node; its id is the hash of the stored bytes.
    Node = 1,
    /// A blob; its id is the hash of the plaintext.
    Blob = 2,
}

/// One entry of a pack's footer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackItem {
    /// What it is.
    pub kind: ItemKind,
    /// Where it begins, bytes from the start of the pack.
    pub offset: u64,
    /// Length as stored, bytes.
    pub stored_len: u32,
    /// Length of the plaintext, bytes.
    pub raw_len: u32,
    /// Its id.
    pub id: Hash,
}

/// A complete pack.
#[derive(Clone, Debug)]
pub struct FinishedPack {
    /// Its place in the store.
    pub pack: PackRef,
    /// The whole object.
    pub bytes: Bytes,
    /// What is in it, by offset.
    pub items: Vec<PackItem>,
}

/// Writes a pack. What it hands out names [`PackRef::open`]; [`super::Resolve`] puts the id in once it is known.
#[derive(Clone, Debug)]
pub struct PackBuilder {
    epoch: Epoch,
    bytes: Vec<u8>,
    items: Vec<PackItem>,
    footer_bytes: usize,
    known: HashMap<(ItemKind, Hash), usize>,
}

impl PackBuilder {
    /// An empty one, to be uploaded under `epoch`.
    pub fn new(epoch: Epoch) -> PackBuilder {
        PackBuilder {
            epoch,
            bytes: MAGIC.to_vec(),
            items: Vec::new(),
            footer_bytes: 0,
            known: HashMap::new(),
        }
    }

    /// Length of the object if it were finished now, bytes.
    pub fn len(&self) -> u64 {
        let footer = uv_len(self.items.len() as u64) + self.footer_bytes;
        (self.bytes.len() + footer) as u64 + PACK_TRAILER_BYTES
    }

    /// True before the first item.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Number of items.
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// Adds a node; one that is there already is not stored twice.
    ///
    /// # Errors
    /// The pack would exceed 64 MiB or 2^20 items: finish it and begin another.
    pub fn add_node(&mut self, node: &EncodedNode) -> Result<Ptr, EncodeError> {
        let at = self.add(ItemKind::Node, &node.stored, node.raw_len, node.hash)?;
        let item = &self.items[at];
        Ok(Ptr {
            pack: PackRef::open(self.epoch),
            offset: item.offset,
            stored_len: item.stored_len,
            raw_len: item.raw_len,
            hash: item.id,
        })
    }

    /// Compresses and adds a blob; one that is there already is not stored twice.
    ///
    /// # Errors
    /// The blob is over 4 MiB, or the pack would exceed 64 MiB or 2^20 items.
    pub fn add_blob(&mut self, plain: &[u8]) -> Result<BlobRef, EncodeError> {
        let id = content_id(plain);
        let at = match self.known.get(&(ItemKind::Blob, id)) {
            Some(at) => *at,
            None => {
                let blob = encode_blob(plain)?;
                self.add(ItemKind::Blob, &blob.stored, blob.raw_len, blob.id)?
            }
        };
        let item = &self.items[at];
        Ok(BlobRef {
            pack: PackRef::open(self.epoch),
            offset: item.offset,
            stored_len: item.stored_len,
            id,
        })
    }

    /// Adds a blob that was compressed elsewhere; one that is there already is not stored twice.
    ///
    /// # Errors
    /// The pack would exceed 64 MiB or 2^20 items.
    pub fn add_encoded_blob(&mut self, blob: &EncodedBlob) -> Result<BlobRef, EncodeError> {
        let at = self.add(ItemKind::Blob, &blob.stored, blob.raw_len, blob.id)?;
        let item = &self.items[at];
        Ok(BlobRef {
            pack: PackRef::open(self.epoch),
            offset: item.offset,
            stored_len: item.stored_len,
            id: item.id,
        })
    }

    fn add(&mut self, kind: ItemKind, stored: &[u8], raw_len: u32, id: Hash) -> Result<usize, EncodeError> {
        if let Some(at) = self.known.get(&(kind, id)) {
            return Ok(*at);
        }
        let item = PackItem {
            kind,
            offset: self.bytes.len() as u64,
            stored_len: u32::try_from(stored.len()).map_err(|_| EncodeError::Limit {
                what: "bytes of an item",
                limit: ITEM_BYTES_MAX,
            })?,
            raw_len,
            id,
        };
        let mut entry = Writer::new();
        write_item(&mut entry, &item);
        let grown = self.len() + stored.len() as u64 + entry.len() as u64 + 1;
        limit(grown, PACK_BYTES_MAX, "bytes of a pack")?;
        limit(
            self.items.len() as u64 + 1,
            PACK_ITEMS_MAX as u64,
            "items of a pack",
        )?;
        self.bytes.extend_from_slice(stored);
        self.footer_bytes += entry.len();
        self.items.push(item);
        self.known.insert((kind, id), self.items.len() - 1);
        Ok(self.items.len() - 1)
    }

    /// The object and its id.
    pub fn finish(self) -> FinishedPack {
        let mut footer = Writer::new();
        footer.uv(self.items.len() as u64);
        self.items.iter().for_each(|item| write_item(&mut footer, item));
        let mut bytes = self.bytes;
        bytes.extend_from_slice(footer.as_slice());
        // A pack is at most 64 MiB long, so its footer's length fits.
        bytes.extend_from_slice(&(footer.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&footer_check(footer.as_slice()));
        bytes.extend_from_slice(&END_MAGIC);
        FinishedPack {
            pack: PackRef {
                epoch: self.epoch,
                id: content_id(&bytes),
            },
            bytes: Bytes::from(bytes),
            items: self.items,
        }
    }
}

fn write_item(w: &mut Writer, item: &PackItem) {
    w.u8(item.kind as u8);
    w.uv(item.offset);
    w.uv(u64::from(item.stored_len));
    w.uv(u64::from(item.raw_len));
    w.hash(&item.id);
}

fn footer_check(footer: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&content_id(footer).0[..16]);
    half
}

/// Where the footer of a pack of `pack_len` bytes is, by its last [`PACK_TRAILER_BYTES`] bytes; these are part of the
/// range.
pub fn pack_footer_range(trailer: &[u8], pack_len: u64, object: &str) -> Result<Range<u64>, Corrupt> {
    let mut r = Reader::new(trailer, object);
    r.require(
        trailer.len() as u64 == PACK_TRAILER_BYTES,
        "a pack is shorter than its trailer",
    )?;
    let footer_len = u64::from(r.u32()?);
    r.raw(16)?;
    r.require(
        r.clone().raw(4) == Ok(&END_MAGIC),
        "a pack does not end with its magic",
    )?;
    r.require(pack_len <= PACK_BYTES_MAX, "a pack is over 64 MiB")?;
    let room = pack_len.saturating_sub(MAGIC.len() as u64 + PACK_TRAILER_BYTES);
    r.require(footer_len <= room, "a pack's footer is longer than the pack")?;
    Ok(pack_len - PACK_TRAILER_BYTES - footer_len..pack_len)
}

/// Reads a pack's footer from the range of [`pack_footer_range`]. Items lie one behind the other from byte 4 on.
pub fn parse_pack_footer(footer: &[u8], pack_len: u64, object: &str) -> Result<Vec<PackItem>, Corrupt> {
    let corrupt = |rule| Corrupt::new(object, 0, rule);
    let Some((listing, trailer)) = footer.split_last_chunk::<{ PACK_TRAILER_BYTES as usize }>() else {
        return Err(corrupt("a pack is shorter than its trailer"));
    };
    let range = pack_footer_range(trailer, pack_len, object)?;
    if range.end - range.start != footer.len() as u64 {
        return Err(corrupt("a pack's footer was cut"));
    }
    if trailer[4..20] != footer_check(listing) {
        return Err(corrupt("a pack's footer has not its hash"));
    }
    let mut r = Reader::new(listing, object);
    let count = r.count(ITEM_BYTES_MIN)?;
    r.require(count <= PACK_ITEMS_MAX, "a pack has more than 2^20 items")?;
    let mut items = Vec::with_capacity(count);
    let mut end = MAGIC.len() as u64;
    for _ in 0..count {
        let item = read_item(&mut r)?;
        r.require(
            item.offset == end,
            "items of a pack do not lie one behind the other",
        )?;
        end += u64::from(item.stored_len);
        items.push(item);
    }
    r.require(
        end == range.start,
        "items of a pack do not end where its footer begins",
    )?;
    r.finish()?;
    Ok(items)
}

fn read_item(r: &mut Reader<'_>) -> Result<PackItem, Corrupt> {
    let kind = match r.u8()? {
        1 => ItemKind::Node,
        2 => ItemKind::Blob,
        _ => return Err(r.corrupt("an item of unknown kind")),
    };
    let offset = r.uv()?;
    let stored_len = r.uv32()?;
    let raw_len = r.uv32()?;
    let raw_max = match kind {
        ItemKind::Node => u64::from(NODE_RAW_BYTES_MAX),
        ItemKind::Blob => ITEM_BYTES_MAX,
    };
    r.require(
        u64::from(raw_len) <= raw_max,
        "an item of a pack is over its limit",
    )?;
    r.require(
        stored_len > 0 && stored_len <= raw_len + 1,
        "an item is stored longer than raw",
    )?;
    Ok(PackItem {
        kind,
        offset,
        stored_len,
        raw_len,
        id: r.hash()?,
    })
}
