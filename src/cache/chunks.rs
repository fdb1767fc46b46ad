//! Fetching frames: out of chunk objects by ranges, out of packs, or out of nothing for holes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::arriving::Arriving;
use super::contents::Chunked;
use super::items::given_up;
use super::remote::damaged;
use super::segment::{FrameSender, Segment};
use super::space::{Room, charge};
use super::stats::count;
use super::{Cache, PieceKey};
use crate::format::{ChunkHeader, FrameSum, Key, chunk_header_len, limits};
use crate::model::{ChunkRef, Epoch, FRAME_BYTES, Hash, chunk_range};
use crate::tree::TreeError;

/// A fetched frame that fails its check is fetched once more before its object counts as damaged.
const FETCHES_OF_DAMAGED: u32 = 2;
static ZEROS: [u8; FRAME_BYTES as usize] = [0; FRAME_BYTES as usize];

/// Frames that this task is to bring: dropping one ends the claim, so nobody waits for what does not come.
pub(super) struct Claim {
    pub segment: Arc<Segment>,
    /// Frame of the segment.
    pub frame: u32,
    sender: FrameSender,
    ended: bool,
}

impl Claim {
    /// The claim of a frame whose way to those who wait is `sender`.
    pub fn new(segment: &Arc<Segment>, frame: u32, sender: FrameSender) -> Claim {
        Claim {
            segment: segment.clone(),
            frame,
            sender,
            ended: false,
        }
    }

    /// Claims a frame that is absent and nothing else.
    pub fn absent(segment: &Arc<Segment>, frame: u32) -> Option<Claim> {
        let (sender, wait) = watch::channel(None);
        let claimed = segment.claim_if_absent(frame, wait);
        claimed.then(|| Claim::new(segment, frame, sender))
    }

    /// Gives the frame to those who wait. Whoever comes before it is on disk gets it the same way.
    pub fn deliver(&self, bytes: Bytes) {
        self.sender.send_replace(Some(Ok(bytes)));
    }

    /// Tells those who wait why the frame does not come. Whoever comes next tries again.
    pub fn fail(mut self, why: TreeError) {
        self.end();
        self.sender.send_replace(Some(Err(why)));
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.segment.unclaim(self.frame);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.end();
    }
}

/// A run of adjacent frames of one segment and one chunk.
pub(super) struct Run {
    pub file: Chunked,
    pub segment: Arc<Segment>,
    /// Where the segment begins in the content.
    pub segment_start: u64,
    pub claims: VecDeque<Claim>,
    /// Since when somebody waits.
    pub begun: Instant,
}

impl Run {
    fn offset_of(&self, frame: u32) -> u64 {
        self.segment_start + u64::from(frame) * FRAME_BYTES
    }

    fn bytes(&self) -> u64 {
        self.claims
            .iter()
            .map(|claim| self.segment.frame_len(claim.frame))
            .sum()
    }

    /// Frames of the chunk from the first to the last one of the run.
    fn frame_numbers(&self, chunk: &ChunkObject) -> std::ops::Range<usize> {
        let number = |claim: &Claim| chunk.number(self.offset_of(claim.frame));
        let first = self.claims.front().map_or(0, number);
        first..self.claims.back().map_or(first, number) + 1
    }
}

/// A chunk object.
#[derive(Clone)]
pub(super) struct ChunkObject {
    pub key: String,
    pub epoch: Epoch,
    pub id: Hash,
    /// Where it begins in the content.
    pub start: u64,
    pub raw_len: u32,
}

impl ChunkObject {
    /// Number of the frame that begins at `offset` of the content.
    pub fn number(&self, offset: u64) -> usize {
        usize::try_from(offset.saturating_sub(self.start) / FRAME_BYTES).unwrap_or(usize::MAX - 1)
    }

    /// The header at the beginning of `bytes`.
    pub fn parse_header(&self, bytes: &[u8]) -> Result<Arc<ChunkHeader>, TreeError> {
        let parsed = ChunkHeader::parse(bytes, self.raw_len, &self.id, &self.key);
        parsed.map(Arc::new).map_err(|e| damaged(&self.key, e.rule))
    }
}

