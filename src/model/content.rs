//! Contents of files: how a file is cut, and what describes its bytes.

use std::ops::Range;
use std::sync::Arc;

use super::{Epoch, Hash, PackRef, Ptr};

/// Contents up to this many bytes stand in the entry itself (`node.tiny_max`).
pub const TINY_BYTES_MAX: u64 = 256;
/// Contents below this many bytes are one blob in a pack; from here on they are chunks (`pack.item_max`).
pub const ITEM_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a frame, the piece of a chunk that can be fetched and verified alone.
pub const FRAME_BYTES: u64 = 1 << 20;
/// Zero blocks of this size, aligned, are holes when bytes are written to a cache file or body (SPEC.md 8).
pub const HOLE_BYTES: u64 = 4096;
/// More chunks than this and the list moves into extent pages.
pub const CHUNKS_INLINE_MAX: u64 = 32;
/// Chunk references in one extent page; page `i` holds chunks `1024 i ..= 1024 i + 1023`.
pub const EXTENT_PAGE_CHUNKS: u64 = 1024;
/// Most chunks of one file (SPEC.md 14).
pub const CHUNKS_MAX: u64 = 1 << 24;

/// Tier table 0 (SPEC.md 5): from this offset on, chunks have this size.
const TIERS: [(u64, u64); 3] = [(0, 8 << 20), (1 << 30, 32 << 20), (16 << 30, 64 << 20)];
/// Chunks below the second and third tier.
const TIER1_FIRST: u64 = (1 << 30) / (8 << 20);
const TIER2_FIRST: u64 = TIER1_FIRST + (15 << 30) / (32 << 20);

/// Largest file, bytes: [`CHUNKS_MAX`] chunks of the tier table, about 1 PiB.
pub const FILE_BYTES_MAX: u64 = (16 << 30) + (CHUNKS_MAX - TIER2_FIRST) * (64 << 20);

/// True when there is nothing but zeros.
pub fn is_zero(bytes: &[u8]) -> bool {
    const BLOCK: usize = HOLE_BYTES as usize;
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    bytes.chunks(BLOCK).all(|block| *block == ZEROS[..block.len()])
}

/// The parts of `bytes`, which begin at a multiple of [`HOLE_BYTES`], that are to be written where a hole is: all but the
/// blocks of zeros.
pub fn data_runs(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let count = |from: usize, holes: bool| -> usize {
        let blocks = bytes[from..].chunks(HOLE_BYTES as usize);
        blocks
            .take_while(|block| is_zero(block) == holes)
            .map(<[u8]>::len)
            .sum()
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        let from = at + count(at, true);
        at = from + count(from, false);
        (at > from).then_some(from..at)
    })
}

/// Size in bytes of the chunk that starts or lies at `offset`: a function of the offset alone, so that appending
/// never cuts a file anew.
pub fn chunk_size_at(offset: u64) -> u64 {
    TIERS
        .iter()
        .rev()
        .find(|(from, _)| offset >= *from)
        .map_or(TIERS[0].1, |(_, size)| *size)
}

/// Number of chunks of a file of `size` bytes.
pub fn chunk_count(size: u64) -> u64 {
    if size == 0 { 0 } else { chunk_index(size - 1) + 1 }
}

/// Index of the chunk that holds the byte at `offset`.
fn chunk_index(offset: u64) -> u64 {
    if offset < TIERS[1].0 {
        offset / TIERS[0].1
    } else if offset < TIERS[2].0 {
        TIER1_FIRST + (offset - TIERS[1].0) / TIERS[1].1
    } else {
        TIER2_FIRST + (offset - TIERS[2].0) / TIERS[2].1
    }
}

/// Chunk `index` begins at this offset, bytes.
pub fn chunk_start(index: u64) -> u64 {
    if index < TIER1_FIRST {
        index * TIERS[0].1
    } else if index < TIER2_FIRST {
        TIERS[1].0 + (index - TIER1_FIRST) * TIERS[1].1
    } else {
        TIERS[2].0 + (index - TIER2_FIRST) * TIERS[2].1
    }
}

/// Index and byte range (start, length within a file of `size` bytes) of the chunk that holds `offset`.
/// `offset` must be below `size`.
pub fn chunk_range(offset: u64, size: u64) -> (u64, u64, u64) {
    let index = chunk_index(offset);
    let start = chunk_start(index);
    (index, start, chunk_len(index, size))
}

/// Length in bytes of chunk `index` of a file of `size` bytes; 0 past the end.
pub fn chunk_len(index: u64, size: u64) -> u64 {
    let start = chunk_start(index);
    chunk_size_at(start).min(size.saturating_sub(start))
}

