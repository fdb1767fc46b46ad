//! Chunk objects: up to 64 MiB of a file in frames of 1 MiB, each of which can be read and verified alone
//! (SPEC.md 11).

use std::borrow::Cow;
use std::ops::Range;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;

use super::codec;
use super::content::content_id;
use super::limits::{CHUNK_BYTES_MAX, CHUNK_HEADER_BYTES_MAX};
use super::tables::{EncodeError, ensure, limit};
use super::wire::{Corrupt, Reader, Writer};
use crate::model::{FRAME_BYTES, Hash};

const MAGIC: [u8; 4] = *b"SVC1";
/// Magic, codec, flags, reserved, header length, raw length.
const FIXED_BYTES: usize = 4 + 1 + 1 + 2 + 4 + 4;
/// In a frame's stored length: the frame is the plaintext.
const RAW_FRAME: u32 = 1 << 31;
const FRAME: usize = FRAME_BYTES as usize;

/// A chunk as it is uploaded.
#[derive(Clone, Debug)]
pub struct EncodedChunk {
    /// blake3 of the plaintext.
    pub id: Hash,
    /// The whole object.
    pub object: Bytes,
}

/// What a chunk and its frames hash to: hashed once, before anybody knows whether the chunk has to be encoded.
#[derive(Clone, Debug)]
pub struct ChunkHashes {
    /// blake3 of the plaintext.
    pub id: Hash,
    /// Subtree values of the frames; none when there is one frame.
    values: Vec<[u8; 32]>,
}

/// What one frame must be, without its chunk's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameSum {
    /// blake3 of the frame.
    Whole(Hash),
    /// Its subtree value as frame of this number in a chunk of several.
    Subtree(u8, Hash),
}

impl FrameSum {
    /// Of bytes that nothing else is known of.
    pub fn of(plain: &[u8]) -> FrameSum {
        FrameSum::Whole(content_id(plain))
    }

    /// Hashes the bytes and compares. Nothing, or more than a frame, is no frame: a cut file has to be told from a
    /// right one without asking the hasher, for which neither is a subtree.
    pub fn matches(&self, plain: &[u8]) -> bool {
        match self {
            FrameSum::Whole(hash) => content_id(plain) == *hash,
            FrameSum::Subtree(number, hash) => {
                (1..=FRAME).contains(&plain.len()) && frame_value(plain, usize::from(*number)) == hash.0
            }
        }
    }
}

/// Where the frames of a chunk are and what they must hash to. Was compared with the chunk's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Length of the plaintext, bytes.
    pub raw_len: u32,
    /// Length of the header, bytes: the first frame begins there.
    pub header_len: u32,
    frames: Vec<FrameRef>,
    id: Hash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FrameRef {
    offset: u64,
    stored_len: u32,
    raw: bool,
    /// Subtree value; unused when there is one frame, whose hash is the id.
    value: [u8; 32],
}

/// Frames of a chunk of `raw_len` bytes.
pub fn frame_count(raw_len: u32) -> u32 {
    raw_len.div_ceil(FRAME_BYTES as u32)
}

/// Length of the header of a chunk of `raw_len` bytes: fetch this much to parse it.
pub fn chunk_header_len(raw_len: u32) -> u32 {
    let frames = frame_count(raw_len);
    FIXED_BYTES as u32 + frames * 4 + if frames > 1 { frames * 32 } else { 0 }
}

fn frame_value(plain: &[u8], index: usize) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset((index * FRAME) as u64);
    hasher.update(plain).finalize_non_root()
}

/// The hash of a whole chunk from the subtree values of its frames, of which there are at least two. All frames but
/// the last are full and of a power of two, so they are subtrees of the hash.
fn combine(values: &[[u8; 32]]) -> Hash {
    fn subtree(values: &[[u8; 32]]) -> [u8; 32] {
        match values {
            [one] => *one,
            _ => {
                let (left, right) = split(values);
                merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
            }
        }
    }
    let (left, right) = split(values);
    Hash(*merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes())
}