impl Cache {
    /// Brings a run of claimed frames, or tells those who wait why not.
    pub(super) async fn fetch_run(self: &Arc<Self>, mut run: Run) {
        if let Err(e) = self.bring(&mut run).await {
            run.claims.drain(..).for_each(|claim| claim.fail(e.clone()));
        }
        run.claims.clear();
        self.contents.drop_if_idle(&run.segment);
    }

    async fn bring(self: &Arc<Self>, run: &mut Run) -> Result<(), TreeError> {
        let Some(first) = run.claims.front() else {
            return Ok(());
        };
        let (index, start, len) = chunk_range(run.offset_of(first.frame), run.file.size);
        match self.chunk_ref(&run.file, index).await? {
            ChunkRef::Hole => {
                let room = self.reserve(charge(0, run.claims.len() as u64)).await;
                self.store_plain(run, room, start, None).await
            }
            ChunkRef::Packed(blob) => {
                let plain = self.fetch_blob(&blob, len).await?;
                let room = self.reserve(charge(run.bytes(), run.claims.len() as u64)).await;
                self.store_plain(run, room, start, Some(plain)).await
            }
            ChunkRef::Object { epoch, id } => {
                let key = Key::Chunk(self.volume, epoch, id).to_string();
                let raw_len = u32::try_from(len).unwrap_or(u32::MAX);
                self.bring_object(
                    run,
                    &ChunkObject {
                        key,
                        epoch,
                        id,
                        start,
                        raw_len,
                    },
                )
                .await
            }
        }
    }

    async fn bring_object(self: &Arc<Self>, run: &mut Run, chunk: &ChunkObject) -> Result<(), TreeError> {
        let mut fetches = 1;
        loop {
            match self.fetch_frames(run, chunk).await {
                Err(TreeError::Damaged { rule, .. }) if fetches < FETCHES_OF_DAMAGED => {
                    tracing::warn!(
                        key = chunk.key,
                        rule,
                        "fetched bytes fail their check; fetching them again"
                    );
                    fetches += 1;
                }
                result => return result,
            }
        }
    }

    /// One round: header if need be, the frames' range; they are decoded and kept as they arrive. Frames that do not come or
    /// fail their check stay in the run.
    async fn fetch_frames(self: &Arc<Self>, run: &mut Run, chunk: &ChunkObject) -> Result<(), TreeError> {
        let mut room = self.reserve(charge(run.bytes(), run.claims.len() as u64)).await;
        let (header, with_header) = self.header(run, chunk, &mut room).await?;
        let arriving = match with_header {
            Some(arriving) => arriving,
            None => {
                let frames = run.frame_numbers(chunk);
                let range = header.frame_range(frames.start).start..header.frame_range(frames.end - 1).end;
                let memory = self.remote.memory(range.end - range.start).await;
                let (begun, means) = (run.begun, (room.take(), memory));
                let mut arriving = Arriving::new(self, run, chunk, Some(header), range.start, means);
                arriving.fetch(range.end, begun).await;
                arriving
            }
        };
        arriving.end(run).await
    }

