//! Reading files: by chunks, in order, and by ranges of bytes.

use std::ops::Range;

use bytes::Bytes;
use futures::stream::{Stream, StreamExt};

use super::Session;
use crate::answer::{Failure, FailureKind};
use crate::model::{
    ChunkRef, Content, Entry, EntryBody, VolPath, chunk_count, chunk_len, chunk_range, chunk_start,
};
use crate::tree::{self, NodeSource};

/// Chunks that are fetched at the same time.
const CHUNKS_AT_ONCE: usize = 8;

impl Session {
    /// The bytes of a range of a file in order, piece by piece; of what lies beyond its end, none.
    ///
    /// # Errors
    /// [`FailureKind::Usage`] for anything but a file. In the stream: damage, or what the store says.
    pub fn read<'a>(
        &'a self,
        path: &VolPath,
        entry: &'a Entry,
        range: Range<u64>,
    ) -> Result<impl Stream<Item = Result<Bytes, Failure>> + 'a, Failure> {
        let EntryBody::File { size, content } = &entry.body else {
            let text = format!("{}:{path} is not a file", self.volume.name());
            return Err(Failure::new(FailureKind::Usage, text));
        };
        let size = *size;
        let wanted = range.start.min(size)..range.end.min(size);
        let asked = pieces_within(size, content, &wanted);
        let pieces = futures::stream::iter(asked).map(move |index| {
            let wanted = wanted.clone();
            async move {
                let (start, len) = piece_span(size, content, index);
                let chunk = self.chunk(size, content, index).await?;
                // At most 64 MiB.
                let bytes = chunk.unwrap_or_else(|| Bytes::from(vec![0; len as usize]));
                let from = wanted.start.saturating_sub(start).min(len) as usize;
                let to = wanted.end.saturating_sub(start).min(len) as usize;
                match bytes.len() as u64 == len {
                    true => Ok(bytes.slice(from..to.max(from))),
                    false => Err(Failure::new(
                        FailureKind::Damaged,
                        format!("damaged volume: a piece of {len} bytes has {}", bytes.len()),
                    )),
                }
            }
        });
        Ok(pieces.buffered(CHUNKS_AT_ONCE))
    }

    /// One chunk of a file, or all of a small one; `None` where a whole chunk is a hole.
    pub async fn chunk(&self, size: u64, content: &Content, index: u64) -> Result<Option<Bytes>, Failure> {
        match content {
            Content::Tiny(bytes) => Ok(Some(Bytes::copy_from_slice(bytes))),
            Content::Blob(blob) => Ok(Some(self.nodes.blob(blob, size).await?)),
            Content::Chunks { .. } | Content::Paged { .. } => {
                let len = chunk_len(index, size);
                let small =
                    || Failure::new(FailureKind::Damaged, "damaged volume: a chunk of more than 4 GiB");
                let raw_len = u32::try_from(len).map_err(|_| small())?;
                match tree::chunk_at(&self.nodes, content, size, index).await? {
                    None => Err(Failure::new(
                        FailureKind::Damaged,
                        format!("damaged volume: a file of {size} bytes has no chunk {index}"),
                    )),
                    Some(ChunkRef::Hole) => Ok(None),
                    Some(ChunkRef::Object { epoch, id }) => {
                        Ok(Some(self.volume.chunk(epoch, &id, raw_len).await?))
                    }
                    Some(ChunkRef::Packed(blob)) => Ok(Some(self.nodes.blob(&blob, len).await?)),
                }
            }
            Content::Local(_) => Err(Failure::new(
                FailureKind::Damaged,
                "damaged volume: content of another machine",
            )),
        }
    }
}

/// How many pieces a file is read in: its chunks, or 1.
pub fn pieces_of(size: u64, content: &Content) -> u64 {
    match content {
        Content::Chunks { .. } | Content::Paged { .. } => chunk_count(size),
        _ => 1,
    }
}

/// Where a piece begins, and its length.
fn piece_span(size: u64, content: &Content, index: u64) -> (u64, u64) {
    match content {
        Content::Chunks { .. } | Content::Paged { .. } => (chunk_start(index), chunk_len(index, size)),
        _ => (0, size),
    }
}

/// The pieces that a range, which lies within the file, has bytes of.
fn pieces_within(size: u64, content: &Content, wanted: &Range<u64>) -> Range<u64> {
    if wanted.is_empty() {
        return 0..0;
    }
    match content {
        Content::Chunks { .. } | Content::Paged { .. } => {
            let index = |offset| chunk_range(offset, size).0;
            index(wanted.start)..index(wanted.end - 1) + 1
        }
        _ => 0..1,
    }
}