/// A blob (small content, tail chunk, large xattrs) inside a pack. Its raw length is known from where it is named.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlobRef {
    /// Pack that holds it.
    pub pack: PackRef,
    /// Offset in the pack, bytes.
    pub offset: u64,
    /// Stored length, codec byte included.
    pub stored_len: u32,
    /// blake3 of the plaintext.
    pub id: Hash,
}

/// Where the bytes of one chunk are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ChunkRef {
    /// All zeros, stored nowhere.
    Hole,
    /// An object of its own.
    Object {
        /// Epoch of its upload.
        epoch: Epoch,
        /// blake3 of the plaintext.
        id: Hash,
    },
    /// A small last chunk, in a pack.
    Packed(BlobRef),
}

impl ChunkRef {
    /// What the canonical content id (cid) counts: the chunk id, or zeros for a hole.
    pub fn id(&self) -> Hash {
        match self {
            ChunkRef::Hole => Hash([0; 32]),
            ChunkRef::Object { id, .. } => *id,
            ChunkRef::Packed(blob) => blob.id,
        }
    }
}

/// Bytes that exist only in an overlay on this machine; never encoded into the remote format. Two are the same
/// content when all three fields are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LocalContent {
    /// Which overlay (the live one, or a stash), a number local to the mount.
    pub overlay: u64,
    /// The overlay node that holds the bytes.
    pub node: u64,
    /// The node's generation when it was looked at.
    pub generation: u64,
}

/// What describes the bytes of a file. The size stands beside it.
#[derive(Clone, Debug)]
pub enum Content {
    /// The bytes themselves, at most [`TINY_BYTES_MAX`]; also empty files.
    Tiny(Arc<[u8]>),
    /// One blob, below [`ITEM_BYTES_MAX`].
    Blob(BlobRef),
    /// Up to [`CHUNKS_INLINE_MAX`] chunks.
    Chunks {
        /// Number of the tier table, 0.
        tier: u8,
        /// One for each chunk of the size.
        chunks: Arc<[ChunkRef]>,
        /// Canonical content id (SPEC.md 8).
        cid: Hash,
    },
    /// More chunks, in extent pages.
    Paged {
        /// Number of the tier table, 0.
        tier: u8,
        /// Extent page or index page. Boxed: only files of more than [`CHUNKS_INLINE_MAX`] chunks have it.
        root: Box<Ptr>,
        /// Canonical content id.
        cid: Hash,
    },
    /// Not uploaded yet.
    Local(LocalContent),
}

impl Content {
    /// The content of an empty file.
    pub fn empty() -> Content {
        Content::Tiny(Arc::from(&[][..]))
    }

    /// Equal bytes, as far as descriptors can tell: never looks at locations. Sizes are compared by the caller; forms
    /// that differ count as different, which a merge takes for a change (harmless, SPEC.md 8).
    pub fn same(&self, other: &Content) -> bool {
        match (self, other) {
            (Content::Tiny(a), Content::Tiny(b)) => a == b,
            (Content::Blob(a), Content::Blob(b)) => a.id == b.id,
            (
                Content::Chunks { cid: a, .. } | Content::Paged { cid: a, .. },
                Content::Chunks { cid: b, .. } | Content::Paged { cid: b, .. },
            ) => a == b,
            (Content::Local(a), Content::Local(b)) => a == b,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_tile_every_size_without_gap_or_overlap() {
        for size in [
            1,
            8 << 20,
            (8 << 20) + 1,
            1 << 30,
            (1 << 30) + 5,
            16 << 30,
            (16 << 30) + (65 << 20),
        ] {
            let mut at = 0;
            let count = chunk_count(size);
            for index in 0..count {
                let (i, start, len) = chunk_range(at, size);
                assert_eq!((i, start), (index, at));
                assert!(len > 0 && len <= chunk_size_at(at));
                assert_eq!(chunk_range(at + len - 1, size).0, index);
                at += len;
            }
            assert_eq!(at, size);
            assert_eq!(chunk_len(count, size), 0);
        }
    }

    #[test]
    fn runs_are_all_blocks_with_something_in_them() {
        let mut bytes = vec![0u8; 40 * 4096 + 100];
        for block in [0, 1, 5, 30, 40] {
            bytes[block * 4096 + 7] = 1;
        }
        let runs: Vec<_> = data_runs(&bytes).collect();
        let blocks = |from: usize, to: usize| from * 4096..to * 4096;
        assert_eq!(
            runs,
            [blocks(0, 2), blocks(5, 6), blocks(30, 31), 40 * 4096..bytes.len()]
        );
        assert_eq!(data_runs(&bytes[2 * 4096..5 * 4096 - 9]).count(), 0);
        assert_eq!(data_runs(&[]).count(), 0);
    }

    #[test]
    fn the_largest_file_has_the_most_chunks() {
        assert_eq!(chunk_count(FILE_BYTES_MAX), CHUNKS_MAX);
    }
}