/// The left subtree is the largest power of two that leaves something for the right.
fn split(values: &[[u8; 32]]) -> (&[[u8; 32]], &[[u8; 32]]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

/// Hashes a chunk.
pub fn hash_chunk(plain: &[u8]) -> ChunkHashes {
    if plain.len() <= FRAME {
        return ChunkHashes {
            id: content_id(plain),
            values: Vec::new(),
        };
    }
    let frames = plain.chunks(FRAME).enumerate();
    let values: Vec<_> = frames.map(|(index, frame)| frame_value(frame, index)).collect();
    ChunkHashes {
        id: combine(&values),
        values,
    }
}

/// Encodes 1 byte to 64 MiB. Frames that zstd shrinks by less than 5 % are kept raw.
pub fn encode_chunk(plain: &[u8]) -> Result<EncodedChunk, EncodeError> {
    encode_hashed_chunk(plain, &hash_chunk(plain))
}

/// The same for a chunk that was hashed already: `hashes` are those of `plain`.
pub fn encode_hashed_chunk(plain: &[u8], hashes: &ChunkHashes) -> Result<EncodedChunk, EncodeError> {
    ensure(!plain.is_empty(), "a chunk has bytes")?;
    limit(plain.len() as u64, u64::from(CHUNK_BYTES_MAX), "bytes of a chunk")?;
    let raw_len = plain.len() as u32;
    let header_len = chunk_header_len(raw_len);
    let mut lengths = Writer::new();
    let mut object = Vec::with_capacity(header_len as usize + plain.len());
    object.resize(header_len as usize, 0);
    for frame in plain.chunks(FRAME) {
        let packed = codec::compress_if_worth(frame);
        let (stored, flag) = packed.as_deref().map_or((frame, RAW_FRAME), |packed| (packed, 0));
        lengths.u32(stored.len() as u32 | flag);
        object.extend_from_slice(stored);
    }
    let mut header = Writer::new();
    header.raw(&MAGIC);
    header.u8(codec::ZSTD);
    header.u8(0);
    header.u16(0);
    header.u32(header_len);
    header.u32(raw_len);
    header.raw(lengths.as_slice());
    hashes.values.iter().for_each(|value| header.raw(value));
    object[..header_len as usize].copy_from_slice(header.as_slice());
    Ok(EncodedChunk {
        id: hashes.id,
        object: Bytes::from(object),
    })
}

impl ChunkHeader {
    /// Reads the header from the first bytes of an object (more may follow) and compares the frames' values with
    /// `id`. `raw_len` is what the chunk must have by its file's size.
    pub fn parse(start: &[u8], raw_len: u32, id: &Hash, object: &str) -> Result<ChunkHeader, Corrupt> {
        let mut r = Reader::new(start, object);
        r.require(r.clone().raw(4) == Ok(&MAGIC), "not a chunk: wrong magic")?;
        r.raw(4)?;
        let codec = r.u8()?;
        r.require(
            codec <= codec::ZSTD,
            "a chunk has a codec that this version does not know",
        )?;
        r.require(
            r.clone().raw(3)? == [0; 3],
            "a chunk has flags that this version does not know",
        )?;
        r.raw(3)?;
        let (header_len, said) = (r.u32()?, r.u32()?);
        r.require(
            said == raw_len,
            "a chunk has not the length that its file's size says",
        )?;
        r.require(
            said > 0 && said <= CHUNK_BYTES_MAX,
            "a chunk has not 1 byte to 64 MiB",
        )?;
        r.require(
            header_len <= CHUNK_HEADER_BYTES_MAX,
            "a chunk header is over 8 KiB",
        )?;
        r.require(
            header_len == chunk_header_len(said),
            "a chunk header has not the length of its parts",
        )?;
        let count = frame_count(said) as usize;
        let mut frames = Vec::with_capacity(count);
        let mut offset = u64::from(header_len);
        for index in 0..count {
            let word = r.u32()?;
            let (stored_len, raw) = (word & !RAW_FRAME, word & RAW_FRAME != 0);
            let plain_len = frame_len(said, index);
            let fits = if raw {
                stored_len == plain_len
            } else {
                stored_len > 0 && stored_len < plain_len
            };
            r.require(fits, "a frame's stored length does not fit its raw length")?;
            r.require(raw || codec == codec::ZSTD, "a compressed frame in a raw chunk")?;
            frames.push(FrameRef {
                offset,
                stored_len,
                raw,
                value: [0; 32],
            });
            offset += u64::from(stored_len);
        }
        if count > 1 {
            for frame in &mut frames {
                frame.value = r.array()?;
            }
            let values: Vec<_> = frames.iter().map(|frame| frame.value).collect();
            r.require(
                combine(&values) == *id,
                "a chunk's frames do not combine to its id",
            )?;
        }
        Ok(ChunkHeader {
            raw_len: said,
            header_len,
            frames,
            id: *id,
        })
    }

    /// Number of frames.
    pub fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of the object that hold frame `index`; empty past the last.
    pub fn frame_range(&self, index: usize) -> Range<u64> {
        self.frames.get(index).map_or(0..0, |frame| {
            frame.offset..frame.offset + u64::from(frame.stored_len)
        })
    }

    /// Length of frame `index`'s plaintext, bytes; 0 past the last.
    pub fn frame_raw_len(&self, index: usize) -> u32 {
        if index < self.frames.len() {
            frame_len(self.raw_len, index)
        } else {
            0
        }
    }

    /// What frame `index` must be.
    pub fn frame_sum(&self, index: usize) -> Option<FrameSum> {
        let frame = self.frames.get(index)?;
        Some(match self.frames.len() {
            1 => FrameSum::Whole(self.id),
            // A chunk has at most 64 frames.
            _ => FrameSum::Subtree(u8::try_from(index).ok()?, Hash(frame.value)),
        })
    }

    /// Length of the whole object, bytes.
    pub fn object_len(&self) -> u64 {
        self.frames
            .last()
            .map_or(0, |frame| frame.offset + u64::from(frame.stored_len))
    }
}

fn frame_len(raw_len: u32, index: usize) -> u32 {
    let start = index as u64 * FRAME_BYTES;
    u64::from(raw_len).saturating_sub(start).min(FRAME_BYTES) as u32
}

/// Decodes frame `index` from the bytes of [`ChunkHeader::frame_range`] and compares it with what the header says. A frame
/// that was kept raw is not copied.
pub fn decode_frame<'a>(
    header: &ChunkHeader,
    index: usize,
    stored: &'a [u8],
    object: &str,
) -> Result<Cow<'a, [u8]>, Corrupt> {
    let corrupt = |rule| Corrupt::new(object, header.frame_range(index).start, rule);
    let Some(frame) = header.frames.get(index) else {
        return Err(corrupt("a chunk has no frame of that number"));
    };
    if stored.len() != frame.stored_len as usize {
        return Err(corrupt("a frame has not the length that its header says"));
    }
    let plain = if frame.raw {
        Cow::Borrowed(stored)
    } else {
        Cow::Owned(codec::decompress(
            stored,
            frame_len(header.raw_len, index) as usize,
            object,
        )?)
    };
    if header.frame_sum(index).is_some_and(|sum| sum.matches(&plain)) {
        Ok(plain)
    } else {
        Err(corrupt("a frame has not the hash that its header says"))
    }
}