    /// The chunk's header, from memory or the store. One fetch per chunk: whoever comes second waits. A run that begins
    /// at the chunk's first frame fetches its frames along with it, into `room`: then what has arrived is returned too.
    async fn header(
        self: &Arc<Self>,
        run: &mut Run,
        chunk: &ChunkObject,
        room: &mut Option<Room>,
    ) -> Result<(Arc<ChunkHeader>, Option<Arriving>), TreeError> {
        if chunk.raw_len > limits::CHUNK_BYTES_MAX {
            return Err(damaged(&chunk.key, "a chunk is over 64 MiB"));
        }
        let cell = {
            let mut headers = self.headers.lock();
            let known = headers.get(&(chunk.epoch, chunk.id));
            known.unwrap_or_else(|| {
                let new = Arc::default();
                let weight = u64::from(chunk_header_len(chunk.raw_len)) * 2;
                headers.insert((chunk.epoch, chunk.id), Arc::clone(&new), weight);
                new
            })
        };
        let mut with_frames = None;
        let fetching = cell.get_or_try_init(|| async {
            let header_len = u64::from(chunk_header_len(chunk.raw_len));
            let frames_too = run.frame_numbers(chunk).start == 0;
            let end = header_len + if frames_too { run.bytes() } else { 0 };
            let memory = self.remote.memory(end).await;
            if !frames_too {
                let (bytes, _) = self.remote.get(&chunk.key, 0..end, run.begun).await?;
                return chunk.parse_header(&bytes);
            }
            let (begun, means) = (run.begun, (room.take(), memory));
            let mut arriving = Arriving::new(self, run, chunk, None, 0, means);
            arriving.fetch(end, begun).await;
            match arriving.header() {
                Some(header) => {
                    with_frames = Some(arriving);
                    Ok(header)
                }
                None => {
                    // Gives the claims back to the run.
                    arriving.end(run).await?;
                    Err(damaged(&chunk.key, "a chunk object ends within its header"))
                }
            }
        });
        let header = fetching.await.cloned()?;
        Ok((header, with_frames))
    }

    /// Gives out and keeps frames of a chunk whose plaintext is at hand; `None` is a hole.
    async fn store_plain(
        self: &Arc<Self>,
        run: &mut Run,
        mut room: Option<Room>,
        chunk_start: u64,
        plain: Option<Bytes>,
    ) -> Result<(), TreeError> {
        let (this, file, segment_start) = (self.clone(), run.file.clone(), run.segment_start);
        let claims = std::mem::take(&mut run.claims);
        let storing = move || {
            for claim in claims {
                let offset = segment_start + u64::from(claim.frame) * FRAME_BYTES;
                let len = usize::try_from(claim.segment.frame_len(claim.frame)).unwrap_or(0);
                let at = usize::try_from(offset - chunk_start).unwrap_or(usize::MAX);
                let bytes = match &plain {
                    Some(plain) => {
                        plain.slice(at.min(plain.len())..(at.saturating_add(len)).min(plain.len()))
                    }
                    None => Bytes::from_static(&ZEROS).slice(..len),
                };
                this.keep_frame(&file, &claim, offset, bytes, None, room.as_mut());
            }
        };
        tokio::task::spawn_blocking(storing).await.map_err(given_up)
    }

    /// Gives a verified frame (as `sum`, when that is at hand) to those who wait and writes it to its file, or keeps it in
    /// memory for a while.
    pub(super) fn keep_frame(
        self: &Arc<Self>,
        file: &Chunked,
        claim: &Claim,
        offset: u64,
        bytes: Bytes,
        sum: Option<FrameSum>,
        room: Option<&mut Room>,
    ) {
        claim.deliver(bytes.clone());
        // Frames that came along may have found no room.
        let room = room.filter(|room| room.promised() >= charge(bytes.len() as u64, 1));
        let written = room.map(|room| {
            let sum = sum.unwrap_or_else(|| FrameSum::of(&bytes));
            claim
                .segment
                .write_frame(&self.disk, claim.frame, &bytes, &sum, room)
        });
        match written {
            Some(Ok(())) => return claim.segment.touch(&self.disk),
            Some(Err(e)) if !is_full(&e) => {
                tracing::warn!(path = %claim.segment.path.display(), error = %e, "cannot keep a frame in the cache");
                self.contents.discard(&self.disk, &claim.segment);
            }
            _ => {}
        }
        count(&self.remote.counters.unkept);
        let weight = bytes.len() as u64 + 128;
        // A copy: the frame may be a part of all that came with it.
        let bytes = Bytes::copy_from_slice(&bytes);
        self.pieces
            .lock()
            .insert(PieceKey::Frame(file.cid, offset / FRAME_BYTES), bytes, weight);
    }
}

/// The disk is full, or the user's quota of it: no fault of the file.
fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
