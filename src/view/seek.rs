//! lseek: where data begins, and where a hole does.
//!
//! Of what lies in a body the local filesystem tells. In clean bytes a hole is what every writer of bodies and cache files
//! leaves out (SPEC.md 8): an aligned block of [`HOLE_BYTES`] zeros, or a chunk of nothing but zeros. So the same
//! offsets are holes in every mount, whether the zeros were ever written or not.
//!
//! Blocks are found by looking at the bytes, and that has an end: what a call does not look at counts as data, which is
//! always right. Chunks that are holes are found without looking. A seek never fails because the store does.

use std::ops::Range;

use bytes::Bytes;

use super::file::{FileBytes, FileData};
use super::types::{Fh, Ino, Seek};
use super::{View, ViewError};
use crate::model::{ChunkRef, Content, FRAME_BYTES, HOLE_BYTES, chunk_range, is_zero};
use crate::tree::chunk_at;

/// Bytes that one call looks at, some of them fetched: what a slow link brings while a caller waits gladly, and what
/// a local disk gives within some milliseconds.
const LOOK_BYTES_MAX: u64 = 16 << 20;

/// What lies from some offset on.
enum Stretch {
    /// Bytes of a body: where what is looked for begins, if it does before `end`.
    Body { found: Option<u64>, end: u64 },
    /// Bytes of the base.
    Base { size: u64, content: Content, end: u64 },
    /// Zeros that nobody wrote.
    Zeros { end: u64 },
    /// Nothing: the file ends.
    End,
}

impl View {
    /// The next data or hole.
    pub async fn lseek(&self, ino: Ino, fh: Fh, offset: u64, seek: Seek) -> Result<u64, ViewError> {
        let handle = self.file_handle(ino, fh)?;
        if offset >= handle.file.size() {
            return Err(ViewError::NoSuchOffset);
        }
        let mut left = LOOK_BYTES_MAX;
        let mut at = offset;
        loop {
            let (found, end) = match handle.file.stretch(at, seek)? {
                Stretch::End => break,
                Stretch::Body { found, end } => (found, end),
                Stretch::Zeros { end } => ((seek == Seek::Hole).then_some(at), end),
                Stretch::Base { size, content, end } => {
                    let range = at..end;
                    let found = self.seek_in_base(&content, size, range, seek, &mut left).await;
                    (found, end)
                }
            };
            match found {
                Some(found) => return Ok(found),
                None => at = end,
            }
        }
        match seek {
            Seek::Data => Err(ViewError::NoSuchOffset),
            Seek::Hole => Ok(handle.file.size().max(offset)),
        }
    }

    /// The first data or hole of a range of a clean content.
    async fn seek_in_base(
        &self,
        content: &Content,
        size: u64,
        range: Range<u64>,
        seek: Seek,
        left: &mut u64,
    ) -> Option<u64> {
        let mut at = range.start;
        while at < range.end {
            let (index, start, len) = chunk_range(at, size);
            let end = (start + len).min(range.end);
            let chunk = chunk_at(self.nodes(), content, size, index).await;
            if matches!(chunk, Ok(Some(ChunkRef::Hole))) {
                if seek == Seek::Hole {
                    return Some(at);
                }
                at = end;
                continue;
            }
            while at < end {
                // From the beginning of a block on: whether it is a hole depends on all of it.
                let from = at / HOLE_BYTES * HOLE_BYTES;
                let stop = ((at / FRAME_BYTES + 1) * FRAME_BYTES).min(end);
                match self.bytes_to_look_at(content, size, from..stop, left).await {
                    Some(bytes) => {
                        if let Some(found) = first(&bytes, from, seek) {
                            return Some(found.max(at));
                        }
                        at = stop;
                    }
                    None if seek == Seek::Data => return Some(at),
                    None => at = end,
                }
            }
        }
        None
    }

    /// Bytes of a content; `None` when enough was looked at, or they cannot be had.
    async fn bytes_to_look_at(
        &self,
        content: &Content,
        size: u64,
        range: Range<u64>,
        left: &mut u64,
    ) -> Option<Bytes> {
        let len = range.end - range.start;
        *left = left.checked_sub(len)?;
        let len = usize::try_from(len).ok()?;
        let bytes = match self.source.read_local(content, size, range.start, len) {
            Some(bytes) => bytes,
            None => match self.source.read(content, size, range.start, len).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::debug!(%error, "looking for holes");
                    *left = 0;
                    return None;
                }
            },
        };
        (bytes.len() == len).then_some(bytes)
    }
}

/// Where data or a hole begins in bytes that begin at `start`, the beginning of a block.
fn first(bytes: &[u8], start: u64, seek: Seek) -> Option<u64> {
    const BLOCK: usize = HOLE_BYTES as usize;
    bytes
        .chunks(BLOCK)
        .position(|block| is_zero(block) == (seek == Seek::Hole))
        .map(|block| start + (block * BLOCK) as u64)
}

impl FileData {
    /// What lies from `at` on, and how far: to the end of the file, or of a frame where some are in a body and some are
    /// not.
    fn stretch(&self, at: u64, seek: Seek) -> Result<Stretch, ViewError> {
        let bytes = self.bytes.read();
        let file_end = self.size();
        if at >= file_end {
            return Ok(Stretch::End);
        }
        let local = match &*bytes {
            FileBytes::Clean { size, content } => {
                return Ok(Stretch::Base {
                    size: *size,
                    content: content.clone(),
                    end: file_end,
                });
            }
            FileBytes::Local(local) => local,
        };
        let frame = at / FRAME_BYTES;
        let end = if local.present.is_none() {
            file_end
        } else {
            ((frame + 1) * FRAME_BYTES).min(file_end)
        };
        if local.has_frame(frame) {
            let found = match seek {
                Seek::Data => local.body.next_data(at)?,
                Seek::Hole => local.body.next_hole(at)?,
            };
            let found = found.map(|found| found.max(at)).filter(|found| *found < end);
            return Ok(Stretch::Body { found, end });
        }
        let (_, valid) = local.base_part(frame);
        Ok(match &local.base {
            Some((size, content)) if at < valid => Stretch::Base {
                size: *size,
                content: content.clone(),
                end: valid.min(end),
            },
            _ => Stretch::Zeros { end },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_hole_when_all_of_it_is_zeros() {
        let mut bytes = vec![0u8; 3 * 4096 + 10];
        bytes[4096 + 4095] = 1;
        assert_eq!(first(&bytes, 8192, Seek::Hole), Some(8192));
        assert_eq!(first(&bytes, 8192, Seek::Data), Some(8192 + 4096));
        assert_eq!(first(&bytes[4096..], 4096, Seek::Hole), Some(8192));
        // What is left of a block at the end counts as one.
        assert_eq!(first(&bytes[3 * 4096..], 0, Seek::Hole), Some(0));
        assert_eq!(first(&bytes[3 * 4096..], 0, Seek::Data), None);
        assert_eq!(first(&[7; 5000], 0, Seek::Hole), None);
    }
}