/// Decodes a whole chunk object of `raw_len` bytes and compares it with its id.
pub fn decode_chunk(stored: &[u8], raw_len: u32, id: &Hash, object: &str) -> Result<Vec<u8>, Corrupt> {
    let header = ChunkHeader::parse(stored, raw_len, id, object)?;
    if header.object_len() != stored.len() as u64 {
        return Err(Corrupt::new(
            object,
            0,
            "a chunk object has not the length of its parts",
        ));
    }
    let mut plain = Vec::with_capacity(raw_len as usize);
    for index in 0..header.frame_count() {
        let range = header.frame_range(index);
        let part = &stored[range.start as usize..range.end as usize];
        plain.extend_from_slice(&decode_frame(&header, index, part, object)?);
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i / 7 % 251) as u8).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn the_combined_value_is_the_plain_hash_and_chunks_come_back() {
        for len in [
            1,
            1000,
            FRAME - 1,
            FRAME,
            FRAME + 1,
            2 * FRAME,
            3 * FRAME + 5,
            5 * FRAME,
            7 * FRAME + 1024,
        ] {
            for plain in [text(len), noise(len)] {
                let chunk = encode_chunk(&plain).unwrap();
                assert_eq!(chunk.id, content_id(&plain), "{len}");
                let decoded = decode_chunk(&chunk.object, len as u32, &chunk.id, "t").unwrap();
                assert!(decoded == plain, "{len}");
                let header = ChunkHeader::parse(&chunk.object, len as u32, &chunk.id, "t").unwrap();
                assert_eq!(header.header_len, chunk_header_len(len as u32));
                assert_eq!(header.object_len(), chunk.object.len() as u64);
            }
        }
    }

    #[test]
    fn a_mark_matches_its_frame_and_nothing_shorter_or_longer() {
        let plain = noise(FRAME + 1);
        let sums = [
            FrameSum::of(&plain[..FRAME]),
            FrameSum::Subtree(0, Hash(frame_value(&plain[..FRAME], 0))),
            FrameSum::Subtree(3, Hash(frame_value(&plain[..FRAME], 3))),
        ];
        for sum in sums {
            assert!(sum.matches(&plain[..FRAME]), "{sum:?}");
            for other in [
                &plain[..0],
                &plain[..1],
                &plain[..FRAME - 1],
                &plain[..],
                &plain[1..],
            ] {
                assert!(!sum.matches(other), "{sum:?}: {} bytes", other.len());
            }
        }
    }

    #[test]
    fn one_frame_can_be_read_alone_and_its_damage_is_found() {
        let plain = text(2 * FRAME + 100);
        let len = plain.len() as u32;
        let chunk = encode_chunk(&plain).unwrap();
        let start = &chunk.object[..chunk_header_len(len) as usize];
        let header = ChunkHeader::parse(start, len, &chunk.id, "t").unwrap();
        let range = header.frame_range(1);
        let mut stored = chunk.object[range.start as usize..range.end as usize].to_vec();
        assert!(*decode_frame(&header, 1, &stored, "t").unwrap() == plain[FRAME..2 * FRAME]);
        assert!(decode_frame(&header, 0, &stored, "t").is_err());
        assert!(decode_frame(&header, 3, &stored, "t").is_err());
        let last = stored.len() - 1;
        stored[last] ^= 1;
        assert!(decode_frame(&header, 1, &stored, "t").is_err());
    }

    #[test]
    fn a_damaged_header_is_refused_wherever_it_is_damaged() {
        let plain = text(2 * FRAME + 100);
        let len = plain.len() as u32;
        let chunk = encode_chunk(&plain).unwrap();
        for at in 0..chunk_header_len(len) as usize {
            let mut bad = chunk.object.to_vec();
            bad[at] ^= 0x10;
            assert!(decode_chunk(&bad, len, &chunk.id, "t").is_err(), "byte {at}");
        }
        for cut in [0, 3, 15, 20, 60] {
            assert!(ChunkHeader::parse(&chunk.object[..cut], len, &chunk.id, "t").is_err());
        }
        assert!(ChunkHeader::parse(&chunk.object, len - 1, &chunk.id, "t").is_err());
    }

    #[test]
    fn noise_costs_no_more_than_its_header() {
        let plain = noise(2 * FRAME);
        let chunk = encode_chunk(&plain).unwrap();
        assert_eq!(
            chunk.object.len(),
            plain.len() + chunk_header_len(plain.len() as u32) as usize
        );
    }

    #[test]
    fn the_largest_header_is_within_its_limit() {
        assert!(chunk_header_len(CHUNK_BYTES_MAX) <= CHUNK_HEADER_BYTES_MAX);
        assert!(encode_chunk(&[]).is_err());
    }
}
