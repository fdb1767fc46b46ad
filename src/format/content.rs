//! Identities of contents (SPEC.md, "Content ids") and the contexts that keep hashes of different things apart.

use super::node::ExtentPage;
use super::wire::Writer;
use crate::model::{ChunkRef, Hash};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BlobRef, PackRef};

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
