//! Frames out of an answer that is still arriving: each is verified, given out and kept as soon as its last byte is there,
//! aside, while the next ones come. So the reader of a frame does not wait for what lies behind it in the same range,
//! and the memory of a frame is free again when it is kept, not when all of them are.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Cache;
use super::chunks::{ChunkObject, Claim, Run};
use super::contents::Chunked;
use super::items::given_up;
use super::remote::damaged;
use super::space::{Room, charge};
use crate::format::{ChunkHeader, chunk_header_len, decode_frame};
use crate::model::FRAME_BYTES;
use crate::tree::TreeError;

/// What became of a frame: `None`, or its claim and why it was not given out.
type Stored = Option<(Claim, TreeError)>;

/// A range of a chunk object on its way, and the frames that it is to bring.
pub(super) struct Arriving {
    cache: Arc<Cache>,
    file: Chunked,
    segment_start: u64,
    chunk: ChunkObject,
    header: Option<Arc<ChunkHeader>>,
    /// The frames that are not whole yet, in the order in which they lie in the object.
    claims: VecDeque<Claim>,
    room: Option<Room>,
    memory: OwnedSemaphorePermit,
    /// Where in the object the next byte belongs.
    at: u64,
    /// The bytes before `at` of the header, of the first of the frames, or of what lies behind them.
    buffer: BytesMut,
    storing: Vec<JoinHandle<Stored>>,
    /// Why the range did not come as a whole.
    got: Result<(), TreeError>,
    /// What is wrong with what came.
    why: Option<TreeError>,
}

impl Arriving {
    /// The frames of `run` out of a range that begins at `at`, which is where the header is when that is not known.
    /// `memory` is that for the whole range.
    pub fn new(
        cache: &Arc<Cache>,
        run: &mut Run,
        chunk: &ChunkObject,
        header: Option<Arc<ChunkHeader>>,
        at: u64,
        (room, memory): (Option<Room>, OwnedSemaphorePermit),
    ) -> Arriving {
        Arriving {
            cache: cache.clone(),
            file: run.file.clone(),
            segment_start: run.segment_start,
            chunk: chunk.clone(),
            header,
            claims: std::mem::take(&mut run.claims),
            room,
            memory,
            at,
            buffer: BytesMut::new(),
            storing: Vec::new(),
            got: Ok(()),
            why: None,
        }
    }

    /// The header, when it was known or has arrived, and is one.
    pub fn header(&self) -> Option<Arc<ChunkHeader>> {
        self.header.clone()
    }

    /// Fetches the range, which ends at `end`, for somebody who waits since `begun`. How it went is told by
    /// [`Arriving::end`].
    pub async fn fetch(&mut self, end: u64, begun: Instant) {
        let (cache, key) = (self.cache.clone(), self.chunk.key.clone());
        let range = self.at..end;
        let mut take = |piece| self.take(piece);
        let got = cache.remote.get_streamed(&key, range, begun, &mut take).await;
        self.got = got.map(drop);
    }

