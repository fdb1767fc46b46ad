//! Contents of files: identities, references and descriptors (SPEC.md 8), and the contexts that keep hashes
//! of different things apart.

use std::sync::Arc;

use super::limits::{NODE_RAW_BYTES_MAX, PACK_BYTES_MAX};
use super::node::ExtentPage;
use super::tables::{DecodeTables, EncodeError, EncodeTables, ensure, limit};
use super::wire::{Corrupt, Reader, Writer};
use crate::model::{
    BlobRef, CHUNKS_INLINE_MAX, ChunkRef, Content, FILE_BYTES_MAX, Hash, ITEM_BYTES_MAX, LOCAL_EPOCH, Ptr,
    TINY_BYTES_MAX, chunk_count, chunk_len,
};

pub(super) const NODE_CONTEXT: &str = "sailvol 2026 node v1";
pub(super) const RECORD_CONTEXT: &str = "sailvol 2026 record v1";
pub(super) const CID_CONTEXT: &str = "sailvol 2026 cid v1";
pub(super) const TXN_CONTEXT: &str = "sailvol 2026 txn v1";

/// What a cid is made over; the byte keeps a short list of chunks from being taken for a list of pages.
#[derive(Clone, Copy)]
enum Over {
    Chunks = 1,
    Page = 2,
    Pages = 3,
}

/// Identity of bytes stored as blob or chunk: plain blake3 of them.
pub fn content_id(plain: &[u8]) -> Hash {
    Hash(*blake3::hash(plain).as_bytes())
}

/// Content id of a file of `size` bytes whose chunks stand in its entry.
pub fn chunks_cid(size: u64, tier: u8, chunks: &[ChunkRef]) -> Hash {
    cid(
        Over::Chunks,
        &[size, u64::from(tier)],
        chunks.iter().map(ChunkRef::id),
    )
}

/// Identity of one extent page.
pub fn page_cid(page: &ExtentPage) -> Hash {
    cid(Over::Page, &[], page.chunks.iter().map(ChunkRef::id))
}

/// Content id of a file of `size` bytes whose chunks stand in extent pages with these identities.
pub fn paged_cid(size: u64, tier: u8, pages: impl IntoIterator<Item = Hash>) -> Hash {
    cid(Over::Pages, &[size, u64::from(tier)], pages)
}

fn cid(over: Over, numbers: &[u64], ids: impl IntoIterator<Item = Hash>) -> Hash {
    let mut head = Writer::new();
    head.u8(over as u8);
    numbers.iter().for_each(|number| head.uv(*number));
    let mut hasher = blake3::Hasher::new_derive_key(CID_CONTEXT);
    hasher.update(head.as_slice());
    for id in ids {
        hasher.update(&id.0);
    }
    Hash(*hasher.finalize().as_bytes())
}

/// Writes a node pointer.
pub fn encode_ptr(w: &mut Writer, tables: &mut EncodeTables, ptr: &Ptr) -> Result<(), EncodeError> {
    limit(
        u64::from(ptr.raw_len),
        u64::from(NODE_RAW_BYTES_MAX),
        "raw bytes of a node",
    )?;
    place_rules(ptr.offset, ptr.stored_len, u64::from(ptr.raw_len)).map_err(EncodeError::Invalid)?;
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
    place_rules(offset, stored_len, raw_len).map_err(|rule| r.corrupt(rule))
}

/// What holds for the place of every item in a pack.
fn place_rules(offset: u64, stored_len: u32, raw_len: u64) -> Result<(), &'static str> {
    let stored_len = u64::from(stored_len);
    if offset.saturating_add(stored_len) > PACK_BYTES_MAX {
        return Err("an item ends behind the largest pack");
    }
    if stored_len == 0 || stored_len > raw_len + 1 {
        return Err("an item is stored in its codec byte and at most its raw length");
    }
    Ok(())
}

/// Writes where a blob of `raw_len` bytes is; the length itself stands elsewhere.
pub fn encode_blob_ref(
    w: &mut Writer,
    tables: &mut EncodeTables,
    blob: &BlobRef,
    raw_len: u64,
) -> Result<(), EncodeError> {
    place_rules(blob.offset, blob.stored_len, raw_len).map_err(EncodeError::Invalid)?;
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

/// Writes a reference to a chunk of `raw_len` bytes; `None` where the length is not known (extent pages).
pub fn encode_chunk_ref(
    w: &mut Writer,
    tables: &mut EncodeTables,
    chunk: &ChunkRef,
    raw_len: Option<u64>,
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
            let raw_len = raw_len.unwrap_or(ITEM_BYTES_MAX);
            limit(raw_len, ITEM_BYTES_MAX, "bytes of a chunk in a pack")?;
            w.u8(2);
            encode_blob_ref(w, tables, blob, raw_len)?;
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
            encode_blob_ref(w, tables, blob, size)?;
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
            for (index, chunk) in (0..).zip(chunks.iter()) {
                encode_chunk_ref(w, tables, chunk, Some(chunk_len(index, size)))?;
            }
        }
        Content::Paged { tier, root, cid } => {
            ensure(*tier == 0, "the tier table is number 0")?;
            ensure(size > 0, "a paged content has bytes")?;
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
                root: Box::new(decode_ptr(r, tables)?),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PackRef;

    #[test]
    fn a_cid_depends_on_ids_size_and_form_but_not_on_places() {
        let id = content_id(b"chunk");
        let object = [ChunkRef::Object { epoch: 3, id }];
        let moved = [ChunkRef::Object { epoch: 9, id }];
        let pack = PackRef {
            epoch: 1,
            id: content_id(b"pack"),
        };
        let packed = [ChunkRef::Packed(BlobRef {
            pack,
            offset: 4,
            stored_len: 9,
            id,
        })];
        assert_eq!(chunks_cid(5 << 20, 0, &object), chunks_cid(5 << 20, 0, &moved));
        assert_eq!(chunks_cid(5 << 20, 0, &object), chunks_cid(5 << 20, 0, &packed));
        assert_ne!(
            chunks_cid(5 << 20, 0, &[ChunkRef::Hole]),
            chunks_cid(6 << 20, 0, &[ChunkRef::Hole])
        );
        let page = ExtentPage {
            chunks: object.to_vec(),
        };
        assert_eq!(
            page_cid(&page),
            page_cid(&ExtentPage {
                chunks: packed.to_vec()
            })
        );
        assert_ne!(chunks_cid(5 << 20, 0, &object), paged_cid(5 << 20, 0, [id]));
    }
}