    /// The next bytes.
    fn take(&mut self, mut piece: Bytes) {
        while !piece.is_empty() && self.why.is_none() {
            // How far the buffer is to go, or else the bytes are not wanted.
            let (wanted, end) = match (&self.header, self.claims.front()) {
                (None, _) => (true, u64::from(chunk_header_len(self.chunk.raw_len))),
                (Some(header), Some(claim)) => {
                    let range = header.frame_range(self.number(claim));
                    match self.at < range.start {
                        true => (false, range.start),
                        false => (true, range.end),
                    }
                }
                (Some(_), None) => (true, u64::MAX),
            };
            let left = usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX);
            if left == 0 {
                // No run and no header that was checked is like this; it must not be waited for all the same.
                self.why = Some(damaged(
                    &self.chunk.key,
                    "a frame lies before the one that precedes it",
                ));
                return;
            }
            let part = piece.split_to(left.min(piece.len()));
            self.at += part.len() as u64;
            if wanted {
                if self.buffer.is_empty() && end < u64::MAX {
                    self.buffer.reserve(left);
                }
                self.buffer.extend_from_slice(&part);
            }
            if self.at == end && wanted {
                let whole = std::mem::take(&mut self.buffer).freeze();
                match self.header {
                    None => self.parse(&whole),
                    Some(_) => self.store_first(whole),
                }
            }
        }
    }

    fn parse(&mut self, bytes: &[u8]) {
        match self.chunk.parse_header(bytes) {
            Ok(header) => self.header = Some(header),
            Err(why) => self.why = Some(why),
        }
    }

    /// Number of a claimed frame in the chunk.
    fn number(&self, claim: &Claim) -> usize {
        self.chunk.number(self.offset(claim))
    }

    /// Where a claimed frame is in the content.
    fn offset(&self, claim: &Claim) -> u64 {
        self.segment_start + u64::from(claim.frame) * FRAME_BYTES
    }

    /// All has arrived that will. Claims the frames behind the run that came along with a well compressed one, waits until
    /// every frame is given out and kept, and puts those back into `run` that are not there or fail their check.
    pub async fn end(mut self, run: &mut Run) -> Result<(), TreeError> {
        if self.claims.is_empty() && !self.buffer.is_empty() {
            self.store_what_came(run).await;
        }
        let mut failed = VecDeque::new();
        for storing in std::mem::take(&mut self.storing) {
            if let Some((claim, why)) = storing.await.map_err(given_up)? {
                failed.push_back(claim);
                self.why = Some(why);
            }
        }
        failed.append(&mut self.claims);
        run.claims = failed;
        self.why.map_or(self.got, Err)
    }

    /// Claims and stores the frames that are whole in what lies behind the run.
    async fn store_what_came(&mut self, run: &Run) {
        let Some(header) = self.header.clone() else {
            return;
        };
        let rest = std::mem::take(&mut self.buffer).freeze();
        let start = self.at - rest.len() as u64;
        let first = (0..header.frame_count()).find(|number| header.frame_range(*number).start == start);
        let mut came = Vec::new();
        for number in first.unwrap_or(header.frame_count())..header.frame_count() {
            let offset = self.chunk.start + number as u64 * FRAME_BYTES;
            let frame = u32::try_from((offset - run.segment_start) / FRAME_BYTES).unwrap_or(u32::MAX);
            let range = header.frame_range(number);
            let inside = u64::from(frame) < run.segment.frames() && range.end <= self.at;
            let Some(claim) = inside.then(|| Claim::absent(&run.segment, frame)).flatten() else {
                break;
            };
            came.push((claim, range));
        }
        let bytes: u64 = came
            .iter()
            .map(|(claim, _)| run.segment.frame_len(claim.frame))
            .sum();
        if let (Some(room), false) = (&mut self.room, came.is_empty()) {
            match self.cache.reserve(charge(bytes, came.len() as u64)).await {
                Some(more) => room.join(more),
                None => tracing::trace!("no room for frames that came along"),
            }
        }
        for (claim, range) in came {
            let at = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
            self.store(claim, rest.slice(at(range.start)..at(range.end)));
        }
    }

    fn store_first(&mut self, stored: Bytes) {
        if let Some(claim) = self.claims.pop_front() {
            self.store(claim, stored);
        }
    }

    /// Decodes, verifies, gives out and keeps a frame, aside.
    fn store(&mut self, claim: Claim, stored: Bytes) {
        let Some(header) = self.header.clone() else {
            return;
        };
        let (offset, number) = (self.offset(&claim), self.number(&claim));
        let charged = charge(claim.segment.frame_len(claim.frame), 1);
        let mut room = self.room.as_mut().map(|room| room.split(charged));
        let memory = self
            .memory
            .split(self.cache.remote.units(stored.len() as u64) as usize);
        let (cache, file, key) = (self.cache.clone(), self.file.clone(), self.chunk.key.clone());
        self.storing.push(tokio::task::spawn_blocking(move || {
            let plain = match decode_frame(&header, number, &stored, &key) {
                Ok(Cow::Borrowed(_)) => stored,
                Ok(Cow::Owned(plain)) => plain.into(),
                Err(corrupt) => {
                    let at = header.frame_range(number).start;
                    let rule = format!("frame {number} at byte {at}: {}", corrupt.rule);
                    return Some((claim, damaged(&key, rule)));
                }
            };
            cache.keep_frame(
                &file,
                &claim,
                offset,
                plain,
                header.frame_sum(number),
                room.as_mut(),
            );
            drop(memory);
            None
        }));
    }
}
